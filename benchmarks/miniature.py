"""The paper's claims in miniature, on synthetic scenes whose relations need pixels: `python -m benchmarks.miniature`.

fusion    ALIF, late fusion and no fusion of language and image
source    the true relations, the tagger's labels, naive matching, and the tagger's with a share of predicates replaced
amount    all, half and a quarter of the pseudo-labelled images, for the same number of steps

Captions, labels and shards are made once, by the chain of `recipes/demo.toml` on the second world (`scenes.acts`). A
detector without fusion, trained once on boxes, starts every variant with each seed. Each training is evaluated at
`--milestones`, and `--jobs` of them run at a time. Variants that a seed has in common are compared, so each seed adds
pairs. Interrupted, the benchmark continues: finished training runs stay in the store, others have checkpoints.

Shapes: M ordered pairs of the boxes of all images, V predicates, P predicted pairs, N boxes of an image.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import permutations, product
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn
from torchvision.ops import box_iou

from benchmarks.harness import Row, parser, run
from models.network import Network
from models.weights import save
from pipeline.cli.run import execute_run
from pipeline.data.images.folders import locate_image
from pipeline.data.images.opening import read_image
from pipeline.evaluation.ground_truth import GroundTruth
from pipeline.evaluation.predictor import Found, Predictor
from pipeline.evaluation.test_set import ScoredImage, TestSet
from pipeline.run.context import RunContext
from pipeline.run.dag import build_steps
from pipeline.run.recipe import Recipe
from pipeline.run.recipe_files import load_recipe
from pipeline.runtime.execute import WorkItem, execute
from pipeline.runtime.processes import keep_freed_memory, one_thread_each
from pipeline.runtime.stage import WHOLE, Inputs, Output, ReportProgress, dataset_of
from pipeline.stages.pretrain import PretrainStage
from pipeline.training.config import METRICS_LOG, MODEL, SAMPLES, TOKENIZER, VOCABULARY, TrainConfig
from pipeline.training.launch.launcher import prepare
from pipeline.training.metrics_log import MetricsLog
from pipeline.training.ranks import Ranks
from pipeline.training.sample import TrainingSample
from pipeline.training.settings import TrainingSettings
from pipeline.training.shards import ShardSamples, shards_of
from pipeline.training.tagger_evaluation import average_precision
from pipeline.training.task import Draws, PretrainTask, StepInputs
from pipeline.training.trainer import Trainer
from pipeline.training.vocabulary import Vocabulary
from pipeline.training.worker import be_deterministic
from scenes import SAMPLE_WEIGHTS, acts
from scenes.dataset import write_scenes
from scenes.names import WORLD_CATEGORIES
from storage.artifact import Artifact
from storage.digests import digest_path
from storage.keys import KeyTerms
from storage.open_store import open_store
from storage.runs import Run
from storage.shards.sample_map import SampleMap
from tagger.english.predicates import canonical

SETTINGS = (
    "name=miniature", "scenes.world=2", "scenes.seed=22", "scenes.train=1200", "scenes.relations=1200",
    "scenes.test=240", "data.partition_size=150", "caption.captioner=recorded", "run.until=shard", "run.workers=1",
    "parse.implied=true", "run.checks.min_overall_average_precision=0",
    'pretrain.variants=["pseudo", "naive", "given", "none"]',
    "train_tagger.processes=1", "train_tagger.epochs=4", "train_tagger.lr_backbone=5e-4", "train_tagger.box_noise=0.1",
    "train_tagger.label_noise=0.0", "train_tagger.predicate_texts=90",
    "pretrain.settings.batch=8", "pretrain.settings.micro_batch=8", "pretrain.settings.loss.predicates=4.0",
    "pretrain.settings.loss.box=1.5", "pretrain.settings.loss.giou=1.0", "pretrain.settings.processes=1",
    "pretrain.settings.log_every=5", "pretrain.settings.checkpoint_every=100", "pretrain.settings.warmup=25",
    "pretrain.settings.lr_backbone=5e-4", "pretrain.settings.predicate_texts=90", "shard.uncertain=0.1",
)  # fmt: skip
MEASURED = ("relation_ap", "unseen_wordings_ap", "unseen_combinations_ap", "zero_shot_map", "detection_ap50")
REPLACED = 0.3
"""Share of relations with a wrong predicate in the variant that shows which difference the benchmark resolves."""
UNSEEN = frozenset((canonical(wording), category) for act, category in acts.UNSEEN for wording in acts.wordings(act))
UNSEEN_WORDINGS = frozenset(map(canonical, acts.UNSEEN_WORDINGS))


@dataclass(frozen=True)
class Variant:
    """A way to pre-train. Each claim compares the default with others that differ in one value."""

    fusion: str = "alif"
    labels: str = "pseudo"
    share: float = 1.0
    """Share of the labelled images, whole partitions, in the order of their names."""
    replaced: float = 0.0
    """Share of the relations whose predicate is another."""
    uncertain: bool = False
    """Pairs with uncertain labels alone are neither positive nor negative."""


CLAIMS = {
    "fusion": {"ALIF": Variant(), "late fusion": Variant(fusion="late"), "no fusion": Variant(fusion="none")},
    "source": {
        "tagger": Variant(), "naive": Variant(labels="naive"), "true": Variant(labels="given"),
        f"tagger, {REPLACED:.0%} replaced": Variant(replaced=REPLACED), "tagger, uncertain": Variant(uncertain=True),
    },
    "amount": {"all": Variant(), "half": Variant(share=0.5), "a quarter": Variant(share=0.25)},
}  # fmt: skip
"""Claim → variant's name → variant. The first of each claim is the default, with which the others are compared."""
DETECTOR = Variant(fusion="none", labels="none")
Scores = NDArray[np.float32]


