"""The one protocol: a stage turns tables into a table, for one partition or for a whole set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.images.folders import open_folder
from pipeline.data.images.refs import ImagePlace
from pipeline.runtime.settings import Settings
from storage.artifact import Artifact


class Report(Protocol):
    """Where a stage tells how far it is; called often, cheap, never raises."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """`done` of `total` rows or steps are finished; `note` tells what the number can't."""


@dataclass(frozen=True)
class Rejected:
    """Something put in quarantine: the image it belongs to, a short reason that can be counted, the offending value."""

    image_id: int
    reason: str
    value: str = ""


@dataclass(frozen=True)
class Inputs:
    """What a stage reads: the partition's name, artifacts by table name (in partition order), ingest's image ids."""

    by_table: Mapping[str, Sequence[Artifact]] = field(default_factory=dict)
    partition: str = ""
    image_ids: tuple[int, ...] = ()
    without: frozenset[int] = frozenset()
    """Images whose rows `table` leaves out: they need no work."""

    def artifacts(self, table: str) -> Sequence[Artifact]:
        """The artifacts that hold `table`."""
        return self.by_table[table]

    def artifact(self, table: str) -> Artifact:
        """The one artifact that holds `table`."""
        (only,) = self.by_table[table]
        return only

    def table(self, table: str) -> pa.Table:
        """The table `table`, all partitions one after the other, but for images that need no work."""
        found = pa.concat_tables([artifact.table(table) for artifact in self.by_table[table]])
        if not self.without:
            return found
        left_out = pc.is_in(found["image_id"], pa.array(self.without, pa.int64()))
        return found.filter(pc.invert(left_out))


@dataclass(frozen=True)
class Output:
    """What a stage made: its table, further data files by name, rows in quarantine, and numbers for people."""

    table: pa.Table
    files: Mapping[str, Path] = field(default_factory=dict)
    rejected: Sequence[Rejected] = ()
    rows_in: int | None = None
    """Rows that went in, where that is not the table's length."""
    rows_out: int | None = None
    """Rows that came out, where the table has another unit (tar members, metrics)."""
    facts: Mapping[str, Any] = field(default_factory=dict)


class Stage(ABC):
    """One stage. A subclass is a small file in `pipeline/stages/` over plain functions.

    `version` is raised whenever the same input would give other rows. `reads` names the tables of the same partition,
    `uses` whole artifacts that `open` gets (e.g. the tagger's weights), `writes` the table that comes out.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    judge_version: ClassVar[int] = 1
    """Raised whenever `judge` would think otherwise of the same tables."""
    reads: ClassVar[tuple[str, ...]] = ()
    uses: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[str]
    schema: ClassVar[pa.Schema]
    whole: ClassVar[bool] = False
    """True for a stage over all partitions at once, which may keep checkpoints in its work folder."""
    resumes_from: ClassVar[tuple[str, ...]] = ()
    """Files of its work folder that are enough to go on elsewhere; the first appears whole, the others are written before."""
    row_wise: ClassVar[bool] = False
    """True where an image's row follows from that image's rows of the tables read: those of unchanged images are taken over.
    Not of scores whose last bits depend on what else is computed with them."""

    def __init__(self, settings: Settings, image_folders: Mapping[str, Path | str] | None = None) -> None:
        self.settings: Any = settings
        self.worker = 0
        """Its number among the workers that an engine runs on this machine, from 0 on: which GPU is its own."""
        self.image_folders: Mapping[str, Path | str] = image_folders or {}
        """Data set → the folder, tar or URL that the `uri` of its images is relative to: tables never hold a machine's paths."""

    def image_path(self, row: Mapping[str, Any]) -> ImagePlace:
        """Where the image of a row of the `images` table lies."""
        uri: str = row["uri"]
        return open_folder(self.image_folders[row["dataset"]]).place(uri)

    def row_settings(self) -> dict[str, Any]:
        """The settings that change rows."""
        row_settings: dict[str, Any] = self.settings.row_settings()
        return row_settings

    def weights(self) -> dict[str, Path]:
        """Model files (or folders) whose content decides rows, by role. Raises `Terminal` when one is missing."""
        return {}

    def open(self, given: Inputs) -> None:  # noqa: B027 - most stages have nothing to load
        """Load what is heavy; called once a worker, before the first `run`."""

    def judge(self, made: Inputs) -> None:  # noqa: B027 - most stages are judged a partition at a time
        """Look at all partitions of a step before the run takes them in: what it reads, and what it `writes`, by table.

        Raises `Terminal` to refuse them. What was committed stays in the store, so that another setting needs no work.
        """

    def describe(self, inputs: Inputs, table: pa.Table) -> dict[str, Any]:
        """Numbers for people that follow from what a partition read and what came out, however its rows were made."""
        return {}

    @abstractmethod
    def run(self, inputs: Inputs, work: Path, report: Report) -> Output:
        """Make the table of one partition (or of the whole set); `work` is a folder for files on their way out."""
