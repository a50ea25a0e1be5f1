"""A resume point: copies in the store of the files from which another machine can resume unfinished work."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from storage.digests import digest_file
from storage.disk import LOCAL
from storage.errors import PipelineError
from storage.remote import Remote

_RECORD = "record.json"
_NOTE = ".resume_point"


class ResumePoint:
    """The named files of a scratch folder, and their copies in `scratch/<key>/` of the store.

    The files are copied in the order of `names`, so that each copy holds at least what the copies before it require. The
    first file appears whole, by a rename, and signals that there is something new. Data are uploaded under names that hold
    their digests, the record that names them last. It only saves work: if the remote side fails, work goes on without it.
    """

    def __init__(self, files: Remote, key: str, folder: Path, names: Sequence[str]) -> None:
        self._files = files
        self._place = f"scratch/{key}"
        self._folder = folder
        self._names = names
        self._sent: tuple[int, int] | None = None

    @contextmanager
    def kept(self, look: float) -> Iterator[None]:
        """Fetch what another machine left. Send what is new, checked for every `look` seconds and once more on exit."""
        if not self._names:
            yield
            return
        with suppress(PipelineError, OSError):
            self.fetch()
        done = threading.Event()
        sender = threading.Thread(target=self._keep, args=(look, done), daemon=True)
        sender.start()
        try:
            yield
        finally:
            done.set()
            sender.join()

    def fetch(self) -> None:
        """Put the copies in place, unless this machine made or already fetched them. Ignores damaged copies."""
        data = self._files.read(f"{self._place}/{_RECORD}")
        if data is not None and data != self._known():
            self._take(data)
        self._sent = self._state()

    def send(self) -> None:
        """Copy the files to the store if the first one has changed since the last transfer."""
        state = self._state()
        if state is None or state == self._sent:
            return
        aside = self._folder / ".sending"
        aside.mkdir(exist_ok=True)
        record: dict[str, str] = {}
        for name in self._names:  # a growing file must not grow between its digest and its copy
            shutil.copyfile(self._folder / name, aside / name)
            record[name] = digest_file(aside / name)
        for name, digest in record.items():
            self._files.upload(aside / name, self._copy_of(name, digest))
        data, before = json.dumps(record).encode(), self._known()
        self._files.write(f"{self._place}/{_RECORD}", data)
        (self._folder / _NOTE).write_bytes(data)
        shutil.rmtree(aside)
        self._sent = state
        old = json.loads(before or b"{}")
        self._files.remove(self._copy_of(name, old[name]) for name in old if old[name] != record.get(name))

    def _keep(self, look: float, done: threading.Event) -> None:
        while not done.wait(look):
            with suppress(PipelineError, OSError):
                self.send()
        with suppress(PipelineError, OSError):
            self.send()

    def _take(self, data: bytes) -> None:
        try:
            record = {name: str(json.loads(data)[name]) for name in self._names}
        except (ValueError, KeyError, TypeError):
            return
        aside = self._folder / ".fetching"
        aside.mkdir(exist_ok=True)
        for name, digest in record.items():
            self._files.download(self._copy_of(name, digest), aside / name)
            if digest_file(aside / name) != digest:
                return
        for name in reversed(self._names):
            LOCAL.rename(aside / name, self._folder / name)
        (self._folder / _NOTE).write_bytes(data)

    def _copy_of(self, name: str, digest: str) -> str:
        return f"{self._place}/{digest[:16]}-{name}"

    def _known(self) -> bytes | None:
        """The record that this machine last wrote or fetched."""
        note = self._folder / _NOTE
        return note.read_bytes() if note.is_file() else None

    def _state(self) -> tuple[int, int] | None:
        """Inode and modification time of the first file, which identify its version; None where there is no file."""
        path = self._folder / self._names[0]
        if not path.is_file():
            return None
        status = path.stat()
        return status.st_ino, status.st_mtime_ns
