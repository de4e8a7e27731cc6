"""Results against each other: differences, what changed, refusals, and the three forms of the tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from supportset.commands.main import cli
from supportset.evaluate.compare import compare, tables
from supportset.evaluate.evaluation import Evaluation
from supportset.evaluate.results import Result, read_result
from supportset.evaluate.scores import Embeddings, Matrix
from supportset.evaluate.splits import Split
from supportset.evaluate.table import Number, Table, to_csv, to_latex, to_markdown
from supportset.store.errors import SupportsetError, UsageError
from supportset.store.format.dataset import Caption

SIZE = 60


def split(captions: int = 2, name: str = "test", query: str = "q") -> Split:
    each = (Caption(f"{query}{i}-{k}", f"v{i}", "") for i in range(SIZE) for k in range(captions))
    return Split(name, tuple(f"v{i}" for i in range(SIZE)), tuple(each), frozenset())


def evaluation(noise: float, of: Split | None = None, protocol: str = "p") -> Evaluation:
    of = of or split()
    rng = np.random.default_rng(0)
    clips = rng.normal(size=(SIZE, 16))
    number = {clip: i for i, clip in enumerate(of.clip_ids)}
    texts = clips[[number[caption.clip_id] for caption in of.captions]]
    texts = texts + noise * rng.normal(size=texts.shape)
    return Evaluation.of_embeddings(of, clips, texts, protocol=protocol, dataset="d", selected_by="last epoch")


def test_a_better_model_is_better_with_an_interval_and_a_p_value() -> None:
    found = compare([Result.of("base", evaluation(2.5)), Result.of("good", evaluation(1.0))], samples=300)
    base, good = found["rows"]
    difference = good["difference"]["scores"]["t2v/R@1"]
    assert difference["mean"] == pytest.approx(good["scores"]["t2v/R@1"]["mean"] - base["scores"]["t2v/R@1"]["mean"])
    assert 0 < difference["interval"][0] < difference["mean"] < difference["interval"][1]
    assert good["difference"]["p_permutation_over_clips"] < 0.01
    assert good["difference"]["p_permutation_holm"] == good["difference"]["p_permutation_over_clips"]
    assert base["scores"]["t2v/R@1"]["mean"] == pytest.approx(evaluation(2.5).scores.t2v["R@1"])
    assert base["scores"]["rsum"]["mean"] == pytest.approx(evaluation(2.5).scores.rsum)
    json.dumps(found, allow_nan=False)


def test_a_model_does_not_differ_from_itself_and_holm_counts_the_comparisons() -> None:
    same, other = Result.of("m", evaluation(1.5)), Result.of("n", evaluation(0.8))
    found = compare([same, Result.of("m", evaluation(1.5)), other], samples=100)
    assert [row["name"] for row in found["rows"]] == ["m (1)", "m (2)", "n"]
    alone = compare([same, other], samples=100)["rows"][1]["difference"]["p_permutation_over_clips"]
    twin, better = (row["difference"] for row in found["rows"][1:])
    assert twin["scores"]["rsum"] == {"mean": 0.0, "interval": [0.0, 0.0]}
    assert twin["p_permutation_holm"] == 1.0
    assert better["p_permutation_holm"] == pytest.approx(2 * alone)


def test_queries_that_changed_most_are_listed_with_their_ranks_and_texts() -> None:
    one = split(1)
    before, after = np.eye(SIZE), np.eye(SIZE)
    before[3] = np.arange(SIZE)  # rank 57 of 60: 56 clips score higher
    after[5, 5] = -1.0  # last
    results = [
        Result.of(name, Evaluation.of_similarity(one, Matrix(scores), protocol="p", dataset="d"))
        for name, scores in (("a", before), ("b", after))
    ]
    found = compare(results, samples=10, texts={"q3-0": "a dog"})
    changed = found["rows"][1]["changed"]
    assert changed["better"] == [{"query": "q3-0", "clip": "v3", "text": "a dog", "before": 57, "after": 1}]
    assert changed["worse"] == [{"query": "q5-0", "clip": "v5", "text": None, "before": 1, "after": 60}]
    assert changed["counts"] == [1, 1]
    text = to_markdown(tables(found))
    assert "| q3-0 | v3 | 57 | 1 | a dog |" in text
    assert "1 queries rank better than in a, 1 worse" in text


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (evaluation(1.0, protocol="other"), r"a and b differ in protocol \(p and other\)"),
        (evaluation(1.0, split(name="val")), r"a and b differ in split \(test and val\)"),
        (evaluation(1.0, split(3)), "a and b were asked other queries"),
        (evaluation(1.0, split(query="z")), "a and b were asked other queries"),
        (
            Evaluation.of_embeddings(
                split().of_clips("test", [f"v{i}" for i in range(9)]),
                np.eye(9),
                np.repeat(np.eye(9), 2, axis=0),
                protocol="p",
                dataset="d",
            ),
            r"a and b differ in number of clips in the gallery \(60 and 9\)",
        ),
    ],
)
def test_results_that_cannot_be_compared_are_refused(other: Evaluation, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        compare([Result.of("a", evaluation(1.0)), Result.of("b", other)])
    assert "\n" not in str(error.value)


def test_a_gallery_of_other_clips_is_refused_even_if_it_is_as_large() -> None:
    ours = split(1)
    clips = tuple(f"v{i}" for i in range(1, SIZE + 1))
    theirs = Split("test", clips, tuple(Caption(f"q{i}", f"v{i}", "") for i in range(1, SIZE)), frozenset())
    with pytest.raises(UsageError, match="differ in clips in the gallery: they cannot be compared"):
        compare([Result.of("a", evaluation(1.0, ours)), Result.of("b", evaluation_of(theirs))])


def evaluation_of(of: Split) -> Evaluation:
    vectors = np.eye(SIZE)
    return Evaluation.of_embeddings(of, vectors, vectors[: len(of.captions)], protocol="p", dataset="d")


def test_one_query_a_clip_is_matched_by_clip_whatever_its_name_and_order() -> None:
    ours, theirs = split(1), split(1, query="ret")
    turned = Split("test", theirs.clip_ids, tuple(reversed(theirs.captions)), frozenset())
    a, b = (Result.of(name, evaluation(0.0, of)) for name, of in (("a", ours), ("b", turned)))
    found = compare([a, b], samples=10)
    assert found["rows"][1]["difference"]["scores"]["rsum"]["mean"] == 0.0
    assert found["rows"][1]["changed"]["counts"] == [0, 0]


def test_the_commands_read_folders_files_and_write_every_form(tmp_path: Path) -> None:
    for name, noise in (("base", 2.5), ("good", 1.0)):
        evaluation(noise).write(tmp_path / name / "eval")
    evaluation(1.0, split(name="val")).write(tmp_path / "good" / "eval")
    words = [str(tmp_path / "base"), str(tmp_path / "good" / "eval" / "p-test.json"), "--store", str(tmp_path)]
    told = CliRunner().invoke(cli, ["compare", *words, "--json"])
    assert told.exit_code == 0, told.output
    comparison = json.loads(told.stdout)
    assert [row["name"] for row in comparison["rows"]] == ["base", "good"]
    printed = CliRunner().invoke(cli, ["compare", *words, "--changed", "1"])
    assert "## Paired difference to base" in printed.stdout
    written = CliRunner().invoke(cli, ["compare", *words, "--format", "csv", "--out", str(tmp_path / "t.csv")])
    assert written.exit_code == 0, written.output
    first = list(csv.DictReader((tmp_path / "t.csv").read_text().split("\n\n")[0].splitlines()))
    mean = comparison["rows"][1]["scores"]["t2v R@1".replace(" ", "/")]["mean"]
    assert float(first[1]["t2v R@1"]) == pytest.approx(mean, rel=1e-5)
    assert float(first[1]["t2v R@1 low"]) < float(first[1]["t2v R@1 high"])
    several = CliRunner().invoke(cli, ["compare", str(tmp_path / "base"), str(tmp_path / "good")])
    assert several.exit_code == 2
    assert "has 2 results (d p, d p/val): name one with --protocol, --split, --dataset" in several.output
    assert CliRunner().invoke(cli, ["compare", *words[:1], str(tmp_path / "good"), "--split", "test"]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["base"], "give two or more results"),
        (["base", "empty"], "no result is there: run `supportset eval`"),
        (["base", "base", "--protocol", "x"], "no result of protocol 'x' is there"),
        (["base", "base", "--metric", "mAP"], "metric 'mAP' is not one of t2v/R@1"),
        (["base", "text.txt"], "is no JSON of an evaluation"),
    ],
)
def test_wrong_use_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    evaluation(1.0).write(tmp_path / "base" / "eval")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no")
    words = [str(tmp_path / each) if each in ("base", "empty", "text.txt") else each for each in arguments]
    result = CliRunner().invoke(cli, ["compare", *words])
    assert message in result.output
    assert result.exit_code == 2


def test_ranks_that_are_gone_are_told(tmp_path: Path) -> None:
    evaluation(1.0).write(tmp_path)
    (tmp_path / "p-test-ranks.parquet").write_bytes(b"cut")
    with pytest.raises(SupportsetError, match=r"p-test-ranks\.parquet: cannot be read .*: evaluate again"):
        read_result(tmp_path)


def test_a_direction_that_was_not_scored_is_left_open() -> None:
    run = evaluation(1.0)
    half = Evaluation(run.protocol, run.dataset, run.split, run.scores.only_t2v())
    found = compare([Result.of("a", evaluation(2.0)), Result.of("b", half)], samples=20)
    row = found["rows"][1]
    assert row["scores"]["v2t/R@1"] == {"mean": None, "interval": None}
    assert row["difference"]["scores"]["rsum"]["mean"] is None
    assert row["difference"]["scores"]["t2v/R@1"]["interval"] is not None
    with pytest.raises(UsageError, match="'v2t/R@1' was not scored by all"):
        compare([Result.of("a", evaluation(2.0)), Result.of("b", half)], metric="v2t/R@1")


def test_text_from_elsewhere_cannot_break_a_table() -> None:
    table = Table("a & b", ["model", "R@1"], [["x|y_1%\x1b[31m", Number(1.25, (0.5, 2.0), sign=True)]], ["n\nm"])
    assert to_markdown([table]).splitlines()[4] == "| x\\|y_1%\\x1b[31m | +1.2 [+0.5, +2.0] |"
    latex = to_latex([table])
    assert r"x|y\_1\%\textbackslash{}x1b[31m & $+1.2$ {\scriptsize [+0.5, +2.0]} \\" in latex
    assert r"\caption{a \& b}" in latex
    assert "% n\\nm" in latex
    assert to_csv([table]).splitlines()[1].endswith(",1.25,0.5,2")


def test_results_of_embeddings_and_of_a_matrix_compare(tmp_path: Path) -> None:
    of, vectors = split(1), np.random.default_rng(0).normal(size=(SIZE, 8))
    one = Evaluation.of_similarity(of, Embeddings(vectors, vectors), protocol="p", dataset="d")
    two = Evaluation.of_similarity(of, Matrix(np.eye(SIZE)), protocol="p", dataset="d")
    one.write(tmp_path / "one")
    two.write(tmp_path / "two")
    found = compare([read_result(tmp_path / "one"), read_result(tmp_path / "two")], samples=10)
    assert found["rows"][1]["difference"]["scores"]["rsum"]["mean"] == 0.0
