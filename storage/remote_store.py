"""A store at a URL (S3 or another object store), with a folder on this machine to work in and for verified copies."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
from pydantic import BaseModel
from xxhash import xxh3_128_digest, xxh3_128_hexdigest

from storage.artifact import Artifact
from storage.atomic import write_atomic
from storage.digests import digest_bytes, digest_file
from storage.disk import CACHE, LOCAL, Disk
from storage.errors import FatalError, PipelineError
from storage.json_files import parse_json_or_none, read_json, sealed_json
from storage.lease import Patience, hold_lease
from storage.local_store import LocalStore, last_used
from storage.manifest import MANIFEST, FileEntry, Manifest
from storage.object_store_artifacts import ObjectStoreArtifacts
from storage.remote import PAUSES, Entry, Remote
from storage.resume_point import ResumePoint
from storage.store import StoredEntry

_DOWNLOADS = 8
_NAMED = 16
"""Characters of a data file's digest that name the folder of its copy."""


@dataclass(frozen=True)
class RemoteArtifact(Artifact):
    """An artifact of a remote store. Its manifest is in memory; its data are copied to this machine on demand."""

    store: RemoteStore = field(compare=False, repr=False)
    known: bytes = field(compare=False, repr=False)
    """The manifest."""

    def manifest_bytes(self) -> bytes:
        """The manifest as it was written."""
        return self.known

    def file(self, name: str) -> Path:
        """Path of one data file, copied to this machine's disk and checked. Raises as `fetch_artifacts`."""
        return self.store.fetch_file(self.manifest, name)

    def location(self, name: str) -> str:
        """The URL of one data file. Nothing is copied to this machine."""
        return self.store.remote.location(self.manifest, name)


