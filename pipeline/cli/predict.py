"""`rlip predict`: finds boxes and relations in images and writes them as a table, and as drawn images."""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import dropwhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from PIL.Image import Image
from rich.console import Console
from rich.progress import Progress

from models.config import ConfigError
from models.weights_file import WeightsError, read_config
from pipeline.cli.contact_sheet import ARROWS, labelled_cell
from pipeline.cli.options import AsJson, Objects, Predicates, Tokenizer
from pipeline.data.datasets.annotations import read_text, readable
from pipeline.data.datasets.bare_images import SUFFIXES, image_names
from pipeline.data.images.folders import LocalFolder
from pipeline.data.images.opening import BadImage, orientation_of, read_ahead, read_image
from pipeline.evaluation.detections.names import distinct
from pipeline.evaluation.detections.table import DetectionsWriter
from pipeline.interop.shard_samples import SeenLabels
from pipeline.report.formatting import sanitise
from pipeline.runtime.wording import counted, first_few
from pipeline.training.config import MODEL, VOCABULARY
from pipeline.training.sample import SampleBox, SampleRelation
from pipeline.training.vocabulary import TrainedNames
from scenes import SAMPLE_WEIGHTS
from storage.atomic import atomic_file
from storage.errors import FatalError, translate_os_errors

if TYPE_CHECKING:
    from models.network import Network
    from pipeline.evaluation.predictor import Found, Predictor

IMAGE_SIZE = 1067
"""Default length of the longest side in pixels if the weights' folder has none: that of a 4:3 image whose shortest side
is 800, as in the authors' evaluations and after a training run here with their settings."""
CONFIDENT = 0.5
"""Least score of a box that is drawn although no drawn relation has it."""
_OWN = "; name weights of this project, and with --tokenizer the folder of their tokenizer"
NUMBERED = re.compile(r"\s*\d+\s+(?=\S)")
"""The id before a name, as in the authors' lists."""
FEW_SUBJECTS = 0.01
"""If a smaller share of subjects has the required name, the training may have used another one."""


