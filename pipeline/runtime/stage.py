"""The one protocol: a stage turns tables into a table, for one partition or for a whole dataset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.runtime.settings import Settings
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.store import Store

GIB = 2**30
BASE_MEMORY = 3 * GIB // 2
"""Bytes of a worker's memory without its weights: libraries, a partition's rows, and a batch of images."""
WHOLE = "all"
"""The partition name of a stage that runs over the whole dataset at once."""


class ReportProgress(Protocol):
    """Callback through which a stage reports progress. It is called often, must be cheap and must never raise."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """`done` of `total` rows or steps are finished; `note` adds what the numbers can't say."""


@dataclass(frozen=True)
class Partition:
    """A slice of a dataset: its name (`dataset/0003`), its image ids, and the digest of what ingest reads of it."""

    name: str
    image_ids: tuple[int, ...]
    digest: str


def dataset_of(partition: str) -> str:
    """The dataset that a partition name such as `coco/0003` belongs to."""
    return partition.partition("/")[0]


@dataclass(frozen=True)
class Rejected:
    """A quarantined item: the image it belongs to, a short countable reason, and the offending value."""

    image_id: int
    reason: str
    value: str = ""


@dataclass(frozen=True)
class Inputs:
    """What a stage reads: the partition's name, artifacts by table (in partition order), and ingest's image ids."""

    by_table: Mapping[str, Sequence[Artifact]] = field(default_factory=dict)
    partition: str = ""
    image_ids: tuple[int, ...] = ()
    without: frozenset[int] = frozenset()
    """Images that need no processing: `table` omits their rows."""
    digest: str = ""
    """The digest of the partition (`Partition.digest`), for ingest; "" if it is not known."""

    def artifacts(self, table: str) -> Sequence[Artifact]:
        """The artifacts that hold `table`."""
        return self.by_table[table]

    def artifact(self, table: str) -> Artifact:
        """The only artifact that holds `table`."""
        (only,) = self.by_table[table]
        return only

    def table(self, table: str) -> pa.Table:
        """The rows of `table` in all partitions, without the images that need no processing."""
        rows = pa.concat_tables([artifact.table(table) for artifact in self.by_table[table]])
        if not self.without:
            return rows
        skipped = pc.is_in(rows["image_id"], pa.array(self.without, pa.int64()))
        return rows.filter(pc.invert(skipped))


