"""`rlip shards`: indexes, lists, describes, verifies, draws and publishes WebDataset tars. Nothing is extracted.

It also names the images of any step of a training run, and draws them as the network saw them.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from PIL import Image
from pydantic import ValidationError
from rich.console import Console

from pipeline.cli.contact_sheet import labelled_cell, save_sheet
from pipeline.cli.options import STORE, AsJson, RunName, StorePath, VerdictsFolder
from pipeline.data.images.opening import LOOSEST_LIMITS, BadImage, decode_image, probe_bytes
from pipeline.interop.publish_shards import (
    CHECKSUMS,
    ENERGON_FOLDER,
    STEP,
    LoaderIndex,
    checksum_faults,
    index_files,
    listed_tars,
    loaders,
    publish_shards,
)
from pipeline.interop.shard_samples import (
    MAX_LABELS_SIZE,
    SeenLabels,
    TarSample,
    read_labels,
    read_member,
    require_tar,
    tar_samples,
)
from pipeline.report.formatting import byte_bars, bytes_in_words, sanitise
from pipeline.runtime.wording import counted, first_few
from pipeline.stages.pretrain import PretrainStage, TrainTaggerStage
from pipeline.training.config import SAMPLES, TrainConfig
from pipeline.training.settings import TaggerSettings, TrainingSettings
from storage.artifact import Artifact
from storage.atomic import write_atomic
from storage.errors import FatalError, translate_os_errors
from storage.json_files import reason_of
from storage.open_store import existing_store
from storage.runs import Run, find_run
from storage.shards.index import Progress as Report, TarIndex, compare, index_path, index_tar, read_index, write_index
from storage.shards.sample_map import SampleMap
from storage.shards.scan import Refused

if TYPE_CHECKING:
    from pipeline.training.batches import StepImage

SHOWN = 20
"""Refused entries and faults printed per tar; `--json` prints all."""
LONGEST_PATH = 4096
TOP = 10
"""Number of most frequent categories and predicates to print."""
LOADER = "Also write the index of this loader: wids or energon. Can be repeated."
Tars = Annotated[list[Path], typer.Argument(metavar="TAR...", help="WebDataset tars, of this project or any other.")]
commands = typer.Typer(no_args_is_help=True)


@dataclass
class Contents:
    """The contents of one or more tars."""

    samples: int = 0
    bytes: int = 0
    extensions: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    """Image formats by content, and reasons why images are unusable."""
    refused: Counter[str] = field(default_factory=Counter)
    images: int = 0
    labels: int = 0
    """Number of samples with labels in this project's format."""
    lacking: Counter[str] = field(default_factory=Counter)
    """Number of samples without an image ("image") and without labels ("labels")."""
    boxes: int = 0
    relations: int = 0
    categories: Counter[str] = field(default_factory=Counter)
    predicates: Counter[str] = field(default_factory=Counter)

    def add(self, other: Contents) -> None:
        """Adds the contents of another tar."""
        for name, value in vars(other).items():
            if isinstance(value, Counter):
                getattr(self, name).update(value)
            else:
                setattr(self, name, getattr(self, name) + value)

    def gaps(self) -> list[str]:
        """Says how many samples lack what others have."""
        gaps = []
        if self.images and self.lacking["image"]:
            gaps.append(f"{_samples(self.lacking['image'])} an image")
        if self.labels and self.lacking["labels"]:
            gaps.append(f"{_samples(self.lacking['labels'])} labels")
        return gaps

    def as_json(self) -> dict[str, Any]:
        """The contents as JSON values, most frequent names first."""
        plain = asdict(self)
        return {n: dict(getattr(self, n).most_common()) if isinstance(v, Counter) else v for n, v in plain.items()}


def _contents_of(tar: Path, report: Report) -> tuple[Contents, list[Refused]]:
    """Reads the contents of a tar, and where it is damaged."""
    require_tar(tar)
    contents, damaged = Contents(bytes=tar.stat().st_size), []
    with tar.open("rb") as file:
        for entry in tar_samples(tar):
            if isinstance(entry, TarSample):
                _count(contents, entry, file.fileno())
                report(entry.members[-1].offset, contents.bytes)
            elif entry.damaged:
                damaged.append(entry)
            else:
                contents.refused[entry.reason] += 1
    return contents, damaged


