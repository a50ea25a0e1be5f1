"""Artifacts and records of runs at any fsspec URL (s3://, file://, memory://)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec

from storage.artifact import Artifact
from storage.digests import digest_file
from storage.errors import FatalError
from storage.manifest import MANIFEST, Manifest, parse_manifest
from storage.remote import Entry, Remote
from storage.remote_retry import PAUSES
from storage.runs import Run, RunRecord
from storage.store import Store, require_valid_address

_DOCUMENT = re.compile(r"[a-z]+\.json")
_RECORD = re.compile(r"records/[A-Za-z0-9][A-Za-z0-9.-]*\.json")
"""Paths within a run's folder. A listing may hold others, which could lead out of the store."""


class ObjectStoreArtifacts:
    """Artifacts at a URL, laid out as in a store. Data are written before the manifest: readers find whole artifacts only.

    On object stores, the name of a data file holds its digest, and the manifest is put on condition that there is none.
    Of two writers one wins; even where their bytes differ (trainings on two machines), neither touches what the other's
    manifest names. Raises `FatalError` for an unusable address or credentials, and `RetryableError` when the other side
    still fails or is silent after all `pauses`.
    """

    def __init__(
        self, url: str, filesystem: fsspec.AbstractFileSystem | None = None, pauses: Sequence[float] = PAUSES
    ) -> None:
        self.files = Remote(url, filesystem, pauses)
        self.url = self.files.url
        self.files.check()

    def stages(self) -> list[str]:
        """Names of the stages that have something here."""
        return self.files.folders("artifacts")

    def listing(self, stage: str) -> dict[str, dict[str, Entry]]:
        """Key → the files at its place, by one listing."""
        found: dict[str, dict[str, Entry]] = {}
        for path, entry in self.files.listing(f"artifacts/{stage}").items():
            key, _, name = path.partition("/")
            found.setdefault(key, {})[name] = entry
        return found

    def keys(self, stage: str) -> set[str]:
        """Keys of the stage's artifacts, by one listing."""
        return {key for key, files in self.listing(stage).items() if MANIFEST in files}

    def manifest(self, stage: str, key: str) -> bytes | None:
        """The bytes of an artifact's manifest, or None where there is no artifact."""
        return self.files.read(f"{_place(stage, key)}/{MANIFEST}")

    def manifests(self, stage: str, keys: Iterable[str]) -> dict[str, bytes]:
        """Key → manifest of many artifacts, requested together."""
        paths = {f"{_place(stage, key)}/{MANIFEST}": key for key in keys}
        return {paths[path]: data for path, data in self.files.read_many(paths).items()}

    def put(self, artifact: Artifact) -> bytes:
        """Copy an artifact here. Returns the manifest that is then in place: another writer's if that one was faster.

        Uploads the data again if the artifact is already here; check `keys` first.
        """
        manifest = artifact.manifest
        place = _place(manifest.stage, manifest.key)
        for name, entry in manifest.files.items():
            self.files.upload(artifact.file(name), f"{place}/{self._stored_name(name, entry.digest)}")
        ours = artifact.manifest_bytes()
        if self.files.create(f"{place}/{MANIFEST}", ours):
            return ours
        theirs = self.manifest(manifest.stage, manifest.key)
        if theirs is None:
            raise FatalError(f"{self.url}: {place} is being removed while it is written; run again")
        self._withdraw(place, manifest, parse_manifest(theirs, f"{self.url}: {place}/{MANIFEST}"))
        return theirs

    def download(self, stage: str, key: str, draft: Path) -> Manifest:
        """Copy an artifact's data into a draft and check them. Raises `FatalError` where bytes do not match their digest."""
        place = _place(stage, key)
        data = self.manifest(stage, key)
        if data is None:
            raise FatalError(f"{self.url}: {place} no longer exists; run the recipe again")
        manifest = parse_manifest(data, f"{self.url}: {place}/{MANIFEST}")
        if (manifest.stage, manifest.key) != (stage, key):
            raise FatalError(
                f"{self.url}: {place} holds another artifact's manifest; push the run again from its source"
            )
        for name in manifest.files:
            self.download_file(manifest, name, draft)
        return manifest

    def download_file(self, manifest: Manifest, name: str, draft: Path) -> None:
        """Copy one data file into a folder and check it. Raises `FatalError` where its bytes do not match its digest."""
        place, digest = _place(manifest.stage, manifest.key), manifest.files[name].digest
        with suppress(FileNotFoundError):
            self.files.download(f"{place}/{self._stored_name(name, digest)}", draft / name)
        if not (draft / name).is_file() or digest_file(draft / name) != digest:
            raise FatalError(
                f"{self.url}: {place}/{name} is damaged; remove it with `rlip verify --repair --store {self.url}`, then "
                "run or push again"
            )

    def location(self, manifest: Manifest, name: str) -> str:
        """The URL of a data file. Raises FileNotFoundError when the artifact has no such file."""
        entry = manifest.files.get(name)
        if entry is None:
            raise FileNotFoundError(f"{self.url}: {manifest.stage} {manifest.key[:12]} has no {name}")
        return f"{self.url}/{_place(manifest.stage, manifest.key)}/{self._stored_name(name, entry.digest)}"

    def get(self, stage: str, key: str, store: Store) -> Artifact:
        """Copy an artifact from here into a store and check its bytes. Raises `FatalError` where they do not match."""
        with store.draft() as draft:
            return store.commit(draft, self.download(stage, key, draft))

    def digest(self, stage: str, key: str, name: str, digest: str) -> tuple[int, str] | None:
        """Size and sha256 of a data file whose manifest says `digest`, read again; None where it is gone."""
        return self.files.digest(f"{_place(stage, key)}/{self._stored_name(name, digest)}")

    def remove(self, stage: str, key: str, names: Iterable[str]) -> None:
        """Remove an artifact's files, the manifest first, so that nobody finds half an artifact."""
        ordered = sorted(names, key=lambda name: name != MANIFEST)
        self.files.remove(f"{_place(stage, key)}/{name}" for name in ordered)

    def put_run(self, run: Run) -> None:
        """Copy a run's records here, or its history alone for a `RunRecord`. Call it after its artifacts are here."""
        folder = run.folder / "records" if isinstance(run, RunRecord) else run.folder
        for path in sorted(path for path in folder.rglob("*.json") if path.is_file()):
            self.files.write(path.relative_to(run.store.root).as_posix(), path.read_bytes())

    def run_records(self, name: str) -> dict[str, bytes]:
        """A run's records, by path within its folder. For an unknown run, raises `FatalError` that lists the runs here."""
        folder = f"runs/{name}"
        found = self.files.read_many(f"{folder}/{path}" for path in self.files.listing(folder))
        if found:
            return {path.removeprefix(f"{folder}/"): data for path, data in found.items()}
        names = ", ".join(self.files.folders("runs")) or "none"
        raise FatalError(f"no run {name!r} at {self.url}; runs there: {names}")

    def _stored_name(self, name: str, digest: str) -> str:
        """The name under which a data file is stored here."""
        if self.files.renames:
            return name
        stem, dot, kind = name.rpartition(".")
        return f"{stem}.{digest[:16]}.{kind}" if dot else f"{name}.{digest[:16]}"

    def _withdraw(self, place: str, ours: Manifest, theirs: Manifest) -> None:
        """Remove what we put here, except for what the winner's manifest names."""
        kept = {self._stored_name(name, entry.digest) for name, entry in theirs.files.items()}
        put = [self._stored_name(name, entry.digest) for name, entry in ours.files.items()]
        self.files.remove(f"{place}/{name}" for name in put if name not in kept)


