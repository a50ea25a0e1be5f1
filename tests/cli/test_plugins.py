"""A package with a captioner and export is installed and used; a broken one costs its users a message, nobody else."""

import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from built_wheel import unpacked_wheel
from PIL import Image
from pydantic import ValidationError
from rlip_command import output_of, rlip
from small_set import state_relations, write_small_set

from pipeline.detection.detector import open_detector
from pipeline.detection.settings import DetectSettings
from pipeline.runtime import plugins
from pipeline.runtime.settings import Settings
from pipeline.stages.detect import DetectStage
from pipeline.stages.evaluate import EvaluateSettings, EvaluateStage
from storage.open_store import existing_store
from storage.runs import Run

BROKEN = """
[rlip.captioners]
brightness = broken:Captioner
torn = broken:Captioner
"""

OTHERS = """
[rlip.datasets]
lines = others:Lines
[rlip.labellers]
constant = others:Constant
[rlip.detectors]
corner = others:Corner
[rlip.metrics]
counted = others:counted
"""
MODULE = """
import numpy as np
from rlip.plugins import (
    Box, Detections, Evaluated, Figure, Labels, LabellerPlugin, Measured, OpenLabeller, Reader, Relation, Settings,
    Stack
)

class Lines(Reader):
    version, files = 1, {"annotations": "text"}
    def _records(self):
        for number, line in enumerate(self.annotation_file.read_text().split(), start=1):
            boxes = Box("person", 1, 1, 20, 30), Box("horse", 10, 10, 30, 30)
            yield self.record(number, self.place(line), boxes=boxes)

class Score(Settings):
    score: float

class Constant(LabellerPlugin):
    version, Options = 3, Score
    def open(self, taggers, worker):
        return [OpenLabeller(self, "constant", None, Stack())]
    def label(self, images, progress):
        return [Labels([self.relation(pair) for pair in image.pairs]) for image in images]
    def relation(self, pair):
        return Relation(pair.subject, pair.object, pair.predicate, self.options.score, True, pair.triplet)

class Corner:
    version, names = 2, ("person",)
    @classmethod
    def open(cls, files, settings, worker):
        return cls()
    def detect(self, images, threshold):
        return [Detections(np.array([[0.0, 0, 9, 9]]), np.array([0]), np.array([0.9])) for _ in images]

def counted(predicted, truth, predicates, options):
    def measured(chosen):
        return Measured({"count": len(predicted) / len(truth)}, {}, {})
    figure = Figure("count", f"relations of {predicates[0]} by a {options.objects[0]}", measured(None).figures["count"])
    return Evaluated((figure,), (), lambda found, true, overlap=0.5: len(found) / len(true), "count", measured)
counted.version = 5
"""


class Strength(Settings):
    strength: float


class Plain:
    """A plug-in whose author forgot the version."""


@pytest.fixture
def on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Lets this process see the packages in a folder, as an environment in which they are installed does."""

    def add(folder: Path) -> None:
        monkeypatch.syspath_prepend(folder)
        plugins._registered.cache_clear()

    yield add
    monkeypatch.undo()
    plugins._registered.cache_clear()
    for name in ("rlip_example", "others"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def example(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed package of `examples/plugin`."""
    source = tmp_path_factory.mktemp("source") / "plugin"
    return unpacked_wheel(shutil.copytree(root / "examples" / "plugin", source))


def test_a_chain_runs_with_the_captioner_and_the_export_of_another_package(example, on_path, root, tmp_path):
    lines = [path.read_text().count("\n") for path in (root / "examples" / "plugin").iterdir() if path.is_file()]
    assert sum(lines) <= 60
    recipe, words = (
        write_small_set(tmp_path),
        ("--direct", "--json", "--set", "tag.method=prior", "--set", "tag.floor=0"),
    )
    asks = ("--set", "caption.captioner=brightness", "--set", "caption.options.states=a person riding a horse")
    assert "give one of 'blip', 'lavis', 'openai'" in rlip("run", recipe, *words, *asks).stderr
    on_path(example)
    output_of("run", recipe, *words, *asks, cwd=tmp_path)
    store = ("--store", tmp_path / "out" / "store")
    shown = json.loads(output_of("explain", "1", "small", *store, "--json"))
    assert [caption["text"] for caption in shown["captions"]] == ["a bright picture of a person riding a horse"] or [
        caption["text"] for caption in shown["captions"]
    ] == ["a dark picture of a person riding a horse"]
    output_of("export", "small", *store, "--format", "lines", "--all", "--out", tmp_path / "lines")
    written = [line.split("\t") for line in (tmp_path / "lines" / "set.txt").read_text().splitlines()]
    assert ["1", "person", "ride", "horse"] in [line[:-1] for line in written]
    assert all(0 <= float(line[-1]) <= 1 for line in written), "all labels, kept or not, have their scores"
    (planned,) = (json.loads(output_of("plan", recipe, *words[1:], *asks[:2])),)
    assert {row["step"]: row["due"] for row in planned}["caption"] == 2, "other options make other captions"
    done = rlip("plan", recipe, *words[1:], *asks[:2], "--set", "caption.options.state=x")
    assert "caption.options.state" in done.stderr and "the options are states" in done.stderr


