"""The verdict log: a folder with one append-only file of JSON lines per reviewer."""

from __future__ import annotations

import json
import threading
from bisect import insort
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from unicodedata import is_normalized

from pipeline.labels.verdicts import JudgedRelation, StandingVerdicts, Verdict, parse_verdict, require_reviewer
from storage.disk import LOCAL, Disk
from storage.errors import FatalError
from storage.json_files import reason_of
from storage.line_log import Line, LineLog
from storage.open_store import Address, is_remote, local_folder
from storage.store import Store

VERDICTS = "verdicts"
"""Name of the folder in a store."""
SUFFIX = ".jsonl"


def verdicts_folder(store: Address) -> Path:
    """The folder of verdicts on a local store's labels. Raises `FatalError` for a store at a URL."""
    if is_remote(store):
        raise FatalError(f"the store {store} is at a URL; name a folder on this machine for verdicts with --verdicts")
    return local_folder(store) / VERDICTS


def existing_folder(folder: Path) -> Path:
    """The folder of verdicts. Raises `FatalError` if there is none."""
    if not folder.is_dir():
        raise FatalError(f"no verdicts at {folder}; name their folder with --verdicts")
    return folder


def folder_to_read(store: Store, verdicts: Path | None) -> Path:
    """The folder of verdicts `verdicts`; None: the store's own, which need not exist.

    Raises `FatalError` if the named folder is not there.
    """
    return store.root / VERDICTS if verdicts is None else existing_folder(verdicts)


class VerdictLog:
    """The verdicts in a folder. Each call sees what other processes have appended, and reads nothing twice.

    Threads may share a log. The folder need not exist before the first verdict.
    """

    def __init__(self, folder: Path, disk: Disk = LOCAL) -> None:
        self.folder = folder
        self._disk = disk
        self._files: dict[str, _ReviewerFile] = {}
        self._unnamed: list[str] = []
        self._standing: StandingVerdicts = {}
        self._lock = threading.RLock()

    def append(self, verdicts: Sequence[Verdict]) -> None:
        """Append verdicts, those of each reviewer in one write. They are on disk when this returns.

        Raises `FatalError` for a full or unwritable disk and for a verdict that is too long, and `RetryableError` for a
        failing disk; in these cases, none of the reviewer's verdicts is in the log.
        """
        lines: dict[str, list[bytes]] = defaultdict(list)
        for verdict in verdicts:
            lines[verdict.reviewer].append(json.dumps(verdict.as_row(), ensure_ascii=False).encode())
        for reviewer, written in lines.items():
            LineLog(self.folder / f"{reviewer}{SUFFIX}", self._disk).append(written)

    def verdicts(self) -> Iterator[Verdict]:
        """All verdicts, including undone ones: reviewer by reviewer, each in the order of the file."""
        with self._lock:
            self._refresh()
            found = [verdict for _, file in sorted(self._files.items()) for verdict in file.verdicts]
        # Outside the lock, which a slow caller would hold between two verdicts.
        yield from found

    def standing(self) -> StandingVerdicts:
        """Each reviewer's last verdict on each relation that was not undone. The result is the caller's to change."""
        with self._lock:
            self._refresh()
            return dict(self._standing)

    def standing_on(self, relations: Iterable[JudgedRelation]) -> StandingVerdicts:
        """The standing verdicts on these relations, at a cost that does not grow with the log."""
        with self._lock:
            self._refresh()
            return {relation: self._standing[relation] for relation in relations if relation in self._standing}

    def standing_of(self, reviewer: str) -> list[Verdict]:
        """The standing verdicts of one reviewer."""
        with self._lock:
            self._refresh()
            file = self._files.get(reviewer)
            return [] if file is None else file.standing()

    @property
    def damaged(self) -> tuple[str, ...]:
        """The skipped lines without a valid verdict: file, line and reason."""
        with self._lock:
            self._refresh()
            torn = [f"{file.path}: its incomplete last line was skipped" for file in self._files.values() if file.torn]
            return (*self._unnamed, *(text for file in self._files.values() for text in file.damaged), *torn)

    def _refresh(self) -> None:
        self._unnamed = []
        paths: dict[str, Path] = {}
        # Verdicts are appended to the composed name, so of two names that differ only in their form this one counts.
        for path in sorted(self.folder.glob(f"*{SUFFIX}"), key=lambda p: (not is_normalized("NFC", p.name), p)):
            try:
                reviewer = require_reviewer(path.name.removesuffix(SUFFIX))
            except FatalError as error:
                self._unnamed.append(f"{path}: skipped: {error}")
                continue
            # Opening a pipe or a device would block.
            if not path.is_file():
                self._unnamed.append(f"{path}: skipped: not a file")
            elif (first := paths.setdefault(reviewer, path)) != path:
                self._unnamed.append(f"{path}: skipped: append its lines to {first}, which has the same name")
        for file in [file for file in self._files.values() if file.path != paths.get(file.reviewer)]:
            del self._files[file.reviewer]
            for relation in {verdict.relation for verdict in file.verdicts}:
                self._put(relation, file.reviewer, None)
        for reviewer, path in paths.items():
            file = self._files.setdefault(reviewer, _ReviewerFile(path, reviewer))
            for relation in file.refresh():
                self._put(relation, reviewer, file.last(relation))

    def _put(self, relation: JudgedRelation, reviewer: str, verdict: Verdict | None) -> None:
        """Replaces the inner mapping, since callers may hold the old one."""
        others = {name: said for name, said in self._standing.get(relation, {}).items() if name != reviewer}
        if verdict is not None:
            others[reviewer] = verdict
        if others:
            self._standing[relation] = others
        else:
            self._standing.pop(relation, None)


