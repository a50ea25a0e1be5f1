"""Estimates the cost of a run, from an earlier run's costs per image or from figures of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from pipeline.report.steps import ESTIMATE, StepCost, step_costs
from pipeline.run.context import RunContext
from pipeline.run.dag import Step, build_steps
from pipeline.run.planner import Planner, forecast
from pipeline.runtime.plugins import PluginOptions
from pipeline.runtime.settings import Settings
from pipeline.stages.evaluate import EvaluateStage
from pipeline.training.settings import TaggerSettings, TrainingSettings
from storage.runs import Run


class Benchmark(NamedTuple):
    """A figure of docs/benchmarks.md: the settings that it holds for, CPU seconds per image, and what was measured."""

    stage: str
    settings: Mapping[str, Any]
    seconds_per_image: float
    what: str


_BLIP = {"captioner": "blip", "draws": 10, "decoding": "nucleus"}
BENCHMARKS = (
    Benchmark("caption", {**_BLIP, "precision": "float32"}, 3.97, "BLIP-large, ten nucleus captions, fp32"),
    Benchmark("caption", {**_BLIP, "precision": "bfloat16"}, 0.98, "BLIP-large, ten nucleus captions, bf16"),
    Benchmark("tag", {"method": "tagger", "precision": "float32"}, 2.05, "R50 at 800 × 1088, one thread, fp32"),
    Benchmark("tag", {"method": "tagger", "precision": "bfloat16"}, 0.84, "R50 at 800 × 1088, one thread, bf16"),
)
"""Figures of docs/benchmarks.md per image. All of it was measured on CPUs."""
GPU = "A100-SXM4-80GB"
UTILISATION = 0.3
"""The GPU and utilisation that are assumed for a training run that was never measured."""
_SAME_SPEED = {"seed", "loss", "fold", "epochs", "steps"}
"""Settings that don't affect the speed of training."""
REHEARSAL = "rehearsal"
"""Document of a run with the speed of its training runs in `rlip recipe rehearse`, by stage."""


@dataclass(frozen=True)
class StepEstimate:
    """What one step will cost. None stands for what was never measured, or can't be known before."""

    step: str
    images: int | None
    """Images to process; a training run counts an image once for each time that it sees it."""
    seconds: float | None
    """Compute time, summed over workers."""
    wall: float | None
    """Seconds with all workers busy. A step over whole datasets runs once, as it did where it was measured."""
    bytes: float | None
    on_gpu: bool
    """Whether it was measured on a GPU, or is estimated for one. Only training runs record it."""
    basis: str
    """Where the figures come from, or why there are none."""
    measured_images: int | None = None
    """Images that an earlier run measured it on."""
    tokens: tuple[int, ...] | None = None
    """Tokens of prompts and of answers of a model behind an endpoint."""
    tokens_price: float | None = None
    """Their price by the step's settings; None without prices."""

    @property
    def factor(self) -> float:
        """Images to process per measured image; 0 if no run measured any."""
        return (self.images or 0) / self.measured_images if self.measured_images else 0.0


