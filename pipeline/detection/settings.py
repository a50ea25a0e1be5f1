"""The settings of stage `detect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from pipeline.runtime.plugins import PluginName, PluginOptions
from pipeline.runtime.settings import Settings, file_read, runtime


class DetectSettings(Settings):
    """Which detector finds boxes in datasets of format images, and which boxes are kept."""

    weights: str | None = file_read(None)
    """The detector: a folder or hub name of an object detector that transformers loads; a weights file of this project,
    or its folder; a .pth file of torchvision's detection weights; an .onnx file of Ultralytics, RF-DETR or mmdeploy;
    or a .json file with scored boxes (docs/datasets.md)."""
    detector: Annotated[str, AfterValidator(PluginName("detectors"))] | None = runtime(None)
    """A kind of detector from another package (docs/api.md). Unset: the kind of `weights`."""
    options: PluginOptions = runtime(PluginOptions())
    """Settings of such a detector, which are part of the key."""
    hub: bool = runtime(False)
    """Allow downloading `weights` from the Hugging Face hub."""
    tokenizer: Path | None = file_read(None)
    """Folder of the tokenizer, for this project's weights without one in their folder."""
    categories: tuple[str, ...] = ()
    """Names of boxes, to which the detector's own are mapped (docs/datasets.md). Weights of this project and zero-shot
    detectors look for these names. Empty: the detector's, or those of its vocabulary.json."""
    threshold: float = Field(0.5, ge=0, le=1)
    """Boxes with a lower score are excluded."""
    duplicates: float = Field(0.5, gt=0, le=1)
    """Of two boxes of a category with a greater IoU, only the better-scored one is kept."""
    max_boxes: int = Field(50, ge=1)
    """Maximum number of boxes per image; the best-scored are kept."""
    image_size: int = Field(800, ge=32)
    """Longest side of input images for weights of this project whose vocabulary.json does not state it."""
    batch_size: int = Field(8, ge=1)
    """Images per pass, which changes low-order bits of scores."""
    device: Literal["auto", "cpu", "cuda"] = runtime("auto")
    """Where the detector runs. cuda: workers take GPUs in turn; auto: GPUs if there are any, else the CPU."""

    @model_validator(mode="after")
    def _options_are_of_a_plugin(self) -> DetectSettings:
        if self.options and self.detector is None:
            raise ValueError("options: belong to another package's detector; name it in `detector`, or remove them")
        return self
