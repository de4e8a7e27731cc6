"""Score embeddings, a score matrix or a TREC run of any program: ``supportset eval --embeddings``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supportset.evaluate.beside import NO_BANKS, Banks
from supportset.evaluate.embeddings.files import Table, check_values, read_table
from supportset.evaluate.embeddings.ids import RowIds, check_rows, read_row_ids
from supportset.evaluate.embeddings.match import Matched, match_ids, match_tables
from supportset.evaluate.embeddings.trec_run import read_run
from supportset.evaluate.evaluation import Evaluation
from supportset.evaluate.protocols import PROTOCOLS
from supportset.evaluate.scores import PARAGRAPH, Embeddings, Matrix
from supportset.evaluate.scoring import PLAIN, Scoring, expected_clips
from supportset.store.errors import UsageError
from supportset.store.files import hash_file
from supportset.store.format.dataset import Dataset, open_dataset


@dataclass(frozen=True)
class Where:
    """The gallery that is scored on.

    Attributes
    ----------
    protocol : str, optional
        By name; needed unless a dataset has only one.
    split : str, optional
        Of a dataset's tables; default: ``test``, or the only one besides ``train``.
    dataset : str, optional
        A dataset of the store, whose captions and clips are asked for. None: the ids alone say which caption is of
        which clip.
    store : str or Path
        Folder of the feature store.
    """

    protocol: str | None = None
    split: str | None = None
    dataset: str | None = None
    store: str | Path = "features"


def evaluate_embeddings(
    text: str | Path,
    video: str | Path,
    where: Where,
    *,
    ids: Sequence[str | Path] = (),
    scoring: Scoring = PLAIN,
    banks: Sequence[str | Path] = (),
) -> Evaluation:
    """Score embeddings from two files by cosine.

    Parameters
    ----------
    text, video : str or Path
        Arrays (N, d) and (C, d): see `supportset.evaluate.embeddings.files.read_table`.
    where : Where
        Protocol and gallery.
    ids : two paths, optional
        Ids of the rows of both: see `supportset.evaluate.embeddings.ids.read_row_ids`. Without them the files' own ids
        are taken, else row i of one belongs to row i of the other.
    scoring : Scoring
        Conventions, gallery list, relevance file, scores beside.
    banks : one or two paths, optional
        Embeddings of other texts, and of other clips, for single-query variants of the scores beside.

    Raises
    ------
    UsageError
        Files, shapes or ids that do not fit: one line that names the file and the fix.
    """
    texts, clips = read_table(text), read_table(video)
    if texts.values.shape[1] != clips.values.shape[1]:
        raise UsageError(
            f"{text} has {texts.values.shape[1]} dimensions and {video} {clips.values.shape[1]}: both must be of one "
            "space"
        )
    given = [read_table(path) for path in banks]
    for bank in given:
        if bank.values.shape[1] != texts.values.shape[1]:
            raise UsageError(f"{bank.path} has {bank.values.shape[1]} dimensions, the texts {texts.values.shape[1]}")
    row_ids = _ids(texts, clips, ids)
    matched, facts = _match(*row_ids, where, scoring)
    notes = (*check_values(texts, "texts"), *check_values(clips, "clips"), *matched.notes)
    similarity = Embeddings(_take(clips.values, matched.video), _take(texts.values, matched.text))
    return Evaluation.of_similarity(
        matched.split,
        similarity,
        scoring=scoring,
        banks=Banks(*(bank.values for bank in given)) if given else NO_BANKS,
        subject={"embeddings": {"text": _told(texts), "video": _told(clips)}, "notes": list(notes)},
        **facts,
    )


def evaluate_matrix(
    scores: str | Path, where: Where, *, ids: Sequence[str | Path] = (), scoring: Scoring = PLAIN
) -> Evaluation:
    """Score a matrix (N, C) of a file: a row a text, a column a clip, higher is better. See `evaluate_embeddings`."""
    table = read_table(scores, "scores")
    turned = Table(table.path, table.values.T)
    text, video = _ids(table, turned, ids)
    matched, facts = _match(text, video, where, scoring)
    finite = np.isfinite(table.values).all()
    notes = (*matched.notes, *(() if finite else (f"{scores}: has scores that are not finite: they count against it",)))
    return Evaluation.of_similarity(
        matched.split,
        Matrix(_cut(table.values, matched)),
        scoring=scoring,
        subject={"scores": _told(table), "notes": list(notes)},
        **facts,
    )


def evaluate_run_file(
    run: str | Path, where: Where, *, ids: Sequence[str | Path] = (), scoring: Scoring = PLAIN
) -> Evaluation:
    """Score a TREC run. Clips that it does not list for a query are not found; only text to video is scored.

    ``ids`` are those of all queries, with their clips, and of all clips; without them queries are named by clip ids or,
    with a dataset, by caption ids.
    """
    if scoring.beside:
        raise UsageError(f"{run}: {', '.join(scoring.beside)} need all scores, a run lists some: give the score matrix")
    text, video, scores = read_run(run)
    asked = read_row_ids(ids[0]) if ids else text
    if where.dataset is None:
        clips = dict.fromkeys([*video.names, *(read_row_ids(ids[1]).names if ids else ()), *scoring.clips])
        clips |= dict.fromkeys(asked.names if asked.clips is None else asked.clips)
    else:
        clips = dict.fromkeys([*video.names, *open_dataset(where.store, where.dataset).clips["clip_id"].to_pylist()])
        asked = _all_queries(text, where, scoring)
    wide = np.full((len(asked.names), len(clips)), -np.inf, scores.dtype)
    rows = {name: row for row, name in enumerate(text.names)}
    for row, name in enumerate(asked.names):
        if name in rows:
            wide[row, : len(video.names)] = scores[rows[name]]
    matched, facts = _match(asked, RowIds(video.source, tuple(clips)), where, scoring)
    unlisted = len([name for name in asked.names if name not in rows])
    notes = [*matched.notes, *([f"{run}: lists nothing for {unlisted:,} queries: missed"] if unlisted else [])]
    found = Evaluation.of_similarity(
        matched.split,
        Matrix(_cut(wide, matched)),
        scoring=scoring,
        subject={"run_file": {"file": str(run), "xxh3": hash_file(Path(run))}, "notes": notes},
        **facts,
    )
    labels = None if found.labels is None else found.labels.only_t2v()
    return replace(found, scores=found.scores.only_t2v(), labels=labels)


def _all_queries(text: RowIds, where: Where, scoring: Scoring) -> RowIds:
    """The captions of a dataset's split, by the name that the run has for them."""
    dataset = open_dataset(where.store, str(where.dataset))
    protocol = scoring.table_protocol(_protocol(where, dataset))
    captions = [
        caption for split in dataset.split_names(protocol) for caption in dataset.split_captions(protocol, split)
    ]
    known = set(text.names)
    names = [caption.clip_id if caption.clip_id in known else caption.caption_id for caption in captions]
    return RowIds(text.source, tuple(names), tuple(caption.clip_id for caption in captions))


