"""Ways of calling an evaluation wrongly: each is refused in words that say why, or still gives the right figure."""

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rlip_command import rlip

from pipeline.data.datasets.names import COCO_CATEGORIES
from pipeline.evaluation.splits import PUBLISHED
from tests.data.toy_sets import save_json

OBJECTS, VERBS = ["bicycle", "cup", "horse", "person"], ["feed", "hold", "no_interaction", "ride"]
"""The order of the truth. In COCO's, persons come first."""
COCO = {"person": 0, "bicycle": 1, "horse": 17, "cup": 41}
PAIRS = [("ride", "bicycle"), ("hold", "cup"), ("feed", "horse")]
IMAGES = range(11, 23)
Row = dict[str, Any]


def name_of(image: int) -> str:
    return f"HICO_test2015_{image:08d}.jpg"


def size_of(image: int) -> tuple[int, int]:
    return (600, 200) if image % 2 else (200, 600)


def pair_of(image: int, number: int, off: float = 0.0) -> tuple[list[float], list[float]]:
    """The corners of a person and of a thing. Pairs of an image lie apart, along its longer side."""
    width, height = size_of(image)
    along, across = 190.0 * number + off, 3.0 * (image - IMAGES[0])
    person, thing = (
        [along + 8, across + 5, along + 98, across + 85],
        [along + 70, across + 60, along + 180, across + 150],
    )
    return tuple(box if width > height else [box[1], box[0], box[3], box[2]] for box in (person, thing))  # type: ignore[return-value]


class Files:
    """A small HICO-DET of 12 images with 3 interactions each, of which detections find all but the last image's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        annotations = [
            {
                "boxes_h": [pair_of(image, n)[0] for n in range(3)],
                "boxes_o": [pair_of(image, n)[1] for n in range(3)],
                "object": [OBJECTS.index(thing) for _, thing in PAIRS],
                "verb": [VERBS.index(verb) for verb, _ in PAIRS],
            }
            for image in IMAGES
        ]
        self.truth: Row = {
            "objects": OBJECTS, "verbs": VERBS, "filenames": [name_of(image) for image in IMAGES],
            "size": [list(size_of(image)) for image in IMAGES], "annotation": annotations,
        }  # fmt: skip

    def found(self, image: int, number: int) -> tuple[list[float], list[float]]:
        return pair_of(image, number, 60.0 if image == IMAGES[-1] else 1.0)

    def rows(self) -> list[Row]:
        """Our table."""
        made = []
        for image in IMAGES:
            boxes = []
            for number, (_, thing) in enumerate(PAIRS):
                for name, (x1, y1, x2, y2) in zip(("person", thing), self.found(image, number), strict=True):
                    boxes.append({"category": name, "score": 0.9, "x": x1, "y": y1, "w": x2 - x1, "h": y2 - y1})
            pairs = [
                {"subject": 2 * n, "object": 2 * n + 1, "predicate": verb, "score": 0.9 - image / 100}
                for n, (verb, _) in enumerate(PAIRS)
            ]
            sides = dict(zip(("width", "height"), size_of(image), strict=True))
            made.append({"image_id": image, "uri": name_of(image), **sides, "boxes": boxes, "pairs": pairs})
        return made

    def pair_list(self) -> list[Row]:
        """The list of pairs with COCO's 80 classes."""
        return [
            {
                "image": name_of(image), "box_h": self.found(image, n)[0], "box_o": self.found(image, n)[1],
                "object_coco80": COCO[thing], "verb": VERBS.index(verb), "score": 0.9 - image / 100,
            }
            for image in IMAGES
            for n, (verb, thing) in enumerate(PAIRS)
        ]  # fmt: skip

    def matrices(self) -> list[Row]:
        """The list of images with a score for every pair and verb."""
        made = []
        for image in IMAGES:
            boxes = [box for n in range(3) for box in self.found(image, n)]
            labels = [OBJECTS.index(name) for _, thing in PAIRS for name in ("person", thing)]
            scores = [[0.9 - image / 100 if verb == right else 0.01 for verb in VERBS] for right, _ in PAIRS]
            made.append(
                {
                    "file_name": name_of(image), "boxes": boxes, "labels": labels, "verb_scores": scores,
                    "sub_ids": [0, 2, 4], "obj_ids": [1, 3, 5],
                }
            )  # fmt: skip
        return made

    def call(
        self,
        found: Any,
        *options: object,
        truth: Row | Path | None = None,
        benchmark: str = "hico-det",
        figure: str = "full",
    ) -> str:
        """Evaluate, and return the mean AP that is named `figure`, or the message."""
        given = truth if isinstance(truth, Path) else save_json(self.folder / "truth.json", truth or self.truth)
        detections = found if isinstance(found, Path) else save_json(self.folder / "found.json", found)
        form = ["--format", "hico_instances"] if benchmark == "hico-det" and "--format" not in options else []
        words = ["--ground-truth", given, "--detections", detections, *form, *options, "--intervals", "0", "--json"]
        done = rlip("evaluate", benchmark, *map(str, words))
        if done.exit_code:
            return done.stderr
        (value,) = (each["value"] for each in json.loads(done.stdout)["figures"] if each["name"] == figure)
        return f"mAP {value:.4f}"


