"""Writes synthetic scenes in the layouts of COCO, Objects365, Visual Genome and HICO-DET."""

from scenes.formats.folders import SceneFolders
from scenes.formats.write import write_scenes

__all__ = ["SceneFolders", "write_scenes"]