class _ReviewerFile:
    """The verdicts of one reviewer that have been read so far."""

    def __init__(self, path: Path, reviewer: str) -> None:
        self.path = path
        self.verdicts: list[Verdict] = []
        self.damaged: list[str] = []
        self.torn = False
        self.reviewer = reviewer
        self._log = LineLog(path)
        self._said: dict[JudgedRelation, list[Verdict]] = {}
        """In the order of their times, since the file may be joined from those of two machines."""

    def last(self, relation: JudgedRelation) -> Verdict | None:
        """The last verdict on a relation that was not undone."""
        undoable: list[Verdict] = []
        for verdict in self._said.get(relation, ()):
            if verdict.kind != "undo":
                undoable.append(verdict)
            elif undoable:
                undoable.pop()
        return undoable[-1] if undoable else None

    def standing(self) -> list[Verdict]:
        """The last verdict on each relation that was not undone."""
        return [last for relation in self._said if (last := self.last(relation)) is not None]

    def refresh(self) -> list[JudgedRelation]:
        """Reads appended verdicts, and returns the relations that they judge, in order."""
        new = self._log.read_new()
        touched: dict[JudgedRelation, None] = {}
        if new.afresh:
            touched = dict.fromkeys(self._said)
            self.verdicts, self.damaged, self._said = [], [], {}
        self.torn = new.torn
        for line in new.lines:
            try:
                verdict = self._parse(line)
            except (ValueError, FatalError) as error:
                self.damaged.append(f"{self.path}:{line.number}: skipped: {reason_of(error)}")
                continue
            said = self._said.setdefault(verdict.relation, [])
            # A file that was joined from those of two machines may hold a line twice.
            if verdict not in said:
                self.verdicts.append(verdict)
                touched[verdict.relation] = None
                insort(said, verdict, key=lambda each: datetime.fromisoformat(each.time))
        return list(touched)

    def _parse(self, line: Line) -> Verdict:
        if line.text is None:
            raise ValueError(line.fault)
        verdict = parse_verdict(line.text)
        if verdict.reviewer != self.reviewer:
            raise ValueError(f"it is of reviewer {verdict.reviewer!r}, whose verdicts belong in a file of that name")
        return verdict
