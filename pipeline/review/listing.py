"""Answers searches page by page. Each search is sorted once, and its pages stay stable while verdicts come in."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pipeline.review.index import LIVE, ReviewIndex
from pipeline.review.search import MINE, ORDERS, Search

Numbers = npt.NDArray[np.int64]

MAX_LISTED = 1_000_000
"""How many results of one search can be paged through."""
_STRETCHES = (2_000, 100_000, MAX_LISTED)
"""How many results are sorted at first, and as someone pages on: the first page does not wait for the last."""
_SEARCHES = 512
"""How many searches memory holds: a few of each member of a team, in a frozen order of their own."""


@dataclass(frozen=True)
class Page:
    """A range of a search's results, as numbers of labels or images. `total` counts all results."""

    numbers: tuple[int, ...]
    total: int

    @property
    def reachable(self) -> int:
        """How many results can be paged to."""
        return min(self.total, MAX_LISTED)


@dataclass
class _Found:
    total: int = -1
    """-1 until the search has run."""
    numbers: Numbers = field(default_factory=lambda: np.empty(0, np.int64))
    lock: threading.Lock = field(default_factory=threading.Lock)


class Listing:
    """The results of searches in an index. Thread-safe."""

    def __init__(self, index: ReviewIndex) -> None:
        self._index = index
        self._found = lru_cache(_SEARCHES)(lambda kind, search, generation: _Found())
        """The cached results of a search, or an empty entry."""

    def labels(self, search: Search, start: int, size: int) -> Page:
        """The numbers of `size` labels from position `start`, in the search's order."""
        return self._page("label", search, start, size, "relation", _joined(search), ORDERS[search.order][1])

    def images(self, search: Search, start: int, size: int) -> Page:
        """The numbers of `size` images with a matching label from position `start`, in the order of the datasets.

        A search without conditions on labels finds images without labels, too.
        """
        search = _of_images(search)
        where, _ = search.conditions()
        if search != Search(dataset=search.dataset, text=search.text, image_id=search.image_id):
            source = f"SELECT DISTINCT image FROM ({_joined(search)})"
        else:
            source = f"SELECT image FROM images WHERE {where}"
        return self._page("image", search, start, size, "image", source, "image")

    def count_now(self, search: Search) -> int:
        """Number of labels that a search of relations finds at present."""
        where, values = search.conditions()
        number: int = self._index.rows(f"SELECT count(*) AS n FROM relations WHERE {where}", values)[0]["n"]
        return number

    def judged(self, search: Search, reviewer: str) -> tuple[int, int]:
        """Of the labels that a search finds, judged or not: how many a reviewer has judged, and how many there are."""
        population = search.unjudged
        where, values = population.conditions()
        sql = f"SELECT count(*) AS n FROM {LIVE}.reviewed_labels WHERE {where} AND relation IN ({MINE})"
        return self._index.rows(sql, {**values, "viewer": reviewer})[0]["n"], self.labels(population, 0, 0).total

    def is_sorted(self, search: Search) -> bool:
        """Whether the order of a search's labels is held since an earlier use."""
        return self._entry("label", search).total >= 0

    def forget(self, search: Search) -> None:
        """Find the results of a search again at its next use."""
        for entry in (self._entry("label", search), self._entry("image", _of_images(search))):
            with entry.lock:
                entry.total, entry.numbers = -1, entry.numbers[:0]

    def place(self, search: Search, relation: int) -> int | None:
        """Position of a label among the first results of a search; None if it is not among them."""
        self.labels(search, 0, 1)
        at = np.flatnonzero(self._entry("label", search).numbers == relation)
        return int(at[0]) if len(at) else None

    def _page(self, kind: str, search: Search, start: int, size: int, column: str, source: str, order: str) -> Page:
        """A range of the values of `column` in `source`, a query, in an order. One scan counts and sorts them.

        Without a condition the count needs no scan, and materializing all labels would take too much memory.
        """
        entry = self._entry(kind, search)
        with entry.lock:
            wanted = min(start + size, MAX_LISTED if entry.total < 0 else entry.total, MAX_LISTED)
            if entry.total < 0 or len(entry.numbers) < wanted:
                limit = next(stretch for stretch in _STRETCHES if stretch >= wanted)
                where, values = search.conditions()
                held = "NOT MATERIALIZED" if where == "true" else "MATERIALIZED"
                found = self._index.table(
                    f"WITH found AS {held} ({source}) SELECT {column}, (SELECT count(*) FROM found) AS total "
                    f"FROM found ORDER BY {order} LIMIT {limit}",
                    values,
                )
                entry.numbers = found.column(0).to_numpy()
                entry.total = found["total"][0].as_py() if len(found) else 0
            return Page(tuple(entry.numbers[start : start + size].tolist()), entry.total)

    def _entry(self, kind: str, search: Search) -> _Found:
        return self._found(kind, search, self._index.generation)


def _joined(search: Search) -> str:
    """A query for the labels that a search finds, with the columns that its order needs."""
    where, _ = search.conditions()
    source = "relations"
    if search.dataset or search.text or search.image_id is not None:
        source += " JOIN (SELECT image, dataset, image_id, captions FROM images) AS described USING (image)"
    columns = "relation, relations.image AS image, subject, object, score, probability, opinion, proposed"
    if search.order in ("informative", "rare"):
        columns += ", frequency"
        source += " JOIN (SELECT predicate AS name, scored AS frequency FROM predicates) ON name = predicate"
    if search.order == "informative":
        columns += ", coalesce(judged, 0) AS judged, rank"
        source += (
            " JOIN informative USING (relation) LEFT JOIN (SELECT predicate AS of, count(*) AS judged "
            "FROM live.reviewed_labels GROUP BY ALL) ON of = predicate"
        )
    if search.order == "audit":
        columns += ", audit.place AS audit_place"
        source += " JOIN audit USING (relation)"
    return f"SELECT {columns} FROM {source} WHERE {where}"


def _of_images(search: Search) -> Search:
    """The search without its order of labels."""
    return search.model_copy(update={"order": "score"})
