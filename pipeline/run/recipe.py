"""The schema of a recipe: the data of a run and the settings of every stage, which this module only assembles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from pipeline.captioning.settings import CaptionSettings
from pipeline.data.datasets.source import DataSource
from pipeline.detection.settings import DetectSettings
from pipeline.report.view import REPORTS
from pipeline.runtime.logs import LogFormat
from pipeline.runtime.settings import Address, Settings, file_read, runtime
from pipeline.stages.evaluate import EvaluateSettings
from pipeline.stages.ingest import IngestSettings
from pipeline.stages.order import STAGES
from pipeline.stages.parse import ParseSettings
from pipeline.stages.shard import FROM_CAPTIONS, ShardSettings, ShardStage
from pipeline.stages.split import SplitSettings
from pipeline.stages.tag import TagSettings
from pipeline.stages.verify import VerifySettings
from pipeline.training.config import MODEL
from pipeline.training.settings import TaggerSettings, TrainingSettings
from scenes import SAMPLE_WEIGHTS
from scenes.settings import SceneSettings
from storage.errors import FatalError
from storage.open_store import local_folder
from storage.secrets import require_no_secret

NEED_TAGGER = {"shard", "tag", "train_tagger", "verify"}
"""Stages, by the names of their sections, that a run without a tagger does not have."""


class DataSection(Settings):
    """Where the data is, and what each dataset is used for."""

    root: Path = file_read(Path())
    """Base folder of relative paths in sources; unset: the recipe's folder."""
    partition_size: int = Field(1000, ge=1)
    """Number of images per partition, fixed when a dataset is first ingested."""
    sources: tuple[DataSource, ...] = Field(min_length=1)
    label: tuple[str, ...] = ()
    """Datasets to caption, tag and pre-train on. Unset, with neither `mix` nor `test`: the datasets that don't train
    the tagger, or every dataset if all do; `[]` labels none."""
    tagger: tuple[str, ...] = ()
    """Datasets whose annotated relations train the tagger."""
    mix: tuple[str, ...] = ()
    """Datasets whose annotated relations are added to the pre-training in every variant."""
    test: tuple[str, ...] = ()
    """Datasets to evaluate the pre-trained weights on."""

    @model_validator(mode="before")
    @classmethod
    def _what_trains_no_tagger_is_labelled(cls, values: Any) -> Any:
        sources = values.get("sources") if isinstance(values, dict) else None
        if not isinstance(sources, list) or any(role in values for role in ("label", "mix", "test")):
            return values
        names = [s["name"] for s in sources if isinstance(s, dict) and "name" in s]
        tagger = values.get("tagger")
        others = [name for name in names if name not in tagger] if isinstance(tagger, list | tuple) else names
        return {**values, "label": others or names}

    @model_validator(mode="after")
    def _roles_fit_the_sources(self) -> DataSection:
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"sources: names must differ, got {names}")
        bare = {source.name for source in self.sources if not source.has_boxes}
        for role in ("label", "tagger", "mix", "test"):
            for name in getattr(self, role):
                if name not in names:
                    raise ValueError(f"{role}: no source named {name!r}; sources are {names}")
                if name in bare and role != "label":
                    raise ValueError(f"{role}: {name!r} has no annotations, so no relations; it can only be in label")
        return self

    @property
    def without_boxes(self) -> tuple[str, ...]:
        """The datasets to label that have no annotations, so that a detector finds their boxes."""
        bare = {source.name for source in self.sources if not source.has_boxes}
        return tuple(name for name in self.label if name in bare)

    def image_folders(self) -> dict[str, Path | str]:
        """Dataset → folder or URL of its images."""
        return {source.name: source.image_root for source in self.sources}


class PretrainSection(Settings):
    """The variants and seeds of pre-training, and the settings that all of them share. Without this section, the run
    ends with labels, or with their shards if there is a section `[shard]`."""

    variants: tuple[Literal["pseudo", "naive", "none", "given"], ...] = ("pseudo",)
    """Relations to pre-train with: the tagger's (pseudo), every candidate (naive), none, or the ground truth
    (given)."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Each variant is pre-trained and evaluated once per seed."""
    allow_overlap: bool = runtime(False)
    """Also train on images of `data.test`, which are otherwise excluded or refused. Scores on them say nothing about
    new images."""
    settings: TrainingSettings = TrainingSettings()


