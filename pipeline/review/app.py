"""The routes of the review page: its pages, and what they ask for and send while someone looks at them."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Body, HTTPException, Query, Response
from fastapi.responses import HTMLResponse
from PIL import Image
from pydantic import ValidationError

from pipeline.data.images.folders import locate_image
from pipeline.data.images.opening import BadImage, decode_image, probe_bytes, read_bytes
from pipeline.data.images.refs import UprightImage
from pipeline.labels.kept_labels import ChoiceSettings
from pipeline.review.access import Reviewer
from pipeline.review.decisions import Addition, Decisions, accept_class, add_relation, decide, reopen_class
from pipeline.review.pages import Pages
from pipeline.review.review_state import ReviewState
from storage.errors import PipelineError
from storage.json_files import reason_of

_CACHED = {"Cache-Control": "private, max-age=3600"}
SIDE = 1600
"""Side in pixels of a square that is as large as the largest picture: a narrow picture may be longer."""
_PICTURES = 256
"""Pictures in memory, about 100 kB each: a team sees the images of its overlap twice."""


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
        data = await to_thread.run_sync(jpeg, number, side, state.index.generation, limiter=limiter)
        return Response(data, media_type="image/jpeg", headers=_CACHED)

    @lru_cache(_PICTURES)
    def jpeg(number: int, side: int, generation: int) -> bytes:
        rows = state.index.rows_at("images", "dataset, uri", "image", [number])
        if not rows:
            raise HTTPException(404, "no image has this number")
        return jpeg_of(state.view.image_folders, rows[0]["dataset"], rows[0]["uri"], side)


def jpeg_of(folders: Mapping[str, Path | str], dataset: str, uri: str, side: int) -> bytes:
    """An image as JPEG, reduced to at most as many pixels as a square of this side has.

    JPEGs stay as they are. Others are decoded by the pipeline's rules. `folders`: dataset → location of its images.
    Raises 404 for an image that can't be shown and says why, without a path of this machine.
    """
    if dataset not in folders:
        raise HTTPException(404, f"no recipe says where the images of {dataset} are")
    try:
        place = locate_image(folders, {"dataset": dataset, "uri": uri})
        data = read_bytes(place)
        probe = probe_bytes(data, verify="header")
        if probe[2:] == ("JPEG", "RGB", 1) and probe.width * probe.height <= side * side:
            # Browsers decode it to the same pixels, and decoding for a team would keep a processor busy.
            return data
        image = decode_image(data, upright=isinstance(place, UprightImage))
    except BadImage as error:
        raise HTTPException(404, error.reason) from error
    except (OSError, PipelineError) as error:
        raise HTTPException(404, "its file is not on this machine") from error
    scale = side / math.sqrt(image.width * image.height)
    if scale < 1:
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.5)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=85)
    return written.getvalue()


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
            raise HTTPException(409, reason_of(error)) from error
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
        kind: Annotated[Literal["accept", "undo"], Body()] = "accept",
    ) -> dict[str, int]:
        with _recording():
            return (accept_class if kind == "accept" else reopen_class)(state, reviewer, label, content)

    @app.post("/relations")
    def relations(reviewer: Reviewer, addition: Addition) -> dict[str, str]:
        with _recording():
            add_relation(state, reviewer, addition)
        return {"recorded": addition.predicate}


@contextmanager
def _recording() -> Iterator[None]:
    """Turns refused verdicts and failed writes into HTTP errors."""
    try:
        yield
    except ValueError as error:
        raise HTTPException(422, reason_of(error)) from error
    except PipelineError as error:
        raise HTTPException(507, f"nothing was recorded: {error}") from error
