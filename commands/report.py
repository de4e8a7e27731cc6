"""``report``: a page and a model card about a run, or an analysis of its support set."""

from __future__ import annotations

from pathlib import Path

import click

from supportset.commands.options import device_option, json_option, print_json, store_option
from supportset.store.errors import printable_lines


@click.command("report")
@click.argument("run", type=click.Path())
@click.option("--card", "card_only", is_flag=True, help="Write and print only the model card; no store is needed.")
@click.option("--videos", type=click.Path(path_type=Path), help="Folder of the videos: shows frames of clips.")
@click.option(
    "--zero-shot", metavar="DATASET/FEATURES", help="Compare with these features, by their encoder's own text tower."
)
@click.option(
    "--encoder",
    metavar="NAME",
    help="Of --zero-shot: path of the encoder pair on this machine.  [default: as recorded]",
)
@click.option(
    "--examples", type=click.IntRange(min=0), default=5, show_default=True, help="Queries shown of each kind."
)
@click.option(
    "--push", metavar="OWNER/NAME", help="Upload model, card and page to a model hub, without frames of videos."
)
@click.option("--private", is_flag=True, help="Of --push: a repository that is made is private.")
@click.option("--support", is_flag=True, help="Analyse the attention of a split's captions, instead of the page.")
@click.option("--split", help="Of --support: a split of the run's protocol, or 'holdout'.  [default: test]")
@click.option(
    "--temperature",
    type=float,
    multiple=True,
    help="Of --support: also analyse the same embeddings at this temperature; repeatable.",
)
@click.option("--size", type=int, help="Of --support: clips of a support set.  [default: the run's batch]")
@store_option
@device_option
@json_option
def report_command(
    run: str,
    card_only: bool,
    videos: Path | None,
    zero_shot: str | None,
    encoder: str | None,
    examples: int,
    push: str | None,
    private: bool,
    support: bool,
    split: str | None,
    temperature: tuple[float, ...],
    size: int | None,
    store: str,
    device: str,
    as_json: bool,
) -> None:
    """Write RUN's report, one HTML page (report.html), and its model card (README.md).

    In place of a run, RUN may be what `eval --out` wrote: scores of any model; the page is written beside them.

    The page has scores with intervals, figures, the best and the worst queries, what captions are written from, and
    what must be known before a score is believed. Without the store it has what the run folder holds. It needs the
    extra `report`.

    With --support: how sharp the attention of captions over other clips is, and whether these clips have similar
    captions. With a decoder also: how well it writes captions from their own attention weights and from others'.
    The analysis is written to RUN/eval/.
    """
    if support:
        from supportset.train.analysis.support_analysis import describe, support_report

        result = support_report(run, store, split=split, temperatures=temperature, size=size, device=device)
        if as_json:
            print_json(result)
        else:
            click.echo(printable_lines(describe(result)))
        return
    from supportset.train.model_card import CARD, write_card
    from supportset.train.run_folder import RunFolder

    if push and videos:
        raise click.UsageError("--push uploads no frames of videos: leave out --videos")
    folder = RunFolder(run)
    if not folder.started and Path(run).exists():
        if card_only or videos or zero_shot or push:
            raise click.UsageError(f"{run} is not a run folder: --card, --videos, --zero-shot and --push are for runs")
        path = _report_result(Path(run))
        if as_json:
            print_json({"run": None, "card": None, "files": [str(path)], "url": None})
        click.echo(f"written: {path}", err=True)
        return
    written = [folder.path / CARD]
    if not card_only:
        from supportset.evaluate.report.page import render
        from supportset.search.run_report import REPORT, run_report

        page = render(
            run_report(
                run, store, videos=videos, zero_shot=zero_shot, encoder=encoder, examples=examples, device=device
            )
        )
        folder.write_text(REPORT, page)
        written.append(folder.path / REPORT)
    card = write_card(folder)
    url = None
    if push:
        from supportset.train.publish import publish

        # With --card a page from earlier, which may show frames, stays here.
        url = publish(folder, push, page=None if card_only else written[-1].name, private=private)
    if as_json:
        print_json({"run": run, "card": card, "files": [str(path) for path in written], "url": url})
    elif card_only:
        click.echo(printable_lines(card))
    for path in written:
        click.echo(f"written: {path}", err=True)
    if url:
        click.echo(f"uploaded: {url}", err=True)


def _report_result(path: Path) -> Path:
    """Write the page of a result that belongs to no run, beside it."""
    from supportset import __version__
    from supportset.evaluate.report.content import Report
    from supportset.evaluate.report.page import render
    from supportset.evaluate.results import read_result
    from supportset.store.files import LocalFolder

    result = read_result(path)
    page = render(Report.of_result(result, made=f"Made by supportset {__version__} from {path.name}."))
    out = (path if path.is_dir() else path.parent) / "report.html"
    LocalFolder(out.parent).put({out.name: [page.encode("utf-8")]})
    return out
