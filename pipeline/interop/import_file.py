"""`rlip import`: converts a file of the authors or of a model to steps of a run, partitioned as stages would."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.data.datasets.annotations import (
    NO_IMAGE,
    AnnotationError,
    as_id,
    as_number,
    as_object,
    explained,
    is_inside,
    opening,
    parse_json,
    readable,
    shown,
)
from pipeline.data.datasets.json_stream import MAX_ELEMENT, stream_fields, stream_rows
from pipeline.data.datasets.record import Box, Draft, Unusable, numbers_of, overlap
from pipeline.data.images.opening import BadImage, probe
from pipeline.interop.official_graphs import GROUPS, read_captions, read_graphs, read_groups
from pipeline.interop.official_labels import (
    DATASET,
    EXPECTED,
    FREQUENCIES,
    VISUAL_GENOME,
    LabelledImage,
    read_element,
    read_frequencies,
    scored_rows,
)
from pipeline.interop.run_rows import TABLES, Tally
from pipeline.labels.labelled_partitions import images_with_boxes
from pipeline.runtime.execute import WorkItem, execute
from pipeline.runtime.settings import Settings
from pipeline.runtime.stage import Inputs, Output, Rejected, ReportProgress, Stage, dataset_of
from storage.artifact import Artifact
from storage.digests import digest_bytes, digest_json
from storage.errors import FatalError
from storage.keys import KeyTerms
from storage.runs import Run
from storage.tables import IMAGE_CAPTIONS, IMAGES, RELATIONS, TRIPLETS, table_bytes
from tagger.english.predicates import canonical
from tagger.matching import match

KINDS = ("labels", "captions", "graphs", "candidates", "frequencies", "relations")
PARTITION = 1000
"""Images per partition if the run has no partitions yet."""
_OBJECTS = "an object {image id: ...} of captions, graphs or candidates, or names with frequencies"
_Read = Callable[[int, Any], tuple[dict[str, Any], Iterable[Rejected]]]


@dataclass
class ImportResult:
    """The result of an import."""

    run: str
    kind: str
    images: int = 0
    steps: list[str] = field(default_factory=list)
    noted: dict[str, int] = field(default_factory=dict)
    """Reason → number of entries rejected or fixed. Each is quarantined with its step."""


def import_file(path: Path, run: Run, dataset: str | None = None, files: ImageFiles | None = None) -> ImportResult:
    """Imports a file into `run` as steps. Its kind is detected from its content; relations are in files named `.jsonl`.

    `dataset` names the dataset. Without it, labels go to the datasets that the file states, other files to "imported".
    Bad entries are quarantined and counted. Raises `FatalError` for an unknown kind of file, if the run already has
    the steps, or has captions, graphs or candidates in other partitions than the labels', if `files` are set for
    another kind than labels, or if they have none of the file's images.
    """
    run.store.require_writable()
    if dataset is not None and not DATASET.fullmatch(dataset):
        raise FatalError(f"--dataset {dataset!r}: use letters, digits, '.', '_' and '-', e.g. coco2017")
    kind = kind_of(path)
    if kind != "labels" and files is not None and (files.folder is not None or files.paths is not None):
        raise FatalError(f"{path}: holds {kind}, and --images and --paths are for labels; omit them")
    result, tally = ImportResult(run.name, kind), Tally()
    if kind == "labels":
        _import_labels(path, run, dataset, files or ImageFiles(), result, tally)
    elif kind == "frequencies":
        rows, rejects = read_frequencies(dict(stream_fields(path, _OBJECTS)))
        step = ImportStep(run, "frequencies", "frequencies", FREQUENCIES)
        step.put(f"{dataset or 'imported'}/0000", rows, rejects, len(rows))
        step.record()
        result.steps.append(step.name)
        tally.note_all(rejects)
    else:
        _import_fields(path, run, dataset or "imported", result, tally)
    result.noted = tally.as_json()
    return result


def kind_of(path: Path) -> str:
    """Detects the kind of file from its name or first image. Raises `AnnotationError` unless it is one of `KINDS`."""
    if path.suffix == ".jsonl":
        return "relations"
    if opening(path, f"a file of {', '.join(KINDS)}") == "[":
        first = next(stream_rows(path, EXPECTED), None)
        if isinstance(first, dict) and not first.keys() & {"objects", "relationships"}:
            raise AnnotationError(
                f"{path}: its first element has neither objects nor relationships; expected {EXPECTED}. For COCO's "
                "results, write a recipe: captions need caption.captioner = 'recorded', detections detect.weights"
            )
        return "labels"
    for name, value in stream_fields(path, _OBJECTS):
        if name in ("relationship_names", "object_names", "relationship_freq", "object_freq"):
            return "frequencies"
        first = value[0] if isinstance(value, list) and value else None
        if isinstance(first, str):
            return "captions"
        if isinstance(first, dict):
            return "graphs"
        if isinstance(first, list):
            return "candidates"
    raise AnnotationError(f"{path}: unknown kind of file; expected {EXPECTED}, or {_OBJECTS}")


class _Waiting:
    """Rows and rejects of partitions that are not complete. Rejects without an image go with the next partition."""

    def __init__(self, put: Callable[[str, list[Any], list[Rejected], int], None], tally: Tally) -> None:
        self._put, self._tally = put, tally
        self._rows: dict[str, list[Any]] = {}
        self._rejects: dict[str, list[Rejected]] = {}
        self._full = ""
        self.lost: list[Rejected] = []

    def add(self, partition: str, row: Any, rejects: Iterable[Rejected], size: int) -> None:
        """Adds an image. The last full partition is held back, so that bad entries behind it have a quarantine."""
        self._rows.setdefault(partition, []).append(row)
        self._rejects.setdefault(partition, []).extend(rejects)
        if len(self._rows[partition]) == size:
            if self._full:
                self._flush(self._full)
            self._full = partition

    def flush_all(self) -> None:
        """Commits the remaining rows."""
        for partition in list(self._rows):
            self._flush(partition)

    def _flush(self, partition: str) -> None:
        rows, rejects, lost = self._rows.pop(partition), self._rejects.pop(partition) + self.lost, len(self.lost)
        self.lost = []
        self._put(partition, rows, rejects, len(rows) + lost)
        self._tally.note_all(rejects)


def _import_labels(
    path: Path, run: Run, name: str | None, files: ImageFiles, result: ImportResult, tally: Tally
) -> None:
    images = ImportStep(run, "ingest", "images", IMAGES)
    relations = ImportStep(run, "tag", "relations", RELATIONS)
    known, seen = _partitions_of(run), dict[str, set[int]]()
    apart: dict[tuple[str, str], tuple[int, str, str]] = {}

    def put(partition: str, held: list[LabelledImage], rejects: list[Rejected], rows_in: int) -> None:
        dataset = held[0].image["dataset"]
        images.put(partition, [each.image | {"dataset": name or dataset} for each in held], rejects, rows_in)
        labels = [{"image_id": each.image["image_id"], "relations": each.relations} for each in held]
        # Visual Genome without any confidence contains only annotations: it was never tagged.
        if dataset != VISUAL_GENOME or any(each.relations for each in held):
            relations.put(partition, labels, [], len(held))

    waiting = _Waiting(put, tally)
    for entry in stream_rows(path, EXPECTED):
        found = read_element(entry)
        if isinstance(found, Rejected):
            waiting.lost.append(found)
            continue
        dataset, image_id = found.image["dataset"], found.image["image_id"]
        ids = seen.setdefault(dataset, set())
        if name is not None and len(seen) > 1:
            raise FatalError(
                f"{path}: contains the datasets {', '.join(sorted(seen))}, whose ids may collide; import it without "
                "--dataset"
            )
        if image_id in ids:
            waiting.lost.append(Rejected(image_id, "image twice", dataset))
            continue
        partition = f"{name or dataset}/{len(ids) // PARTITION:04d}"
        ids.add(image_id)
        if (other := known.get(image_id, partition)) != partition:
            apart.setdefault((dataset_of(partition), dataset_of(other)), (image_id, partition, other))
        files.complete(found)
        waiting.add(partition, found, found.rejects, PARTITION)
        result.images += 1
    if not result.images:
        raise AnnotationError(
            f"{path}: none of its {len(waiting.lost)} elements is a usable image; expected {EXPECTED}"
        )
    own = {name or dataset for dataset in seen}
    for (dataset, captioned), (image_id, partition, other) in apart.items():
        if captioned == dataset or captioned not in own:  # else they are of another image with this id
            raise FatalError(
                f"{path}: image {image_id} would be in {partition}, apart from its captions, graphs or candidates in "
                f"{other} of run {run.name!r}; import the labels first --as a new run, then the other files"
            )
    waiting.flush_all()
    if files.folder is not None and not files.found:
        raise FatalError(
            f"{path}: none of its {result.images} images can be read in {files.folder}, e.g. {files.missing}; "
            "name their folder with --images, or omit it to import the labels without sizes"
        )
    result.steps += [step.name for step in (images, relations) if step.record()]


def _import_fields(path: Path, run: Run, dataset: str, result: ImportResult, tally: Tally) -> None:
    """Imports captions, graphs, candidates or relations, in the run's own partitions if it has the images."""
    boxed = images_with_boxes(run) if result.kind == "relations" else {}
    if result.kind == "relations" and not boxed:
        raise FatalError(f"run {run.name!r} has no boxes; `rlip run RECIPE --set run.until=ingest` reads a dataset's")
    step, read = _step_of(result.kind, path, run, boxed)
    known = _partitions_of(run)
    sizes = Counter(known.values())
    seen: set[int] = set()
    waiting = _Waiting(step.put, tally)
    for name, value in stream_scene_graphs(path, _ids_of(boxed)) if boxed else stream_fields(path, _OBJECTS):
        image_id = as_id(name)
        if image_id is None or image_id in seen or (known and image_id not in known):
            reason = "image twice" if image_id in seen else "image unknown to the run"
            reason = "image id not an integer" if image_id is None and not boxed else reason
            waiting.lost.append(Rejected(NO_IMAGE if image_id is None else image_id, reason, shown(name)))
            continue
        partition = known.get(image_id, f"{dataset}/{len(seen) // PARTITION:04d}")
        seen.add(image_id)
        waiting.add(partition, *read(image_id, value), sizes[partition] or PARTITION)
        result.images += 1
    if not result.images:
        example = f"{waiting.lost[0].reason}: {waiting.lost[0].value!r}" if waiting.lost else "the file is empty"
        raise AnnotationError(
            f"{path}: none of its {len(waiting.lost)} entries is a usable image, e.g. {example}; expected "
            f"{_GRAPHS if boxed else _OBJECTS}"
        )
    waiting.flush_all()
    step.record()
    result.steps.append(step.name)


