"""The artifact store on a local disk: immutable folders named by key, committed by one rename."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from storage.artifact import Artifact
from storage.atomic import sync_file, sync_folder, write_atomic
from storage.errors import Terminal, Transient
from storage.manifest import MANIFEST, Manifest

_STAGE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_KEY = re.compile(r"[0-9a-f]{64}")


class Store:
    """A folder tree: `artifacts/<stage>/<key>/`, `runs/`, `cuts/`, and `pending/` for what is being written.

    Raises `Terminal` on construction when the root cannot be made or written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._pending = self.root / "pending"
        try:
            self._pending.mkdir(parents=True, exist_ok=True)
            (self.root / "artifacts").mkdir(exist_ok=True)
            probe = self._pending / f".probe-{uuid.uuid4().hex}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise Terminal(
                f"store root {self.root} can't be written ({error.strerror}); "
                "set `store` in the recipe (--set store=FOLDER) to a folder that you may write"
            ) from error

    def folder(self, stage: str, key: str) -> Path:
        """Where the artifact of this stage and key lies once it is committed.

        Both may come from a file that nobody vouches for: raises `Terminal` on what could name a place elsewhere.
        """
        if not (_STAGE.fullmatch(stage) and _KEY.fullmatch(key)):
            raise Terminal(f"{stage[:40]!r}, {key[:80]!r}: no stage and key; the file that names them is damaged")
        return self.root / "artifacts" / stage / key

    def find(self, stage: str, key: str) -> Artifact | None:
        """The committed artifact, or None. A folder without a manifest does not count as one."""
        folder = self.folder(stage, key)
        return Artifact(folder) if (folder / MANIFEST).is_file() else None

    def locate(self, key: str) -> Artifact | None:
        """The committed artifact of a key whose stage isn't known."""
        return next((found for stage in self.stages() if (found := self.find(stage, key)) is not None), None)

    def stages(self) -> list[str]:
        """The stages that have made something, by name."""
        return sorted(folder.name for folder in (self.root / "artifacts").iterdir() if _STAGE.fullmatch(folder.name))

    def artifacts(self, stage: str) -> Iterator[Artifact]:
        """Every committed artifact of a stage, in the order of keys."""
        for folder in sorted((self.root / "artifacts" / stage).glob("*")):
            if (folder / MANIFEST).is_file():
                yield Artifact(folder)

    @classmethod
    def existing(cls, root: Path) -> Store:
        """A store that is there already. Raises `Terminal` where none is."""
        if not (root / "artifacts").is_dir():
            raise Terminal(f"no store at {root}; name it with --store, or make one with rlip run")
        return cls(root)

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """A folder to write an artifact's files in; whatever `commit` did not take is removed on the way out."""
        folder = self._pending / f"draft-{uuid.uuid4().hex}"
        with _held(folder.with_suffix(".lock")):
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                folder.with_suffix(".lock").unlink(missing_ok=True)

    @contextmanager
    def scratch(self, key: str) -> Iterator[Path]:
        """A folder that outlives a crash, for work that resumes from its own checkpoints; one process at a time.

        Raises `Transient` when another live process works on the same key.
        """
        folder = self._pending / f"scratch-{key}"
        try:
            with _held(folder.with_suffix(".lock")):
                folder.mkdir(exist_ok=True)
                yield folder
        except BlockingIOError as error:
            raise Transient(
                f"another process is computing {key[:12]} in {folder}; wait for it, then run again"
            ) from error

    def drop_scratch(self, key: str) -> None:
        """Remove the scratch folder of a key whose artifact is committed."""
        shutil.rmtree(self._pending / f"scratch-{key}", ignore_errors=True)
        (self._pending / f"scratch-{key}.lock").unlink(missing_ok=True)

    def commit(self, draft: Path, manifest: Manifest) -> Artifact:
        """Make `draft` the artifact of the manifest's stage and key: all files to disk, then one rename.

        When the artifact exists already, the draft is dropped: both hold the same bytes. Raises `Terminal` on a full disk.
        """
        target = self.folder(manifest.stage, manifest.key)
        try:
            for name in manifest.files:
                sync_file(draft / name)
            write_atomic(draft / MANIFEST, manifest.model_dump_json(indent=1).encode())
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists() and not (target / MANIFEST).is_file():
                shutil.rmtree(target)
            draft.rename(target)
            sync_folder(target.parent)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and (target / MANIFEST).is_file():
                return Artifact(target)
            if error.errno == errno.ENOSPC:
                raise Terminal(
                    f"disk full while writing {target}; free space and run again: nothing is lost"
                ) from error
            raise
        return Artifact(target)

    def freshen(self, artifact: Artifact) -> None:
        """Note that a run found the artifact, so that `rlip gc` spares it although no run refers to it yet."""
        with suppress(OSError):
            os.utime(artifact.folder / MANIFEST)

    def remove(self, folder: Path) -> None:
        """Remove an artifact's or a scratch folder: it is gone by one rename, a crash leaves only what `sweep` takes."""
        aside = self._pending / f"draft-{uuid.uuid4().hex}"
        folder.rename(aside)
        shutil.rmtree(aside)
        if folder.parent == self._pending:
            folder.with_suffix(".lock").unlink(missing_ok=True)

    def idle_scratch(self) -> Iterator[Path]:
        """Scratch folders that no live process works in."""
        for folder in sorted(self._pending.glob("scratch-*")):
            if folder.is_dir():
                try:
                    with _held(folder.with_suffix(".lock")):
                        pass
                except BlockingIOError:
                    continue
                yield folder

    def sweep(self) -> int:
        """Remove drafts that a dead process left behind; returns how many. Scratch folders stay: they can be resumed."""
        cleaned = 0
        for folder in self._pending.glob("draft-*"):
            if folder.suffix == ".lock":
                continue
            try:
                with _held(folder.with_suffix(".lock")):
                    shutil.rmtree(folder, ignore_errors=True)
                    folder.with_suffix(".lock").unlink(missing_ok=True)
                    cleaned += 1
            except BlockingIOError:
                continue
        return cleaned


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a lock that the kernel frees when its process dies. Raises BlockingIOError when a live process holds it."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