class ChecksSection(Settings):
    """Limits on the rows of a run (docs/operations.md, Checks). Limits with `overall` in their names apply to all
    partitions of a stage together and stop the run; others apply to each partition before a stage may read it. Changing
    them recomputes nothing.
    """

    max_overall_reject_share: float = runtime(0.1, ge=0, le=1)
    """Maximum share of rows that a stage may reject, or of boxes or relations that ingest may reject."""
    min_overall_average_precision: float = runtime(0.0, ge=0, le=1)
    """Average precision of all labels of stage `tag` together, against the ground truth; 0: no check."""
    min_rows: int = runtime(0, ge=0)
    """Rows that each stage must yield; 0: no check."""
    max_reject_share: float = runtime(1.0, ge=0, le=1)
    """Maximum share of rows that a stage may reject; 1: no check."""
    min_relations_per_image: float = runtime(0.0, ge=0)
    """Scored relations that stage `tag` must yield per image; 0: no check."""
    min_average_precision: float = runtime(0.0, ge=0, le=1)
    """Average precision of the labels of stage `tag` against the ground truth; 0: no check."""
    max_unreachable_share: float = runtime(1.0, ge=0, le=1)
    """Maximum share of ground-truth predicates that no candidate of stage `tag` has; 1: no check."""


class RunSection(Settings):
    """How a run is executed. Nothing here changes a row."""

    until: str | None = runtime(None)
    """The last stage to run, with only the stages and datasets it needs; unset: all stages."""
    engine: Literal["local", "ray"] = runtime("local")
    """Where partitions are processed. local: processes of this machine; ray: actors on the nodes of a Ray cluster."""
    workers: int = runtime(2, ge=1, le=256)
    """Number of worker processes of the local engine."""
    ray_address: Address | None = runtime(None)
    """ray: HOST:PORT of the head of the cluster, which this machine has joined (docs/operations.md)."""
    min_actors: int = runtime(1, ge=1, le=4096)
    """ray: number of actors that a stage starts with and keeps while idle."""
    max_actors: int | None = runtime(None, ge=1, le=4096)
    """ray: maximum number of actors of a stage; unset: as many as fit when it starts. Set it on an autoscaling
    cluster."""
    gpus_per_actor: float = runtime(1.0, gt=0, le=1)
    """ray: share of a GPU per actor, if its stage uses GPUs."""
    blocks: int = runtime(16, ge=1, le=256)
    """Maximum number of Prefect task runs per stage."""
    min_free_gib: float = runtime(1.0, ge=0)
    """Free disk space in GiB that the store must have when a run starts."""
    log_format: LogFormat = runtime("text")
    """Format of the log files: text for people, or JSON for machines."""
    metrics_file: Path | None = runtime(None)
    """File for Prometheus metrics, e.g. for the textfile collector (*.prom), updated during the run."""
    metrics_port: int | None = runtime(None, ge=1, le=65535)
    """Port on 127.0.0.1 that serves Prometheus metrics during the run."""
    lineage: str | None = runtime(None)
    """Server that receives OpenLineage events of each execution, e.g. http://127.0.0.1:5000. Its key belongs in
    OPENLINEAGE_API_KEY, not in the URL."""
    checks: ChecksSection = ChecksSection()

    @model_validator(mode="after")
    def _is_complete(self) -> RunSection:
        server = urlsplit(self.lineage or "http://unset")
        if server.scheme not in ("http", "https") or not server.hostname:
            raise ValueError("lineage: not the URL of a server; write e.g. http://127.0.0.1:5000")
        if self.engine == "ray" and self.ray_address is None:
            raise ValueError("ray_address: engine 'ray' needs HOST:PORT of the cluster's head, e.g. 10.0.0.7:6379")
        if self.max_actors is not None and self.max_actors < self.min_actors:
            raise ValueError(f"max_actors: {self.max_actors} is less than min_actors ({self.min_actors})")
        return self