class RemoteStore:
    """Artifacts, runs and partition maps at a URL. A local store in `folder` holds copies of them, drafts and scratch
    folders.

    An artifact exists once its manifest is at the URL. It is committed locally first and then copied, so that the next
    process finishes what a dead one did not copy, without computing it again. The folder may be deleted at any time.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        filesystem: fsspec.AbstractFileSystem | None = None,
        pauses: Sequence[float] = PAUSES,
        patience: Patience = Patience(),  # noqa: B008
        disk: Disk = LOCAL,
    ) -> None:
        self._local = local = LocalStore(folder, disk)
        self.remote = ObjectStoreArtifacts(url, filesystem, pauses)
        self.root, self.disk, self.address = local.root, disk, self.remote.url
        self.stages, self.measure = self.remote.stages, self.remote.digest
        # The local store handles what concerns this machine alone.
        self.folder, self.draft, self.remove = local.folder, local.draft, local.remove
        self.idle_scratch, self.sweep = local.idle_scratch, local.sweep
        self._patience = patience
        self._manifest_cache, self._file_cache = self.root / "manifests", self.root / "files"
        self._verified = VerifiedFiles()
        self._touches, self._found = set[str](), dict[str, float]()

    def require_writable(self) -> None:
        self._local.require_writable()
        probe = f"claims/probe-{uuid.uuid4().hex}"
        self.remote.files.write(probe, b"")
        self.remote.files.remove([probe])

    def refresh(self) -> None:
        """Update this machine's copies of runs and partition maps: list each once, read what changed there or here."""
        mirror(self.remote.files, self.root, self.disk)

    def find(self, stage: str, key: str) -> Artifact | None:
        data = self.remote.manifest(stage, key)
        return None if data is None else RemoteArtifact(self.folder(stage, key), self, data)

    def find_all(self, stage: str, keys: Iterable[str]) -> dict[str, Artifact]:
        """Key → committed artifact, for those keys that have one. Lists once, then reads manifests not yet cached
        here."""
        # An index object at the URL would be a second source of truth, which two writers would have to keep in step.
        listed = {key: files[MANIFEST] for key, files in self.remote.listing(stage).items() if MANIFEST in files}
        places = {key: self._cached_manifest(stage, key, listed[key]) for key in keys if key in listed}
        known = {key: data for key, place in places.items() if (data := read_checked(place)) is not None}
        for key, data in self.remote.manifests(stage, [key for key in places if key not in known]).items():
            known[key] = data
            write_checked(places[key], data)
        return {key: RemoteArtifact(self.folder(stage, key), self, known[key]) for key in places if key in known}

    def recover(self, stage: str, key: str) -> Artifact | None:
        """The artifact, if another machine has committed it since, or a process here died before it was copied."""
        found = self.find(stage, key)
        left = self._local.find(stage, key) if found is None else None
        if left is None:
            return found
        try:
            # Data that the disk has damaged since then are computed again, not copied.
            left.require_whole()
        except FatalError:
            self.remove(left.folder)
            return None
        return self._upload(left)

    def fetch_artifacts(self, folders: Sequence[Path]) -> tuple[Artifact, ...]:
        """The artifacts at these places, copied to this machine's disk and checked unless they are already here.

        Raises `FatalError` for one that is damaged or missing at the URL.
        """
        with ThreadPoolExecutor(_DOWNLOADS) as pool:
            return tuple(pool.map(self._fetch, folders))

    def fetch_file(self, manifest: Manifest, name: str) -> Path:
        """One data file of an artifact, copied to this machine's disk and checked unless it is already here."""
        entry = manifest.files.get(name)
        if entry is None:
            raise FileNotFoundError(f"{self.address}: {manifest.stage} {manifest.key[:12]} has no {name}")
        here = self._local.folder(manifest.stage, manifest.key)
        apart = self._file_cache / manifest.stage / manifest.key / entry.digest[:_NAMED]
        for copy in (here / name, apart / name):
            if self._verified.holds(copy, entry):
                return copy
        with self.draft() as draft:
            self.remote.download_file(manifest, name, draft)
            apart.mkdir(parents=True, exist_ok=True)
            (draft / name).rename(apart / name)
        return apart / name

    def artifacts(self, stage: str) -> Iterator[Artifact]:
        yield from dict(sorted(self.find_all(stage, self.remote.keys(stage)).items())).values()

    def entries(self, stage: str) -> Iterator[StoredEntry]:
        """What is at each place of a stage, ordered by key. Lists twice; reads only which keys runs have found."""
        found = self._touched()
        for key, files in sorted(self.remote.listing(stage).items()):
            yield _holding(stage, key, files, found)

    def used(self, stage: str, key: str) -> float:
        """Unix time at which an artifact was made or last found by a run, by the remote clock."""
        files = self.remote.files.listing(f"artifacts/{stage}/{key}")
        return _holding(stage, key, files, self._touched()).used if files else 0.0

    def manifest_bytes(self, stage: str, key: str) -> bytes:
        data = self.remote.manifest(stage, key)
        if data is None:
            raise FileNotFoundError(f"{self.address}: artifacts/{stage}/{key}/{MANIFEST}")
        return data

    @contextmanager
    def claim(self, key: str, waiting: Callable[[str], None]) -> Iterator[None]:
        """Work on `key` alone: on this machine by a lock, among machines by a lease. Only saves work."""
        with (
            self._local.claim(key, waiting),
            hold_lease(self.remote.files, f"claims/{key}", self._machine(), waiting, self._patience),
        ):
            yield

    def commit(self, draft: Path, manifest: Manifest) -> Artifact:
        """Commit on this machine, then copy to the URL: data first, the manifest last."""
        return self._upload(self._local.commit(draft, manifest))

    def put(self, path: Path, data: bytes) -> None:
        """Write a record at the URL, then in this machine's copy."""
        self.remote.files.write(path.relative_to(self.root).as_posix(), data)
        self._local.put(path, data)

    def touch(self, stage: str, artifacts: Iterable[Artifact]) -> None:
        """Note in one small file that a run found these, so that `rlip store gc` spares them."""
        keys = [artifact.key for artifact in artifacts]
        if not keys:
            return
        with suppress(PipelineError):  # without permission to write, a run still finds them
            self.remote.files.write(f"found/{stage}-{uuid.uuid4().hex}.json", json.dumps(keys).encode())

    @contextmanager
    def scratch(self, key: str, resumes_from: str = "") -> Iterator[Path]:
        """A folder on this machine. The files that `resumes_from` lists are fetched first, and copied to the URL when
        the list changes."""
        with self._local.scratch(key, resumes_from) as folder:
            point = ResumePoint(self.remote.files, key, folder, resumes_from)
            with point.synchronised(self._patience.look):
                yield folder

    def drop_scratch(self, key: str) -> None:
        self._local.drop_scratch(key)
        with suppress(PipelineError):  # `rlip store gc` removes them later
            self._remove_all(f"scratch/{key}")

    def discard(self, stage: str, key: str) -> None:
        self.remote.remove(stage, key, self.remote.files.listing(f"artifacts/{stage}/{key}"))
        self._local.discard(stage, key)

    def remove_run(self, name: str) -> None:
        self._remove_all(f"runs/{name}")
        self._local.remove_run(name)

    def damaged_copies(self) -> Iterator[Path]:
        """Read this machine's copies of artifacts, data files and manifests. Yields the damaged ones."""
        for artifact in (artifact for stage in self._local.stages() for artifact in self._local.artifacts(stage)):
            try:
                artifact.require_whole()
            except FatalError:
                yield artifact.folder
        for path in self._manifest_cache.glob("*/*.json"):
            if read_checked(path) is None:
                yield path
        for path in self._file_cache.glob("*/*/*/*"):
            if digest_file(path)[:_NAMED] != path.parent.name:
                yield path

    def clean_up(self, before: float) -> None:
        """Remove old files of touches, claims and checkpoints at the URL, and here caches and copies of what it no
        longer has."""
        self.sweep()
        for folder in ("found", "claims", "scratch"):
            old = [path for path, entry in self.remote.files.listing(folder).items() if entry.modified < before]
            self.remote.files.remove(f"{folder}/{path}" for path in old)
        for stage in self._local.stages():
            there = self.remote.keys(stage)
            for artifact in self._local.artifacts(stage):
                # A run in progress may be about to write a newer one there.
                if artifact.key not in there and last_used(artifact.folder) < before:
                    self.remove(artifact.folder)
        for copies in (self._file_cache, self._manifest_cache):
            self.disk.remove_tree(copies)

    def _machine(self) -> str:
        """A random name that identifies this machine's folder, created once."""
        place = self.root / "machine"
        name = place.read_bytes() if place.is_file() else b""
        while not re.fullmatch(rb"[0-9a-f]{32}", name):
            with suppress(FileNotFoundError):
                # Another process may have replaced the damaged name already.
                if place.read_bytes() == name:
                    place.unlink()
            aside = self.root / f".machine-{uuid.uuid4().hex}"
            aside.write_text(uuid.uuid4().hex)
            with suppress(FileExistsError):
                # Unlike a rename, a link replaces nothing: of two processes, both use the name of the faster one.
                place.hardlink_to(aside)
            aside.unlink()
            name = place.read_bytes()
        return name.decode()

    def _remove_all(self, folder: str) -> None:
        self.remote.files.remove(f"{folder}/{path}" for path in self.remote.files.listing(folder))

    def _upload(self, here: Artifact) -> Artifact:
        """Copy an artifact to the URL. If another writer was first, with other bytes, remove the local one."""
        there = self.remote.put(here)
        if there != here.manifest_bytes():
            self.remove(here.folder)
        return RemoteArtifact(here.folder, self, there)

    def _fetch(self, folder: Path) -> Artifact:
        stage, key = folder.parts[-2:]
        here, there = self._local.find(stage, key), self.remote.manifest(stage, key)
        if here is not None:
            if here.manifest_bytes() == there and self._is_whole(here):
                return here
            self.remove(here.folder)
        with self.draft() as draft:
            return self._local.commit(draft, self.remote.download(stage, key, draft))

    def _is_whole(self, here: Artifact) -> bool:
        """Whether this machine's copies of all data files are undamaged."""
        return all(self._verified.holds(here.file(name), entry) for name, entry in here.manifest.files.items())

    def _cached_manifest(self, stage: str, key: str, entry: Entry) -> Path:
        """Where a manifest is cached. A manifest that is rewritten at the URL gets another file here."""
        return self._manifest_cache / stage / f"{key}-{digest_bytes(entry.token.encode())[:12]}.json"

    def _touched(self) -> dict[str, float]:
        """Key → when a run last found it. Files of touches are never rewritten, so each is read once."""
        listed = {f"found/{name}": entry for name, entry in self.remote.files.listing("found").items()}
        for path, data in self.remote.files.read_many(listed.keys() - self._touches).items():
            self._touches.add(path)
            for key in parse_json_or_none(data, list[str]) or ():
                self._found[key] = max(self._found.get(key, 0.0), listed[path].modified)
        return self._found