def _step_of(kind: str, path: Path, run: Run, boxed: Mapping[str, Artifact]) -> tuple[ImportStep, _Read]:
    if kind == "captions":
        return ImportStep(run, "caption", "captions", IMAGE_CAPTIONS), partial(read_captions, source=path.stem)
    if kind == "graphs":
        captions = _lookup(run.artifacts("caption"), "captions", "captions")
        return ImportStep(run, "parse", "triplets", TRIPLETS), lambda image_id, value: read_graphs(
            image_id, value, captions(image_id)
        )
    if kind == "relations":
        boxes = _lookup(boxed, "images", "boxes")
        return ImportStep(run, "tag", "relations", RELATIONS, boxed), lambda image_id, value: read_scene_graph(
            image_id, value, boxes(image_id)
        )
    return ImportStep(run, "candidates", "groups", GROUPS), read_groups


def _partitions_of(run: Run) -> dict[int, str]:
    """Returns image id → partition of the run's images; empty if the run has none."""
    step = next((name for name in ("ingest", "caption", "parse", "candidates") if run.artifacts(name)), None)
    if step is None:
        return {}
    found: dict[int, str] = {}
    for partition, artifact in run.artifacts(step).items():
        for image_id in artifact.table(TABLES[step])["image_id"].to_pylist():
            if found.setdefault(image_id, partition) != partition:
                raise FatalError(
                    f"run {run.name!r} has image {image_id} in {found[image_id]} and {partition}: a file keyed by "
                    "image id only cannot be joined to it; import the file into a separate run"
                )
    return found


