"""`rlip evaluate --report`: each benchmark's page tells figures, classes and images, and whether results compare."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vcoco_files
from PIL import Image
from pycocotools.mask import encode
from rlip_command import output_of, rlip

from tests.data.toy_sets import save_json, save_picture

PERSON, KNIFE = (10.0, 10.0, 41.0, 61.0), (50.0, 30.0, 21.0, 21.0)
"""x, y, w, h in pixels of images of 100 by 80."""
IMAGES = range(1, 7)


def evaluated(folder: Path, benchmark: str, *options: str | Path) -> tuple[Path, dict[str, Any]]:
    """Runs the command with a report and images. Returns the report's folder and its JSON."""
    report = folder / "report"
    output_of("evaluate", benchmark, *options, "--report", report, "--images", folder, "--intervals", "20")
    assert {path.name for path in report.iterdir()} == {"index.html", "evaluation.md", "evaluation.json"}
    return report, json.loads((report / "evaluation.json").read_text())


def detections(folder: Path, uris: dict[int, str], names: tuple[str, str], predicate: str) -> Path:
    """Right detections in all but the last image, where the person's box is off."""
    rows = [
        {
            "image_id": number, "uri": uri, "width": 100, "height": 80,
            "boxes": [
                dict(zip("xywh", (x + 40.0 * (number == IMAGES[-1] and name == names[0]), *rest), strict=True))
                | {"category": name, "score": 1.0}
                for name, (x, *rest) in zip(names, (PERSON, KNIFE), strict=True)
            ],
            "pairs": [{"subject": 0, "object": 1, "predicate": predicate, "score": 0.9 - number / 100}],
        }
        for number, uri in uris.items()
    ]  # fmt: skip
    return save_json(folder / "found.json", rows)


def pictures(folder: Path, names: dict[int, str]) -> dict[int, str]:
    for name in names.values():
        save_picture(folder / name)
    return names


def figure(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in found["figures"] if each["name"] == name)


def test_v_coco(tmp_path):
    files = pictures(tmp_path, {number: f"{number}.jpg" for number in IMAGES})
    ids = [number * 10 for number in IMAGES]
    annotations = [
        {"id": number * 10 + place, "image_id": number, "category_id": kind, "bbox": list(box), "area": 9.0}
        for number in IMAGES
        for place, kind, box in ((0, 1, PERSON), (1, 49, KNIFE))
    ]
    instances = {
        "categories": [{"id": 1, "name": "person"}, {"id": 49, "name": "knife"}],
        "images": [{"id": each, "file_name": name, "width": 100, "height": 80} for each, name in files.items()],
        "annotations": annotations,
    }
    ones = [1] * len(ids)
    cut = {
        "action_name": "cut", "role_name": ["agent", "instr"], "ann_id": ids, "image_id": list(IMAGES), "label": ones,
        "role_object_id": ids + [each + 1 for each in ids],
    }  # fmt: skip
    corners = [(x, y, x + w - 1, y + h - 1) for x, y, w, h in (PERSON, KNIFE)]
    found = [
        {
            "image_id": number, "person_box": list(corners[0]), "cut_agent": 0.9,
            "cut_instr": [*(corners[1] if number < IMAGES[-1] else (0, 0, 9, 9)), 0.9 - number / 100],
        }
        for number in IMAGES
    ]  # fmt: skip
    words = (
        "--ground-truth", save_json(tmp_path / "vcoco.json", [cut]),
        "--file", f"instances={save_json(tmp_path / 'instances.json', instances)}", "--detections",
    )  # fmt: skip
    folder, summary = evaluated(tmp_path, "vcoco", *words, save_json(tmp_path / "detections.json", found))
    role = figure(summary, "role_1")
    assert role["value"] == pytest.approx(5 / 6) and role["low"] < role["value"] < role["high"]
    assert figure(summary, "agent")["value"] == 1.0
    assert [(each["name"], each["truths"]) for each in summary["classes"]] == [("cut instr", 6)]
    assert summary["anatomy"]["score"] == pytest.approx(5 / 6)
    assert summary["anatomy"]["counts"] == {**dict.fromkeys(summary["anatomy"]["counts"], 0), "object box": 0} | {
        "pair": 1
    }
    assert summary["anatomy"]["costs"]["pair"] == pytest.approx(1 / 6)
    page = (folder / "index.html").read_text()
    assert "4,946 images and 25 classes. This one has 6 images and 1 class:" in page
    assert page.count("data:image/jpeg;base64,") == 6 and "6.jpg" in page
    rows = json.loads(detections(tmp_path, files, ("person", "knife"), "cut with").read_text())
    options = "--intervals", "0", "--json"
    told = json.loads(output_of("evaluate", "vcoco", *words, save_json(tmp_path / "list.json", rows), *options))
    complete = figure(told, "role_1")["value"]
    swapped = [{"subject": 1, "object": 0, "predicate": "cut with", "score": 1.0}]
    rows[0]["boxes"] += [{"category": "missing objects", "score": 1.0, "x": 0, "y": 0, "w": 1, "h": 1}]
    rows[0]["pairs"] += [*swapped, {"subject": 0, "object": 2, "predicate": "cut instr", "score": 0.1}]
    told = json.loads(output_of("evaluate", "vcoco", *words, save_json(tmp_path / "list.json", rows), *options))
    assert figure(told, "role_1")["value"] == complete == pytest.approx(5 / 6)
    assert "relations whose subject is not a person: 1 (1.jpg)" in told["findings"]
    lines = tmp_path / "predicted.json"
    lines.write_text("\n".join(json.dumps(row) for row in rows[:-1]))
    options = "--allow-missing", "--intervals", "0", "--report", folder, "--json"
    told = json.loads(output_of("evaluate", "vcoco", *words, lines, *options))
    assert figure(told, "role_1")["value"] == pytest.approx(5 / 6)
    assert "images of the ground truth without a row: 1 (6.jpg)" in told["findings"]
    summary = json.loads((folder / "evaluation.json").read_text())
    assert "images of the ground truth without a row: 1 (6.jpg)" in summary["caveats"]
    assert summary["measure"] == "AP of scenario 1"
    assert told["report"] == str(folder / "index.html")


