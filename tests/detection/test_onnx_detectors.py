"""Small ONNX graphs with the inputs, outputs and metadata of Ultralytics, RF-DETR and mmdeploy."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from pipeline.detection import onnx_detector
from pipeline.detection.detector import open_detector
from pipeline.detection.settings import DetectSettings
from pipeline.detection.weights_files import find_detector
from pipeline.evaluation.detection import Detections
from storage.errors import FatalError

IMAGE = Image.new("RGB", (80, 40), (200, 100, 50))
"""Networks see it at 64×32; its middle half is the box (20, 10, 60, 30)."""
ULTRALYTICS = {"task": "detect", "imgsz": "[64, 64]", "names": "{0: 'person', 1: 'dog'}"}
PIPELINE: dict[str, Any] = {
    "pipeline": {
        "tasks": [
            {
                "transforms": [
                    {"type": "LoadImageFromFile"},
                    {"type": "Resize", "size": [96, 64], "keep_ratio": True},
                    {"type": "Normalize", "mean": [10, 0, 0], "std": [200, 1, 1], "to_rgb": False},
                    {"type": "Pad", "size_divisor": 64},
                ]
            }
        ]
    }
}


def save_graph(
    path: Path, outputs: dict[str, Any], metadata: dict[str, str] | None = None, shape: tuple[Any, ...] = (1, 3, 64, 64)
) -> Path:
    """Saves a graph with these outputs, in which NaN stands for the mean of the input's first channel."""
    parts = [
        helper.make_node("Slice", ["image", "zero", "one", "one"], ["first"]),
        helper.make_node("ReduceMean", ["first"], ["mean"], keepdims=0),
    ]
    constants = [numpy_helper.from_array(np.array([number]), name) for number, name in ((0, "zero"), (1, "one"))]
    infos = []
    for name, value in outputs.items():
        array = np.array(value)
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        constants.append(numpy_helper.from_array(np.nan_to_num(array), f"{name}_fixed"))
        constants.append(numpy_helper.from_array(np.isnan(array), f"{name}_open"))
        like = helper.make_node("Cast", ["mean"], [f"{name}_mean"], to=constants[-2].data_type)
        parts += [like, helper.make_node("Where", [f"{name}_open", f"{name}_mean", f"{name}_fixed"], [name])]
        infos.append(helper.make_tensor_value_info(name, constants[-2].data_type, array.shape))
    entry = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    model = helper.make_model(
        helper.make_graph(parts, "detector", [entry], infos, constants),
        opset_imports=[helper.make_opsetid("", 18)], ir_version=10,
    )  # fmt: skip
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path


def found(path: Path, **settings: Any) -> tuple[tuple[str, ...], Detections]:
    chosen = {"threshold": 0.1, "device": "cpu"} | settings
    detector = open_detector(DetectSettings(weights=str(path), **chosen))
    (named,) = detector.detect([IMAGE])
    return detector.categories, named.boxes


MEAN = float("nan")


def test_ultralytics_candidates_are_boxes_of_the_image_in_the_middle_of_the_input(tmp_path: Path) -> None:
    candidates = [[32, 32, 32, 16, 0.05, MEAN], [32, 32, 32, 16, 0.02, 0.3], [8, 24, 8, 8, 0.2, 0.1]]
    path = save_graph(tmp_path / "yolo.onnx", {"output0": [np.transpose(candidates)]}, ULTRALYTICS)
    names, boxes = found(path)
    np.testing.assert_allclose(boxes.boxes, [[20, 10, 60, 30], [5, 5, 15, 15]], atol=1e-4)
    assert names == ("person", "dog") and boxes.labels.tolist() == [1, 0]
    np.testing.assert_allclose(boxes.scores, [(200 + 114) / 2 / 255, 0.2], atol=1e-6)


def test_ultralytics_end_to_end_models_give_rows(tmp_path: Path) -> None:
    rows = [[16, 24, 48, 40, 0.9, 1], [16, 24, 48, 40, 0.8, 0], [0, 0, 0, 0, 0, 0]]
    path = save_graph(tmp_path / "yolo.onnx", {"output0": [rows]}, ULTRALYTICS)
    names, boxes = found(path, categories=("hound", "person"))
    np.testing.assert_allclose(boxes.boxes, [[20, 10, 60, 30]], atol=1e-4)
    assert names == ("hound", "person") and boxes.labels.tolist() == [1], "a dog need not be a hound"