@dataclass(frozen=True)
class Estimate:
    """What a run will cost."""

    run: str
    steps: tuple[StepEstimate, ...]
    labelled: int | None
    """Images of the datasets to label that are still to be captioned or tagged, whichever is more."""
    kept_per_image: float | None
    """Kept relations per labelled image of the earlier run."""
    price_per_hour: float | None

    @property
    def hours(self) -> float:
        """Worker-hours of the steps that were measured."""
        return sum(step.seconds or 0.0 for step in self.steps) / 3600

    @property
    def wall(self) -> float:
        """Seconds of the steps that were measured, one after the other."""
        return sum(step.wall or 0.0 for step in self.steps)

    @property
    def bytes(self) -> float:
        """Size of the artifacts of the steps whose size was measured."""
        return sum(step.bytes or 0.0 for step in self.steps)

    @property
    def tokens(self) -> tuple[int, ...] | None:
        """Tokens of prompts and of answers of all steps; None where none were measured."""
        counted = [step.tokens for step in self.steps if step.tokens is not None]
        return tuple(map(sum, zip(*counted, strict=True))) if counted else None

    @property
    def tokens_price(self) -> float | None:
        """Their price; None if one of the steps has no prices."""
        prices = [step.tokens_price for step in self.steps if step.tokens is not None]
        return sum(price for price in prices if price is not None) if prices and None not in prices else None

    @property
    def gpu_hours(self) -> float | None:
        """Of these, the hours that were measured on a GPU; None where none were."""
        on_gpu = [step.seconds or 0.0 for step in self.steps if step.on_gpu]
        return sum(on_gpu) / 3600 if on_gpu else None

    @property
    def cost(self) -> float | None:
        """Price of the worker-hours; None without a price."""
        return None if self.price_per_hour is None else self.hours * self.price_per_hour

    @property
    def cost_per_1000_images(self) -> float | None:
        """Cost per 1,000 images to label."""
        return self.cost / self.labelled * 1000 if self.cost is not None and self.labelled else None

    @property
    def cost_per_1000_relations(self) -> float | None:
        """Cost per 1,000 kept relations, if images yield as many as those of the earlier run."""
        per_image = self.cost_per_1000_images
        return per_image / self.kept_per_image if per_image is not None and self.kept_per_image else None

    def as_json(self) -> dict[str, Any]:
        """The estimate as plain values."""
        names = (
            "hours", "wall", "bytes", "gpu_hours", "cost", "cost_per_1000_images", "cost_per_1000_relations", "tokens",
            "tokens_price",
        )  # fmt: skip
        return asdict(self) | {name: getattr(self, name) for name in names}


def estimate(
    planner: Planner, earlier: Run | None, images: int | None, workers: int, price_per_hour: float | None
) -> Estimate:
    """Estimate a recipe's run. What the store has already costs nothing.

    `images`: how many images the datasets to label have, if the data are elsewhere; then nothing counts as cached.
    """
    costs = {} if earlier is None else step_costs(earlier)
    counts = _images_due(planner) if images is None else _images_assumed(planner, images)
    steps = tuple(_step(step, counts.get(step.name), costs, workers) for step in planner.context.steps)
    labelled = [
        counts[s.name] for s in planner.context.steps if s.stage.name in ("caption", "tag") and s.name in counts
    ]
    kept = None if earlier is None else _kept_per_image(earlier)
    return Estimate(planner.context.recipe.name, steps, max(labelled, default=None), kept, price_per_hour)


def expected_seconds(context: RunContext) -> Mapping[str, float | None]:
    """Step → expected seconds, from what its artifacts took so far, or from a new run's estimate."""
    run, workers = context.run, context.recipe.run
    noted = {row["step"]: row["wall"] for row in run.read_document(ESTIMATE).get("steps", [])}
    most = workers.workers if workers.engine == "local" else workers.max_actors
    if most is None or not run.steps():
        return noted
    found = {step.step: step.wall for step in estimate(Planner(context), run, None, most, None).steps}
    return noted | {step: wall for step, wall in found.items() if wall is not None}


