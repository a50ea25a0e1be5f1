"""A recipe: one TOML file with the data of a run and the settings of every stage. This module only assembles them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from pipeline.captioning.settings import CaptionSettings
from pipeline.data.datasets.source import DataSource
from pipeline.detection.settings import DetectSettings
from pipeline.report.view import REPORTS
from pipeline.run.check_settings import CheckSettings
from pipeline.run.recipe_files import SET, RecipeValues, read_recipe, texts_of, use_present_names
from pipeline.runtime.logs import LogFormat
from pipeline.runtime.settings import Settings, file_read, runtime
from pipeline.stages.evaluate import EvaluateSettings
from pipeline.stages.ingest import IngestSettings
from pipeline.stages.parse import ParseSettings
from pipeline.stages.shard import FROM_CAPTIONS, ShardSettings, ShardStage
from pipeline.stages.split import SplitSettings
from pipeline.stages.tag import TagSettings
from pipeline.training.settings import TaggerSettings, TrainingSettings
from scenes.settings import SceneSettings
from storage.errors import FatalError, did_you_mean
from storage.open_store import local_folder
from storage.runs import Run
from storage.secrets import require_no_secret


class DataSection(Settings):
    """Where the data are, and what each dataset is used for."""

    root: Path = file_read(Path())
    """Folder that relative paths of the sources start at; unset: the recipe's folder."""
    partition_size: int = Field(1000, ge=1)
    """Number of images per partition, fixed when a dataset is first ingested."""
    sources: tuple[DataSource, ...] = Field(min_length=1)
    label: tuple[str, ...] = ()
    """Datasets to caption, tag and pre-train on; all, if no set has a role."""
    tagger: tuple[str, ...] = ()
    """Datasets whose annotated relations train the tagger."""
    mix: tuple[str, ...] = ()
    """Datasets whose annotated relations are added to the pre-training in every variant."""
    test: tuple[str, ...] = ()
    """Datasets to evaluate the pre-trained weights on."""

    @model_validator(mode="before")
    @classmethod
    def _without_roles_label_all(cls, values: Any) -> Any:
        roles = ("label", "tagger", "mix", "test")
        sources = values.get("sources") if isinstance(values, dict) else None
        if not isinstance(sources, list) or any(role in values for role in roles):
            return values
        return {**values, "label": [s["name"] for s in sources if isinstance(s, dict) and "name" in s]}

    @model_validator(mode="after")
    def _names_exist(self) -> DataSection:
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"sources: names must differ, got {names}")
        for role in ("label", "tagger", "mix", "test"):
            for name in getattr(self, role):
                if name not in names:
                    raise ValueError(f"{role}: no source named {name!r}; sources are {names}")
        return self

    @model_validator(mode="after")
    def _roles_have_annotations(self) -> DataSection:
        bare = {source.name for source in self.sources if not source.has_boxes}
        for role in ("tagger", "mix", "test"):
            for name in getattr(self, role):
                if name in bare:
                    raise ValueError(
                        f"{role}: {name!r} has format 'images', so it states no relations; it can only be in label"
                    )
        return self

    @property
    def without_boxes(self) -> tuple[str, ...]:
        """The datasets to label that have no annotations, in which a detector finds the boxes."""
        return tuple(name for name in self.label if not self.source(name).has_boxes)

    def source(self, name: str) -> DataSource:
        """The source with that name, its paths joined to `root`."""
        (found,) = [source for source in self.sources if source.name == name]
        values = {field: getattr(found, field) for field in type(found).model_fields}
        return found.model_copy(update={f: self.root / v for f, v in values.items() if isinstance(v, Path)})

    def image_folders(self) -> dict[str, Path | str]:
        """Dataset → folder or URL of its images."""
        return {source.name: self.source(source.name).image_root for source in self.sources}


class PretrainSection(Settings):
    """The variants and seeds of pre-training, and the settings that all of them share."""

    variants: tuple[Literal["pseudo", "naive", "none", "given"], ...] = ("pseudo",)
    """Relations to pre-train with: those of the tagger (pseudo), every candidate (naive), none, or those annotated in the
    dataset (given)."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Each variant is pre-trained and evaluated once per seed."""
    allow_overlap: bool = runtime(False)
    """Train on images of `data.test` too. Without it, they are excluded, and a training run that still has some is
    refused. Scores on them say nothing about new images."""
    settings: TrainingSettings = TrainingSettings()