RIGHT = f"mAP {10 / 11:.4f}"
"""11 of 12 truths of each triplet are found before anything wrong, which reaches 10 of 11 recalls."""


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def each(rows: Sequence[Row], change: Callable[[Row], object]) -> list[Row]:
    """The rows after a change of each."""
    changed = deepcopy(list(rows))
    for row in changed:
        change(row)
    return changed


def size_in(row: Row) -> tuple[int, int]:
    return size_of(int(row["image"][-12:-4]))


def scaled(row: Row, by: float) -> None:
    for box in row["boxes"]:
        box.update({side: box[side] * by for side in "xywh"})


def hico_det(files: Files, objects: dict[str, int] | None = None, first: int = 1) -> str:
    """Evaluates with the truth in the authors' layout, whose category ids are COCO's, and its lists of names."""
    ids = {"person": 1, "bicycle": 2, "horse": 19, "cup": 47}
    entries = [
        {
            "file_name": name_of(image), "img_id": image,
            "annotations": [
                {"bbox": box, "category_id": ids[name]}
                for n, (_, thing) in enumerate(PAIRS)
                for name, box in zip(("person", thing), pair_of(image, n), strict=True)
            ],
            "hoi_annotation": [
                {"subject_id": 2 * n, "object_id": 2 * n + 1, "category_id": first + VERBS.index(verb)}
                for n, (verb, _) in enumerate(PAIRS)
            ],
        }
        for image in IMAGES
    ]  # fmt: skip
    lists = {"verbs": {name: place for place, name in enumerate(VERBS, 1)}, **({"objects": objects} if objects else {})}
    named = [f"--file={kind}={save_json(files.folder / f'{kind}.json', names)}" for kind, names in lists.items()]
    truth = save_json(files.folder / "hico.json", entries)
    return files.call(files.rows(), "--format", "hico_det", *named, truth=truth)


def other_split(files: Files) -> Row:
    return files.truth | {"filenames": [name_of(image + 500) for image in IMAGES]}


def alphabetical() -> dict[str, int]:
    """COCO's 80 names by their place in the alphabet, as HICO-DET's own list counts them."""
    return {name: place for place, name in enumerate(sorted(COCO_CATEGORIES.values()), 1)}


ALLOWED = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]])
"""Verbs × objects: the interactions of the truth, and no interaction."""
Way = Callable[[Files], str]


def row(change: Callable[[Row], object]) -> Way:
    return lambda files: files.call(each(files.rows(), change))


def box(change: Callable[[Row, Row], object]) -> Way:
    return row(lambda r: [change(r, each_box) for each_box in r["boxes"]])


def pair(change: Callable[[Row], object]) -> Way:
    return lambda files: files.call(each(files.pair_list(), change))


def corner(change: Callable[[Row, list[float]], list[float]]) -> Way:
    return pair(lambda r: r.update({end: change(r, r[end]) for end in ("box_h", "box_o")}))


def matrix(change: Callable[[Row], object]) -> Way:
    return lambda files: files.call(each(files.matrices(), change))


def option(*options: object) -> Way:
    return lambda files: files.call(files.rows(), *options)


def table(allowed: np.ndarray) -> Way:
    def call(files: Files) -> str:
        np.save(files.folder / "validity.npy", allowed)
        return files.call(files.rows(), "--validity", files.folder / "validity.npy")

    return call


def shares(r: Row, b: Row) -> None:
    b.update(x=b["x"] / r["width"], w=b["w"] / r["width"], y=b["y"] / r["height"], h=b["h"] / r["height"])


