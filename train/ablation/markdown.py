"""A study's table as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from supportset.evaluate.table import markdown_rows, p_cell, score_cell, short

_SHOWN = ("t2v/R@1", "t2v/R@5", "t2v/R@10", "v2t/R@1", "v2t/R@5", "v2t/R@10", "rsum")


def markdown(table: Mapping[str, Any]) -> str:
    """Format a table from `tabulate` as Markdown."""
    metric = table["metric"]
    lines = [f"# {table['study']}", ""]
    if table["note"]:
        lines += [table["note"], ""]
    lines += [*_facts(table), "", "## Scores", ""]
    lines += markdown_rows(
        ["variant", *(short(name) for name in _SHOWN), "median rank t2v, v2t", "seeds", "s a run"],
        [
            [
                row["name"],
                *(score_cell(row["scores"][name]) for name in _SHOWN),
                f"{row['median_rank']['t2v']:.1f}, {row['median_rank']['v2t']:.1f}",
                str(len(row["seeds"])),
                f"{row['seconds']:.0f}",
            ]
            for row in table["variants"]
        ],
    )
    lines += ["", "Mean over seeds, 95 % interval (bootstrap over clips and seeds) in brackets."]
    compared = [row for row in table["variants"] if row["difference"]]
    if compared:
        lines += ["", f"## Paired difference to `{compared[0]['difference']['to']}`", ""]
        lines += markdown_rows(
            [
                "variant",
                *(short(name) for name in _SHOWN),
                f"seeds better : worse ({short(metric)})",
                "p, sign test over seeds",
                "p, permutation over clips",
                "the same after Holm",
            ],
            [
                [
                    row["name"],
                    *(score_cell(row["difference"]["scores"][name], sign=True) for name in _SHOWN),
                    f"{row['difference']['seeds_better']} : {row['difference']['seeds_worse']}",
                    p_cell(row["difference"]["p_sign_over_seeds"]),
                    p_cell(row["difference"]["p_permutation_over_clips"]),
                    p_cell(row["difference"]["p_permutation_holm"]),
                ]
                for row in compared
            ],
        )
        lines += [
            "",
            f"p values are of {short(metric)}. The permutation test takes the trained models as they are; the "
            "intervals cover other seeds too.",
        ]
    lines += _attention(table)
    lines += _search(table)
    lines += ["", "## Variants", ""]
    for row in table["variants"]:
        changes = ", ".join(f"`{key} = {value}`" for key, value in row["changes"].items()) or "the base"
        lines.append(f"- **{row['name']}**: {changes}{_chosen(row)}")
    return "\n".join(lines) + "\n"


def _facts(table: Mapping[str, Any]) -> list[str]:
    gallery = " or ".join(f"{number:,}" for number in table["gallery"])
    where = (
        f"{table['folds']}-fold cross-validation by source video over {table['clips']:,} clips, ranks pooled; gallery "
        f"{gallery} clips in each fold"
        if table["folds"]
        else f"split {table['split']}, gallery {gallery} clips"
    )
    return [
        f"- data: {table['dataset']}, protocol `{table['protocol']}`, {where}, {table['queries']:,} queries",
        f"- seeds: {', '.join(map(str, table['seeds']))}",
        f"- model selection: {table['selection']}; never the reported clips",
        "- ranks: equal scores count against us; a clip without features is a miss",
        *(f"- note: {note}" for note in table["notes"]),
    ]


def _attention(table: Mapping[str, Any]) -> list[str]:
    found = [(row["name"], row["attention"]) for row in table["variants"]]
    return [
        "",
        "## Attention of captions over other clips",
        "",
        *markdown_rows(
            ["variant", "entropy (of uniform)", "effective clips", "own clip's weight", "shared words (of uniform)"],
            [
                [
                    name,
                    f"{each['entropy']:.2f} ({each['entropy_of_uniform']:.2f})",
                    f"{each['effective_clips']:.1f}",
                    f"{each['own_weight']:.3f}",
                    f"{100 * each['shared_words']:.1f} % ({100 * each['shared_words_of_uniform']:.1f} %)",
                ]
                for name, each in found
            ],
        ),
        "",
        "Of the reported clips, in groups of a training batch, each variant at its own T. Shared words: content words "
        "of a caption that are also said of the clips attended to, by weight. Own clip's weight: what it would have in "
        "the set.",
    ]


def _search(table: Mapping[str, Any]) -> list[str]:
    search = table["search"]
    if search is None:
        return []
    trials = search["trials"]
    each = f", for {'each fold' if search['folds'] == 'each' else 'the first fold'}" if search["folds"] else ""
    lines = [
        "",
        "## Search",
        "",
        f"{search['trials_per_variant']} trials for each variant{each}, judged by {search['judged_by']}.",
        "",
    ]
    return lines + markdown_rows(
        ["variant", "fold", "values", "validation"],
        [
            [
                trial["variant"],
                "" if trial["fold"] is None else str(trial["fold"]),
                ", ".join(f"{key} = {value}" for key, value in trial["values"].items()),
                f"{trial['validation']:.1f}",
            ]
            for trial in trials
        ],
    )


def _chosen(row: Mapping[str, Any]) -> str:
    if not row["chosen"]:
        return ""
    shown = [", ".join(f"`{key} = {value}`" for key, value in values.items()) for values in row["chosen"]]
    return "; chosen by the search: " + (shown[0] if len(shown) == 1 else " / ".join(shown) + " (fold by fold)")
