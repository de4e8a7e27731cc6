"""The embedded demo: a small captioned world of moving shapes, rendered to real video files.

``concepts`` says what the world is made of, ``scenes`` plans its clips from a seed, ``captions`` writes their
sentences, ``motions`` and ``drawing`` make the frames and ``render`` the files.
"""

from supportset.extract.demo_world.render import render_world
from supportset.extract.demo_world.scenes import PlannedClip, plan_world

__all__ = ["PlannedClip", "plan_world", "render_world"]