def test_v_coco_takes_riding_a_board_for_that_boards_role(tmp_path):
    listed = {"role_name": ["agent", "instr"], "image_id": [[7]], "ann_id": [[1]], "role_object_id": [1, 3]}
    actions = [listed | {"action_name": "ride", "label": [[0]]}, listed | {"action_name": "surf", "label": [[1]]}]
    truth, instances, _ = vcoco_files.files(tmp_path, actions=actions)
    content = instances.read_text().replace('"bat"', '"surfboard"')
    instances.write_text(content.replace('{"id": 7', '{"file_name": "7.jpg", "id": 7'))
    ends = [("person", 0, 10, 40, 80), ("surfboard", 180, 10, 20, 80)]
    boxes = [dict(zip(("category", *"xywh"), end, strict=True)) | {"score": 1.0} for end in ends]
    pairs = [{"subject": 0, "object": 1, "predicate": "ride", "score": 0.9}]
    row = {"image_id": 7, "uri": "7.jpg", "width": 200, "height": 100, "boxes": boxes, "pairs": pairs}
    words = ("--ground-truth", truth, "--file", f"instances={instances}", "--intervals", "0", "--json")
    told = output_of("evaluate", "vcoco", *words, "--detections", save_json(tmp_path / "found.json", [row]))
    assert figure(json.loads(told), "role_1_25")["value"] == 1.0


@pytest.mark.parametrize("stated", [True, False])
def test_open_images_in_shares_of_the_image(tmp_path, stated):
    uris = pictures(tmp_path, {number: f"{number:016x}.jpg" for number in IMAGES})
    sides = [
        value / size for x, y, w, h in (PERSON, KNIFE) for value, size in ((x, 100), (x + w, 100), (y, 80), (y + h, 80))
    ]
    head = "ImageID,LabelName1,LabelName2,XMin1,XMax1,YMin1,YMax1,XMin2,XMax2,YMin2,YMax2,RelationshipLabel\n"
    lines = [f"{number:016x},/m/1,/m/2,{','.join(map(str, sides))},holds\n" for number in IMAGES]
    (tmp_path / "vrd.csv").write_text(head + "".join(lines))
    (tmp_path / "classes.csv").write_text("/m/1,Person\n/m/2,Knife\n")
    found = json.loads(detections(tmp_path, uris, ("Person", "Knife"), "holds").read_text())
    for row in found if not stated else ():
        del row["width"], row["height"]  # the images have them
    folder, summary = evaluated(
        tmp_path, "open-images", "--ground-truth", tmp_path / "vrd.csv", "--file",
        f"classes={tmp_path / 'classes.csv'}", "--detections", save_json(tmp_path / "found.json", found),
    )  # fmt: skip
    # The last person's box shares a pixel column with the true one. In shares, a side of 1 more would be most of both.
    assert summary["scored"] == "score_wtd" and [each["name"] for each in summary["classes"]] == ["holds"]
    assert figure(summary, "recall_50")["value"] == pytest.approx(5 / 6)
    page = (folder / "index.html").read_text()
    assert "whole test set of Open Images V6, 5,322 images. This one has 6 images" in page
    assert '<rect class="found" x="10.0" y="10.0" width="41.0" height="61.0"/>' in page


