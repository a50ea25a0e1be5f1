"""The paper's claims in miniature, on synthetic scenes: `python -m benchmarks.miniature`, about one CPU-hour.

fusion    ALIF, late fusion and no fusion of language and image: losses and zero-shot mAP while they are trained
amount    a quarter, half and all of the pseudo-labelled images, for the same number of steps
source    naive matching, the tagger's labels, and the true relations

Captions, labels and shards are made once, by the chain of `recipes/demo.toml`. Every variant is trained with each seed from the
same weights. Interrupted, the benchmark goes on where it was: finished training runs stay in the store, others have checkpoints.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.console import Console

from benchmarks.claims.curve import milestones
from benchmarks.claims.figure import draw
from benchmarks.claims.trainings import Training, Variant, found, initial_file, train, write_initial
from benchmarks.labelling import processor
from pipeline.run.context import RunContext
from pipeline.run.progress import open_display
from pipeline.run.recipe import Recipe
from pipeline.run.recipe_files import load_recipe
from pipeline.run.runner import logged_run, run
from storage.artifact import Artifact
from storage.open_store import open_store

CLAIMS = {
    "fusion": {"ALIF": Variant(), "late fusion": Variant(fusion="late"), "no fusion": Variant(fusion="none")},
    "amount": {"all": Variant(), "half": Variant(share=0.5), "a quarter": Variant(share=0.25)},
    "source": {"true": Variant(labels="given"), "tagger": Variant(), "naive": Variant(labels="naive")},
}
"""Claim → name of a variant → the variant. Each claim has the default once."""
SETTINGS = (
    "name=miniature",
    "scenes.train=4000",
    'pretrain.variants=["pseudo", "naive", "given"]',
    "run.until=shard",
    "pretrain.settings.batch=8",
    "pretrain.settings.micro_batch=8",
    "pretrain.settings.loss.box=2.5",
    "pretrain.settings.loss.giou=1.0",
    "pretrain.settings.processes=1",
    "pretrain.settings.log_every=5",
    "pretrain.settings.checkpoint_every=100",
    "pretrain.settings.warmup=25",
    "pretrain.settings.lr=1e-3",
    "pretrain.settings.ema=0.0",
)
MEASURED = ("loss", "zero_shot_map", "detection_ap50")

Curve = dict[str, list[float]]
"""Name of a measure → its value at each milestone. The loss is the mean since the milestone before."""


def all_trainings(seeds: int) -> list[Training]:
    """All training runs, seed by seed, so that a part of them already compares all variants."""
    variants = dict.fromkeys(variant for claim in CLAIMS.values() for variant in claim.values())
    return [Training(variant, seed) for seed in range(seeds) for variant in variants]


def make_labels(recipe: Recipe) -> RunContext:
    """Runs the chain up to the shards."""
    context = RunContext(recipe)
    with logged_run(context, "direct"), open_display(Console(), False) as display:
        run(context, display)
    return context


def train_all(recipe: Recipe, due: Sequence[Training], initial: Path, number: int, jobs: int) -> None:
    """Runs training runs in processes of their own and prints each that is done."""
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(train, recipe, each, initial, number) for each in due]
        for done, future in enumerate(as_completed(running), 1):
            print(f"{future.result()}: done, {done} of {len(due)}", flush=True)


def curve_of(artifact: Artifact, at: Sequence[int]) -> Curve:
    """Reads the measures of a training at its milestones."""
    rows = artifact.table("curve").to_pylist()
    values = {name: {row["step"]: row["value"] for row in rows if row["name"] == name} for name in MEASURED}
    losses = [
        fmean(value for step, value in values["loss"].items() if before < step <= end)
        for before, end in zip([0, *at[:-1]], at, strict=True)
    ]
    return {"loss": losses} | {name: [values[name][step] for step in at] for name in MEASURED[1:]}


def summarise(curves: Mapping[Training, Curve]) -> dict[str, Any]:
    """Claim → variant → measure → mean and deviation over seeds at each milestone, with the values of each seed."""
    claims: dict[str, Any] = {}
    for claim, variants in CLAIMS.items():
        for name, variant in variants.items():
            seeds = [curve for training, curve in curves.items() if training.variant == variant]
            if seeds:
                spread = {measure: _spread([curve[measure] for curve in seeds]) for measure in MEASURED}
                claims.setdefault(claim, {})[name] = {"seeds": len(seeds)} | spread
    return claims


def _spread(values: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Mean and sample deviation (0 for one seed) at each milestone."""
    columns = list(zip(*values, strict=True))
    return {
        "mean": [round(fmean(column), 4) for column in columns],
        "deviation": [round(stdev(column), 4) if len(column) > 1 else 0.0 for column in columns],
        "seeds": [[round(value, 4) for value in row] for row in values],
    }


def print_table(claims: Mapping[str, Any], at: Sequence[int]) -> None:
    steps = "".join(f"{f'at {step}':>16}" for step in at)
    for claim, variants in claims.items():
        print(f"\n{claim:14}{'seeds':>6}{'measure':>16}{steps}")
        for name, measured in variants.items():
            for measure in MEASURED:
                given = measured[measure]
                cells = [f"{m:.3f} ± {d:.3f}" for m, d in zip(given["mean"], given["deviation"], strict=True)]
                print(f"{name:14}{measured['seeds']:>6}{measure:>16}" + "".join(f"{cell:>16}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--store", default="out/store", help="the store, by default that of the demo, whose tagger it takes"
    )
    parser.add_argument("--data", default="out/scenes/miniature", help="folder of the scenes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=360)
    parser.add_argument("--milestones", type=int, default=3, help="number of evaluations of each training")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="number of training runs at a time")
    parser.add_argument("--show", action="store_true", help="train nothing; print what the store has so far")
    parser.add_argument("--json", type=Path, default=Path("out/bench-miniature.json"))
    parser.add_argument("--figure", type=Path, default=Path("out/bench-miniature.png"))
    given = parser.parse_args()
    places = [f"store={given.store}", f"data.root={given.data}", f"pretrain.settings.steps={given.steps}"]
    recipe = load_recipe(Path("recipes/demo.toml"), [*SETTINGS, *places])
    initial, trainings = initial_file(recipe), all_trainings(given.seeds)
    store = open_store(recipe.store) if given.show else make_labels(recipe).store
    write_initial(recipe, initial)
    due = [each for each in trainings if each not in found(store, recipe, trainings, initial, given.milestones)]
    print(f"{len(trainings) - len(due)} of {len(trainings)} training runs are in the store", flush=True)
    if not given.show:
        train_all(recipe, due, initial, given.milestones, given.jobs)
    made = found(store, recipe, trainings, initial, given.milestones)
    at = milestones(given.steps, given.milestones)
    claims = summarise({training: curve_of(artifact, at) for training, artifact in made.items()})
    print_table(claims, at)
    cpu = sum(artifact.manifest.facts["cpu"] for artifact in made.values())
    print(f"\n{cpu:,.0f} CPU-seconds of training runs; {processor()}, {os.cpu_count()} cores")
    result = {"processor": processor(), "cores": os.cpu_count(), "cpu_seconds": cpu, "at": at, "claims": claims}
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(result, indent=1))
    draw(result, given.figure)
    print(f"{given.json}, {given.figure}")


if __name__ == "__main__":
    main()