def _step(step: Step, images: int | None, costs: Mapping[str, StepCost], workers: int) -> StepEstimate:
    nothing = (None, None, None, False)
    if images is None:
        return StepEstimate(step.name, None, *nothing, "number of images not known before it runs")
    if not images:
        return StepEstimate(step.name, 0, 0.0, 0.0, 0.0, False, "cached")
    of_stage = (cost for name, cost in costs.items() if name.partition(":")[0] == step.stage.name)
    cost = costs.get(step.name) or next(of_stage, None)
    of_whole = cost is None or "of" not in cost.settings
    regions = getattr(step.settings, "regions", 1) if of_whole else 1
    units, crops = images * regions, f"; at most {regions} captioned regions an image" if regions > 1 else ""
    if cost is None:
        benchmark = None if costs else _benchmark(step)
        if benchmark is None:
            return StepEstimate(step.name, images, *nothing, "never measured")
        seconds, basis = (
            units * benchmark.seconds_per_image,
            f"docs/benchmarks.md: {benchmark.what}, CPU seconds{crops}",
        )
        return StepEstimate(step.name, images, seconds, seconds / workers, None, False, basis)
    seconds = units * cost.seconds_per_image
    size = None if cost.bytes_per_image is None else units * cost.bytes_per_image
    asked = step.stage(step.settings).row_settings()
    other = "" if asked == cost.settings else ", with different settings"
    on = f" ({', '.join(cost.devices)})" if cost.devices else ""
    basis = f"{cost.images:,} images on {', '.join(cost.hosts)}{on}{other}{crops}"
    wall = seconds / (_processes(step.settings) if step.stage.whole else workers)
    on_gpu = any("cuda" in name for name in cost.devices)
    tokens = None if cost.tokens_per_image is None else tuple(round(units * each) for each in cost.tokens_per_image)
    price = None if tokens is None else _price(step, tokens)
    return StepEstimate(step.name, images, seconds, wall, size, on_gpu, basis, cost.images, tokens, price)


def _processes(settings: Settings) -> int:
    """Processes of a step over whole datasets."""
    return settings.processes * settings.nodes if isinstance(settings, TrainingSettings) else 1


def _price(step: Step, tokens: Sequence[int]) -> float | None:
    """The price of prompts and answers by the step's options; None unless they have both prices."""
    options = getattr(step.settings, "options", PluginOptions()).model_extra or {}
    prices = [options[name] for name in ("prompt_price", "completion_price") if options.get(name) is not None]
    return sum(n * float(each) for n, each in zip(tokens, prices, strict=True)) / 1e6 if len(prices) == 2 else None


def _benchmark(step: Step) -> Benchmark | None:
    """The figure of docs/benchmarks.md for a step, where one was measured with its settings."""
    settings = step.settings.model_dump(mode="json")
    for each in BENCHMARKS:
        if each.stage == step.stage.name and all(settings.get(name) == value for name, value in each.settings.items()):
            return each
    return None


def _images_due(planner: Planner) -> dict[str, int]:
    """Step → images of its due partitions. A step whose images do not follow from the recipe is omitted."""
    forecasts = {each.step: each for each in forecast(planner)}
    context, sizes = planner.context, planner.sizes
    counts = {}
    for step in context.steps:
        due = forecasts[step.name].due
        total = forecasts[step.name].cached + due
        images = (
            _of_whole(step, sizes, context.steps) if step.stage.whole else sum(sizes[name] for name in step.datasets)
        )
        if not due:
            counts[step.name] = 0
        elif images is not None:
            counts[step.name] = round(images * due / total)
    return counts


def _images_assumed(planner: Planner, images: int) -> dict[str, int]:
    """Step → images, if the datasets to label have this many in total. Steps over other datasets are omitted."""
    label, counts = planner.context.recipe.data.label, {}
    together = {name: 0 if number else images for number, name in enumerate(label)}
    for step in planner.context.steps:
        trained = _of_whole(step, together, planner.context.steps) if step.stage.whole else None
        if trained is not None and isinstance(step.settings, TrainingSettings):
            counts[step.name] = trained
        elif set(label) & set(step.datasets):
            counts[step.name] = images
    return counts


