"""Keys of Prefect artifacts: lower-case letters, digits and dashes are all that Prefect takes."""

from __future__ import annotations

import re


def artifact_key(*parts: str) -> str:
    """One key from words of any spelling, e.g. `progress-demo-shard-pseudo`."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")
