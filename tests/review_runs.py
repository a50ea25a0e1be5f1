"""Small runs for the review page, made without models: drawn images, captions with marked words, scored labels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from run_builder import RunBuilder, box, captions, pairs, recipe_of, relation

from pipeline.runtime.stage import Rejected
from storage.local_store import LocalStore
from storage.runs import Run

PREDICATES = ("ride", "hold", "wear", "carry", "feed", "hug", "kiss", "watch", "pull", "push", "wash", "touch")
IMAGES = 24
"""Images of a run, each with a label for every predicate: two screens of labels for each of them."""
SIZE = (320, 240)
BOXES = (
    ("person", 20, 30, 70, 180), ("person", 230, 40, 70, 170), ("horse", 95, 90, 110, 120), ("dog", 205, 170, 50, 50),
)  # fmt: skip
TEXTS = ("a man rides a horse", "a man holds a dog")
GIVEN = "ride"


@dataclass(frozen=True)
class Words:
    """The words of a run where datasets and captioners put theirs."""

    subject: str = "person"
    captions: Sequence[str] = TEXTS
    predicates: Sequence[str] = PREDICATES
    uri: str = "{}.png"
    reason: str = "truncated"
    value: str = "JPEG ends early"


PLAIN = Words()


def review_run(folder: Path, name: str = "toy", images: int = IMAGES, words: Words = PLAIN) -> RunBuilder:
    """A finished run in the store `folder`/store."""
    book = RunBuilder(Run(LocalStore(folder / "store"), name), folder / "pictures")
    book.run.note("recipe", recipe_of(book, store=str(folder / "store")).model_dump(mode="json"))
    add_partition(book, "toys/0000", range(1, images + 1), words)
    return book


def add_partition(book: RunBuilder, partition: str, numbers: Iterable[int], words: Words = PLAIN) -> None:
    """Adds a partition of images with these ids to a run, with all steps up to the labels."""
    numbers = list(numbers)
    own: dict[str, Any] = {"settings": {"run": book.run.name, "partition": partition}}
    refused = [Rejected(max(numbers) + 1, words.reason, words.value)]
    book.add("ingest", partition, [_image(book, n, words) for n in numbers], rejected=refused, **own)
    book.add("caption", partition, [captions(n, *words.captions, f"picture number {n}") for n in numbers], **own)
    book.add("parse", partition, [_triplets(n, words) for n in numbers], **own)
    tagged = [_relations(n, words) for n in numbers]
    proposed = [
        pairs(row["image_id"], *((r["subject"], r["predicate"], r["object"], 1) for r in row["relations"]))
        for row in tagged
    ]
    book.add("tag", partition, tagged, candidates=proposed, **own)


def many_images(folder: Path, name: str = "many", images: int = 1200) -> RunBuilder:
    """A run of many images that share one image, with one label each."""
    return review_run(folder, name, images, Words(predicates=PREDICATES[:1], uri="shared.png"))


def _image(book: RunBuilder, number: int, words: Words) -> dict[str, Any]:
    uri = words.uri.format(number)
    path = book.pictures / "toys" / uri
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGB", SIZE, (205, 214, 196 + number % 50))
        draw = ImageDraw.Draw(picture)
        for (_, x, y, w, h), colour in zip(BOXES, ("#345", "#854", "#762", "#a86"), strict=True):
            draw.ellipse((x, y, x + w, y + h), fill=colour)
        picture.save(path)
    names = [words.subject if category == "person" else category for category, *_ in BOXES]
    boxes = [box(name, *place, source_id=i) for i, (name, (_, *place)) in enumerate(zip(names, BOXES, strict=True))]
    given = [{"subject": 0, "predicate": GIVEN, "object": 2}] if number % 2 else []
    row = {"dataset": "toys", "split": "train", "image_id": number, "uri": uri, "digest": f"digest{number}"}
    return {**row, "width": SIZE[0], "height": SIZE[1], "boxes": boxes, "relations": given}


def _triplets(number: int, words: Words) -> dict[str, Any]:
    """A triplet for each caption of four or more words: "a man", "rides", and the rest."""
    rows = []
    for place, text in enumerate(words.captions):
        parts = text.split(" ", 3)
        if len(parts) < 4:
            continue
        subject, predicate, rest = " ".join(parts[:2]), parts[2], parts[3]
        first, second = len(subject), len(subject) + 1 + len(predicate)
        spans = {"subject": (0, first), "predicate": (first + 1, second), "object": (second + 1, len(text))}
        rows.append(
            {
                **{f"{role}_{end}": at for role, span in spans.items()
                   for end, at in zip(("start", "end"), span, strict=True)},
                **{name: value for role, value in (("subject", subject), ("predicate", predicate), ("object", rest))
                   for name, value in ((role, value), (f"{role}_lemma", value))},
                "caption": place, "rule": "hand",
            }
        )  # fmt: skip
    return {"image_id": number, "triplets": rows}


def _relations(number: int, words: Words) -> dict[str, Any]:
    """The first predicate holds of the first box and the horse, by the first caption; all others of it and the dog."""
    best = 0.972 - 0.03 * (number % 24)
    rows = [
        relation(0, predicate, 3 if place else 2, round(max(0.0, best - 0.01 * place), 4), triplet=min(place, 1))
        for place, predicate in enumerate(words.predicates)
    ]
    return {"image_id": number, "relations": rows}
