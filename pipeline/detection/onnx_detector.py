"""Detectors in ONNX files exported by Ultralytics, RF-DETR and mmdeploy, run by onnxruntime.

Shapes: N boxes, C classes, H×W pixels. Sizes and places are (width, height) and (x, y).
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.data.datasets.annotations import read_json, read_text
from pipeline.data.images.views import DEVIATION, MEAN
from pipeline.detection.settings import DetectSettings
from pipeline.detection.weights_files import NAMES_SUFFIX, PIPELINE, DetectorFiles
from pipeline.evaluation.detection import Detections
from pipeline.evaluation.relations import Floats, Integers
from pipeline.runtime.devices import choose_device
from storage.errors import FatalError, first_line

_Found = tuple[Floats, Integers, Floats]
"""N×4 xyxy boxes in pixels of the network's input, N labels, N scores"""
_Size = tuple[int, int]


@dataclass(frozen=True)
class _View:
    """Where an image is placed in a network's input, in pixels of the input."""

    image: _Size
    """Size of the resized image"""
    whole: _Size
    """Size of the input"""
    corner: _Size = (0, 0)
    """Left and top of the image"""


@dataclass(frozen=True)
class _Colours:
    """What is subtracted from colours of 0 to 255, what divides them, and the colour around an image."""

    mean: Sequence[float]
    deviation: Sequence[float]
    around: Sequence[float]
    bgr: bool = False