@dataclass(frozen=True)
class Output:
    """What a stage produced: its table, further data files by name, quarantined rows, and figures for people."""

    table: pa.Table
    files: Mapping[str, Path] = field(default_factory=dict)
    rejected: Sequence[Rejected] = ()
    rows_in: int | None = None
    """Rows that went in, where that is not the table's length."""
    rows_out: int | None = None
    """Rows that came out, where the table has another unit (tar members, metrics)."""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Resources:
    """What one worker takes while it lives. A Ray cluster sets it aside for each actor."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = BASE_MEMORY
    """Bytes."""
    gpu_where_any: bool = False
    """Whether the worker takes a GPU where machines have some, and does without one elsewhere."""

    @classmethod
    def on(cls, device: str, weights: Iterable[Path] = ()) -> Self:
        """A core, the GPU that setting `device` ("auto", "cpu", "cuda", "cuda:1") names, and memory for the weights."""
        memory = BASE_MEMORY + sum(map(_size, weights))
        return cls(gpus=float(device.startswith("cuda")), memory=memory, gpu_where_any=device == "auto")

    def where(self, *, any_gpus: bool, share: float = 1.0) -> Self:
        """These resources on machines with or without GPUs, where `share` of a GPU is enough for one worker."""
        takes_gpu = self.gpus or (self.gpu_where_any and any_gpus)
        return replace(self, gpus=share if takes_gpu else 0.0, gpu_where_any=False)

    def __str__(self) -> str:
        cpus, gpus = (f"{number:g} {unit}" for number, unit in ((self.cpus, "CPU"), (self.gpus, "GPU")))
        return f"{cpus}, {gpus} and {self.memory / GIB:.1f} GiB of memory"


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; 0 where there is none."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def named_files(section: str, named: Mapping[str, Path | None]) -> dict[str, Path]:
    """The files that settings of a section name, by setting. Raises `FatalError` for one that is missing."""
    files = {setting: path for setting, path in named.items() if path is not None}
    for setting, path in files.items():
        if not path.is_file():
            raise FatalError(f"{section}.{setting} = {path}: no such file; correct the path")
    return files


class Stage(ABC):
    """One stage. A subclass is a small file in `pipeline/stages/` over plain functions.

    Raise `version` whenever the same input would give different rows. `reads` names tables of the same partition, and
    `writes` the table that the stage makes. The step at its place in the chain (`pipeline/run/dag.py`) says which it
    reads with these settings, and which whole artifacts, such as the tagger's weights, `open` receives. A stage that
    reads no table is a source: it defines the partitions of its datasets.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    loads: ClassVar[str] = ""
    """What takes a worker or rank seconds to load before the first image, e.g. "the captioner"."""
    uses_gpu: ClassVar[bool] = False
    """True for a stage that computes on a GPU where there is one: the one that setting `device` names."""
    audit_version: ClassVar[int] = 1
    """Raise it whenever `audit` would judge the same tables differently."""
    reads: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[str]
    schema: pa.Schema
    whole: ClassVar[bool] = False
    """True for a stage that runs over all partitions at once; it may keep checkpoints in its work folder."""
    resumes_from: ClassVar[str] = ""
    """File in the work folder that lists the files another machine resumes from, as JSON: {"files": [...]}."""
    streams: ClassVar[frozenset[str]] = frozenset()
    """Tables whose artifacts stay where they are: from a remote store, only requested files are copied."""
    parts: ClassVar[Mapping[str, frozenset[str]]] = {}
    """Kind of item in rows, which `describe` counts under the same name → the reasons to reject one."""
    corrected: ClassVar[Mapping[str, str]] = {}
    """Reason for correcting and keeping "rows", or one of `parts` → which of them."""
    row_wise: ClassVar[bool] = False
    """True where an image's row depends only on that image's rows in the tables read, so rows of images whose
    `decisive` part is unchanged can be reused. False for scores whose low-order bits depend on what else is batched."""

    def __init__(self, settings: Settings, image_folders: Mapping[str, Path | str] | None = None) -> None:
        self.settings: Any = settings
        self.worker = 0
        """Its number among the workers of the engine, counted from 0. It decides which GPU the stage uses."""
        self.image_folders: Mapping[str, Path | str] = image_folders or {}
        """Dataset → the folder, tar or URL that its images' `uri` is relative to. Tables never hold local paths."""

    def row_settings(self) -> dict[str, Any]:
        """The settings that change rows."""
        row_settings: dict[str, Any] = self.settings.row_settings()
        return row_settings

    def files(self) -> dict[str, Path]:
        """Role → file or folder whose content decides rows, e.g. weights. Raises `FatalError` when one is missing."""
        return {}

    def resources(self) -> Resources:
        """What one worker takes of its machine: a core, the GPU that `device` asks for, and memory for the weights."""
        return Resources.on(self.settings.device if self.uses_gpu else "cpu", self.files().values())

    def imports(self) -> tuple[str, ...]:
        """Modules that take seconds to import, which is done once for all workers (`processes.preload`)."""
        return ()

    def partitions(self, dataset: str, store: Store) -> Iterator[Partition]:
        """The partitions of a dataset, for a stage that reads no table."""
        raise NotImplementedError(f"stage {self.name} takes its partitions from the tables that it reads")

    def takes(self, table: str, artifact: Artifact) -> bool:
        """Whether a stage over all partitions reads this one. What it would not use must not change its key."""
        return True

    def open(self, uses: Inputs) -> None:  # noqa: B027 - most stages have nothing to load
        """Load models and other heavy objects. The engine calls this once per worker, before the first `run`."""

    def audit(self, made: Inputs) -> None:  # noqa: B027 - most stages are checked one partition at a time
        """Inspect all partitions of a step before the run accepts them: what it reads, and what it `writes`, by table.

        Raises `FatalError` to refuse them. Committed artifacts stay stored, so a run with other settings reuses them.
        """

    def decisive(self, table: str, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """What of an image's row in `table` decides the row that a `row_wise` stage makes of it; by default all."""
        return row

    def describe(self, inputs: Inputs, table: pa.Table) -> dict[str, Any]:
        """Figures that follow from a partition's inputs and output alone, whether or not rows were reused."""
        return {}

    @abstractmethod
    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Make the table of one partition or of the whole set; `work` is a folder for its data files."""
