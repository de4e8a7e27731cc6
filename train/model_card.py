"""The model card of a run: what it was trained on, how it scores, and what must be known before it is used."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from supportset.evaluate.report.content import caveats
from supportset.train.config import Config
from supportset.train.open_run import first_split
from supportset.train.registry import CAPTIONING, CONTRASTIVE
from supportset.train.run_folder import RunFolder, to_toml
from supportset.train.run_results import read_evaluations

CARD = "README.md"


def write_card(folder: RunFolder) -> str:
    """Write ``README.md`` of a run folder anew from what the folder holds; the text."""
    text = model_card(folder)
    folder.write_text(CARD, text)
    return text


def model_card(folder: RunFolder) -> str:
    """The card of a run that has a model, as Markdown with the front matter that model hubs read.

    Raises
    ------
    UsageError
        No run, or no model yet.
    SupportsetError
        A file of the run is damaged.
    """
    config, record = folder.load_config(), folder.data_record()
    folder.model_folder()
    best = folder.read_best()
    parts = [
        _front(record),
        _what(config),
        _use(folder, config, record),
        _data(config, record),
        _scores(folder, best),
        _limits(config, record),
        _licences(config, record),
        f"## Configuration\n\n```toml\n{to_toml(config)}```\n",
    ]
    return "\n".join(parts)


def _front(record: Mapping[str, Any]) -> str:
    lines = ["---", "library_name: supportset", "pipeline_tag: feature-extraction", "tags:"]
    lines += ["- video-text-retrieval", "- support-set", f"datasets:\n- {json.dumps(record['dataset'])}", "---", ""]
    return "\n".join(lines)


def describe_method(config: Config) -> str:
    """How a run was trained, in one sentence."""
    contrastive = CONTRASTIVE.load(config.loss.contrastive).description.format_map(config.loss.model_dump())
    captioning = CAPTIONING.load(config.support.captioning).description
    if config.captions:
        captioning += f", weight {config.loss.caption_weight:g}"
    if config.support.bank:
        captioning += f", memory bank {config.support.bank}"
    return (
        f"Trained with a contrastive loss ({contrastive}) and {captioning} (support-set bottlenecks, Patrick et al., "
        "ICLR 2021)."
    )


def _what(config: Config) -> str:
    return (
        f"# {config.name}\n\nA video-text retrieval model over precomputed features: both sides are embedded in "
        f"{config.dim} dimensions and compared by cosine.\n{describe_method(config)}\n"
    )


def _use(folder: RunFolder, config: Config, record: Mapping[str, Any]) -> str:
    name, first = folder.path.name, first_split(record)
    split = f" --split {shlex.quote(first)}" if first else ""
    return (
        "## Use\n\n```bash\n"
        f'supportset search {shlex.quote(name)} "a red ball rolls left"    # over a feature store\n'
        f"supportset eval {shlex.quote(name)}{split}\n```\n\n```python\nimport supportset\n\n"
        f"run = supportset.open_run({json.dumps(name)})  # needs neither a store nor a network\n"
        f'texts = run.encode_text(["a red ball rolls left"])  # (1, {config.dim}), of unit length\n```\n\n'
        "It reads features of exactly the recipes below; a feature store checks that by their hashes.\n"
    )


def _data(config: Config, record: Mapping[str, Any]) -> str:
    train, validation = record["train"], record["validation"]
    lines = [
        "## Data",
        "",
        f"- dataset {record['dataset']}, protocol `{record['protocol']}`, split `{train['split']}`: {train['clips']:,} "
        f"clips, {train['captions']:,} captions",
    ]
    if "fold" in record:
        fold = record["fold"]
        lines.append(
            f"- fold {fold['number'] + 1} of {fold['of']} of a cross-validation: {fold['clips']:,} clips held out"
        )
    if train["clips_without_features"]:
        lines.append(f"- left out, without features: {len(train['clips_without_features']):,} training clips")
    if validation is None:
        lines.append("- nothing was held out for validation")
    else:
        how = "held out by source video" if validation["split"] == "holdout" else f"split `{validation['split']}`"
        lines.append(f"- validation: {validation['clips']:,} clips, {validation['captions']:,} captions, {how}")
    lines += ["", "| features | recipe hash | weights | sampling | dim |", "| --- | --- | --- | --- | --- |"]
    for backbone, recipe, weights, weights_hash, sampling, dim in feature_rows(record):
        lines.append(f"| {backbone} | `{recipe}` | {weights} (`{weights_hash}`) | {sampling} | {dim} |")
    return "\n".join(lines) + "\n"


def feature_rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The features that a run reads: backbone, recipe hash, weights, their hash, sampling, dim."""
    rows: list[tuple[str, ...]] = []
    for entry in [*record["features"], *([record["text_features"]] if record.get("text_features") else [])]:
        recipe = entry["recipe"]
        sampling = (
            ", ".join(
                f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in recipe["sampling"].items()
            )
            or "-"
        )
        backbone = f"{recipe['backbone']} ({recipe['kind']})"
        dim = str(recipe["dim"])
        rows.append((backbone, entry["hash"], recipe["weights"], recipe["weights_hash"], sampling, dim))
    return rows


