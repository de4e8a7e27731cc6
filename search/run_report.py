"""Gather what the report of a run shows: its scores, queries, support sets and training."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from supportset import __version__
from supportset.evaluate.ranks import cosine_scores, unit_rows
from supportset.evaluate.report.content import Chart, Clip, Query, Report, Section, Table, caveats
from supportset.evaluate.results import Result, read_result
from supportset.evaluate.scores import ALL
from supportset.evaluate.splits import source_videos
from supportset.search.report_pictures import Pictures
from supportset.store.errors import SupportsetError, UsageError
from supportset.store.format.dataset import Caption
from supportset.train.model_card import describe_method, feature_rows
from supportset.train.open_run import RunOnStore, first_split, open_run_on_store, split_in_tables
from supportset.train.run_folder import RunFolder, to_toml
from supportset.train.run_results import read_evaluations, training_charts

REPORT = "report.html"
_LABEL = "{}\N{NO-BREAK SPACE}\N{MIDDLE DOT}\N{NO-BREAK SPACE}{:.2f}"  # place and score of a clip, on one line
_FOUND, _CONSIDERED, _LONGEST = 3, 5000, 160


def run_report(
    run: str | Path,
    store: str | Path = "features",
    *,
    videos: Path | None = None,
    zero_shot: str | None = None,
    encoder: str | None = None,
    examples: int = 5,
    device: str = "auto",
) -> Report:
    """Gather the report of a run.

    Parameters
    ----------
    run : str or Path
        Run folder with a model.
    store : str or Path
        The feature store that the run was trained on. Where it is absent, the report has what the run folder holds, and
        says so.
    videos : Path, optional
        Folder of the videos, for pictures of clips.
    zero_shot : str, optional
        Feature set to compare with: the same split, scored by the text tower that belongs to the features.
    encoder : str, optional
        Of ``zero_shot``: path of the encoder pair.
    examples : int
        Queries and captions to show, of each kind.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises
    ------
    UsageError
        No run, no model yet; with ``zero_shot``, what `open_zero_shot` raises; no folder ``videos``.
    """
    folder = RunFolder(run)
    config, record = folder.load_config(), folder.data_record()
    folder.model_folder()
    best = folder.read_best()
    warnings: list[str] = []
    opened: RunOnStore | None = None
    try:
        opened = open_run_on_store(run, store)
    except SupportsetError as error:
        if zero_shot or videos:
            raise
        warnings.append(f"The feature store could not be opened, so no queries and support sets are shown: {error}")
    found, older = read_evaluations(folder)
    if not found and opened is not None:
        from supportset.train.evaluate import evaluate

        evaluate(run, split=first_split(record), store=store, device=device)
        found, older = read_evaluations(folder)
    scores = [replace(read_result(folder.eval / f"{stem}.json"), name=f"{config.name}, trained") for stem in found]
    plain = {"dataset": config.data.dataset, "protocol": config.data.protocol, "captions": ALL, "gallery_list": None}

    def own(score: Result) -> bool:
        return all(score.facts.get(key) == value for key, value in plain.items())

    scores.sort(key=lambda score: (not own(score), score.facts["split"] != "test"))
    if older:
        warnings.append(f"{older} scores in eval/ are of an earlier model of this run and are not shown.")
    for score in scores:
        warnings += [f"{score.facts['protocol']}, {score.facts['split']}: {each}." for each in caveats(score.facts)]
    if zero_shot:
        if not scores:
            raise UsageError(f"{folder.path}: not evaluated, so there is nothing to compare with --zero-shot")
        scores.insert(1, _zero_shot(zero_shot, encoder, scores[0].facts, folder, store, device))
    charts = training_charts(folder)
    sections = []
    if opened is not None and scores and own(scores[0]):
        clips = _Clips(opened, scores[0].facts["split"], videos, device)
        asked = scores[0].ways["t2v"]
        sections.append(clips.queries(dict(zip(asked.queries, asked.ranks.tolist(), strict=True)), examples))
        if config.captions and len(clips.part.present) > 1:
            sections.append(clips.support(examples, [charts.pop("entropy")] if "entropy" in charts else []))
        if clips.pictures.failed:
            warnings.append(f"{len(clips.pictures.failed)} of the clips shown have no readable video below {videos}.")
    selected = f"The model is of epoch {best['epoch']}, step {best['step']:,}, "
    selected += "the last one." if best["select_by"] == "last" else f"the best by {best['select_by']} on validation."
    sections += [
        Section("Training", [selected], [*charts.values()]),
        Section("Data", tables=[_features(record)]),
        Section("Configuration", code=to_toml(config)),
    ]
    return Report(
        title=config.name,
        summary=describe_method(config),
        facts=_facts(record, config.seed, scores),
        scores=scores,
        warnings=warnings,
        sections=sections,
        made=f"Made by supportset {__version__} from {folder.path.name} on {time.strftime('%Y-%m-%d')}. Model "
        f"{folder.model_hash().partition(':')[0]}.",
    )


def _zero_shot(
    features: str, encoder: str | None, like: Mapping[str, Any], run: RunFolder, store: str | Path, device: str
) -> Result:
    from supportset.search.zero_shot import open_zero_shot

    retriever = open_zero_shot(features, store, encoder=encoder, device=device)
    if retriever.dataset.name != like["dataset"]:
        raise UsageError(
            f"--zero-shot {features}: features of {retriever.dataset.name!r}, while the run is scored on "
            f"{like['dataset']!r}: name features of that dataset"
        )
    split, only = split_in_tables(run, like["split"])
    found = retriever.evaluation(like["protocol"], split, only=only)
    return Result.of(f"zero-shot, {retriever.tower.name}", found)


def _facts(record: Mapping[str, Any], seed: int, scores: list[Result]) -> dict[str, str]:
    facts = {
        "dataset": record["dataset"],
        "protocol": record["protocol"],
        "features": ", ".join(entry["recipe"]["backbone"] for entry in record["features"]),
        "trained on": f"{record['train']['clips']:,} clips, {record['train']['captions']:,} captions",
        "seed": f"{seed}",
    }
    return facts | ({"evaluated on": scores[0].facts["name"]} if scores else {})


def _features(record: Mapping[str, Any]) -> Table:
    head = ("features", "recipe hash", "weights", "their hash", "sampling", "dim")
    rows = [(*row[:3], row[3].rpartition(":")[2][:12], *row[4:]) for row in feature_rows(record)]
    return Table("Features that the run reads, by recipe", head, rows, numbers=("dim",))


class _Clips:
    """Queries and clips of a split, embedded by the run."""

    def __init__(self, opened: RunOnStore, split: str, videos: Path | None, device: str) -> None:
        from supportset.train.encode import encode_gallery, encode_tokens, read_text

        config, tables = opened.config, opened.dataset
        part = opened.read_split(config.data.protocol, split)
        self.opened, self.part, self.model = opened, part, opened.load_model(device)
        tokens = read_text(self.model, part.captions, config.data.max_tokens, opened.text)
        self.text = unit_rows(encode_tokens(self.model, tokens))
        self.video = unit_rows(encode_gallery(self.model, opened.features, part.present, config.data.max_steps))
        self.said: dict[str, str] = {}
        for caption in part.captions:
            self.said.setdefault(caption.clip_id, _short(caption.text))
        files = opened.features.sets[0].rows().select(["clip_id", "source_path"]).to_pydict()
        extracted = dict(zip(files["clip_id"], files["source_path"], strict=True))
        rows = tables.clips.select(["clip_id", "path", "start_s", "end_s"]).to_pylist()
        places = {row["clip_id"]: row | {"path": extracted.get(row["clip_id"]) or row["path"]} for row in rows}
        self.pictures = Pictures(places, videos)

    def queries(self, ranks: Mapping[str, float], count: int) -> Section:
        """The queries found with the widest margin, and those whose clip stands furthest down; one a clip."""
        captions, present = self.part.captions, {clip_id: row for row, clip_id in enumerate(self.part.present)}
        known = [row for row, each in enumerate(captions) if each.clip_id in present and each.caption_id in ranks]
        rank = np.asarray([ranks[captions[row].caption_id] for row in known])
        order = np.argsort(-rank, kind="stable")
        first = [known[place] for place in np.flatnonzero(rank == 1)[:_CONSIDERED]]
        margins = []
        for row in first:
            scores = cosine_scores(self.text[row][None], self.video)[0]
            own = present[captions[row].clip_id]
            margins.append(scores[own] - np.delete(scores, own).max(initial=-1.0))
        best = [first[place] for place in np.argsort(-np.asarray(margins), kind="stable")]
        worst = [known[place] for place in order if rank[place] > 1]
        shown = {
            "Found with the widest margin": [self._query(row, ranks, present) for row in self._one_a_clip(best, count)],
            "Missed furthest": [self._query(row, ranks, present) for row in self._one_a_clip(worst, count)],
        }
        line = (
            f"Captions of {self.part.name} as queries, and the clips that score highest, with place and cosine. The "
            "right clip is marked."
        )
        return Section("Queries", [line], queries={title: queries for title, queries in shown.items() if queries})

    def _one_a_clip(self, rows: list[int], count: int) -> list[int]:
        chosen: dict[str, int] = {}
        for row in rows:
            chosen.setdefault(self.part.captions[row].clip_id, row)
            if len(chosen) == count:
                break
        return [*chosen.values()]

    def _query(self, row: int, ranks: Mapping[str, float], present: Mapping[str, int]) -> Query:
        caption = self.part.captions[row]
        scores = np.nan_to_num(cosine_scores(self.text[row][None], self.video)[0], nan=-2.0)
        rank = ranks[caption.caption_id]
        own = present[caption.clip_id]
        found = np.argsort(-scores, kind="stable")[: _FOUND + 1].tolist()
        if own not in found:
            found.pop()  # its place is for the right clip
        clips = [
            self._clip(self.part.present[each], _LABEL.format(place, scores[each]), right=each == own, beside=caption)
            for place, each in enumerate(found, 1)
        ]
        if own not in found:
            clips.append(self._clip(caption.clip_id, _LABEL.format("right", scores[own]), right=True, beside=caption))
        return Query(_short(caption.text), f"right clip at rank {rank:,.0f} of {len(self.part.clip_ids):,}", clips)

    def _clip(
        self, clip_id: str, label: str, *, beside: Caption, right: bool = False, weight: float | None = None
    ) -> Clip:
        said = self.said.get(clip_id, "")
        return Clip(
            clip_id, label, "" if said == _short(beside.text) else said, self.pictures.of(clip_id), right, weight
        )

    def support(self, count: int, charts: list[Chart]) -> Section:
        """Support sets of some captions, and the statistics of all."""
        from supportset.train.analysis.support_analysis import support_stats
        from supportset.train.analysis.support_examples import support_examples
        from supportset.train.data.clip_features import ClipFeatures
        from supportset.train.device import choose_device

        config, part = self.opened.config, self.part
        size = config.optim.batch_size
        device = choose_device(str(next(self.model.parameters()).device))
        clips = ClipFeatures(self.opened.features, part.present, config.data.max_steps, device=device)
        examples = support_examples(
            self.model, self.text, clips, part.captions, size=size, count=count, max_tokens=config.data.max_tokens
        )
        queries = []
        for each in examples:
            shown = [
                self._clip(
                    clip_id,
                    f"{100 * weight:.1f} %",
                    beside=each.caption,
                    right=clip_id == each.caption.clip_id,
                    weight=weight,
                )
                for clip_id, weight in each.weights[: _FOUND + 1]
            ]
            rest = 1 - sum(weight for _, weight in each.weights[: _FOUND + 1])
            note = f"written: \N{LEFT DOUBLE QUOTATION MARK}{_short(each.written)}\N{RIGHT DOUBLE QUOTATION MARK}; "
            note += f"as if from {np.exp(each.entropy):.1f} clips; {100 * rest:.0f}\N{NO-BREAK SPACE}% on others"
            queries.append(Query(_short(each.caption.text), note, shown))
        found = support_stats(
            self.text, self.video, part.captions, part.present, source_videos(self.opened.dataset),
            temperature=config.support.temperature, size=size,
        )  # fmt: skip
        line = (
            f"Which clips a caption is written from, in random groups of {found['support_clips'] + 1:.0f} clips as in "
            "a training batch, without the memory bank. Over other clips the weights are as spread as "
            f"{found['effective_clips']:.1f} equal ones. Of a caption's content words "
            f"{100 * found['shared_words']:.0f}\N{NO-BREAK SPACE}% are also said of the clips that it attends to, by "
            "weight; "
            f"{100 * found['shared_words_of_uniform']:.0f}\N{NO-BREAK SPACE}% of any other clips."
        )
        title = "Captions and the clips they are written from"
        return Section("The support set", [line], charts, {title: queries} if queries else {})


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