class RunSection(Settings):
    """How a run is executed. Nothing here changes a row."""

    until: str | None = runtime(None)
    """The last stage to run, with only the stages and datasets that it needs; unset: all stages."""
    engine: Literal["local", "ray"] = runtime("local")
    """Where partitions are processed. local: worker processes of this machine; ray: actors on the nodes of a Ray cluster."""
    workers: int = runtime(2, ge=1, le=256)
    """Number of worker processes of the local engine."""
    ray_address: str | None = runtime(None)
    """ray: HOST:PORT of the head of the cluster, which this machine has joined (docs/operations.md)."""
    min_actors: int = runtime(1, ge=1, le=4096)
    """ray: number of actors that a stage starts at once, and keeps while they are idle."""
    max_actors: int | None = runtime(None, ge=1, le=4096)
    """ray: maximum number of actors of a stage; unset: as many as fit when it starts. Set it on a cluster that
    scales itself."""
    gpus_per_actor: float = runtime(1.0, gt=0, le=1)
    """ray: share of a GPU that an actor takes, where its stage uses GPUs."""
    blocks: int = runtime(16, ge=1, le=256)
    """Maximum number of Prefect task runs per stage; partitions are grouped into at most this many blocks."""
    max_reject_share: float = runtime(0.1, ge=0, le=1)
    """The run stops if a stage rejects more than this share of its rows, or ingest of the boxes or relations."""
    min_free_gib: float = runtime(1.0, ge=0)
    """Free disk space in GiB that the store must have when a run starts."""
    log_format: LogFormat = runtime("text")
    """Format of the log files: text for people, or JSON for machines."""
    metrics_file: Path | None = runtime(None)
    """File for Prometheus metrics, e.g. for the textfile collector (name it *.prom); written anew while the run goes on."""
    metrics_port: int | None = runtime(None, ge=1, le=65535)
    """Port at 127.0.0.1 that serves Prometheus metrics while the run goes on."""
    lineage: str | None = runtime(None)
    """Server that gets OpenLineage events of each execution, e.g. http://127.0.0.1:5000. Its key belongs in
    OPENLINEAGE_API_KEY, not in the URL, since recipes are kept with runs."""
    checks: CheckSettings = CheckSettings()

    @model_validator(mode="after")
    def _lineage_is_a_plain_url(self) -> RunSection:
        parts = urlsplit(self.lineage or "http://unset")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("lineage: not the URL of a server; write e.g. http://127.0.0.1:5000")
        if parts.username or parts.password or parts.query:
            raise ValueError(
                "lineage: the URL has a user, password or query; leave them out and set OPENLINEAGE_API_KEY"
            )
        return self

    @field_validator("ray_address")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None and value.startswith("ray://"):
            raise ValueError(
                "ray:// belongs to Ray's client, which can't be used here; run rlip on a node and give the head's HOST:PORT"
            )
        if value is not None and not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^\s:/]+):\d{1,5}", value):
            raise ValueError("give HOST:PORT of the cluster's head, e.g. 10.0.0.7:6379")
        return value

    @model_validator(mode="after")
    def _ray_is_complete(self) -> RunSection:
        if self.engine == "ray" and self.ray_address is None:
            raise ValueError("ray_address: engine 'ray' needs HOST:PORT of the cluster's head, e.g. 10.0.0.7:6379")
        if self.max_actors is not None and self.max_actors < self.min_actors:
            raise ValueError(f"max_actors: {self.max_actors} is less than min_actors ({self.min_actors})")
        return self