WAYS: dict[str, tuple[Way, str]] = {
    "as meant, our table": (lambda f: f.call(f.rows()), RIGHT),
    "as meant, a list of pairs": (lambda f: f.call(f.pair_list()), RIGHT),
    "as meant, matrices": (lambda f: f.call(f.matrices()), RIGHT),
    "as meant, the authors' layout": (hico_det, RIGHT),
    # Files
    "both files swapped": (lambda f: f.call(f.truth, truth=save_json(f.folder / "a", f.rows())), "expected HICO-DET"),
    "the truth as detections": (lambda f: f.call(f.truth), "has no boxes and pairs"),
    "another layout": (option("--format", "vrd"), "objects: required"),
    # Images
    "another split": (lambda f: f.call(f.rows(), truth=other_split(f)), "unknown image: 12"),
    "images in another order": (lambda f: f.call(f.rows()[::-1]), RIGHT),
    "ids off by one": (row(lambda r: r.update(image_id=r["image_id"] - 1)), "of different images"),
    "names with folders, without ids": (row(lambda r: r.update(image_id=None, uri=f"test/{r['uri']}")), RIGHT),
    # Boxes
    "shares of the image": (box(shares), "boxes reach to"),
    "shares, in a list of pairs": (
        corner(lambda r, b: [side / size_in(r)[n % 2] for n, side in enumerate(b)]), "boxes reach to"
    ),
    "pixels of a larger image": (row(lambda r: scaled(r, 2.1)), "outside their images"),
    "pixels of a smaller image": (row(lambda r: scaled(r, 0.4)), "boxes reach to"),
    "corners as x, y, w, h": (
        box(lambda _, b: b.update(w=b["x"] + b["w"], h=b["y"] + b["h"])), "outside their images"
    ),
    "centre as x, y, w, h": (
        box(lambda _, b: b.update(x=b["x"] + b["w"] / 2, y=b["y"] + b["h"] / 2)), "start at the centres"
    ),
    "x, y, w, h as corners": (corner(lambda _, b: [b[0], b[1], b[2] - b[0], b[3] - b[1]]), "end before they start"),
    "x and y swapped": (corner(lambda _, b: [b[1], b[0], b[3], b[2]]), "outside their images"),
    "subject and object swapped": (
        pair(lambda r: r.update(box_h=r["box_o"], box_o=r["box_h"])), "swap them"
    ),
    "the same where every pair is scored in both directions": (
        lambda f: f.call(
            [each | {"box_h": each["box_o"], "box_o": each["box_h"]} for each in f.pair_list()]
            + [each | {"verb": (each["verb"] + 1) % 4, "score": 0.01} for each in f.pair_list()]
        ),
        "swap them",
    ),
    # Names
    "classes from 1": (matrix(lambda r: r.update(labels=[label + 1 for label in r["labels"]])), "out of range"),
    "classes in another order": (
        matrix(lambda r: r.update(labels=[3 - label for label in r["labels"]])), "a different order"
    ),
    "verbs in another order": (
        matrix(lambda r: r.update(verb_scores=[scores[::-1] for scores in r["verb_scores"]])), "a different order"
    ),
    "verbs from 1": (pair(lambda r: r.update(verb=r["verb"] + 1)), "out of range"),
    "verbs and a background": (
        matrix(lambda r: r.update(verb_scores=[[0.5, *scores] for scores in r["verb_scores"]])), "scores 5 predicates"
    ),
    "names in another case": (box(lambda _, b: b.update(category=b["category"].upper())), RIGHT),
    "HICO-DET's list of objects": (lambda f: hico_det(f, alphabetical()), "omit `objects`"),
    "verb ids from 0": (lambda f: hico_det(f, first=0), "are numbered from 0"),
    # Scores
    "percent": (row(lambda r: [each.update(score=100 * each["score"]) for each in r["pairs"]]), RIGHT),
    # Options
    "objects are known": (lambda f: f.call(f.rows(), "--known-object", figure="known_full"), RIGHT),
    "a split without the list that it counts in": (option("--split", "UC-NF"), "--interactions"),
    "a table of allowed combinations": (table(ALLOWED), RIGHT),
    "the same of another set": (table(ALLOWED[:3]), "expected numbers of predicates"),
    "the same in another order": (table(ALLOWED[:, ::-1]), "forbids 36 of 36 true interactions"),
    "an option of another benchmark": (option("--boxes-given"), "no such rule, only vg"),
    "the authors' evaluator of a benchmark that has none": (
        lambda f: f.call(f.rows(), "--official", benchmark="vrd"), "vrd has no such rule, only hico-det"
    ),
    "verified labels in codes without their names": (
        lambda f: f.call(f.rows(), "--format", "hico_det", "--verified", f.truth, benchmark="open-images"),
        "add --file classes=FILE",
    ),
    "a subject of another benchmark": (
        lambda f: f.call(f.rows(), "--subject", "dog", benchmark="vg"), "vg has no such rule, only hico-det"
    ),
    "rare positions without their list": (option("--rare", "rare.txt"), "add --interactions"),
    "V-COCO without boxes": (lambda f: f.call(f.rows(), benchmark="vcoco"), "needs COCO's instances"),
}  # fmt: skip


