"""A feature set told in words, for ``store show``: its recipe, its clips' outcomes, its size."""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc

from store.feature_set import FeatureSet


def feature_set_json(feature_set: FeatureSet) -> dict[str, Any]:
    """Card, outcomes and size of a feature set, as JSON.

    Returns
    -------
    dict
        ``path``, ``card`` (as in ``card.json``), ``status`` (clips by outcome), ``clips`` (with features), ``steps``
        (rows of features in all), ``bytes`` (of values), ``failures`` (``clip_id``, ``status``, ``message``).
    """
    rows = feature_set.rows()
    failed = rows.filter(pc.not_equal(rows["status"], "ok")).select(["clip_id", "status", "message"])
    steps = int(feature_set.lengths(feature_set.clip_ids).sum())
    return {
        "path": str(feature_set.path),
        "card": feature_set.card.to_json(),
        "status": feature_set.statuses(),
        "clips": len(feature_set),
        "steps": steps,
        "bytes": steps * feature_set.dim * feature_set.dtype.itemsize,
        "failures": failed.to_pylist(),
    }


def describe_feature_set(feature_set: FeatureSet, failures: int = 10) -> str:
    """The same in words; at most ``failures`` clips without features are listed."""
    facts = feature_set_json(feature_set)
    recipe = facts["card"]["recipe"]
    lines = [facts["path"], "", "recipe"]
    lines += [f"  {key:<13} {_in_words(value)}" for key, value in recipe.items()]
    lines += [f"  {'hash':<13} {feature_set.card.recipe.hash}", "made with"]
    lines += [f"  {key:<13} {_in_words(value)}" for key, value in facts["card"]["provenance"].items()]
    clips, steps = facts["clips"], facts["steps"]
    outcomes = ", ".join(f"{count:,} {status}" for status, count in facts["status"].items())
    lines += [
        "content",
        f"  clips         {outcomes or 'none yet'}",
        f"  steps         {steps:,}" + (f" ({steps / clips:.1f} a clip)" if clips else ""),
        f"  size          {facts['bytes'] / 1e6:,.1f} MB",
    ]
    if facts["failures"] and failures > 0:
        lines.append("without features")
        lines += [f"  {row['clip_id']}: {row['status']}, {row['message']}" for row in facts["failures"][:failures]]
        if (more := len(facts["failures"]) - failures) > 0:
            lines.append(f"  ... and {more:,} more: --failures {len(facts['failures'])}, or --json")
    return "\n".join(lines)


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_in_words(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        return " ".join(_in_words(inner) for inner in value)
    return str(value)