def _ids_of(boxed: Mapping[str, Artifact]) -> dict[str, int]:
    """Returns image ids by path and by file name, without those that several images have."""
    ids: dict[str, set[int]] = defaultdict(set)
    for artifact in boxed.values():
        for row in artifact.table("images").select(["image_id", "uri"]).to_pylist():
            for name in (row["uri"], Path(row["uri"]).name):
                ids[name].add(row["image_id"])
    return {name: image_id for name, (image_id, *others) in ids.items() if not others}


def _lookup(artifacts: Mapping[str, Artifact], table: str, column: str) -> Callable[[int], list[Any]]:
    """Returns a lookup of an image's list in a column, [] if there is none, that keeps one partition in memory."""
    places = {
        image_id: partition
        for partition, artifact in artifacts.items()
        for image_id in artifact.table(table)["image_id"].to_pylist()
    }
    held: dict[str, dict[int, list[Any]]] = {}

    def found(image_id: int) -> list[Any]:
        partition = places.get(image_id)
        if partition is None:
            return []
        if partition not in held:
            held.clear()
            rows = artifacts[partition].table(table).select(["image_id", column]).to_pylist()
            held[partition] = {row["image_id"]: row[column] or [] for row in rows}
        return held[partition][image_id]

    return found


_EXPECTED = 'paths of images: an object {"image id": "train/patch16/name.jpg"} (image_id_to_filepath.json)'


