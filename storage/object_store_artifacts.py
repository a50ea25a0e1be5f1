"""Artifacts and records of runs at any fsspec URL (s3://, file://, memory://)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import fsspec

from storage.artifact import Artifact, require_schemas
from storage.errors import FatalError
from storage.manifest import MANIFEST, Manifest, parse_manifest
from storage.remote import PAUSES, Entry, Remote
from storage.store import KEY, Store, require_valid_address


class ObjectStoreArtifacts:
    """Artifacts at a URL, in a store's layout. Data are written before the manifest: readers find whole artifacts only.

    On object stores, the name of a data file holds its digest, and the manifest is put on condition that none exists.
    Of two writers one wins; even where their bytes differ (training runs on two machines), neither touches what the
    other's manifest names. Raises `FatalError` for an unusable address or credentials, and `RetryableError` when the
    other side still fails or is silent after all `pauses`.
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
        """Key → the files at its place, by one listing. Skips files that lie beside the artifacts."""
        found: dict[str, dict[str, Entry]] = {}
        for path, entry in self.files.listing(f"artifacts/{stage}").items():
            key, _, name = path.partition("/")
            if KEY.fullmatch(key):
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
        # Other data under our names would stay as long as the winner's artifact: no manifest names them.
        self._withdraw(place, manifest, parse_manifest(theirs, f"{self.url}: {place}/{MANIFEST}"))
        return theirs

    def download(self, stage: str, key: str, draft: Path) -> Manifest:
        """Copy an artifact's data into a draft and check them and their manifest, which anyone may have written.

        Raises `FatalError` that names the artifact where terms, seal, sizes, digests or schemas do not match.
        """
        place = _place(stage, key)
        data = self.manifest(stage, key)
        if data is None:
            raise FatalError(f"{self.url}: {place} no longer exists; run the recipe again")
        manifest = parse_manifest(data, f"{self.url}: {place}/{MANIFEST}")
        fault = manifest.fault(stage, key)
        if fault is not None:
            raise FatalError(f"{self.url}: {place} was refused ({fault}); push the run again from its source")
        for name in manifest.files:
            self.download_file(manifest, name, draft)
        try:
            require_schemas(manifest, draft)
        except FatalError as error:
            raise FatalError(f"{self.url}: {place} was refused: {error}") from error
        return manifest

    def download_file(self, manifest: Manifest, name: str, draft: Path) -> None:
        """Copy one data file into a folder and check it. Raises `FatalError` where its digest differs."""
        place, entry = _place(manifest.stage, manifest.key), manifest.files[name]
        with suppress(FileNotFoundError):
            self.files.download(f"{place}/{self._stored_name(name, entry.digest)}", draft / name)
        if not entry.matches(draft / name):
            raise FatalError(
                f"{self.url}: {place}/{name} is damaged; remove it with `rlip store verify --repair --store "
                f"{self.url}`, then run or push again"
            )

    def location(self, manifest: Manifest, name: str) -> str:
        """The URL of a data file. Raises FileNotFoundError when the artifact has no such file."""
        entry = manifest.files.get(name)
        if entry is None:
            raise FileNotFoundError(f"{self.url}: {manifest.stage} {manifest.key[:12]} has no {name}")
        return f"{self.url}/{_place(manifest.stage, manifest.key)}/{self._stored_name(name, entry.digest)}"

    def get(self, stage: str, key: str, store: Store) -> Artifact:
        """Copy an artifact from here into a store and check it. Raises `FatalError` as `download` does."""
        with store.draft() as draft:
            return store.commit(draft, self.download(stage, key, draft))

    def digest(self, stage: str, key: str, name: str, digest: str) -> tuple[int, str] | None:
        """Size and sha256 of a data file whose manifest says `digest`, read again; None where it is missing."""
        return self.files.digest(f"{_place(stage, key)}/{self._stored_name(name, digest)}")

    def remove(self, stage: str, key: str, names: Iterable[str]) -> None:
        """Remove an artifact's files, the manifest first, so that nobody finds half an artifact."""
        ordered = sorted(names, key=lambda name: name != MANIFEST)
        self.files.remove(f"{_place(stage, key)}/{name}" for name in ordered)

    def run_records(self, name: str) -> dict[str, bytes]:
        """A run's records, by path within its folder. For an unknown run, raises `FatalError` listing the runs here."""
        folder = f"runs/{name}"
        found = self.files.read_many(f"{folder}/{path}" for path in self.files.listing(folder))
        if found:
            return {path.removeprefix(f"{folder}/"): data for path, data in found.items()}
        names = ", ".join(self.files.folders("runs")) or "none"
        raise FatalError(f"no run {name!r} at {self.url}; runs there: {names}")

    def _stored_name(self, name: str, digest: str) -> str:
        """The name under which a data file is stored here."""
        # Under plain names, a second training run of a key would overwrite files that the manifest of the first names.
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
