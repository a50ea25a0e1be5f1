"""`rlip evaluate`: scores a file of detections, whoever made it, by the rules of a public benchmark."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL.Image import Image
from rich.console import Console
from rich.table import Table

from pipeline.cli.convert import further_files
from pipeline.data.datasets.json_stream import stream_lists
from pipeline.data.images.folders import open_folder
from pipeline.data.images.opening import read_image
from pipeline.evaluation import benchmark as benchmarks
from pipeline.evaluation.anatomy import AnatomyRules, dissect
from pipeline.evaluation.benchmark import Evaluated, Options, hico_triplets
from pipeline.evaluation.detections.read import DetectionSet, read_detections
from pipeline.evaluation.ground_truth import GroundTruth
from pipeline.evaluation.hico import Triplet
from pipeline.evaluation.splits import (
    PUBLISHED,
    Split,
    published_split,
    read_interactions,
    read_positions,
    split_of_positions,
)
from pipeline.evaluation.summary import Figure, summarise
from pipeline.evaluation.vcoco import VcocoRoles
from pipeline.evaluation.vcoco_detections import VcocoDetections, read_vcoco_detections
from pipeline.evaluation.vcoco_truth import VcocoTruth, read_vcoco_truth
from pipeline.report.evaluation_images import EvaluatedImages
from pipeline.report.evaluation_page import evaluation_markdown, write_evaluation_page
from storage.atomic import write_atomic
from storage.errors import FatalError, translate_os_errors

Benchmark = Literal["hico-det", "vcoco", "open-images", "vrd", "vg"]
FORMATS: dict[Benchmark, str] = {
    "hico-det": "hico_det",
    "vcoco": "vcoco",
    "open-images": "open_images",
    "vrd": "vrd",
    "vg": "vg150",
}
"""The format of a benchmark's ground truth unless another is named."""
NAMES: dict[Benchmark, str] = {"vcoco": "v-coco"}
"""Names in `published.toml` that differ."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What `rlip evaluate` is asked for; see its options."""

    benchmark: Benchmark
    ground_truth: Path
    detections: Path
    format: str | None
    files: Sequence[str]
    official: bool
    known_object: bool
    interactions: Path | None
    """HICO-DET's list of interactions: an optional number, then object and verb, one a line"""
    rare: Path | None
    """Positions of rare interactions in that list"""
    validity: Path | None
    """A .npy file, predicates × objects"""
    split: str | None
    """A name of `PUBLISHED`, or a file of positions"""
    subject: str
    boxes_given: bool
    allow_missing: bool
    drop_faulty: bool
    resamples: int
    report: Path | None
    images: str | None


def evaluate_detections(asked: EvaluationRequest, as_json: bool) -> None:
    """Print a benchmark's figures, each with its interval and the authors' value where it differs.

    `asked.report`: folder for a page, a Markdown table and JSON. Raises `FatalError` for files that can't be scored.
    """
    benchmark, told = asked.benchmark, ""
    try:
        if benchmark == "vcoco":
            evaluated = _vcoco(asked)
        else:
            truth = GroundTruth.open(asked.format or FORMATS[benchmark], asked.ground_truth, further_files(asked.files))
            validity = _validity(asked.validity)
            found = read_detections(
                asked.detections,
                truth,
                allow_missing=asked.allow_missing,
                drop_faulty=asked.drop_faulty,
                allowed=None if validity is None else (validity.T > 0),
            )
            options = _options(asked, truth, validity)
            evaluated = _scored(benchmark, found, truth, options)
            told = str(found.findings)
            if asked.report is not None:
                dissection = dissect(found.relations, truth.relations, AnatomyRules())
                shown = EvaluatedImages(
                    dissection,
                    truth.objects,
                    truth.predicates,
                    truth.uris,
                    _reader(asked, truth.uris),
                    _is_shares(truth),
                )
                split = options.split.name if options.split else ""
                _write_report(asked.report, asked, shown, evaluated, split if split in PUBLISHED else "full")
    except ValueError as error:
        raise FatalError(str(error)) from error
    if as_json:
        rows = [{k: None if v != v else v for k, v in vars(figure).items()} for figure in evaluated.figures]
        print(json.dumps({"benchmark": benchmark, "figures": rows}, allow_nan=False))
        return
    console = Console(highlight=False, soft_wrap=True)
    if told:
        console.print(told, markup=False)
    console.print(_table(evaluated.figures))
    if asked.report is not None:
        console.print(f"Report: {asked.report / 'index.html'}", markup=False)


def _scored(benchmark: Benchmark, found: DetectionSet, truth: GroundTruth, options: Options) -> Evaluated:
    given = found.relations, truth.relations
    run: dict[str, Callable[[], Evaluated]] = {
        "hico-det": lambda: benchmarks.hico_det(*given, truth.objects, truth.predicates, options),
        "open-images": lambda: benchmarks.open_images(*given, truth.predicates, options),
        "vg": lambda: benchmarks.visual_genome(*given, truth.predicates, options),
        "vrd": lambda: benchmarks.visual_relationships(*given, truth.predicates, options),
    }
    return run[benchmark]()


