"""The web application of the review page: its routes, and what each shows or accepts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Body, Depends, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import ValidationError

from pipeline.labels.kept_labels import ChoiceSettings
from pipeline.review.decisions import Accepted, Addition, Decided, Decisions, accept_class, add_relation, decide
from pipeline.review.entrance import reviewer_of
from pipeline.review.image_detail import ImageDetail
from pipeline.review.pages import Pages
from pipeline.review.pictures import SIDE, NoPicture
from pipeline.review.review_state import ReviewState
from pipeline.review.search import Search
from storage.errors import PipelineError
from storage.json_files import reason_of

_CACHED = {"Cache-Control": "private, max-age=3600"}
_BESIDE = ("number", "page", "label", "start", "size", "from")
"""Parameters of an address that are no part of its search."""
MAX_ROWS = 200
"""Images that one request of the scrolling list brings at most."""

Number = Annotated[int, Query(ge=0, le=2**62)]
Reviewer = Annotated[str, Depends(reviewer_of)]


def page_routes(state: ReviewState, signed_in: bool = False) -> APIRouter:
    """The pages of one run under review. Who may open them is not decided here: serve them as `protected` does.

    All pages lie side by side, so that their links need not name the path above them. `signed_in`: reviewers come by a
    password, and the pages offer to sign out.
    """
    app = APIRouter()
    pages = Pages(state, signed_in)
    _add_pages(app, state, pages)
    _add_pictures(app, state)
    _add_answers(app, state)
    return app


def _add_pages(app: APIRouter, state: ReviewState, pages: Pages) -> None:
    """What people look at."""

    @app.get("/", response_class=HTMLResponse)
    def overview(reviewer: Reviewer) -> str:
        return pages.overview(reviewer)

    @app.get("/labels", response_class=HTMLResponse)
    def labels(request: Request, reviewer: Reviewer, page: Annotated[int, Query(ge=1, le=10**6)] = 1) -> str:
        return pages.labels(reviewer, _search(state, request, reviewer), page)

    @app.get("/images", response_class=HTMLResponse)
    def images(request: Request, reviewer: Reviewer) -> str:
        return pages.images(reviewer, _search(state, request, reviewer))

    @app.get("/images/rows", response_class=HTMLResponse)
    def image_rows(
        request: Request,
        reviewer: Reviewer,
        start: Number = 0,
        size: Annotated[int, Query(ge=1, le=MAX_ROWS)] = MAX_ROWS,
    ) -> str:
        return pages.image_rows(reviewer, _search(state, request, reviewer), start, size)

    @app.get("/image", response_class=HTMLResponse)
    def image(
        request: Request,
        reviewer: Reviewer,
        number: int,
        label: Number | None = None,
        origin: Annotated[Literal["labels", "images"], Query(alias="from")] = "labels",
    ) -> str:
        detail = _detail(state, number)
        chosen = next((one for one in detail.labels if label in (None, one.number)), None)
        return pages.image(reviewer, detail, chosen, _search(state, request, reviewer), origin)

    @app.get("/audit", response_class=HTMLResponse)
    def audit(reviewer: Reviewer) -> str:
        return pages.audit(reviewer)

    @app.get("/quarantined", response_class=HTMLResponse)
    def quarantined(reviewer: Reviewer, reason: Annotated[str, Query(max_length=500)] = "") -> str:
        return pages.quarantined(reviewer, reason)


def _add_pictures(app: APIRouter, state: ReviewState) -> None:
    """Pictures by number: no address ever names a file.

    A screen asks for twenty at once. They take all processors but one, so that pages and verdicts don't wait for them.
    Browsers cut a label's part out of its image's picture, which then serves for the whole image, too.
    """
    limiter = CapacityLimiter(max(1, (os.cpu_count() or 1) - 1))

    @app.get("/pictures/{number}.jpg")
    async def picture(number: int, side: Annotated[int, Query(ge=64, le=SIDE)] = SIDE) -> Response:
        return await to_thread.run_sync(jpeg, number, side, limiter=limiter)

    def jpeg(number: int, side: int) -> Response:
        rows = state.index.rows_at("images", "dataset, uri", "image", [number])
        if not rows:
            raise HTTPException(404, "no image has this number")
        try:
            data = state.pictures.jpeg(rows[0]["dataset"], rows[0]["uri"], side)
        except NoPicture as error:
            raise HTTPException(404, str(error)) from error
        return Response(data, media_type="image/jpeg", headers=_CACHED)


def _add_answers(app: APIRouter, state: ReviewState) -> None:
    """What the page asks for while someone looks at it."""

    @app.get("/image/{number}/kept")
    def kept(
        number: int,
        threshold: Annotated[float, Query(ge=0, le=1)],
        rule: Annotated[str, Query(pattern="^(all|best|posterior)$")] = "all",
        confidence: Annotated[str, Query(pattern="^(probability|calibrated|score)$")] = "probability",
    ) -> dict[str, dict[str, str | None]]:
        settings = {"threshold": threshold, "rule": rule, "confidence": confidence, "thresholds": {}}
        try:
            choice = ChoiceSettings.model_validate(state.view.choice.model_dump() | settings)
            return {"reasons": {str(label): why for label, why in state.details.kept(number, choice).items()}}
        except ValidationError as error:
            raise HTTPException(409, error.errors()[0]["msg"]) from error
        except PipelineError as error:
            raise HTTPException(409, str(error)) from error

    @app.post("/verdicts")
    def verdicts(reviewer: Reviewer, decisions: Decisions) -> Decided:
        with _recording():
            return decide(state, reviewer, decisions)

    @app.post("/classes")
    def classes(reviewer: Reviewer, label: Annotated[int, Body(ge=0, le=2**62, embed=True)]) -> Accepted:
        with _recording():
            return accept_class(state, reviewer, label)

    @app.post("/relations")
    def relations(reviewer: Reviewer, addition: Addition) -> dict[str, str]:
        with _recording():
            add_relation(state, reviewer, addition)
        return {"recorded": addition.predicate}


@contextmanager
def _recording() -> Iterator[None]:
    """Answers for verdicts that are refused or that the disk did not take."""
    try:
        yield
    except ValueError as error:
        raise HTTPException(422, reason_of(error)) from error
    except PipelineError as error:
        raise HTTPException(507, f"nothing was recorded: {error}") from error


def _search(state: ReviewState, request: Request, reviewer: str) -> Search:
    """The search in an address, by this reviewer. Raises 422 for one that no page offers."""
    values = {name: value for name, value in request.query_params.items() if name not in _BESIDE and value != ""}
    try:
        return Search.model_validate(values).seen_by(reviewer, state.shares.seat(reviewer))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise HTTPException(422, f"search: {name}: {first['msg']}") from error


def _detail(state: ReviewState, number: int) -> ImageDetail:
    found = state.details.find(number) if 0 <= number < 2**62 else None
    if found is None:
        raise HTTPException(404, "no image has this number; the run may have been rebuilt")
    return found
