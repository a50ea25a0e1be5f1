"""Pages of a run's evaluations: one per variant, for its first seed, and one of all, from the steps' detections."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from PIL.Image import Image

from pipeline.data.images.folders import locate_image
from pipeline.data.images.opening import BadImage, read_image
from pipeline.evaluation import benchmark
from pipeline.evaluation.anatomy import dissect
from pipeline.evaluation.benchmark import RESAMPLES, Options, further_figures
from pipeline.evaluation.bootstrap import resampled
from pipeline.evaluation.comparison import ComparedModel, compare
from pipeline.evaluation.detections.read import read_detections
from pipeline.evaluation.ground_truth import GroundTruth
from pipeline.evaluation.published import published_test_set
from pipeline.evaluation.relations import Integers
from pipeline.evaluation.summary import EvaluationSummary, summarise
from pipeline.labels.labelled_partitions import is_made_from
from pipeline.report.evaluation_images import EvaluatedImages
from pipeline.report.evaluation_page import MARK, comparison_page, evaluation_markdown, evaluation_page
from pipeline.report.galleries import absence
from pipeline.report.report_folder import meta_of
from pipeline.report.variants import steps_of_seeds
from pipeline.report.view import RunView
from pipeline.runtime.stage import dataset_of
from storage.artifact import Artifact
from storage.atomic import write_atomic
from storage.digests import digest_json
from storage.errors import PipelineError
from storage.runs import Run
from storage.tables import DETECTIONS_FILE

IMAGES = 3
"""Maximum number of best and of worst images."""
LONGEST_SIDE = 400
"""Longest side of these images, in pixels."""
_VERSION = 7
"""Incremented whenever the page of the same evaluation would look different."""
HOME = "../index.html"
"""The run's report, from these pages."""


SIDE_BY_SIDE = "side by side"
"""The name, instead of a variant's, of the page that compares all variants."""


@dataclass(frozen=True)
class RunEvaluation:
    """The page of a variant's evaluation, next to the report, or the reason why there is none."""

    variant: str
    file: str | None
    problem: str


class _Evaluation(NamedTuple):
    """A variant's evaluation, and the positions of its images among those of the test sets."""

    summary: EvaluationSummary
    images: EvaluatedImages
    model: ComparedModel
    positions: Integers


def write_run_evaluations(
    view: RunView, folder: Path, earlier: Path | None, count: int = IMAGES
) -> tuple[RunEvaluation, ...]:
    """Writes a page and Markdown for each variant to `folder`, and a page that compares several.

    Copies those from `earlier` of which nothing changed. If detections can't be shown, e.g. because images were
    replaced, the variant has a problem instead of a page.
    """
    firsts = _first_seeds(view.run)
    shown = min(count, IMAGES)
    ingested = sorted(view.run.keys("ingest").values())
    tested: Sequence[str] = view.recipe.get("data", {}).get("test", ())
    absent = [absence(view.image_folders, dataset) for dataset in tested]
    # The page of a variant and that of all share its evaluation.
    evaluation = cache(lambda variant: _evaluation(view, variant, *firsts[variant]))
    stamps = {
        variant: digest_json([_VERSION, view.run.name, artifact.key, ingested, shown, *filter(None, absent)])
        for variant, (_, artifact) in firsts.items()
    }
    if firsts:
        folder.mkdir(exist_ok=True)
    place = partial(_page, folder, earlier)
    pages = [
        place(variant, stamp, (f"{variant}.html", f"{variant}.md"), partial(_of_variant, evaluation, variant, shown))
        for variant, stamp in stamps.items()
    ]
    if len(pages) > 1 and not any(each.problem for each in pages):
        stamp = digest_json([*stamps.values()])
        pages.append(place(SIDE_BY_SIDE, stamp, ("side_by_side.html",), partial(_of_all, evaluation, [*firsts])))
    return tuple(pages)


def _page(
    folder: Path,
    earlier: Path | None,
    name: str,
    stamp: str,
    files: Sequence[str],
    texts: Callable[[str], Sequence[str]],
) -> RunEvaluation:
    """Copies a page and its further files from `earlier` if it has this stamp, or else writes their texts."""
    try:
        kept = earlier if earlier and all((earlier / each).is_file() for each in files) else None
        if kept and meta_of(kept / files[0], MARK) == stamp:
            for each in files:
                shutil.copyfile(kept / each, folder / each)
        else:
            for each, text in zip(files, texts(stamp), strict=True):
                write_atomic(folder / each, text.encode())
    except (PipelineError, ValueError, OSError) as error:
        return RunEvaluation(name, None, str(error))
    return RunEvaluation(name, f"{folder.name}/{files[0]}", "")