def _vcoco(asked: EvaluationRequest) -> Evaluated:
    detections, files = asked.detections, further_files(asked.files)
    if "instances" not in files:
        raise FatalError("vcoco: needs COCO's instances; add --file instances=instances_vcoco_all_2014.json")
    truth = read_vcoco_truth(asked.ground_truth, files["instances"])
    if detections.suffix == ".parquet":
        rows = GroundTruth.open("vcoco", asked.ground_truth, files)
        found = read_detections(
            detections, rows, allow_missing=asked.allow_missing, drop_faulty=asked.drop_faulty
        ).relations
        places = {image_id: place for place, image_id in enumerate(truth.image_ids)}
        image = np.array([places[image_id] for image_id in rows.image_ids.tolist()], np.int64)[found.image]
        order = np.argsort(image, kind="stable")
        moved = replace(found, images=truth.images, image=image).take(order)
        predicted = VcocoDetections.of(moved, rows.predicates, truth)
    else:
        predicted = read_vcoco_detections(detections, truth, asked.allow_missing)
    evaluated = benchmarks.vcoco(predicted, truth, Options(official=asked.official, resamples=asked.resamples))
    if asked.report is not None:
        roles = VcocoRoles.of(predicted, truth)
        uris = _vcoco_files(truth, files["instances"])
        dissection = dissect(roles.predicted, roles.truth, AnatomyRules())
        shown = EvaluatedImages(dissection, roles.objects, roles.predicates, uris, _reader(asked, uris))
        _write_report(asked.report, asked, shown, evaluated, "full")
    return evaluated


def _vcoco_files(truth: VcocoTruth, instances: Path) -> tuple[str, ...]:
    """The file name of each image, as COCO's instances state it."""
    images = stream_lists(instances, "COCO", ("images",))
    names = {int(row["id"]): str(row.get("file_name", row["id"])) for _, row in images}
    return tuple(names[image_id] for image_id in truth.image_ids)


def _options(asked: EvaluationRequest, truth: GroundTruth, validity: np.ndarray | None) -> Options:
    needs_list = asked.rare is not None or asked.split is not None
    if needs_list and asked.interactions is None:
        raise FatalError(
            "--rare and --split count in HICO-DET's list of interactions; add --interactions hico_list_hoi.txt"
        )
    triplets: list[Triplet] = []
    if needs_list and asked.interactions is not None:
        triplets = hico_triplets(read_interactions(asked.interactions), truth.objects, truth.predicates, asked.subject)
    rare = None
    if asked.rare is not None:
        rare = split_of_positions("rare", read_positions(asked.rare), triplets, transductive=None).unseen
    return Options(
        official=asked.official,
        known_object=asked.known_object,
        validity=validity,
        rare=rare,
        split=_split(asked.split, triplets),
        boxes_given=asked.boxes_given,
        resamples=asked.resamples,
    )


def _split(name: str | None, triplets: Sequence[Triplet]) -> Split | None:
    if name is None:
        return None
    if name in PUBLISHED:
        return published_split(name, triplets, transductive=None)
    if not Path(name).is_file():
        raise FatalError(f"--split {name}: is neither {', '.join(PUBLISHED)} nor a file of positions")
    return split_of_positions(Path(name).stem, read_positions(Path(name)), triplets, transductive=None)


def _validity(path: Path | None) -> np.ndarray | None:
    if path is None:
        return None
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise FatalError(f"{path}: is no .npy array of numbers ({error})") from error


def _reader(asked: EvaluationRequest, uris: Sequence[str]) -> Callable[[int], Image]:
    """Opens the image at a position, if the request names their folder."""
    if asked.images is None:
        return lambda position: read_image(Path(uris[position]))
    root = open_folder(asked.images if "://" in asked.images else Path(asked.images))
    return lambda position: read_image(root.place(uris[position]))


def _is_shares(truth: GroundTruth) -> bool:
    """Whether boxes are shares of their images, which then have sides of 1."""
    return bool(len(truth)) and bool((truth.sizes == 1).all())


def _write_report(
    folder: Path, asked: EvaluationRequest, shown: EvaluatedImages, evaluated: Evaluated, setting: str
) -> None:
    summary = summarise(
        NAMES.get(asked.benchmark, asked.benchmark),
        asked.detections.name,
        evaluated.figures,
        evaluated.classes,
        shown.dissection,
        evaluated.score,
        shown.predicates,
        setting=setting,
        scored=evaluated.scored,
        measure=evaluated.measure,
    )
    if asked.official:
        told = "Scores are those of the authors' evaluator, with its defects."
        summary = replace(summary, caveats=(told, *summary.caveats))
    with translate_os_errors(f"writing {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        write_evaluation_page(summary, folder / "index.html", None if asked.images is None else shown)
        write_atomic(folder / "evaluation.md", evaluation_markdown(summary).encode())
        write_atomic(folder / "evaluation.json", summary.as_json().encode())


def _table(figures: Sequence[Figure]) -> Table:
    table = Table("figure", box=None)
    for head in ("value", "95 % interval", "authors' evaluator"):
        table.add_column(head, justify="right")
    for figure in figures:
        interval = "" if figure.low is None else f"{figure.low:.4f} to {figure.high:.4f}"
        authors = "" if figure.official is None else f"{figure.official:.4f}"
        table.add_row(figure.label, f"{figure.value:.4f}", interval, authors)
    return table
