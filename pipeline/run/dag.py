"""The chain as a list of steps: each with a stage, its settings, its datasets and the steps that it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.labels.kept_labels import UNLIMITED
from pipeline.run.recipe import Recipe
from pipeline.runtime.settings import Settings
from pipeline.runtime.stage import Stage
from pipeline.stages.caption import CaptionStage
from pipeline.stages.detect import DetectStage
from pipeline.stages.evaluate import EvaluateStage
from pipeline.stages.fingerprint import FingerprintStage
from pipeline.stages.import_tagger import ImportTaggerSettings, ImportTaggerStage
from pipeline.stages.ingest import IngestStage
from pipeline.stages.overlap import OverlapSettings, OverlapStage
from pipeline.stages.parse import ParseStage
from pipeline.stages.pretrain import PretrainStage, TrainTaggerStage
from pipeline.stages.shard import FROM_CAPTIONS, ShardStage, ShardTaggerStage
from pipeline.stages.split import SplitStage
from pipeline.stages.tag import TagStage
from pipeline.stages.verify import VerifyStage
from storage.errors import FatalError, did_you_mean


@dataclass(frozen=True)
class Step:
    """A stage at its place in the chain. `name` is the stage's name, with variant and seed where there are several."""

    name: str
    stage: type[Stage]
    settings: Settings
    datasets: tuple[str, ...] = ()
    """Datasets whose partitions the step covers; empty for a whole-set stage."""
    reads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Table → the steps that write it. A partition reads the partition of the same name, of the last step that covers
    its dataset; a whole-set stage reads all."""
    uses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Table → the steps whose whole artifacts the stage is opened with."""
    from_datasets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For a whole-set stage: table → datasets. Only partitions of these datasets are read."""

    after: tuple[str, ...] = ()
    """Steps that must have passed before, although nothing that they write is read."""

    @property
    def needs(self) -> set[str]:
        """Names of the steps whose artifacts this step reads or is opened with, or that must have passed before it."""
        return {name for names in (*self.reads.values(), *self.uses.values(), self.after) for name in names}


_INGESTED: Mapping[str, tuple[str, ...]] = {"images": ("ingest",)}


def build_steps(recipe: Recipe) -> list[Step]:
    """Return the steps of a recipe, each after everything that it reads. Stages that nothing needs are omitted.

    Raises `FatalError` when `run.until` names a stage that the recipe does not have.
    """
    recipe = recipe.resolved()
    data = recipe.data
    trained_on = data.tagger if recipe.trains_tagger else ()
    ingested = tuple(dict.fromkeys((*data.label, *data.mix, *trained_on, *data.test)))
    steps = [Step("ingest", IngestStage, recipe.ingest, datasets=ingested)]
    if bare := data.without_boxes:
        steps.append(Step("detect", DetectStage, recipe.detect, datasets=bare, reads=_INGESTED))
    variants = recipe.pretrain.variants
    if data.test:
        steps.append(Step("fingerprint", FingerprintStage, Settings(), datasets=data.test, reads=_INGESTED))
    if not variants or any(variant in FROM_CAPTIONS for variant in variants):
        steps += _labelling(recipe)
    tagged = any(step.stage is TagStage for step in steps)
    packed = recipe.packs_only and (tagged or recipe.shard.labels not in FROM_CAPTIONS)
    if recipe.split is not None and (variants or packed or data.mix):
        trained = tuple(dict.fromkeys((*data.label, *data.mix)))
        steps.append(Step("split", SplitStage, recipe.split, reads=_INGESTED, from_datasets={"images": trained}))
    if packed:
        steps.append(_shards(recipe, recipe.shard.labels, data.label, labels=recipe.shard.labels))
    if data.mix:
        steps.append(_shards(recipe, "mix", data.mix, labels="given"))
    for variant in variants:
        steps += _variant(recipe, variant)
    return steps if recipe.run.until is None else _needed(recipe, steps, recipe.run.until)


def _needed(recipe: Recipe, steps: Sequence[Step], last: str) -> list[Step]:
    """The steps of stage `last` and the steps that they need, over the datasets that they need.

    Raises `FatalError` when the recipe has no such step.
    """
    needed = {step.name for step in steps if step.stage.name == last}
    if not needed:
        stages = dict.fromkeys(step.stage.name for step in steps)
        meant = did_you_mean(last, stages)
        raise FatalError(
            f"run.until = {last!r}: recipe {recipe.name!r} has no such step{meant}; it has {', '.join(stages)}"
        )
    # From the end, since each step comes after all that it needs.
    for step in reversed(steps):
        if step.name in needed:
            needed |= step.needs
    first, *rest = [step for step in steps if step.name in needed]
    if not rest:
        return [first]
    read = {name for step in rest for name in (*step.datasets, *step.from_datasets.get("images", ()))}
    return [replace(first, datasets=tuple(name for name in first.datasets if name in read)), *rest]


def _labelling(recipe: Recipe) -> list[Step]:
    """The steps from images to scored relations, or to triplets if there is no dataset to train a tagger on."""
    data, images = recipe.data, _boxed(recipe)
    steps = [
        Step("caption", CaptionStage, recipe.caption, datasets=data.label, reads={"images": images}),
        Step("parse", ParseStage, recipe.parse, datasets=data.label, reads={"captions": ("caption",)}),
    ]
    reads = {"images": images, "triplets": ("parse",)} | ({"captions": ("caption",)} if recipe.caption.crops else {})
    tag = Step("tag", TagStage, recipe.tag, datasets=data.label, reads=reads)
    if recipe.tag.method != "tagger":
        steps.append(tag)
    elif tagger := _tagger(recipe):
        uses = {"tagger": tuple(step.name for step in tagger if step.stage is not ShardTaggerStage)}
        steps += [*tagger, replace(tag, uses=uses)]
    if recipe.verify is not None and steps[-1].stage is TagStage:
        verified = {"images": images, "relations": ("tag",)}
        steps.append(Step("verify", VerifyStage, recipe.verify.of(recipe.shard), datasets=data.label, reads=verified))
    return steps


def _boxed(recipe: Recipe) -> tuple[str, ...]:
    """The steps that write the images to label: those without annotated boxes get a detector's."""
    return ("ingest", "detect") if recipe.data.without_boxes else ("ingest",)


