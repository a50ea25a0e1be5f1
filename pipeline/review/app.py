"""The web application of the review page: its addresses, and what each of them shows or takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError

from pipeline.labels.kept_labels import ChoiceSettings
from pipeline.review.access.protect import session_of
from pipeline.review.decisions import Decided, Decisions, decide
from pipeline.review.desk import Desk
from pipeline.review.image_detail import ImageDetail
from pipeline.review.labels import labels_of
from pipeline.review.overview import overview_of
from pipeline.review.pages import Pages
from pipeline.review.pictures import CHIP, LONGEST, NoPicture, Region
from pipeline.review.search import Search
from storage.errors import PipelineError

_HERE = Path(__file__).parent
_CACHED = {"Cache-Control": "private, max-age=3600"}
_BESIDE = ("page", "label", "start", "size", "from")
"""Parameters of an address that are no part of its search."""
MAX_ROWS = 200
"""Images that one request of the scrolling list brings at most."""

Number = Annotated[int, Query(ge=0, le=2**62)]


def create_app(desk: Desk, read_only: bool = False, signed_in: bool = False) -> FastAPI:
    """The pages of one desk. Who may open them is not decided here: serve what `protect` makes of it.

    `signed_in`: reviewers come by a password, and the pages offer to sign out.
    """
    app = FastAPI(title="rlip review", docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")
    pages = Pages(desk, read_only, signed_in)
    _add_pages(app, desk, pages)
    _add_pictures(app, desk)
    _add_answers(app, desk)
    return app


def _add_pages(app: FastAPI, desk: Desk, pages: Pages) -> None:
    """What people look at."""

    @app.get("/", response_class=HTMLResponse)
    def overview(request: Request) -> str:
        return pages.render("overview.html", session_of(request), overview=overview_of(desk))

    @app.get("/labels", response_class=HTMLResponse)
    def labels(request: Request, page: Annotated[int, Query(ge=1, le=10**6)] = 1) -> str:
        return pages.labels(session_of(request), _search(request), page)

    @app.get("/images", response_class=HTMLResponse)
    def images(request: Request) -> str:
        return pages.images(session_of(request), _search(request))

    @app.get("/images/rows", response_class=HTMLResponse)
    def image_rows(
        request: Request, start: Number = 0, size: Annotated[int, Query(ge=1, le=MAX_ROWS)] = MAX_ROWS
    ) -> str:
        return pages.image_rows(session_of(request), _search(request), start, size)

    @app.get("/image/{number}", response_class=HTMLResponse)
    def image(
        request: Request,
        number: int,
        label: Number | None = None,
        origin: Annotated[Literal["labels", "images"], Query(alias="from")] = "labels",
    ) -> str:
        detail = _detail(desk, number)
        chosen = next((one for one in detail.labels if label in (None, one.number)), None)
        return pages.image(session_of(request), detail, chosen, _search(request), origin)

    @app.get("/audit", response_class=HTMLResponse)
    def audit(request: Request) -> str:
        return pages.audit(session_of(request))

    @app.get("/quarantined", response_class=HTMLResponse)
    def quarantined(request: Request, reason: Annotated[str, Query(max_length=500)] = "") -> str:
        return pages.quarantined(session_of(request), reason)


def _add_pictures(app: FastAPI, desk: Desk) -> None:
    """Pictures by number: no address ever names a file.

    A screen asks for twenty at once. They take all processors but one, so that pages and verdicts don't wait for them.
    """
    limiter = CapacityLimiter(max(1, (os.cpu_count() or 1) - 1))

    @app.get("/pictures/{number}.jpg")
    async def picture(number: int, longest: Annotated[int, Query(ge=64, le=LONGEST)] = LONGEST) -> Response:
        return await to_thread.run_sync(whole, number, longest, limiter=limiter)

    @app.get("/chips/{number}.jpg")
    async def chip(number: int) -> Response:
        return await to_thread.run_sync(part, number, limiter=limiter)

    def whole(number: int, longest: int) -> Response:
        rows = desk.index.rows_at("images", "dataset, uri", "image", [number])
        if not rows:
            raise HTTPException(404, "no image has this number")
        return _jpeg(desk, rows[0]["dataset"], rows[0]["uri"], longest=longest)

    def part(number: int) -> Response:
        found = labels_of(desk.index, [number])
        if not found:
            raise HTTPException(404, "no label has this number")
        return _jpeg(desk, found[0].dataset, found[0].uri, found[0].region, CHIP)


def _add_answers(app: FastAPI, desk: Desk) -> None:
    """What the page asks for while someone looks at it."""

    @app.get("/image/{number}/kept")
    def kept(
        number: int,
        threshold: Annotated[float, Query(ge=0, le=1)],
        rule: Annotated[str, Query(pattern="^(all|best|posterior)$")] = "all",
        confidence: Annotated[str, Query(pattern="^(score|calibrated)$")] = "score",
    ) -> dict[str, dict[str, str | None]]:
        settings = {"threshold": threshold, "rule": rule, "confidence": confidence, "thresholds": {}}
        choice = ChoiceSettings.model_validate(desk.view.choice.model_dump() | settings)
        try:
            return {"reasons": {str(label): why for label, why in desk.details.kept(number, choice).items()}}
        except PipelineError as error:
            raise HTTPException(409, str(error)) from error

    @app.post("/verdicts")
    def verdicts(request: Request, decisions: Decisions) -> Decided:
        try:
            return decide(desk, session_of(request).reviewer, decisions)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        except PipelineError as error:
            raise HTTPException(507, f"nothing was recorded: {error}") from error


def _search(request: Request) -> Search:
    """The search in an address. Raises 422 for one that no page offers."""
    values = {name: value for name, value in request.query_params.items() if name not in _BESIDE and value != ""}
    try:
        return Search.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise HTTPException(422, f"search: {name}: {first['msg']}") from error


def _detail(desk: Desk, number: int) -> ImageDetail:
    found = desk.details.find(number) if 0 <= number < 2**62 else None
    if found is None:
        raise HTTPException(404, "no image has this number; the run may have been made anew")
    return found


def _jpeg(desk: Desk, dataset: str, uri: str, region: Region | None = None, longest: int = LONGEST) -> Response:
    try:
        return Response(desk.pictures.jpeg(dataset, uri, region, longest), media_type="image/jpeg", headers=_CACHED)
    except NoPicture as error:
        raise HTTPException(404, str(error)) from error
