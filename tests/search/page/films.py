"""Films of the demo world: its scenes one after the other, so that each film has moments worth finding.

``python -m tests.search.page.films FOLDER`` writes them with a captions.csv, as `extract folder` reads it.
"""

from __future__ import annotations

import csv
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av

from supportset.extract.demo_world.backgrounds import draw_background
from supportset.extract.demo_world.drawing import draw_frame
from supportset.extract.demo_world.motions import Look, place
from supportset.extract.demo_world.scenes import PlannedClip, plan_world

FPS, SIDE, SCENE_S = 10, 224, 5


def make_film(path: Path, scenes: Sequence[PlannedClip], *, codec: str = "libx264") -> None:
    """Write the scenes, `SCENE_S` seconds each, as one video file."""
    with av.open(path, "w") as container:
        options = {"preset": "superfast", "crf": "20", "threads": "1"} if codec == "libx264" else {"threads": "1"}
        stream: Any = container.add_stream(codec, rate=FPS, options=options)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 2 * FPS
        for scene in scenes:
            rng = random.Random(scene.look_seed)
            look, background = Look.draw(rng), draw_background(scene.scene.background, SIDE, rng)
            for number in range(SCENE_S * FPS):
                picture = draw_frame(background, place(scene.scene, look, number / FPS, SCENE_S))
                container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode(None))


def make_folder(folder: Path, films: int = 12, scenes: int = 6, seed: int = 7) -> dict[str, list[str]]:
    """Write films and ``captions.csv``; return what each film shows, scene by scene."""
    folder.mkdir(parents=True, exist_ok=True)
    planned = plan_world(seed, films * scenes, 0, 0)
    random.Random(seed).shuffle(planned)
    shown, rows = {}, []
    for number in range(films):
        name, parts = f"film-{number + 1:02}.mp4", planned[number * scenes : (number + 1) * scenes]
        make_film(folder / name, parts)
        shown[name] = [part.captions[0].text for part in parts]
        rows += [(name, part.captions[0].text, part.scene.background) for part in parts]
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "caption", "place"), *rows])
    return shown


def make_others(folder: Path, seed: int = 9) -> dict[str, list[str]]:
    """Write what browsers do not play as it is, and a picture; return what each file shows."""
    planned = plan_world(seed, 15, 0, 0)
    random.Random(seed).shuffle(planned)
    files = {"copied.mkv": ("libx264", planned[:2]), "converted.avi": ("mpeg4", planned[:14])}
    for name, (codec, scenes) in files.items():
        make_film(folder / name, scenes, codec=codec)
    look, background = Look.draw(rng := random.Random(1)), draw_background(planned[14].scene.background, SIDE, rng)
    draw_frame(background, place(planned[14].scene, look, 1.0, SCENE_S)).save(folder / "still.png")
    shown = {name: [scene.captions[0].text for scene in scenes] for name, (_, scenes) in files.items()}
    return shown | {"still.png": [planned[14].captions[0].text]}


if __name__ == "__main__":
    make_folder(Path(sys.argv[1]))