def _tagger(recipe: Recipe) -> list[Step]:
    """The steps that make the tagger: they import one, or train it, once for each fold, on images with relations."""
    if recipe.tag.weights is not None:
        trained = recipe.train_tagger
        imported = ImportTaggerSettings(
            weights=recipe.tag.weights, store=recipe.store, tokenizer=trained.tokenizer, image_size=trained.whole_size
        )
        return [Step("import_tagger", ImportTaggerStage, imported)]
    if not recipe.data.tagger:
        return []
    # A relation that the limit left out would be a negative example.
    settings = recipe.shard.model_copy(
        update={"labels": "given", "without_relations": "drop", "max_relations": UNLIMITED}
    )
    packed = Step("shard_tagger", ShardTaggerStage, settings, datasets=recipe.data.tagger, reads=_INGESTED)
    reads = {"shards": (packed.name,)}
    folds = range(recipe.train_tagger.folds)
    names = [f"train_tagger:{fold}" for fold in folds] if len(folds) > 1 else ["train_tagger"]
    each = [recipe.train_tagger.model_copy(update={"fold": fold}) for fold in folds]
    return [packed, *(Step(n, TrainTaggerStage, s, reads=reads) for n, s in zip(names, each, strict=True))]


def _shards(recipe: Recipe, use: str, datasets: tuple[str, ...], labels: str) -> Step:
    """The step that packs datasets to pre-train on, without images of the test sets unless allowed."""
    reads = {"images": _boxed(recipe) if datasets == recipe.data.label else ("ingest",)}
    if labels in FROM_CAPTIONS:
        reads["relations"] = ("tag",)
    is_compared = recipe.data.test and not recipe.pretrain.allow_overlap
    uses = _split_of(recipe) | ({"fingerprints": ("fingerprint",)} if is_compared else {})
    settings = recipe.shard.model_copy(update={"labels": labels})
    if labels == "none":  # every image trains boxes
        settings = settings.model_copy(update={"without_relations": "keep"})
    return Step(f"shard:{use}", ShardStage, settings, datasets=datasets, reads=reads, uses=uses)


def _split_of(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """What a step uses to know the triplets that must stay unseen, where the recipe has a split."""
    return {"split": ("split",)} if recipe.split is not None else {}


def _variant(recipe: Recipe, variant: str) -> list[Step]:
    """The steps of one variant: shards of one kind of label, then pre-training and evaluation, once per seed."""
    packed = _shards(recipe, variant, recipe.data.label, labels=variant)
    steps, tested = [packed], {"images": recipe.data.test}
    shards = {"shards": (packed.name, "shard:mix") if recipe.data.mix else (packed.name,)}
    checked: tuple[str, ...] = ()
    if recipe.data.test:
        compared = OverlapSettings(
            distance=recipe.shard.near_duplicates,
            allow=recipe.pretrain.allow_overlap,
            pretrained=recipe.pretrain.settings.pretrained,
            store=recipe.store,
        )
        steps.append(
            Step(f"overlap:{variant}", OverlapStage, compared, reads={**shards, "fingerprints": ("fingerprint",)})
        )
        checked = (f"overlap:{variant}",)
    for seed in recipe.pretrain.seeds:
        suffix = variant if len(recipe.pretrain.seeds) == 1 else f"{variant}:{seed}"
        pretrain, settings = f"pretrain:{suffix}", recipe.pretrain.settings.model_copy(update={"seed": seed})
        if variant == "none":
            settings = settings.model_copy(update={"self_pairs": True})
            if not recipe.data.mix:  # there is no predicate to learn
                settings = settings.model_copy(update={"loss": settings.loss.model_copy(update={"predicates": 0.0})})
        # It reads the test sets only if it is evaluated while it runs.
        watched = settings.evaluate_every is not None
        steps.append(
            Step(
                pretrain,
                PretrainStage,
                settings,
                reads={**shards, **_INGESTED} if watched else shards,
                from_datasets=tested if watched else {},
                after=checked,
            )
        )
        if recipe.data.test:
            scored = Step(f"evaluate:{suffix}", EvaluateStage, recipe.evaluate, from_datasets=tested)
            steps.append(replace(scored, reads={**_INGESTED, "weights": (pretrain,)}, uses=_split_of(recipe)))
    return steps