class PanopticSet:
    """PSG as published, with detections: a triangular person in all images, and a knife as large as its box."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.person, self.knife = (np.zeros((80, 100), bool) for _ in range(2))
        self.person[10:71, 10:51] = np.tri(61, 41, -10, bool)
        self.knife[30:51, 50:71] = True
        pixels = np.zeros((80, 100, 3), np.uint8)
        pixels[self.person], pixels[self.knife] = (7, 2, 1), (7, 0, 3)  # R + 256 G + 256² B
        segments = [{"id": each, "isthing": 1, "iscrowd": 0, "area": 9} for each in (7 + 512 + 65536, 7 + 3 * 65536)]
        segments = [each | {"category_id": number} for number, each in enumerate(segments)]
        boxes = [{"bbox": [x, y, x + w, y + h], "category_id": n} for n, (x, y, w, h) in enumerate((PERSON, KNIFE))]
        names = {number: f"val2017/{number}.jpg" for number in IMAGES}
        (folder / "panoptic_val2017").mkdir()
        for number in IMAGES:
            Image.fromarray(pixels).save(folder / "panoptic_val2017" / f"{number}.png")
        entries = [
            {"image_id": str(number), "file_name": name, "width": 100, "height": 80, "relations": [[0, 1, 0]]}
            | {"annotations": boxes, "segments_info": segments, "pan_seg_file_name": f"panoptic_val2017/{number}.png"}
            for number, name in names.items()
        ]
        lists = {"thing_classes": ["person", "knife"], "stuff_classes": [], "predicate_classes": ["hold", "on", "by"]}
        truth = {"data": entries, **lists, "test_image_ids": [str(number) for number in IMAGES]}
        self.truth = save_json(folder / "psg.json", truth)
        # The last person's box is off.
        uris = pictures(folder, names)
        self.rows = json.loads(detections(folder, uris, ("person", "knife"), "hold").read_text())

    def masked(self, *persons: np.ndarray) -> None:
        """Gives the person of each image a mask; knives have their own."""
        for row, person in zip(self.rows, persons, strict=True):
            found = [encode(np.asfortranarray(each, np.uint8)) for each in (person, self.knife)]
            row["masks"] = [{"size": each["size"], "counts": each["counts"].decode()} for each in found]

    def scored(self, *options: str | Path) -> dict[str, Any]:
        found = "--detections", save_json(self.folder / "found.json", self.rows)
        return evaluated(self.folder, "vg", "--format", "psg", "--ground-truth", self.truth, *found, *options)[1]


def test_psg_by_boxes_says_so(tmp_path):
    summary = PanopticSet(tmp_path).scored()
    assert figure(summary, "R@20")["value"] == pytest.approx(5 / 6)
    assert summary["caveats"][0] == "Relations are matched by boxes; PSG's own figures use masks."
    assert (summary["benchmark"], summary["published"], summary["difference"]) == ("psg-boxes", [], "")


def test_psg_by_masks_finds_other_relations_than_by_boxes(tmp_path):
    """The other half of the person's box is no person; a person whose box is off is one by its mask."""
    files = PanopticSet(tmp_path)
    other = np.zeros_like(files.person)
    other[10:71, 10:51] = ~files.person[10:71, 10:51]
    files.masked(other, other, *[files.person] * 4)
    summary = files.scored("--masks", tmp_path)
    assert figure(summary, "R@20")["value"] == figure(summary, "mR@20")["value"] == pytest.approx(4 / 6)
    assert figure(summary, "mR@20")["official"] == pytest.approx(4 / 6 / 3)  # over all predicates
    assert summary["caveats"][0].startswith("Relations are matched by masks.")
    assert summary["scored"] == "R@50 by boxes" and summary["anatomy"]["score"] == pytest.approx(5 / 6)
    del files.rows[-1]["pairs"][:]
    summary = files.scored("--masks", tmp_path)
    assert figure(summary, "R@20")["value"] == pytest.approx(3 / 6)
    assert figure(summary, "R@20")["official"] == pytest.approx(3 / 5)  # without the image that has no predictions


