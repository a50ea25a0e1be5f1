"""Writes a large synthetic run into a store, for the benchmark of the review page: tables as stages make them, at random.

Predicates and categories are long-tailed. Each partition is drawn for itself, so no two have equal rows. A few thousand
names of images share a few dozen files, each of which is decoded like any other.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from benchmarks.photos import write_noise
from pipeline.run.recipe_files import load_recipe
from storage import tables
from storage.artifact import Artifact
from storage.digests import digest_file
from storage.disk import CacheDisk
from storage.keys import KeyTerms
from storage.local_store import LocalStore
from storage.manifest import REJECTED_FILE, Counts, FileEntry, Manifest
from storage.runs import Run
from tagger.english.predicates import canonical
from tagger.english.words import phrases

NAME = "synthetic"
IMAGES = 1_000
"""Images of a partition."""
NAMES, FILES = 5_000, 48
WIDTH, HEIGHT = 640, 480
VERBS = """
ride hold carry wear watch eat pull push throw catch kick feed wash drive sit stand lie walk run jump lean
hang climb fly swim sleep play talk look point
""".split()  # noqa: SIM905
PREPOSITIONS = ("", *phrases("on, in, under, next to, near, behind, with, over, at, through, across, against"))
_PREDICATES = [f"{verb} {preposition}".strip() for preposition in PREPOSITIONS for verb in VERBS]
PREDICATES = list(dict.fromkeys(canonical(name) for name in _PREDICATES))
"""About 400 in canonical form, the most frequent first."""
CATEGORIES = """
person man woman child dog cat horse cow sheep bird car bus truck train boat bicycle motorcycle airplane bench
chair couch bed table tv laptop phone book clock vase bottle cup bowl fork knife spoon plate apple banana
orange pizza cake hat shirt shoe bag umbrella kite ball bat glove skateboard surfboard snowboard racket tree
flower house window door street sign light fence wall floor grass water sand snow sky
""".split()  # noqa: SIM905
_RECIPE = """
name = "synthetic"
store = "{store}"
[data]
root = "{data}"
partition_size = 1000
label = ["coco", "vg"]
tagger = ["vg"]
[[data.sources]]
name = "coco"
format = "coco"
images = "images"
annotations = "none.json"
[[data.sources]]
name = "vg"
format = "coco"
images = "images"
annotations = "none.json"
[caption]
captioner = "recorded"
recorded = ["none.json"]
[pretrain]
variants = ["pseudo"]
"""


def write_run(folder: Path, partitions: int, processes: int = 2) -> int:
    """Writes a run of `partitions` × 1,000 images into `folder`/store, with its images. Returns the bytes of the store.

    One partition in four is of a dataset that gives relations.
    """
    images = folder / "data" / "images"
    write_noise(images, FILES, WIDTH, HEIGHT)
    for number in range(FILES, NAMES):
        os.link(images / f"{number % FILES:04d}.jpg", images / f"{number:04d}.jpg")
    recipe = folder / "synthetic.toml"
    recipe.write_text(_RECIPE.format(store=folder / "store", data=folder / "data"))
    run = Run(LocalStore(folder / "store", CacheDisk()), NAME)
    with ProcessPoolExecutor(processes) as pool:
        made = list(pool.map(_write_partition, [folder / "store"] * partitions, range(partitions), chunksize=4))
    for stage in made[0][1]:
        run.record(stage, stage, {name: keys[stage] for name, keys, _ in made})
    run.note("recipe", load_recipe(recipe).model_dump(mode="json"))
    return sum(size for *_, size in made)


def _write_partition(root: Path, number: int) -> tuple[str, dict[str, str], int]:
    store = LocalStore(root, CacheDisk())
    dataset = "vg" if number % 4 == 3 else "coco"
    name = f"{dataset}/{number:04d}"
    made = partition_tables(number, dataset)
    ingest = _put(store, "ingest", name, {"images": made["images"]}, {})
    caption = _put(store, "caption", name, {"captions": made["captions"]}, {"images": ingest}, made["rejected"])
    parse = _put(store, "parse", name, {"triplets": made["triplets"]}, {"captions": caption})
    of_tag = {table: made[table] for table in ("relations", "candidates", "dropped")}
    tag = _put(store, "tag", name, of_tag, {"images": ingest, "triplets": parse})
    found = {"ingest": ingest, "caption": caption, "parse": parse, "tag": tag}
    size = sum(entry.size for artifact in found.values() for entry in artifact.manifest.files.values())
    return name, {stage: artifact.key for stage, artifact in found.items()}, size


def partition_tables(number: int, dataset: str) -> dict[str, pa.Table]:
    """The tables of one partition, by name."""
    generator = np.random.default_rng(number)
    ids = pa.array(number * IMAGES + np.arange(IMAGES))
    boxes = np.clip(generator.poisson(8, IMAGES), 2, 24)
    labels = np.clip(generator.poisson(6, IMAGES), 0, 30)
    category, box = _boxes(generator, int(boxes.sum()))
    image = np.repeat(np.arange(IMAGES), labels)
    subject = generator.integers(0, boxes[image])
    object_ = (subject + 1 + generator.integers(0, boxes[image] - 1)) % boxes[image]
    predicate = _draw(generator, _PREDICATES, len(image))
    score = generator.beta(0.7, 1.1, len(image)).astype(np.float32)
    proposed = generator.random(len(image)) < 0.6
    # Labels name one of the two triplets of their image, which makes the words on the page belong together.
    triplet = np.where(proposed, generator.integers(0, 2, len(image)), -1).astype(np.int32)
    ends = {"subject": pa.array(subject, pa.int32()), "predicate": predicate, "object": pa.array(object_, pa.int32())}
    scored = ends | {
        "score": pa.array(score), "proposed": pa.array(proposed), "triplet": pa.array(triplet), "caption": pa.array(triplet),
        "calibrated": pa.array((score * 0.8).astype(np.float32)), "posterior": pa.array(np.full(len(image), 0.5, np.float32)),
    }  # fmt: skip
    captions, triplets = _texts(generator)
    kept = pa.array(proposed)
    given = generator.random(len(image)) < 0.3 if dataset == "vg" else np.zeros(len(image), bool)
    return {
        "images": _table(tables.IMAGES, {
            "dataset": pa.array([dataset] * IMAGES), "split": pa.array(["train"] * IMAGES), "image_id": ids,
            "uri": pa.array([f"{(number * IMAGES + row) % NAMES:04d}.jpg" for row in range(IMAGES)]),
            "digest": pa.array([hashlib.sha256(f"{number} {row}".encode()).hexdigest() for row in range(IMAGES)]),
            "width": pa.array([WIDTH] * IMAGES, pa.int32()), "height": pa.array([HEIGHT] * IMAGES, pa.int32()),
            "boxes": _lists(tables.BOX, boxes, {"category": category, **box}),
            "relations": _lists(tables.ANNOTATED_RELATION, np.bincount(image[given], minlength=IMAGES),
                                {name: values.filter(pa.array(given)) for name, values in ends.items()}),
        }),
        "captions": _table(tables.CAPTIONS, {"image_id": ids, "captions": captions}),
        "triplets": _table(tables.TRIPLETS, {"image_id": ids, "triplets": triplets}),
        "relations": _table(tables.RELATIONS, {
            "image_id": ids, "tagger": pa.array(["0" * 64] * IMAGES), "relations": _lists(tables.RELATION, labels, scored),
        }),
        "candidates": _table(tables.CANDIDATES, {
            "image_id": ids,
            "pairs": _lists(tables.CANDIDATE, np.bincount(image[proposed], minlength=IMAGES), {
                **{name: values.filter(kept) for name, values in ends.items()},
                "triplet": pa.array(triplet[proposed]), "mention": pa.array(triplet[proposed]),
            }),
        }),
        "dropped": _table(tables.DROPPED, {
            "image_id": ids, "triplet": pa.array(np.zeros(IMAGES, np.int32)),
            "reason": pa.array(["no box of the subject's category"] * IMAGES),
            "value": _draw(generator, CATEGORIES, IMAGES),
        }).slice(0, IMAGES // 5),
        "rejected": _table(tables.REJECTED, {
            "image_id": ids, "stage": pa.array(["caption"] * IMAGES), "reason": pa.array(["no caption left"] * IMAGES),
            "value": pa.array([""] * IMAGES),
        }).slice(0, 2),
    }  # fmt: skip


def _boxes(generator: np.random.Generator, number: int) -> tuple[pa.Array, dict[str, pa.Array]]:
    w, h = generator.uniform(20, 300, number), generator.uniform(20, 240, number)
    x, y = generator.random(number) * (WIDTH - w), generator.random(number) * (HEIGHT - h)
    sides = {name: pa.array(values.astype(np.float32)) for name, values in zip("xywh", (x, y, w, h), strict=True)}
    return _draw(generator, CATEGORIES, number), sides


def _texts(generator: np.random.Generator) -> tuple[pa.Array, pa.Array]:
    """Two captions for each image, with one triplet each."""
    number = 2 * IMAGES
    subject, object_, place = (_draw(generator, CATEGORIES, number) for _ in range(3))
    predicate = _draw(generator, _PREDICATES, number)
    text = pc.binary_join_element_wise("a", subject, predicate, "a", object_, "and", "a", place, " ")
    length = {
        name: np.asarray(pc.utf8_length(part)) for name, part in (("s", subject), ("p", predicate), ("o", object_))
    }
    start = {"subject": np.full(number, 2), "predicate": 3 + length["s"]}
    start["object"] = start["predicate"] + length["p"] + 3
    spans = {}
    for role, of_role in zip(("subject", "predicate", "object"), "spo", strict=True):
        spans[f"{role}_start"] = pa.array(start[role].astype(np.int32))
        spans[f"{role}_end"] = pa.array((start[role] + length[of_role]).astype(np.int32))
    draw = pa.array(np.tile(np.arange(2, dtype=np.int32), IMAGES))
    two = np.full(IMAGES, 2)
    captions = _lists(
        tables.CAPTION, two,
        {"text": text, "draw": draw, "source": pa.array(["blip nucleus"] * number), "times": pa.array([1] * number, pa.int32()),
         "log_probability": pa.array(generator.normal(-10, 3, number).astype(np.float32))},
    )  # fmt: skip
    triplets = _lists(
        tables.TRIPLET, two,
        {"subject": subject, "subject_lemma": subject, "predicate": predicate, "predicate_lemma": predicate,
         "object": object_, "object_lemma": object_, "caption": draw, "rule": pa.array(["verb"] * number), **spans},
    )  # fmt: skip
    return captions, triplets


def _put(
    store: LocalStore,
    stage: str,
    partition: str,
    content: Mapping[str, pa.Table],
    inputs: Mapping[str, Artifact],
    rejected: pa.Table | None = None,
) -> Artifact:
    """Commits tables as an artifact, with a manifest as stages write it."""
    terms = KeyTerms(stage, 1, {"partition": partition}, {name: [one.content] for name, one in inputs.items()})
    named = {f"{name}.parquet": table for name, table in content.items()}
    if rejected is not None:
        named[REJECTED_FILE] = rejected
    with store.draft() as draft:
        files = {}
        for name, table in named.items():
            tables.write_table(table, draft / name)
            files[name] = FileEntry(
                digest=digest_file(draft / name), size=(draft / name).stat().st_size, rows=len(table)
            )
        reasons = {} if rejected is None else {"no caption left": len(rejected)}
        manifest = Manifest(
            stage=stage, key=terms.key, partition=partition, terms=terms.as_json(),
            upstream={name: [one.key] for name, one in inputs.items()}, files=files, schema_fingerprint="",
            counts=Counts(rows_in=IMAGES, rows_out=IMAGES, rejected=reasons), seconds=0.1, host="", versions={},
        )  # fmt: skip
        return store.commit(draft, manifest)


def _draw(generator: np.random.Generator, words: Sequence[str], number: int) -> pa.Array:
    """Draws words by Zipf's law, the first the most frequent."""
    shares = np.cumsum(1 / np.arange(1, len(words) + 1))
    return pa.array(words).take(pa.array(np.searchsorted(shares, generator.random(number) * shares[-1])))


def _lists(item: pa.StructType, counts: NDArray[np.int64], columns: Mapping[str, pa.Array]) -> pa.Array:
    """Lists of structs. Fields without values are null."""
    number = int(counts.sum())
    fields = [columns[field.name] if field.name in columns else pa.nulls(number, field.type) for field in item]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    values = pa.StructArray.from_arrays([values.cast(field.type) for values, field in zip(fields, item, strict=True)],
                                        fields=list(item))  # fmt: skip
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _table(schema: pa.Schema, columns: Mapping[str, pa.Array]) -> pa.Table:
    made: Sequence[pa.Array] = [columns[field.name].cast(field.type) for field in schema]
    return pa.Table.from_arrays(list(made), schema=schema)
