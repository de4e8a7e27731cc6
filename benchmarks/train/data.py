"""What the figures share: the made-up stores and the small T5, each made when it is first wanted."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from benchmarks.train.configurations import write_t5
from benchmarks.train.made_up import captions_of, write_images, write_videos
from benchmarks.train.plan import Plan


class Prepared:
    """Files of a run, in its work folder."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    @cached_property
    def captions(self) -> list[list[str]]:
        """Captions of each clip of the made-up MSR-VTT."""
        return self._told[0]

    @property
    def source(self) -> str:
        """Where the captions are from."""
        return self._told[1]

    @cached_property
    def videos(self) -> Path:
        """Store of the made-up MSR-VTT."""
        sizes, root = self._plan.sizes, self._plan.folder / "videos"
        self._plan.tell(f"writing {sizes.clips} clips")
        write_videos(root, self.captions, sizes.steps, sizes.dims, self._plan.folder / "npy")
        return root

    @property
    def npy(self) -> Path:
        """The same clips, one ``.npy`` each."""
        return self.videos.with_name("npy")

    @cached_property
    def images(self) -> Path:
        """Store of the made-up Flickr8k."""
        sizes, root = self._plan.sizes, self._plan.folder / "images"
        write_images(root, captions_of(sizes.images, sizes.image_captions, self._plan.real)[0])
        return root

    @cached_property
    def small_t5(self) -> Path:
        """Folder of the T5 of figures a and b."""
        plan, texts = self._plan, [text for each in self.captions for text in each]
        plan.tell("making a T5 of random weights")
        return write_t5(plan.folder / "t5-small", plan.sizes.small, plan.sizes.vocabulary, texts, plan.real)

    @cached_property
    def _told(self) -> tuple[list[list[str]], str]:
        return captions_of(self._plan.sizes.clips, self._plan.sizes.captions, self._plan.real)
