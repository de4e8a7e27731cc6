"""Ways to score one gallery: ours, the full matrix, and the scorers that other libraries offer.

Each starts from two files, texts (Q, d) and clips (G, d), float16; text i is about clip i. ``python -m
benchmarks.evaluate.ways WAY FOLDER`` runs one in a process of its own, and prints seconds, peak memory and recalls.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CUTS = (1, 10)
DEPTH = 100  # of the lists that ir-measures and sentence-transformers get
Recalls = dict[str, float]
GB = 1e9


def ours(texts: Path, clips: Path) -> Recalls:
    """`supportset.evaluate.ranks.retrieval_ranks`, the clips mapped."""
    from supportset.evaluate.ranks import retrieval_ranks

    queries = np.load(texts)
    ranks = retrieval_ranks(queries, np.load(clips, mmap_mode="r"), range(len(queries)), _labels(clips))
    return {f"R@{cut}": float(100 * (ranks <= cut).mean()) for cut in CUTS}


def _labels(clips: Path) -> NDArray[np.int64]:
    return np.arange(len(np.load(clips, mmap_mode="r")))


def matrix(texts: Path, clips: Path) -> Recalls:
    """All scores at once in float32, each row sorted, as many repositories do."""
    scores = _units(texts) @ _units(clips).T
    order = np.argsort(-scores, axis=1)
    ranks = 1 + np.argmax(order == np.arange(len(scores))[:, None], axis=1)
    return {f"R@{cut}": float(100 * (ranks <= cut).mean()) for cut in CUTS}


def torchmetrics(texts: Path, clips: Path) -> Recalls:
    """`torchmetrics.retrieval.RetrievalHitRate`, which takes all scores in one row."""
    import torch
    from torchmetrics import MetricCollection
    from torchmetrics.retrieval import RetrievalHitRate

    scores = torch.from_numpy(_units(texts) @ _units(clips).T)
    queries, gallery = scores.shape
    target = torch.zeros(queries, gallery, dtype=torch.bool)
    target[torch.arange(queries), torch.arange(queries)] = True
    indexes = torch.arange(queries).repeat_interleave(gallery)
    metrics = MetricCollection({f"R@{cut}": RetrievalHitRate(top_k=cut) for cut in CUTS})
    metrics.update(scores.flatten(), target.flatten(), indexes=indexes)
    return {name: 100 * float(value) for name, value in metrics.compute().items()}


def ir_measures(texts: Path, clips: Path) -> Recalls:
    """``ir-measures`` (trec_eval) on the first hundred clips of each text."""
    import ir_measures as measures

    scores = _units(texts) @ _units(clips).T
    depth = min(DEPTH, scores.shape[1])
    best = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
    run = {
        str(query): {str(clip): float(scores[query, clip]) for clip in found}
        for query, found in enumerate(best.tolist())
    }
    qrels = {str(query): {str(query): 1} for query in range(len(scores))}
    found = measures.calc_aggregate([measures.Success @ cut for cut in CUTS], qrels, run)
    return {f"R@{cut}": 100 * float(found[measures.Success @ cut]) for cut in CUTS}


def sentence_transformers(texts: Path, clips: Path) -> Recalls:
    """`sentence_transformers` ``InformationRetrievalEvaluator`` on given embeddings."""
    import torch
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
    from sentence_transformers.util import cos_sim

    queries, gallery = (torch.from_numpy(np.load(path).astype(np.float32)) for path in (texts, clips))
    evaluator: Any = InformationRetrievalEvaluator(
        {f"q{i}": "" for i in range(len(queries))},
        {f"c{i}": "" for i in range(len(gallery))},
        {f"q{i}": {f"c{i}"} for i in range(len(queries))},
        accuracy_at_k=list(CUTS),
        precision_recall_at_k=[1],
        map_at_k=[DEPTH],
        score_functions={"cosine": cos_sim},
        write_csv=False,
    )
    evaluator.embed_inputs = lambda *_, **__: queries
    found = evaluator.compute_all_metrics(None, corpus_embeddings=gallery)["cosine"]["accuracy@k"]
    return {f"R@{cut}": 100 * float(found[cut]) for cut in CUTS}


def _units(path: Path) -> NDArray[np.float32]:
    rows = np.load(path).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


WAYS: dict[str, Callable[[Path, Path], Recalls]] = {
    "ours": ours,
    "matrix": matrix,
    "torchmetrics": torchmetrics,
    "ir-measures": ir_measures,
    "sentence-transformers": sentence_transformers,
}
SAYS = {
    "matrix": "the full matrix, sorted",
    "torchmetrics": "torchmetrics RetrievalHitRate",
    "ir-measures": f"ir-measures, first {DEPTH}",
    "sentence-transformers": f"sentence-transformers InformationRetrievalEvaluator, first {DEPTH}",
}
# Bytes a score that a way holds at once, about; what does not fit is left out.
BYTES = {"ours": 0, "matrix": 20, "torchmetrics": 70, "ir-measures": 20, "sentence-transformers": 0}


def main(way: str, folder: Path) -> dict[str, Any]:
    """Run a way once; libraries are imported by a tiny run before."""
    tiny = np.random.default_rng(0).normal(size=(120, 8)).astype(np.float16)
    for name in ("tiny-texts", "tiny-clips"):
        if not (folder / f"{name}.npy").exists():
            np.save(folder / f"{name}.npy", tiny)
    WAYS[way](folder / "tiny-texts.npy", folder / "tiny-clips.npy")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    before, start = _status("VmRSS"), time.perf_counter()
    recalls = WAYS[way](folder / "texts.npy", folder / "clips.npy")
    return {"seconds": time.perf_counter() - start, "mb": (_status("VmHWM") - before) / 1e6, "recalls": recalls}


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(field)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