class Recipe(Settings):
    """A named run: its data, the settings of each stage, and how to execute it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run in the store and of its reports; unset: the name of the recipe's file."""
    store: str = "out/store"
    """A folder or an fsspec URL, e.g. s3://bucket/folder."""
    reports: Path | None = None
    """Folder of reports and log files; unset: `reports` in the store, or in this machine's copies of a store at a URL."""
    scenes: SceneSettings | None = None
    """If set, the synthetic world is written to `data.root` before the first step."""
    data: DataSection
    ingest: IngestSettings = IngestSettings()
    detect: DetectSettings = DetectSettings()
    """Where the boxes of datasets of format images come from."""
    caption: CaptionSettings = CaptionSettings()
    parse: ParseSettings = ParseSettings()
    train_tagger: TaggerSettings = TaggerSettings()
    tag: TagSettings = TagSettings()
    shard: ShardSettings = ShardSettings()
    split: SplitSettings | None = None
    """Combinations of names that no training is given, and whose scores are reported apart; unset: none."""
    pretrain: PretrainSection = PretrainSection(variants=())
    """Without this section, the run ends with labels, or with their shards if there is a section `[shard]`."""
    evaluate: EvaluateSettings = EvaluateSettings()
    run: RunSection = RunSection()

    @property
    def report(self) -> Path:
        """Folder of this run's report."""
        return (self.reports or local_folder(self.store) / REPORTS) / self.name

    def ingest_settings(self) -> IngestSettings:
        """The ingest section, plus the sources and the folder for their parsed annotations."""
        sources = tuple(self.data.source(source.name) for source in self.data.sources)
        indexes = self.ingest.indexes or local_folder(self.store) / "indexes"
        size = self.data.partition_size
        return self.ingest.model_copy(update={"sources": sources, "indexes": indexes, "partition_size": size})

    def caption_settings(self) -> CaptionSettings:
        """The caption section, with paths of recordings joined to `data.root`."""
        recorded = tuple(self.data.root / path for path in self.caption.recorded)
        return self.caption.model_copy(update={"recorded": recorded})

    def parse_settings(self) -> ParseSettings:
        """The parse section, plus the file that caches parses."""
        cache = self.parse.cache or local_folder(self.store) / "parses.sqlite"
        return self.parse.model_copy(update={"cache": cache})

    def shard_settings(self) -> ShardSettings:
        """The shard section, with paths of exclusion lists and of verdicts joined to `data.root`."""
        verdicts = None if self.shard.verdicts is None else self.data.root / self.shard.verdicts
        exclude = tuple(each.below(self.data.root) for each in self.shard.exclude)
        return self.shard.model_copy(update={"exclude": exclude, "verdicts": verdicts})

    def split_settings(self) -> SplitSettings | None:
        """The split section, with paths joined to `data.root`."""
        return None if self.split is None else self.split.below(self.data.root)

    def evaluate_settings(self) -> EvaluateSettings:
        """The evaluate section, with paths joined to `data.root`."""
        vcoco = self.evaluate.vcoco
        return self.evaluate.model_copy(update={"vcoco": None if vcoco is None else vcoco.below(self.data.root)})

    @model_validator(mode="before")
    @classmethod
    def _holds_no_secret(cls, values: Any) -> Any:
        for setting, text in texts_of(values):
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

    @property
    def packs_labels(self) -> bool:
        """Whether shards are made without pre-training on them."""
        return not self.pretrain.variants and (self.shard.pack or self.run.until == ShardStage.name)

    @model_validator(mode="after")
    def _labels_have_a_tagger(self) -> Recipe:
        asked = [("pretrain.variants has", variant) for variant in self.pretrain.variants]
        asked += [("shard.labels is", self.shard.labels)] if self.packs_labels and self.run.until is not None else []
        for what, labels in asked:
            if labels in FROM_CAPTIONS and not self.data.tagger and self.tag.weights is None:
                raise ValueError(
                    f"{what} {labels!r}, which needs a tagger; name a dataset with relations in data.tagger, or a trained "
                    "tagger in tag.weights"
                )
        if self.pretrain.settings.evaluate_every and not self.data.test:
            raise ValueError(
                "pretrain.settings.evaluate_every: there is no test set to evaluate on; name one in data.test"
            )
        return self


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, with those that it extends, and apply overrides such as `caption.top_p=0.8`.

    Raises `FatalError` with the file, the field, its value and what is allowed.
    """
    return recipe_of(read_recipe(path, overrides))


def recipe_of(given: RecipeValues) -> Recipe:
    """Builds the recipe of a file from the values that were read. Raises `FatalError` as `load_recipe` does."""
    values = {"name": given.file.stem, **given.values}
    if isinstance(values.get("data"), dict):
        values["data"] = {"root": str(given.file.parent), **values["data"]}
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise FatalError(explain(error, lambda setting: given.origin(setting) or str(given.file))) from error
    if (origin := given.origin("pretrain.settings.seed")) is not None:
        raise FatalError(
            f"{origin}: pretrain.settings.seed = {recipe.pretrain.settings.seed}: has no effect, since each variant is trained "
            f"once per seed of a list; set pretrain.seeds = [{recipe.pretrain.settings.seed}]"
        )
    return recipe.with_files(lambda setting, path: _found(path, given.origin(setting)))


def _found(path: str | Path, origin: str | None) -> str | Path:
    """A path that a recipe file states: from the current folder, else beside that file if it exists only there."""
    beside = path if origin in (None, SET) else Path(origin).parent / path
    with suppress(OSError):  # of a name that no file can have
        return path if Path(path).expanduser().exists() or not Path(beside).exists() else beside
    return path


STARTED = "started"
"""Document of a run that holds the recipe of the execution that began last."""


def recorded_recipe(run: Run, document: str = "recipe") -> Recipe | None:
    """The recipe that was recorded with a run; None for one without a recipe, e.g. of imported labels.

    `document`: "recipe" holds that of the last execution that completed, `STARTED` that of the last one that began.

    Raises `FatalError` when another version recorded it in a form that this one does not know.
    """
    found = run.read_document(document)
    with warnings.catch_warnings(action="ignore"):
        use_present_names(found, document)
    while found:
        try:
            return Recipe.model_validate(found)
        except ValidationError as error:
            unknown = [mistake["loc"] for mistake in error.errors() if mistake["type"] == "extra_forbidden"]
            if not unknown:
                reason = explain(error, lambda setting: "recipe.json")
                raise FatalError(
                    f"the recipe recorded with run {run.name!r} is of another version: {reason}"
                ) from error
            for location in unknown:
                _remove(found, location)
    return None


def _remove(values: Any, location: tuple[int | str, ...]) -> None:
    """Removes a setting that this version does not have any more."""
    *sections, name = location
    for section in sections:
        values = values[section]
    del values[name]


def explain(error: ValidationError, origin: Callable[[str], str]) -> str:
    """One line per error: the file that sets the field, field, value, and what is allowed."""
    lines = []
    mistakes = error.errors()
    for mistake in mistakes:
        if any(_explains(other, mistake) for other in mistakes):
            continue
        field = ".".join(str(part) for part in mistake["loc"]) or "recipe"
        wanted = _wanted(mistake)
        file = origin(".".join([*map(str, mistake["loc"]), *_AT_FAULT.findall(wanted)]))
        if mistake["type"] == "extra_forbidden":
            allowed = _allowed(mistake["loc"])
            question = did_you_mean(str(mistake["loc"][-1]), allowed)
            lines.append(f"{file}: {field}: unknown name{question}; allowed are {', '.join(allowed) or 'none'}")
        elif mistake["type"] == "missing":
            lines.append(f"{file}: {field}: missing")
        else:
            given = "" if isinstance(mistake["input"], dict | list | Settings) else f" = {mistake['input']!r}"
            lines.append(f"{file}: {field}{given}: {wanted}"[:500])
    return "\n".join(lines)


def _explains(cause: ErrorDetails, mistake: ErrorDetails) -> bool:
    """Whether a setting is missing because its name is misspelt, or a list too short because of a mistake in a member."""
    if mistake["type"] == "missing":
        *section, name = mistake["loc"]
        *other, misspelt = cause["loc"] or ("",)
        return (
            cause["type"] == "extra_forbidden" and other == section and bool(did_you_mean(str(misspelt), [str(name)]))
        )
    return len(cause["loc"]) > (length := len(mistake["loc"])) and cause["loc"][:length] == mistake["loc"]


_AT_FAULT = re.compile(r"^(?:network setting )?([\w.]+)[:=]")
"""A check of a whole section begins its message with the setting at fault."""

_WANTED = {
    "int": "give a whole number",
    "float": "give a number",
    "bool": "give true or false",
    "string": "give text in quotes",
    "path": "give a path in quotes",
    "tuple": 'give a list, e.g. ["coco"]',
    "list": 'give a list, e.g. ["coco"]',
    "model": "give a section, e.g. [section] with one setting a line",
    "dict": "give a section, e.g. [section] with one setting a line",
    "literal_error": "give one of {expected}",
    "greater_than_equal": "give at least {ge}",
    "greater_than": "give more than {gt}",
    "less_than_equal": "give at most {le}",
    "less_than": "give less than {lt}",
    "string_pattern_mismatch": "give text that matches {pattern}",
    "string_too_short": "give at least {min_length} character(s)",
    "too_short": "give at least {min_length}",
}
"""Kind of mistake, or its first word → what a setting must be."""


def _wanted(mistake: Any) -> str:
    """What a setting must be, in words. Checks of this project say it themselves."""
    kind, context = mistake["type"], mistake.get("ctx", {})
    if kind in ("value_error", "assertion_error"):
        return str(context.get("error", mistake["msg"]))
    known = _WANTED.get(kind) or _WANTED.get(kind.partition("_")[0])
    return known.format(**context) if known else str(mistake["msg"])


def _allowed(location: tuple[int | str, ...]) -> list[str]:
    """The field names of the section that `location` points into."""
    section: Any = Recipe
    for part in location[:-1]:
        if isinstance(part, str) and part in getattr(section, "model_fields", {}):
            section = _model_of(section.model_fields[part].annotation)
    return sorted(getattr(section, "model_fields", {}))


def _model_of(annotation: Any) -> Any:
    """The settings class inside an annotation such as `X | None` or `tuple[X, ...]`."""
    inner = [a for a in getattr(annotation, "__args__", ()) if hasattr(a, "model_fields")]
    return inner[0] if inner else annotation
