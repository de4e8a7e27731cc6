"""``serve``: search on a page, and over REST."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from supportset.commands.options import device_option, index_option, pairing_of, store_option
from supportset.store.errors import UsageError, printable

if TYPE_CHECKING:
    from supportset.search.ingest import Ingest
    from supportset.search.library import Library


def _pairs(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Path]:
    """Read ``NAME=FOLDER``, or a FOLDER for the only library."""
    found = {}
    for value in values:
        name, equals, folder = value.rpartition("=")
        found[name if equals else ""] = Path(folder)
    return found


def _name_folders(libraries: Sequence[Library], folders: dict[str, Path]) -> None:
    """Give libraries the folders of --videos-root."""
    names = [library.name for library in libraries]
    for name, folder in folders.items():
        if name not in names and (name or len(names) > 1):
            raise UsageError(f"--videos-root {name}={folder}: write LIBRARY=FOLDER; libraries are {', '.join(names)}")
        if not folder.is_dir():
            raise UsageError(f"--videos-root {folder}: no such folder")
        libraries[names.index(name or names[0])].videos = folder


@click.command("serve")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option(
    "--zero-shot",
    "zero_shot",
    metavar="DATASET/FEATURES",
    multiple=True,
    help="Search these features with the text tower of the encoder that made them; several are several libraries.",
)
@click.option(
    "--videos",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Extract the videos of this folder, now and as they come, and search what is ready.",
)
@click.option(
    "--gone",
    type=click.Choice(["auto", "mark"]),
    default="auto",
    show_default=True,
    help="At the start, videos of --videos that are gone: mark drops them; auto waits if so many are gone that a disk "
    "may not be mounted.",
)
@click.option("--temperature", type=float, help="Of the weights of steps.  [default: 0.1]")
@click.option(
    "--pooling",
    type=click.Choice(["mean", "text-weighted"]),
    help="A clip is the mean of its steps, or each text weights the steps.  [default: mean]",
)
@click.option(
    "--template",
    "templates",
    metavar="TEXT",
    multiple=True,
    help="Text around the query, as 'a video of {}'; the embeddings of several are averaged.",
)
@click.option(
    "--encoder",
    metavar="NAME",
    help="The text encoder or encoder pair, by its path on this machine; with --videos also by its name.  "
    "[default: as recorded]",
)
@click.option(
    "--videos-root",
    metavar="[LIBRARY=]FOLDER",
    multiple=True,
    callback=_pairs,
    help="Folder of a library's videos.  [default: the one that the dataset was read from]",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Others than this machine's own need a token: 0.0.0.0 is every network.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0: any free port.")
@click.option(
    "--token",
    envvar="SUPPORTSET_TOKEN",
    help="What every request must show, also as SUPPORTSET_TOKEN.  [default: a random one, if --host needs one]",
)
@click.option("--open", "open_page", is_flag=True, help="Open the page in the browser.")
@click.option("-v", "--verbose", is_flag=True, help="Log each request.")
@index_option
@store_option
@device_option
def serve_command(
    runs: tuple[str, ...],
    zero_shot: tuple[str, ...],
    encoder: str | None,
    videos: Path | None,
    gone: Literal["auto", "mark"],
    videos_root: dict[str, Path],
    host: str,
    port: int,
    token: str | None,
    open_page: bool,
    verbose: bool,
    index: str,
    store: str,
    device: str,
    **options: Any,
) -> None:
    """Serve search on a page and over REST: your own --videos, trained RUNs, or features of encoder pairs."""
    pairing = pairing_of(options)
    if not runs and not zero_shot and videos is None:
        raise UsageError(
            "give a folder with --videos FOLDER, a RUN folder, or features of an encoder pair with "
            "--zero-shot DATASET/FEATURES"
        )
    if videos is not None and not videos.is_dir():
        raise UsageError(f"--videos {videos}: no such folder")
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
        import watchfiles  # noqa: F401
    except ImportError as error:
        raise UsageError(f"serve needs {error.name}: pip install 'supportset[serve]'") from None
    from supportset.extract.progress.interrupted import sigterm_interrupts
    from supportset.search import serving
    from supportset.search.index import check_index
    from supportset.search.library import Library

    check_index(index)
    listening = serving.listen(host, port)
    libraries = [Library.of_run(run, store, device=device, index=index) for run in runs]
    libraries += [
        Library.of_features(features, store, encoder=encoder, device=device, pairing=pairing, index=index)
        for features in zero_shot
    ]
    _name_folders(libraries, videos_root)
    ingest = None
    if videos is not None:
        library, ingest = _open_folder(videos, store, encoder, device, gone, pairing)
        library.index = index
        libraries.append(library)
    if token is None and serving.needs_token(host):
        token = serving.make_token()
    app = serving.build_app(libraries, token=token, status=None if ingest is None else ingest.status)
    url = serving.address(listening, host, token)
    if host == "0.0.0.0" and (name := serving.network_name()) is not None:
        click.echo(f"from other machines: {serving.address(listening, name, token)}", err=True)
    click.echo(url)
    with sigterm_interrupts(), ingest or nullcontext():
        serving.serve(app, listening, open_url=url if open_page else None, verbose=verbose)


def _open_folder(
    videos: Path, store: str, encoder: str | None, device: str, gone: Literal["auto", "mark"], pairing: dict[str, Any]
) -> tuple[Library, Ingest]:
    """The library of --videos, and what keeps it up to date."""
    from supportset.extract.backbones import DEFAULT_BACKBONE
    from supportset.search.ingest import Order
    from supportset.search.ingest.opening import name_of, open_folder

    name = name_of(videos, store)
    order = Order(str(videos.absolute()), store, name, encoder or DEFAULT_BACKBONE, device)
    return open_folder(order, tell=lambda line: click.echo(printable(line), err=True), gone=gone, pairing=pairing)
