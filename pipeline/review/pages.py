"""Renders the pages: templates filled with the run's contents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import quote, urlencode

from fastapi import Depends, HTTPException, Query, Request
from markupsafe import Markup
from pydantic import ValidationError

from pipeline.labels.verdict_summary import summarize
from pipeline.labels.verdicts import ADJUDICATION, AUDIT, Verdict, box4, looked_at
from pipeline.report.drawing import Rect, name_places
from pipeline.report.page import templates_in
from pipeline.review.access import Reviewer
from pipeline.review.image_detail import ImageDetail
from pipeline.review.index import OFFERED
from pipeline.review.labels import Label, labels_of
from pipeline.review.listing import MAX_LISTED
from pipeline.review.overview import overview_of, work_of
from pipeline.review.review_state import ReviewState
from pipeline.review.search import ORDERS, QUEUES, Search
from pipeline.runtime.wording import printable
from storage.json_files import reason_of

GRID = 20
"""Labels per screen: five columns, four rows."""
MAX_ROWS = 200
"""Images that one request of the scrolling list brings at most."""
_BESIDE = ("number", "page", "label", "start", "size", "from")
"""Parameters of an address that are not part of its search."""
Number = Annotated[int, Query(ge=0, le=2**62)]


def _search(request: Request) -> Search:
    """The search in an address. Raises 422 for one that no page offers."""
    values = {name: value for name, value in request.query_params.items() if name not in _BESIDE and value != ""}
    try:
        return Search.model_validate(values)
    except ValidationError as error:
        raise HTTPException(422, f"search: {reason_of(error)}") from error


Searched = Annotated[Search, Depends(_search)]


class Pages:
    """The pages of a run under review: each method answers the address of its page.

    `signed_in`: reviewers used a password, so they can sign out.
    """

    def __init__(self, state: ReviewState, signed_in: bool = False) -> None:
        self._state = state
        self._signed_in = signed_in
        self._templates = templates_in(Path(__file__).parent / "templates")
        self._templates.filters |= {
            "printable": printable, "urlpart": lambda text: quote(str(text), safe=""), "picture": picture,
        }  # fmt: skip

    def render(self, template: str, reviewer: str, **values: Any) -> str:
        """Renders a template with what every page shows: run, reviewer and navigation."""
        return self._templates.get_template(template).render(
            run=self._state.view.run.name,
            reviewer=reviewer,
            read_only=self._state.read_only,
            signed_in=self._signed_in,
            against=self._state.comparison.other,
            **values,
        )

    def overview(self, reviewer: Reviewer) -> str:
        """The reviewer's open work, and the state of the run."""
        return self.render(
            "overview.html", reviewer, overview=overview_of(self._state), work=work_of(self._state, reviewer)
        )

    def labels(self, reviewer: Reviewer, search: Searched, page: Annotated[int, Query(ge=1, le=10**6)] = 1) -> str:
        """One screen of labels that a search finds."""
        search, listing = self._seen(search, reviewer), self._state.listing
        if page > 1 and search.loses_judged and not listing.is_sorted(search):
            # Sorted again after a restart or a change of the run, a later screen would skip open labels.
            raise HTTPException(303, headers={"Location": f"labels?{search.query()}"})
        for each in (search, search.unjudged):
            if page == 1 and each.follows_verdicts:
                listing.forget(each)
        found = listing.labels(search, (page - 1) * GRID, GRID)
        labels = labels_of(self._state.index, found.numbers)
        pages = max(1, -(-found.reachable // GRID))
        following = labels_of(
            self._state.index, listing.labels(search, page * GRID, GRID).numbers if page < pages else ()
        )
        verdicts, queue = self._state.reviews.of(labels), QUEUES.get(search.order, "grid")
        states = [verdict_state(verdicts.get(each.number, {}), reviewer, queue) for each in labels]
        return self.render(
            "labels.html",
            reviewer,
            search=search,
            chips=[{"label": each, "state": state} for each, state in zip(labels, states, strict=True)],
            page=page,
            pages=pages,
            total=found.total,
            most=MAX_LISTED,
            judged=listing.judged(search, reviewer),
            blind=self._is_blind(search),
            following=dict.fromkeys(picture(label.image, label.digest) for label in following),
            queue=queue,
            choices=self.choices,
            orders=ORDERS,
        )

    def _seen(self, search: Search, reviewer: str) -> Search:
        return search.seen_by(reviewer, self._state.shares.seat(reviewer))

    def _is_blind(self, search: Search) -> bool:
        """Whether scores and ground truth stay hidden until the viewer has judged a label."""
        return self._state.shares.team is not None or search.order in ("audit", "adjudication", "check")

    def images(self, reviewer: Reviewer, search: Searched) -> str:
        """The scrolling list of images that a search finds."""
        search = self._seen(search, reviewer)
        if search.follows_verdicts:
            self._state.listing.forget(search)
        found = self._state.listing.images(search, 0, 0)
        return self.render(
            "images.html", reviewer, search=search, total=found.total, reachable=found.reachable, choices=self.choices,
            orders=ORDERS,
        )  # fmt: skip

    def image_rows(
        self,
        reviewer: Reviewer,
        search: Searched,
        start: Number = 0,
        size: Annotated[int, Query(ge=1, le=MAX_ROWS)] = MAX_ROWS,
    ) -> str:
        """A range of the list of images."""
        search = self._seen(search, reviewer)
        numbers = self._state.listing.images(search, start, size).numbers
        index = self._state.index
        counted = index.rows("SELECT image, count(*) AS n FROM live.reviewed_labels GROUP BY image")
        reviewed = {row["image"]: row["n"] for row in counted}
        rows = index.rows_at("images", "*", "image", numbers)
        found = {row["image"]: {**row, "reviewed": reviewed.get(row["image"], 0)} for row in rows}
        listed = [found[number] for number in numbers if number in found]
        return self.render("image_rows.html", reviewer, rows=listed, start=start, search=search)

    def image(
        self,
        reviewer: Reviewer,
        search: Searched,
        number: int,
        label: Number | None = None,
        origin: Annotated[Literal["labels", "images"], Query(alias="from")] = "labels",
    ) -> str:
        """One image with the label to judge, its first unless one is named. `origin`: the list it was opened from."""
        search, detail = self._seen(search, reviewer), self._state.details.find(number)
        if detail is None:
            raise HTTPException(404, "no image has this number; the run may have been rebuilt")
        chosen = next((one for one in detail.labels if label in (None, one.number)), None)
        verdicts, queue = self._state.reviews.of(detail.labels), QUEUES.get(search.order, "image")
        placed = sorted(enumerate(detail.boxes), key=lambda box: -box[1]["w"] * box[1]["h"])
        named = [(f"{box['category']} {place}", Rect(box["x"], box["y"], box["w"], box["h"])) for place, box in placed]
        letters = max(detail.width, detail.height * 1.5) / 52
        places = name_places(named, letters, detail.width, detail.height)
        at = None if chosen is None else self._state.listing.place(search, chosen.number)
        return self.render(
            "image.html",
            reviewer,
            detail=detail,
            chosen=chosen,
            search=search,
            states={
                each.number: verdict_state(verdicts.get(each.number, {}), reviewer, queue) for each in detail.labels
            },
            blind=self._is_blind(search),
            boxes=[(*box, name) for box, name in zip(placed, places, strict=True)],
            letters=letters,
            added=self._added(detail, reviewer),
            graph=scene_graph(detail, chosen),
            choice=self._state.view.choice,
            neighbours=self._neighbours(search, at),
            origin=origin,
            at=at,
            screen=None if at is None or at < GRID else at // GRID + 1,
            queue=queue,
            choices=self.choices,
        )

    def _added(self, detail: ImageDetail, reviewer: str) -> list[dict[str, Any]]:
        """The relations that a reviewer added to the labels of an image, by indices of its boxes."""
        if not detail.digest:
            return []
        boxes, labels = [box4(box) for box in detail.boxes], {label.judged for label in detail.labels}
        return [
            {
                "subject": boxes.index(verdict.relation.subject), "object": boxes.index(verdict.relation.object),
                "predicate": verdict.relation.predicate, "subject_category": verdict.subject_category,
                "object_category": verdict.object_category,
            }
            for verdict in self._state.reviews.log.standing_of(reviewer)
            # A verdict on a label has its score; in another run, the relation may be a label.
            if verdict.relation.image == detail.digest and verdict.kind == "accept" and verdict.relation not in labels
            and verdict.queue == "image" and verdict.score is None
            and {verdict.relation.subject, verdict.relation.object} <= set(boxes)
        ]  # fmt: skip

    def quarantined(self, reviewer: Reviewer, reason: Annotated[str, Query(max_length=500)] = "") -> str:
        """Counts of rejected rows by step and reason, and the first of the rows."""
        reasons = self._state.index.rows(
            "SELECT step, reason, count(*) AS number FROM quarantined GROUP BY ALL ORDER BY number DESC, step, reason"
        )
        rows = self._state.index.rows(
            "SELECT q.*, i.image FROM quarantined q LEFT JOIN images i USING (dataset, image_id) "
            "WHERE $reason = '' OR q.reason = $reason ORDER BY q.dataset, q.image_id, step LIMIT 500",
            {"reason": reason},
        )
        return self.render("quarantined.html", reviewer, reasons=reasons, rows=rows, reason=reason)

    def audit(self, reviewer: Reviewer) -> str:
        """Precision of the kept labels, estimated from verdicts on a random sample, and the reviewers' agreement."""
        log = self._state.reviews.log
        summary = summarize(log.verdicts(), log.standing(), log.damaged, self._state.audit.precision())
        return self.render("audit.html", reviewer, summary=summary)

    def _neighbours(self, search: Search, at: int | None) -> dict[str, Label | None]:
        """The labels before and after a position of a search."""
        found = {}
        for name, step in (("previous", -1), ("following", 1)):
            place = -1 if at is None else at + step
            numbers = self._state.listing.labels(search, place, 1).numbers if place >= 0 else ()
            found[name] = next(iter(labels_of(self._state.index, numbers)), None)
        return found

    @property
    def choices(self) -> dict[str, Any]:
        """What the search form offers, most frequent first: names, of predicates and categories as datalist options."""
        return self._state.index.once("choices", self._choices)

    def _choices(self) -> dict[str, Any]:
        rows = self._state.index.rows("SELECT kind, name FROM offered ORDER BY kind, place")
        names = {kind: [row["name"] for row in rows if row["kind"] == kind] for kind in OFFERED}
        return names | {kind: _options(names[kind]) for kind in ("predicates", "categories")}


def picture(image: int, digest: str, **options: int) -> str:
    """The address of an image's picture. An image that gets the number later has another one."""
    return f"pictures/{image}.jpg?{urlencode({'of': digest[:16], **options})}"


def _options(names: Sequence[str]) -> Markup:
    """The names as datalist options. There are thousands on each page, so they are rendered only once."""
    return Markup().join(Markup('<option value="{}"></option>').format(name) for name in names)


def verdict_state(verdicts: Mapping[str, Verdict], reviewer: str, queue: str) -> dict[str, Any]:
    """Verdicts on a label: the reviewer's own kind and time ("" for none) with its correction, and others' in words.

    A reviewer sees others' verdicts only after judging the label; in adjudication at once, but without names. For these
    queues, a label that was only accepted with its class is not judged.
    """
    own = (looked_at(verdicts) if queue in (AUDIT, ADJUDICATION) else verdicts).get(reviewer)
    others = {name: one for name, one in sorted(verdicts.items()) if name != reviewer}
    if queue == ADJUDICATION:
        words = [_answer(one) for one in others.values()]
    else:
        words = [] if own is None else [f"{name}: {_answer(one)}" for name, one in others.items()]
    kind, time, correction = ("", "", "") if own is None else (own.kind, own.time, _correction(own))
    return {"kind": kind, "time": time, "correction": correction, "others": words}


def _answer(verdict: Verdict) -> str:
    return " ".join(filter(None, (verdict.kind.replace("_", " "), _correction(verdict))))


def _correction(verdict: Verdict) -> str:
    """The correction and the note in words; "" without both."""
    ends = [end for end in ("subject", "object") if getattr(verdict, f"corrected_{end}") is not None]
    corrected = verdict.corrected_predicate or (f"other {' and '.join(ends)}" if ends else "")
    return " ".join((["→", corrected] if corrected else []) + ([f"“{verdict.note}”"] if verdict.note else []))


SIZE = 360
"""Width and height of the drawing, in units of its viewBox."""
_MAX_NODES = 14
_MAX_EDGES = 20
_RADIUS = 128
_NODE = 22
"""Distance from a node's centre at which arrows begin and end."""


class BoxNode(NamedTuple):
    """A box: its index, its name and its node's centre."""

    box: int
    name: str
    x: float
    y: float


class Edge(NamedTuple):
    """A label as a curve from subject to object. `path` is an SVG path; the text is at `x`, `y`."""

    label: Label
    path: str
    x: float
    y: float


class SceneGraph(NamedTuple):
    """The drawing. `left_out`: number of labels that it lacks."""

    nodes: Sequence[BoxNode]
    edges: Sequence[Edge]
    left_out: int
    size: int = SIZE


def scene_graph(detail: ImageDetail, chosen: Label | None) -> SceneGraph:
    """Lays out the labels of an image; of a crowded one, those at the boxes of the chosen label, its own pair first."""
    labels = detail.labels
    if chosen is not None and len(labels) > _MAX_EDGES:
        ends = {chosen.subject, chosen.object}
        near = sorted(labels, key=lambda label: (label != chosen, -len(ends & {label.subject, label.object})))
        labels = [label for label in near if ends & {label.subject, label.object}][:_MAX_EDGES]
    used = list(dict.fromkeys(box for label in labels for box in (label.subject, label.object)))
    shown = [box for box in used if box < len(detail.boxes)][:_MAX_NODES]
    nodes = {}
    for place, box in enumerate(sorted(shown)):
        angle = 2 * math.pi * place / len(shown) - math.pi / 2
        x, y = SIZE / 2 + _RADIUS * math.cos(angle), SIZE / 2 + _RADIUS * math.sin(angle)
        nodes[box] = BoxNode(box, f"{detail.boxes[box]['category']} {box}", round(x, 1), round(y, 1))
    edges = []
    between: dict[tuple[int, int], int] = {}
    for label in labels:
        if label.subject in nodes and label.object in nodes:
            pair = label.subject, label.object
            edges.append(_edge(label, nodes[label.subject], nodes[label.object], between.get(pair, 0)))
            between[pair] = between.get(pair, 0) + 1
    return SceneGraph(tuple(nodes.values()), tuple(edges), len(detail.labels) - len(edges))


def _edge(label: Label, start: BoxNode, end: BoxNode, before: int) -> Edge:
    """A curve that bends more the more labels already connect the same boxes."""
    if start.box == end.box:
        x, y = start.x, start.y - _NODE
        return Edge(label, f"M{x - 8} {y} c-24 -40 40 -40 16 0", x, y - 30)
    across, down = end.x - start.x, end.y - start.y
    length = math.hypot(across, down) or 1.0
    bend = 16 + 18 * before
    middle_x, middle_y = (start.x + end.x) / 2 - down / length * bend, (start.y + end.y) / 2 + across / length * bend
    first = _towards(start, middle_x, middle_y)
    last = _towards(end, middle_x, middle_y)
    path = f"M{first[0]:.1f} {first[1]:.1f} Q{middle_x:.1f} {middle_y:.1f} {last[0]:.1f} {last[1]:.1f}"
    # The curve passes halfway between the midpoint of its ends and its control point.
    words_x, words_y = (first[0] + last[0]) / 4 + middle_x / 2, (first[1] + last[1]) / 4 + middle_y / 2
    return Edge(label, path, round(words_x, 1), round(words_y, 1))


def _towards(node: BoxNode, x: float, y: float) -> tuple[float, float]:
    length = math.hypot(x - node.x, y - node.y) or 1.0
    return node.x + (x - node.x) / length * _NODE, node.y + (y - node.y) / length * _NODE
