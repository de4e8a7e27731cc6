"""Many captions a clip, paragraphs and more right clips: examples that can be followed by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supportset.evaluate.evaluation import Evaluation
from supportset.evaluate.labels import score_labels
from supportset.evaluate.ranks import MISS, cosine_scores, unit_rows
from supportset.evaluate.relevance import Relevance, read_relevance
from supportset.evaluate.scores import BEST, PARAGRAPH, Embeddings, Matrix, score
from supportset.evaluate.scoring import Scoring
from supportset.evaluate.splits import Split
from supportset.store.errors import UsageError
from supportset.store.format.dataset import Caption

# As MSVD: clip a has three captions, b two, c one.
MSVD = Split(
    "test",
    ("a", "b", "c"),
    tuple(Caption(name, name[0], f"text {name}") for name in ("a1", "a2", "a3", "b1", "b2", "c1")),
    frozenset(),
)
SCORES = np.array(
    # a    b    c
    [
        [0.9, 0.1, 0.2],  # a1: first
        [0.3, 0.8, 0.4],  # a2: last of three
        [0.5, 0.6, 0.1],  # a3: second
        [0.2, 0.7, 0.7],  # b1: ties with c: second
        [0.1, 0.2, 0.3],  # b2: second
        [0.6, 0.6, 0.6],  # c1: all tie: last
    ]
)


def test_every_caption_asks_and_all_captions_are_candidates() -> None:
    found = score(MSVD, Matrix(SCORES), measures=True)
    assert found.t2v_ranks.tolist() == [1, 3, 2, 2, 2, 3]
    assert found.t2v["R@1"] == pytest.approx(100 / 6)
    # a: its best caption scores 0.9, first. b: own 0.7; a2 scores 0.8: second. c: own 0.6; b1 scores 0.7: second.
    assert found.v2t_ranks.tolist() == [1, 2, 2]
    # mAP of clips: a's captions lie at 1 (0.9), 3 (0.5, behind c1's 0.6) and 4 (0.3): (1/1 + 2/3 + 3/4) / 3
    # b: 2 (0.7, behind a2), and 6 (0.2: behind a2, b1, a3, c1, and nothing else: a1 has 0.1): 5
    # c: 2 (0.6, behind b1)
    precisions = [(1 + 2 / 3 + 3 / 4) / 3, (1 / 2 + 2 / 5) / 2, 1 / 2]
    assert found.ranking["v2t"]["mAP"] == pytest.approx(100 * np.mean(precisions))
    assert found.ranking["t2v"]["mAP"] == pytest.approx(100 * np.mean([1, 1 / 3, 1 / 2, 1 / 2, 1 / 2, 1 / 3]))
    assert found.ranking["t2v"]["nDCG@10"] == pytest.approx(
        100 * np.mean([1, 1 / 2, 1 / math.log2(3), 1 / math.log2(3), 1 / math.log2(3), 1 / 2])
    )


def test_the_best_of_a_clips_captions_stands_for_it() -> None:
    found = score(MSVD, Matrix(SCORES), captions=BEST)
    assert found.t2v_ranks.tolist() == [1, 2, 3]
    assert found.t2v_ids == found.t2v_clips == ("a", "b", "c")
    # candidates are clips, by their bests: for a 0.9, 0.2, 0.6; for b 0.8, 0.7, 0.6; for c 0.4, 0.7, 0.6
    assert found.v2t_ranks.tolist() == [1, 2, 2]
    assert found.v2t["MnR"] == pytest.approx(5 / 3)
    # With three wrong captions of one clip above, the clip is fourth among captions and second among clips.
    scores = np.array([[0.1, 0.9], [0.1, 0.8], [0.1, 0.7], [0.5, 0.6]])
    two = Split("test", ("a", "b"), tuple(Caption(str(i), "aaab"[i], "") for i in range(4)), frozenset())
    assert score(two, Matrix(scores)).v2t_ranks.tolist() == [2, 4]
    assert score(two, Matrix(scores), captions=BEST).v2t_ranks.tolist() == [2, 2]


def test_another_number_of_queries_than_the_protocols_is_in_the_name() -> None:
    clips = tuple(f"v{i}" for i in range(1000))
    captions = tuple(Caption(f"{clip}#{k}", clip, "") for clip in clips for k in range(2))
    facts = {"protocol": "msrvtt-1ka-9k", "dataset": "msrvtt", "expected": 1000}
    scores = np.zeros((2000, 1000), np.float16)
    twice = Evaluation.of_similarity(Split("test", clips, captions, frozenset()), Matrix(scores), **facts)
    assert twice.name == "msrvtt-1ka-9k [1000/1000 clips, 2000/1000 queries]"
    assert twice.to_json()["gallery_complete"] is False
    once = Evaluation.of_similarity(Split("test", clips, captions[::2], frozenset()), Matrix(scores[::2]), **facts)
    assert once.name == "msrvtt-1ka-9k"


def test_a_missing_clip_and_a_broken_one_under_both_conventions() -> None:
    split = Split("test", ("a", "b", "c"), MSVD.captions, frozenset({"b"}))
    scores = SCORES[:, [0, 2]].copy()
    scores[1, 1] = math.nan  # c's score for a2: against the model
    for captions in ("all-captions", BEST):
        found = score(split, Matrix(scores), captions=captions)
        assert found.v2t_ranks[1] == MISS
        assert set(found.t2v_ranks[[i for i, clip in enumerate(found.t2v_clips) if clip == "b"]]) == {MISS}
        assert found.v2t_ranks[2] == 3  # a2's NaN and b1's 0.7 stand before 0.6


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_best_captions_are_those_of_a_naive_loop(seed: int, vectors: bool) -> None:
    rng = np.random.default_rng(seed)
    clips = [f"v{i}" for i in range(rng.integers(2, 7))]
    order = rng.permutation(np.repeat(np.arange(len(clips)), rng.integers(1, 4)))
    split = Split("test", tuple(clips), tuple(Caption(str(k), clips[i], "") for k, i in enumerate(order)), frozenset())
    video = rng.choice([-1.0, 0.0, 1.0, math.nan], p=[0.3, 0.3, 0.3, 0.1], size=(len(clips), 3))
    text = rng.choice([-1.0, 0.0, 1.0], size=(len(order), 3))
    scores = cosine_scores(unit_rows(text), unit_rows(video))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("supportset.evaluate.counting._CANDIDATES", 3)
        found = score(split, Embeddings(video, text) if vectors else Matrix(scores), captions=BEST)
    for clip in range(len(clips)):
        own = scores[order == clip, clip]
        asked = [
            1 + sum(math.isnan(s) or s >= row[clip] for s in np.delete(row, clip)) for row in scores[order == clip]
        ]
        finite = np.isfinite(own)
        assert found.t2v_ranks[clip] == min((r for r, ok in zip(asked, finite, strict=True) if ok), default=MISS)
        others = [scores[order == other, clip] for other in range(len(clips)) if other != clip]
        ahead = sum(bool((~(each < max(own))).any()) for each in others) if finite.all() else MISS
        assert found.v2t_ranks[clip] == 1 + ahead


def test_a_paragraph_is_all_sentences_of_a_video_in_order() -> None:
    # As ActivityNet: sentences of one video become one query.
    sentences = (Caption("1", "v", "A man runs."), Caption("2", "w", "Rain falls."), Caption("3", "v", "He stops."))
    split = Scoring(captions=PARAGRAPH).prepare(Split("test", ("v", "w"), sentences, frozenset()))
    assert [(c.clip_id, c.text) for c in split.captions] == [("v", "A man runs. He stops."), ("w", "Rain falls.")]
    evaluation = Evaluation.of_similarity(
        split, Matrix([[0.5, 0.6], [0.1, 0.2]]), scoring=Scoring(captions=PARAGRAPH), protocol="p", dataset="d"
    )
    assert evaluation.name == "p, paragraph"
    assert evaluation.scores.t2v_ranks.tolist() == [2, 1]


QRELS = "a2 0 b 1\na2 0 c 0\nb1 0 b 0\nb1 0 c 2\nelsewhere 0 a 1\nc1 0 zebra 1\n"


def test_more_right_clips_by_hand(tmp_path: Path) -> None:
    (tmp_path / "qrels.txt").write_text(QRELS)
    found = score_labels(MSVD, Matrix(SCORES), read_relevance(tmp_path / "qrels.txt"))
    assert found.facts == {"judged": 4, "added": 2, "queries": 2, "own_judged_wrong": 1, "outside": 2}
    # a2: b is right too and first. b1: c (grade 2) and b tie at 0.7 above a: 1.
    assert found.t2v["R@1"] == pytest.approx(100 * 3 / 6)
    assert found.t2v["MnR"] == pytest.approx(np.mean([1, 1, 2, 1, 2, 3]))
    gains = [
        1.0,
        (1 + 1 / 2) / (1 + 1 / math.log2(3)),  # at 1 and 3
        1 / math.log2(3),
        (1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3)),  # the lower grade first at a tie
        1 / math.log2(3),
        1 / 2,
    ]
    assert found.t2v["nDCG@10"] == pytest.approx(100 * np.mean(gains))
    # The first ten places of a2: a, b and c were judged; of the others their own clip, and for b1 also c.
    assert found.t2v["judged@10"] == pytest.approx(100 * np.mean([0.1, 0.3, 0.1, 0.2, 0.1, 0.1]))
    # c as a query: b1 (0.7) is right now.
    assert found.v2t["R@1"] == pytest.approx(100.0)


def test_a_label_for_a_missing_clip_is_never_found() -> None:
    split = Split("test", ("a", "b", "c"), MSVD.captions, frozenset({"c"}))
    found = score_labels(split, Matrix(SCORES[:, :2]), Relevance("r", {"a1": {"c": 1.0}}))
    assert found.t2v["mAP"] == pytest.approx(100 * np.mean([1 / 2, 1 / 2, 1 / 2, 1, 1, 0]))
    assert found.v2t["R@1"] == pytest.approx(100 * 1 / 3)  # b fails by a2's 0.8, c is missing


def test_parquet_and_fire_say_the_same_as_qrels(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text(QRELS)
    rows = [line.split() for line in QRELS.splitlines()]
    columns = {"query-id": [r[0] for r in rows], "corpus-id": [r[2] for r in rows], "score": [int(r[3]) for r in rows]}
    pq.write_table(pa.table(columns), tmp_path / "labels.parquet")
    annotations = [
        {
            "query": f"text {r[0]}",
            "video_id": r[2],
            "label": "relevant" if int(r[3]) else "irrelevant",
            "models": ["CE"],
        }
        for r in rows
    ]
    (tmp_path / "labels.json").write_text(json.dumps({"annotations": annotations, "disagreements": []}))
    trec, parquet, fire = (read_relevance(tmp_path / f"labels.{end}") for end in ("txt", "parquet", "json"))
    assert trec == parquet
    by_id, by_text = (score_labels(MSVD, Matrix(SCORES), each) for each in (trec, fire))
    assert by_id.facts == by_text.facts
    assert by_id.t2v["R@1"] == by_text.t2v["R@1"]


def test_labels_change_the_name_and_stand_beside_the_single_positive_score(tmp_path: Path) -> None:
    (tmp_path / "fire_msvd.txt").write_text(QRELS)
    scoring = Scoring.read(labels=tmp_path / "fire_msvd.txt", beside=["dsl"])
    found = Evaluation.of_similarity(
        MSVD, Matrix(SCORES), scoring=scoring, protocol="msvd", dataset="msvd", expected=670
    )
    told = found.to_json()
    assert told["name"] == "msvd [3/670 clips, another gallery than the protocol's]"
    assert told["labels"]["score"] == f"{told['name']} + fire_msvd"
    assert told["t2v"]["R@1"] == pytest.approx(100 / 6)
    assert told["beside"][0]["uses_all_queries_at_once"] is True
    text = found.describe()
    assert "+ fire_msvd: 2 more right clips for 2 captions" in text
    assert "1 captions' own clips were judged wrong: they stay right" in text
    assert "dual softmax (uses all queries at once)" in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.txt", "a1 b 1\n", "line 1 is 'a1 b 1', not 'QUERY 0 CLIP GRADE'"),
        ("q.txt", "a1 0 b yes\n", "line 1 is 'a1 0 b yes'"),
        ("q.txt", "", "has no judgements"),
        ("q.txt", "a 0 b 1\na 0 b 0\n", "query 'a' and clip 'b' have grades 1 and 0"),
        ("q.json", '{"annotations": [{"query": "x"}]}', "not of FIRe's form"),
        ("q.json", "[", "not of FIRe's form"),
        ("q.parquet", "no", "is no Parquet file"),
        ("q.txt", "x 0 y 1\n", "none of its 1 queries, such as 'x', is a caption's id or text"),
    ],
)
def test_a_wrong_relevance_file_is_one_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError) as error:
        score_labels(MSVD, Matrix(SCORES), read_relevance(tmp_path / name))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
