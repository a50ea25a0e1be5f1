"""`rlip explain`: traces the labels of an image from its file and captions to their scores and places in shards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import typer
from rich.console import Console
from rich.text import Text

from pipeline.cli.options import STORE, AsJson, StorePath
from pipeline.data.datasets.annotations import as_id, readable
from pipeline.labels.kept_labels import choice_of, ranked_labels, recorded_choice
from pipeline.labels.label_overrides import overrides_of
from pipeline.labels.label_rows import stated_by
from pipeline.labels.labelled_partitions import (
    candidates,
    images_with_boxes,
    items_of_image,
    of_image,
    opinions,
    partition_artifacts,
    require_same_boxes,
    rows_of_image,
)
from pipeline.report.formatting import sanitise
from pipeline.runtime.wording import counted
from pipeline.training.settings import fold_of
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.open_store import existing_store
from storage.runs import Run, find_run, runs_of
from storage.store import Store
from tagger.english.predicates import canonical

_PARTS = {
    "tagger_part": "tagger",
    "prior_part": "boxes and names",
    "posterior_part": "other pairs of the mention",
    "captions_part": "captions",
}
"""Column → what adds it to a label's log-odds, in words."""


@dataclass(frozen=True)
class ImageTrace:
    """All that a run knows about one image. Rows are as in the tables; digests are those in the artifact keys."""

    run: str
    partition: str
    image: Mapping[str, Any]
    captions: Sequence[Mapping[str, Any]]
    captioner: Mapping[str, str]
    """Role → digest of a file or folder of the captioner."""
    tagger: str | None
    """Content digest of the artifact of the tagger that scored the image."""
    labels: Sequence[Mapping[str, Any]]
    """Relations, best first, then those that reviewers added (`score` is None). Each has its `words` (a triplet), its
    `caption`, its pair's `mentions` (candidates), why it is not kept (`not_kept`, None if it is), with the `confidence`
    that decides, and the verifier's `opinion`, the probability that it holds (None without one)."""
    dropped: Sequence[Mapping[str, Any]]
    """Triplets that led to no candidate, each with the `reason` and the `value`, the word that it is about."""
    shards: Sequence[Mapping[str, Any]]
    """The place of the image in each kind of shard, and which labels were kept there."""
    rejected: Sequence[Mapping[str, Any]]

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def explain(
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="An id (42), dataset and id (coco/42), file name or path.")
    ],
    run_name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Required if the store has several.")] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Trace an image's labels: its file, boxes and captions, each label's words and score, and its place in a shard."""
    opened = existing_store(store)
    trace = trace_of(find_run(opened, run_name) if run_name is not None else _only_run(opened), image)
    if as_json:
        print(json.dumps(vars(trace), ensure_ascii=False, default=str))
        return
    Console(markup=False).print(Text(str(trace)), soft_wrap=True)


def trace_of(run: Run, image: str) -> ImageTrace:
    """Look up an image by id, by `dataset/id`, by file name or path.

    Raises `FatalError` unless exactly one image matches, and as `require_same_boxes` does.
    """
    partition, row = _find(run, image)
    image_id = row["image_id"]
    at = {step: every[partition] for step in run.steps() if partition in (every := run.artifacts(step))}
    found = partition_artifacts(run)[partition]
    if found.images is not None and found.tagged is not None:
        require_same_boxes(found.images, found.tagged)
    captioned, parsed = found.label_sources()
    texts, triplets = items_of_image(captioned, "captions", image_id), items_of_image(parsed, "triplets", image_id)
    labels = _labels(run, partition, at.get("tag"), image_id)
    said = opinions(at.get("verify"), at["tag"]) if "tag" in at else {}
    taggers = at["tag"].manifest.terms["inputs"].get("tagger", ()) if "tag" in at else ()
    mentions: dict[tuple[int, str, int], list[dict[str, Any]]] = {}
    for pair in items_of_image(at.get("tag"), "candidates", image_id, "pairs"):
        mentions.setdefault(ends_of(pair), []).append(pair)
    return ImageTrace(
        run=run.name,
        partition=partition,
        image=row,
        captions=items_of_image(at.get("caption"), "captions", image_id),
        captioner=at["caption"].manifest.terms["weights"] if "caption" in at else {},
        tagger=taggers[fold_of(row["dataset"], image_id, len(taggers))] if taggers else None,
        labels=[
            {
                **label,
                "words": words or {},
                "caption": caption,
                "mentions": mentions.get(ends_of(label), []),
                "opinion": said.get((image_id, label["subject"], label["object"], canonical(label["predicate"]))),
            }
            for label in labels
            for words, caption in (stated_by(label, triplets, texts),)
        ],
        dropped=[
            {**triplets[row["triplet"]], "reason": row["reason"], "value": row["value"]}
            for row in rows_of_image(at.get("tag"), "dropped", image_id)
            if row["triplet"] < len(triplets)
        ],
        shards=[
            place for step in sorted(at) if step.startswith("shard:") for place in _places(step, at[step], image_id)
        ],
        rejected=[row for step in at for row in at[step].rejected().to_pylist() if row["image_id"] == image_id],
    )


def _find(run: Run, image: str) -> tuple[str, dict[str, Any]]:
    """Partition and row of the one image that `image` names."""
    dataset, _, name = image.rpartition("/")
    image = readable(image)
    parts = image.split("/")
    ends = ["/".join(parts[start:]) for start in range(len(parts))]
    matches = []
    for partition, artifact in images_with_boxes(run).items():
        images = artifact.table("images")
        meant = pc.is_in(images["uri"], pa.array(ends, pa.string()))
        if (image_id := as_id(name)) is not None:
            meant = pc.or_(meant, pc.equal(images["image_id"], image_id))
        matches += [
            (partition, row)
            for row in images.filter(meant).to_pylist()
            if row["uri"] in ends or dataset in ("", row["dataset"])
        ]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise FatalError(
            f"run {run.name!r} has no image {image!r}; name it by id, by dataset and id (coco/42) or by file"
        )
    names = ", ".join(f"{row['dataset']}/{row['image_id']}" for _, row in matches)
    raise FatalError(f"{image!r} names {len(matches)} images: {names}; name one of them")


