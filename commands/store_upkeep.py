"""``store verify``, ``compact`` and ``rm``."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from supportset.commands.options import device_option, json_option, print_json, store_option
from supportset.commands.store_transfer import SHOWN, Progress
from supportset.store.errors import SupportsetError, UsageError, printable

if TYPE_CHECKING:
    from supportset.extract.recheck.reextract import Reextraction
    from supportset.store.maintain.problem import VerifyReport
    from supportset.store.read.catalog import FeatureSetInfo


@click.command("verify")
@click.argument("words", nargs=-1, metavar="[SET]...")
@click.option(
    "--drop-damaged",
    is_flag=True,
    help="Rewrite damaged shards without the damaged clips: the same `extract` then redoes only those.",
)
@click.option(
    "--against-videos",
    "recheck",
    type=click.IntRange(1),
    metavar="K",
    help="Also extract K random clips again, from their videos, and compare.",
)
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the dataset.  [default: data/DATASET]")
@click.option("--videos", type=click.Path(path_type=Path), help="Folder of the videos.  [default: that of --data]")
@click.option("--backbone", metavar="NAME", help="Where the backbone's weights are.  [default: as it was extracted]")
@click.option("--seed", type=int, help="Seed of the choice of clips.  [default: random, printed]")
@device_option
@store_option
@json_option
def verify_command(
    words: tuple[str, ...],
    drop_damaged: bool,
    recheck: int | None,
    data: Path | None,
    videos: Path | None,
    backbone: str | None,
    seed: int | None,
    device: str,
    store: str,
    as_json: bool,
) -> None:
    """Compare every file of feature sets, and the tables of datasets, with its size and hash.

    SET is DATASET/WORDS: a dataset, and words of the feature set's name. Without SET, all are checked.

    With --against-videos, also extract some clips of one set again and compare.

    Exit code 0: no problem; 1: something is damaged, or differs. Files that no reader uses are listed, and do not
    count.
    """
    from supportset.store.format.dataset import list_datasets
    from supportset.store.maintain.repair import drop_damaged as drop
    from supportset.store.maintain.verify import REDO, verify, verify_dataset
    from supportset.store.read.catalog import list_feature_sets, locate_feature_set

    errors: list[SupportsetError] = []
    sets = [locate_feature_set(store, each) for each in words] or list_feature_sets(store, errors=errors)
    datasets = [] if words else list_datasets(store, errors)
    if not sets and not datasets and not errors:
        raise UsageError(f"{store}: no feature sets here: run `extract` first, or give --store")
    if recheck and len(words) != 1:
        raise UsageError("--against-videos is for one feature set: name it, as DATASET/WORDS")
    found: dict[str, list[dict[str, Any]]] = {"sets": [], "datasets": []}
    for error in errors:
        click.echo(f"damaged: {error}", err=True)
    harmful = len(errors)
    for dataset in datasets:
        tables = verify_dataset(store, dataset)
        found["datasets"].append(tables.to_json())
        _print_report(f"{dataset}: {tables.clips:,} clips, tables", tables, as_json)
        harmful += len(tables.harmful)
    for info in sets:
        report = verify(info.path, progress=Progress("verify", "bytes"))
        entry = report.to_json()
        name = f"{info.dataset}/{info.name}"
        for part, told in zip(report.reports, (entry, entry["thumbnails"]), strict=False):
            what, redo = (name, "the same `extract` again") if part is report else (f"{name}, thumbnails", REDO)
            _print_report(f"{what}: {part.clips:,} clips in {part.shards:,} shards", part, as_json)
            damaged = {problem.shard for problem in part.problems if problem.shard and not problem.harmless}
            if drop_damaged and damaged:
                told["dropped_clips"] = drop(part.path, damaged)
                click.echo(
                    f"{part.path}: {len(damaged):,} shards rewritten, {len(told['dropped_clips']):,} damaged clips "
                    f"dropped: run {redo} to have them redone",
                    err=True,
                )
        found["sets"].append(entry)
        harmful += sum(not (drop_damaged and problem.shard) for problem in report.harmful)
        if recheck:
            videos_root = videos or data or Path("data") / info.dataset
            again = _against_videos(info, store, videos_root, recheck, seed, backbone, device, report.damaged_clips)
            entry["against_videos"] = again.to_json()
            if not as_json:
                click.echo(f"{info.dataset}/{info.name}: {again.in_words()}")
            for clip in again.clips:
                if clip.says:
                    click.echo(printable(f"{clip.outcome}: {clip.clip_id} ({clip.path}): {clip.says}"), err=True)
            harmful += len(again.wrong)
    if as_json:
        print_json({"problems": harmful, "errors": [str(error) for error in errors], **found})
    if harmful:
        raise SupportsetError(f"{store}: {harmful:,} problem{'s' if harmful > 1 else ''} found: see above")


@click.command("compact")
@click.argument("words", metavar="SET")
@click.option("--clips-per-shard", type=click.IntRange(1), default=1000, show_default=True, help="At most.")
@click.option(
    "--now",
    is_flag=True,
    help="Remove unfinished files of any age: only if no process writes to the set. [default: after an hour unchanged]",
)
@store_option
@json_option
def compact_command(words: str, clips_per_shard: int, now: bool, store: str, as_json: bool) -> None:
    """Merge small shards of a feature set and of its thumbnails; drop superseded rows and orphans.

    SET is DATASET/WORDS: a dataset, and words of the feature set's name. Other processes may read and write meanwhile.
    """
    from supportset.store.maintain.compact import SAFE_AGE, compact
    from supportset.store.read.catalog import locate_feature_set

    path = locate_feature_set(store, words).path
    summary = compact(
        path,
        clips_per_shard=clips_per_shard,
        safe_age=0.0 if now else SAFE_AGE,
        progress=Progress("compact", "shards"),
    )
    if as_json:
        print_json(summary.to_json())
    parts = [summary] if summary.thumbnails is None else [summary, summary.thumbnails]
    for part in parts:
        if not as_json:
            click.echo(
                f"{part.shards_before:,} shards are now {part.shards_after:,}, {part.rows_dropped:,} superseded "
                f"rows dropped, {len(part.orphans):,} orphaned files removed: {part.path}"
            )
        if part.unlisted:
            click.echo(
                f"note: {len(part.unlisted):,} shards without an index are left ({printable(part.unlisted[0])}): "
                "`store verify` says more",
                err=True,
            )
        if part.orphans_left:
            click.echo(
                f"note: {len(part.orphans_left):,} unfinished files are left, as a running writer may need them "
                f"({part.orphans_left[0]}): run again in an hour, or with --now if no process writes",
                err=True,
            )
    damaged = [line for part in parts for line in part.damaged]
    for line in damaged:
        click.echo(f"damaged: {line}", err=True)
    if damaged:
        raise SupportsetError(f"{path}: {len(damaged):,} damaged shards are left as they are: see above")


@click.command("rm")
@click.argument("words", metavar="SET")
@click.option(
    "--dataset", "whole", is_flag=True, help="SET is the name of a dataset: delete its tables and all its features."
)
@click.option("--thumbnails", "only_thumbnails", is_flag=True, help="Delete only the thumbnails of the set.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_option
@json_option
def rm_command(words: str, whole: bool, only_thumbnails: bool, yes: bool, store: str, as_json: bool) -> None:
    """Delete a feature set with its thumbnails, or with --dataset a dataset and all its features.

    SET is DATASET/WORDS: a dataset, and words of the feature set's name.
    """
    from supportset.store.files import open_folder
    from supportset.store.maintain.removal import (
        plan_dataset_removal,
        plan_removal,
        remove_dataset,
        remove_feature_set,
        thumbnails_of,
    )
    from supportset.store.read.catalog import locate_feature_set

    dataset, _, rest = words.strip().partition("/")
    if whole and rest.strip():
        raise UsageError(
            f"rm: {words!r} names a feature set: leave --dataset out, or name the dataset {dataset!r} alone"
        )
    if not whole and not rest.strip():
        raise UsageError(f"rm: {words!r} names no feature set: write {dataset}/WORDS, or --dataset to delete all of it")
    if whole and only_thumbnails:
        raise UsageError("rm: --thumbnails is for one feature set: leave --dataset out, and name the set")
    info = None if whole else locate_feature_set(store, words)
    if info is not None and only_thumbnails:
        info = thumbnails_of(info)
    plan = plan_removal(info) if info else plan_dataset_removal(store, dataset)
    if not yes:
        alone = "(thumbnails)" if only_thumbnails else "(features)"
        kind = f"with {len(plan.feature_sets)} feature sets" if whole else alone
        click.confirm(
            f"Delete {plan.path} {kind}, {plan.files:,} files, {plan.bytes / 1e6:,.1f} MB?", abort=True, err=True
        )
    done = remove_feature_set(info) if info else remove_dataset(store, dataset)
    if as_json:
        print_json(done.to_json())
    else:
        click.echo(f"deleted {done.path}: {done.files:,} files, {done.bytes / 1e6:,.1f} MB")
    if whole and open_folder(done.path).names():
        click.echo(f"note: {done.path} stays, as it holds files that are not the store's", err=True)


def _against_videos(
    info: FeatureSetInfo,
    store: str,
    videos_root: Path,
    count: int,
    seed: int | None,
    backbone: str | None,
    device: str,
    damaged: list[str],
) -> Reextraction:
    """Compare stored features with those that ``extract`` computes now."""
    from supportset.extract.pipeline.forward import pick_device
    from supportset.extract.recheck.recorded import load_recorded_backbone
    from supportset.extract.recheck.reextract import reextract
    from supportset.store.format.dataset import open_dataset

    place = pick_device(device)
    feature_set, dataset = info.open(), open_dataset(store, info.dataset)
    return reextract(
        feature_set,
        dataset,
        videos_root,
        load_recorded_backbone(feature_set, backbone),
        count,
        seed=secrets.randbelow(2**31) if seed is None else seed,
        device=place,
        exclude=damaged,
    )


def _print_report(what: str, report: VerifyReport, as_json: bool) -> None:
    count = sum(not problem.harmless for problem in report.problems)
    if not as_json:
        click.echo(
            f"{printable(what)}, {report.bytes / 1e6:,.1f} MB checked in {report.seconds:.1f} s: "
            f"{count or 'no'} problem{'s' if count != 1 else ''}"
        )
    for problem in report.problems:
        click.echo(f"{'note' if problem.harmless else problem.kind}: {problem}", err=True)
        _list_clips(problem.clips)


def _list_clips(clips: tuple[str, ...]) -> None:
    for clip_id in clips[:SHOWN]:
        click.echo(f"  {printable(clip_id)}", err=True)
    if len(clips) > SHOWN:
        click.echo(f"  ... and {len(clips) - SHOWN:,} more: --json lists them", err=True)
