"""Detectors of transformers, of torchvision and of this project find what their own libraries say they find."""

import json
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from detection.detectors import NAMES, save_detector, save_zero_shot
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline.detection.detector import OpenDetector, map_names, open_detector
from pipeline.detection.settings import DetectSettings
from pipeline.detection.torchvision_detector import TorchvisionDetector
from pipeline.detection.weights_files import find_detector
from pipeline.detection.zero_shot_detector import ZeroShotDetector
from pipeline.evaluation.detection import Detections, average_precision_50
from pipeline.runtime.stage import Inputs
from pipeline.stages.detect import DetectStage
from scenes.scene import render
from scenes.world import make_scene
from storage.errors import FatalError
from tests.data.toy_sets import save_json

KINDS = ("rt_detr_v2", "d_fine", "detr", "deformable_detr")
EVERY_BOX = {"threshold": 0.0, "duplicates": 1.0, "max_boxes": 1000, "device": "cpu"}


def pictures() -> list[Image.Image]:
    """Pictures of two sizes."""
    made = [render(make_scene(77, index)) for index in range(3)]
    return [*made, made[0].resize((90, 160))]


def opened(weights: Path, **settings: object) -> OpenDetector:
    return open_detector(DetectSettings.model_validate(EVERY_BOX | {"weights": str(weights)} | settings))


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_transformers_finds_what_its_own_library_says(kind, tmp_path):
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    folder = save_detector(kind, tmp_path / kind)
    images = pictures()
    found = opened(folder).detect(images)
    model = AutoModelForObjectDetection.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    for image, named in zip(images, found, strict=True):
        with torch.inference_mode():
            outputs = model(**processor(images=image, return_tensors="pt"))
        (expected,) = processor.post_process_object_detection(outputs, 0.0, [(image.height, image.width)])
        scores = np.sort(expected["scores"].numpy())[::-1]
        assert named.boxes.scores is not None and len(named.boxes.scores) > 0
        kept = len(named.boxes.scores)
        np.testing.assert_allclose(named.boxes.scores[:3], scores[:3], atol=1e-5)
        assert kept <= len(scores) and set(named.boxes.labels) <= set(range(len(NAMES)))
        best = expected["boxes"][int(expected["scores"].argmax())].numpy().clip(0, [image.width, image.height] * 2)
        assert np.abs(named.boxes.boxes - best).max(axis=1).min() < 1e-2, "in pixels of the image as given"


NAMES_ASKED = ("person", "fire hydrant", "zebra")


@pytest.mark.parametrize("kind", ["grounding-dino", "owlvit", "owlv2"])
def test_a_zero_shot_detector_looks_for_the_names_of_the_recipe_as_its_own_library_does(kind, tmp_path):
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    folder = save_zero_shot(kind, tmp_path / kind)
    assert opened(folder, categories=NAMES_ASKED).categories == NAMES_ASKED
    model = AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    images = pictures()
    settings = DetectSettings(weights=str(folder), categories=NAMES_ASKED, batch_size=4, device="cpu")
    found = ZeroShotDetector(find_detector(settings), settings, 0).detect(images, -1.0)
    for image, boxes in zip(images, found, strict=True):
        text = "person. fire hydrant. zebra." if kind == "grounding-dino" else [list(NAMES_ASKED)]
        with torch.inference_mode():
            outputs = model(**processor(text=text, images=image, return_tensors="pt"))
        size = [(image.height, image.width)]
        (expected,) = processor.post_process_grounded_object_detection(outputs, threshold=-1.0, target_sizes=size)
        if kind == "grounding-dino":  # there, the tokens that open, part and close the sentence score, too
            expected["scores"] = outputs.logits[0, :, [1, 3, 4, 6]].sigmoid().amax(dim=1)
        else:
            np.testing.assert_array_equal(boxes.labels, expected["labels"])
        np.testing.assert_allclose(boxes.scores, expected["scores"], atol=1e-5)
        np.testing.assert_allclose(boxes.boxes, expected["boxes"], atol=1e-2)
    with pytest.raises(FatalError, match=r"set detect\.categories"):
        opened(folder)


def test_a_processor_that_was_saved_with_its_tokenizer_is_found_and_counts(tmp_path):
    from transformers import AutoProcessor

    folder = save_zero_shot("owlv2", tmp_path / "detector")
    (expected,) = opened(folder, categories=NAMES_ASKED).detect(pictures()[:1])
    processor = AutoProcessor.from_pretrained(folder)
    (folder / "preprocessor_config.json").unlink()
    processor.save_pretrained(folder)
    assert "processor_config.json" in find_detector(DetectSettings(weights=str(folder))).files
    (folder / "preprocessor_config.json").write_text("{}")  # of the two, transformers reads the other
    assert "processor_config.json" in find_detector(DetectSettings(weights=str(folder))).files
    (found,) = opened(folder, categories=NAMES_ASKED).detect(pictures()[:1])
    np.testing.assert_array_equal(found.boxes.boxes, expected.boxes.boxes)


