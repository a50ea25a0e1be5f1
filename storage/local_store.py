"""A store on a local disk: immutable artifact folders named by key, each committed by one rename."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from storage.artifact import Artifact
from storage.atomic import put_in_place
from storage.digests import digest_file
from storage.disk import LOCAL, Disk, lock_file
from storage.errors import FatalError, RetryableError, translate_os_errors
from storage.json_files import read_within_limit
from storage.manifest import MANIFEST, Manifest
from storage.store import KEY, STAGE_NAME, StoredEntry, require_valid_address

_GATE = ".gate"
"""File of `pending/` that a store has from its first write on."""


class LocalStore:
    """A `Store` in a folder: `artifacts/<stage>/<key>/`, `runs/`, `cuts/`, and `pending/` for what is being written.

    Raises `FatalError` on construction when the root is missing and cannot be created. Reading needs no write
    permission.
    """

    def __init__(self, root: Path, disk: Disk = LOCAL) -> None:
        self.root = root.absolute()
        """Where the store is; for a `RemoteStore`, where this machine keeps its copies and works."""
        self.address = str(self.root)
        """The address that opens this store in any process."""
        self.disk = disk
        self._artifacts = self.root / "artifacts"
        self._pending = self.root / "pending"
        with self._writing():
            disk.make_durable(self._artifacts)
            try:
                disk.make_durable(self._pending)
            except OSError as error:
                # A copy that was pushed to a read-only place lacks it.
                if error.errno not in (errno.EROFS, errno.EACCES):
                    raise

    def require_writable(self) -> None:
        """Raise `FatalError`, before any work, if the store can't be written, or files in it can't be locked."""
        with self._writing():
            probe = self._pending / f".probe-{uuid.uuid4().hex}"
            probe.touch()
            try:
                with _held(probe):
                    pass
            finally:
                probe.unlink()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FatalError(
                f"store root {self.root} can't be written ({error.strerror}); set `store` (--set store=FOLDER, --store "
                "FOLDER) or, if it is a URL, RLIP_CACHE to a writable folder on a file system with locks (flock)"
            ) from error

    def folder(self, stage: str, key: str) -> Path:
        """Where an artifact is on this machine. Raises `FatalError` for names that could lead elsewhere."""
        require_valid_address(stage, key)
        return self._artifacts / stage / key

    def find(self, stage: str, key: str) -> Artifact | None:
        """The committed artifact, or None. A folder without a manifest does not count as one."""
        folder = self.folder(stage, key)
        return Artifact(folder) if (folder / MANIFEST).is_file() else None

    def find_all(self, stage: str, keys: Iterable[str]) -> dict[str, Artifact]:
        """Key → committed artifact, for those keys that have one."""
        found = {key: self.find(stage, key) for key in keys}
        return {key: artifact for key, artifact in found.items() if artifact is not None}

    def recover(self, stage: str, key: str) -> Artifact | None:
        """The artifact, if another process has committed it since, or died with a commit that can be finished."""
        return self.find(stage, key)

    def fetch_artifacts(self, folders: Sequence[Path]) -> tuple[Artifact, ...]:
        """The artifacts at these places, with all their files on this machine's disk."""
        return tuple(Artifact(folder) for folder in folders)

    def refresh(self) -> None:
        """Nothing to fetch: what other processes write to this disk is visible at once."""

    def stages(self) -> list[str]:
        """Names of the stages that have artifacts."""
        return sorted(folder.name for folder in self._artifacts.iterdir() if STAGE_NAME.fullmatch(folder.name))

    def artifacts(self, stage: str) -> Iterator[Artifact]:
        """Every committed artifact of a stage, ordered by key."""
        for folder in self._places(stage):
            if (folder / MANIFEST).is_file():
                yield Artifact(folder)

    def entries(self, stage: str) -> Iterator[StoredEntry]:
        """What is at each place of a stage, ordered by key. Reads no data."""
        for folder in self._places(stage):
            yield StoredEntry(stage, folder.name, (folder / MANIFEST).is_file(), size_of(folder), last_used(folder))

    def _places(self, stage: str) -> list[Path]:
        """The folders of a stage that are named by a key. Others may exist, e.g. a file manager's."""
        return sorted(folder for folder in (self._artifacts / stage).glob("*") if KEY.fullmatch(folder.name))

    def used(self, stage: str, key: str) -> float:
        """Unix time at which an artifact was made or last found by a run."""
        return last_used(self.folder(stage, key))

    def manifest_bytes(self, stage: str, key: str) -> bytes:
        """The manifest as it is in the store now, whatever this machine has cached."""
        return read_within_limit(self.folder(stage, key) / MANIFEST)

    def measure(self, stage: str, key: str, name: str, digest: str) -> tuple[int, str] | None:
        """Size and sha256 of a data file, read again; None where it is missing. `digest` is what the manifest says."""
        path = self.folder(stage, key) / name
        return (path.stat().st_size, digest_file(path)) if path.is_file() else None

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """A folder to write an artifact's files in. Whatever `commit` did not take is removed on exit."""
        folder = self._pending / f"draft-{uuid.uuid4().hex}"
        with ExitStack() as held:
            # Between making its lock file and holding it, a draft looks like that of a dead process.
            with self._gate(fcntl.LOCK_SH):
                held.enter_context(_held(folder.with_suffix(".lock")))
            self.disk.mkdir(folder)
            try:
                yield folder
            finally:
                self.disk.remove_tree(folder)
                self.disk.remove(folder.with_suffix(".lock"))

    @contextmanager
    def claim(self, key: str, waiting: Callable[[str], None]) -> Iterator[None]:
        """Work on `key` alone on this machine. Calls `waiting` with its name before it waits for another live process.

        It only saves work: without it, both would commit equal bytes. The kernel frees the claim of a dying process.
        """
        path = self._pending / f"claim-{key}.lock"
        while True:
            with lock_file(path) as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    waiting(platform.node())
                    fcntl.flock(lock, fcntl.LOCK_EX)
                if not _is_file(lock, path):
                    continue  # The previous holder removed this file, and a third process may hold a new one.
                try:
                    yield
                    return
                finally:
                    self.disk.remove(path)

    @contextmanager
    def scratch(self, key: str, resumes_from: str = "") -> Iterator[Path]:
        """A folder that outlives a crash, for work that resumes from its own checkpoints. Admits one process at a time.

        `resumes_from` names a list of the files that suffice to resume; a remote store keeps copies of them
        (`ResumePoint`). Raises `RetryableError` when another live process works on the same key.
        """
        folder = self._pending / f"scratch-{key}"
        with ExitStack() as held:
            try:
                held.enter_context(_held(folder.with_suffix(".lock")))
            except BlockingIOError as error:
                raise RetryableError(
                    f"another process is computing {key[:12]} in {folder}; wait for it, then run again"
                ) from error
            self.disk.mkdir(folder)
            yield folder

    def drop_scratch(self, key: str) -> None:
        """Remove the scratch folder of a key whose artifact is committed."""
        self.disk.remove_tree(self._pending / f"scratch-{key}")
        self.disk.remove(self._pending / f"scratch-{key}.lock")

    def commit(self, draft: Path, manifest: Manifest) -> Artifact:
        """Make `draft` the artifact of the manifest's stage and key: sync all files to disk, then rename once.

        If the artifact already exists, the draft is dropped, since both hold the same bytes. Raises `FatalError` on a
        full or unwritable disk and `RetryableError` on a failing one; the store is then unchanged.
        """
        target = self.folder(manifest.stage, manifest.key)
        with translate_os_errors(f"writing {target}"):
            self.disk.write(draft / MANIFEST, manifest.as_bytes())
            # Two syncs: no reader may see the name before the bytes are safe, no caller return before the name is.
            self.disk.sync_all([draft / name for name in (*manifest.files, MANIFEST)], draft)
            self.disk.make_durable(target.parent)
            # The remains of an artifact would refuse the rename; a whole artifact stays.
            if target.exists() and not (target / MANIFEST).is_file():
                self.remove(target)
            try:
                self.disk.rename(draft, target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not (target / MANIFEST).is_file():
                    raise
            self.disk.sync_folder(target.parent)
        return Artifact(target)

    def put(self, path: Path, data: bytes) -> None:
        """Write a record at `path` below `root`: readers see the old bytes or the new ones."""
        with translate_os_errors(f"writing {path}"), self.draft() as draft:
            self.disk.make_durable(path.parent)
            self.disk.write(draft / path.name, data)
            put_in_place(draft / path.name, path, self.disk)

    def touch(self, stage: str, artifacts: Iterable[Artifact]) -> None:
        """Note that a run found these, by renewing their manifests' times, so that `rlip store gc` spares them."""
        for artifact in artifacts:
            with suppress(OSError):
                # A reader may lack permission to write.
                os.utime(artifact.folder / MANIFEST)

    def discard(self, stage: str, key: str) -> None:
        """Remove an artifact, or the remains of one."""
        self.remove(self.folder(stage, key))

    def remove_run(self, name: str) -> None:
        """Remove a run's records. Its artifacts stay."""
        self.remove(self.root / "runs" / name)

    def remove(self, folder: Path) -> None:
        """Remove the folder of an artifact, run or scratch by one rename. What a crash leaves behind, `sweep` removes.

        The rename is on disk before any file goes, so a power cut can't bring back the folder with half of them.
        """
        aside = self._pending / f"draft-{uuid.uuid4().hex}"
        with suppress(FileNotFoundError):
            self.disk.rename(folder, aside)
            self.disk.sync_folder(folder.parent)
        self.disk.remove_tree(aside)
        if folder.parent == self._pending:
            self.disk.remove(folder.with_suffix(".lock"))

    def idle_scratch(self) -> Iterator[Path]:
        """Scratch folders in which no live process works."""
        for folder in sorted(self._pending.glob("scratch-*")):
            if folder.is_dir():
                try:
                    with _held(folder.with_suffix(".lock")):
                        pass
                except OSError:  # a process works there, or the store is read-only, so that none can be ruled out
                    continue
                yield folder

    def sweep(self) -> int:
        """Remove drafts that dead processes left behind, and return how many. Scratch folders stay for resuming."""
        cleaned = 0
        with self._gate(fcntl.LOCK_EX):
            # Names with either end: a process may die between making the lock and the folder.
            for folder in {path.with_suffix("") for path in self._pending.glob("draft-*")}:
                with suppress(BlockingIOError), _held(folder.with_suffix(".lock")):
                    cleaned += folder.is_dir()
                    self.disk.remove_tree(folder)
                    self.disk.remove(folder.with_suffix(".lock"))
        for claim in self._pending.glob("claim-*.lock"):
            with suppress(BlockingIOError), _held(claim):
                self.disk.remove(claim)
        return cleaned

    def damaged_copies(self) -> Iterator[Path]:
        """None, since nothing here is a copy."""
        return iter(())

    def clean_up(self, before: float) -> None:
        """Remove what dead processes left behind, and notes and copies from before `before` (a Unix time)."""
        self.sweep()

    @contextmanager
    def _gate(self, kind: int) -> Iterator[None]:
        """Lock out `sweep` (exclusive) while a draft is opened (shared): no draft is swept before it is locked."""
        with lock_file(self._pending / _GATE) as gate:
            fcntl.flock(gate, kind)
            yield


def is_store(folder: Path) -> bool:
    """Whether a folder is a store that something was written to."""
    with suppress(PermissionError):  # a folder that can be listed, but not entered
        return (folder / "pending" / _GATE).is_file()
    return False


def last_used(folder: Path) -> float:
    """When an artifact was made or last found. For any other folder: when anything in it last changed."""
    manifest = folder / MANIFEST
    if manifest.is_file():
        return manifest.stat().st_mtime
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))


def size_of(folder: Path) -> int:
    """Total bytes of all files in a folder, in which a run may work: `os.walk` passes over folders that vanish."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                size += Path(place, name).stat().st_size
    return size


def _is_file(opened: BinaryIO, path: Path) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(opened.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a lock that the kernel frees when this process dies. Raises BlockingIOError while it is held."""
    with lock_file(path) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
