"""A small report with everything on it, of invented scores."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from supportset.evaluate.evaluation import Evaluation
from supportset.evaluate.report.content import Chart, Clip, Curve, Query, Report, Section, Table
from supportset.evaluate.results import Result
from supportset.evaluate.splits import Split
from supportset.store.format.dataset import Caption

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)> & \"quoted\" '{{ 7 * 7 }}'"


def picture() -> str:
    """A small picture as a ``data:`` URI."""
    buffer = io.BytesIO()
    Image.new("RGB", (360, 90), "teal").save(buffer, "WEBP")
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def score(model: str, seed: int, *, clips: int = 300, missing: int = 2) -> Result:
    """Scores of random embeddings with something in common."""
    rng = np.random.default_rng(seed)
    ids = tuple(f"clip{number}" for number in range(clips))
    captions = tuple(Caption(f"{clip}#{number}", clip, "x") for clip in ids for number in range(2))
    split = Split("test", ids, captions, frozenset(ids[:missing]))
    video = rng.normal(size=(clips, 16))
    text = np.repeat(video, 2, axis=0) + 0.9 * rng.normal(size=(2 * clips, 16))
    found = Evaluation.of_embeddings(split, video[missing:], text, protocol="invented", dataset="small", expected=clips)
    return Result.of(model, found)


def report(text: str = HOSTILE) -> Report:
    """A report in which every text from elsewhere is ``text``."""
    clips = [
        Clip(text, f"{place}. {text}", text, picture() if place < 4 else "", place == 2, 0.25) for place in range(1, 5)
    ]
    steps = list(range(0, 1000, 10))
    falling = Curve(text, steps, [5 * 0.99**step for step in steps])
    chart = Chart(text, text, [falling], mark=(500, text), level=(0.5, text), log=True)
    section = Section(
        text, [text], [chart, chart], {text: [Query(text, text, clips)]},
        [Table(text, (text, "b", "number"), [(text, text, "1.5")], numbers=("number",))], f"{text}\n\n[part]\n{text}",
    )  # fmt: skip
    alone = Section("One figure", ["words"], [chart])
    scores = [score(text, 0), score(text, 1)]
    return Report(text, text, {text: text}, scores, [text], [section, alone], text)
