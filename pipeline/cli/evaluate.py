"""`rlip evaluate`: scores a detections file by the rules of a public benchmark."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from pipeline.cli.options import AsJson, Files, further_files, printed
from pipeline.data.datasets.annotations import opening
from pipeline.data.datasets.json_stream import stream_rows
from pipeline.data.datasets.open_images import image_labels
from pipeline.data.datasets.record import NO_OBJECT
from pipeline.data.images.folders import open_folder
from pipeline.data.images.opening import BadImage, probe, read_image
from pipeline.data.images.refs import ImageFolder
from pipeline.evaluation.anatomy import dissect
from pipeline.evaluation.benchmark import (
    BENCHMARKS,
    Benchmark,
    Figure,
    Options,
    find_benchmark,
    in_words,
    numbered_triplets,
    open_images,
    vcoco,
)
from pipeline.evaluation.comparison import ComparedModel, Comparison, compare
from pipeline.evaluation.detections.content import Faults
from pipeline.evaluation.detections.names import counted_names, matched
from pipeline.evaluation.detections.plausible import refuse_implausible
from pipeline.evaluation.detections.read import DetectionSet, read_detections
from pipeline.evaluation.ground_truth import GroundTruth
from pipeline.evaluation.hico import TripletClass
from pipeline.evaluation.matching import pair_numbers
from pipeline.evaluation.open_images import PREDICATES_PER_PAIR
from pipeline.evaluation.ranking import PER_IMAGE, ranks_in
from pipeline.evaluation.splits import (
    HICO_RARE,
    HICO_TRIPLETS,
    PUBLISHED,
    published_split,
    read_interactions,
    read_positions,
    split_of_positions,
)
from pipeline.evaluation.summary import summarise
from pipeline.evaluation.vcoco import THINGS, as_relations
from pipeline.evaluation.vcoco_detections import (
    EXPECTED,
    VcocoDetections,
    in_roles,
    of_persons,
    read_vcoco_detections,
    role_words,
)
from pipeline.evaluation.vcoco_truth import VcocoTruth, read_vcoco_truth
from pipeline.report.evaluation_images import EvaluatedImages
from pipeline.report.evaluation_page import comparison_page, evaluation_markdown, evaluation_page
from pipeline.report.formatting import table
from storage.atomic import write_atomic
from storage.errors import FatalError, translate_os_errors
from storage.json_files import json_values
from tagger.matching import read_authors_file

NOTHING = "missing objects"
"""What RLIPv2's authors call the object of an action without one in V-COCO."""
UNKNOWN_IDS = ("unknown category id", "unknown verb id", "unknown category", "relation of unknown category")
"""Rejected parts of a ground truth whose list of names belongs to another file."""


class ScoredFile(NamedTuple):
    """A scored file of detections, and its relations, whose errors a report shows."""

    model: ComparedModel
    objects: tuple[str, ...]
    predicates: tuple[str, ...]
    uris: tuple[str, ...]
    findings: str = ""


def _write_report(
    folder: Path,
    benchmark: Benchmark,
    scored: ScoredFile,
    notes: Sequence[str],
    root: ImageFolder | None,
    setting: str,
    options: Options,
) -> None:
    """Writes a page, a Markdown table and JSON. `notes`: caveats; `root`: the folder of images, to show some."""
    uris, (name, evaluated, predicted, truth) = scored.uris, scored.model
    shown = EvaluatedImages(
        dissect(predicted, truth, benchmark.per_image),
        scored.objects,
        scored.predicates,
        uris,
        lambda position: read_image(Path(uris[position]) if root is None else root.place(uris[position])),
    )
    summary = summarise(
        benchmark.published_name(options.masks),
        name,
        replace(evaluated, rules=(*evaluated.rules, *notes)),
        shown.dissection,
        shown.predicates,
        setting=setting,
        suppression=options.suppression if "--no-suppression" in benchmark.options else None,
        official=options.official,
    )
    write_atomic(folder / "index.html", evaluation_page(summary, None if root is None else shown).encode())
    write_atomic(folder / "evaluation.md", evaluation_markdown(summary).encode())
    write_atomic(folder / "evaluation.json", summary.as_json().encode())


