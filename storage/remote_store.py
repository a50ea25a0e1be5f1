"""A store at a URL (S3 or another object store), with a folder on this machine to work in."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import fsspec

from storage.artifact import Artifact
from storage.digests import digest_bytes, digest_file
from storage.disk import LOCAL, Disk
from storage.errors import FatalError, PipelineError
from storage.json_files import parse_note
from storage.lease import Patience, hold_lease
from storage.local_store import LocalStore
from storage.manifest import MANIFEST, Manifest
from storage.mirror import Mirror
from storage.object_store_artifacts import ObjectStoreArtifacts
from storage.remote import Entry
from storage.remote_retry import PAUSES
from storage.resume_point import ResumePoint
from storage.store import StoredEntry
from storage.verified_files import VerifiedFiles, read_checked, write_checked

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
        """Path of one data file, copied to this machine's disk and checked. Raises as `RemoteStore.fetch_artifacts` does."""
        return self.store.bring_file(self.manifest, name)

    def location(self, name: str) -> str:
        """The URL of one data file. Nothing is copied to this machine."""
        return self.store.remote.location(self.manifest, name)


class RemoteStore:
    """Artifacts, runs and cuts at a URL. A local store in `folder` holds copies of them, drafts and scratch folders.

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
        # These concern this machine alone.
        self.folder, self.draft, self.remove = local.folder, local.draft, local.remove
        self.idle_scratch, self.sweep = local.idle_scratch, local.sweep
        self._patience = patience
        self._kept, self._files = self.root / "manifests", self.root / "files"
        self._whole = VerifiedFiles()
        self._mirror = Mirror(self.remote.files, self.root, disk)

    def require_writable(self) -> None:
        """Find out before any work whether both places can be written. Raises `FatalError`."""
        self._local.require_writable()
        probe = f"claims/probe-{uuid.uuid4().hex}"
        self.remote.files.write(probe, b"")
        self.remote.files.remove([probe])

    def refresh(self) -> None:
        """Update this machine's copies of runs and cuts. Lists each once, then reads the files that changed there or here."""
        self._mirror.refresh()

    def find(self, stage: str, key: str) -> Artifact | None:
        """The committed artifact, or None. Costs one request."""
        data = self.remote.manifest(stage, key)
        return None if data is None else RemoteArtifact(self.folder(stage, key), self, data)

    def find_all(self, stage: str, keys: Iterable[str]) -> dict[str, Artifact]:
        """Key → committed artifact, for those keys that have one. Lists once, then reads manifests not yet cached here."""
        listed = {key: files[MANIFEST] for key, files in self.remote.listing(stage).items() if MANIFEST in files}
        places = {key: self._kept_at(stage, key, listed[key]) for key in keys if key in listed}
        known = {key: data for key, place in places.items() if (data := read_checked(place)) is not None}
        for key, data in self.remote.manifests(stage, [key for key in places if key not in known]).items():
            known[key] = data
            write_checked(places[key], data)
        return {key: RemoteArtifact(self.folder(stage, key), self, known[key]) for key in places if key in known}

    def recover(self, stage: str, key: str) -> Artifact | None:
        """The artifact, if another machine has committed it meanwhile, or a process died here before it was copied."""
        found = self.find(stage, key)
        left = self._local.find(stage, key) if found is None else None
        if left is None:
            return found
        try:
            left.require_whole()
        except FatalError:
            self.remove(left.folder)
            return None
        return self._send(left)

    def fetch_artifacts(self, folders: Sequence[Path]) -> tuple[Artifact, ...]:
        """The artifacts at these places, copied to this machine's disk and checked unless they are already here.

        Raises `FatalError` for one that is damaged or missing at the URL.
        """
        with ThreadPoolExecutor(_DOWNLOADS) as pool:
            return tuple(pool.map(self._bring, folders))

    def bring_file(self, manifest: Manifest, name: str) -> Path:
        """One data file of an artifact, copied to this machine's disk and checked unless it is already here."""
        entry = manifest.files.get(name)
        if entry is None:
            raise FileNotFoundError(f"{self.address}: {manifest.stage} {manifest.key[:12]} has no {name}")
        here = self._local.folder(manifest.stage, manifest.key)
        apart = self._files / manifest.stage / manifest.key / entry.digest[:_NAMED]
        for copy in (here / name, apart / name):
            if self._whole.holds(copy, entry):
                return copy
        with self.draft() as draft:
            self.remote.download_file(manifest, name, draft)
            apart.mkdir(parents=True, exist_ok=True)
            (draft / name).rename(apart / name)
        return apart / name

    def locate(self, key: str) -> Artifact | None:
        """The committed artifact of a key whose stage is unknown."""
        return next((found for stage in self.stages() if (found := self.find(stage, key)) is not None), None)

    def stages(self) -> list[str]:
        """Names of the stages that have artifacts, sorted."""
        return self.remote.stages()

    def artifacts(self, stage: str) -> Iterator[Artifact]:
        """Every committed artifact of a stage, ordered by key."""
        yield from dict(sorted(self.find_all(stage, self.remote.keys(stage)).items())).values()

    def entries(self, stage: str) -> Iterator[StoredEntry]:
        """What lies at each place of a stage, ordered by key. Lists twice; reads only the notes of what runs found."""
        found = self._found()
        for key, files in sorted(self.remote.listing(stage).items()):
            yield _holding(stage, key, files, found)

    def used(self, stage: str, key: str) -> float:
        """Unix time at which an artifact was made or last found by a run, by the remote clock."""
        files = self.remote.files.listing(f"artifacts/{stage}/{key}")
        return _holding(stage, key, files, self._found()).used if files else 0.0

    def manifest_bytes(self, stage: str, key: str) -> bytes:
        """The manifest as it is at the URL now."""
        data = self.remote.manifest(stage, key)
        if data is None:
            raise FileNotFoundError(f"{self.address}: artifacts/{stage}/{key}/{MANIFEST}")
        return data

    def measure(self, stage: str, key: str, name: str, digest: str) -> tuple[int, str] | None:
        """Size and sha256 of a data file at the URL, read again; None where it is gone."""
        return self.remote.digest(stage, key, name, digest)

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
        return self._send(self._local.commit(draft, manifest))

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
            with point.kept(self._patience.look):
                yield folder

    def drop_scratch(self, key: str) -> None:
        """Remove the scratch folder of a key whose artifact is committed, and its copies at the URL."""
        self._local.drop_scratch(key)
        with suppress(PipelineError):  # `rlip store gc` removes them later
            self._remove_all(f"scratch/{key}")

    def discard(self, stage: str, key: str) -> None:
        """Remove an artifact, or the remains of one, at the URL and here."""
        self.remote.remove(stage, key, self.remote.files.listing(f"artifacts/{stage}/{key}"))
        self._local.discard(stage, key)

    def remove_run(self, name: str) -> None:
        """Remove a run's records at the URL and here. Its artifacts stay."""
        self._remove_all(f"runs/{name}")
        self._local.remove_run(name)

    def damaged_copies(self) -> Iterator[Path]:
        """Read this machine's copies of artifacts, data files and manifests. Yields those that are damaged."""
        for artifact in (artifact for stage in self._local.stages() for artifact in self._local.artifacts(stage)):
            try:
                artifact.require_whole()
            except FatalError:
                yield artifact.folder
        for path in self._kept.glob("*/*.json"):
            if read_checked(path) is None:
                yield path
        for path in self._files.glob("*/*/*/*"):
            if digest_file(path)[:_NAMED] != path.parent.name:
                yield path

    def clean_up(self, before: float) -> None:
        """Remove old notes and checkpoints at the URL; here, cached files and copies of artifacts that are gone there."""
        self.sweep()
        for notes in ("found", "claims", "scratch"):
            old = [path for path, entry in self.remote.files.listing(notes).items() if entry.modified < before]
            self.remote.files.remove(f"{notes}/{path}" for path in old)
        for stage in self._local.stages():
            there = self.remote.keys(stage)
            for artifact in self._local.artifacts(stage):
                if artifact.key not in there:
                    self.remove(artifact.folder)
        for copies in (self._files, self._kept):
            self.disk.remove_tree(copies)

    def _machine(self) -> str:
        """A random name that identifies this machine's folder. It is made once."""
        place = self.root / "machine"
        name = place.read_bytes() if place.is_file() else b""
        while not re.fullmatch(rb"[0-9a-f]{32}", name):
            with suppress(FileNotFoundError):
                if place.read_bytes() == name:
                    place.unlink()
            aside = self.root / f".machine-{uuid.uuid4().hex}"
            aside.write_text(uuid.uuid4().hex)
            with suppress(FileExistsError):
                place.hardlink_to(aside)
            aside.unlink()
            name = place.read_bytes()
        return name.decode()

    def _remove_all(self, folder: str) -> None:
        self.remote.files.remove(f"{folder}/{path}" for path in self.remote.files.listing(folder))

    def _send(self, here: Artifact) -> Artifact:
        """Copy an artifact to the URL. If another writer was first, with other bytes, remove the local one."""
        there = self.remote.put(here)
        if there != here.manifest_bytes():
            self.remove(here.folder)
        return RemoteArtifact(here.folder, self, there)

    def _bring(self, folder: Path) -> Artifact:
        stage, key = folder.parts[-2:]
        here, there = self._local.find(stage, key), self._manifest_there(stage, key)
        if here is not None:
            if here.manifest_bytes() == there and self._is_whole(here):
                return here
            self.remove(here.folder)
        with self.draft() as draft:
            return self._local.commit(draft, self.remote.download(stage, key, draft))

    def _is_whole(self, here: Artifact) -> bool:
        """Whether this machine's copies of all data files are undamaged."""
        return all(self._whole.holds(here.file(name), entry) for name, entry in here.manifest.files.items())

    def _manifest_there(self, stage: str, key: str) -> bytes | None:
        return self.remote.manifest(stage, key)

    def _kept_at(self, stage: str, key: str, entry: Entry) -> Path:
        """Where a manifest is cached. A manifest that is rewritten at the URL gets another file here."""
        return self._kept / stage / f"{key}-{digest_bytes(entry.token.encode())[:12]}.json"

    def _found(self) -> dict[str, float]:
        """Key → when a run last found it."""
        listed = self.remote.files.listing("found")
        found: dict[str, float] = {}
        for path, data in self.remote.files.read_many(f"found/{name}" for name in listed).items():
            when = listed[path.removeprefix("found/")].modified
            for key in parse_note(data, list[str]) or ():
                found[key] = max(found.get(key, 0.0), when)
        return found


def _holding(stage: str, key: str, files: dict[str, Entry], found: dict[str, float]) -> StoredEntry:
    size = sum(entry.size for entry in files.values())
    made = max(entry.modified for entry in files.values())
    return StoredEntry(stage, key, MANIFEST in files, size, max(made, found.get(key, 0.0)))


def folder_name(url: str) -> str:
    """A readable name for the folder that holds copies of a URL, different for each URL."""
    plain = "".join(c if c.isalnum() else "-" for c in url)[:60]
    return f"{plain}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
