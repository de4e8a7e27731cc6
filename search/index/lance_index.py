"""The reader of a table of LanceDB: the hits of the exact scan, from a folder or an object store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supportset.evaluate.ranks import cosine_scores, unit_rows
from supportset.search.index.lance_table import LanceTable, naming, told
from supportset.search.step_index import unit_queries
from supportset.store.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from supportset.search.index.registry import Found
    from supportset.search.retriever import Clips, Retriever

_FEW = 1000  # clips that a condition can name
_MARGIN = 1e-4  # in cosine: LanceDB's float32 sums and ours differ by less


class LanceIndex:
    """Parts of clips in a table, searched without an index of LanceDB's unless the table has one.

    Without one the answer is exact: rows are asked for until none that was not seen can be among the best, and scored
    in full precision. Clips of the library that the table lacks are not found; a note counts them.

    Parameters
    ----------
    retriever : Retriever
    clips : Clips
    url : str
        Where `LanceTable.export` wrote it.

    Raises
    ------
    UsageError
        There is no such table.
    """

    def __init__(self, retriever: Retriever, clips: Clips, url: str) -> None:
        source = LanceTable(retriever, clips, url)
        table = source.open()
        if table is None:
            raise UsageError(
                f"{url}: no table {source.name} of this dataset, model and features: make it with "
                f"`supportset index ... --index lancedb:{url}`"
            )
        self._table, self._url, self._dim = table, url, table.schema.field("vector").type.list_size
        wanted, there = source.wanted(), source.contents(table)
        self._number_of = {clip: number for number, clip in enumerate(wanted)}
        # The file may have another name by now; the parts are the same
        self._known = np.asarray(
            [any(content == known for known, _ in there.get(clip, ())) for clip, (content, _) in wanted.items()], bool
        )
        self._content = {clip: content for clip, (content, _) in wanted.items()}
        with told("read", url):
            self._rows = table.count_rows()
            indexes = [each.name for each in table.list_indices() if "vector" in each.columns]
        self.approximate = indexes[0] if indexes else None

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._known)

    @property
    def notes(self) -> tuple[str, ...]:
        """Clips that the table lacks; an index of the table's that may miss some."""
        notes = []
        if lacking := int((~self._known).sum()):
            notes.append(
                f"{lacking:,} of {len(self):,} clips are not in the table, or have changed, and are not found: bring "
                f"it up to date with `supportset index ... --index lancedb:{self._url}`"
            )
        if self.approximate:
            notes.append(f"the table's index {self.approximate} is approximate: it may miss hits; scores are exact")
        return tuple(notes)

    def describe(self) -> dict[str, Any]:
        """What it is, as JSON."""
        lacking = int((~self._known).sum())
        return {"index": "lancedb", "url": self._url, "approximate": self.approximate, "lacking": lacking}

    def search(self, queries: ArrayLike, k: int, allowed: NDArray[np.bool_] | None = None) -> Found:
        """Find the k clips with the best parts: see `Index`."""
        unit = unit_queries(queries, self._dim)
        among = self._known if allowed is None else self._known & allowed
        if not len(unit) or not among.any():
            return np.zeros((len(unit), 0), np.int64), np.zeros((len(unit), 0), np.float32)
        found = [self._search_one(query, min(k, int(among.sum())), among) for query in unit]
        count = min(len(clips) for clips, _ in found)  # an approximate index may find fewer for one query
        return np.stack([clips[:count] for clips, _ in found]), np.stack([scores[:count] for _, scores in found])

    def _search_one(
        self, query: NDArray[np.float64], k: int, among: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        condition = None
        if among.sum() <= _FEW and not among.all():
            names = list(self._number_of)
            condition = naming([names[number] for number in np.flatnonzero(among)])
        count = min(self._rows, max(64, 8 * k))
        while True:
            rows = self._ask(query, count, condition)
            clips, scores = self._best(query, rows, among)
            if len(rows) < count or count >= self._rows:
                break
            worst = 1.0 - float(np.max(rows["_distance"].to_numpy()))
            if len(clips) >= k and scores[k - 1] > worst + _MARGIN:
                break
            count = min(self._rows, 4 * count)
        return clips[:k], scores[:k]

    def _ask(self, query: NDArray[np.float64], count: int, condition: str | None) -> pa.Table:
        columns = ["clip_id", "content", "vector", "_distance"]
        request = self._table.search(query.astype(np.float32), vector_column_name="vector").distance_type("dot")
        if condition is not None:
            request = request.where(condition, prefilter=True)
        request = request.refine_factor(10) if self.approximate else request.bypass_vector_index()
        with told("search", self._url):
            return request.select(columns).limit(count).to_arrow()

    def _best(
        self, query: NDArray[np.float64], rows: pa.Table, among: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The clips of rows, the best first, with the exact score of the best row of each."""
        pairs = zip(rows["clip_id"].to_pylist(), rows["content"].to_pylist(), strict=True)
        numbers = np.asarray(
            [self._number_of[clip] if self._content.get(clip) == content else -1 for clip, content in pairs], np.int64
        )
        right = np.flatnonzero((numbers >= 0) & among[numbers])
        if not len(right):
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        vectors = rows["vector"].combine_chunks().flatten().to_numpy().reshape(len(rows), self._dim)[right]
        scores = cosine_scores(query[None], unit_rows(vectors))[0]
        order = np.lexsort((numbers[right], -scores))
        clips, first = np.unique(numbers[right][order], return_index=True)
        best = np.argsort(first, kind="stable")
        return clips[best], scores[order][first[best]]