@dataclass
class ImageFiles:
    """A dataset's image folder, and Objects365's paths by image id. Both are optional."""

    folder: Path | None = None
    paths: Path | None = None
    found: int = 0
    """How many images have been found."""
    missing: str = ""
    """File of the first image that was not found."""
    _by_id: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.folder is not None and not self.folder.is_dir():
            raise FatalError(f"--images {self.folder}: not a folder; name the folder that holds the images")
        if self.paths is not None:
            for image_id, path in stream_fields(self.paths, _EXPECTED):
                if isinstance(path, str) and is_inside(path):
                    self._by_id[image_id] = path

    def complete(self, found: LabelledImage) -> None:
        """Sets the image's file and size, and clips its boxes to it. Adds unusable files to the image's rejects.

        A file is at its path inside the folder (train2017/1.jpg), or at this path without its first folders.
        """
        image = found.image
        listed = self._by_id.get(str(image["image_id"])) if image["dataset"] == "o365" else None
        if listed is not None:
            image["uri"] = listed
        if self.folder is None:
            return
        if not is_inside(image["uri"]):
            found.rejects.append(Rejected(image["image_id"], "file name not usable", shown(image["uri"])))
            return
        parts = Path(image["uri"]).parts
        try:
            places = ("/".join(parts[start:]) for start in range(len(parts)))
            image["uri"] = next((place for place in places if (self.folder / place).exists()), image["uri"])
            size = probe(self.folder / image["uri"])
        except (BadImage, OSError) as bad:
            self.missing = self.missing or image["uri"]
            # An OSError means e.g. that the name is too long for a file.
            unusable = "file name not usable", shown(image["uri"])
            said = (f"{bad.reason} (labels kept)", bad.value) if isinstance(bad, BadImage) else unusable
            found.rejects.append(Rejected(image["image_id"], *said))
            return
        self.found += 1
        image["width"], image["height"] = size.width, size.height
        for box in image["boxes"]:
            right, bottom = min(box["x"] + box["w"], size.width), min(box["y"] + box["h"], size.height)
            # The authors' normalised boxes have rounding errors of up to a pixel, which are acceptable.
            beyond = max(box["x"] + box["w"] - right, box["y"] + box["h"] - bottom)
            if beyond > 1:
                found.rejects.append(Rejected(image["image_id"], "box beyond the image (clamped)", shown(box)))
            if beyond > 0:
                box["w"], box["h"] = max(right - box["x"], 0.0), max(bottom - box["y"], 0.0)


class ImportStep:
    """Commits partitions as artifacts of the step's stage, then records the step in the run."""

    def __init__(
        self, run: Run, name: str, table: str, schema: pa.Schema, boxed: Mapping[str, Artifact] | None = None
    ) -> None:
        """`boxed`: the images whose boxes the rows refer to. Raises `FatalError` if the run already has the step."""
        if run.keys(name):
            raise FatalError(
                f"run {run.name!r} already has a step {name!r}; import --as another run, or rlip store rm it"
            )
        self.name = name
        self._run, self._table, self._schema, self._boxed = run, table, schema, boxed or {}
        self._keys: dict[str, str] = {}

    def put(
        self, partition: str, rows: Sequence[dict[str, Any]], rejects: Iterable[Rejected], rows_in: int | None = None
    ) -> None:
        """Commits a partition under a key derived from its content."""
        rejects = list(rejects)
        table = pa.Table.from_pylist(list(rows), schema=self._schema)
        result = _ImportedTable(self.name, self._table, table, rejects, rows_in)
        reasons = digest_json([[reject.image_id, reject.reason, reject.value] for reject in rejects])
        content = {"imported": digest_bytes(table_bytes(table)), "rejected": reasons, "rows in": rows_in}
        inputs = {"images": [self._boxed[partition].content]} if partition in self._boxed else {}
        terms = KeyTerms(self.name, result.version, content, inputs)
        item = WorkItem(self.name, partition, terms)
        self._keys[partition] = execute(result, item, self._run.store, lambda done, total, note="": None).key

    def record(self) -> bool:
        """Records the step in the run. Returns False, and records nothing, if no partition was committed."""
        if self._keys:
            self._run.record(self.name, self.name, self._keys)
        return bool(self._keys)


