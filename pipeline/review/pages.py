"""Makes the pages: templates filled with what the desk has. Everything that comes from data is text, never markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.labels.verdict_summary import summarize
from pipeline.labels.verdicts import Verdict
from pipeline.review.access.sessions import Session
from pipeline.review.desk import Desk
from pipeline.review.image_detail import ImageDetail
from pipeline.review.index import OFFERED
from pipeline.review.labels import Label, labels_of
from pipeline.review.listing import MAX_LISTED
from pipeline.review.scene_graph import scene_graph
from pipeline.review.search import QUEUES, Search
from pipeline.runtime.wording import printable

GRID = 20
"""Labels of one screen, five by four."""
_ORDER_NAMES = {
    "score": "highest score first",
    "lowest": "lowest score first",
    "uncertain": "most uncertain first",
    "informative": "most informative first",
    "disagreement": "greatest disagreement first",
    "rare": "rarest predicate first",
    "random": "random",
    "image": "by image",
    "audit": "random audit",
}


@dataclass(frozen=True)
class Offered:
    """What the search form offers: names, the most frequent first."""

    datasets: Sequence[str]
    reasons: Sequence[str]
    lists: Mapping[str, Markup]
    """Predicates and categories as options of a datalist."""


class Pages:
    """The HTML of each page of a desk. `signed_in`: reviewers came by a password, so they can sign out."""

    def __init__(self, desk: Desk, read_only: bool, signed_in: bool = False) -> None:
        self._desk = desk
        self._read_only = read_only
        self._signed_in = signed_in
        self._offered: tuple[int, Offered] | None = None
        self._environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters["printable"] = printable
        self._environment.filters["urlpart"] = lambda text: quote(str(text), safe="")

    def render(self, template: str, session: Session, **values: Any) -> str:
        """A template with what every page shows: the run, the reviewer, the way around."""
        return self._environment.get_template(template).render(
            run=self._desk.view.run.name,
            session=session,
            read_only=self._read_only,
            signed_in=self._signed_in,
            against=self._desk.comparison.other,
            **values,
        )

    def labels(self, session: Session, search: Search, page: int) -> str:
        """One screen of labels that a search finds."""
        listing = self._desk.listing
        if page == 1 and (search.reviewed or search.verdict or search.order in QUEUES):
            listing.forget(search)
        found = listing.labels(search, (page - 1) * GRID, GRID)
        labels = labels_of(self._desk.index, found.numbers)
        pages = max(1, -(-found.reachable // GRID))
        following = listing.labels(search, page * GRID, GRID).numbers if page < pages else ()
        return self.render(
            "labels.html",
            session,
            search=search,
            chips=self._chips(labels, session),
            page=page,
            pages=pages,
            total=found.total,
            most=MAX_LISTED,
            reviewed=listing.reviewed(search),
            following=following,
            queue=QUEUES.get(search.order, "grid"),
            choices=self.choices,
            orders=_ORDER_NAMES,
        )

    def images(self, session: Session, search: Search) -> str:
        """The scrolling list of images that a search finds."""
        found = self._desk.listing.images(search, 0, 0)
        return self.render(
            "images.html", session, search=search, total=found.total, reachable=found.reachable, choices=self.choices,
            orders=_ORDER_NAMES,
        )  # fmt: skip

    def image_rows(self, session: Session, search: Search, start: int, size: int) -> str:
        """A stretch of the list of images."""
        numbers = self._desk.listing.images(search, start, size).numbers
        index = self._desk.index
        counted = index.rows("SELECT image, count(*) AS n FROM live.reviewed_labels GROUP BY image")
        reviewed = {row["image"]: row["n"] for row in counted}
        rows = index.rows_at("images", "*", "image", numbers)
        found = {row["image"]: {**row, "reviewed": reviewed.get(row["image"], 0)} for row in rows}
        listed = [found[number] for number in numbers if number in found]
        return self.render("image_rows.html", session, rows=listed, start=start, search=search)

    def image(
        self, session: Session, detail: ImageDetail, chosen: Label | None, search: Search, origin: str = "labels"
    ) -> str:
        """One image with the label that is judged. `origin`: the list that it was opened from, labels or images."""
        verdicts = self._desk.reviews.of(detail.labels)
        at = None if chosen is None else self._desk.listing.place(search, chosen.number)
        return self.render(
            "image.html",
            session,
            detail=detail,
            chosen=chosen,
            search=search,
            verdicts=verdicts,
            graph=scene_graph(detail),
            choice=self._desk.view.choice,
            neighbours=self._neighbours(search, at),
            origin=origin,
            screen=None if at is None or at < GRID else at // GRID + 1,
            queue=QUEUES.get(search.order, "image"),
            choices=self.choices,
        )

    def quarantined(self, session: Session, reason: str) -> str:
        """The rows that steps left out, by reason."""
        reasons = self._desk.index.rows(
            "SELECT step, reason, count(*) AS number FROM quarantined GROUP BY ALL ORDER BY number DESC, step, reason"
        )
        rows = self._desk.index.rows(
            "SELECT q.*, i.image FROM quarantined q LEFT JOIN images i USING (dataset, image_id) "
            "WHERE $reason = '' OR q.reason = $reason ORDER BY q.dataset, q.image_id, step LIMIT 500",
            {"reason": reason},
        )
        return self.render("quarantined.html", session, reasons=reasons, rows=rows, reason=reason)

    def audit(self, session: Session) -> str:
        """How good the kept labels are by the verdicts on a random sample, and how far reviewers agree."""
        log = self._desk.reviews.log
        summary = summarize(log.verdicts(), log.standing(), log.damaged, self._desk.audit.precision())
        return self.render("audit.html", session, summary=summary)

    def _chips(self, labels: Sequence[Label], session: Session) -> list[dict[str, Any]]:
        verdicts = self._desk.reviews.of(labels)
        return [
            {"label": each, "region": each.region, **verdict_state(verdicts.get(each.number, {}), session.reviewer)}
            for each in labels
        ]

    def _neighbours(self, search: Search, at: int | None) -> dict[str, Label | None]:
        """The labels before and after a place in the order of a search."""
        if at is None:
            return {"previous": None, "following": None}
        around = {"previous": at - 1, "following": at + 1}
        numbers = {name: self._desk.listing.labels(search, max(place, 0), 1).numbers for name, place in around.items()}
        found = labels_of(self._desk.index, [number for each in numbers.values() for number in each])
        by_number = {label.number: label for label in found}
        return {
            name: by_number.get(numbers[name][0]) if place >= 0 and numbers[name] else None
            for name, place in around.items()
        }

    @property
    def choices(self) -> Offered:
        """What the search form offers. Counted anew when the index changes."""
        generation = self._desk.index.generation
        if self._offered is None or self._offered[0] != generation:
            rows = self._desk.index.rows("SELECT kind, name FROM offered ORDER BY kind, place")
            names = {kind: [row["name"] for row in rows if row["kind"] == kind] for kind in OFFERED}
            lists = {kind: _options(names[kind]) for kind in ("predicates", "categories")}
            self._offered = generation, Offered(names["datasets"], names["reasons"], lists)
        return self._offered[1]


def _options(names: Sequence[str]) -> Markup:
    """The names as options of a datalist. Each page has thousands, so that they are written once and not for each."""
    return Markup().join(Markup('<option value="{}"></option>').format(name) for name in names)


def verdict_state(verdicts: Mapping[str, Verdict], reviewer: str) -> dict[str, Any]:
    """What stands on a label: the reviewer's own kind of verdict ("" for none), and what others said."""
    own = verdicts.get(reviewer)
    others = [(name, one.kind) for name, one in sorted(verdicts.items()) if name != reviewer]
    return {"kind": own.kind if own is not None else "", "others": others}
