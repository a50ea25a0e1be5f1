"""`rlip shards`: indexes, lists, describes, verifies and shows WebDataset tars, whoever wrote them. Nothing is extracted."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from pipeline.cli.shard_contents import Contents, contents_of, gaps_of
from pipeline.interop.publish_shards import (
    CHECKSUMS,
    ENERGON_FOLDER,
    LoaderIndex,
    checksum_faults,
    index_files,
    listed_tars,
)
from pipeline.interop.shard_samples import (
    require_tar,
    tar_samples,
)
from pipeline.report.formatting import bytes_in_words, sanitise
from pipeline.runtime.wording import counted
from storage.atomic import write_atomic
from storage.errors import FatalError, translate_os_errors
from storage.shards.index import Progress as Report
from storage.shards.index import TarIndex, compare, index_path, index_tar, read_index, write_index
from storage.shards.scan import Refused

SHOWN = 20
"""Refused entries and faults printed per tar; `--json` prints all."""
LONGEST_PATH = 4096
TOP = 10
"""Most frequent categories and predicates that are printed."""


def index_shards(tars: Sequence[Path], formats: Sequence[LoaderIndex], keep_damaged: bool, as_json: bool) -> None:
    """Write the index of each tar beside it, and on request those of other loaders.

    A damaged tar or one without a sample gets none, unless `keep_damaged` keeps what lies before the damage. Raises
    `FatalError` at the end if a tar got none.
    """
    made: dict[Path, TarIndex] = {}
    failed: list[str] = []
    rows: list[dict[str, Any]] = []
    for tar in _each_once(tars):
        try:
            found = _indexed(tar, keep_damaged, as_json)
        except FatalError as error:
            failed.append(str(error))
            rows.append({"tar": str(tar), "error": str(error)})
            continue
        made[tar] = found
        samples = len(set(found.table["key"].to_pylist()))
        refused = [{"name": entry.name, "reason": entry.reason} for entry in found.refused]
        rows.append({"tar": str(tar), "index": str(index_path(tar)), "samples": samples, "refused": refused})
        if not as_json:
            print(f"{_shown(index_path(tar))}: {counted(samples, 'sample')}, {counted(len(found.table), 'member')}")
            _print_refused(found.refused, "  ")
    loaders = list(_write_loader_indexes(made, formats)) if made and not failed else []
    if as_json:
        print(json.dumps({"tars": rows, "loaders": [str(path) for path in loaders]}))
    else:
        for path in loaders:
            print(_shown(path))
    if failed:
        raise FatalError("\n".join(failed))


def list_shards(tars: Sequence[Path], as_json: bool) -> None:
    """Print one line per sample: its key, and its members with their sizes. Reads no member.

    Raises `FatalError` after all tars that can't be used, or not beyond some place.
    """
    failed: list[str] = []
    for tar in _each_once(tars):
        try:
            failed += _list_samples(tar, as_json)
        except FatalError as error:
            failed.append(str(error))
    if failed:
        raise FatalError("\n".join(failed))


def _list_samples(tar: Path, as_json: bool) -> list[str]:
    """Prints the samples of a tar and returns how it is damaged."""
    damaged: list[str] = []
    for entry in tar_samples(tar):
        if isinstance(entry, Refused):
            if entry.damaged:
                damaged.append(_damage(tar, entry))
            elif not as_json:
                _complain(f"{tar}: {_in_words(entry)}")
        elif as_json:
            members = [{"extension": m.extension, "offset": m.offset, "size": m.size} for m in entry.members]
            print(json.dumps({"tar": str(tar), "key": entry.key, "members": members}))
        else:
            listed = "  ".join(f"{sanitise(m.extension)} {bytes_in_words(m.size)}" for m in entry.members)
            print(f"{sanitise(entry.key, 400)}  {listed}")
    return damaged


def describe_shards(tars: Sequence[Path], as_json: bool) -> None:
    """Print what each tar holds and, of several, what all do. Reads the tars once.

    Raises `FatalError` after all tars that can't be used, or not beyond some place.
    """
    total, used, failed = Contents(), 0, []
    rows: list[dict[str, Any]] = []
    for tar in _each_once(tars):
        try:
            with _progress(tar, as_json) as report:
                found, damages = contents_of(tar, report)
        except FatalError as error:
            failed.append(str(error))
            rows.append({"tar": str(tar), "error": str(error)})
            continue
        failed += [_damage(tar, entry) for entry in damages]
        used += 1
        total.add(found)
        rows.append({"tar": str(tar), **found.as_json()})
        if not as_json:
            _print_contents(_shown(tar), found)
    if as_json:
        print(json.dumps({"tars": rows, "total": total.as_json()}))
    elif used > 1:
        _print_contents(f"all {used} tars", total)
    if failed:
        raise FatalError("\n".join(failed))


def verify_shards(paths: Sequence[Path], as_json: bool) -> None:
    """Compare tars with the indexes beside them, and published folders with their checksums as well.

    Raises `FatalError` after all faults are printed.
    """
    found: list[dict[str, str]] = []
    left_out: list[dict[str, str]] = []
    samples, tars = 0, 0

    def note(where: Path, what: str, is_shown: bool = True) -> None:
        found.append({"path": str(where), "fault": what})
        if is_shown and not as_json:
            print(f"{_shown(where)}: {sanitise(what, 400)}")

    for tar in _each_once(tar for path in _each_once(paths) for tar in _tars_of(path, note, as_json)):
        try:
            require_tar(tar)
            index = read_index(tar)
            with _progress(tar, as_json) as report, translate_os_errors(f"reading {tar}"):
                compared = compare(tar, index, report)
        except FatalError as error:
            note(tar, str(error).removeprefix(f"{tar}: "))
            continue
        for number, what in enumerate(compared.faults):
            note(tar, what, is_shown=number < SHOWN)
        samples += len(set(index["key"].to_pylist()))
        tars += 1
        if as_json:
            left_out += [{"path": str(tar), "name": entry.name, "reason": entry.reason} for entry in compared.left_out]
            continue
        if (more := len(compared.faults) - SHOWN) > 0:
            print(f"{_shown(tar)}: and {counted(more, 'more fault')}; --json lists them all")
        _print_refused(compared.left_out, f"{tar}: ")
        for gap in gaps_of(tar):
            print(f"{_shown(tar)}: {gap}")
    if as_json:
        print(json.dumps({"samples": samples, "tars": tars, "faults": found, "left_out": left_out}))
    if found:
        raise FatalError(f"{counted(len(found), 'fault')}; restore the tars, or, if they are right, index them again")
    if not as_json:
        matching = "matches" if samples == 1 else "match"
        print(f"{counted(samples, 'sample')} in {counted(tars, 'tar')} {matching}")


def _each_once(paths: Iterable[Path]) -> Iterator[Path]:
    """Yields the paths without those that name the place of an earlier one.

    A link to a tar is another place, since it has a name and an index of its own.
    """
    seen: set[Path] = set()
    for path in paths:
        place = path.resolve() if path.is_dir() else path.parent.resolve() / path.name
        if place not in seen:
            seen.add(place)
            yield path


def _indexed(tar: Path, keep_damaged: bool, as_json: bool) -> TarIndex:
    """Indexes a tar and writes the index. Raises `FatalError` when there is nothing to index or the tar is damaged."""
    require_tar(tar)
    with _progress(tar, as_json) as report, translate_os_errors(f"reading {tar}"):
        found = index_tar(tar, report)
    damage = next((entry for entry in found.refused if entry.damaged), None)
    if damage is not None and not keep_damaged:
        before = len(set(found.table["key"].to_pylist()))
        raise FatalError(
            f"{_damage(tar, damage)}; {counted(before, 'sample')} before the damage can be indexed with --keep-damaged"
        )
    if not len(found.table):
        told = _reasons(found.refused)
        raise FatalError(f"{tar}: holds no sample{f' ({told})' if told else ''}; samples are files such as 0001.jpg")
    with translate_os_errors(f"writing {index_path(tar)}"):
        write_index(tar, found.table)
    return found


def _write_loader_indexes(made: dict[Path, TarIndex], formats: Sequence[LoaderIndex]) -> Iterator[Path]:
    """Writes the indexes of other loaders into the folder that all tars lie in, and yields their paths.

    Raises `FatalError` for a tar with more in it than its index lists, and for a folder that Energon was prepared in.
    """
    if not formats:
        return
    folder = Path(os.path.commonpath([str(tar.absolute().parent) for tar in made]))
    names = {tar.absolute().relative_to(folder).as_posix(): tar for tar in made}
    for tar, found in made.items():
        if found.refused:
            raise FatalError(
                f"{tar}: other loaders would also read what the index leaves out ({_reasons(found.refused)}); "
                "write the tar again without it, or leave out --format"
            )
    if "energon" in formats and (folder / ENERGON_FOLDER).exists():
        raise FatalError(f"{folder / ENERGON_FOLDER} already exists; remove it to have it made anew")
    tables, sizes = (
        {name: made[tar].table for name, tar in names.items()},
        {name: tar.stat().st_size for name, tar in names.items()},
    )
    for kind in formats:
        for name, data in index_files(kind, tables, sizes).items():
            with translate_os_errors(f"writing {folder / name}"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                write_atomic(folder / name, data)
            yield folder / name


def _tars_of(path: Path, note: Any, as_json: bool) -> list[Path]:
    """The tars that a path names. Checks the files of a published folder. Raises `FatalError` for a folder without tars."""
    if not path.is_dir():
        return [path]
    if (path / CHECKSUMS).is_file():
        with _progress(path, as_json) as report:
            for name, what in checksum_faults(path, report):
                note(path / name, what)
        return [tar for tar in listed_tars(path) if tar.is_file()]
    tars = sorted(path.rglob("*.tar"))
    if not tars:
        raise FatalError(
            f"{path}: holds no .tar file and no {CHECKSUMS}; name a tar, or the folder of a published copy"
        )
    return tars


def _print_contents(title: str, found: Contents) -> None:
    print(f"{title}: {counted(found.samples, 'sample')}, {bytes_in_words(found.bytes)}")
    _print_counts("members", found.extensions)
    _print_counts("images", found.formats)
    if found.labels:
        boxes = f"{found.boxes:,} {'box' if found.boxes == 1 else 'boxes'}"
        print(f"  labels: {boxes}, {counted(found.relations, 'relation')} in {counted(found.labels, 'sample')}")
        _print_counts("categories", found.categories)
        _print_counts("predicates", found.predicates)
    for gap in found.gaps():
        print(f"  {gap}")
    for reason, count in found.refused.most_common():
        print(f"  left out: {count:,} x {sanitise(reason)}")


def _print_counts(title: str, counts: Counter[str]) -> None:
    if not counts:
        return
    listed = ", ".join(f"{sanitise(name, 60)} {count:,}" for name, count in counts.most_common(TOP))
    more = f", and {len(counts) - TOP:,} more" if len(counts) > TOP else ""
    print(f"  {title}: {listed}{more}")


def _print_refused(refused: Sequence[Refused], begin: str) -> None:
    for entry in refused[:SHOWN]:
        _complain(f"{begin}left out {_in_words(entry)}")
    if len(refused) > SHOWN:
        _complain(f"{begin}and {len(refused) - SHOWN:,} more: {_reasons(refused[SHOWN:])}")


def _reasons(refused: Sequence[Refused]) -> str:
    counts = Counter(entry.reason for entry in refused)
    return ", ".join(f"{count:,} x {sanitise(reason)}" for reason, count in counts.most_common(5))


def _damage(tar: Path, entry: Refused) -> str:
    named = f"{sanitise(entry.name)} " if entry.name else ""
    return f"{tar}: {named}{sanitise(entry.reason)}; restore the tar, e.g. download it again"


def _shown(path: Path) -> str:
    """A path as it can be printed, whatever its bytes."""
    return sanitise(str(path), LONGEST_PATH)


def _in_words(entry: Refused) -> str:
    return f"{sanitise(entry.name)}: {sanitise(entry.reason)}"


def _complain(text: str) -> None:
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _progress(path: Path, as_json: bool) -> Iterator[Report]:
    """A bar of the bytes that were read."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=as_json or not console.is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task(path.name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
