"""Description of a feature set for ``store show``: recipe, outcome of the clips, size."""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc

from supportset.store.errors import printable
from supportset.store.format.index import has_features
from supportset.store.format.thumbnails import has_thumbnails, thumbnails_path
from supportset.store.read.feature_set import FeatureSet


def feature_set_json(feature_set: FeatureSet) -> dict[str, Any]:
    """Describe a feature set as JSON: card, outcomes and size.

    Returns
    -------
    dict
        ``path``, ``card`` (as in ``card.json``), ``status`` (clips by outcome), ``clips`` (with features), ``steps``
        (rows of features in all), ``bytes`` (of values), ``failures`` and ``remarks`` (``clip_id``, ``status``,
        ``message`` of clips without features, and of clips with features and a reservation, such as damage), and
        ``thumbnails`` (``clips`` that have some, ``bytes``; null without). In a set of kind ``text`` the clips are
        captions and the steps tokens, under the same keys.
    """
    rows = feature_set.rows()
    about = rows.select(["clip_id", "status", "message"])
    found = has_features(rows)
    steps = int(feature_set.lengths(feature_set.clip_ids).sum())
    return {
        "path": str(feature_set.path),
        "card": feature_set.card.to_json(),
        "status": feature_set.statuses(),
        "clips": len(feature_set),
        "steps": steps,
        "bytes": steps * feature_set.dim * feature_set.dtype.itemsize,
        "failures": about.filter(pc.invert(found)).to_pylist(),
        "remarks": about.filter(pc.and_(found, pc.not_equal(pc.fill_null(rows["message"], ""), ""))).to_pylist(),
        "thumbnails": _thumbnails(feature_set),
    }


def describe_feature_set(feature_set: FeatureSet, failures: int = 10) -> str:
    """Describe a feature set as text, with at most ``failures`` clips that have no features, or remarks."""
    facts = feature_set_json(feature_set)
    recipe = facts["card"]["recipe"]
    lines = [facts["path"], "", "recipe"]
    lines += [f"  {key:<13} {_as_text(value)}" for key, value in recipe.items()]
    lines += [f"  {'hash':<13} {feature_set.card.recipe.hash}", "made with"]
    lines += [f"  {key:<13} {_as_text(value)}" for key, value in facts["card"]["provenance"].items()]
    clips, steps = facts["clips"], facts["steps"]
    one, several, rows = ("caption", "captions", "tokens") if recipe["kind"] == "text" else ("clip", "clips", "steps")
    outcomes = ", ".join(f"{count:,} {status}" for status, count in facts["status"].items())
    lines += [
        "content",
        f"  {several:<13} {outcomes or 'none yet'}",
        f"  {rows:<13} {steps:,}" + (f" ({steps / clips:.1f} a {one})" if clips else ""),
        f"  size          {facts['bytes'] / 1e6:,.1f} MB",
    ]
    if facts["thumbnails"] is not None:
        lines.append(
            "  thumbnails    {clips:,} clips, {megabytes:,.1f} MB".format(
                clips=facts["thumbnails"]["clips"], megabytes=facts["thumbnails"]["bytes"] / 1e6
            )
        )
    for title, listed in (("without features", facts["failures"]), ("with remarks", facts["remarks"])):
        if not listed or failures < 1:
            continue
        lines.append(f"{title}: {len(listed):,} {several}")
        lines += [f"  {row['clip_id']}: {row['status']}, {row['message']}" for row in listed[:failures]]
        if (more := len(listed) - failures) > 0:
            lines.append(f"  ... and {more:,} more: --failures {len(listed)}, or --json")
    return "\n".join(map(printable, lines))


def _thumbnails(feature_set: FeatureSet) -> dict[str, int] | None:
    if not has_thumbnails(feature_set.path):
        return None
    found = FeatureSet.open(thumbnails_path(feature_set.path))
    return {"clips": len(found), "bytes": int(found.lengths(found.clip_ids).sum()) * found.dim}


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_as_text(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        return " ".join(_as_text(inner) for inner in value)
    return str(value)
