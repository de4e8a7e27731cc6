"""Embeddings, score matrices and TREC runs of other programs: every format, and every mistake as one line."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import ir_measures
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from ir_measures import AP, Success, nDCG
from safetensors.numpy import save_file

from supportset.commands.main import cli
from supportset.evaluate.embeddings.files import read_table
from supportset.evaluate.embeddings.score import Where, evaluate_embeddings, evaluate_matrix, evaluate_run_file
from supportset.evaluate.ranks import retrieval_ranks, unit_rows
from supportset.evaluate.scoring import Scoring
from supportset.store.errors import UsageError
from supportset.store.format.dataset import write_dataset

CLIPS = [f"clip{i}" for i in range(12)]
FOLDER = Where("folder")


@pytest.fixture
def arrays() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    clips = unit_rows(rng.normal(size=(12, 5))).astype(np.float32)
    return unit_rows(clips + 0.5 * rng.normal(size=(12, 5))).astype(np.float32), clips


def write_ids(folder: Path, texts: list[str], clips: list[str]) -> list[Path]:
    (folder / "t.txt").write_text("".join(f"{each}\n" for each in texts))
    (folder / "v.txt").write_text("".join(f"{each}\n" for each in clips))
    return [folder / "t.txt", folder / "v.txt"]


def save(path: Path, values: np.ndarray, ids: list[str]) -> Path:
    columns = {"clip_id": ids, "embedding": list(values)}
    if path.suffix == ".npz":
        np.savez(path, embeddings=values, ids=np.array(ids))
    elif path.suffix == ".safetensors":
        save_file({"embeddings": values}, path)
    elif path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    elif path.suffix == ".arrow":
        fixed = pa.FixedSizeListArray.from_arrays(values.ravel(), values.shape[1])
        table = pa.table({"clip_id": ids, "embedding": fixed})
        with pa.ipc.new_file(str(path), table.schema) as file:
            file.write_table(table)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["features"], file["ids"] = values, np.array(ids, dtype="S")
    else:
        np.save(path, values)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".parquet", ".arrow", ".h5"])
def test_every_format_gives_the_same_ranks(tmp_path: Path, arrays: Any, suffix: str) -> None:
    texts, clips = arrays
    order = np.random.default_rng(1).permutation(12)
    text = save(tmp_path / f"text{suffix}", texts, CLIPS)
    video = save(tmp_path / f"video{suffix}", clips[order], [CLIPS[i] for i in order])
    ids = write_ids(tmp_path, CLIPS, [CLIPS[i] for i in order]) if suffix in (".npy", ".safetensors") else ()
    found = evaluate_embeddings(text, video, FOLDER, ids=ids)
    expected = retrieval_ranks(texts, clips, range(12), range(12))
    ranks = dict(zip(found.scores.t2v_ids, found.scores.t2v_ranks, strict=True))
    assert [ranks[clip] for clip in CLIPS] == expected.tolist()
    assert found.name == "folder"
    assert found.to_json()["embeddings"]["text"]["shape"] == [12, 5]
    assert found.to_json()["notes"] == []


def test_clips_that_only_texts_name_are_misses_and_the_name_says_so(tmp_path: Path, arrays: Any) -> None:
    texts, clips = arrays
    ids = write_ids(tmp_path, CLIPS, CLIPS[:9])
    text, video = save(tmp_path / "text.npy", texts, []), save(tmp_path / "video.npy", clips[:9], [])
    found = evaluate_embeddings(text, video, Where("msrvtt-1ka-9k"), ids=ids)
    assert (
        found.name == "msrvtt-1ka-9k [9/1000 clips, 3 missing counted as misses, another gallery than the protocol's]"
    )
    assert np.isinf(found.scores.t2v_ranks[9:]).all()
    (tmp_path / "gallery.txt").write_text("".join(f"{clip}\n" for clip in [*CLIPS[:4], *CLIPS[9:11]]))
    listed = evaluate_embeddings(text, video, FOLDER, ids=ids, scoring=Scoring.read(gallery=tmp_path / "gallery.txt"))
    assert listed.name == "folder [4/6 clips, 2 missing counted as misses]"
    assert listed.to_json()["notes"] == ["not in the split, so not used: 6 rows of texts and 5 rows of clips"]
    assert len(listed.scores.t2v_ranks) == 6


def test_a_gallery_of_mveb_is_read_from_a_list(tmp_path: Path, arrays: Any) -> None:
    texts, clips = arrays
    text, video = save(tmp_path / "text.npz", texts, CLIPS), save(tmp_path / "video.npz", clips, CLIPS)
    with pytest.raises(UsageError, match=r"'mveb-msrvtt' is 879 clips of 'msrvtt-1ka-9k': .* with --gallery"):
        evaluate_embeddings(text, video, Where("mveb-msrvtt"))
    (tmp_path / "list.txt").write_text("clip1\nclip2\n")
    found = evaluate_embeddings(text, video, Where("mveb-msrvtt"), scoring=Scoring.read(gallery=tmp_path / "list.txt"))
    assert found.name == "mveb-msrvtt [2/879 clips, another gallery than the protocol's]"


def test_several_captions_a_clip_by_a_table_or_by_repeated_ids(tmp_path: Path, arrays: Any) -> None:
    texts, clips = arrays
    of = [CLIPS[i // 3] for i in range(12)]
    text, video = save(tmp_path / "text.npy", texts, []), save(tmp_path / "video.npy", clips[:4], [])
    ids = write_ids(tmp_path, of, CLIPS[:4])
    repeated = evaluate_embeddings(text, video, FOLDER, ids=ids)
    lines = ["caption_id,clip_id", *(f"s{i},{clip}" for i, clip in enumerate(of))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    table = evaluate_embeddings(text, video, FOLDER, ids=[tmp_path / "t.csv", ids[1]])
    expected = retrieval_ranks(texts, clips[:4], [i // 3 for i in range(12)], range(4))
    assert repeated.scores.t2v_ranks.tolist() == table.scores.t2v_ranks.tolist() == expected.tolist()
    assert repeated.scores.t2v_ids[:4] == ("clip0#1", "clip0#2", "clip0#3", "clip1#1")
    assert table.scores.t2v_ids[:2] == ("s0", "s1")


def test_a_file_that_names_captions_and_clips_needs_no_ids(tmp_path: Path, arrays: Any) -> None:
    texts, clips = arrays
    columns = {"caption_id": [f"s{i}" for i in range(12)], "clip_id": CLIPS[::-1], "embedding": list(texts[::-1])}
    pq.write_table(pa.table(columns), tmp_path / "text.parquet")
    video = save(tmp_path / "video.parquet", clips, CLIPS)
    found = evaluate_embeddings(tmp_path / "text.parquet", video, FOLDER)
    assert found.scores.t2v_ids == tuple(f"s{i}" for i in range(12))
    assert found.scores.t2v_clips == tuple(CLIPS[::-1])
    assert found.scores.t2v_ranks.tolist() == retrieval_ranks(texts, clips, range(12), range(12))[::-1].tolist()


def test_a_run_on_a_datasets_tables_misses_queries_that_it_does_not_list(tmp_path: Path) -> None:
    plant(tmp_path / "store")
    lines = ["sen0 Q0 clip0 1 0.9 x", "sen0 Q0 clip1 2 0.8 x", "sen1 Q0 clip0 1 0.9 x", "sen1 Q0 clip1 2 0.8 x"]
    (tmp_path / "run.txt").write_text("\n".join([*lines, "sen2 Q0 clip1 1 0.5 x", "sen9 Q0 clip9 1 0.5 x"]))
    found = evaluate_run_file(tmp_path / "run.txt", Where(dataset="mine", store=tmp_path / "store"))
    assert found.scores.t2v_ranks.tolist() == [1, 2, np.inf, np.inf]
    assert found.to_json()["missing"] == 0


def plant(root: Path) -> None:
    """Four test clips with one caption each, as the tables of a store have them."""
    captions = [{"caption_id": f"sen{i}", "clip_id": clip, "text": f"text {i}"} for i, clip in enumerate(CLIPS)]
    splits = [{"protocol": "p", "split": "test" if i < 4 else "train", "clip_id": clip} for i, clip in enumerate(CLIPS)]
    write_dataset(
        root,
        "mine",
        clips=[{"clip_id": clip, "path": f"{clip}.mp4"} for clip in CLIPS],
        captions=captions,
        splits=splits,
        protocols={"p": {"train": None, "test": 5}},
        sources=[],
    )


@pytest.mark.parametrize("named", ["captions", "clips"])
def test_a_datasets_tables_say_what_is_asked(tmp_path: Path, arrays: Any, named: str) -> None:
    plant(tmp_path / "store")
    texts, clips = arrays
    text_ids = [f"sen{i}" for i in range(12)] if named == "captions" else CLIPS
    text, video = save(tmp_path / "text.npz", texts, text_ids), save(tmp_path / "video.npz", clips[:3], CLIPS[:3])
    found = evaluate_embeddings(text, video, Where(dataset="mine", store=tmp_path / "store"))
    assert found.name == "p [3/5 clips, 1 missing counted as misses, another gallery than the protocol's]"
    expected = retrieval_ranks(texts[:3], clips[:3], range(3), range(3))
    assert found.scores.t2v_ranks.tolist() == [*expected, np.inf]
    assert found.to_json()["notes"] == ["not in the split, so not used: 8 rows of texts"]
    short = save(tmp_path / "short.npz", texts[:2], text_ids[:2])
    with pytest.raises(
        UsageError, match=r"2 of 4 captions of split 'test' have no row, such as 'sen2' of clip 'clip2'"
    ):
        evaluate_embeddings(short, video, Where(dataset="mine", store=tmp_path / "store"))
    twice = save(tmp_path / "twice.npz", texts, [*text_ids[:11], text_ids[2]])
    with pytest.raises(UsageError, match=rf"twice.npz: names '{text_ids[2]}' 2 times: each caption once"):
        evaluate_embeddings(twice, video, Where(dataset="mine", store=tmp_path / "store"))


def test_matrix_and_run_give_what_the_embeddings_give_and_what_trec_eval_gives(tmp_path: Path, arrays: Any) -> None:
    texts, clips = arrays
    scores = (unit_rows(texts) @ unit_rows(clips).T).astype(np.float32)
    ids = write_ids(tmp_path, CLIPS, CLIPS)
    np.save(tmp_path / "scores.npy", scores)
    text, video = save(tmp_path / "text.npy", texts, []), save(tmp_path / "video.npy", clips, [])
    by_vectors = evaluate_embeddings(text, video, FOLDER, ids=ids)
    by_matrix = evaluate_matrix(tmp_path / "scores.npy", FOLDER, ids=ids)
    assert by_matrix.scores.flat() == by_vectors.scores.flat()
    best = np.argsort(-scores, axis=1)[:, :7]
    lines = [
        f"{CLIPS[q]} Q0 {CLIPS[c]} {rank} {scores[q, c]:.9g} x" for q in range(11) for rank, c in enumerate(best[q], 1)
    ]
    (tmp_path / "run.txt").write_text("\n".join(lines) + "\n")
    by_run = evaluate_run_file(tmp_path / "run.txt", FOLDER, ids=ids)
    theirs = ir_measures.calc_aggregate(
        [nDCG @ 10, AP, Success @ 1, Success @ 5],
        [ir_measures.Qrel(clip, clip, 1) for clip in CLIPS],
        list(ir_measures.read_trec_run(str(tmp_path / "run.txt"))),
    )
    assert by_run.scores.ranking["t2v"]["nDCG@10"] == pytest.approx(100 * theirs[nDCG @ 10])
    assert by_run.scores.ranking["t2v"]["mAP"] == pytest.approx(100 * theirs[AP])
    assert by_run.scores.t2v["R@1"] == pytest.approx(100 * theirs[Success @ 1])
    assert by_run.scores.t2v["R@5"] == pytest.approx(100 * theirs[Success @ 5])
    told = by_run.to_json()
    assert (told["v2t"], told["rsum"], told["missing"]) == ({}, None, 0)
    assert told["notes"] == [f"{tmp_path}/run.txt: lists nothing for 1 queries: missed"]
    assert "video to text: not scored" in by_run.describe()
    assert not np.isfinite(by_run.scores.t2v_ranks[11])


def test_what_counts_against_a_model_is_noted(tmp_path: Path, arrays: Any) -> None:
    texts, clips = arrays
    clips = clips * 3.0
    clips[4], clips[5] = np.nan, 0.0
    text, video = save(tmp_path / "text.npz", texts, CLIPS), save(tmp_path / "video.npz", clips, CLIPS)
    found = evaluate_embeddings(text, video, FOLDER)
    assert [note.partition(": ")[2] for note in found.to_json()["notes"]] == [
        "1 clips, such as 'clip4', are not finite: never found, and before the right answer of others: omit them",
        "1 clips, such as 'clip5', are zero: they tie with each other",
        "vectors have lengths from 3 to 3, scaled to 1: scores are cosines (for inner products give the score matrix)",
    ]
    assert np.isinf(found.scores.t2v_ranks[4])


def test_no_pickle_is_opened(tmp_path: Path, arrays: Any) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    np.save(tmp_path / "a.npy", np.array([[Trap()]], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", embeddings=np.array([[Trap()]], dtype=object))
    (tmp_path / "c.npy").write_bytes(pickle.dumps(Trap()))
    for name in ("a.npy", "b.npz", "c.npy"):
        with pytest.raises(UsageError, match="pickles"):
            read_table(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def wrong_files(folder: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(folder / "good.npy", rng.normal(size=(12, 5)))
    np.save(folder / "wide.npy", rng.normal(size=(12, 6)))
    np.save(folder / "steps.npy", rng.normal(size=(12, 4, 5)))
    np.save(folder / "words.npy", np.array([["a"]]))
    np.save(folder / "few.npy", rng.normal(size=(11, 5)))
    np.savez(folder / "two.npz", a=np.eye(3), b=np.eye(3))
    (folder / "cut.npy").write_bytes((folder / "good.npy").read_bytes()[:200])
    (folder / "x.pt").write_bytes(b"")
    (folder / "ragged.parquet").write_bytes(b"")
    pq.write_table(pa.table({"id": ["a", "b"], "v": [[1.0], [1.0, 2.0]]}), folder / "ragged.parquet")
    write_ids(folder, CLIPS, CLIPS)
    (folder / "twice.txt").write_text("".join(f"{clip}\n" for clip in [*CLIPS[:11], "clip3"]))
    (folder / "short.txt").write_text("clip0\n")
    (folder / "hole.txt").write_text("clip0\n\nclip2\n")
    (folder / "others.txt").write_text("".join(f"zebra{i}\n" for i in range(12)))
    (folder / "columns.csv").write_text("name,text\na,b\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("good.npy absent.npy", "absent.npy: no such file"),
        ("good.npy x.pt", "x.pt: .pt is not one of .npy, .npz"),
        ("good.npy wide.npy", "has 5 dimensions and"),
        ("good.npy steps.npy", "has the shape (12, 4, 5), not (rows, d): pool the steps"),
        ("good.npy words.npy", "not numbers"),
        ("good.npy cut.npy", "cut.npy: "),
        ("good.npy two.npz", "holds the arrays a, b: name the one to score 'embeddings'"),
        ("good.npy ragged.parquet", "has rows of different lengths"),
        ("good.npy few.npy", "12 texts and"),
        ("good.npy good.npy --ids t.txt twice.txt", "names 'clip3' 2 times: each clip once"),
        ("good.npy good.npy --ids t.txt short.txt", "short.txt: has 1 ids, but"),
        ("good.npy good.npy --ids t.txt hole.txt", "line 2 is empty"),
        ("good.npy good.npy --ids others.txt v.txt", "no caption's clip has an embedding in the gallery"),
        ("good.npy good.npy --ids columns.csv v.txt", "has columns name, text; one of clip_id"),
        ("good.npy good.npy --captions best", "captions convention 'best' is not one of all-captions"),
        ("good.npy good.npy --captions paragraph", "paragraphs are joined before they are embedded"),
        ("good.npy good.npy --beside csls", "normalisation 'csls' is not one of dsl"),
        ("good.npy good.npy --protocol msrvtt", "protocol 'msrvtt' is not one of msrvtt-1ka-9k"),
        ("good.npy good.npy --dataset none", "no dataset 'none'"),
        ("good.npy good.npy --scores good.npy", "--embeddings and --scores are given"),
        ("good.npy good.npy --bank wide.npy", "has 6 dimensions, the texts 5"),
        ("good.npy good.npy --zero-shot a/b", "leave one out"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path, arguments: str, message: str) -> None:
    wrong_files(tmp_path)
    words = [str(tmp_path / each) if "." in each else each for each in arguments.split()]
    protocol = [] if "--protocol" in words else ["--protocol", "folder"]
    store = ["--store", str(tmp_path / "store")]
    result = CliRunner().invoke(cli, ["eval", "--embeddings", *words, *protocol, *store])
    assert message in result.output
    assert result.exit_code == 2
    assert len(result.output.strip().splitlines()) == 1


def test_the_command_writes_what_it_prints(tmp_path: Path, arrays: Any) -> None:
    texts, clips = arrays
    text, video = save(tmp_path / "text.npz", texts, CLIPS), save(tmp_path / "video.npz", clips, CLIPS)
    words = ["eval", "--embeddings", str(text), str(video), "--protocol", "flickr8k", "--beside", "qb-norm"]
    result = CliRunner().invoke(cli, [*words, "--out", str(tmp_path / "out"), "--bank", str(text), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["beside"][0]["label"] == "querybank normalisation (one query at a time, with a bank)"
    written = json.loads((tmp_path / "out" / "flickr8k-test.json").read_text())
    assert written["t2v"] == told["t2v"]
    assert len(pq.read_table(tmp_path / "out" / "flickr8k-test-ranks.parquet")) == 24


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q Q0 c 1 0.5", "line 1 is 'q Q0 c 1 0.5', not"),
        ("q Q0 c 1 high x", "line 1 is"),
        ("q Q0 c 1 nan x", "the score nan is not finite"),
        ("q Q0 c 1 1 x\nq Q0 c 2 1 x", "line 2 lists clip 'c' for query 'q' again"),
        ("", "is empty"),
    ],
)
def test_a_wrong_run_is_one_line(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "run.txt").write_text(line)
    with pytest.raises(UsageError) as error:
        evaluate_run_file(tmp_path / "run.txt", FOLDER)
    assert message in str(error.value)