def _of_variant(evaluation: Callable[[str], _Evaluation], variant: str, shown: int, stamp: str) -> tuple[str, str]:
    summary, images, _, _ = evaluation(variant)
    page = evaluation_page(summary, images if shown else None, shown, home=HOME, stamp=stamp)
    return page, evaluation_markdown(summary)


def _of_all(evaluation: Callable[[str], _Evaluation], variants: Sequence[str], stamp: str) -> tuple[str]:
    found = [evaluation(variant) for variant in variants]
    summary, _, _, positions = found[0]
    if not all(np.array_equal(each.positions, positions) for each in found):
        raise ValueError("the variants were evaluated on different images")
    rules = [*found[0].model.evaluated.rules, "Each variant is scored with its first seed."]
    models = [each.model for each in found]
    comparison = compare(summary.benchmark, models, summary.predicates, rules, resamples=RESAMPLES)
    return (comparison_page(comparison, home=HOME, stamp=stamp),)


def _first_seeds(run: Run) -> dict[str, tuple[str, Artifact]]:
    """Variant → step of its first seed and its artifact, if that kept its detections."""
    found: dict[str, tuple[str, Artifact]] = {}
    for variant, steps in steps_of_seeds(run, "evaluate").items():
        for step in steps:
            artifact = next(iter(run.artifacts(step).values()), None)
            if artifact is not None and DETECTIONS_FILE in artifact.manifest.files:
                found.setdefault(variant or step, (step, artifact))
    return found


def _evaluation(view: RunView, variant: str, step: str, artifact: Artifact) -> _Evaluation:
    """Scores the detections again as the stage did, and adds intervals and the cost of errors."""
    data = view.recipe.get("data", {})
    names: Sequence[str] = data.get("test", ())
    ingested = view.run.artifacts("ingest")
    partitions = [name for name in sorted(ingested) if dataset_of(name) in names]  # in the stage's order
    if not all(is_made_from(artifact, "images", ingested[name]) for name in partitions):
        raise ValueError("its test images were ingested again since; run the recipe to the end")
    rows = [row for name in partitions for row in ingested[name].table("images").to_pylist()]
    truth = GroundTruth.of_rows(rows)
    file = artifact.file(DETECTIONS_FILE)
    metrics = view.recipe.get("evaluate", {}).get("metrics", ())
    found = read_detections(file, truth, allow_missing=True)
    # The stage does not score unreadable images.
    scored = set(pq.read_table(file, columns=["image_id"])["image_id"].to_pylist())
    positions = np.flatnonzero(np.isin(truth.image_ids, list(scored)))
    predicted, true = resampled(found.relations, positions), resampled(truth.relations, positions)
    options = Options(objects=truth.objects)
    evaluated = benchmark.hico_det(predicted, true, truth.predicates, options)
    counted = evaluated.counted
    assert counted is not None
    hico = published_test_set("hico-det")
    is_hico = hico is not None and not hico.difference(true.images, len(evaluated.classes))
    formats = {source["name"]: source["format"] for source in data.get("sources", ())}
    # Pseudo-labels of HICO-DET's training images are not its published zero-shot setting either.
    roles = ["mix", *(["label"] if variant == "given" or is_hico else []), *(["tagger"] if variant == "pseudo" else [])]
    learned = {name for role in roles for name in data.get(role, ()) if formats[name] in map(formats.get, names)}
    further = further_figures(metrics, predicted, true, truth.objects, truth.predicates)
    rules = ["Scores follow HICO-DET's rules. Predicates are in the run's canonical form, which merges synonyms."]
    rules += evaluated.rules if is_hico else ()
    if unread := len(truth) - len(positions):
        rules.append(f"{unread:,} of {len(truth):,} test images could not be read and do not count.")
    evaluated = replace(evaluated, figures=evaluated.figures + further, rules=tuple(rules))
    dissection = dissect(counted, true)
    summary = summarise(
        "hico-det" if is_hico else f"{', '.join(names)} by HICO-DET's rules",  # a dataset may be called vg
        f"{view.run.name}, {step}",
        evaluated,
        dissection,
        truth.predicates,
        setting=f"trained on {', '.join(sorted(learned))}" if learned else "NF" if is_hico else "zero-shot",
        suppression=options.suppression,
    )

    def read(position: int) -> Image:
        row = rows[positions[position]]
        if row["dataset"] not in view.image_folders:
            raise BadImage("the run does not know where the images of this dataset are", row["dataset"])
        return read_image(locate_image(view.image_folders, row))

    titles = [truth.uris[position] for position in positions]
    images = EvaluatedImages(dissection, truth.objects, truth.predicates, titles, read, longest_side=LONGEST_SIDE)
    return _Evaluation(summary, images, ComparedModel(variant, evaluated, counted, true), positions)