class CurveSettings(TrainingSettings):
    milestones: int = 3
    """Number of evaluations, spread evenly over the training; the last one is of the finished weights."""
    variant: Variant = Variant()


class CurveTask(PretrainTask):
    """Pre-trains on labels of which a share is wrong, the same in every epoch, and with uncertain ones or without."""

    _settings: CurveSettings

    def inputs(self, samples: Sequence[TrainingSample], draws: Draws) -> StepInputs:
        return super().inputs([self._changed(sample) for sample in samples], draws)

    def _changed(self, sample: TrainingSample) -> TrainingSample:
        variant, names = self._settings.variant, self._vocabulary.predicates.names
        rng, relations = Random(f"{self._settings.seed}/{sample.image_id}"), []
        for relation in sample.relations:
            wrong, name = rng.random() < variant.replaced, rng.choice(names)
            relations.append(relation._replace(predicate=name) if wrong else relation)
        uncertain = sample.uncertain if variant.uncertain else ()
        return replace(sample, relations=tuple(relations), uncertain=uncertain)


class CurveStage(PretrainStage):
    """Trains as stage `pretrain` does, in this process alone, and evaluates at milestones."""

    name = "curve"
    version = 1
    reads = ("shards", "images")
    writes = "curve"
    settings: CurveSettings

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        be_deterministic(torch.device("cpu"))
        torch.set_num_threads(self.settings.threads)
        keep_freed_memory()
        began = time.process_time()
        shards = tuple(shards_of(inputs.artifacts("shards")))
        config = TrainConfig(settings=self.settings, work=work, shards=shards)
        files = prepare(config)
        task = CurveTask(self.settings, Vocabulary.load(work / VOCABULARY), work / TOKENIZER)
        samples = ShardSamples(SampleMap(work / SAMPLES), None, self.settings.predicate_form)
        check = Milestones(inputs, self)
        trained = Trainer(config, task, samples, Ranks(), report, check).train(lambda: False)
        facts = {"cpu": round(time.process_time() - began, 1)}
        save(trained.network, work / MODEL)
        return Output(MetricsLog(work / METRICS_LOG).table(), {**files, MODEL: work / MODEL}, facts=facts)