def _count(contents: Contents, sample: TarSample, descriptor: int) -> None:
    contents.samples += 1
    contents.extensions.update(member.extension for member in sample.members)
    image = sample.image()
    if image is None:
        contents.lacking["image"] += 1
    else:
        contents.images += 1
        contents.formats[_format(read_member(descriptor, image, LOOSEST_LIMITS.max_bytes))] += 1
    seen = _labels_of(sample, descriptor)
    if seen is None:
        contents.lacking["labels"] += 1
        return
    contents.labels += 1
    contents.boxes += len(seen.boxes)
    contents.relations += len(seen.relations)
    contents.categories.update(box.category for box in seen.boxes)
    contents.predicates.update(relation.predicate for relation in seen.relations)


def _labels_of(sample: TarSample, descriptor: int) -> SeenLabels | None:
    """The labels of a sample in this project's format; None for others and for none."""
    labels = sample.labels()
    data = read_member(descriptor, labels, MAX_LABELS_SIZE) if labels is not None else None
    return read_labels(data) if data is not None else None


def _format(data: bytes | None) -> str:
    if data is None:
        return "not usable: too large"
    try:
        return probe_bytes(data, verify="header").format
    except BadImage as bad:
        return f"not usable: {bad.reason}"


def _gaps_of(tar: Path) -> list[str]:
    """Says how many samples lack an image or labels that others in the tar have, judging by names only."""
    contents = Contents()
    for sample in tar_samples(tar):
        if isinstance(sample, TarSample):
            has_image, has_labels = sample.image() is not None, sample.labels() is not None
            contents.images += has_image
            contents.labels += has_labels
            contents.lacking.update(image=not has_image, labels=not has_labels)
    return contents.gaps()


def _samples(count: int) -> str:
    return "1 sample lacks" if count == 1 else f"{count:,} samples lack"


