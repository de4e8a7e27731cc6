"""Options of ``eval`` that say how to score, and what of other programs to score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from supportset.store.errors import UsageError

FILE = click.Path(dir_okay=False)


def scoring_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how a split is scored; `scoring_of` reads them."""
    for option in (
        click.option(
            "--beside",
            multiple=True,
            metavar="NAME",
            help="Also show scores normalised over queries: dsl, qb-norm, sinkhorn; repeatable.",
        ),
        click.option("--labels", type=FILE, help="More right clips: TREC qrels, Parquet, or FIRe's JSON."),
        click.option("--gallery", type=FILE, help="File of the gallery's clip ids, one a line.  [default: the split]"),
        click.option(
            "--captions",
            metavar="NAME",
            help="How a clip's captions count: all-captions, best-caption, paragraph.  [default: all-captions]",
        ),
    ):
        command = option(command)
    return command


def foreign_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name what other programs made; `evaluate_foreign` reads them."""
    for option in (
        click.option("--bank", type=FILE, multiple=True, help="Of --beside: embeddings of other texts, then of clips."),
        click.option(
            "--ids",
            type=FILE,
            nargs=2,
            metavar="TEXT VIDEO",
            help="Ids of the rows, one a line; of texts also a table caption_id,clip_id.",
        ),
        click.option("--run-file", type=FILE, help="In place of RUN: a TREC run, text to video."),
        click.option("--scores", type=FILE, help="In place of RUN: a score matrix, a row a text, a column a clip."),
        click.option(
            "--embeddings",
            type=FILE,
            nargs=2,
            metavar="TEXT VIDEO",
            help="In place of RUN: embeddings of texts and of clips (npy, npz, safetensors, Parquet, Arrow, HDF5).",
        ),
    ):
        command = option(command)
    return command


def scoring_of(given: dict[str, Any]) -> Any:
    """Take the options of `scoring_options` out of a command's arguments, and read their files."""
    from supportset.evaluate.scores import ALL
    from supportset.evaluate.scoring import Scoring

    options = {name: given.pop(name) for name in ("captions", "gallery", "labels", "beside")}
    return Scoring.read(**options | {"captions": options["captions"] or ALL})


def foreign_of(given: dict[str, Any]) -> dict[str, Any] | None:
    """Take the options of `foreign_options` out of a command's arguments; None if none names what to score.

    Raises
    ------
    UsageError
        Two of them name what to score, or one needs another.
    """
    options = {name: given.pop(name) for name in ("embeddings", "scores", "run_file", "ids", "bank")}
    named = [f"--{name.replace('_', '-')}" for name in ("embeddings", "scores", "run_file") if options[name]]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} are given: leave all but one out")
    if not named and (rest := [name for name in ("ids", "bank") if options[name]]):
        raise UsageError(f"--{rest[0]} needs --embeddings, --scores or --run-file")
    if options["bank"] and not options["embeddings"]:
        raise UsageError("--bank needs --embeddings")
    if len(options["bank"]) > 2:
        raise UsageError("--bank is given more than twice: once for texts, once for clips")
    return options if named else None


def evaluate_foreign(options: dict[str, Any], where: Any, scoring: Any) -> Any:
    """Score what `foreign_of` found."""
    from supportset.evaluate.embeddings.score import evaluate_embeddings, evaluate_matrix, evaluate_run_file

    ids = options["ids"] or ()
    if options["embeddings"]:
        text, video = options["embeddings"]
        return evaluate_embeddings(text, video, where, ids=ids, scoring=scoring, banks=options["bank"])
    if options["scores"]:
        return evaluate_matrix(options["scores"], where, ids=ids, scoring=scoring)
    return evaluate_run_file(options["run_file"], where, ids=ids, scoring=scoring)
