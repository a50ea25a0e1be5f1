"""Captions: read from files, parsed into triplets, shown on a terminal."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.captioning.recorded import RecordedCaptioner
from pipeline.captioning.settings import CaptionSettings
from tests.hostile.case import Case, table, told, written

REFUSED = r"^refused: .*captions\.json: .*expected COCO captions"
NO_ID = "kept nothing; left out -1 caption without image id"

FILES: dict[str, tuple[str, Any]] = {
    "empty": (REFUSED, b""), "no UTF-8": (REFUSED, b'{"1": "\xff"}'), "lists within lists": (REFUSED, b"[" * 10**5),
    "an id of 5,000 digits": (NO_ID, b'[{"image_id": ' + b"1" * 5000 + b', "caption": "a man"}]'),
    "a caption that is null": ("1 caption not text", {"1": None}),
    "a caption of nothing": ("1 caption empty", {"1": ""}),
    "a caption of invisible characters": ("1 caption empty", {"1": "\u200b\u202e\ufeff"}),
    "a caption of a megabyte": ("1 caption too long", {"1": "man " * 2**18}),
    "a caption with half a character": ("kept 1: 'a man'", {"1": "a \ud800man"}),
    "a caption that clears terminals": (r"kept 1: '\[2J a man'", {"1": "\x1b[2J a man"}),
}  # fmt: skip

TEXTS: dict[str, tuple[str, str]] = {
    "one word of 100,000 letters": ("^(passed|refused)", "m" * 100_000),
    "relations within relations": ("^(passed|refused)", "a man on " * 400 + "a horse"),
    "control characters": ("^(passed|refused)[^\x1b]*$", "a man \x1b[2J rides a horse"),
    "half a character": ("^(passed|refused)", "a man \udc80 rides a horse"),
    "brackets of rich": ("^(passed|refused)", "a [red]man[/red] rides a [link=http://x]horse"),
}  # fmt: skip


def cases() -> Iterator[Case]:
    """Files of captions, and captions that are parsed."""
    yield from table("captions", FILES, _read)
    yield from table("caption", TEXTS, lambda folder, text: told("parse", text))


def _read(folder: Path, content: Any) -> str:
    captioner = RecordedCaptioner(
        CaptionSettings(captioner="recorded", recorded=(written(folder / "captions.json", content),))
    )
    kept = [
        f"{i}: {caption.text!r}" for i in sorted(captioner.image_ids()) for caption in captioner.caption([], [i])[0]
    ]
    lost = [f"{reject.image_id} {reject.reason}" for reject in captioner.rejects]
    return f"kept {'; '.join(kept) or 'nothing'}; left out {'; '.join(lost) or 'nothing'}"