def test_more_names_than_a_sentence_holds_are_looked_for_in_several(tmp_path):
    folder = save_zero_shot("grounding-dino", tmp_path / "detector")
    last = ("zebra person", "sofa sofa")
    (whole,) = opened(folder, categories=("person", "zebra", "fire hydrant", "sofa", *last)).detect(pictures()[:1])
    (alone,) = opened(folder, categories=last).detect(pictures()[:1])
    assert whole.boxes.scores is not None and alone.boxes.scores is not None
    of_last = whole.boxes.labels >= 4
    np.testing.assert_allclose(whole.boxes.scores[of_last], alone.boxes.scores, atol=1e-6)
    np.testing.assert_array_equal(whole.boxes.labels[of_last] - 4, alone.boxes.labels)
    with pytest.raises(FatalError, match="exceeds the detector's limit of 12 tokens"):
        opened(folder, categories=("zebra " * 12,)).detect(pictures()[:1])


def test_names_are_mapped_and_the_others_left_out(tmp_path):
    folder = save_detector("rt_detr_v2", tmp_path / "detector")
    images = pictures()[:1]
    own, mapped = opened(folder), opened(folder, categories=("couch", "person"))
    assert own.categories == ("person", "sofa", "zebra") and mapped.categories == ("couch", "person")
    (every,), (fitting,) = own.detect(images), mapped.detect(images)
    assert every.other_names == 0 and fitting.other_names == (every.boxes.labels == 2).sum() > 0
    by_name = {name: (every.boxes.labels == place).sum() for place, name in enumerate(own.categories)}
    assert (fitting.boxes.labels == 0).sum() == by_name["sofa"]
    assert (fitting.boxes.labels == 1).sum() == by_name["person"]
    with pytest.raises(
        FatalError, match=r"^detect\.categories: none of the detector's 3 names.*person, sofa, zebra.*cup, tie"
    ):
        opened(folder, categories=("cup", "tie"))


def test_threshold_duplicates_and_number_are_as_set(tmp_path):
    folder = save_detector("detr", tmp_path / "detector")
    (every,) = opened(folder).detect(pictures()[:1])
    assert every.boxes.scores is not None
    middle = float(np.median(every.boxes.scores))
    (above,) = opened(folder, threshold=middle).detect(pictures()[:1])
    assert above.boxes.scores is not None and 0 < len(above.boxes.scores) < len(every.boxes.scores)
    assert above.boxes.scores.min() >= middle
    (few,) = opened(folder, max_boxes=2).detect(pictures()[:1])
    np.testing.assert_array_equal(few.boxes.scores, every.boxes.scores[:2])
    (apart,) = opened(folder, duplicates=0.01).detect(pictures()[:1])
    assert len(apart.boxes.labels) < len(every.boxes.labels)


def test_torchvisions_detector_is_identified_by_its_files_name(tmp_path):
    from torchvision.models import get_model

    torch.manual_seed(0)
    network = get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=91)
    for weight in network.head.classification_head.parameters():  # otherwise, all scores would be the same
        torch.nn.init.normal_(weight, std=0.1)
    file = tmp_path / "ssdlite320_mobilenet_v3_large_coco-a79551df.pth"
    torch.save(network.state_dict(), file)
    detector = opened(file, categories=("person", "couch"))
    network.score_thresh, network.nms_thresh, network.detections_per_img = 0.0, 1.0, 1000  # as EVERY_BOX asks
    assert detector.categories == ("person", "couch")
    image = pictures()[0]
    (named,) = detector.detect([image])
    assert named.boxes.scores is not None
    with torch.inference_mode():
        pixels = torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1) / 255)
        (expected,) = network.eval()([pixels])
    fitting = expected["scores"][(expected["labels"] == 1) | (expected["labels"] == 63)].numpy()  # COCO's ids
    assert len(fitting)
    np.testing.assert_allclose(named.boxes.scores, np.sort(fitting)[::-1], atol=1e-6)
    other = file.rename(tmp_path / "mine.pth")
    with pytest.raises(FatalError, match="its name identifies no detector of torchvision"):
        opened(other)
    wrong = other.rename(tmp_path / "retinanet_resnet50_fpn_coco-eeacb38b.pth")
    with pytest.raises(FatalError, match="not the weights of torchvision's retinanet_resnet50_fpn"):
        opened(wrong)