class Recipe(Settings):
    """A named run: its data, the settings of each stage, and how to execute it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run; unset: the name of the recipe's file."""
    store: str = "out/store"
    """A folder, relative to the current one, or an fsspec URL, e.g. s3://bucket/folder."""
    reports: Path | None = None
    """Folder of reports and log files; unset: `reports` in the store."""
    scenes: SceneSettings | None = None
    data: DataSection
    ingest: IngestSettings = IngestSettings()
    detect: DetectSettings = DetectSettings()
    caption: CaptionSettings = CaptionSettings()
    parse: ParseSettings = ParseSettings()
    train_tagger: TaggerSettings = TaggerSettings()
    tag: TagSettings = TagSettings()
    verify: VerifySettings | None = None
    shard: ShardSettings = ShardSettings()
    split: SplitSettings | None = None
    pretrain: PretrainSection = PretrainSection(variants=())
    evaluate: EvaluateSettings = EvaluateSettings()
    run: RunSection = RunSection()

    @property
    def report(self) -> Path:
        """Folder of this run's report."""
        return (self.reports or local_folder(self.store) / REPORTS) / self.name

    def resolved(self) -> Recipe:
        """This recipe with paths as a run uses them, so that its sections are the settings of their stages.

        Files of the data start at `data.root`, names of sample weights and folders of weights become files, and caches
        are in the store. Records keep the recipe as it was written, so that it fits another machine.
        """
        recipe = self.with_paths("data_file", lambda _, path: self.data.root / path if isinstance(path, Path) else path)
        recipe = recipe.with_paths("file_read", _weights_file)
        caches = local_folder(self.store)
        ingest = {
            "sources": recipe.data.sources,
            "partition_size": recipe.data.partition_size,
            "indexes": recipe.ingest.indexes or caches / "indexes",
        }
        parse = {"cache": recipe.parse.cache or caches / "parses.sqlite"}
        asking = ("caption", "tag", *(["verify"] if recipe.verify else []))
        answers = {name: {"answers": getattr(recipe, name).answers or caches / "answers.sqlite"} for name in asking}
        updates = {"ingest": ingest, "parse": parse, **answers}
        return recipe.model_copy(
            update={section: getattr(recipe, section).model_copy(update=update) for section, update in updates.items()}
        )

    @model_validator(mode="before")
    @classmethod
    def _holds_no_secret(cls, values: Any) -> Any:
        for setting, text in _texts_of(values):
            try:
                require_no_secret(text)
            except FatalError as error:
                raise ValueError(f"{setting}: {error}") from None
        return values

    @model_validator(mode="before")
    @classmethod
    def _section_shard_means_shards(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("shard"), dict):
            values = {**values, "shard": {"pack": True, **values["shard"]}}
        return values

    @model_validator(mode="after")
    def _bare_images_have_a_detector(self) -> Recipe:
        if (bare := self.data.without_boxes) and self.detect.weights is None:
            raise ValueError(
                f"detect.weights: missing, but dataset {bare[0]!r} has images without annotations; name a detector "
                "(docs/datasets.md)"
            )
        return self

    @model_validator(mode="after")
    def _mixes_weigh_their_datasets(self) -> Recipe:
        pretrained = (*self.data.label, *self.data.mix) if self.pretrain.variants else ()
        for section, mix, names in (
            ("pretrain.settings", self.pretrain.settings.mix, pretrained),
            ("train_tagger", self.train_tagger.mix, self.data.tagger if self.trains_tagger else ()),
        ):
            if names and (unknown := mix.weights.keys() - set(names)):
                raise ValueError(
                    f"{section}.mix.weights: {min(unknown)!r} is not a dataset to train on; these are "
                    f"{', '.join(dict.fromkeys(names))}"
                )
        return self

    @model_validator(mode="after")
    def _plugins_have_these_options(self) -> Recipe:
        for stage in STAGES:
            section: Any = getattr(self, stage.name, None)
            if getattr(section, "options", None):
                stage(section).row_settings()
        return self

    @property
    def trains_tagger(self) -> bool:
        """Whether labels come from a tagger that `data.tagger` must train."""
        return self.tag.method == "tagger" and self.tag.weights is None

    @property
    def packs_only(self) -> bool:
        """Whether shards are made without pre-training on them."""
        return not self.pretrain.variants and (self.shard.pack or self.run.until == ShardStage.name)

    @model_validator(mode="after")
    def _labels_have_a_tagger(self) -> Recipe:
        asked = [("pretrain.variants has", variant) for variant in self.pretrain.variants]
        if self.packs_only and self.run.until in NEED_TAGGER:
            asked.append(("shard.labels is", self.shard.labels))
        for what, labels in asked:
            if labels in FROM_CAPTIONS and self.trains_tagger and not self.data.tagger:
                raise ValueError(
                    f"{what} {labels!r}, which needs a tagger; name a dataset with relations in data.tagger, a trained "
                    'tagger in tag.weights, or label without one (tag.method = "prior")'
                )
        if self.pretrain.settings.evaluate_every and not self.data.test:
            raise ValueError(
                "pretrain.settings.evaluate_every: there is no test set to evaluate on; name one in data.test"
            )
        return self


def _weights_file(setting: str, named: str | Path) -> str | Path:
    """The file that a setting names: sample weights by their name, and pretrained weights by their folder."""
    path = SAMPLE_WEIGHTS.get(str(named), named)
    return Path(path, MODEL) if setting.endswith(".pretrained") and Path(path).is_dir() else path


def _texts_of(values: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Dotted name and value of each text among the values of a recipe."""
    if isinstance(values, str | Path):
        yield name, str(values)
    members = values.items() if isinstance(values, Mapping) else enumerate(values) if isinstance(values, list) else ()
    for inner, value in members:
        yield from _texts_of(value, f"{name}.{inner}" if name else str(inner))