class _ImportedTable(Stage):
    """A stage that returns an imported table."""

    version = 0

    def __init__(
        self, name: str, writes: str, table: pa.Table, rejects: Sequence[Rejected], rows_in: int | None
    ) -> None:
        super().__init__(Settings())
        self.name, self.writes, self.schema = name, writes, table.schema  # type: ignore[misc]
        self._output = Output(table, rejected=rejects, rows_in=rows_in)

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Returns the imported table."""
        return self._output


_GRAPHS = "scene graphs: on each line a JSON object {file_name or image_id, relations: [{subject, predicate, object}]}"
SAME_BOX = 0.5
"""Minimum intersection over union of a stated box and the box that it means."""
_PARTS = ("subject", "predicate", "object")


def stream_scene_graphs(path: Path, ids: Mapping[str, int]) -> Iterator[tuple[Any, Any]]:
    """Yields each line's image and content. `ids`: file name → image id. Raises `AnnotationError`.

    A line that is not a JSON object, or names no image, yields what it has instead of an id.
    """
    with explained(path, _GRAPHS), path.open(encoding="utf-8-sig") as file:
        # Bounded, since a file without line breaks may have any size.
        for line in filter(str.strip, iter(lambda: file.readline(MAX_ELEMENT), "")):
            try:
                graph = as_object(parse_json(line))
            except (ValueError, RecursionError):
                graph = {}
            name = graph.get("image_id", graph.get("file_name", line))
            yield ids.get(name.replace("\\", "/"), name) if isinstance(name, str) else name, graph


def read_scene_graph(
    image_id: int, graph: Mapping[str, Any], boxes: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], Iterable[Rejected]]:
    """Converts a graph to a row of `relations` between the image's boxes, and rejects."""
    draft, scores = Draft(image_id), dict[tuple[int, str, int], float]()
    objects = draft.listed(graph, "objects") if "objects" in graph else []
    for item in draft.listed(graph, "relations"):
        with draft.rejecting(item):
            is_list = isinstance(item, list) and len(item) == len(_PARTS)
            values = dict(zip(_PARTS, item, strict=True)) if is_list else as_object(item)
            predicate = values.get("predicate")
            predicate = canonical(readable(predicate)) if isinstance(predicate, str) else ""
            score = as_number(values.get("score", 1.0))
            if not predicate:
                raise Unusable("relation malformed")
            if score is None or not 0 <= score <= 1:
                raise Unusable("score not a number from 0 to 1")
            subject, object_ = (_meant(values.get(role), role, objects, boxes) for role in ("subject", "object"))
            if subject == object_:
                raise Unusable("relation to itself")
            key = subject, predicate, object_
            if key in scores:
                draft.reject("relation twice", item)
            scores[key] = max(score, scores.get(key, 0.0))
    return {"image_id": image_id, "relations": scored_rows(scores)}, draft.rejects


def _meant(end: Any, role: str, objects: Sequence[Any], boxes: Sequence[Mapping[str, Any]]) -> int:
    """Returns the index of the box that one end of a relation means. Raises `Unusable`."""
    number = as_id(end)
    if number is not None:
        end = objects[number] if 0 <= number < len(objects) else None
    stated = {"name": end} if isinstance(end, str) else {"box": end} if isinstance(end, list) else as_object(end)
    name, corners = stated.get("name"), stated.get("box")
    usable = [index for index, box in enumerate(boxes) if not box["crowd"]]
    if isinstance(name, str):
        named = match(readable(name), [boxes[index]["category"] for index in usable])
        usable = [index for index in usable if boxes[index]["category"] in named]
        if not usable:
            raise Unusable(f"{role} names no box")
    elif corners is None:
        raise Unusable(f"{role} malformed")
    if corners is None:
        if len(usable) > 1:
            raise Unusable(f"{role} names several boxes")
        return usable[0]
    place = Box.between("", numbers_of(corners, f"{role} malformed"))
    shares = {index: overlap(place, Box("", *(boxes[index][side] for side in "xywh"))) for index in usable}
    best = max(shares, key=lambda index: shares[index], default=-1)
    if shares.get(best, 0.0) < SAME_BOX:
        raise Unusable(f"{role} overlaps no box")
    return best
