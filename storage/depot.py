"""A depot: a store's artifacts and runs at any fsspec URL (s3://, file://, memory://), to copy to and from."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import fsspec

from storage.artifact import Artifact
from storage.digests import digest_file
from storage.errors import PipelineError, Terminal, Transient
from storage.failure import told
from storage.manifest import MANIFEST, Manifest, parse_manifest
from storage.runs import Run
from storage.store import Store


class Depot:
    """Artifacts lie as in a store. Data go first and the manifest last, so that a reader finds whole artifacts only.

    On S3 the manifest is put on condition that there is none: of two writers one wins, and both wrote the same bytes.
    Raises `Terminal` for an address or credentials that can't work, `Transient` when the other side fails or is silent.
    """

    def __init__(self, url: str, filesystem: fsspec.AbstractFileSystem | None = None) -> None:
        self.url = url.rstrip("/")
        with self._reached():
            found, root = fsspec.core.url_to_fs(self.url)
        self._files = filesystem or found
        self._root = root

    def keys(self, stage: str) -> set[str]:
        """Keys of the stage's artifacts, by one listing."""
        with self._reached():
            self._files.invalidate_cache()
            try:
                found = self._files.find(self._path("artifacts", stage))
            except FileNotFoundError:
                return set()
        return {posixpath.basename(posixpath.dirname(path)) for path in found if posixpath.basename(path) == MANIFEST}

    def put(self, artifact: Artifact) -> None:
        """Copy an artifact here. One that is here already costs its data again: ask `keys` first."""
        manifest = artifact.manifest
        place = self._path("artifacts", manifest.stage, artifact.key)
        with self._reached():
            for name in manifest.files:
                self._files.makedirs(place, exist_ok=True)
                self._files.put_file(str(artifact.file(name)), f"{place}/{name}")
            with suppress(FileExistsError):
                self._put_whole(f"{place}/{MANIFEST}", (artifact.folder / MANIFEST).read_bytes(), mode="create")

    def get(self, stage: str, key: str, store: Store) -> Artifact:
        """Copy an artifact from here into a store, its bytes checked. Raises `Terminal` where they aren't as they should."""
        place = self._path("artifacts", *store.folder(stage, key).parts[-2:])
        with store.draft() as draft, self._reached():
            manifest = self._manifest(place)
            if (manifest.stage, manifest.key) != (stage, key):
                raise Terminal(
                    f"{self.url}: {place} holds another artifact's manifest; push the run again from its source"
                )
            for name, entry in manifest.files.items():
                self._files.get_file(f"{place}/{name}", str(draft / name))
                if digest_file(draft / name) != entry.digest:
                    raise Terminal(
                        f"{self.url}: {place}/{name} is damaged; remove {place} there and push the run again"
                    )
            return store.commit(draft, manifest)

    def put_run(self, run: Run) -> None:
        """Copy a run's records here: to be done after its artifacts."""
        with self._reached():
            for path in sorted(path for path in run.folder.rglob("*.json") if path.is_file()):
                self._put_whole(self._path("runs", run.name, *path.relative_to(run.folder).parts), path.read_bytes())

    def run_records(self, name: str) -> dict[str, bytes]:
        """A run's records, by path within its folder. Raises `Terminal` that lists the runs here when there is none."""
        folder = self._path("runs", name)
        with self._reached():
            self._files.invalidate_cache()
            with suppress(FileNotFoundError):
                found = self._files.find(folder)
                if found:
                    return {posixpath.relpath(path, folder): self._files.cat_file(path) for path in found}
            runs = self._files.ls(self._path("runs"), detail=False) if self._files.exists(self._path("runs")) else []
        names = ", ".join(sorted(posixpath.basename(path.rstrip("/")) for path in runs)) or "none"
        raise Terminal(f"no run {name!r} at {self.url}; runs there: {names}")

    def _manifest(self, place: str) -> Manifest:
        return parse_manifest(self._files.cat_file(f"{place}/{MANIFEST}"), f"{self.url}: {place}/{MANIFEST}")

    def _put_whole(self, path: str, data: bytes, mode: str = "overwrite") -> None:
        """Put a small object; on file systems that write in place, by a rename."""
        self._files.makedirs(posixpath.dirname(path), exist_ok=True)
        if "file" in self._files.protocol:
            self._files.pipe_file(f"{path}.new", data)
            self._files.mv(f"{path}.new", path)
        else:
            self._files.pipe_file(path, data, mode=mode)

    def _path(self, *parts: str) -> str:
        return "/".join((self._root.rstrip("/"), *parts))

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turn what the other side's library raises into `Terminal` or `Transient`."""
        try:
            with told(f"reaching {self.url}"):
                yield
        except PipelineError:
            raise
        except (FileNotFoundError, ImportError, ValueError) as error:
            raise Terminal(f"{self.url}: {error}; name a folder, s3://bucket/folder or another address") from error
        except Exception as error:
            kind = type(error).__name__
            if kind in ("NoCredentialsError", "PartialCredentialsError"):
                raise Terminal(f"{self.url}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from error
            raise Transient(f"{self.url} can't be reached ({kind}: {error})") from error


def steps_of(records: dict[str, bytes], url: str) -> dict[str, dict[str, Any]]:
    """Step → its record, of a run's records. Raises `Terminal` on damaged ones."""
    try:
        found = [json.loads(data) for path, data in records.items() if path.startswith("steps/")]
        return {entry["step"]: {"stage": entry["stage"], "partitions": dict(entry["partitions"])} for entry in found}
    except (ValueError, KeyError, TypeError) as error:
        raise Terminal(f"{url}: a record of the run is damaged ({error}); push the run again") from error