def test_norms_have_the_epsilon_with_which_torchvision_loads_its_own_weights(tmp_path):
    from torchvision.models import get_model

    network = get_model("retinanet_resnet50_fpn", weights=None, weights_backbone=None, num_classes=91)
    file = tmp_path / "retinanet_resnet50_fpn_coco-eeacb38b.pth"
    torch.save(network.state_dict(), file)
    settings = DetectSettings(weights=str(file), device="cpu")
    detector = TorchvisionDetector(find_detector(settings), settings, 0)
    norms = [each for each in detector._model.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {0.0}
    assert DetectStage(settings).row_settings()["version"] == 3
    other = settings.model_copy(update={"weights": str(tmp_path / "retinanet_resnet50_fpn_v2_coco-5905b1c5.pth")})
    assert DetectStage(other).row_settings()["version"] == 2


def test_a_network_of_this_project_finds_the_objects_of_its_world(root):
    scenes = [make_scene(4242, index) for index in range(10)]
    detector = opened(root / "scenes/weights/detector", threshold=0.05)
    found = [named.boxes for named in detector.detect([render(scene) for scene in scenes])]
    places = {name: place for place, name in enumerate(detector.categories)}
    truths = [
        Detections(
            np.array([(x, y, x + w, y + h) for x, y, w, h in (each.box for each in scene.objects)], np.float64),
            np.array([places[each.category] for each in scene.objects], np.int64),
        )
        for scene in scenes
    ]
    scores = average_precision_50(found, truths)
    assert np.mean(list(scores.values())) > 0.8


def test_a_name_in_another_spelling_than_the_trainings_is_refused(root):
    weights = root / "scenes/weights/detector"
    with pytest.raises(FatalError, match=r"as the weights learned them: horse, sports ball$"):
        opened(weights, categories=("Horse", "person", "sports_ball", "Zebra"))
    assert opened(weights, categories=("person", "Zebra")).categories == ("person", "Zebra")


def test_an_invalid_detector_is_reported(root, tmp_path):
    def refused(weights: object, words: str, **settings: object) -> None:
        with pytest.raises(FatalError, match=words):
            opened(Path(str(weights)), **settings)

    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no file .*model.safetensors")
    refused("nobody/nothing-here", "no such folder, and it is not in the local hub cache")
    refused("demo-detectr", r"no such folder \(did you mean 'demo-detector'\?\), and it")
    for name in ("gone.pth", "gone.json"):
        refused(tmp_path / name, "no such file; name")
    for name in ("model.pt", "model.pkl"):
        (tmp_path / name).write_bytes(b"PK")
        refused(tmp_path / name, "is not a detector; expected .safetensors")
    refused(root / "scenes/weights/tagger", "takes boxes and detects none")
    refused(root / "scenes/weights/captioner", "transformers can't load it for object detection")
    alone = shutil.copy(root / "scenes/weights/detector/model.safetensors", tmp_path / "alone.safetensors")
    refused(alone, "no tokenizer is next to it")
    ours = Path(shutil.copytree(root / "scenes/weights/detector", tmp_path / "ours"))
    for vocabulary in ("[" * 100_000, '{"image_size": 96, "objects": {}}', "7"):
        (ours / "vocabulary.json").write_text(vocabulary)
        refused(ours, r"vocabulary\.json: damaged .*; copy it again")
    (ours / "vocabulary.json").unlink()
    words = json.loads((ours / "vocab.json").read_bytes())
    (ours / "vocab.json").write_text(json.dumps(words | {f"word{n}": len(words) + n for n in range(5000)}))
    refused(ours, "detect.weights: .*tokenizer")
    stranger = save_detector("detr", tmp_path / "stranger")
    whole = load_file(stranger / "model.safetensors")
    headless = {name: value for name, value in whole.items() if not name.startswith("class_labels_classifier")}
    save_file(headless, stranger / "model.safetensors", {"format": "pt"})
    refused(stranger, r"it lacks \['class_labels_classifier\.bias', 'class_labels_classifier\.weight'\]")
    refused(stranger / "model.safetensors", "this project did not write the file")
    (stranger / "preprocessor_config.json").rename(tmp_path / "processor")
    refused(stranger, "lacks preprocessor_config.json")
    (tmp_path / "processor").rename(stranger / "preprocessor_config.json")
    (stranger / "model.safetensors").rename(stranger / "pytorch_model.bin")
    refused(stranger, "its weights are pytorch_model.bin, a pickle")


def test_boxes_that_another_tool_found_come_from_its_file(tmp_path):
    boxes = {"bbox": [2, 3, 10, 20], "image_id": 7, "category_id": 90}
    content = {
        "images": [{"id": 7, "file_name": "val/a.jpg"}, {"id": 8, "file_name": "val\\b.jpg"}],
        "annotations": [boxes | {"score": 0.9}, boxes | {"category_id": 3, "score": 0.4}],
        "categories": [{"id": "90", "name": "couch"}, {"id": 3, "name": "person"}],
    }
    path = save_json(tmp_path / "found.json", content)
    image = Image.new("RGB", (40, 30))
    found, none = opened(path, threshold=0.5, categories=("sofa", "person")).detect(
        [image, image], ["val/a.jpg", "b.jpg"]
    )
    assert found.boxes.boxes.tolist() == [[2, 3, 12, 23]] and found.boxes.labels.tolist() == [0]
    assert len(none.boxes.labels) == 0
    with pytest.raises(FatalError, match=r"lists no image 'c\.jpg'"):
        opened(path).detect([image], ["c.jpg"])
    results = [boxes | {"score": 0.9}]
    odd = [boxes | {"category_id": each, "score": 0.5} for each in ("chair", 5)]
    listed = [boxes | {"category_id": [3], "score": 0.5}]
    for wrong in (
        results,
        *(content | {"annotations": each} for each in ([boxes], odd, listed)),
        content | {"categories": []},
    ):
        with pytest.raises(FatalError, match=r"COCO\(instances\)\.loadRes"):
            opened(save_json(tmp_path / "wrong.json", wrong))
    assert set(find_detector(DetectSettings(weights=str(path))).files) == {"boxes"}


@pytest.mark.parametrize("changed, error", [
    ({"width": 40, "height": 30}, None), ({"id": "7"}, None),
    ({"width": 80, "height": 60}, "80x60 pixels there, but 40x30"), ({"id": 6}, r"images lack the ids \[7\]"),
    ({"file_name": "2/seq2/a.jpg"}, "lists 2 images 'seq2/a.jpg'"),
    ({"file_name": "seq3/a.jpg"}, "lists no image 'seq1/a.jpg'"),
    ({"file_name": "a.jpg"}, None),
])  # fmt: skip
def test_boxes_of_another_image_of_the_same_name_or_of_another_size_are_not_taken(tmp_path, changed, error):
    first = {"id": 7, "file_name": "videos/seq1/a.jpg"}
    content = {
        "images": [first | changed, {"id": 8, "file_name": "videos/seq2/a.jpg"}],
        "annotations": [{"bbox": [2, 3, 10, 20], "image_id": 7, "category_id": 1, "score": 0.9}],
        "categories": [{"id": 1, "name": "person"}],
    }
    path, images = save_json(tmp_path / "found.json", content), [Image.new("RGB", (40, 30))] * 2
    if error:
        with pytest.raises(FatalError, match=error):
            opened(path).detect(images, ["seq2/a.jpg", "seq1/a.jpg"])
    else:
        second, found = opened(path).detect(images, ["seq2/a.jpg", "seq1/a.jpg"])
        assert (len(found.boxes.labels), len(second.boxes.labels)) == (1, 0)


@pytest.mark.parametrize("first, second, error", [
    (("one", "seq1/a.jpg"), ("one", "seq2/a.jpg"), None),
    (("one", "a.jpg"), ("one", "seq1/a.jpg"), "lists one image for 'one/a.jpg' and 'one/seq1/a.jpg'; list each"),
    (("one", "a.jpg"), ("two", "a.jpg"), "lists one image for 'one/a.jpg' and 'two/a.jpg'.* in separate runs"),
])  # fmt: skip
def test_two_images_never_share_recorded_boxes_whatever_their_partitions(tmp_path, first, second, error):
    listed = [{"id": number, "file_name": name} for number, name in enumerate(("a.jpg", "seq2/a.jpg"))]
    path = save_json(tmp_path / "found.json", {"images": listed, "annotations": [], "categories": []})
    partitions: Any = [
        SimpleNamespace(table=lambda name, row=row: pa.Table.from_pylist([{"dataset": row[0], "uri": row[1]}]))
        for row in (first, second)
    ]
    with pytest.raises(FatalError, match=error) if error else nullcontext():
        DetectStage(DetectSettings(weights=str(path))).audit(Inputs({"images": partitions}))


@pytest.mark.parametrize("box, doubt", [
    ([20, 15, 10, 10], ""), ([20, 15, 30, 25], "1 of 1 boxes of its first 1 images reach beyond their image"),
    ([0.5, 0.5, 0.2, 0.3], "1 of 1 boxes of its first 1 images are smaller than a pixel"),
])  # fmt: skip
def test_recorded_boxes_in_another_convention_are_a_warning(tmp_path, caplog, box, doubt):
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 40, "height": 30}],
        "annotations": [{"bbox": box, "image_id": 7, "category_id": 1, "score": 0.9}],
        "categories": [{"id": 1, "name": "person"}],
    }
    path = save_json(tmp_path / "{found}.json", content)
    DetectStage(DetectSettings(weights=str(path))).audit(Inputs({"images": []}))
    assert doubt in caplog.text and bool(caplog.text) == bool(doubt)


