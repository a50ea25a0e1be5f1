"""A resume point: copies in the store of the files from which another machine can resume unfinished work."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel

from storage.atomic import write_atomic
from storage.digests import digest_file
from storage.disk import LOCAL
from storage.errors import FatalError, PipelineError, translate_os_errors
from storage.json_files import parse_json, parse_json_or_none
from storage.remote import Remote

_RECORD = "record.json"
_LAST_RECORD = ".resume_point"


class ResumePoint:
    """Files of a scratch folder, and their copies in `scratch/<key>/` of the store.

    A list in the folder, `{"files": [paths]}` in JSON, names them. It is replaced by a rename when there is something
    new, and the files that it names are complete by then; those that change in place only grow. Data are uploaded under
    names that hold their digests, the record that names them last. Work that has begun continues without copies if the
    remote side fails.
    """

    def __init__(self, files: Remote, key: str, folder: Path, listed: str) -> None:
        """`listed`: name of the list in the folder; "" if there is nothing to copy."""
        self._files = files
        self._place = f"scratch/{key}"
        self._folder = folder
        self._list = listed
        self._sent: bytes | None = None

    @contextmanager
    def synchronised(self, interval: float) -> Iterator[None]:
        """Fetch what another machine left. Check for new files every `interval` seconds and once more on exit, and send
        them.

        Raises `PipelineError` if it can't be fetched: work from scratch would replace it there.
        """
        if not self._list:
            yield
            return
        with suppress(OSError), translate_os_errors("fetching checkpoints"):  # suppressed: a copy that is gone
            self.fetch()
        done = threading.Event()
        sender = threading.Thread(target=self._send_until, args=(done, interval), daemon=True)
        sender.start()
        try:
            yield
        finally:
            done.set()
            sender.join()

    def fetch(self) -> None:
        """Put the copies in place, unless this machine made or already fetched them. Ignores damaged copies."""
        data = self._files.read(f"{self._place}/{_RECORD}")
        if data is not None and data != self._read(_LAST_RECORD):
            self._install(data)
        state = self._read(self._list)
        listed = parse_json_or_none(state, _List)
        # A process that was killed may have left a newer list than it sent.
        if listed is not None and {*listed.files} == (_record(data) or {}).keys():
            self._sent = state

    def send(self) -> None:
        """Copy the files to the store if the list has changed since the last transfer."""
        state = self._read(self._list)
        if state is None or state == self._sent:
            return
        aside = self._folder / ".sending"
        aside.mkdir(exist_ok=True)
        record: dict[str, str] = {}
        for name in _listed(state):  # a growing file must not grow between its digest and its copy
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._folder / name, aside / name)
            record[name] = digest_file(aside / name)
        for name, digest in record.items():
            self._files.upload(aside / name, self._copy_of(name, digest))
        data, before = json.dumps(record).encode(), self._read(_LAST_RECORD)
        self._files.write(f"{self._place}/{_RECORD}", data)
        write_atomic(self._folder / _LAST_RECORD, data)
        shutil.rmtree(aside)
        self._sent = state
        old = _record(before) or {}
        self._files.remove(self._copy_of(name, old[name]) for name in old if old[name] != record.get(name))

    def _send_until(self, done: threading.Event, interval: float) -> None:
        while not done.wait(interval):
            with suppress(PipelineError, OSError):
                self.send()
        with suppress(PipelineError, OSError):
            self.send()

    def _install(self, data: bytes) -> None:
        record = _record(data)
        if record is None:
            return
        aside = self._folder / ".fetching"
        for name, digest in record.items():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            self._files.download(self._copy_of(name, digest), aside / name)
            if digest_file(aside / name) != digest:
                return
        for name in record:
            (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
            LOCAL.rename(aside / name, self._folder / name)
        with suppress(FatalError):  # a damaged list, which is replaced
            self._remove_others(record)
        write_atomic(self._folder / self._list, json.dumps({"files": list(record)}).encode())
        shutil.rmtree(aside)
        write_atomic(self._folder / _LAST_RECORD, data)

    def _remove_others(self, record: dict[str, str]) -> None:
        """Removes files that only this machine's list names, since they belong to another checkpoint than the
        copies."""
        state = self._read(self._list)
        for name in _listed(state) if state else ():
            if name not in record:
                LOCAL.remove(self._folder / name)
                with suppress(OSError):  # other files may lie there
                    (self._folder / name).parent.rmdir()

    def _copy_of(self, name: str, digest: str) -> str:
        return f"{self._place}/{digest[:16]}-{name.replace('/', '-')}"

    def _read(self, name: str) -> bytes | None:
        """A file of the folder: the list, or the record that this machine last wrote or fetched; None without it."""
        path = self._folder / name
        return path.read_bytes() if path.is_file() else None


class _List(BaseModel):
    files: list[str]


def _listed(state: bytes) -> list[str]:
    """The files of a list. Raises `FatalError` if it is damaged or names a file outside the folder."""
    names = parse_json(state, _List, "the list of files to resume from").files
    if not all(_is_inside(name) for name in names):
        raise FatalError(f"the list of files to resume from names one outside its folder: {names}")
    return names


def _record(data: bytes | None) -> dict[str, str] | None:
    """Name → digest of the copies; None where there is no record that can be trusted, since anyone may have written
    it."""
    found = parse_json_or_none(data, dict[str, str])
    return found if found is not None and all(_is_inside(name) for name in found) else None


def _is_inside(name: str) -> bool:
    """Whether a name leads to a file below the folder."""
    return name != "" and not name.startswith("/") and ".." not in name.split("/")