def _labels(run: Run, partition: str, tagged: Artifact | None, image_id: int) -> list[dict[str, Any]]:
    """The relations of an image, best first, with why they are not kept; then those that reviewers added."""
    if tagged is None:
        return []
    relations, proposed = (of_image(table, image_id) for table in (tagged.table("relations"), candidates(tagged)))
    settled = overrides_of(run).get(partition, {})
    own = {number: of_image for number, of_image in settled.items() if number == image_id}
    return [
        label | {"not_kept": verdict.reason, "confidence": verdict.confidence}
        for _, labels in ranked_labels(relations, proposed, choice_of(run), own)
        for label, verdict in labels
    ]


def ends_of(label: Mapping[str, Any]) -> tuple[int, str, int]:
    """Subject, predicate and object of a row's relation or pair."""
    return label["subject"], label["predicate"], label["object"]


def _places(step: str, artifact: Artifact, image_id: int) -> Iterator[dict[str, Any]]:
    settings = artifact.manifest.terms["settings"]
    choice = recorded_choice(settings).in_words() if "threshold" in settings else None
    for row in of_image(artifact.table("shards"), image_id).to_pylist():
        yield {"step": step, "artifact": artifact.key, "labels": choice, **row}


def _only_run(store: Store) -> Run:
    runs = runs_of(store)
    if len(runs) != 1:
        advice = f"name one of {', '.join(run.name for run in runs)}" if runs else "`rlip run RECIPE` creates one"
        raise FatalError(f"{store.address} has {len(runs)} runs; {advice}")
    return runs[0]


def _lines(trace: ImageTrace) -> Iterator[str]:
    row = trace.image
    yield (
        f"image {row['dataset']}/{row['image_id']}: {row['uri']}, {row['width']}x{row['height']}, "
        f"digest {row['digest'][:12]}"
    )
    yield f"  in partition {trace.partition} of run {trace.run}"
    for number, box in enumerate(row["boxes"]):
        yield (
            f"  box #{number} {sanitise(box['category'])} at {box['x']:.0f},{box['y']:.0f}, "
            f"{box['w']:.0f}x{box['h']:.0f}"
        )
    made_by = ", ".join(f"{role} {digest[:12]}" for role, digest in trace.captioner.items())
    yield f"{len(trace.captions)} captions" + (f" by {made_by}" if made_by else "")
    for caption in trace.captions:
        of = "".join(f", of #{box}" for box in caption["boxes"] or ())
        yield f"  {sanitise(caption['text'])} (draw {caption['draw']}, seed {caption['seed']}{of})"
    tagger = f", scored by tagger {trace.tagger[:12]}" if trace.tagger else ""
    yield f"{counted(len(trace.labels), 'label')}{tagger}"
    boxes = row["boxes"]
    for label in trace.labels:
        names = [f"#{label[role]} {sanitise(boxes[label[role]]['category'])}" for role in ("subject", "object")]
        score = "added by a reviewer:" if label["score"] is None else f"{label['score']:.3f}"
        yield f"  {score} {names[0]} | {sanitise(label['predicate'])} | {names[1]}{_because(label)}"
        if label["tagger_part"] is not None:
            parts = ", ".join(f"{words} {label[part]:+.2f}" for part, words in _PARTS.items())
            yield f"        probability {label['probability']:.3f}; added log-odds: {parts}"
        if label["opinion"] is not None:
            yield f"        verifier: holds with probability {label['opinion']:.3f}"
        if label["not_kept"] is not None:
            yield f"        not kept: {label['not_kept']}"
    if trace.dropped:
        yield f"{counted(len(trace.dropped), 'triplet')} that led to no candidate"
    for triplet in trace.dropped:
        about = f" ({sanitise(triplet['value'])})" if triplet["value"] else ""
        yield f"  “{_quoted(triplet)}”: {triplet['reason']}{about}"
    for place in trace.shards:
        limit = f", labels of {place['labels']}" if place["labels"] is not None else ""
        member = f"{place['key']}.{place['extension']} in {place['shard']}"
        yield f"{place['step']}: {member} at byte {place['offset']}, {place['size']} bytes{limit}"
    for reject in trace.rejected:
        yield f"rejected by {reject['stage']}: {sanitise(reject['reason'])} {sanitise(reject['value'])}"


def _because(label: Mapping[str, Any]) -> str:
    words = label["words"]
    if not words:
        return ""
    draw = f", draw {label['caption']['draw']}" if label["caption"] else ""
    return f"  from “{_quoted(words)}” (rule {words['rule']}{draw}{_alternatives(label)})"


def _quoted(words: Mapping[str, Any]) -> str:
    return " … ".join(sanitise(words[role]) for role in ("subject", "predicate", "object"))


def _alternatives(label: Mapping[str, Any]) -> str:
    """The probability that the words mean this pair, if they may also mean others."""
    likeliest = max(label["mentions"], key=lambda mention: mention.get("prior") or 0.0, default=None)
    if likeliest is None or likeliest["ambiguity"] <= 1 or likeliest.get("prior") is None:
        return ""
    after = f", posterior {label['posterior']:.3g}" if label.get("posterior") is not None else ""
    return f", one of {likeliest['ambiguity']} pairs, prior {likeliest['prior']:.3g}{after}"