def test_only_files_that_are_read_decide_the_key(tmp_path):
    folder = save_detector("detr", tmp_path / "detector")
    (folder / "README.md").write_text("words")
    found = find_detector(DetectSettings(weights=str(folder)))
    assert set(found.files) == {"config.json", "preprocessor_config.json", "model.safetensors"}
    assert json.loads(found.files["config.json"].read_bytes())["model_type"] == "detr"


class Fixed:
    """A detector that finds the same boxes in every image."""

    names = ("cup", "", "tie")

    def __init__(self, *boxes: tuple[float, float, float, float], scores: list[float], labels: list[int]) -> None:
        self._found = Detections(np.array(boxes), np.array(labels), np.array(scores))

    def detect(self, images: Sequence[Image.Image], threshold: float) -> list[Detections]:
        return [self._found] * len(images)


def test_boxes_lie_in_the_picture_best_first_and_those_outside_it_are_left_out():
    found = Fixed((-5, 4, 30, 99), (50, 5, 60, 9), (3, 3, 9, 9), scores=[0.6, 0.9, 0.8], labels=[2, 0, 0])
    (named,) = OpenDetector(found, DetectSettings()).detect([Image.new("RGB", (40, 20))])
    assert named.boxes.boxes.tolist() == [[3, 3, 9, 9], [0, 4, 30, 20]]
    assert named.boxes.labels.tolist() == [0, 1] and named.boxes.scores is not None
    assert named.boxes.scores.tolist() == [0.8, 0.6]


