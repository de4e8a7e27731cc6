"""Figures of a report as SVG that takes its colours and fonts from the page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from supportset.evaluate.ranks import CUTS
from supportset.evaluate.report.content import Chart
from supportset.evaluate.results import Result
from supportset.store.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WAYS = {"t2v": "text to video", "v2t": "video to text"}

# Stand-ins for the page's custom properties: style.css gives them a value in light and in dark.
_INK, _MUTED, _RULE, _SERIES = "#010101", "#020202", "#030303", ("#040404", "#050505", "#060606", "#070707")
_PROPERTIES = {_INK: "ink", _MUTED: "muted", _RULE: "rule"} | {
    colour: f"series-{number}" for number, colour in enumerate(_SERIES, 1)
}
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 2, 1, 2)))
_LONGEST = 28  # characters of a name in a figure
_BINS = ((1, 1), (2, 5), (6, 10), (11, 50), (51, 100), (101, 500), (501, 1000), (1001, None))


def require_libraries() -> None:
    """Raise UsageError where the libraries of the extra `report` are absent."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(f"a report needs the package {error.name}: pip install 'supportset[report]'") from None


def recall_curves(scores: Sequence[Result]) -> str:
    """Recall over the number of clips looked at, of the first score in both directions and of baselines."""
    first = scores[0]
    ways = [way for way in WAYS if way in first.ways]
    drawn = [
        (WAYS[way], first.ways[way].ranks, {"color": colour, "lw": 1.8, "ls": dashes})
        for way, colour, dashes in zip(ways, _SERIES, _DASHES, strict=False)
    ]
    drawn += [
        (_short(score.name.partition(",")[0]), score.ways["t2v"].ranks, {"color": _MUTED, "lw": 1.2})
        for score in scores[1:]
        if "t2v" in score.ways
    ]
    gallery = first.facts["gallery"]
    top = max(gallery, first.facts["queries"] if "v2t" in first.ways else 1)
    with _axes("Queries whose right answer is among the first K, in percent") as (axes, said):
        for name, ranks, style in drawn:
            finite = np.sort(ranks[np.isfinite(ranks)])
            places = np.unique(np.concatenate([[1.0], finite, [float(top)]]))
            recall = 100 * np.searchsorted(finite, places, side="right") / len(ranks)
            axes.step(places, recall, where="post", label=name, **style)
            said.append(f"{name}: " + ", ".join(f"R@{cut} {100 * (ranks <= cut).mean():.1f}" for cut in CUTS))
        for place, way in enumerate(ways):
            for cut in CUTS:
                low, high = first.facts["intervals"][way][f"R@{cut}"]
                axes.plot([cut, cut], [low, high], color=_SERIES[place], lw=3.5, alpha=0.35, solid_capstyle="butt")
        axes.plot(*_chance(gallery), color=_MUTED, lw=0.9, ls=(0, (1, 2)), label="chance")
        axes.set(xscale="log", xlim=(1, top), ylim=(0, 102), xlabel="K, logarithmic", ylabel="recall at K, %")
        _plain_numbers(axes.xaxis)
        _legend(axes)
        return _svg(axes.figure, said)


def rank_histogram(score: Result) -> str:
    """How many queries have their right answer at which rank, in percent of the queries."""
    every = {way: direction.ranks for way, direction in score.ways.items()}
    worst = max(float(ranks[np.isfinite(ranks)].max(initial=1)) for ranks in every.values())
    bins = [(low, high) for low, high in _BINS if low <= worst]
    names = [_bin(low, high) for low, high in bins]
    missed = any(np.isinf(ranks).any() for ranks in every.values())
    names += ["miss"] if missed else []
    with _axes("Rank of the right answer, in percent of the queries") as (axes, said):
        width = 0.38
        for place, (way, ranks) in enumerate(every.items()):
            counts = [((ranks >= low) & (ranks <= (high or np.inf)) & np.isfinite(ranks)).sum() for low, high in bins]
            shares = 100 * np.asarray([*counts, *([np.isinf(ranks).sum()] if missed else [])]) / len(ranks)
            bars = axes.bar(np.arange(len(names)) + (place - 0.5) * width, shares, width * 0.94,
                            color=_SERIES[place], label=WAYS[way])  # fmt: skip
            axes.bar_label(bars, [f"{share:.0f}" if share >= 0.5 else "" for share in shares], padding=1, color=_MUTED,
                           fontsize=8)  # fmt: skip
            told = ", ".join(f"rank {name} {share:.1f}" for name, share in zip(names, shares, strict=True))
            said.append(f"{WAYS[way]}: {told}")
        axes.set_xticks(range(len(names)), names)
        axes.set(xlabel="rank of the right answer", ylabel="queries, %")
        axes.grid(False, axis="x")
        axes.margins(y=0.1)  # room for the numbers
        _legend(axes)
        return _svg(axes.figure, said)


