"""Plot a study: each variant's scores with intervals, and the differences to the first variant."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

_POINT, _SEED, _RULE = "#1c5d9f", "#9cc3e4", "#dde1e6"


def plot_png(table: Mapping[str, Any]) -> bytes:
    """PNG file with two panels: scores with every seed's value as a dot, and paired differences where there are any.

    Raises
    ------
    UsageError
        matplotlib is not installed.
    """
    from supportset.evaluate.report.figures import require_libraries

    require_libraries()
    import matplotlib
    from matplotlib.figure import Figure

    rows, metric = table["variants"], table["metric"]
    panels = [
        (f"{metric}, {table['dataset']} {table['split']}", [(row["name"], row["scores"][metric]) for row in rows])
    ]
    if compared := [row for row in rows if row["difference"]]:
        title = f"difference to {compared[0]['difference']['to']}"
        panels.append((title, [(row["name"], row["difference"]["scores"][metric]) for row in compared]))
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "agg", "text.parse_math": False}):
        figure = Figure(figsize=(5.6 * len(panels), 1.1 + 0.34 * len(rows)), layout="constrained")
        for place, (axes, (title, entries)) in enumerate(
            zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True)
        ):
            for height, (_, score) in enumerate(entries):
                axes.plot(score["interval"], [height, height], color=_POINT, lw=2)
                seeds = score.get("seeds", ())
                axes.plot(seeds, [height] * len(seeds), "o", color=_SEED, ms=4)
                axes.plot(score["mean"], height, "o", color=_POINT, ms=6)
            if place:
                axes.axvline(0, color="black", lw=0.8)
            axes.set_yticks(range(len(entries)), [name for name, _ in entries])
            axes.set_ylim(len(entries) - 0.5, -0.5)  # the first variant on top
            axes.set_title(title, loc="left", fontsize=11)
            axes.grid(axis="x", color=_RULE)
            axes.set_axisbelow(True)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()