def test_a_class_without_a_name_is_counted_and_left_out():
    found = Fixed((3, 3, 9, 9), (0, 0, 9, 9), scores=[0.6, 0.9], labels=[1, 0])
    (named,) = OpenDetector(found, DetectSettings()).detect([Image.new("RGB", (40, 20))])
    assert named.other_names == 1 and named.boxes.labels.tolist() == [0]


def test_numbers_that_are_none_stop_the_run():
    for boxes, score in (((0, 0, float("nan"), 9), 0.5), ((0, 0, 9, 9), float("nan"))):
        detector = OpenDetector(Fixed(boxes, scores=[score], labels=[0]), DetectSettings())
        with pytest.raises(FatalError, match="not finite"):
            detector.detect([Image.new("RGB", (40, 20))])


FITTING = (
    "person", "couch", "tv", "truck", "hair drier", "handbag", "backpack", "bicycle", "motorcycle", "baseball glove",
    "dining table", "surfboard",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("person", "person"),
        ("Person", "person"),
        ("hair_drier", "hair drier"),
        ("people", "person"),
        ("sofa", "couch"),
        ("television", "tv"),
        ("Hair Dryer", "hair drier"),
        ("fire truck", "truck"),
        ("bike", None),  # a bicycle or a motorcycle
        ("bag", None),  # broader than a handbag and a backpack
        ("vehicle", None),  # broader than a truck
        ("Gloves", None),  # broader than a baseball glove
        ("table", None),  # broader than a dining table
        ("board", None),  # not only a surfboard
        ("zebra", None),
    ],
)
def test_a_name_fits_one_category_or_none(name, category):
    assert map_names([name, "person"], FITTING) == [category, "person"]


def test_a_broader_name_never_fits_a_narrower_category_and_the_same_words_come_before_a_synonym():
    assert map_names(["animal", "dog"], ["dog"]) == [None, "dog"]
    assert map_names(["dog", "cat"], ["animal"]) == ["animal", "animal"]
    assert map_names(["computer", "laptop"], ["laptop", "computer"]) == ["computer", "laptop"]
    assert map_names(["tv", "bird", "screen"], ["Moniter/TV", "Wild Bird"]) == ["Moniter/TV", "Wild Bird", None]
    assert map_names(["mushroom", "vegetable"], ["Mushroon"]) == ["Mushroon", None]