def test_psg_compares_models_on_the_same_images(tmp_path):
    files = PanopticSet(tmp_path)
    files.masked(*[files.person] * 6)
    words = ["evaluate", "vg", "--format", "psg", "--ground-truth", files.truth, "--masks", tmp_path]
    words += ["--intervals", "0"]
    words += ["--detections", save_json(tmp_path / "one.json", files.rows)]
    del files.rows[-1]["pairs"][:]
    words += ["--detections", save_json(tmp_path / "other.json", files.rows), "--report", tmp_path / "compared"]
    output_of(*words)
    page = (tmp_path / "compared/index.html").read_text()
    assert "<h1>PSG: 2 models</h1>" in page and "other.json: 6 images, 5 relations are scored" in page
    refused = rlip(*words, "--official")
    assert refused.exit_code and "leaves out images without predictions" in refused.output


def test_masks_that_would_be_misread_are_refused(tmp_path):
    files = PanopticSet(tmp_path)

    def refused() -> str:
        words = ["evaluate", "vg", "--format", "psg", "--ground-truth", files.truth, "--masks", tmp_path]
        done = rlip(*words, "--detections", save_json(tmp_path / "found.json", files.rows), "--intervals", "0")
        assert done.exit_code, done.output
        return " ".join(done.output.split())

    assert "the detections have none" in refused()
    files.masked(*[files.person] * 6)
    kept = files.rows[0]["masks"]
    for masks in (kept[:1], None, [kept[0], {**kept[1], "counts": "P"}], [kept[0], {**kept[1], "size": [80]}]):
        files.rows[0]["masks"] = masks
        assert "`masks` must have a mask for each box" in refused()
    files.rows[0]["masks"] = [{**each, "size": [100, 80]} for each in kept]
    assert "have 100×80 and 80×100 pixels" in refused()
    files.masked(*[np.flip(files.person)] * 6)
    for row in files.rows:
        row["masks"].reverse()
    assert "most masks don't match their boxes" in refused()
    (tmp_path / "panoptic_val2017" / "3.png").unlink()
    assert "val2017/3.jpg: its masks can't be read" in refused()


def test_scores_of_all_predicates_leave_each_pair_its_best_or_two(tmp_path):
    """The first pair's 120 scores are all above the second's, which is the best of its own pair."""
    boxes = [PERSON, KNIFE, (2.0, 2.0, 5.0, 5.0), (90.0, 60.0, 8.0, 9.0)]
    corners = [(x, y, x + w, y + h) for x, y, w, h in boxes]

    def end(place: int) -> dict[str, Any]:
        x1, y1, x2, y2 = corners[place]
        return {"category": place % 2, "bbox": [y1, y2, x1, x2]}

    truth = {"1_a.jpg": [{"predicate": 7, "subject": end(n), "object": end(n + 1)} for n in (0, 2)]}
    names = {"objects": ["person", "knife"], "predicates": [f"predicate {n}" for n in range(120)]}
    named = [f"--file={kind}={save_json(tmp_path / f'{kind}.json', names[kind])}" for kind in names]
    scores = [[0.9] * 7 + [0.95] + [0.9] * 112, [0.1] * 7 + [0.2] + [0.1] * 112]
    found = {"file_name": "1_a.jpg", "boxes": corners, "labels": [0, 1, 0, 1], "verb_scores": scores}
    words = "--ground-truth", save_json(tmp_path / "vrd.json", truth), *named, "--detections"
    matrices = save_json(tmp_path / "found.json", [found | {"sub_ids": [0, 2], "obj_ids": [1, 3]}])
    _, summary = evaluated(tmp_path, "vrd", *words, matrices)
    assert figure(summary, "relation R@50, k=1")["value"] == summary["anatomy"]["score"] == 1.0
    assert figure(summary, "relation R@50, k=all")["value"] == 0.5
    twice = "--format", "vrd", "--no-suppression", *words
    _, summary = evaluated(tmp_path, "open-images", *twice, matrices)
    assert figure(summary, "recall_50")["value"] == 1.0
    assert figure(summary, "score_wtd")["value"] == summary["anatomy"]["score"]
    sides = [dict(zip(("category", "score", *"xywh"), ("person", 1.0, *box), strict=True)) for box in boxes[:2]]
    pair = {"subject": 0, "object": 1, "score": 0.9}
    for number, cut in ((99, False), (100, True)):
        pairs = [pair | {"predicate": name} for name in names["predicates"][:number]]
        rows = save_json(tmp_path / "cut.json", [{"uri": "1_a.jpg", "boxes": sides, "pairs": pairs}])
        for benchmark, options, of in (("vrd", words, "recalls with one"), ("open-images", twice, "figures with 2")):
            told = json.loads(output_of("evaluate", benchmark, *options, rows, "--intervals", "0", "--json"))
            assert (f"{of} predicate" in told["findings"] and "are lower bounds" in told["findings"]) == cut
