"""Detects relations in an image without torch: `pip install onnxruntime numpy pillow`.

    python detect_relations.py MODEL.onnx IMAGE [NUMBER]

MODEL.onnx comes from `rlip weights export --onnx`, and NUMBER relations are printed, the best first (default 10).
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def main(model: str, path: str, number: str = "10") -> None:
    """Prints relations with the boxes of subject and object, in pixels: left, top, right, bottom."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it would warn that texts can be replaced
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    objects, predicates = json.loads(metadata["objects"]), json.loads(metadata["predicates"])
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    outputs = session.run(None, {"image": prepared(image, int(metadata["image_size"]))})
    subject_logits, object_logits, predicate_logits, subject_boxes, object_boxes = (each[0] for each in outputs)
    subjects, subject_scores = best_names(subject_logits)
    others, object_scores = best_names(object_logits)
    scores = (subject_scores * object_scores)[:, None] / (1 + np.exp(-predicate_logits))
    for place in np.argsort(-scores, axis=None, kind="stable")[: int(number)]:
        pair, predicate = np.unravel_index(place, scores.shape)
        subject = f"{objects[subjects[pair]]} {in_pixels(subject_boxes[pair], image)}"
        other = f"{objects[others[pair]]} {in_pixels(object_boxes[pair], image)}"
        print(f"{scores[pair, predicate]:.3f}  {subject}  {predicates[predicate]}  {other}")


def prepared(image: Image.Image, longest: int) -> np.ndarray:
    """Resizes an image to sides that are multiples of 32, and normalises its colours: 1×3×H×W."""
    scale = longest / max(image.size)
    width, height = (max(32, round(side * scale / 32) * 32) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    pixels = (np.asarray(resized, np.float32) / np.float32(255) - MEAN) / DEVIATION
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def best_names(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most probable name of each pair and its probability. The last name stands for no object."""
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = (exponents / exponents.sum(axis=1, keepdims=True))[:, :-1]
    return probabilities.argmax(axis=1), probabilities.max(axis=1)


def in_pixels(box: np.ndarray, image: Image.Image) -> list[int]:
    """A box from the shares cx, cy, w, h of the image."""
    (x, y), (w, h) = (pair * image.size for pair in (box[:2], box[2:]))
    return [round(float(side)) for side in (x - w / 2, y - h / 2, x + w / 2, y + h / 2)]


if __name__ == "__main__":
    main(*sys.argv[1:])
