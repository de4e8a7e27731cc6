"""The JSON of an `Evaluation` as a table for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from supportset.evaluate.scores import ALL, CONVENTIONS

WAYS = {"t2v": "text to video", "v2t": "video to text"}


def describe(result: Mapping[str, Any]) -> str:
    """Format the JSON of an `Evaluation` as a table for people."""
    gallery = f"{result['gallery']:,} clips"
    if result["expected_gallery"] not in (None, result["gallery"]):
        gallery += f" (the protocol asks for {result['expected_gallery']:,}: not comparable)"
    convention = "" if result["captions"] == ALL else f", {CONVENTIONS[result['captions']]}"
    lines = [
        *([f"score     {result['name']}"] if result["name"] != result["protocol"] else []),
        f"protocol  {result['protocol']}, split {result['split']} of {result['dataset']}",
        f"gallery   {gallery}" + (f", listed in {result['gallery_list']}" if result["gallery_list"] else ""),
        f"queries   {result['queries']:,} captions{convention}",
        f"missing   {result['missing']:,}"
        + (" clips without features: counted as misses" if result["missing"] else "")
        + (f"; the videos of {result['left_out']:,} are gone" if result.get("left_out") else ""),
        *([f"selected  {result['selected_by']}"] if result["selected_by"] else []),
        "",
        _row("", result["t2v"]),
    ]
    for way, name in WAYS.items():
        if not result[way]:
            lines.append(f"{name}: not scored")
            continue
        lines.append(_row(name, {key: f"{value:.1f}" for key, value in result[way].items()}))
        bounds = {key: "{:.1f}-{:.1f}".format(*pair) for key, pair in result["intervals"][way].items()}
        lines.append(_row("  95 %", bounds))
    lines += ["", "R@k in percent; equal scores count against us. Intervals: bootstrap over clips."]
    if result["ranking"]:
        lines.append(
            "; ".join(
                f"{name}: " + ", ".join(f"{key} {value:.1f}" for key, value in result["ranking"][way].items())
                for way, name in WAYS.items()
                if way in result["ranking"]
            )
        )
    lines += [*_describe_labels(result["labels"]), *_describe_beside(result)]
    lines += [f"note: {note}" for note in result.get("notes", ())]
    for key, of, words in (
        ("verbatim_queries", "queries", "queries are word for word training captions"),
        ("shared_source_clips", "clips", "clips share their source video with a training clip"),
    ):
        if result["leakage"] and result["leakage"][key]:
            lines.append(f"leakage: {result['leakage'][key]:,} of {result['leakage'][of]:,} {words}")
    return "\n".join(lines)


def _describe_labels(labels: Mapping[str, Any] | None) -> list[str]:
    if labels is None:
        return []
    lines = ["", f"{labels['score']}: {labels['added']:,} more right clips for {labels['queries']:,} captions"]
    for way, name in WAYS.items():
        if labels[way]:
            lines.append(f"  {name}: " + ", ".join(f"{key} {value:.1f}" for key, value in labels[way].items()))
    if labels["own_judged_wrong"]:
        lines.append(f"  {labels['own_judged_wrong']:,} captions' own clips were judged wrong: they stay right")
    return lines


def _describe_beside(result: Mapping[str, Any]) -> list[str]:
    if not result["beside"]:
        return []
    lines = ["", "Beside the raw score, and not to be compared with raw scores:"]
    for each in result["beside"]:
        for way, name in WAYS.items():
            shown = ", ".join(f"{key} {each[way][key]:.1f}" for key in ("R@1", "R@5", "R@10", "MdR"))
            lines.append(f"  {each['label']}, {name}: {shown}")
    return lines


def _row(name: str, cells: Iterable[str] | dict[str, str]) -> str:
    shown = cells.values() if name and isinstance(cells, dict) else cells
    return f"{name:<14}" + "".join(f"{cell:>12}" for cell in shown)