def _of_whole(step: Step, sizes: Mapping[str, int], steps: Sequence[Step]) -> int | None:
    """Images that a step over whole datasets processes; None where they do not follow from the recipe.

    A training run sees at most all images of the datasets whose shards it reads. Those of unknown size are not counted.
    """
    settings = step.settings
    if isinstance(settings, TrainingSettings):
        if settings.steps is not None:
            return settings.steps * settings.batch
        known = _trained_on(step, steps) & sizes.keys()
        held_out = settings.held_out_share if isinstance(settings, TaggerSettings) else 0.0
        return round(sum(sizes[name] for name in known) * (1 - held_out)) * settings.epochs if known else None
    if step.stage is EvaluateStage:
        return sum(sizes.get(name, 0) for name in step.from_datasets["images"])
    return None


def _kept_per_image(run: Run) -> float | None:
    facts = [artifact.manifest.facts for artifact in run.artifacts("shard:pseudo").values()]
    # Images that were labelled but not packed cost as much.
    counts = ("images", "without a relation", "without a box")
    images = sum(each.get(name, 0) for each in facts for name in counts)
    images += sum(sum(each.get("excluded", {}).values()) for each in facts)
    return sum(each.get("relations", 0) for each in facts) / images if images else None


def _trained_on(step: Step, steps: Sequence[Step]) -> set[str]:
    """The datasets whose shards a training run reads."""
    return {name for each in steps if each.name in step.reads["shards"] for name in each.datasets}


def with_trainings(made: Estimate, context: RunContext, images: int | None) -> Estimate:
    """Estimates the training runs that were never measured: from their rehearsal, else from the operations of their
    networks, on `UTILISATION` of a `GPU`.

    `images`: as for `estimate`. It takes some seconds for each network that was not rehearsed.
    """
    rehearsed = context.run.read_document(REHEARSAL)
    asked = {step.name: step.settings for step in build_steps(context.recipe)}
    steps = {step.name: step for step in context.steps}
    rows = []
    for row in made.steps:
        settings, step = asked[row.step], steps[row.step]
        if row.images and row.seconds is None and isinstance(settings, TrainingSettings):
            speed = rehearsed.get(step.stage.name)
            if speed or settings.device != "cpu":
                seconds, basis = _rehearsed(row.images, settings, speed) if speed else _by_flops(row.images, settings)
                unknown = _trained_on(step, context.steps) - set(context.recipe.data.label)
                if images is not None and settings.steps is None and unknown:
                    basis += f"; without the images of {', '.join(sorted(unknown))}"
                on_gpu = not speed or speed["device"] != "CPU"
                row = replace(row, seconds=seconds, wall=seconds / _processes(settings), on_gpu=on_gpu, basis=basis)
        rows.append(row)
    return replace(made, steps=tuple(rows))


def _rehearsed(images: int, settings: TrainingSettings, speed: Mapping[str, Any]) -> tuple[float, str]:
    """Seconds of all processes, and their basis. `speed`: what a rehearsal noted."""
    asked = settings.planned().row_settings()
    differing = [
        name for name, value in speed["settings"].items() if name not in _SAME_SPEED and value != asked.get(name)
    ]
    return images / speed["images_per_second"] * speed["processes"], (
        f"rehearsed: {speed['images_per_second']:.3g} synthetic images/s on {speed['processes']} x {speed['device']}"
        f"{', with a different ' if differing else ''}{', '.join(differing)}"
    )


def _by_flops(images: int, settings: TrainingSettings) -> tuple[float, str]:
    """Seconds of all processes, and their basis."""
    from pipeline.training.throughput import known_peak, view_flops

    precision = "bfloat16" if settings.precision == "auto" else settings.precision
    peak = known_peak(GPU, "tf32" if precision == "medium" else precision)
    assert peak is not None, "the GPU is in the table"
    view = view_flops(settings)
    return images * view.flops / (peak * UTILISATION), (
        f"{-(-images // settings.batch):,} steps, {view.flops / 1e12:.2g} TFLOP an image of "
        f"{view.width}×{view.height}, {view.padding:.0%} of it padding, at {UTILISATION:.0%} of the {peak / 1e12:g} "
        f"TFLOP/s of an {GPU.partition('-')[0]} in {precision}; assumed, not measured"
    )