@dataclass(frozen=True)
class Evaluation:
    """The figures of detections under the rules of a benchmark."""

    benchmark: str
    rules: tuple[str, ...]
    """Rules that differ from the default, in words."""
    figures: tuple[Figure, ...]
    findings: str
    """What was excluded or looks wrong, in words."""
    report: Path | None
    """The report page, if a folder was passed."""
    comparison: Comparison | None
    """The comparison of the first model, whose figures these are, with the others."""

    def as_json(self) -> str:
        """Findings, and the comparison or figures, with null where the ground truth does not define them."""
        said = {"findings": self.findings, "report": None if self.report is None else str(self.report)}
        if self.comparison is not None:
            return self.comparison.as_json(**said)
        named = {"benchmark": self.benchmark, "rules": self.rules}
        return json.dumps(json_values(named | said | {"figures": [*map(vars, self.figures)]}))


def score(
    benchmark: Annotated[
        str, typer.Argument(metavar="BENCHMARK", help=f"{', '.join(BENCHMARKS)}, or a registered metric.")
    ],
    ground_truth: Annotated[Path, typer.Option("--ground-truth", help="The benchmark's annotation file.")],
    detections: Annotated[
        list[Path],
        typer.Option(
            "--detections",
            metavar="PATH",
            help="Output of `rlip predict`, or a public format. Repeat it to compare further models with the first.",
        ),
    ],
    format_name: Annotated[
        str | None,
        typer.Option("--format", help="Layout of the annotations, e.g. hico_instances; unset: the usual one."),
    ] = None,
    files: Files = None,
    official: Annotated[
        bool, typer.Option("--official", help="Print the authors' figures, with the bugs of their evaluators.")
    ] = False,
    known_object: Annotated[
        bool, typer.Option("--known-object", help="hico-det: add the Known Object setting.")
    ] = False,
    interactions: Annotated[
        Path | None,
        typer.Option("--interactions", help="hico-det: hico_list_hoi.txt, which --rare and --split refer to."),
    ] = None,
    rare: Annotated[
        Path | None, typer.Option("--rare", help="hico-det: file of the rare interactions' positions.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="hico-det: NF, UC-RF, UC-NF, UO, UV, or a file of unseen positions, from 0."),
    ] = None,
    setting: Annotated[
        Literal["full", "1%", "10%"],
        typer.Option(
            "--setting",
            help="hico-det: share of the training images that the network was fine-tuned on; selects the published "
            "results to compare with.",
        ),
    ] = "full",
    validity: Annotated[
        Path | None, typer.Option("--validity", help="hico-det: .npy with predicates × objects, e.g. corre_hico.npy.")
    ] = None,
    no_suppression: Annotated[
        bool, typer.Option("--no-suppression", help="hico-det, open-images: keep duplicates, as QPIC and PySGG do.")
    ] = False,
    seen: Annotated[
        Path | None,
        typer.Option(
            "--seen", help="vg, vrd: JSON list of the triplets seen in training, each a list of three names, for zR@K."
        ),
    ] = None,
    verified: Annotated[
        Path | None,
        typer.Option("--verified", help="open-images: CSV of verified image labels, for the challenge's metric."),
    ] = None,
    absent_as_zero: Annotated[
        bool, typer.Option("--absent-as-zero", help="vg: predicates absent from the truth count as 0 in mR@K.")
    ] = False,
    subject: Annotated[str, typer.Option("--subject", help="hico-det: the subject of all interactions.")] = "person",
    boxes_given: Annotated[bool, typer.Option("--boxes-given", help="vg: boxes are given (PredCls, SGCls).")] = False,
    masks: Annotated[
        str | None,
        typer.Option("--masks", help="vg --format psg: folder of panoptic_val2017, to match relations by masks."),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Count images without a row as images without detections.")
    ] = False,
    drop_faulty: Annotated[bool, typer.Option("--drop-faulty", help="Reject faulty rows and count them.")] = False,
    intervals: Annotated[
        int, typer.Option("--intervals", min=0, help="Resampled test sets per interval; 0: no intervals.")
    ] = 200,
    report_folder: Annotated[
        Path | None, typer.Option("--report", help="Folder for a page, Markdown and JSON.")
    ] = None,
    images: Annotated[
        str | None, typer.Option("--images", help="Folder of the images, for the report and for sizes.")
    ] = None,
) -> Evaluation:
    """Score a detections file by the rules of a public benchmark."""
    chosen = find_benchmark(benchmark)
    given = {
        "--known-object": known_object, "--interactions": interactions, "--rare": rare, "--split": split,
        "--validity": validity, "--no-suppression": no_suppression, "--verified": verified,
        "--boxes-given": boxes_given, "--absent-as-zero": absent_as_zero, "--seen": seen, "--format": format_name,
        "--masks": masks, "--subject": subject != "person", "--setting": setting != "full", "--official": official,
    }  # fmt: skip
    for option, value in given.items():
        if value and option not in chosen.options:
            others = ", ".join(each.name for each in BENCHMARKS.values() if option in each.options)
            raise FatalError(f"{option}: {benchmark} has no such rule, only {others}; omit it")
    annotations = format_name or chosen.format
    if annotations is None:
        raise FatalError(f"{benchmark}: has no default ground-truth format; name that of your file with --format")
    if setting != "full" and split:
        raise FatalError("--setting, --split: no published result has both; omit one")
    if setting != "full" and (report_folder is None or len(detections) > 1):
        raise FatalError(
            "--setting: only the report of one model compares with published results; add --report, or omit it"
        )
    if masks and format_name != "psg":
        raise FatalError("--masks: only PSG's annotations name masks; add --format psg, or omit it")
    root, panoptic = (
        None if each is None else open_folder(each if "://" in each else Path(each)) for each in (images, masks)
    )
    faults = {"allow_missing": allow_missing, "drop_faulty": drop_faulty}
    further = further_files(files or [])
    if verified is not None and "classes" not in further:
        raise FatalError("--verified: its labels are codes; add --file classes=FILE, Open Images' table of classes")
    models = dict(zip(_names(detections), detections, strict=True))
    compared, findings = len(models) > 1, ""
    terminal = Console(stderr=True, markup=False)
    with Progress(console=terminal, disable=not terminal.is_terminal, transient=True) as progress:
        bar = progress.add_task("intervals", visible=False)
        options = Options(
            official=official,
            resamples=0 if compared else intervals,
            report=lambda done, total: progress.update(bar, completed=done, total=total, visible=True),
            suppression=not no_suppression,
        )
        try:
            if chosen.by_roles:
                scored = _vcoco(ground_truth, further, models, faults, options)
            else:
                truth = _with_sizes(GroundTruth.open(annotations, ground_truth, further), root)
                truth = truth if panoptic is None else truth.with_masks(ground_truth, panoptic)
                findings = _rejected(truth, drop_faulty)
                options = replace(
                    options,
                    objects=truth.objects,
                    known_object=known_object,
                    validity=_validity(validity, truth),
                    boxes_given=boxes_given,
                    absent_as_zero=absent_as_zero,
                    masks=panoptic is not None if format_name == "psg" and "--masks" in chosen.options else None,
                    seen=None if seen is None else _seen(seen, truth),
                    verified=None if verified is None else _verified(verified, further["classes"], truth),
                    **_apart(truth, interactions, rare, split, subject),
                )
                scored = [_scored(chosen, *named, truth, faults, options) for named in models.items()]
            findings += "\n".join(each.findings for each in scored if each.findings)
            if compared:
                if (
                    official
                    and options.masks
                    and len({tuple(np.unique(each.model.predicted.image)) for each in scored}) > 1
                ):
                    raise FatalError(
                        "--official: PSG's evaluator leaves out images without predictions, which differ between these "
                        "models; omit --official"
                    )
                comparison = compare(
                    chosen.published_name(options.masks),
                    [each.model for each in scored],
                    scored[0].predicates,
                    scored[0].model.evaluated.rules,
                    resamples=intervals,
                    report=options.report,
                )
        except ValueError as error:
            raise FatalError(str(error)) from error
    if report_folder is not None:
        with translate_os_errors(f"writing {report_folder}"):
            report_folder.mkdir(parents=True, exist_ok=True)
            notes = [line.strip() for line in findings.splitlines()]
            if compared:
                noted = replace(comparison, rules=(*comparison.rules, *notes))
                write_atomic(report_folder / "index.html", comparison_page(noted).encode())
                write_atomic(report_folder / "comparison.json", noted.as_json().encode())
            else:
                shown = Path(split).stem if split else setting
                if "--boxes-given" in chosen.options:
                    shown = "boxes given" if boxes_given else "SGDet"
                _write_report(report_folder, chosen, scored[0], notes, root, shown, options)
    page = None if report_folder is None else report_folder / "index.html"
    first = scored[0].model.evaluated
    return Evaluation(benchmark, first.rules, first.figures, findings, page, comparison if compared else None)


def _print(evaluation: Evaluation, as_json: AsJson = False) -> None:
    if as_json:
        print(evaluation.as_json())
        return
    console, compared = Console(markup=False, highlight=False, soft_wrap=True), evaluation.comparison
    for line in (*filter(None, [evaluation.findings]), *evaluation.rules):
        console.print(line)
    console.print(_table(evaluation.figures) if compared is None else _compared_table(compared))
    if evaluation.report is not None:
        console.print(f"Report: {evaluation.report}")


evaluate = printed(score, _print)


def _names(files: Sequence[Path]) -> list[str]:
    """The models' names: those of the files, with folders where files are named alike."""
    if not files:
        raise FatalError("--detections: names no file; name at least one")
    names = [path.name for path in files]
    names = names if len(set(names)) == len(names) else [str(path) for path in files]
    if len(set(names)) < len(names):
        raise FatalError(f"--detections: {max(names, key=names.count)} is named twice")
    return names


def _scored(
    benchmark: Benchmark, name: str, path: Path, truth: GroundTruth, faults: Mapping[str, Any], options: Options
) -> ScoredFile:
    allowed = None if options.validity is None else options.validity.T > 0
    two = benchmark.metric is open_images and options.of_open_images.two_per_pair
    found = read_detections(
        path,
        truth,
        **faults,
        per_image=benchmark.per_image,
        per_pair=PREDICATES_PER_PAIR if two else None,
        counts=benchmark.counts,
        allowed=allowed,
    )
    truth, predicted, true = found.truth, found.relations, found.truth.relations
    names = truth.objects, truth.predicates
    doubt = refuse_implausible(path, predicted, true, truth.sizes, *names)
    evaluated = benchmark.metric(predicted, true, truth.predicates, options)
    predicted = predicted if evaluated.counted is None else evaluated.counted
    predicted, true = (replace(each, masks=None) for each in (predicted, true))
    cut = _cut_before(path, found, options)
    if two or benchmark.counts is not None:
        cut = _cut_pairs(path, found, PREDICATES_PER_PAIR if two else 1)
    findings = "\n".join(filter(None, (str(found.findings), doubt, cut)))
    return ScoredFile(ComparedModel(name, evaluated, predicted, true), *names, truth.uris, findings)


def _cut_before(path: Path, found: DetectionSet, options: Options) -> str:
    """A note on relations that may have been chosen before the validity could rule out others."""
    most = int(np.bincount(found.relations.image).max(initial=0))
    if options.validity is None or found.every_score or not 0 < most <= PER_IMAGE:
        return ""
    return (
        f"{path}: no image has more than {most} relations; if they were chosen before --validity ruled some out, these "
        "figures are lower bounds; `rlip predict --per-image 1000` writes more"
    )


def _cut_pairs(path: Path, found: DetectionSet, most: int) -> str:
    """A note on relations that were cut to HICO-DET's number, so that too few may count: `most` of each pair."""
    predicted = found.relations
    counts = np.bincount(predicted.image, minlength=predicted.images)
    if found.every_score or counts.max(initial=0) != PER_IMAGE:
        return ""
    counted = predicted.image[ranks_in([pair_numbers(predicted)]) < most]
    if np.bincount(counted, minlength=predicted.images)[counts == PER_IMAGE].min() == PER_IMAGE:
        return ""
    limited = "recalls with one predicate per pair" if most == 1 else f"figures with {most} predicates per pair"
    scored = ", and `evaluate.metrics` in a recipe scores all" if most == 1 else ""
    return (
        f"{path}: some images have {PER_IMAGE} relations of fewer pairs; if the file was cut to {PER_IMAGE}, {limited} "
        f"are lower bounds; `rlip predict --per-image 5000` writes more{scored}"
    )


def _vcoco(
    annotations: Path,
    files: Mapping[str, Path],
    models: Mapping[str, Path],
    faults: Mapping[str, Any],
    options: Options,
) -> list[ScoredFile]:
    if "instances" not in files:
        raise FatalError("vcoco: needs COCO's instances; add --file instances=instances_vcoco_all_2014.json")
    truth = read_vcoco_truth(annotations, files["instances"])
    scored = []
    for name, path in models.items():
        predicted, findings = _vcoco_detections(path, truth, annotations, files, faults)
        relations = as_relations(predicted, truth)
        names = THINGS, tuple(map(" ".join, truth.roles))
        doubt = refuse_implausible(path, *relations, np.zeros((truth.images, 2), np.int64), *names)
        model = ComparedModel(name, vcoco(predicted, truth, options), *relations)
        findings = "\n".join(filter(None, (findings, doubt)))
        scored.append(ScoredFile(model, *names, truth.uris, findings))
    return scored


def _vcoco_detections(
    path: Path, truth: VcocoTruth, annotations: Path, files: Mapping[str, Path], faults: Mapping[str, Any]
) -> tuple[VcocoDetections, str]:
    """The detections in V-COCO's own form, a JSON list, or that of `rlip predict`, and what was excluded, in words."""
    if path.suffix != ".parquet" and opening(path, EXPECTED) != "{":
        first = next(stream_rows(path, EXPECTED), None)
        if not (isinstance(first, dict) and "pairs" in first):
            return read_vcoco_detections(path, truth, faults["allow_missing"]), ""
    rows = GroundTruth.open("vcoco", annotations, files)
    predicates = dict.fromkeys([*rows.predicates, *role_words(truth)])
    rows = replace(rows, objects=(*rows.objects, NOTHING), predicates=tuple(predicates))
    read = read_detections(path, rows, **faults)
    found = read.relations
    without = found.object_labels == rows.objects.index(NOTHING)
    found = replace(
        found,
        object_labels=np.where(without, NO_OBJECT, found.object_labels),
        object_boxes=np.where(without[:, None], np.nan, found.object_boxes),
    )
    places = {image_id: place for place, image_id in enumerate(truth.image_ids)}
    image = np.array([places[image_id] for image_id in rows.image_ids.tolist()], np.int64)[found.image]
    order = np.argsort(image, kind="stable")
    moved = replace(found, images=truth.images, image=image).take(order)
    others = moved.image[~of_persons(moved, rows.objects)]
    left_out = Faults()
    uris = (truth.uris[place] for place in np.unique(others))
    left_out.add("relations whose subject is not a person", len(others), uris)
    findings = replace(
        read.findings, relations=len(moved) - len(others), faults=(*read.findings.faults, *left_out.values())
    )
    used, predicate = np.unique(moved.predicates, return_inverse=True)
    names = [rows.predicates[place] for place in used]  # what "ride" is depends on the other words of the file
    return in_roles(replace(moved, predicates=predicate), rows.objects, names, truth), str(findings)


def _apart(
    truth: GroundTruth, interactions: Path | None, rare: Path | None, split: str | None, subject: str
) -> dict[str, Any]:
    """The `rare` and `unseen` triplets of `Options`; files give their positions in HICO-DET's list of interactions."""
    if rare is None and split is None:
        return {}
    if interactions is None:
        raise FatalError(
            "--rare and --split name positions in HICO-DET's list of interactions; add --interactions hico_list_hoi.txt"
        )
    listed = [(subject, predicate, object_) for predicate, object_ in read_interactions(interactions)]
    triplets = numbered_triplets(listed, truth.objects, truth.predicates)
    nameable = truth.relations.triplets[truth.relations.object_labels >= 0]  # no list has those without an object
    if unlisted := {*map(tuple, nameable.tolist())} - {*triplets}:
        first = in_words(TripletClass(*min(unlisted)), truth.objects, truth.predicates)
        raise FatalError(
            f"{interactions}: lacks {len(unlisted):,} interactions of the ground truth, e.g. {first!r}; name the list "
            "that belongs to it, and its --subject"
        )
    found = {}
    if rare is not None:
        found["rare"] = split_of_positions("rare", read_positions(rare), triplets)
        is_hico = len(triplets) == HICO_TRIPLETS
        if is_hico and not (published_split("UC-RF", triplets) <= found["rare"] and len(found["rare"]) == HICO_RARE):
            raise FatalError(
                f"{rare}: is not the list of HICO-DET's {HICO_RARE} rare interactions; it must count from 0, in the "
                f"order of {interactions}"
            )
    if split is not None and split in PUBLISHED:
        found["unseen"] = published_split(split, triplets)
    elif split is not None:
        if not Path(split).is_file():
            raise FatalError(f"--split {split}: is neither {', '.join(PUBLISHED)} nor a file of positions")
        found["unseen"] = split_of_positions(Path(split).stem, read_positions(Path(split)), triplets)
    return found


def _validity(path: Path | None, truth: GroundTruth) -> np.ndarray | None:
    """The table of allowed combinations, with a column for each object of the truth."""
    if path is None:
        return None
    try:
        allowed = np.asarray(np.load(path, allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise FatalError(f"{path}: is not a .npy array of numbers ({error})") from error
    names = counted_names(truth.objects)
    expected = (len(truth.predicates), len(names))
    if allowed.shape != expected or allowed.dtype.kind not in "biuf":
        raise FatalError(
            f"{path}: is {allowed.dtype} of shape {allowed.shape}; expected numbers of predicates × objects, {expected}"
        )
    allowed = allowed[:, matched(truth.objects, names)]
    relations = truth.relations
    forbidden = (relations.object_labels >= 0) & (allowed[relations.predicates, relations.object_labels] == 0)
    if forbidden.any():
        first = int(forbidden.argmax())
        example = f"{truth.predicates[relations.predicates[first]]} {truth.objects[relations.object_labels[first]]}"
        raise FatalError(
            f"{path}: forbids {forbidden.sum():,} of {len(relations):,} true interactions, e.g. {example!r}; its rows "
            f"must be the predicates of the ground truth, in order, its columns {', '.join(names[:3])}, ..."
        )
    return allowed


def _with_sizes(truth: GroundTruth, root: ImageFolder | None) -> GroundTruth:
    """Adds image sizes from the folder to a truth whose boxes are shares of their image, where files exist."""
    if root is None:
        return truth
    sizes = np.zeros((len(truth), 2))
    for position in np.flatnonzero((truth.sizes == 1).all(axis=1)):
        try:
            sizes[position] = probe(root.place(truth.uris[position]))[:2]
        except BadImage:  # the detections may state its size
            continue
    return truth.with_sizes(sizes)


def _rejected(truth: GroundTruth, drop_faulty: bool) -> str:
    """What the ground truth lost, in words. Raises `FatalError` for ids that its lists of names lack."""
    counts = Counter(reject.reason for reject in truth.rejects)
    unknown = [f"{counts[reason]:,} × {reason}" for reason in UNKNOWN_IDS if counts[reason]]
    if unknown and not drop_faulty:
        raise FatalError(
            f"ground truth: {', '.join(unknown)}; name the lists that belong to its file, or exclude "
            "these with --drop-faulty"
        )
    return "".join(f"ground truth, excluded: {count:,} × {reason}\n" for reason, count in counts.items())


def _seen(path: Path, truth: GroundTruth) -> np.ndarray:
    triplets = read_authors_file(path, list[tuple[str, str, str]], "[[subject, predicate, object], ...] of names")
    return np.array(numbered_triplets(triplets, truth.objects, truth.predicates), np.int64).reshape(-1, 3)


def _verified(path: Path, classes: Path, truth: GroundTruth) -> np.ndarray:
    """M×2: position of the image and object class of each label; labels of other images do not count."""
    places = {name: place for place, name in enumerate(truth.objects)}
    found = [
        (truth.by_id[image_id], places[name])
        for image_id, name in image_labels(path, classes)
        if image_id in truth.by_id and name in places
    ]
    if not found:
        raise FatalError(f"{path}: no label names both an image and a class of the ground truth")
    return np.array(found, np.int64)


def _table(figures: Sequence[Figure]) -> Table:
    shown = table(None, "figure", "value", "95 % interval", "authors' evaluator")
    for figure in figures:
        interval = "" if figure.low is None else f"{figure.low:.4f} to {figure.high:.4f}"
        authors = "" if figure.official is None else f"{figure.official:.4f}"
        shown.add_row(figure.label, f"{figure.value:.4f}", interval, authors)
    return shown


def _compared_table(comparison: Comparison) -> Table:
    others = (f"{name} − {comparison.models[0]}" for name in comparison.models[1:])
    shown = table("Differences with 95 % intervals", "figure", *comparison.models, *others)
    for row in comparison.figures:
        values = (f"{value:.4f}" for value in row.values)
        shown.add_row(row.name, *values, *(each.text("{:+.4f}".format) for each in row.differences))
    return shown
