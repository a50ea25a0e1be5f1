"""The routes of the review page: its pages, and what they ask for and send while someone looks at them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Body, HTTPException, Query, Response
from fastapi.responses import HTMLResponse
from pydantic import ValidationError

from pipeline.labels.kept_labels import ChoiceSettings
from pipeline.review.decisions import Addition, Decisions, accept_class, add_relation, decide
from pipeline.review.entrance import Reviewer
from pipeline.review.pages import Pages
from pipeline.review.pictures import SIDE, NoPicture
from pipeline.review.review_state import ReviewState
from storage.errors import PipelineError
from storage.json_files import reason_of

_CACHED = {"Cache-Control": "private, max-age=3600"}


def page_routes(state: ReviewState, signed_in: bool = False) -> APIRouter:
    """The pages of one run under review. Who may open them is not decided here: serve them as `protected` does.

    All pages lie side by side, so that their links need not name the path above them. `signed_in`: reviewers come by a
    password, and the pages offer to sign out.
    """
    app, pages = APIRouter(), Pages(state, signed_in)
    addresses: dict[str, Callable[..., str]] = {
        "/": pages.overview, "/labels": pages.labels, "/images": pages.images, "/images/rows": pages.image_rows,
        "/image": pages.image, "/audit": pages.audit, "/quarantined": pages.quarantined,
    }  # fmt: skip
    for address, page in addresses.items():
        app.add_api_route(address, page, response_class=HTMLResponse)
    _add_pictures(app, state)
    _add_answers(app, state)
    return app


def _add_pictures(app: APIRouter, state: ReviewState) -> None:
    """Pictures by number: no address ever names a file. Browsers keep them by number and digest.

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
    def verdicts(reviewer: Reviewer, decisions: Decisions) -> dict[str, Any]:
        with _recording():
            return decide(state, reviewer, decisions)

    @app.post("/classes")
    def classes(
        reviewer: Reviewer,
        label: Annotated[int, Body(ge=0, le=2**62)],
        content: Annotated[str | None, Body(max_length=16)] = None,
    ) -> dict[str, int]:
        with _recording():
            return accept_class(state, reviewer, label, content)

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