class Milestones:
    """The trainer's check: HICO-DET's and detection's figures, and average precision by predicate on given boxes."""

    def __init__(self, inputs: Inputs, stage: CurveStage) -> None:
        self._test = TestSet(inputs.table("images").to_pylist(), stage.image_folders)
        self._pairs = GivenBoxes(self._test.rows, self._test.names.predicates)
        self._number, self._size = stage.settings.milestones, stage.settings.whole_size

    def is_due(self, step: int, total: int) -> bool:
        return step in [total * each // self._number for each in range(1, self._number + 1)]

    def measure(self, network: Network, is_last: bool, ranks: Ranks) -> Mapping[str, float]:
        predictor = Predictor(network, self._test.names, self._size, per_image=None)
        images = (read_image(locate_image(self._test.folders, row)) for row in self._test.rows)
        scored, scores = [], []
        for position, found in enumerate(predictor.predict(images, 16)):
            best = (each[:100] for each in (found.subjects, found.objects, found.predicates, found.scores))
            scored.append(ScoredImage.of(position, Found(found.boxes, *best)))
            scores.append(self._pairs.scores(position, found))
        network.train()
        return self._test.scores(scored) | relation_figures(self._pairs, np.concatenate(scores))


class GivenBoxes:
    """Average precision by predicate on given boxes: the ordered pairs of an image's boxes, ranked over all images."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], predicates: Sequence[str]) -> None:
        """`rows`: of the `images` table. `predicates`: canonical ones; relations with others don't count."""
        self.rows, self.predicates = rows, tuple(predicates)
        boxes = [
            [(box["x"], box["y"], box["x"] + box["w"], box["y"] + box["h"]) for box in row["boxes"]] for row in rows
        ]
        self._boxes = [np.array(corners, np.float64).reshape(-1, 4) for corners in boxes]
        self.ends = [(image, *pair) for image, its in enumerate(boxes) for pair in permutations(range(len(its)), 2)]
        place, column = ({each: number for number, each in enumerate(some)} for some in (self.ends, predicates))
        self.truth = np.zeros((len(self.ends), len(predicates)), bool)
        for image, row in enumerate(rows):
            for each in row["relations"]:
                if (name := canonical(each["predicate"])) in column:
                    self.truth[place[image, each["subject"], each["object"]], column[name]] = True

    def scores(self, image: int, found: Found) -> Scores:
        """Returns one image's ordered pairs × V: a predicate's best probability in a predicted pair fitting both boxes.

        It fits with an IoU of .5. The names that the network gives to the boxes don't count.
        """
        given, predicted = torch.from_numpy(self._boxes[image]), torch.from_numpy(found.boxes.boxes)
        confidence = found.boxes.scores
        assert confidence is not None
        probability_PV = np.zeros((len(predicted) // 2, len(self.predicates)), np.float32)
        classes = confidence[found.subjects] * confidence[found.objects]
        probability_PV[found.subjects, found.predicates] = found.scores / classes
        subject_PN, object_PN = (box_iou(part, given).numpy() >= 0.5 for part in predicted.chunk(2))
        fits_PNN = subject_PN[:, :, None] & object_PN[:, None, :]
        best_NNV = (fits_PNN[..., None] * probability_PV[:, None, None]).max(0)
        return best_NNV[~np.eye(len(given), dtype=bool)]

    def mean(self, scores_MV: Scores, counts: Callable[[str, str], bool] = lambda *_: True) -> float:
        """Returns the mean average precision over the predicates that have a true pair which counts.

        `counts`: whether a predicate counts with an object of this category. True pairs that don't are not ranked.
        """
        objects = [self.rows[image]["boxes"][object_]["category"] for image, _, object_ in self.ends]
        found = []
        for column, predicate in enumerate(self.predicates):
            counted = {name: counts(predicate, name) for name in objects}
            ranked = ~self.truth[:, column] | np.array([counted[name] for name in objects])
            if self.truth[ranked, column].any():
                found.append(average_precision(scores_MV[ranked, column], self.truth[ranked, column]))
        return float(np.mean(found))

    def features(self, categories: Sequence[str]) -> Tensor:
        """Returns a row per pair: both boxes as shares of the image, one relative to the other, and one-hot names."""
        sizes = [(row["width"], row["height"]) * 2 for row in self.rows]
        both = np.array([self._boxes[image][pair] / sizes[image] for image, *pair in self.ends])
        subject_M4, object_M4 = both.transpose(1, 0, 2)
        relative_M4 = (object_M4 - subject_M4) / np.tile(subject_M4[:, 2:] - subject_M4[:, :2], 2)
        numbers = [[categories.index(box["category"]) for box in row["boxes"]] for row in self.rows]
        names = torch.tensor([[numbers[image][end] for end in pair] for image, *pair in self.ends])
        places = torch.from_numpy(np.concatenate((subject_M4, object_M4, relative_M4.clip(-4, 4)), axis=1))
        return torch.cat((places.float(), F.one_hot(names, len(categories)).flatten(1)), dim=1)


def blind_scores(training: GivenBoxes, test: GivenBoxes, categories: Sequence[str], steps: int = 1500) -> Scores:
    """Returns M×V scores of the test's pairs by a three-layer network over boxes and names, trained on the others."""
    torch.manual_seed(0)
    known, wanted = training.features(categories), torch.from_numpy(training.truth).float()
    layers = (
        nn.Linear(known.shape[1], 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, wanted.shape[1]),
    )  # fmt: skip
    head = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        batch = torch.randint(len(known), (512,))
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(head(known[batch]), wanted[batch]).backward()
        optimizer.step()
    with torch.inference_mode():
        scores: Scores = head(test.features(categories)).numpy()
    return scores


def relation_figures(pairs: GivenBoxes, scores_MV: Scores) -> dict[str, float]:
    """Mean average precision by predicate: of all, of wordings and of combinations that training lacks."""
    return {
        "relation_ap": pairs.mean(scores_MV),
        "unseen_wordings_ap": pairs.mean(scores_MV, lambda predicate, _: predicate in UNSEEN_WORDINGS),
        "unseen_combinations_ap": pairs.mean(scores_MV, lambda *combination: combination in UNSEEN),
    }


def train(recipe: Recipe, variant: Variant, seed: int, steps: int, number: int, pretrained: Path) -> Artifact:
    """Trains with one thread, from the last checkpoint if any, unless the store has the outcome, and records it.

    The run must have shards and test images.
    """
    whole = recipe.model_copy(update={"run": recipe.run.model_copy(update={"until": None})})
    # Of the whole chain, which has the files that the recipe's names stand for.
    section = next(step.settings for step in build_steps(whole) if step.name == f"pretrain:{variant.labels}")
    values = section.model_dump()
    values["network"] |= {"fusion": variant.fusion}
    values |= {"pretrained": pretrained, "steps": steps, "milestones": number, "seed": seed, "variant": variant}
    settings = CurveSettings.model_validate(values)
    store = open_store(recipe.store)
    made = Run(store, recipe.name)
    shards = [artifact for _, artifact in sorted(made.artifacts(f"shard:{variant.labels}").items())]
    images = [each for part, each in sorted(made.artifacts("ingest").items()) if dataset_of(part) == "test"]
    read = {"shards": shards[: round(len(shards) * variant.share)], "images": images}
    contents = {table: [artifact.content for artifact in given] for table, given in read.items()}
    weights = {role: digest_path(path) for role, path in settings.files().items()}
    terms = KeyTerms(CurveStage.name, CurveStage.version, settings.row_settings(), contents, weights)
    inputs = {table: tuple(artifact.folder for artifact in given) for table, given in read.items()}
    name = f"curve:{variant.fusion}:{variant.labels}:{variant.share:g}:{variant.replaced:g}:{variant.uncertain}:{seed}"
    stage, item = CurveStage(settings, recipe.resolved().data.image_folders()), WorkItem(name, WHOLE, terms, inputs)
    if not store.find_all(stage.name, [item.key]):
        with one_thread_each():
            execute(stage, item, store, lambda done, total, note="": None)
    made.record(item.step, stage.name, {WHOLE: item.key})
    return store.find_all(stage.name, [item.key])[item.key]


def compared(made: Mapping[tuple[Variant, int], Artifact], seeds: range) -> Iterator[Row]:
    """Yields means over seeds, and the default's lead over others: mean and standard error of paired differences."""
    for claim, measure in product(CLAIMS, MEASURED):
        curves = {name: _curves([made[v, seed] for seed in seeds], measure) for name, v in CLAIMS[claim].items()}
        first, ours = next(iter(curves.items()))
        for name, own in curves.items():
            means = own.mean(axis=0)
            note = f"at the milestones: {', '.join(f'{mean:.4f}' for mean in means)}"
            yield Row(f"{claim}, {measure}: {name}", "", means[-1], note=note)
            if name == first or len(seeds) < 2:
                continue
            gains = {"": (ours - own)[:, -1], ", mean of the curve": (ours - own).mean(axis=1)}
            for what, gain in gains.items():
                error = gain.std(ddof=1) / len(seeds) ** 0.5
                yield Row(f"{first} ahead of {name}, {measure}{what}", "", gain.mean(), note=f"± {error:.4f}")


def _curves(artifacts: Iterable[Artifact], measure: str) -> NDArray[np.float64]:
    """Seeds × milestones."""
    tables = [artifact.table("curve").to_pylist() for artifact in artifacts]
    return np.array([[row["value"] for row in table if row["name"] == measure] for table in tables])


def measure(given: Namespace) -> Iterator[Row]:
    captions = f"{given.data}/coco/annotations/captions_train.json"
    places = [f"store={given.store}", f"data.root={given.data}", f'caption.recorded=["{captions}"]']
    recipe = load_recipe(Path("recipes/demo.toml"), [*SETTINGS, *places])
    assert recipe.scenes is not None
    write_scenes(Path(given.data), recipe.scenes)  # Their captions must be there before the run begins.
    execute_run(RunContext(recipe), "direct", Console())
    yield from blind(Run(open_store(recipe.store), recipe.name))
    start = SAMPLE_WEIGHTS["demo-detector"] / MODEL
    pretrained = train(recipe, DETECTOR, 0, given.detector_steps, 1, start).file(MODEL)
    variants = dict.fromkeys(variant for claim in CLAIMS.values() for variant in claim.values())
    # Seed by seed, so that a few seeds already compare all variants.
    seeds, size = range(given.seeds), (given.steps, given.milestones, pretrained)
    with ProcessPoolExecutor(given.jobs, multiprocessing.get_context("spawn")) as pool:
        jobs = {each: pool.submit(train, recipe, *each[::-1], *size) for each in product(seeds, variants)}
        for job in as_completed(jobs.values()):
            print(f"{job.result().folder}: done", flush=True)
    made = {each[::-1]: job.result() for each, job in jobs.items()}
    yield from compared(made, seeds)
    yield Row("all training runs", "CPU-s", sum(artifact.manifest.facts["cpu"] for artifact in made.values()))


def blind(run: Run) -> Iterator[Row]:
    """Yields what a head on boxes and names alone reaches, which says how much pixels are needed for."""
    rows: dict[str, list[dict[str, Any]]] = {"coco": [], "test": []}
    for part, artifact in sorted(run.artifacts("ingest").items()):
        if dataset_of(part) in rows:
            rows[dataset_of(part)] += artifact.table("images").to_pylist()
    truth = GroundTruth.of_rows(rows["test"])
    training, test = (GivenBoxes(each, truth.predicates) for each in rows.values())
    for name, value in relation_figures(test, blind_scores(training, test, WORLD_CATEGORIES)).items():
        yield Row(f"boxes and names alone, {name}", "", value)


if __name__ == "__main__":
    sizes = {"seeds": 5, "steps": 480, "detector_steps": 300, "milestones": 4, "jobs": os.cpu_count() or 1}
    options = parser(__doc__, **sizes)
    options.add_argument("--store", default="out/store", help="the store")
    options.add_argument("--data", default="out/scenes/miniature", help="folder of the scenes")
    run(options, measure)