@pytest.mark.parametrize("names_in", ["metadata", "file"])
def test_rf_detr_stretches_images_and_its_last_class_may_be_the_background(names_in: str, tmp_path: Path) -> None:
    outputs = {"dets": [[[0.5] * 4, [0.25] * 4]], "labels": [[[-9, MEAN, 9], [1, -9, 9]]]}
    metadata = {"rfdetr_inference": json.dumps({"class_id_to_name": {"0": "person", "1": "dog"}})}
    path = save_graph(tmp_path / "rfdetr.onnx", outputs, metadata if names_in == "metadata" else None)
    if names_in == "file":
        with pytest.raises(FatalError, match=r"no class names; write them to .*rfdetr\.names"):
            found(path)
        path.with_suffix(".names").write_text("person\ndog\n")
        assert find_detector(DetectSettings(weights=str(path))).files.keys() == {"rfdetr.onnx", "rfdetr.names"}
    _, boxes = found(path)
    np.testing.assert_allclose(boxes.boxes, [[20, 10, 60, 30], [10, 5, 30, 15]], atol=1e-4)
    logits = np.array([(200 / 255 - 0.485) / 0.229, 1])
    np.testing.assert_allclose(boxes.scores, 1 / (1 + np.exp(-logits)), atol=1e-5)
    assert boxes.labels.tolist() == [1, 0]


def test_mmdeploys_graph_gets_the_input_that_its_pipeline_describes(tmp_path: Path) -> None:
    outputs = {"dets": [[[24, 12, 72, 36, MEAN], [0, 0, 9, 9, 0.5]]], "labels": [[1, -1]]}
    path = save_graph(tmp_path / "end2end.onnx", outputs, shape=(1, 3, "height", "width"))
    with pytest.raises(FatalError, match=r"pipeline\.json is not next to it"):
        found(path)
    (tmp_path / "pipeline.json").write_text(json.dumps(PIPELINE))
    path.with_suffix(".names").write_text("person\ndog\n")
    _, boxes = found(path)
    np.testing.assert_allclose(boxes.boxes, [[20, 10, 60, 30]], atol=1e-4)
    share = 96 * 48 / (128 * 64)
    np.testing.assert_allclose(boxes.scores, [(50 - 10) / 200 * share], atol=1e-6)


@pytest.mark.parametrize(
    ("pad", "width", "height"), [({"pad_to_square": True}, 96, 96), ({"size": [64, 128]}, 128, 64)]
)
@pytest.mark.parametrize("grey", [{"pad_val": {"img": [114, 114, 114]}}, {"pad_val": 114}, {}])
def test_mmdeploy_pads_before_it_normalizes(pad, width: int, height: int, grey, tmp_path: Path) -> None:
    load, resize, normalize, _ = PIPELINE["pipeline"]["tasks"][0]["transforms"]
    steps = [load, resize, {"type": "Pad"} | pad | grey, normalize]
    (tmp_path / "pipeline.json").write_text(json.dumps({"pipeline": {"tasks": [{"transforms": steps}]}}))
    outputs = {"dets": [[[24, 12, 72, 36, MEAN]]], "labels": [[1]]}
    path = save_graph(tmp_path / "end2end.onnx", outputs, shape=(1, 3, "height", "width"))
    path.with_suffix(".names").write_text("person\ndog\n")
    _, boxes = found(path, threshold=0.01)
    np.testing.assert_allclose(boxes.boxes, [[20, 10, 60, 30]], atol=1e-4)
    share = 96 * 48 / (width * height)
    np.testing.assert_allclose(boxes.scores, (share * 50 + (1 - share) * (114 if grey else 0) - 10) / 200, atol=1e-5)