def chart(content: Chart) -> str:
    """Curves of a training."""
    with _axes(content.title) as (axes, said):
        for curve, colour, dashes in zip(content.curves, _SERIES, _DASHES, strict=False):
            axes.plot(curve.steps, curve.values, color=colour, lw=1.6, ls=dashes, label=_short(curve.name))
            said.append(f"{curve.name}: from {curve.values[0]:.3g} to {curve.values[-1]:.3g}")
        axes.set(xlabel="step", ylabel=_short(content.unit))
        if content.log:
            axes.set_yscale("log")
            _plain_numbers(axes.yaxis)
        if content.level is not None:
            axes.axhline(content.level[0], color=_MUTED, lw=0.9, ls=(0, (1, 2)), label=_short(content.level[1]))
        if content.mark is not None:
            axes.axvline(content.mark[0], color=_MUTED, lw=0.9, label=_short(content.mark[1]))
        axes.margins(x=0.01)
        _legend(axes)
        return _svg(axes.figure, said)


@contextmanager
def _axes(description: str) -> Iterator[tuple[Axes, list[str]]]:
    """Axes in the page's style, and a list that begins the figure's description."""
    import matplotlib
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none", "text.parse_math": False, "svg.hashsalt": description, "font.size": 9.2,
        "text.color": _INK,
        "axes.edgecolor": _MUTED, "axes.labelcolor": _MUTED, "xtick.color": _MUTED, "ytick.color": _MUTED,
        "axes.linewidth": 0.7, "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
        "axes.grid": True, "axes.axisbelow": True, "grid.color": _RULE, "grid.linewidth": 0.7,
        "ytick.major.size": 0, "xtick.major.size": 3, "xtick.minor.size": 0, "ytick.minor.size": 0,
        "legend.frameon": False, "legend.labelcolor": _INK, "legend.fontsize": 9, "legend.handlelength": 2.2,
    }  # fmt: skip
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "svg", **style}):
        figure = Figure(figsize=(4.7, 3.0), layout="constrained")
        yield figure.add_subplot(), [description]


def _svg(figure: Figure | Any, said: Sequence[str]) -> str:
    """The figure as an element of a page: no ids but those referred to, no colours or fonts of its own."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    for colour, name in _PROPERTIES.items():
        text = text.replace(colour, f"var(--{name})")
    head, rest = text.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    label = escape(". ".join(said), quote=True)
    return f'<svg role="img" aria-label="{label}" {box.group()} xmlns:xlink="http://www.w3.org/1999/xlink">{rest}'


def _legend(axes: Axes) -> None:
    """Names of the lines above the plot, where they hide nothing."""
    names = axes.get_legend_handles_labels()[1]
    columns = min(3, len(names)) if sum(map(len, names)) <= 44 else 2 if max(map(len, names)) <= 22 else 1
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, borderaxespad=0.2, columnspacing=1.4)


def _chance(gallery: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    places = np.unique(np.geomspace(1, gallery, 60).round())
    return places, 100 * places / gallery


def _plain_numbers(axis: Any) -> None:
    """Label a logarithmic axis with 1, 2, 5, 10, ... in place of powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}" if value >= 1 else f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _short(name: str) -> str:
    """A name that leaves room for the figure."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def _bin(low: int, high: int | None) -> str:
    return f"{low}" if low == high else f"{low}+" if high is None else f"{low}\N{EN DASH}{high}"
