"""What a run is asked to do: its selection, its sizes, and values that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from supportset.extract.decode.sampling import Sampling
from supportset.extract.progress.summary import Summary
from supportset.store.errors import SupportsetError, UsageError
from tests.extract.fakes import MeanColour, dataset_of
from tests.extract.runs import Films, extract_with, run, statuses

pytestmark = pytest.mark.slow


def test_no_video_at_all_stops_before_anything_is_written(tmp_path: Path, videos: Path) -> None:
    dataset = dataset_of(tmp_path / "features", {"a": "nope.mp4", "b": None})
    before = sorted((tmp_path / "features").rglob("*"))
    for folder, said in ((videos, "holds no video of the 2 selected clips"), (tmp_path / "nowhere", "no such folder")):
        with pytest.raises(UsageError, match=said) as error:
            extract_plainly(dataset, tmp_path, folder)
        assert str(folder) in str(error.value)
    assert sorted((tmp_path / "features").rglob("*")) == before


def extract_plainly(dataset: Any, tmp_path: Path, folder: Path) -> Summary:
    return extract_with(dataset, tmp_path / "features", folder, MeanColour(), device="cpu", progress=False)


def test_parts_of_the_work_are_disjoint_and_whole(tmp_path: Path, videos: Path, films: Films) -> None:
    clips: list[set[str]] = []
    dataset = dataset_of(tmp_path / "features", films)
    for part in (1, 2, 3):
        summary = extract_part(dataset, tmp_path, shard=(part, 3))
        assert summary.clips == 2
        clips.append(set(statuses(summary)))
    assert [len(found) for found in clips] == [2, 4, 6]
    assert clips[-1] == set(films)


def extract_part(dataset: Any, tmp_path: Path, **options: Any) -> Summary:
    return extract_with(
        dataset, tmp_path / "features", tmp_path / "videos", MeanColour(), device="cpu", progress=False, **options
    )


def test_selection_by_split_and_limit(tmp_path: Path, videos: Path, films: Films) -> None:
    dataset = dataset_of(tmp_path / "features", films)
    assert set(statuses(extract_part(dataset, tmp_path, split="test", limit=2))) == {"c1", "c3"}
    assert set(statuses(extract_part(dataset, tmp_path, protocol="p", split="train", limit=1))) == {"c0", "c1", "c3"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"protocol": "q"}, "no protocol 'q'"),
        ({"split": "dev"}, "no split 'dev'; it has test, train"),
        ({"protocol": "p", "split": "dev"}, "no split 'dev'"),
        ({"limit": 0}, "at least 1"),
        ({"shard": (3, 2)}, "3/2"),
        ({"shard": (1000, 1000)}, "fewer parts"),
        ({"shard_format": "lmdb"}, "lmdb"),
        ({"dtype": "int8"}, "int8"),
        ({"device": "tpu"}, "'tpu'"),
        ({"device": "cuda:99"}, "CUDA devices"),
        ({"on_error": "retry"}, "retry"),
        ({"on_damage": "mend"}, "mend"),
        ({"max_failures": 1.5}, "1.5"),
        ({"workers": 0}, "workers=0"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"timeout": 0.0}, "timeout=0.0"),
        ({"sampling": Sampling(window=3)}, "takes 1 frames a step, not 3"),
        ({"sampling": Sampling(stride=2)}, "a stride of 2 is for clip models only"),
    ],
)
def test_wrong_values_are_named_and_nothing_is_written(
    tmp_path: Path, videos: Path, films: Films, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        run(tmp_path, films, **wrong)
    assert not (tmp_path / "features" / "films" / "features").exists()


def test_batches_shrink_when_memory_runs_out(tmp_path: Path, videos: Path, films: Films) -> None:
    class Tight(MeanColour):
        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            if len(frames) > 3:
                raise torch.OutOfMemoryError("no room")
            return super().forward(frames)

    assert run(tmp_path, films, Tight(), sampling=Sampling(fps=4.0), batch_size=8).status == {"ok": 6}

    class Full(MeanColour):
        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("no room")

    with pytest.raises(SupportsetError, match="one step does not fit"):
        run(tmp_path, films, Full(), sampling=Sampling(frames=2))
