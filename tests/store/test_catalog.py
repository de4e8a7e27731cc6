"""Finding feature sets by dataset and words."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from supportset.commands.main import cli
from supportset.store.errors import SupportsetError, UsageError
from supportset.store.format.card import FeatureCard, Recipe
from supportset.store.read.catalog import feature_set_path, find_feature_set, list_feature_sets
from supportset.store.write.writer import FeatureWriter
from tests.store.samples import card, clips, recipe, write

CLIP = recipe(backbone="open_clip:ViT-B-32/laion2b_s34b_b79k")
CLIP_FAST = recipe(backbone="open_clip:ViT-B-32/laion2b_s34b_b79k", sampling={"fps": 2.0})
RESNET = recipe(backbone="timm:resnet152.tv2_in1k")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for dataset, made in (("msrvtt", CLIP), ("msrvtt", CLIP_FAST), ("msrvtt", RESNET), ("msvd", CLIP)):
        write(feature_set_path(tmp_path, dataset, made), clips(2), card=FeatureCard(made))
    (tmp_path / "msrvtt" / "features" / "unfinished").mkdir()
    (tmp_path / "notes.txt").write_text("")
    return tmp_path


def test_list(root: Path) -> None:
    listed = list_feature_sets(root)
    folders = sorted([CLIP.folder, CLIP_FAST.folder, RESNET.folder])
    assert [(info.dataset, info.name) for info in listed] == [("msrvtt", f) for f in folders] + [("msvd", CLIP.folder)]
    assert [info.dataset for info in list_feature_sets(root, "msvd")] == ["msvd"]
    assert list_feature_sets(root / "absent") == []
    assert listed[-1].card.recipe == CLIP
    assert len(listed[-1].open()) == 2
    assert listed[-1].path == feature_set_path(root, "msvd", CLIP)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("msrvtt/timm", RESNET),
        ("msrvtt/TIMM-resnet152", RESNET),
        ("msrvtt/timm:resnet152.tv2_in1k", RESNET),
        ("msrvtt/open_clip 2fps", CLIP_FAST),
        ("msrvtt/open_clip:ViT-B-32/laion2b_s34b_b79k 1fps", CLIP),
        ("msrvtt/" + CLIP.folder, CLIP),
        ("msrvtt/" + CLIP.hash, CLIP),
        ("msvd", CLIP),
        ("msvd/", CLIP),
        ("msvd/open_clip-ViT-B-32", CLIP),
    ],
)
def test_find(root: Path, words: str, wanted: Recipe) -> None:
    assert find_feature_set(root, words).card.recipe == wanted


def test_exact_name_wins_over_longer_ones(root: Path) -> None:
    write(root / "msvd" / "features" / "plain", clips(1), card=FeatureCard(RESNET))
    write(root / "msvd" / "features" / "plain-more", clips(1), card=FeatureCard(CLIP_FAST))
    assert find_feature_set(root, "msvd/plain").path.name == "plain"


def test_none_and_several_are_listed(root: Path) -> None:
    with pytest.raises(UsageError, match="several feature sets fit 'msrvtt/open_clip'") as caught:
        find_feature_set(root, "msrvtt/open_clip")
    assert f"msrvtt/{CLIP.folder}" in str(caught.value)
    assert f"msrvtt/{CLIP_FAST.folder}" in str(caught.value)
    assert "timm" not in str(caught.value)
    with pytest.raises(UsageError, match=r"no feature set fits 'msrvtt/siglip': name one of .*timm"):
        find_feature_set(root, "msrvtt/siglip")
    with pytest.raises(UsageError, match=r"no features of a dataset 'vatex' .*there are msrvtt, msvd"):
        find_feature_set(root, "vatex/open_clip")
    with pytest.raises(UsageError, match="the store is empty"):
        find_feature_set(root / "absent", "vatex/open_clip")


def test_the_kind_decides_between_the_towers_of_one_model(root: Path) -> None:
    tower = recipe(backbone=CLIP.backbone, kind="text", sampling={"max_tokens": 77})
    write(feature_set_path(root, "msvd", tower), clips(2), card=FeatureCard(tower))
    with pytest.raises(UsageError, match="several feature sets fit"):
        find_feature_set(root, "msvd/open_clip")
    assert find_feature_set(root, "msvd/open_clip", "video").card.recipe == CLIP
    assert find_feature_set(root, "msvd", "text").card.recipe == tower
    assert find_feature_set(root, "msvd/text", "video").card.recipe == tower, "a lone set is found, and its kind told"
    with pytest.raises(UsageError, match="several feature sets fit"):
        find_feature_set(root, "msrvtt/open_clip", "video")


def test_what_cannot_be_listed_is_an_error_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for dataset in ("a", "b", "c"):
        write(tmp_path / dataset / "features" / card().recipe.folder, clips(1))
    (tmp_path / "b" / "features" / card().recipe.folder / "card.json").unlink()
    (tmp_path / "notes.txt").write_text("mine")
    real = os.listdir

    def listdir(path: Any) -> list[str]:
        if str(path) == str(tmp_path / "c" / "features"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    errors: list[SupportsetError] = []
    assert [info.dataset for info in list_feature_sets(tmp_path, errors=errors)] == ["a"]
    assert len(errors) == 2
    assert "card.json: missing" in str(errors[0])
    assert "Permission denied" in str(errors[1])
    with pytest.raises(SupportsetError, match="Permission denied"):
        list_feature_sets(tmp_path)
    run = CliRunner().invoke(cli, ["store", "verify", "--store", str(tmp_path)])
    assert run.exit_code == 1
    assert "a/made_up" in run.output
    assert "card.json: missing" in run.output
    assert CliRunner().invoke(cli, ["store", "ls", "--store", str(tmp_path)]).exit_code == 1


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    run = CliRunner().invoke(cli, ["store", "ls", "--store", str(tmp_path / "nowhere")])
    assert run.exit_code == 2
    assert "no such store" in run.output
    assert CliRunner().invoke(cli, ["store", "ls", "--store", str(tmp_path)]).exit_code == 0


def test_names_are_printed_as_text(tmp_path: Path) -> None:
    path = tmp_path / "d" / "features" / card().recipe.folder
    with FeatureWriter(path, card()) as writer:
        writer.fail("evil\x1b[2J\nline", "bad\x1b", "said\x07")
    for verb in (["show", "d"], ["ls"], ["verify"]):
        output = CliRunner().invoke(cli, ["store", *verb, "--store", str(tmp_path)]).output
        assert "\x1b" not in output
        assert "\x07" not in output
    shown = CliRunner().invoke(cli, ["store", "show", "d", "--store", str(tmp_path)]).output
    assert "evil\\x1b[2J\\nline: bad\\x1b" in shown
