"""``store import``, ``export`` and ``convert``."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from supportset.commands.options import ShardFormatName, Share, json_option, print_json, store_option
from supportset.store.errors import SupportsetError, UsageError, printable

SHOWN = 10  # failed clips that are listed; --json has all


class KeyValue(click.ParamType):
    """``key=value``, as a pair."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Split at the first ``=``, or fail and name the form."""
        if isinstance(value, tuple):
            return value
        key, equals, said = str(value).partition("=")
        if not (key.strip() and equals and said.strip()):
            self.fail(f"{value!r} is not of the form key=value, such as resize=224", param, ctx)
        return key.strip(), said.strip()


class Progress:
    """Prints progress on standard error, every few seconds."""

    def __init__(self, verb: str, noun: str = "clips", every: float = 5.0) -> None:
        self._verb = verb
        self._noun = noun
        self._every = every
        self._next = time.monotonic() + every

    def __call__(self, done: int, total: int) -> None:
        """Print it if it is time."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every
            click.echo(f"{self._verb}: {done:,} of {total:,} {self._noun} done", err=True)


@click.command("import")
@click.argument("dataset")
@click.argument("source", type=click.Path())
@click.option("--name", required=True, help="Name of the features: the model that computed them, such as S3D.")
@click.option(
    "--state",
    "stated",
    type=KeyValue(),
    multiple=True,
    help="Known field of the recipe, such as resize=224; repeatable.",
)
@click.option(
    "--kind",
    type=click.Choice(["video", "text"]),
    default="video",
    show_default=True,
    help="text: ids are of captions.",
)
@click.option("--fps", type=float, help="Steps a second, where they are evenly spaced.")
@click.option(
    "--timestamps", type=click.Path(), help="The steps' (T, 2) seconds a clip, in any form that SOURCE may have."
)
@click.option("--timestamps-key", help="--key of --timestamps.")
@click.option("--dtype", type=click.Choice(["float16", "float32"]), help="Round to this.  [default: as they are]")
@click.option("--dim", type=click.IntRange(1), help="Features a step.  [default: as most of the first clips have it]")
@click.option("--trim-zeros", is_flag=True, help="Cut rows of zeros at the end of clips: padding to a fixed length.")
@click.option("--key", help="Name of the array, where a clip's file or group holds several.")
@click.option(
    "--id-list",
    type=click.Path(dir_okay=False),
    help="File of clip ids, one a line: of an array's rows, or the only ones to take.",
)
@click.option(
    "--id-from",
    type=click.Choice(["stem", "path"]),
    default="stem",
    show_default=True,
    help="Clip id: the last part of a name, or all of it.",
)
@click.option(
    "--follow-links", is_flag=True, help="Let an HDF5 file read other files: links, external and virtual data."
)
@click.option(
    "--max-failures",
    type=Share(),
    default="5%",
    show_default=True,
    help="More of the clips failed: exit code 1.",
)
@click.option(
    "--strip", default="", metavar="TEXT", help="What ends each name and is no part of the id, such as _resnet or .mp4."
)
@click.option("--replace", is_flag=True, help="Take features that differ from those the store holds of the same clips.")
@click.option("--strict", is_flag=True, help="Exit with 1 when anything at all failed or is missing.")
@click.option("--format", "shard_format", type=ShardFormatName(), default="zarr", show_default=True)
@store_option
@json_option
def import_command(
    dataset: str,
    source: str,
    name: str,
    stated: tuple[tuple[str, str], ...],
    kind: str,
    fps: float | None,
    timestamps: str | None,
    timestamps_key: str | None,
    dtype: str | None,
    dim: int | None,
    trim_zeros: bool,
    key: str | None,
    id_list: str | None,
    id_from: str,
    follow_links: bool,
    max_failures: float,
    strip: str,
    replace: bool,
    strict: bool,
    shard_format: str,
    store: str,
    as_json: bool,
) -> None:
    """Import features that another program computed, as features of DATASET.

    SOURCE is a folder of one .npy, .npz or .pt file a clip (at any depth); an HDF5 file of one dataset, or one group,
    a clip; an .npz, .safetensors or .pt file of one array a clip; or one .npy array (N, D) or (N, T, D) with an id
    list. A clip's array is (T, D), or (D,). Values are stored bit for bit. Run again, it imports only new clips.
    """
    from supportset.store.transfer.import_card import ImportOptions
    from supportset.store.transfer.importing import import_features
    from supportset.store.transfer.opening import open_source
    from supportset.store.transfer.sources import Naming

    started = time.monotonic()
    if len(dict(stated)) < len(stated):
        raise UsageError(f"--state: {Counter(key for key, _ in stated).most_common(1)[0][0]!r} is stated twice")
    options = ImportOptions(name, kind, dict(stated), fps, dim, dtype, trim_zeros, replace, shard_format)
    naming = Naming(id_from, strip, Path(id_list) if id_list else None, key, follow_links)
    features = open_source(source, naming)
    times = open_source(timestamps, Naming(id_from, strip, None, timestamps_key, follow_links)) if timestamps else None
    summary = import_features(store, dataset, features, options, times=times, progress=Progress("import"))
    held = summary.imported + summary.unchanged
    if as_json:
        print_json({**summary.to_json(), "seconds": round(time.monotonic() - started, 1)})
    else:
        said = f"{summary.imported:,} clips imported" + (
            f", {summary.unchanged:,} were there" if summary.unchanged else ""
        )
        click.echo(f"{said} in {time.monotonic() - started:.1f} s: {dataset}/{summary.feature_set}")
    _tell_failures(summary.failures)
    for note in summary.notes:
        click.echo(printable(f"note: {note}"), err=True)
    if not held:
        raise SupportsetError(f"{source}: not one clip could be imported: see the messages above")
    if strict and (summary.failures or summary.lacking):
        raise SupportsetError(
            f"{source}: not complete (--strict): failed {len(summary.failures):,}, "
            f"clips of the dataset without features {summary.lacking or 0:,}"
        )
    total = held + len(summary.failures)
    if len(summary.failures) > max_failures * total:
        raise SupportsetError(
            f"{source}: {len(summary.failures):,} of {total:,} clips failed, more than {max_failures:.0%} "
            "(--max-failures): see the messages above"
        )


@click.command("export")
@click.argument("words", metavar="SET")
@click.argument("dest", type=click.Path())
@click.option(
    "--to",
    "form",
    required=True,
    type=click.Choice(["npy", "npz", "pt", "hdf5", "array"]),
    help="npy, npz, pt: a folder of one file a clip; hdf5: a file; array: a folder of values.npy and ids.txt.",
)
@click.option(
    "--timestamps", type=click.Path(), help="Where to write the steps' times, in the same form.  [default: not]"
)
@store_option
@json_option
def export_command(words: str, dest: str, form: str, timestamps: str | None, store: str, as_json: bool) -> None:
    """Export a feature set to DEST in a form that other programs read, bit for bit.

    SET is DATASET/WORDS: a dataset, and words of the feature set's name. DEST must not exist yet, or be an
    empty folder. `store import` reads each form back.
    """
    from supportset.store.read.catalog import find_feature_set
    from supportset.store.transfer.exporting import export_features

    features = find_feature_set(store, words)
    summary = export_features(features, dest, form, timestamps=timestamps, progress=Progress("export"))
    if as_json:
        print_json(summary.to_json())
        return
    click.echo(f"{summary.clips:,} clips, {summary.bytes / 1e6:,.1f} MB: {dest} ({summary.layout})")
    if summary.left_out:
        counts = ", ".join(f"{count:,} {status}" for status, count in summary.left_out.items())
        click.echo(f"note: clips without features are left out: {counts}", err=True)


@click.command("convert")
@click.argument("words", metavar="SET")
@click.option("--to", "--format", "shard_format", required=True, type=ShardFormatName(), help="Format of the shards.")
@click.option(
    "--compress",
    metavar="CODEC[:LEVEL]",
    default="none",
    show_default=True,
    help="Make archives, of zstd (zarr) or gzip (hdf5), level 1 to 9: smaller, slower. none: back to plain ones.",
)
@click.option(
    "--keep-old", is_flag=True, help="Leave the old shards for `store compact`, while other processes read them."
)
@store_option
@json_option
def convert_command(words: str, shard_format: str, compress: str, keep_old: bool, store: str, as_json: bool) -> None:
    """Convert the shards of a feature set to another format, in place and bit for bit.

    SET is DATASET/WORDS: a dataset, and words of the feature set's name.

    With --compress they become archives, which zarr-python and h5py open without any plugin. A reader unpacks them into
    memory; `store compact` does not merge them. Thumbnails change their format, and are not compressed.
    """
    from supportset.store.read.catalog import find_feature_set
    from supportset.store.transfer.convert import convert_feature_set

    path = find_feature_set(store, words).path
    summary = convert_feature_set(
        path, shard_format, compress=compress, keep_old=keep_old, progress=Progress("convert", "shards")
    )
    if as_json:
        print_json(summary.to_json())
    parts = [summary] if summary.thumbnails is None else [summary, summary.thumbnails]
    for part in parts if not as_json else ():
        packed = "" if part.compression == "none" else f" ({part.compression})"
        click.echo(
            f"{part.converted:,} shards with {part.clips:,} clips converted to {shard_format}{packed}, "
            f"{part.bytes_before / 1e6:,.1f} MB are now {part.bytes_after / 1e6:,.1f} MB, "
            f"{part.already:,} were so already, {part.removed:,} old ones removed: {part.path}"
        )
    damaged = [line for part in parts for line in part.damaged]
    for line in damaged:
        click.echo(f"damaged: {line}", err=True)
    if damaged:
        raise SupportsetError(f"{path}: {len(damaged):,} damaged shards are left as they are: see above")


def _tell_failures(failures: list[tuple[str, str, str]]) -> None:
    """Failed clips, counted and listed, on standard error."""
    if not failures:
        return
    counts = ", ".join(f"{count:,} {status}" for status, count in Counter(status for _, status, _ in failures).items())
    click.echo(f"{len(failures):,} clips failed: {counts}", err=True)
    for clip_id, status, message in failures[:SHOWN]:
        click.echo(printable(f"  {clip_id}: {status}, {message}"), err=True)
    if len(failures) > SHOWN:
        click.echo(f"  ... and {len(failures) - SHOWN:,} more: `store show` and --json list them", err=True)