def test_a_step_that_is_not_known_and_a_damaged_graph_are_one_message(tmp_path: Path) -> None:
    outputs = {"dets": np.zeros((1, 1, 5)), "labels": [[0]]}
    path = save_graph(tmp_path / "end2end.onnx", outputs)
    path.with_suffix(".names").write_text("person\n")
    steps = [{"type": "RandomFlip"}, *PIPELINE["pipeline"]["tasks"][0]["transforms"]]
    (tmp_path / "pipeline.json").write_text(json.dumps({"pipeline": {"tasks": [{"transforms": steps}]}}))
    with pytest.raises(FatalError, match="has the step RandomFlip; known steps are"):
        found(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(FatalError, match=r"onnxruntime can't load it .*; export it again"):
        found(path)


CANDIDATES = {"output0": np.zeros((1, 6, 21))}


@pytest.mark.parametrize(
    ("outputs", "metadata", "shape", "message"),
    [
        (CANDIDATES, None, (1, 3, 64, 64), r"not a detector exported by Ultralytics, .*output0 \[1, 6, 21\]"),
        (CANDIDATES, ULTRALYTICS, (8, 3, 64, 64), "takes 8 images at a time; export it for one"),
        (CANDIDATES, ULTRALYTICS | {"task": "segment"}, (1, 3, 64, 64), "its task is segment"),
        (CANDIDATES, ULTRALYTICS | {"names": "{0: ["}, (1, 3, 64, 64), r"\(setting: detect\.weights\)"),
        (CANDIDATES, ULTRALYTICS | {"names": "{0: 'person'}"}, (1, 3, 64, 64), "6×21 for 1 names"),
        (CANDIDATES, ULTRALYTICS | {"imgsz": "[32, 32]"}, (1, 3, 64, 64), "invalid dimensions"),
        ({"output0": [[[0, 0, 9, 9, 0.9, 2]]]}, ULTRALYTICS, (1, 3, 64, 64), "finds class 2, but has 2 names"),
        ({"output0": [[[0.5, 0.5, 0.6, 1, 0.9, 1]]]}, ULTRALYTICS, (1, 3, 64, 64), "shares of the image, .* RT-DETR"),
    ],
)  # fmt: skip
def test_what_is_no_such_detector_is_one_message(outputs, metadata, shape, message, tmp_path: Path) -> None:
    path = save_graph(tmp_path / "model.onnx", outputs, metadata, shape)
    with pytest.raises(FatalError, match=message):
        found(path)


def test_names_that_are_too_few_or_begin_too_early_are_an_error(tmp_path: Path) -> None:
    path = save_graph(tmp_path / "model.onnx", {"dets": np.zeros((1, 1, 4)), "labels": np.zeros((1, 1, 91))})
    path.with_suffix(".names").write_text("person\n" * 80)
    with pytest.raises(FatalError, match="91 classes for 80 names"):
        found(path)
    path.with_suffix(".names").write_text("person\nbicycle\n" + "other\n" * 88)  # those of COCO's ids 1 to 90
    with pytest.raises(FatalError, match="begin the names with an empty line"):
        found(path)


def test_files_that_are_missing_beside_a_graph_are_named(tmp_path: Path) -> None:
    path = save_graph(tmp_path / "model.onnx", {"dets": np.zeros((1, 1, 4)), "labels": np.zeros((1, 1, 91))})
    with pytest.raises(FatalError, match=r"no class names; write them to .*model\.names"):
        found(path)
    save_graph(path, {"dets": np.zeros((1, 1, 5)), "labels": [[0]]})
    with pytest.raises(FatalError, match=r"pipeline\.json is not next to it; export with --dump-info"):
        found(path)


def test_a_gpu_rounds_nothing_to_tf32(tmp_path: Path, monkeypatch) -> None:
    asked: dict[str, Any] = {}

    def opened(path: Path, options: Any, providers: list[Any]) -> Any:
        asked.update([providers[0]])
        return SimpleNamespace(get_providers=lambda: list(asked))

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    onnx_detector._session(tmp_path, torch.device("cuda", 1))
    assert asked == {"CUDAExecutionProvider": {"device_id": 1, "use_tf32": 0}}


def test_an_onnxruntime_that_is_missing_or_has_no_gpu_is_named(tmp_path: Path, monkeypatch) -> None:
    path = save_graph(tmp_path / "model.onnx", CANDIDATES, ULTRALYTICS)
    monkeypatch.setattr("pipeline.detection.onnx_detector.choose_device", lambda *asked: torch.device("cuda"))
    known = onnxruntime.get_available_providers()
    for providers in (known, ["CUDAExecutionProvider", *known]):  # as in a build for GPUs where CUDA can't be loaded
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda providers=providers: providers)
        with pytest.raises(FatalError, match="can't use a GPU; pip install onnxruntime-gpu"):
            found(path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(FatalError, match="needs onnxruntime: pip install"):
        found(path)
