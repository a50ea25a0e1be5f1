"""The paper's claims in miniature, on synthetic scenes: `python -m benchmarks.miniature`, about one CPU-hour.

fusion    ALIF, late fusion and no fusion of language and image: losses and zero-shot mAP while they are trained
amount    a quarter, half and all of the pseudo-labelled images, for the same number of steps
source    naive matching, the tagger's labels, and the true relations

Captions, labels and shards are made once, by the chain of `recipes/demo.toml`. Every variant is trained with each seed from the
same weights. Interrupted, the benchmark goes on where it was: finished training runs stay in the store, others have checkpoints.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import torch
from rich.console import Console

from benchmarks.harness import Row, parser, run
from models.config import NetworkConfig
from models.network import Network
from models.pretrained import load_pretrained
from models.rlip import RLIP
from models.weights import save
from pipeline.run import runner
from pipeline.run.context import RunContext
from pipeline.run.dag import build_steps
from pipeline.run.progress import open_display
from pipeline.run.recipe import Recipe
from pipeline.run.recipe_files import load_recipe
from pipeline.runtime.execute import WorkItem, execute
from pipeline.runtime.processes import keep_freed_memory, one_thread_each
from pipeline.runtime.stage import WHOLE, Inputs, Output, ReportProgress, dataset_of
from pipeline.stages.evaluate import EvaluateSettings, EvaluateStage
from pipeline.stages.pretrain import PretrainStage
from pipeline.training.config import METRICS_LOG, MODEL, SAMPLES, TOKENIZER, VOCABULARY, TrainConfig
from pipeline.training.metrics_log import MetricsLog
from pipeline.training.ranks import Ranks
from pipeline.training.run import prepare
from pipeline.training.settings import TrainingSettings
from pipeline.training.shards import ShardSamples, shards_of
from pipeline.training.task import PretrainTask
from pipeline.training.trainer import Trainer
from pipeline.training.vocabulary import Vocabulary, copy_tokenizer
from storage.artifact import Artifact
from storage.atomic import write_atomic
from storage.digests import digest_path
from storage.keys import KeyTerms
from storage.open_store import local_folder, open_store
from storage.runs import Run
from storage.shards.sample_map import SampleMap
from storage.store import Store

SETTINGS = (
    "name=miniature", "scenes.train=4000", 'pretrain.variants=["pseudo", "naive", "given"]', "run.until=shard",
    "pretrain.settings.batch=8", "pretrain.settings.micro_batch=8", "pretrain.settings.loss.box=2.5",
    "pretrain.settings.loss.giou=1.0", "pretrain.settings.processes=1", "pretrain.settings.log_every=5",
    "pretrain.settings.checkpoint_every=100", "pretrain.settings.warmup=25", "pretrain.settings.lr=1e-3",
    "pretrain.settings.ema=0.0",
)  # fmt: skip
MEASURED = ("loss", "zero_shot_map", "detection_ap50")


@dataclass(frozen=True)
class Variant:
    """A way to pre-train. Each claim compares the default with others that differ in one value."""

    fusion: str = "alif"
    labels: str = "pseudo"
    share: float = 1.0
    """Share of the labelled images, whole partitions, in the order of their names."""


CLAIMS = {
    "fusion": {"ALIF": Variant(), "late fusion": Variant(fusion="late"), "no fusion": Variant(fusion="none")},
    "amount": {"all": Variant(), "half": Variant(share=0.5), "a quarter": Variant(share=0.25)},
    "source": {"true": Variant(labels="given"), "tagger": Variant(), "naive": Variant(labels="naive")},
}
"""Claim → name of a variant → the variant. Each claim has the default once."""


class CurveSettings(TrainingSettings):
    milestones: int = 3
    """Number of evaluations, spread evenly over the training; the last one is of the finished weights."""


class CurveStage(PretrainStage):
    """Trains as stage `pretrain` does, in this process alone, and evaluates at milestones as stage `evaluate` does."""

    name = "curve"
    version = 1
    reads = ("shards", "images")
    writes = "curve"
    settings: CurveSettings

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_num_threads(self.settings.threads)
        keep_freed_memory()
        began = time.process_time()
        shards = tuple(shards_of(inputs.artifacts("shards")))
        config = TrainConfig(kind="pretrain", settings=self.settings, work=work, shards=shards)
        prepare(config)
        task = PretrainTask(self.settings, Vocabulary.load(work / VOCABULARY), work / TOKENIZER)
        samples = ShardSamples(SampleMap(work / SAMPLES), None, self.settings.predicate_form)
        check = Milestones(inputs, self, work)
        trained = Trainer(config, task, samples, Ranks(), report, check).train(lambda: False)
        seconds = round(time.process_time() - began, 1)
        facts = {"steps": trained.steps, "images": len(samples), "resumed_from": trained.resumed_from, "cpu": seconds}
        return Output(MetricsLog(work / METRICS_LOG).table(), rows_in=len(samples), rows_out=len(samples), facts=facts)


class Milestones:
    """The trainer's check: hands the weights of a milestone to stage `evaluate`."""

    def __init__(self, inputs: Inputs, stage: CurveStage, work: Path) -> None:
        self._images, self._folder = inputs.artifacts("images"), work / "weights"
        self._number = stage.settings.milestones
        self._evaluate = EvaluateStage(EvaluateSettings(), stage.image_folders)
        copy_tokenizer(work / TOKENIZER, self._folder)
        write_atomic(self._folder / VOCABULARY, (work / VOCABULARY).read_bytes())

    def is_due(self, step: int, total: int) -> bool:
        return step in milestones(total, self._number)

    def measure(self, network: Network, is_last: bool, ranks: Ranks) -> Mapping[str, float]:
        """Returns what stage `evaluate` finds."""
        save(network, self._folder / MODEL)
        given = Inputs({"images": self._images, "weights": (Artifact(self._folder),)})
        return self._evaluate.run(given, self._folder, lambda done, total, note="": None).facts