def test_a_broken_or_doubled_plugin_costs_a_message_when_it_is_used(example, on_path, tmp_path):
    recipe, site = write_small_set(tmp_path / "set"), tmp_path / "site"
    (site / "broken-1.0.dist-info").mkdir(parents=True)
    (site / "broken-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (site / "broken-1.0.dist-info" / "entry_points.txt").write_text(BROKEN)
    (site / "broken.py").write_text("import no_such_library")
    on_path(site)
    importlib.invalidate_caches()
    assert rlip("plan", recipe).exit_code == 0
    done = rlip("plan", recipe, "--set", "caption.captioner=torn")
    assert done.exit_code == 1
    assert "captioner 'torn' of package broken" in done.stderr and "no_such_library" in done.stderr
    on_path(example)
    done = rlip("plan", recipe, "--set", "caption.captioner=brightness")
    assert done.exit_code == 1 and "registered by" in done.stderr and "broken" in done.stderr


def test_the_types_of_all_documented_arguments_and_results_can_be_imported(root):
    page = (root / "docs" / "api.md").read_text().partition("## Plug-ins")[2]
    signatures = re.findall(r"^- `(\w+\(.*?)`:", page, re.MULTILINE)
    named = set(re.findall(r"\b[A-Z]\w+", " ".join(signatures)))
    others = {"Any", "Callable", "Image", "Iterable", "Iterator", "None", "Path", "Self", "Sequence"}
    assert len(named) > 20 and named - others <= set(vars(importlib.import_module("rlip.plugins")))


@pytest.fixture
def others(on_path, tmp_path: Path) -> None:
    """A package with a plug-in in each of further groups."""
    site = tmp_path / "site"
    (site / "others-1.0.dist-info").mkdir(parents=True)
    (site / "others-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (site / "others-1.0.dist-info" / "entry_points.txt").write_text(OTHERS)
    (site / "others.py").write_text(MODULE)
    on_path(site)


def test_a_metric_of_another_package_scores_detections_by_its_name(others, tmp_path):
    write_small_set(tmp_path / "set")
    state_relations(tmp_path / "set", 1, 2)
    sides = {"person": [4, 4, 20, 30], "horse": [20, 10, 30, 30]}
    boxes = [dict(zip("xywh", each, strict=True)) | {"category": name, "score": 1.0} for name, each in sides.items()]
    pairs = [{"subject": 0, "object": 1, "predicate": "ride", "score": 0.9}] * 150  # all are the metric's, however many
    row = {"image_id": 1, "uri": "000001.png", "width": 64, "height": 48, "boxes": boxes, "pairs": pairs}
    (tmp_path / "found.json").write_text(json.dumps(row))
    words = ("--ground-truth", tmp_path / "set/instances.json", "--file", f"relations={tmp_path}/set/relations.json")
    words += ("--detections", tmp_path / "found.json", "--allow-missing", "--report", tmp_path / "report", "--json")
    (figure,) = json.loads(output_of("evaluate", "counted", *words, "--format", "coco"))["figures"]
    assert (figure["label"], figure["value"]) == ("relations of ride by a person", 75.0)
    assert json.loads((tmp_path / "report/evaluation.json").read_text())["benchmark"] == "counted"
    assert "name that of your file with --format" in rlip("evaluate", "counted", *words).stderr
    assert (
        "--rare: counted has no such rule, only hico-det" in rlip("evaluate", "counted", *words, "--rare", "r").stderr
    )
    assert "give one of hico-det, vcoco" in rlip("evaluate", "count", *words).stderr


def test_formats_labellers_detectors_and_metrics_of_another_package_are_used_and_keyed(others, tmp_path):
    recipe = write_small_set(tmp_path)
    (tmp_path / "list.txt").write_text(" ".join(path.name for path in sorted((tmp_path / "images").iterdir())))
    sets = ("data.sources.0.format=lines", "data.sources.0.annotations=list.txt", "tag.method=constant")
    words = ("run", recipe, "--direct", "--json", *(word for each in sets for word in ("--set", each)))
    assert "tag.options.score: Field required" in rlip(*words).stderr
    output_of(*words, "--set", "tag.options.score=0.75", cwd=tmp_path)
    run = Run(existing_store(tmp_path / "out" / "store"), "small")
    tagged = list(run.artifacts("tag").values())
    rows = [relation for each in tagged for row in each.table("relations").to_pylist() for relation in row["relations"]]
    assert {row["predicate"] for row in rows} == {"ride", "sit on"} and {row["score"] for row in rows} == {0.75}
    assert tagged[0].manifest.terms["settings"]["version"] == 3
    assert tagged[0].manifest.terms["settings"]["options"] == {"score": 0.75}

    settings = DetectSettings(detector="corner", weights=str(tmp_path / "list.txt"))
    assert DetectStage(settings).row_settings().items() >= {"detector": "corner", "version": 2}.items()
    assert DetectStage(settings).files() == {"list.txt": tmp_path / "list.txt"}
    (found,) = open_detector(settings).detect([Image.new("RGB", (20, 20))])
    assert found.boxes.boxes.tolist() == [[0, 0, 9, 9]]
    assert EvaluateStage(EvaluateSettings(metrics=("counted",))).row_settings()["plugins"] == {
        "counted": {"version": 5}
    }
    terms = [plugins.plugin_terms(Plain, Strength(strength=each)) for each in (0.1, 0.2)]
    assert terms[0] != terms[1] and plugins.plugin_terms(Plain) == {}, "options count without a version, too"
    with pytest.raises(ValidationError, match="give one of 'counted', 'open_images', 'scene_graphs'"):
        EvaluateSettings(metrics=("recall",))