def _scores(folder: RunFolder, best: Mapping[str, Any]) -> str:
    lines = [
        "## Scores",
        "",
        f"The model is of epoch {best['epoch']} (step {best['step']:,}), "
        + ("the last one." if best["select_by"] == "last" else f"the best by {best['select_by']} on validation."),
        "Ranks count ties against the model; a clip without features is a miss. Intervals: 95 %, bootstrap over clips.",
        "",
    ]
    current, older = read_evaluations(folder)
    if older:
        lines += [
            f"{older} scores in `eval/` are of an earlier model of this run and are not shown: run eval again.",
            "",
        ]
    if not current:
        lines.append("Not evaluated yet: `supportset eval RUN`, then `supportset report RUN`.")
        return "\n".join(lines) + "\n"
    lines += [
        "| protocol, split | gallery | queries | direction | R@1 | R@5 | R@10 | median rank |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    notes = []
    for result in current.values():
        gallery = f"{result['gallery']:,}"
        if result["expected_gallery"] not in (None, result["gallery"]):
            gallery += f" (the protocol asks for {result['expected_gallery']:,}: not comparable)"
        where = f"{result['dataset']} `{result['protocol']}`, {result['split']}"
        for way, words in (("t2v", "text to video"), ("v2t", "video to text")):
            cells = [
                _with_interval(result[way][name], result["intervals"][way][name]) for name in ("R@1", "R@5", "R@10")
            ]
            queries = result["queries"] if way == "t2v" else "clips"
            lines.append(
                f"| {where} | {gallery} | {queries if isinstance(queries, str) else f'{queries:,}'} | {words} | "
                f"{' | '.join(cells)} | {result[way]['MdR']:g} |"
            )
        notes += [f"- {where}: {caveat}" for caveat in caveats(result)]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def _with_interval(value: float, bounds: list[float]) -> str:
    return f"{value:.1f} ({bounds[0]:.1f}-{bounds[1]:.1f})"


def _limits(config: Config, record: Mapping[str, Any]) -> str:
    tower = config.text.encoder == "tower"
    cut = "at the text tower's own length" if tower else f"after {config.data.max_tokens} tokens"
    lines = [
        "## Limits",
        "",
        f"- It has seen the captions and clips of {record['dataset']} alone: what these show, and how they say it, is "
        "what it knows, their biases included.",
        f"- Captions are cut {cut}, clips thinned to {config.data.max_steps} steps. Vision only: no audio, no speech.",
        "- Cosines order the clips for one query; they are no probabilities and are not to be compared across models.",
        "- One run with one seed: with 1,000 queries one R@1 has a standard error of about 1.4 points.",
    ]
    return "\n".join(lines) + "\n"


def _licences(config: Config, record: Mapping[str, Any]) -> str:
    weights = [f"the features' backbone {entry['recipe']['backbone']}" for entry in record["features"]]
    if record.get("text_features"):
        weights.append(f"the text features' encoder {record['text_features']['recipe']['backbone']}")
    elif config.text.encoder == "tower":
        weights.append("its text tower")
    elif config.text.encoder in ("t5", "hf"):
        weights.append(f"the text encoder {config.text.name}")
    if config.captions and config.decoder.kind == "t5":
        weights.append(f"the caption decoder {config.decoder.name}")
    return (
        "## Licences\n\n"
        f"This model derives from {', '.join(weights)}, and from the captions and videos of {record['dataset']}. "
        "Each has terms of its own, which bind whoever shares the model; none is known to the program that wrote this "
        "card. Look them up before you share it.\n"
    )