class _Ultralytics:
    """One output: 1×(4 + C)×N, boxes as cxcywh, or end to end 1×N×6, rows of xyxy, score and class.

    The metadata state names, image size and task. Images are centred in a grey input.
    """

    colours = _Colours(mean=(0, 0, 0), deviation=(255, 255, 255), around=(114, 114, 114))

    def __init__(self, metadata: Mapping[str, str]) -> None:
        if (task := metadata.get("task")) != "detect":
            raise ValueError(f"its task is {task}; export a model whose task is detect")
        names: dict[int, str] = ast.literal_eval(metadata["names"])
        self.names = tuple(str(names[number]) for number in range(len(names)))
        height, width = ast.literal_eval(metadata["imgsz"])
        self._whole = int(width), int(height)

    def view(self, size: _Size) -> _View:
        """Keeps the aspect ratio."""
        scale = min(whole / side for whole, side in zip(self._whole, size, strict=True))
        width, height = (max(1, round(side * scale)) for side in size)
        # Of an odd margin, the smaller half is left of or above the image.
        return _View((width, height), self._whole, ((self._whole[0] - width) // 2, (self._whole[1] - height) // 2))

    def found(self, outputs: Mapping[str, Any]) -> _Found:
        """Takes the best class of each candidate."""
        (found,) = next(iter(outputs.values()))
        if found.shape[1] == 6:
            if 0 < found[:, :4].max(initial=0) <= 1:
                raise ValueError("its boxes are shares of the image, as RT-DETR's are; run RT-DETR with transformers")
            return found[:, :4], found[:, 5].astype(np.int64), found[:, 4]
        if found.shape[0] != 4 + len(self.names):
            raise ValueError(f"its output is 1×{'×'.join(map(str, found.shape))} for {len(self.names)} names")
        return _xyxy(found[:4].T), found[4:].argmax(axis=0), found[4:].max(axis=0)


class _RfDetr:
    """Outputs `dets`, 1×N×4 cxcywh as shares of the image, and `labels`, 1×N×C logits of independent classes.

    Images are stretched to a fixed size.
    """

    colours = _Colours((255 * MEAN).tolist(), (255 * DEVIATION).tolist(), around=(0, 0, 0))

    def __init__(self, whole: _Size, names: Sequence[str], classes: int) -> None:
        if len(names) not in (classes - 1, classes):  # the last may be the background
            raise ValueError(
                f"has {classes} classes for {len(names)} names; COCO's weights have 91, numbered by COCO's ids"
            )
        self.names = (*names, "")[:classes]
        self._whole, self._named_C = whole, np.array(self.names) != ""

    def view(self, size: _Size) -> _View:
        """The whole input."""
        return _View(self._whole, self._whole)

    def found(self, outputs: Mapping[str, Any]) -> _Found:
        """Takes the best class of each query, of those with a name."""
        (shares_N4,), (logits_NC,) = outputs["dets"], outputs["labels"]
        scores_NC = self._named_C / (1 + np.exp(-logits_NC.astype(np.float64)))
        return _xyxy(shares_N4 * (self._whole * 2)), scores_NC.argmax(axis=1), scores_NC.max(axis=1)


class _Mmdeploy:
    """Outputs `dets`, 1×N×5 xyxy and score, and `labels`, 1×N. Its pipeline.json says how images become input."""

    _STEPS = frozenset(
        {"LoadImageFromFile", "Resize", "Pad", "Normalize", "DefaultFormatBundle", "ImageToTensor", "Collect"}
    )

    def __init__(self, pipeline: Any, names: Sequence[str]) -> None:
        steps: list[dict[str, Any]] = pipeline["pipeline"]["tasks"][0]["transforms"]
        kinds = [step["type"] for step in steps]
        if unknown := set(kinds) - self._STEPS:
            raise ValueError(f"{PIPELINE} has the step {min(unknown)}; known steps are {sorted(self._STEPS)}")
        self.names = tuple(names)
        self._resize = steps[kinds.index("Resize")]
        self._pads = [step for step in steps if step["type"] == "Pad"]
        colours = steps[kinds.index("Normalize")]
        around = colours["mean"]
        if "Pad" in kinds[: kinds.index("Normalize")]:
            value = self._pads[0].get("pad_val", 0)
            around = value["img"] if isinstance(value, dict) else [value] * 3
        self.colours = _Colours(colours["mean"], colours["std"], around, bgr=not colours["to_rgb"])

    def view(self, size: _Size) -> _View:
        """Puts the image in the input's corner; its size follows from the steps."""
        bound = _sides(self._resize["size"])
        if self._resize.get("keep_ratio", False):
            scale = min(max(bound) / max(size), min(bound) / min(size))
            bound = max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))
        width, height = bound
        for pad in self._pads:
            if pad.get("pad_to_square", False):
                width = height = max(width, height)
            elif pad.get("size") is not None:
                least_height, least_width = _sides(pad["size"])  # as mmdeploy's own runtime reads it
                width, height = max(width, least_width), max(height, least_height)
            else:
                width, height = (-(-side // pad["size_divisor"]) * pad["size_divisor"] for side in (width, height))
        return _View(bound, (width, height))

    def found(self, outputs: Mapping[str, Any]) -> _Found:
        """Returns the outputs, since the graph has already chosen."""
        (rows_N5,), (labels_N,) = outputs["dets"], outputs["labels"]
        return rows_N5[:, :4], labels_N, rows_N5[:, 4]


_Layout = _Ultralytics | _RfDetr | _Mmdeploy
"""Each places an image of a size in the input, and reads the outputs for one image. The constructors and `found` raise
ValueError for what has another form."""


class OnnxDetector:
    """A graph whose outputs have one of the known layouts. It sees one image per pass."""

    def __init__(self, files: DetectorFiles, settings: DetectSettings, worker: int) -> None:
        """Raises `FatalError` for a graph that is not such a detector, or lacks names."""
        self._path, self._duplicates = files.place, settings.duplicates
        self._session = _session(files.place, choose_device(settings.device, worker))
        try:
            self._layout = _layout(self._session, files)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, SyntaxError, RecursionError) as error:
            raise FatalError(f"detector {self._path}: {first_line(error)} (setting: detect.weights)") from error
        self.names = self._layout.names

    def detect(self, images: Sequence[Image.Image], threshold: float) -> list[Detections]:
        """Finds the boxes of images. Raises `FatalError` for outputs that do not fit the graph's layout."""
        return [self._found(image, threshold) for image in images]

    def _found(self, image: Image.Image, threshold: float) -> Detections:
        view = self._layout.view(image.size)
        (entry,) = self._session.get_inputs()
        pixels = _pixels(image, view, self._layout.colours).astype(np.float16 if "16" in entry.type else np.float32)
        names = [output.name for output in self._session.get_outputs()]
        try:
            outputs = dict(zip(names, self._session.run(names, {entry.name: pixels}), strict=True))
            boxes, labels, scores = self._layout.found(outputs)
            if (last := labels.max(initial=-1)) >= len(self.names):
                raise ValueError(f"it finds class {last}, but has {len(self.names)} names")
        except Exception as error:  # onnxruntime's errors have no class of their own
            raise FatalError(f"detector {self._path}: {first_line(error)} (setting: detect.weights)") from error
        corner, scale = np.array(view.corner * 2), np.array(image.size * 2) / np.array(view.image * 2)
        kept = ~(scores < threshold) & (labels >= 0)  # NaN scores are reported later
        found = Detections((boxes[kept] - corner) * scale, labels[kept], scores[kept].astype(np.float64))
        return found.without_duplicates(self._duplicates)


def _session(path: Path, device: torch.device) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise FatalError(f"detector {path}: needs onnxruntime: pip install 'rlip[onnx]'") from error
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        # As in PyTorch's detectors (`choose_device`), nothing is rounded to TF32, which is onnxruntime's default.
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0, "use_tf32": 0}))
    options = onnxruntime.SessionOptions()
    # By itself, onnxruntime would take all cores, which other workers need, too.
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no class of their own
        raise FatalError(
            f"detector {path}: onnxruntime can't load it ({first_line(error)}); export it again"
        ) from error
    # Without CUDA, or in a build for CPUs, onnxruntime merely warns and computes on the CPU.
    if device.type == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        raise FatalError(
            f"detector {path}: the installed onnxruntime can't use a GPU; pip install onnxruntime-gpu instead, with "
            "the CUDA and cuDNN that it asks for, or set detect.device = 'cpu'"
        )
    return session


