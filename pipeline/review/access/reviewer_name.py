"""What may be the name of a reviewer: what the log of verdicts takes, since the name also names a file there."""

from __future__ import annotations

from pipeline.labels.verdicts import require_reviewer
from storage.errors import FatalError


def reviewer_name(text: str) -> str:
    """The name without spaces around it. Raises ValueError for one that could not sign a verdict."""
    try:
        return require_reviewer(text.strip(" "))
    except FatalError as error:
        raise ValueError(str(error)) from None
