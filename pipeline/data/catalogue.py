"""The public datasets and weights that recipes use: where each is published, its size, and where its files go."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import TypeAdapter

from storage.errors import FatalError

ROOT = Path("data")
"""The `data.root` of the recipes that use public sets."""


@dataclass(frozen=True)
class PublicFile:
    """A file that is published under a stable address."""

    part: str
    """What `--only` calls it; several files may form one part."""
    url: str
    path: str
    """Where the file itself goes, relative to the root. An archive is unpacked into its folder and then removed."""
    size: int
    """Bytes to download, approximately."""
    digest: str | None = None
    """A published digest, as "md5:..." or "sha256:..."."""
    unpacked: tuple[str, ...] = ()
    """Files and folders that an archive leaves, relative to the root."""

    @property
    def then(self) -> Literal["keep", "unpack", "gunzip"]:
        """What becomes of the file: it stays, is unpacked into its folder, or is decompressed to `places[0]`."""
        if not self.unpacked:
            return "keep"
        return "gunzip" if f"{self.unpacked[0]}.gz" == self.path else "unpack"

    @property
    def places(self) -> tuple[str, ...]:
        """The files and folders that exist once this file is in place."""
        return self.unpacked or (self.path,)

    def is_there(self, root: Path) -> bool:
        """Whether all its places exist, whole; a folder counts for the .tar of its name, as for the recipes."""
        return not unpacking(root / self.path).exists() and all(_exists(root / place) for place in self.places)


@dataclass(frozen=True)
class PublicSet:
    """A dataset, or the files of a model."""

    name: str
    title: str
    page: str
    """The official page."""
    files: tuple[PublicFile, ...] = ()
    by_hand: str = ""
    """How to download it manually, for sets without stable addresses."""
    hand_places: tuple[str, ...] = ()
    """The files and folders that are put in place manually, relative to the root."""
    hand_size: int = 0
    """Bytes to download manually, approximately."""
    note: str = ""
    """What to do with the files afterwards."""

    @property
    def size(self) -> int:
        """Bytes to download, approximately."""
        return self.hand_size + sum(file.size for file in self.files)

    @property
    def parts(self) -> tuple[str, ...]:
        """The names that `--only` takes, in the order in which they are downloaded."""
        return tuple(dict.fromkeys(file.part for file in self.files))

    @property
    def places(self) -> tuple[str, ...]:
        """All files and folders of the set."""
        return (*(place for file in self.files for place in file.places), *self.hand_places)

    def is_there(self, root: Path) -> bool:
        """Whether every file and folder of the set exists."""
        return all(file.is_there(root) for file in self.files) and all(_exists(root / p) for p in self.hand_places)


def unpacking(archive: Path) -> Path:
    """The folder of an archive's files until all are in place. It stays if moving them is interrupted."""
    return archive.with_name(f".{archive.name}.unpacking")


def _exists(place: Path) -> bool:
    if place.suffix == ".tar" and _exists(place.with_suffix("")):
        return True
    return place.is_file() or (place.is_dir() and any(place.iterdir()))


def _public_set(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `PublicSet`. The Hugging Face hub states the sha256 of large files with the download."""
    if hub := entry.pop("hub", ""):
        page, folder = f"https://huggingface.co/{hub}", f"weights/{PurePosixPath(hub).name}"
        listed = [
            {"part": name, "url": f"{page}/resolve/main/{file}", "path": f"{folder}/{file}", "size": size}
            for file, size in entry.pop("sizes").items()
        ]
        entry |= {"page": page, "files": listed}
    files = [file for each in entry.pop("files", ()) for file in _files(**each)]
    return {**entry, "name": name, "files": files}


def _files(numbers: tuple[int, int] = (0, 1), **entry: Any) -> Iterator[dict[str, Any]]:
    """An entry's files, one for each number."""
    template = json.dumps(entry)
    return (json.loads(template.replace("{n}", str(number))) for number in range(*numbers))


_ENTRIES = tomllib.loads(Path(__file__).with_name("catalogue.toml").read_text(encoding="utf-8"))
CATALOGUE = TypeAdapter(dict[str, PublicSet]).validate_python(
    {name: _public_set(name, entry) for name, entry in _ENTRIES.items()}
)
"""The sets by name, in the order in which they are listed."""


def find_sets(names: Iterable[str]) -> list[PublicSet]:
    """The sets of these names, each once. Raises `FatalError` that lists all names."""
    unknown = [name for name in names if name not in CATALOGUE]
    if unknown:
        raise FatalError(f"no public dataset named {unknown[0]!r}; the datasets are {', '.join(CATALOGUE)}")
    return [CATALOGUE[name] for name in dict.fromkeys(names)]


def where_to_get(path: str | Path) -> str:
    """One sentence on how to get what is missing at a path: the official page, size and command of the public set; ""
    for anything else.

    The set is recognised by the end of the path, which gives the folder for `--root`, and a model by its name on the
    Hugging Face hub, with or without its owner.
    """
    asked = str(path).rstrip("/")
    name, root = _found_by_path(asked)
    models = {PurePosixPath(each.page).name: each.name for each in CATALOGUE.values() if "huggingface.co" in each.page}
    name = name or models.get(PurePosixPath(asked).name, "")
    return _sentence(CATALOGUE[name], root) if name else ""


def _found_by_path(asked: str) -> tuple[str, str]:
    """The set that has a file or folder at the end of this path, and what is before it."""
    for each in CATALOGUE.values():
        for place in each.places:
            for end in (place, *map(str, PurePosixPath(place).parents)):
                # A last name alone, such as "coco", is ambiguous.
                if end.count("/") and (asked == end or asked.endswith(f"/{end}")):
                    return each.name, asked.removesuffix(end).rstrip("/") or ("/" if asked[:1] == "/" else ".")
    return "", ""


def _sentence(found: PublicSet, root: str) -> str:
    size = in_bytes(found.size)
    if found.by_hand:
        how = f"`rlip data get {found.name}` says how"
        return f"{found.title} (about {size}) must be downloaded manually from {found.page}; {how}"
    option = f" --root {shlex.quote(root)}" if root and Path(root) != ROOT else ""
    return f"{found.title} (about {size}, {found.page}) is downloaded by `rlip data get {found.name}{option}`"


def in_bytes(count: int) -> str:
    """Formats a number of bytes in the decimal units that the official pages use."""
    for unit, amount in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= amount:
            return f"{count / amount:.1f} {unit}"
    return f"{count} bytes"