def _place(stage: str, key: str) -> str:
    require_valid_address(stage, key)
    return f"artifacts/{stage}/{key}"


def history_of(records: Mapping[str, bytes]) -> dict[str, bytes]:
    """The records of a run's executions, oldest first, by path within its folder. Other names are left out."""
    return {path: data for path, data in sorted(records.items()) if _RECORD.fullmatch(path)}


def steps_of(records: Mapping[str, bytes], url: str, number: str = "") -> dict[str, dict[str, Any]]:
    """Step → its stage and keys: the newest, or those of record `number`. Raises `FatalError` on a damaged or unknown one."""
    with _damage_named(url):
        if number:
            found = _record(records, url, number)["steps"]
        else:
            entries = [json.loads(data) for path, data in records.items() if path.startswith("steps/")]
            found = {entry["step"]: entry for entry in entries}
        return {step: {"stage": e["stage"], "partitions": dict(e["partitions"])} for step, e in found.items()}


def documents_of(records: Mapping[str, bytes], url: str, number: str = "") -> dict[str, Any]:
    """Name → JSON document of a run, such as its recipe, or of its record `number`. Raises as `steps_of` does."""
    with _damage_named(url):
        if number:
            record = _record(records, url, number)
            return {name: record[name] for name in ("recipe", "outcome") if name in record}
        return {
            path.removesuffix(".json"): json.loads(data) for path, data in records.items() if _DOCUMENT.fullmatch(path)
        }


def _record(records: Mapping[str, bytes], url: str, number: str) -> dict[str, Any]:
    history = list(history_of(records).values())
    if not (number.isdecimal() and 1 <= int(number) <= len(history)):
        raise FatalError(f"{url}: the run has {len(history)} records, not a record {number!r}")
    content: dict[str, Any] = json.loads(history[int(number) - 1])
    return content


@contextmanager
def _damage_named(url: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FatalError(f"{url}: a record of the run is damaged ({error}); push the run again") from error
