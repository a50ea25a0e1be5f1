"""What a node of a cluster tells about itself before a run sends it work."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from pipeline.runtime.execute import installed_version


@dataclass(frozen=True)
class NodeView:
    """One node: its name, its version of rlip, and those of the asked paths that it does not have."""

    host: str
    rlip: str
    lacks: tuple[Path, ...]


def look_around(paths: tuple[Path, ...]) -> NodeView:
    """Runs on a node: which of these paths can't it see?"""
    return NodeView(platform.node(), installed_version("rlip"), tuple(path for path in paths if not path.exists()))
