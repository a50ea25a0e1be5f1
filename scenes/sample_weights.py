"""The small weights that ship with the project, by the names that recipes and commands use in place of a path."""

from __future__ import annotations

from pathlib import Path

SAMPLE_WEIGHTS = {
    f"demo-{kind}": Path(__file__).with_name("weights") / kind for kind in ("captioner", "detector", "tagger", "text")
}
"""Name → folder. They know the synthetic world only; a README in each folder says how it was trained."""
