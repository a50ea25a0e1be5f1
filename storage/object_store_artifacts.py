"""Artifacts and records of runs at any fsspec URL (s3://, file://, memory://)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec

from storage.artifact import Artifact
from storage.digests import digest_file
from storage.errors import FatalError
from storage.manifest import MANIFEST, Manifest, parse_manifest
from storage.remote import Entry, Remote
from storage.remote_retry import PAUSES
from storage.runs import Run
from storage.store import Store, require_place


class ObjectStoreArtifacts:
    """Artifacts lie as in a store. Data go first and the manifest last, so that a reader finds whole artifacts only.

    On object stores a data file's name holds its digest and the manifest is put on condition that there is none: of two
    writers one wins, and even where their bytes differ (trainings on two machines) neither touches what the other's
    manifest names. Raises `FatalError` for an address or credentials that can't work, `RetryableError` when the other side
    fails or is silent after `pauses`.
    """

    def __init__(
        self, url: str, filesystem: fsspec.AbstractFileSystem | None = None, pauses: Sequence[float] = PAUSES
    ) -> None:
        self.files = Remote(url, filesystem, pauses)
        self.url = self.files.url
        self.files.check()

    def stages(self) -> list[str]:
        """The stages that have something here."""
        return self.files.folders("artifacts")

    def listing(self, stage: str) -> dict[str, dict[str, Entry]]:
        """Key → the files that lie in its place, by one listing."""
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
        """Manifests of many artifacts, asked for together."""
        paths = {f"{_place(stage, key)}/{MANIFEST}": key for key in keys}
        return {paths[path]: data for path, data in self.files.read_many(paths).items()}

    def put(self, artifact: Artifact) -> bytes:
        """Copy an artifact here; the manifest that stands, which is another writer's when that was faster.

        One that is here already costs its data again: ask `keys` first.
        """
        manifest = artifact.manifest
        place = _place(manifest.stage, manifest.key)
        for name, entry in manifest.files.items():
            self.files.upload(artifact.file(name), f"{place}/{self._lies_as(name, entry.digest)}")
        ours = artifact.manifest_bytes()
        if self.files.create(f"{place}/{MANIFEST}", ours):
            return ours
        theirs = self.manifest(manifest.stage, manifest.key)
        if theirs is None:
            raise FatalError(f"{self.url}: {place} is being removed while it is written; run again")
        self._withdraw(place, manifest, parse_manifest(theirs, f"{self.url}: {place}/{MANIFEST}"))
        return theirs

    def download(self, stage: str, key: str, draft: Path) -> Manifest:
        """Copy an artifact's data into a draft, checked. Raises `FatalError` where bytes aren't as they should be."""
        place = _place(stage, key)
        data = self.manifest(stage, key)
        if data is None:
            raise FatalError(f"{self.url}: {place} is not there any more; run the recipe again")
        manifest = parse_manifest(data, f"{self.url}: {place}/{MANIFEST}")
        if (manifest.stage, manifest.key) != (stage, key):
            raise FatalError(
                f"{self.url}: {place} holds another artifact's manifest; push the run again from its source"
            )
        for name in manifest.files:
            self.download_file(manifest, name, draft)
        return manifest

    def download_file(self, manifest: Manifest, name: str, draft: Path) -> None:
        """Copy one data file into a folder, checked. Raises `FatalError` where its bytes aren't as they should be."""
        place, digest = _place(manifest.stage, manifest.key), manifest.files[name].digest
        with suppress(FileNotFoundError):
            self.files.download(f"{place}/{self._lies_as(name, digest)}", draft / name)
        if not (draft / name).is_file() or digest_file(draft / name) != digest:
            raise FatalError(
                f"{self.url}: {place}/{name} is damaged; `rlip verify --repair --store {self.url}` removes it, then "
                "run or push again"
            )

    def get(self, stage: str, key: str, store: Store) -> Artifact:
        """Copy an artifact from here into a store, its bytes checked. Raises `FatalError` where they aren't as they should."""
        with store.draft() as draft:
            return store.commit(draft, self.download(stage, key, draft))

    def digest(self, stage: str, key: str, name: str, digest: str) -> tuple[int, str] | None:
        """Size and sha256 of a data file whose manifest says `digest`, read again; None where it is gone."""
        return self.files.digest(f"{_place(stage, key)}/{self._lies_as(name, digest)}")

    def remove(self, stage: str, key: str, names: Iterable[str]) -> None:
        """Remove an artifact's files: the manifest first, so that nobody finds half of it."""
        ordered = sorted(names, key=lambda name: name != MANIFEST)
        self.files.remove(f"{_place(stage, key)}/{name}" for name in ordered)

    def put_run(self, run: Run) -> None:
        """Copy a run's records here: to be done after its artifacts."""
        for path in sorted(path for path in run.folder.rglob("*.json") if path.is_file()):
            self.files.write(f"runs/{run.name}/{path.relative_to(run.folder).as_posix()}", path.read_bytes())

    def run_records(self, name: str) -> dict[str, bytes]:
        """A run's records, by path within its folder. Raises `FatalError` that lists the runs here when there is none."""
        folder = f"runs/{name}"
        found = self.files.read_many(f"{folder}/{path}" for path in self.files.listing(folder))
        if found:
            return {path.removeprefix(f"{folder}/"): data for path, data in found.items()}
        names = ", ".join(self.files.folders("runs")) or "none"
        raise FatalError(f"no run {name!r} at {self.url}; runs there: {names}")

    def _lies_as(self, name: str, digest: str) -> str:
        """The name under which a data file lies here."""
        if self.files.renames:
            return name
        stem, dot, kind = name.rpartition(".")
        return f"{stem}.{digest[:16]}.{kind}" if dot else f"{name}.{digest[:16]}"

    def _withdraw(self, place: str, ours: Manifest, theirs: Manifest) -> None:
        """Remove what we put and the winner's manifest does not name."""
        kept = {self._lies_as(name, entry.digest) for name, entry in theirs.files.items()}
        put = [self._lies_as(name, entry.digest) for name, entry in ours.files.items()]
        self.files.remove(f"{place}/{name}" for name in put if name not in kept)


def _place(stage: str, key: str) -> str:
    require_place(stage, key)
    return f"artifacts/{stage}/{key}"


def steps_of(records: Mapping[str, bytes], url: str) -> dict[str, dict[str, Any]]:
    """Step → its record, of a run's records. Raises `FatalError` on damaged ones."""
    try:
        found = [json.loads(data) for path, data in records.items() if path.startswith("steps/")]
        return {entry["step"]: {"stage": entry["stage"], "partitions": dict(entry["partitions"])} for entry in found}
    except (ValueError, KeyError, TypeError) as error:
        raise FatalError(f"{url}: a record of the run is damaged ({error}); push the run again") from error