def test_the_authors_table_fits_a_truth_in_another_order_of_objects(files, shared):
    folder = shared / "data/hico_det"
    found, truth = folder / "detections_800.json", folder / "ground_truth_800.json"
    path = shared / "data/rlipv2_priors/corre_hico.npy"  # columns count COCO's names, the truth has HICO-DET's order
    assert files.call(found, "--allow-missing", truth=truth) == "mAP 0.5779"
    assert files.call(found, "--allow-missing", "--validity", path, truth=truth) == "mAP 0.5780"


def test_positions_that_are_not_those_of_the_rare_interactions_are_refused(files, shared):
    """A split's rare half is part of them."""
    folder = shared / "data/hico_det"
    half = save_json(files.folder / "half.json", list(PUBLISHED["UC-RF"]))
    words = "--allow-missing", "--rare", half, "--interactions", folder / "hico_list_hoi.txt"
    said = files.call(folder / "detections_800.json", *words, truth=folder / "ground_truth_800.json")
    assert "half.json: is not the list of HICO-DET's 138 rare interactions" in said


def test_a_list_that_lacks_true_interactions_is_refused(files):
    verb, thing = PAIRS[0]
    (files.folder / "list.txt").write_text(f"1 {thing} {verb}\n")
    (files.folder / "mine.txt").write_text("0")
    words = "--interactions", files.folder / "list.txt", "--split", files.folder / "mine.txt"
    assert "list.txt: lacks 2 interactions of the ground truth" in files.call(files.rows(), *words)


def test_relations_that_were_chosen_before_the_table_of_combinations_are_a_lower_bound(files):
    table(ALLOWED)(files)

    def note(rows: list[Row], *options: object) -> bool:
        found = save_json(files.folder / "found.json", rows)
        words = ["--ground-truth", files.folder / "truth.json", "--detections", found, "--format", "hico_instances"]
        words += ["--intervals", "0", "--json", *options]
        told = json.loads(rlip("evaluate", "hico-det", *map(str, words)).stdout)
        assert any("table of allowed combinations" in rule for rule in told["rules"]) != bool(options)
        findings = told["findings"]
        return "no image has more than 3 relations; if they were chosen before --validity" in findings

    validity = "--validity", files.folder / "validity.npy"
    assert note(files.rows(), *validity) and not note(files.rows())
    assert not note(files.matrices(), *validity), "of all scores, the best are chosen after it"


def test_the_report_of_a_few_shot_training_is_of_its_setting(files):
    report = files.folder / "report"
    assert files.call(files.rows(), "--setting", "10%", "--report", report) == RIGHT
    assert json.loads((report / "evaluation.json").read_text())["setting"] == "10%"
    assert "only the report of one model" in files.call(files.rows(), "--setting", "10%")
    words = "--split", "UC-RF", "--setting", "10%", "--report", report
    assert "no published result has both" in files.call(files.rows(), *words)
    assert "--setting: vcoco has no such rule" in files.call(files.rows(), "--setting", "1%", benchmark="vcoco")
    (files.folder / "list.txt").write_text("".join(f"{n} {thing} {verb}\n" for n, (verb, thing) in enumerate(PAIRS)))
    (files.folder / "mine.txt").write_text("0")
    words = "--interactions", files.folder / "list.txt", "--split", files.folder / "mine.txt", "--report", report
    assert files.call(files.rows(), *words, figure="unseen") == RIGHT
    assert json.loads((report / "evaluation.json").read_text())["setting"] == "mine"
    assert "no published result has both" in files.call(files.rows(), *words, "--setting", "10%")


def test_a_detector_that_finds_no_true_pair_is_scored_with_a_note(files, monkeypatch):
    monkeypatch.setattr(Files, "found", lambda self, image, number: pair_of(image, number, 60.0))
    assert files.call(files.rows()) == "mAP 0.0000"
    words = ("--ground-truth", files.folder / "truth.json", "--detections", files.folder / "found.json")
    said = rlip("evaluate", "hico-det", *words, "--format", "hico_instances", "--intervals", "0").stdout
    assert "found.json: of 36 true pairs of boxes, none has a prediction on it" in said


@pytest.mark.parametrize("way", WAYS)
def test_a_wrong_call_is_refused_or_gives_the_right_figure(files, way):
    call, expected = WAYS[way]
    assert expected in " ".join(call(files).split())