def _holding(stage: str, key: str, files: dict[str, Entry], found: dict[str, float]) -> StoredEntry:
    size = sum(entry.size for entry in files.values())
    written = max(entry.modified for entry in files.values())
    return StoredEntry(stage, key, MANIFEST in files, size, max(written, found.get(key, 0.0)))


_CHECK_BYTES = 16


class VerifiedFiles:
    """Copies on this machine's disk are verified before they are used: once in a process, and again if they change.

    A change shows in size, times and inode.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Path, str], tuple[int, ...]] = {}

    def holds(self, path: Path, entry: FileEntry) -> bool:
        """Whether a file has the bytes of `entry`. They are read unless this process did so since the file last
        changed."""
        try:
            state = _state(path)
            if self._known.get((path, entry.digest)) != state:
                if not entry.matches(path):
                    return False
                self._known[path, entry.digest] = state
        except FileNotFoundError:
            return False
        return True


def write_checked(path: Path, data: bytes) -> None:
    """Cache bytes together with their checksum."""
    write_atomic(path, xxh3_128_digest(data) + data, CACHE)


def read_checked(path: Path) -> bytes | None:
    """The bytes that were cached; None where there are none, or where they do not match their checksum."""
    with suppress(FileNotFoundError):
        data = path.read_bytes()
        if data[:_CHECK_BYTES] == xxh3_128_digest(data[_CHECK_BYTES:]):
            return data[_CHECK_BYTES:]
    return None


def _state(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


_FOLDERS = ("runs", "cuts")


class _Mirrored(BaseModel):
    """The files that were copied: their tokens at the URL, and checksums of the copies."""

    files: dict[str, tuple[str, str]]


def mirror(files: Remote, root: Path, disk: Disk) -> None:
    """Update the copies in `root` of the records at a URL. A copy that changed here is replaced, too.

    Lists each folder once, then reads the files that changed there or here. Raises `FatalError` for a name that leads
    out of the store.
    """
    state, known = root / "mirrored.json", dict[str, tuple[str, str]]()
    with suppress(FileNotFoundError, FatalError):
        known = read_json(state, _Mirrored).files
    began = time.time()
    there = {f"{top}/{path}": entry.token for top in _FOLDERS for path, entry in files.listing(top).items()}
    if out := [path for path in there if {".", ".."} & {*path.split("/")}]:
        raise FatalError(f"{files.url}: a record is named {out[0]!r}, which leads out of the store; remove it")
    now = {path: (token, _check_of(root / path)) for path, token in there.items()}
    changed = [path for path, is_now in now.items() if known.get(path) != is_now]
    for path, data in files.read_many(changed).items():
        write_atomic(root / path, data, disk)
        now[path] = (there[path], xxh3_128_hexdigest(data))
    for top in _FOLDERS:
        for mine in (root / top).rglob("*.json"):
            with suppress(FileNotFoundError):  # another process may have removed it first
                is_older = mine.stat().st_mtime < began  # a run writes its records there first, then here
                if is_older and mine.relative_to(root).as_posix() not in there:
                    mine.unlink()
    write_atomic(state, sealed_json({"files": now}), disk)


def _check_of(path: Path) -> str:
    return xxh3_128_hexdigest(path.read_bytes()) if path.is_file() else ""