def milestones(total: int, number: int) -> list[int]:
    """The steps after which a training run of `total` steps is evaluated."""
    return [total * each // number for each in range(1, number + 1)]


@dataclass(frozen=True)
class Training:
    """One training of the benchmark."""

    variant: Variant
    seed: int

    @property
    def step(self) -> str:
        """The step of the run that names its artifact."""
        variant = self.variant
        return f"curve:{variant.fusion}:{variant.labels}:{variant.share:g}:{self.seed}"

    def settings(self, recipe: Recipe, number: int) -> CurveSettings:
        """The recipe's settings of pre-training, for this training and one process of one thread."""
        values = settings_of(recipe).model_dump()
        network = values["network"] | {"fusion": self.variant.fusion}
        changes = {"pretrained": initial_file(recipe), "processes": 1, "milestones": number, "seed": self.seed}
        return CurveSettings.model_validate(values | changes | {"network": network})

    def item(self, run: Run, settings: CurveSettings) -> WorkItem:
        """The work, with everything that decides its outcome. The run must have shards and test images."""
        shards = [artifact for _, artifact in sorted(run.artifacts(f"shard:{self.variant.labels}").items())]
        images = [each for part, each in sorted(run.artifacts("ingest").items()) if dataset_of(part) == "test"]
        read = {"shards": shards[: round(len(shards) * self.variant.share)], "images": images}
        contents = {table: [artifact.content for artifact in found] for table, found in read.items()}
        weights = {role: digest_path(path) for role, path in settings.files().items()}
        terms = KeyTerms(CurveStage.name, CurveStage.version, settings.row_settings(), contents, weights)
        inputs = {table: tuple(artifact.folder for artifact in found) for table, found in read.items()}
        return WorkItem(self.step, WHOLE, terms, inputs)


def settings_of(recipe: Recipe) -> TrainingSettings:
    """The settings of the recipe's pre-training, with the files that its names stand for."""
    whole = recipe.model_copy(update={"run": recipe.run.model_copy(update={"until": None})})
    return next(step.settings for step in build_steps(whole) if step.name == "pretrain:pseudo")


def initial_file(recipe: Recipe) -> Path:
    """Where `write_initial` puts its weights."""
    return local_folder(recipe.store) / "miniature" / "initial.safetensors"


def write_initial(recipe: Recipe) -> None:
    """Writes the weights that all variants start from: those of the recipe's detector that a network without fusion has.

    The detector was trained with ALIF. Its fusion layers would be an advantage of that variant.
    """
    settings, path = settings_of(recipe), initial_file(recipe)
    network = RLIP(NetworkConfig.from_dict(settings.network | {"fusion": "none"}), settings.tokenizer)
    load_pretrained(network, settings.pretrained, settings.tokenizer)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(network, path)


def train(recipe: Recipe, training: Training, number: int) -> str:
    """Runs a training run, from its last checkpoint if there is one, and records it in the run. Returns its step."""
    store = open_store(recipe.store)
    settings = training.settings(recipe, number)
    item = training.item(Run(store, recipe.name), settings)
    stage = CurveStage(settings, recipe.resolved().data.image_folders())
    with one_thread_each():
        record = execute(stage, item, store, lambda done, total, note="": None)
    Run(store, recipe.name).record(training.step, CurveStage.name, {WHOLE: record.key})
    return training.step


def found(store: Store, recipe: Recipe, trainings: Sequence[Training], number: int) -> dict[Training, Artifact]:
    """Training → the artifact that the store has of it."""
    run = Run(store, recipe.name)
    keys = {each: each.item(run, each.settings(recipe, number)).key for each in trainings}
    there = store.find_all(CurveStage.name, list(keys.values()))
    return {each: there[key] for each, key in keys.items() if key in there}


def curve_of(artifact: Artifact, at: Sequence[int]) -> dict[str, list[float]]:
    """Measure → its value at each milestone. The loss is the mean since the milestone before."""
    rows = artifact.table("curve").to_pylist()
    values = {name: {row["step"]: row["value"] for row in rows if row["name"] == name} for name in MEASURED}
    losses = [
        fmean(value for step, value in values["loss"].items() if before < step <= end)
        for before, end in zip([0, *at[:-1]], at, strict=True)
    ]
    return {"loss": losses} | {name: [values[name][step] for step in at] for name in MEASURED[1:]}


def measure(given: Namespace) -> Iterator[Row]:
    """Trains what the store lacks. Yields means over seeds at each milestone, with deviations and the value of each seed."""
    places = [f"store={given.store}", f"data.root={given.data}", f"pretrain.settings.steps={given.steps}"]
    recipe = load_recipe(Path("recipes/demo.toml"), [*SETTINGS, *places])
    variants = dict.fromkeys(variant for claim in CLAIMS.values() for variant in claim.values())
    # Seed by seed, so that a part of them already compares all variants.
    trainings = [Training(variant, seed) for seed in range(given.seeds) for variant in variants]
    store = open_store(recipe.store)
    context = RunContext(recipe)
    with runner.logged_run(context, "direct"), open_display(Console(), False) as display:
        runner.run(context, display)
    write_initial(recipe)
    made = found(store, recipe, trainings, given.milestones)
    due = [each for each in trainings if each not in made]
    with ProcessPoolExecutor(given.jobs, multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(train, recipe, each, given.milestones) for each in due]):
            print(f"{future.result()}: done", flush=True)
    made = found(store, recipe, trainings, given.milestones)
    at = milestones(given.steps, given.milestones)
    curves = {training: curve_of(artifact, at) for training, artifact in made.items()}
    for claim, of_claim in CLAIMS.items():
        for name, variant in of_claim.items():
            seeds = [curve for training, curve in curves.items() if training.variant == variant]
            for measured, (place, step) in ((m, p) for m in MEASURED for p in enumerate(at) if seeds):
                values = [seed[measured][place] for seed in seeds]
                note = f"± {stdev(values) if len(values) > 1 else 0:.4f}: " + ", ".join(f"{v:.4f}" for v in values)
                yield Row(f"{claim} / {name}, {measured} at {step}", "", fmean(values), note=note)
    yield Row("all training runs", "CPU-s", sum(artifact.manifest.facts["cpu"] for artifact in made.values()))


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument(
        "--store", default="out/store", help="the store, by default that of the demo, whose tagger it takes"
    )
    options.add_argument("--data", default="out/scenes/miniature", help="folder of the scenes")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--steps", type=int, default=360)
    options.add_argument("--milestones", type=int, default=3, help="number of evaluations of each training")
    options.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="number of training runs at a time")
    run(options, measure)