def _layout(session: Any, files: DetectorFiles) -> _Layout:
    """The layout of a graph. Raises ValueError and the errors of reading damaged metadata."""
    metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
    (entry, *more), outputs = session.get_inputs(), {output.name: output.shape for output in session.get_outputs()}
    is_image = len(entry.shape) == 4 and not more
    if is_image and isinstance(entry.shape[0], int) and entry.shape[0] != 1:
        raise ValueError(f"takes {entry.shape[0]} images at a time; export it for one")
    if is_image and {"names", "imgsz"} <= metadata.keys():
        return _Ultralytics(metadata)
    dets, labels = (outputs.get(name, ()) for name in ("dets", "labels"))
    if is_image and dets[2:] == [5] and len(labels) == 2:
        if PIPELINE not in files.files:
            raise ValueError(f"mmdeploy's {PIPELINE} is not next to it; export with --dump-info, and copy the file")
        pipeline = read_json(files.files[PIPELINE], "a file that mmdeploy writes with --dump-info")
        return _Mmdeploy(pipeline, _names_beside(files))
    if is_image and dets[2:] == [4] and len(labels) == 3:
        _, _, height, width = entry.shape
        if "rfdetr_inference" in metadata:
            by_number = json.loads(metadata["rfdetr_inference"])["class_id_to_name"]
            names: Sequence[str] = [by_number.get(str(number), "") for number in range(labels[2])]
        else:
            names = _names_beside(files)
            if labels[2] == 91 and names[:2] == ["person", "bicycle"]:
                raise ValueError("has 91 classes, numbered by COCO's ids, from 1: begin the names with an empty line")
        return _RfDetr((int(width), int(height)), names, labels[2])
    shapes = ", ".join(f"{name} {shape}" for name, shape in outputs.items())
    raise ValueError(
        f"is not a detector exported by Ultralytics, RF-DETR or mmdeploy: its outputs are {shapes}; a file of "
        "Ultralytics needs its metadata, one of the others the outputs dets and labels"
    )


def _names_beside(files: DetectorFiles) -> list[str]:
    path = files.place.with_suffix(NAMES_SUFFIX)
    if path.name not in files.files:
        raise ValueError(
            f"the file has no class names; write them to {path}, one a line in the order of their numbers, with an "
            "empty line for a number without a name"
        )
    return [line.strip() for line in read_text(path, "class names, one per line").splitlines()]


def _pixels(image: Image.Image, view: _View, colours: _Colours) -> Floats:
    """Returns 1×3×H×W. The libraries resize without antialiasing, as `transform` does."""
    whole = (0, 0, image.width, image.height)
    resized = image.transform(view.image, Image.Transform.EXTENT, whole, Image.Resampling.BILINEAR)
    values = np.asarray(resized, np.float64)
    pixels_HW3 = np.full((view.whole[1], view.whole[0], 3), colours.around, np.float64)
    (left, top), (width, height) = view.corner, view.image
    pixels_HW3[top : top + height, left : left + width] = values[:, :, ::-1] if colours.bgr else values
    return ((pixels_HW3 - colours.mean) / colours.deviation).transpose(2, 0, 1)[None]


def _xyxy(cxcywh_N4: Floats) -> Floats:
    centre, half = cxcywh_N4[:, :2], cxcywh_N4[:, 2:] / 2
    return np.concatenate((centre - half, centre + half), axis=1)


def _sides(size: int | Sequence[int]) -> _Size:
    first, second = (size, size) if isinstance(size, int) else size
    return int(first), int(second)