def predict(
    weights: Annotated[
        Path,
        typer.Argument(
            metavar="WEIGHTS",
            help="A .safetensors file of this project, its folder, or sample weights, e.g. demo-detector.",
        ),
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Images, or folders of images.")],
    out: Annotated[
        Path, typer.Option("--out", help="Table of detections to write: .parquet, or .json with one image per line.")
    ] = Path("out/detections.parquet"),
    objects: Objects = None,
    predicates: Predicates = None,
    subject: Annotated[
        str | None, typer.Option("--subject", help="Required name of subjects, e.g. person; unset: any.")
    ] = None,
    assume_subject: Annotated[
        bool,
        typer.Option(
            "--assume-subject",
            help="Give every subject the name in --subject and exclude none, e.g. for weights fine-tuned by the "
            "authors.",
        ),
    ] = False,
    image_size: Annotated[
        int | None,
        typer.Option("--image-size", min=32, help="Longest side in pixels; unset: that used in training, or 1067."),
    ] = None,
    per_image: Annotated[int, typer.Option("--per-image", min=1, help="Relations to keep per image.")] = 100,
    threshold: Annotated[
        float, typer.Option("--threshold", min=0, max=1, help="Exclude boxes and relations with a lower score.")
    ] = 0.0,
    top: Annotated[int, typer.Option("--top", min=0, help="Relations to draw per image, best first.")] = ARROWS,
    tokenizer: Tokenizer = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images per pass of the network.")] = 1,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:1.")] = "auto",
    draw: Annotated[Path | None, typer.Option("--draw", help="Folder for drawn images.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find objects and relations of any name in images. Write a detections table and, on request, drawings.

    Each object has one box and no relation with itself. Unreadable images are named and skipped.
    """
    if assume_subject and subject is None:
        raise FatalError("--assume-subject: gives every subject the name in --subject; add it, e.g. --subject person")
    files = list(_files(images))
    path = weights_path(weights)
    known = trained_names(path)
    from pipeline.evaluation.predictor import Names, Predictor  # loads torch, which a wrong name need not wait for

    names = Names(
        label_names("objects", objects, known.objects), label_names("predicates", predicates, known.predicates)
    )
    wanted = None if subject is None else names.place_of(subject)  # raises before the weights are loaded
    network = open_network(path, tokenizer, device)
    # All relations: `unique` may drop many of the best before it keeps `per_image`.
    size = image_size or known.image_size
    predictor = Predictor(network, names, size, subject=subject, assume_subject=assume_subject, per_image=None)
    if draw is not None:
        with translate_os_errors(f"making {draw}"):
            draw.mkdir(parents=True, exist_ok=True)
    left_out: dict[Path, BadImage] = {}
    console = Console(stderr=True, markup=False)
    subjects: Counter[bool] = Counter()
    with Progress(console=console, disable=as_json) as progress, DetectionsWriter(out) as writer:
        bar = progress.add_task("images", total=len(files))
        for number, (file, image, found) in enumerate(_found(predictor, files, batch, left_out)):
            if wanted is not None:
                every = found.boxes.labels[: len(found.boxes.labels) // 2]
                subjects.update((every == wanted).tolist())
            row = relations_above(found.unique(per_image).row(names), threshold)
            writer.write({"image_id": None, "uri": str(file), "width": image.width, "height": image.height, **row})
            if draw is not None:
                with (
                    translate_os_errors(f"writing to {draw}"),
                    atomic_file(draw / f"{number:05d}_{file.stem}.png") as aside,
                ):
                    labelled_cell(sanitise(file.name, 60), image, drawable(row, image.width, top), top).save(
                        aside, "PNG"
                    )
            progress.update(bar, completed=number + 1 + len(left_out))
        if len(left_out) == len(files):
            raise FatalError(f"none of {len(files)} images can be read: {_listed(left_out)}")
    known.warn_if_boxes_alone()
    if subject is not None and subjects[True] < FEW_SUBJECTS * subjects.total():
        console.print(
            f"--subject {subject}: the network gives {subjects[False]:,} of {subjects.total():,} subjects another "
            "name, so their relations are excluded; for weights fine-tuned by RLIPv2's authors, add --assume-subject",
            highlight=False,
            soft_wrap=True,
        )
    if as_json:
        reasons = {str(file): str(bad) for file, bad in left_out.items()}
        print(json.dumps({"detections": str(out), "images": len(files) - len(left_out), "left_out": reasons}))
        return
    if left_out:
        console.print(f"Skipped {len(left_out)}: {_listed(left_out)}", highlight=False, soft_wrap=True)
    drawn = "" if draw is None else f"; drawn in {draw}"
    print(f"{counted(len(files) - len(left_out), 'image')}: {out}{drawn}")


def warn_if_turned(image: Image) -> None:
    """Warns that an image which viewers turn is searched as it is stored, like those of test sets."""
    if orientation_of(image) != 1:
        what = "images with an EXIF orientation are read as stored, not as viewers rotate them"
        warnings.warn(f"{what}, since test sets state boxes in stored pixels; save photos upright", stacklevel=3)


def weights_path(weights: str | Path) -> Path:
    """The path of weights, given as a file, a folder or the name of sample weights."""
    path = SAMPLE_WEIGHTS.get(str(weights), Path(weights))
    return path / MODEL if path.is_dir() else path


def open_network(path: Path, tokenizer: Path | None, device: str) -> Network:
    """Loads a network of this project. Raises `FatalError` for another file, and where its tokenizer is missing."""
    from models.weights import load
    from pipeline.runtime.devices import choose_device

    with weights_errors(_OWN):
        return load(path, tokenizer or path.parent).to(choose_device(device))


@contextmanager
def weights_errors(advice: str = "") -> Iterator[None]:
    """Turns errors of weights files into `FatalError`, with some advice."""
    try:
        yield
    except (OSError, WeightsError, ConfigError) as error:
        raise FatalError(f"{error}{advice}") from error


def _found(
    predictor: Predictor, files: Sequence[Path], batch: int, left_out: dict[Path, BadImage]
) -> Iterator[tuple[Path, Image, Found]]:
    """Yields each image that can be read with what is found in it."""
    waiting: deque[tuple[Path, Image]] = deque()

    def opened() -> Iterator[Image]:
        for path, image in zip(files, read_ahead(files, read_image, ahead=batch), strict=True):
            if isinstance(image, BadImage):
                left_out[path] = image
            elif readable(str(path)) != str(path):
                left_out[path] = BadImage("file name not usable", "not UTF-8")
            else:
                warn_if_turned(image)
                waiting.append((path, image))
                yield image

    for found in predictor.predict(opened(), batch):
        path, image = waiting.popleft()
        yield path, image, found


def trained_names(weights: Path) -> TrainedNames:
    """The facts that a training run keeps with its weights; no names for weights without such a file.

    Raises `FatalError` for other files, which have no names either.
    """
    with weights_errors(_OWN):
        read_config(weights)
    path = weights.with_name(VOCABULARY)
    return TrainedNames.read(path) if path.is_file() else TrainedNames(IMAGE_SIZE)


def label_names(kind: str, listed: str | Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """Names as a list or separated by commas, or one per line of a file after `@`, also with ids ("001 ride"); if None,
    those of the training.

    Raises `FatalError` if there are none.
    """
    if listed is None:
        names = list(known)
        source = f"{VOCABULARY} next to the weights"
    elif isinstance(listed, str) and listed.startswith("@"):
        source = listed[1:]
        lines = read_text(Path(source), f"names of {kind}, one per line").splitlines()
        names = [line for line in lines if line.strip()]
        if 2 * sum(map(bool, map(NUMBERED.match, names))) > len(names):
            without_header = dropwhile(lambda line: not NUMBERED.match(line), names)
            names = [NUMBERED.sub("", line, count=1) for line in without_header]
    else:
        names = listed.split(",") if isinstance(listed, str) else list(listed)
        ",".join(names).encode()  # `errors_reported` reports text that isn't UTF-8
        source = f"--{kind}"
    unique = distinct(names, known)
    if not unique:
        raise FatalError(
            f"{source}: has no names of {kind}; pass some, e.g. --{kind} {_EXAMPLES[kind]}, or --{kind} @FILE"
        )
    return unique


_EXAMPLES = {"objects": "person,bicycle", "predicates": "riding,holding"}


def _files(images: Iterable[Path]) -> Iterator[Path]:
    for path in images:
        if not path.exists():
            raise FatalError(f"{path}: no such file or folder")
        if not path.is_dir():
            yield path
            continue
        inside = [path / name for name in image_names(LocalFolder(path))]
        if not inside:
            raise FatalError(f"{path}: contains no image ({', '.join(sorted(SUFFIXES))})")
        yield from inside


def relations_above(row: Mapping[str, Any], threshold: float) -> dict[str, Any]:
    """The boxes and relations of a row that score enough, and the boxes of such relations."""
    pairs = [pair for pair in row["pairs"] if pair["score"] >= threshold]
    return _with_boxes(row, pairs, {place for place, box in enumerate(row["boxes"]) if box["score"] >= threshold})


def _with_boxes(row: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]], others: set[int]) -> dict[str, Any]:
    """A row with these relations, their boxes and the boxes `others`, renumbered."""
    used = sorted({pair[end] for pair in pairs for end in ("subject", "object")} | others)
    places = {index: place for place, index in enumerate(used)}
    kept = [{**pair, "subject": places[pair["subject"]], "object": places[pair["object"]]} for pair in pairs]
    return {"boxes": [row["boxes"][index] for index in used], "pairs": kept}


def drawable(row: Mapping[str, Any], width: int, top: int) -> SeenLabels:
    """The drawable part of a row: its `top` best relations with their boxes, and all confident boxes."""
    confident = {place for place, box in enumerate(row["boxes"]) if box["score"] >= CONFIDENT}
    drawn = _with_boxes(row, row["pairs"][:top], confident)
    boxes = tuple(SampleBox(b["category"], b["x"], b["y"], b["w"], b["h"]) for b in drawn["boxes"])
    relations = tuple(SampleRelation(p["subject"], p["object"], p["predicate"], p["score"]) for p in drawn["pairs"])
    return SeenLabels(boxes, relations, width)


def _listed(left_out: Mapping[Path, BadImage]) -> str:
    return first_few([readable(f"{path} ({bad})") for path, bad in left_out.items()], 5)
