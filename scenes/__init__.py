"""A synthetic world whose images, boxes, captions and known relations are deterministic by (seed, index)."""

from pathlib import Path

SAMPLE_WEIGHTS = {
    f"demo-{kind}": Path(__file__).with_name("weights") / kind for kind in ("captioner", "detector", "tagger", "text")
}
"""The small weights that ship with the project: name, in place of a path → folder.

They know the synthetic world only. A README in each folder says how it was trained.
"""
