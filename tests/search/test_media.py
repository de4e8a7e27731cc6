"""Files as queries: their features are those of an extraction; bad files are one line."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from supportset.evaluate.ranks import unit_rows
from supportset.extract.backbones import load_backbone
from supportset.extract.decode.sampling import Sampling
from supportset.search.media import Limits, MediaEncoder
from supportset.search.zero_shot import ZeroShot, open_zero_shot
from supportset.store.errors import UsageError
from supportset.store.read.aligned import AlignedFeatures
from supportset.store.read.feature_set import FeatureSet
from tests.extract.fakes import dataset_of
from tests.extract.films import picture, write_video
from tests.extract.pairs import save_pair
from tests.extract.runs import extract_with

FILES = {"long": "long.mp4", "short": "short.mp4", "photo": "photo.png", "end": "long.mp4"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("media")
    videos = root / "videos"
    videos.mkdir()
    write_video(videos / "long.mp4", 200)
    write_video(videos / "short.mp4", 60)
    Image.fromarray(picture(7)).save(videos / "photo.png")
    dataset = dataset_of(root / "features", dict(FILES), end=(3.0, 6.5))
    for kind, fps in (("clip", 2.0), ("siglip", 1.0)):
        save_pair(kind, root / kind)
        options: dict[str, Any] = {"sampling": Sampling(fps=fps), "workers": 1, "device": "cpu", "progress": False}
        extract_with(dataset, root / "features", videos, load_backbone(f"hf:{root / kind}"), **options)
    return root


@pytest.fixture(scope="module")
def retriever(root: Path) -> ZeroShot:
    return open_zero_shot("films/hf-clip", root / "features", device="cpu")


def feature_sets(root: Path) -> list[FeatureSet]:
    return [FeatureSet.open(path) for path in sorted((root / "features" / "films" / "features").iterdir())]


@pytest.mark.parametrize(("clip", "span"), [("long", ()), ("short", ()), ("photo", ()), ("end", (3.0, 6.5))])
def test_features_of_a_file_are_those_of_its_clip(
    root: Path, retriever: ZeroShot, clip: str, span: tuple[float, ...]
) -> None:
    assert retriever.media is not None
    found = retriever.media.features(root / "videos" / FILES[clip], *span)
    stored, _ = retriever.features.read([clip])
    np.testing.assert_allclose(found, stored, rtol=2e-3, atol=1e-3)
    embedded = retriever.encode_media(root / "videos" / FILES[clip], *span)
    assert embedded @ retriever.encode_clips([stored])[0] == pytest.approx(1.0, abs=1e-5)


def test_several_sets_stand_side_by_side(root: Path) -> None:
    sets = feature_sets(root)
    encoder = MediaEncoder(sets, "cpu")
    features = AlignedFeatures(sets)
    for clip in ("long", "photo"):
        stored, _ = features.read([clip])
        np.testing.assert_allclose(encoder.features(root / "videos" / FILES[clip]), stored, rtol=3e-3, atol=2e-3)


def test_a_file_finds_its_clip_and_a_text_may_stand_beside_it(root: Path, retriever: ZeroShot) -> None:
    searcher = retriever.open_gallery()
    path = root / "videos" / "short.mp4"
    assert searcher.search([f"video:{path}"], 1)[0][0].clip_id == "short"
    assert searcher.search([f'image:"{root}/videos/photo.png"'], 1, "moment")[0][0].clip_id == "photo"
    both = searcher.embed(f'"a b" + 2*video:{path}')
    expected = retriever.encode_text(["a b"])[0] + 2 * retriever.encode_media(path)
    np.testing.assert_allclose(both, unit_rows(expected[None])[0], atol=1e-6)


def test_bad_files_are_one_line_and_the_next_file_is_read(root: Path, retriever: ZeroShot, tmp_path: Path) -> None:
    assert retriever.media is not None
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UsageError, match=r"text.mp4: cannot be decoded: unreadable"):
        retriever.encode_media(tmp_path / "text.mp4")
    with pytest.raises(UsageError, match=r"absent.jpg: no such file"):
        retriever.encode_media(tmp_path / "absent.jpg")
    with pytest.raises(UsageError, match="no such file"):
        retriever.encode_media(tmp_path)
    short = MediaEncoder(retriever.features.sets, "cpu", limits=Limits(steps=3))
    with pytest.raises(UsageError, match="has more than 3 steps: name a part of it"):
        short.features(root / "videos" / "long.mp4")
    assert len(short.features(root / "videos" / "long.mp4", 1.0, 2.5)) == 3
    slow = MediaEncoder(retriever.features.sets, "cpu", limits=Limits(seconds=0.0))
    with pytest.raises(UsageError, match="takes longer than 0 s: take a part of it"):
        slow.features(root / "videos" / "long.mp4")
    bounded = MediaEncoder(retriever.features.sets, "cpu", limits=Limits(cpu_seconds=0.0))
    with pytest.raises(UsageError, match="cannot be decoded: timeout"):
        bounded.features(root / "videos" / "long.mp4")
    assert retriever.encode_media(root / "videos" / "photo.png").shape == (retriever.features.dim,)


def test_a_killed_decode_process_costs_nothing(root: Path, retriever: ZeroShot) -> None:
    encoder = MediaEncoder(retriever.features.sets, "cpu")
    first = encoder.features(root / "videos" / "short.mp4")
    (coder,) = encoder._coders
    assert coder._pool is not None
    os.kill(coder._pool._workers[0]._process.pid, signal.SIGKILL)
    np.testing.assert_array_equal(encoder.features(root / "videos" / "short.mp4"), first)


def test_an_encoder_that_is_not_there_says_what_to_do(root: Path, tmp_path: Path) -> None:
    save_pair("clip", tmp_path / "other", seed=1)
    other = open_zero_shot("films/hf-clip", root / "features", device="cpu", backbone=f"hf:{tmp_path / 'other'}")
    with pytest.raises(UsageError, match=r"needs the visual encoder of the features: .*name the right ones"):
        other.encode_media(root / "videos" / "photo.png")
    with pytest.raises(UsageError, match="--backbone is given 2 times: give it once for each of 1"):
        MediaEncoder(feature_sets(root)[:1], "cpu", ["a", "b"])