def _ids(texts: Table, clips: Table, ids: Sequence[str | Path]) -> tuple[RowIds, RowIds]:
    if ids:
        text, video = read_row_ids(ids[0]), read_row_ids(ids[1])
    elif texts.ids is not None and clips.ids is not None:
        text = RowIds(str(texts.path), texts.ids, texts.clips)
        video = RowIds(str(clips.path), clips.clips or clips.ids)
    elif texts.ids is None and clips.ids is None and len(texts.values) == len(clips.values):
        rows = tuple(f"row{number}" for number in range(len(texts.values)))
        text, video = RowIds(str(texts.path), rows), RowIds(str(clips.path), rows)
    else:
        raise UsageError(
            f"{texts.path} has {len(texts.values):,} texts and {clips.path} {len(clips.values):,} clips, and not both "
            "have ids: name a file of ids for each with --ids TEXT_IDS VIDEO_IDS"
        )
    check_rows(text, len(texts.values), f"{texts.path} has")
    check_rows(video, len(clips.values), f"{clips.path} has")
    return text, video


def _protocol(where: Where, dataset: Dataset | None) -> str:
    if where.protocol is not None:
        if dataset is None and where.protocol not in PROTOCOLS:
            raise UsageError(
                f"protocol {where.protocol!r} is not one of {', '.join(PROTOCOLS)}; for others name a dataset of the "
                "store with --dataset, for data of your own take 'folder'"
            )
        return where.protocol
    if dataset is not None and len(dataset.protocols()) == 1:
        return dataset.protocols()[0]
    raise UsageError(
        "name the protocol with --protocol: `supportset protocols` lists them; 'folder' is data of your own"
    )


def _match(text: RowIds, video: RowIds, where: Where, scoring: Scoring) -> tuple[Matched, Mapping[str, Any]]:
    """The split with its rows, and the facts of an `Evaluation`."""
    if scoring.captions == PARAGRAPH:
        raise UsageError("paragraphs are joined before they are embedded: give one row a paragraph, without --captions")
    dataset = None if where.dataset is None else open_dataset(where.store, where.dataset)
    protocol = _protocol(where, dataset)
    if dataset is None:
        scoring.table_protocol(protocol)
        matched, stated = match_ids(text, video, scoring.clips), PROTOCOLS[protocol].clips
        name = PROTOCOLS[protocol].dataset
    else:
        in_tables = scoring.table_protocol(protocol)
        matched = match_tables(text, video, dataset, in_tables, where.split)
        stated, name = expected_clips(protocol, dataset.expected(in_tables, matched.split.name)), dataset.name
        matched = matched.of(scoring.prepare(matched.split))
    if not matched.split.captions:
        raise UsageError(f"split {matched.split.name!r} of protocol {protocol!r} has no captions, so no queries")
    return matched, {"protocol": protocol, "dataset": name, "expected": stated, "selected_by": "not known"}


def _take(values: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Rows of an array; the array itself, still mapped, if these are all in order."""
    return values if len(rows) == len(values) and (rows == np.arange(len(rows))).all() else values[rows]


def _cut(scores: NDArray[Any], matched: Matched) -> NDArray[Any]:
    return _take(_take(scores, matched.text).T, matched.video).T


def _told(table: Table) -> dict[str, Any]:
    return {
        "file": str(table.path),
        "shape": list(table.values.shape),
        "dtype": str(table.values.dtype),
        "xxh3": hash_file(table.path),
    }