@commands.command("index")
def index_shards(
    tars: Tars,
    formats: Annotated[list[str] | None, typer.Option("--format", metavar="LOADER", help=LOADER)] = None,
    keep_damaged: Annotated[bool, typer.Option("--keep-damaged", help="Index a damaged tar up to the damage.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write each tar's index next to it (X.index.parquet), and list skipped entries. Damaged tars get no index."""
    kinds = loaders(formats or [])
    indexes: dict[Path, TarIndex] = {}
    failed: list[str] = []
    rows: list[dict[str, Any]] = []
    for tar in _each_once(tars):
        try:
            index = _indexed(tar, keep_damaged, as_json)
        except FatalError as error:
            failed.append(str(error))
            rows.append({"tar": str(tar), "error": str(error)})
            continue
        indexes[tar] = index
        samples = len(set(index.table["key"].to_pylist()))
        refused = [{"name": entry.name, "reason": entry.reason} for entry in index.refused]
        rows.append({"tar": str(tar), "index": str(index_path(tar)), "samples": samples, "refused": refused})
        if not as_json:
            print(f"{_shown(index_path(tar))}: {counted(samples, 'sample')}, {counted(len(index.table), 'member')}")
            _print_refused(index.refused, "  ")
    written = list(_write_loader_indexes(indexes, kinds)) if indexes and not failed else []
    if as_json:
        print(json.dumps({"tars": rows, "loaders": [str(path) for path in written]}))
    else:
        for path in written:
            print(_shown(path))
    if failed:
        raise FatalError("\n".join(failed))


@commands.command("ls")
def list_shards(
    tars: Tars, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per sample.")] = False
) -> None:
    """List the samples of tars, one per line: key, and members with their sizes."""
    failed: list[str] = []
    for tar in _each_once(tars):
        try:
            failed += _list_samples(tar, as_json)
        except FatalError as error:
            failed.append(str(error))
    if failed:
        raise FatalError("\n".join(failed))


def _list_samples(tar: Path, as_json: bool) -> list[str]:
    """Prints the samples of a tar. Returns how it is damaged."""
    damaged: list[str] = []
    for entry in tar_samples(tar):
        if isinstance(entry, Refused):
            if entry.damaged:
                damaged.append(_damage(tar, entry))
            else:
                _complain(f"{tar}: {_in_words(entry)}")
        elif as_json:
            members = [{"extension": m.extension, "offset": m.offset, "size": m.size} for m in entry.members]
            print(json.dumps({"tar": str(tar), "key": entry.key, "members": members}))
        else:
            print(f"{sanitise(entry.key, 400)}  {_members(entry, '  ')}")
    return damaged


@commands.command("info")
def describe_shards(tars: Tars, as_json: AsJson = False) -> None:
    """Summarise tars: samples, bytes, members, image formats; for this project's labels also boxes and relations."""
    total, used, failed = Contents(), 0, []
    rows: list[dict[str, Any]] = []
    for tar in _each_once(tars):
        try:
            with _progress(tar, as_json) as report:
                contents, damages = _contents_of(tar, report)
        except FatalError as error:
            failed.append(str(error))
            rows.append({"tar": str(tar), "error": str(error)})
            continue
        failed += [_damage(tar, entry) for entry in damages]
        used += 1
        total.add(contents)
        rows.append({"tar": str(tar), **contents.as_json()})
        if not as_json:
            _print_contents(_shown(tar), contents)
    if as_json:
        print(json.dumps({"tars": rows, "total": total.as_json()}))
    elif used > 1:
        _print_contents(f"all {used} tars", total)
    if failed:
        raise FatalError("\n".join(failed))


@commands.command("verify")
def verify_shards(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Tars, or folders of published copies.")],
    as_json: AsJson = False,
) -> None:
    """Compare tars with indexes and published folders with checksums; name every fault; exit with 1 if any."""
    faults: list[dict[str, str]] = []
    left_out: list[dict[str, str]] = []
    gaps: list[dict[str, str]] = []
    samples, tars = 0, 0

    def note(where: Path, what: str, is_shown: bool = True) -> None:
        faults.append({"path": str(where), "fault": what})
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
        own_gaps = _gaps_of(tar)
        if as_json:
            gaps += [{"path": str(tar), "gap": gap} for gap in own_gaps]
            left_out += [{"path": str(tar), "name": entry.name, "reason": entry.reason} for entry in compared.left_out]
            continue
        if (more := len(compared.faults) - SHOWN) > 0:
            print(f"{_shown(tar)}: and {counted(more, 'more fault')}; --json lists them all")
        _print_refused(compared.left_out, f"{tar}: ")
        for gap in own_gaps:
            print(f"{_shown(tar)}: {gap}")
    if as_json:
        found = {"samples": samples, "tars": tars, "faults": faults, "left_out": left_out, "gaps": gaps}
        print(json.dumps(found))
    if faults:
        raise FatalError(f"{counted(len(faults), 'fault')}; restore the tars or, if they are right, index them again")
    if not as_json:
        matching = "matches" if samples == 1 else "match"
        print(f"{counted(samples, 'sample')} in {counted(tars, 'tar')} {matching}")


@commands.command("preview")
def preview_shard(
    tar: Annotated[Path, typer.Argument(metavar="TAR", help="A WebDataset tar.")],
    out: Annotated[Path, typer.Option("--out", help="The PNG file to write.")] = Path("preview.png"),
    samples: Annotated[int, typer.Option("--samples", min=1, max=100, help="Number of samples to show.")] = 8,
) -> None:
    """Draw the first samples of a tar, with boxes and relations, as one PNG; list samples without an image."""
    damage = ""
    shown: list[TarSample] = []
    for entry in tar_samples(tar):
        if isinstance(entry, TarSample):
            shown.append(entry)
        elif entry.damaged:
            damage = f"{sanitise(entry.reason)}; "
        if len(shown) == samples:
            break
    cells = []
    with tar.open("rb") as file:
        for sample in shown:
            image, seen = sample.image(), _labels_of(sample, file.fileno())
            pixels = read_member(file.fileno(), image, LOOSEST_LIMITS.max_bytes) if image is not None else None
            if pixels is None:
                print(f"{sanitise(sample.key)}: no image; {_members(sample)}")
                continue
            try:
                cells.append(labelled_cell(sanitise(sample.key, 60), decode_image(pixels), seen))
            except BadImage as bad:
                print(f"{sanitise(sample.key)}: {sanitise(str(bad))}; {_members(sample)}")
    if not cells:
        raise FatalError(
            f"{tar}: {damage}no image in its first {counted(len(shown), 'sample')}; `rlip shards ls {tar}` lists them"
        )
    save_sheet(cells, out)
    print(f"{counted(len(cells), 'sample')} drawn to {out}")


def _members(sample: TarSample, between: str = ", ") -> str:
    return between.join(f"{sanitise(m.extension)} {bytes_in_words(m.size)}" for m in sample.members)


@commands.command("publish")
def publish(
    run_name: RunName,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder to write.")],
    step: Annotated[str, typer.Option("--step", help="Publish this step's shards.")] = STEP,
    license_: Annotated[
        str, typer.Option("--license", help="Licence id on the Hugging Face Hub, e.g. cc-by-4.0.")
    ] = "unknown",
    indexes: Annotated[list[str] | None, typer.Option("--index", metavar="LOADER", help=LOADER)] = None,
    store: StorePath = STORE,
    verdicts: VerdictsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's shards to a folder for release: tars, indexes, statistics, dataset card, Croissant, checksums."""
    run = find_run(existing_store(store), run_name)
    result = publish_shards(run, folder, step, license_, loaders(indexes or []), verdicts)
    if as_json:
        print(json.dumps(asdict(result)))
        return
    held = f"{counted(result.samples, 'sample')} in {counted(result.tars, 'tar')}, {counted(result.bytes, 'byte')}"
    print(f"{folder}: {held}")
    print(f"`rlip shards verify {folder}` checks a copy")


def _each_once(paths: Iterable[Path]) -> Iterator[Path]:
    """Yields each path once; paths to the same place count as one.

    A link to a tar is a different place, since it has its own name and index.
    """
    seen: set[Path] = set()
    for path in paths:
        place = path.resolve() if path.is_dir() else path.parent.resolve() / path.name
        if place not in seen:
            seen.add(place)
            yield path


def _indexed(tar: Path, keep_damaged: bool, as_json: bool) -> TarIndex:
    """Indexes a tar and writes the index. Raises `FatalError` if there is nothing to index or the tar is damaged."""
    require_tar(tar)
    with _progress(tar, as_json) as report, translate_os_errors(f"reading {tar}"):
        index = index_tar(tar, report)
    damage = next((entry for entry in index.refused if entry.damaged), None)
    if damage is not None and not keep_damaged:
        before = len(set(index.table["key"].to_pylist()))
        raise FatalError(
            f"{_damage(tar, damage)}; {counted(before, 'sample')} before the damage can be indexed with --keep-damaged"
        )
    if not len(index.table):
        reasons = _reasons(index.refused)
        raise FatalError(
            f"{tar}: contains no sample{f' ({reasons})' if reasons else ''}; samples are files such as 0001.jpg"
        )
    with translate_os_errors(f"writing {index_path(tar)}"):
        write_index(tar, index.table)
    return index


def _write_loader_indexes(indexes: dict[Path, TarIndex], formats: Sequence[LoaderIndex]) -> Iterator[Path]:
    """Writes the indexes of other loaders into the folder of the tars, and yields their paths.

    Raises `FatalError` for a tar with entries that its index lacks, and for a folder already prepared for Energon.
    """
    if not formats:
        return
    folder = Path(os.path.commonpath([str(tar.absolute().parent) for tar in indexes]))
    names = {tar.absolute().relative_to(folder).as_posix(): tar for tar in indexes}
    for tar, index in indexes.items():
        if index.refused:
            raise FatalError(
                f"{tar}: other loaders would also read what the index skips ({_reasons(index.refused)}); "
                "write the tar again without it, or omit --format"
            )
    if "energon" in formats and (folder / ENERGON_FOLDER).exists():
        raise FatalError(f"{folder / ENERGON_FOLDER} already exists; remove it to write it again")
    tables = {name: indexes[tar].table for name, tar in names.items()}
    sizes = {name: tar.stat().st_size for name, tar in names.items()}
    for kind in formats:
        for name, data in index_files(kind, tables, sizes).items():
            with translate_os_errors(f"writing {folder / name}"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                write_atomic(folder / name, data)
            yield folder / name


def _tars_of(path: Path, note: Any, as_json: bool) -> list[Path]:
    """The tars that a path names; checks the files of a published folder. Raises `FatalError` if there are none."""
    if not path.is_dir():
        return [path]
    if (path / CHECKSUMS).is_file():
        with _progress(path, as_json) as report:
            for name, what in checksum_faults(path, report):
                note(path / name, what)
        return [tar for tar in listed_tars(path) if tar.is_file()]
    tars = sorted(path.rglob("[!.]*.tar"))
    if not tars:
        raise FatalError(
            f"{path}: contains no .tar file and no {CHECKSUMS}; name a tar, or the folder of a published copy"
        )
    return tars


def _print_contents(title: str, contents: Contents) -> None:
    print(f"{title}: {counted(contents.samples, 'sample')}, {bytes_in_words(contents.bytes)}")
    _print_counts("members", contents.extensions)
    _print_counts("images", contents.formats)
    if contents.labels:
        numbers = f"{counted(contents.boxes, 'box')}, {counted(contents.relations, 'relation')}"
        print(f"  labels: {numbers} in {counted(contents.labels, 'sample')}")
        _print_counts("categories", contents.categories)
        _print_counts("predicates", contents.predicates)
    for gap in contents.gaps():
        print(f"  {gap}")
    for reason, count in contents.refused.most_common():
        print(f"  skipped: {count:,} x {sanitise(reason)}")


def _print_counts(title: str, counts: Counter[str]) -> None:
    if not counts:
        return
    print(f"  {title}: {first_few([f'{sanitise(name, 60)} {count:,}' for name, count in counts.most_common()], TOP)}")


def _print_refused(refused: Sequence[Refused], begin: str) -> None:
    for entry in refused[:SHOWN]:
        _complain(f"{begin}skipped {_in_words(entry)}")
    if len(refused) > SHOWN:
        _complain(f"{begin}and {len(refused) - SHOWN:,} more: {_reasons(refused[SHOWN:])}")


def _reasons(refused: Sequence[Refused]) -> str:
    counts = Counter(entry.reason for entry in refused)
    return ", ".join(f"{count:,} x {sanitise(reason)}" for reason, count in counts.most_common(5))


def _damage(tar: Path, entry: Refused) -> str:
    named = f"{sanitise(entry.name)} " if entry.name else ""
    return f"{tar}: {named}{sanitise(entry.reason)}; restore the tar, e.g. download it again"


def _shown(path: Path) -> str:
    """A printable form of a path, whatever its bytes."""
    return sanitise(str(path), LONGEST_PATH)


def _in_words(entry: Refused) -> str:
    return f"{sanitise(entry.name)}: {sanitise(entry.reason)}"


def _complain(text: str) -> None:
    Console(stderr=True, markup=False).print(text, highlight=False, soft_wrap=True)


@contextmanager
def _progress(path: Path, as_json: bool) -> Iterator[Report]:
    """A progress bar of the bytes read."""
    console = Console(stderr=True, markup=False)
    with byte_bars(console, disable=as_json or not console.is_terminal) as bar:
        task = bar.add_task(path.name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


_VERSIONS = {stage.name: stage.version for stage in (PretrainStage, TrainTaggerStage)}


@commands.command()
def batch(
    run_name: RunName,
    step: Annotated[int, typer.Argument(metavar="STEP", min=1, help="A training step, counted from 1.")],
    step_name: Annotated[
        str | None,
        typer.Option("--step-name", help="E.g. pretrain:pseudo or train_tagger; required if there are several."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Draw the images to this PNG file.")] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Name the images of a training step, and draw them as the network saw them, with their boxes and relations."""
    run = find_run(existing_store(store), run_name)
    name, artifact = _training(run, step_name)
    # Training runs of earlier versions recorded neither the number of steps nor which samples were excluded as damaged.
    steps, left_out = artifact.manifest.facts.get("steps"), artifact.manifest.facts.get("damaged", {})
    if steps is not None and not 1 <= step <= steps:
        raise FatalError(f"{name} of run {run_name!r} has steps 1 to {steps}, but no step {step}")
    images = _images(run, name, artifact, step)
    drawn = _draw(images, out) if out is not None else 0
    if as_json:
        values = {"run": run.name, "step_name": name, "step": step, "steps": steps}
        values |= {"drawn": None if out is None else str(out), "images": [_values(each, left_out) for each in images]}
        print(json.dumps(values, ensure_ascii=False))
        return
    of = f" of {steps:,}" if steps is not None else ""
    print(f"Step {step:,}{of} of {name}, run {run_name}: {counted(len(images), 'image')}{_batch_size(images)}")
    for image in images:
        print(f"  {sanitise(image.dataset)}/{image.image_id}: {_image_in_words(image, left_out)}")
    if out is not None:
        print(f"{counted(drawn, 'image')} drawn to {out}")


def _batch_size(images: Sequence[StepImage]) -> str:
    """The size of the batch that one process would make of all images, and the share of it that is padding."""
    views = [image.shown.view for image in images if image.shown]
    if not views:
        return ""
    width, height = max(view.width for view in views), max(view.height for view in views)
    padding = 1 - sum(view.width * view.height for view in views) / (width * height * len(views))
    return f", at most {width}x{height} pixels, {padding:.0%} padding"


def _image_in_words(image: StepImage, left_out: Mapping[str, str]) -> str:
    if image.key in left_out:
        return f"excluded: {sanitise(left_out[image.key])}"
    if image.shown is None:
        return f"can't be read: {sanitise(image.damage)}"
    view, labels = image.shown.view, image.shown.labels
    parts = [
        f"{view.width}x{view.height} pixels",
        *(["a part"] if view.crop else []),
        *(["mirrored"] if view.mirrored else []),
        counted(len(labels.boxes), "box"),
        counted(len(labels.relations), "relation"),
    ]
    return f"{', '.join(parts)} (epoch {image.epoch + 1})"


def _values(image: StepImage, left_out: Mapping[str, str]) -> dict[str, Any]:
    values = {
        "dataset": image.dataset,
        "image_id": image.image_id,
        "key": image.key,
        "tar": image.tar,
        "epoch": image.epoch + 1,
        "left_out": left_out.get(image.key),
        "damage": image.damage or None,
    }
    if (shown := image.shown) is None:
        return values
    view = shown.view
    return values | {
        "width": view.width,
        "height": view.height,
        "crop": view.crop._asdict() if view.crop else None,
        "mirrored": view.mirrored,
        "boxes": len(shown.labels.boxes),
        "relations": len(shown.labels.relations),
    }


def _draw(images: Sequence[StepImage], out: Path) -> int:
    """Draws the images that can be read, and returns how many. Raises `FatalError` when none can."""
    cells = []
    for image in images:
        if image.shown is None:
            continue
        try:
            pixels = Image.fromarray(image.shown.pixels().permute(1, 2, 0).numpy())
        except BadImage:
            continue
        title = f"{sanitise(image.dataset, 40)}/{image.image_id}  {pixels.width}x{pixels.height}"
        cells.append(labelled_cell(title, pixels, image.shown.labels))
    if not cells:
        raise FatalError("no image of this step can be read; `rlip store verify` names the damage")
    save_sheet(cells, out)
    return len(cells)


def _training(run: Run, step_name: str | None) -> tuple[str, Artifact]:
    """The name and artifact of a training step; without a name, of the only one.

    Raises `FatalError` that lists those of the run.
    """
    trainings = sorted(name for name in run.steps() if run.stage(name) in _VERSIONS)
    listed = ", ".join(trainings) or "none"
    if step_name is None and len(trainings) != 1:
        raise FatalError(
            f"run {run.name!r} has {len(trainings)} training runs; name one with --step-name, of: {listed}"
        )
    name = trainings[0] if step_name is None else step_name
    artifact = next(iter(run.artifacts(name).values()), None)
    if artifact is None or name not in trainings:
        raise FatalError(f"run {run.name!r} has no training run {name!r}; it has: {listed}")
    version = artifact.manifest.terms["version"]
    if version != _VERSIONS[run.stage(name)]:
        raise FatalError(
            f"{name} of run {run.name!r} was trained by version {version} of its stage, but this one is "
            f"version {_VERSIONS[run.stage(name)]}, which orders images differently; use the rlip that trained it"
        )
    return name, artifact


def _images(run: Run, name: str, artifact: Artifact, step: int) -> list[StepImage]:
    """The images of a training step. Raises `FatalError` when its shards are missing."""
    from pipeline.training.batches import step_images  # loads torch
    from pipeline.training.shards import ShardSamples, map_samples, range_cache, shards_of

    kind = TaggerSettings if run.stage(name) == TrainTaggerStage.name else TrainingSettings
    try:
        # Keys leave out the number of processes, and one process can share any batch.
        settings = kind.model_validate({"processes": 1, **artifact.manifest.terms["settings"]})
    except ValidationError as error:
        raise FatalError(
            f"{name} of run {run.name!r} has settings of another rlip ({reason_of(error)}); use the one that trained it"
        ) from error
    shards = tuple(shards_of(_shards(run, artifact)))
    with TemporaryDirectory(prefix="rlip-") as folder:
        config = TrainConfig(settings=settings, work=Path(folder), shards=shards)
        map_samples(config)
        samples = ShardSamples(SampleMap(config.work / SAMPLES), range_cache(config), settings.predicate_form)
        return step_images(samples, settings, step)


def _shards(run: Run, artifact: Artifact) -> tuple[Artifact, ...]:
    """The shards that a training run read, in its order."""
    keys = artifact.manifest.upstream.get("shards", [])
    shards: dict[str, Artifact] = {}
    for stage in ("shard", "shard_tagger"):
        shards |= run.store.find_all(stage, [key for key in keys if key not in shards])
    gone = [key[:12] for key in keys if key not in shards]
    if gone:
        raise FatalError(
            f"{len(gone)} of {len(keys)} shards that the training run read are missing ({', '.join(gone[:5])}); "
            "run the recipe again"
        )
    return tuple(shards[key] for key in keys)
