"""Describes published shards: the dataset card, and metadata in Croissant 1.1 for other tools.

The card has front matter for the Hugging Face hub, counts, and how the labels were made. Croissant:
https://docs.mlcommons.org/croissant/
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.labels.audit_sample import AuditPrecision
from pipeline.labels.kept_labels import ChoiceSettings, recorded_choice
from pipeline.labels.label_audit import LabelCount, learned_from
from pipeline.labels.label_funnel import most_frequent_first
from pipeline.labels.label_overrides import overrides_of
from pipeline.labels.labelled_partitions import byte_copies, images_with_boxes, is_made_from
from pipeline.labels.verdict_summary import run_precision
from pipeline.runtime.stage import dataset_of
from pipeline.runtime.wording import markdown_table, markdown_text
from storage.artifact import Artifact
from storage.digests import digest_json
from storage.runs import Run
from storage.shards.writer import LABELS

TOP = 25
"""Number of categories and predicates listed."""
_SIZES = (
    (1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"), (1e8, "10M<n<100M"),
    (1e9, "100M<n<1B"), (1e10, "1B<n<10B"), (1e11, "10B<n<100B"), (1e12, "100B<n<1T"), (float("inf"), "n>1T"),
)  # fmt: skip
"""Images below which a category of the hub holds, and its name."""
_RELATION = {
    "subject": "int64", "object": "int64", "predicate": "string", "confidence": "float64", "surface": "string",
    "ambiguity": "int64", "triplet": "int64", "caption": "int64",
}  # fmt: skip
_LISTS = {
    "objects": {"category": "string", **dict.fromkeys("xywh", "float64")},
    "relations": _RELATION,
    "uncertain": _RELATION,
}
_LABELS = {
    "version": "int64", "image_id": "int64", "dataset": "string", "width": "int64", "height": "int64",
    "labels": "string", "tagger": "string",
}  # fmt: skip
_FREQUENT = {"category": "object", "predicate": "predicate"}
"""What the card calls names → their kind in the statistics."""
_CAPTIONING = ("captioner", "of", "decoding", "draws", "top_p", "top_k", "temperature", "num_beams", "prompt")


Row = tuple[str, ...]
"""Cells of a table, in Markdown."""
_FOLDER = Path(__file__).parent / "templates"
_TEMPLATES = Environment(
    loader=FileSystemLoader(_FOLDER),
    keep_trailing_newline=True,
    lstrip_blocks=True,
    trim_blocks=True,
    undefined=StrictUndefined,
)
_TEMPLATES.filters |= {"markdown": markdown_text, "table": lambda rows, *head: "\n".join(markdown_table(head, rows))}


@dataclass(frozen=True)
class Release:
    """Published shards and the run they are from."""

    run: Run
    step: str
    shards: Mapping[str, Artifact]
    """Partition → artifact."""
    license: str
    tables: Mapping[str, pa.Table]
    """Path of each tar in the folder → its index."""
    sizes: Mapping[str, int]
    """Path of each tar → its size in bytes."""
    statistics: pa.Table
    verdicts: Path | None = None
    """Folder of verdicts; None for the store's own."""

    @property
    def title(self) -> str:
        """The name of the dataset."""
        return f"{self.run.name.replace('@', '-')}-{self.step.partition(':')[2] or 'shards'}"

    def datasets(self) -> list[str]:
        """The names of the images' datasets."""
        return sorted(self._values("dataset"))

    def image_extensions(self) -> list[str]:
        """The file extensions of the images."""
        return sorted(self._values("extension") - {LABELS})

    def _values(self, column: str) -> set[str]:
        return {name for index in self.tables.values() for name in index[column].unique().to_pylist()}

    @cached_property
    def counts(self) -> Mapping[str, Counter[str]]:
        """Kind → name → count over all tars."""
        found: dict[str, Counter[str]] = {}
        for row in self.statistics.to_pylist():
            found.setdefault(row["kind"], Counter())[row["name"]] += row["count"]
        return found

    @cached_property
    def lineage(self) -> Mapping[str, list[Artifact]]:
        """Step → its artifacts that the shards were made from, nearest steps first."""
        steps = {key: step for step in sorted(self.run.steps()) for key in self.run.keys(step).values()}
        known = {a.key: a for step in set(steps.values()) for a in self.run.artifacts(step).values()}
        found: dict[str, list[Artifact]] = {self.step: list(self.shards.values())}
        due, seen = list(self.shards.values()), {artifact.key for artifact in self.shards.values()}
        while due:
            upstream = [key for artifact in due for keys in artifact.manifest.upstream.values() for key in keys]
            due = [known[key] for key in dict.fromkeys(upstream) if key in known and key not in seen]
            seen.update(artifact.key for artifact in due)
            for artifact in due:
                found.setdefault(steps[artifact.key], []).append(artifact)
        return found


def describe(release: Release) -> str:
    """One paragraph on the contents of the shards."""
    totals = release.counts.get("total", Counter())
    images = "synthetic images" if release.run.recipe.get("scenes") else "images"
    return (
        f"Scene graphs of {totals['images']:,} {images} of {', '.join(release.datasets())}: {totals['boxes']:,} boxes "
        f"and {totals['relations']:,} relations between them, as WebDataset tars. {_origin(release)}"
    )


def dataset_card(release: Release) -> str:
    """Returns the card as Markdown. Equal shards of the same run give equal text while the verdicts are the same."""
    settings = _settings(release.shards.values())
    is_pseudo = settings.get("labels", "pseudo") == "pseudo"
    reviewed = run_precision(release.run, release.verdicts) if is_pseudo else None
    captions = _settings(release.lineage.get("caption", ()))
    return _TEMPLATES.get_template("dataset_card.md").render(
        release=release,
        settings=settings,
        front_matter=_front_matter(release),
        description=describe(release),
        contents=_contents(release),
        frequent={kind: _most_frequent(release.counts.get(of, Counter())) for kind, of in _FREQUENT.items()},
        origin=_origin(release),
        choice=recorded_choice(settings).in_words() if is_pseudo else "",
        reviewed=reviewed,
        judged=_judged(reviewed) if reviewed else [],
        audits=_audits(release, recorded_choice(settings)) if is_pseudo else [],
        recipe=str(release.run.recipe.get("name", release.run.name)),
        steps=[_step(step, artifacts) for step, artifacts in release.lineage.items()],
        captioning=", ".join(f"{name} {json.dumps(captions[name])}" for name in _CAPTIONING if name in captions),
        models=_models(release),
    )


def _front_matter(release: Release) -> str:
    """The metadata of the Hugging Face hub, in YAML."""
    from huggingface_hub import DatasetCardData

    images = release.counts.get("total", Counter())["images"]
    configs: dict[str, str | list[str]] = {"default": "data/*.tar"}
    if len(datasets := release.datasets()) > 1:
        configs |= {name: _tars_of(name, release) for name in datasets}
    return DatasetCardData(
        license=release.license,
        pretty_name=release.title,
        task_categories=["object-detection", "image-feature-extraction"],
        size_categories=[next(name for most, name in _SIZES if images < most)],
        tags=["scene-graph-generation", "visual-relationship-detection", "webdataset", "croissant"],
        configs=[
            {"config_name": name, "data_files": [{"split": "train", "path": path}]} for name, path in configs.items()
        ],
        dataset_info=[{"config_name": name, "features": _features(release)} for name in configs],
    ).to_yaml()


def _tars_of(dataset: str, release: Release) -> str | list[str]:
    """The pattern of a dataset's tars, or one for each length of their numbers: a star would match those of a dataset
    whose name begins alike."""
    numbered = re.compile(rf"(data/{re.escape(dataset)}-)([0-9]+-[0-9]+)\.tar")
    tars = filter(None, map(numbered.fullmatch, release.tables))
    patterns = sorted({f"{tar[1]}{re.sub('[0-9]', '[0-9]', tar[2])}.tar" for tar in tars})
    return patterns[0] if len(patterns) == 1 else patterns


def _features(release: Release) -> list[dict[str, Any]]:
    """The fields of a sample. Without them, `datasets` would guess from the first five, which may lack relations."""
    lists = ({"name": name, "list": _typed(fields)} for name, fields in _LISTS.items())
    return [
        *_typed(dict.fromkeys(release.image_extensions(), "image")),
        {"name": LABELS, "struct": [*_typed(_LABELS), *lists]},
        *_typed({"__key__": "string", "__url__": "string"}),
    ]


def _typed(fields: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"name": name, "dtype": kind} for name, kind in fields.items()]


def _contents(release: Release) -> list[Row]:
    totals = release.counts.get("total", Counter())
    with_relations = totals["images"] - totals["images without relations"]
    share = f" ({totals['relations'] / totals['images']:.2f} per image)" if totals["images"] else ""
    copies = byte_copies([t.filter(pc.field("extension") != LABELS)["digest"] for t in release.tables.values()])
    return [
        ("images", f"{totals['images']:,}"),
        ("of these with relations", f"{with_relations:,}"),
        *([("byte copies of others", f"{copies:,}")] if copies else []),
        ("boxes", f"{totals['boxes']:,}"),
        ("relations", f"{totals['relations']:,}{share}"),
        ("categories", f"{len(release.counts.get('object', ())):,}"),
        ("predicates", f"{len(release.counts.get('predicate', ())):,}"),
        ("tars", f"{len(release.tables):,}"),
        ("bytes", f"{sum(release.sizes.values()):,}"),
    ]


def _most_frequent(counts: Counter[str]) -> list[Row]:
    ranked = [*most_frequent_first(counts).items()]
    total = counts.total()
    rows: list[Row] = [(markdown_text(name), f"{count:,}", f"{count / total:.1%}") for name, count in ranked[:TOP]]
    if len(ranked) > TOP:
        rest = sum(count for _, count in ranked[TOP:])
        rows.append((f"{len(ranked) - TOP:,} others", f"{rest:,}", f"{rest / total:.1%}"))
    return rows


def _origin(release: Release) -> str:
    kind = _settings(release.shards.values()).get("labels", "pseudo")
    return {
        "pseudo": "A Relation Tagger scored what the images' captions state: pseudo-labels, not annotations.",
        "naive": "Every pair of boxes that a caption may mean has its predicate, whether or not the image shows it.",
        "given": "The relations are annotations of the datasets themselves.",
        "none": "They have boxes only.",
    }[kind]


def _judged(reviewed: AuditPrecision) -> list[Row]:
    return [
        (
            markdown_text(each.predicate), f"{each.judged:,}", f"{each.right:,}", f"{each.precision:.3f}",
            f"{each.low:.3f} to {each.high:.3f}",
        )
        for each in reviewed.predicates[:TOP]
    ]  # fmt: skip


def _audits(release: Release, choice: ChoiceSettings) -> list[Row]:
    """The precision of pseudo-labels by the datasets' ground truth, of those that have any."""
    ingested = images_with_boxes(release.run)
    tagged = {
        name: found
        for name, found in release.run.artifacts("tag").items()
        if name in ingested and is_made_from(found, "images", ingested[name])
    }
    settled, learned = overrides_of(release.run), learned_from(release.run, release.datasets())
    rows = []
    for dataset in release.datasets():
        count = LabelCount(choice, learned[dataset])
        for partition in sorted(release.shards):
            if dataset_of(partition) == dataset and partition in tagged:
                count.add(ingested[partition].table("images"), tagged[partition], settled.get(partition))
        if (audit := count.audit()).given:
            numbers = (f"{number:,}" for number in (audit.images, audit.given, audit.tagger.kept))
            shares = (audit.tagger.precision, audit.tagger.recall)
            cells = *numbers, *("–" if x is None else f"{x:.3f}" for x in shares)
            said = {True: "yes", False: "no", None: "unknown"}[audit.learned_from]
            rows.append((markdown_text(dataset), *cells, said))
    return rows


def _step(step: str, artifacts: Sequence[Artifact]) -> Row:
    """A step of the lineage, with its versions and digest."""
    versions = sorted({artifact.manifest.terms["version"] for artifact in artifacts})
    keys = sorted(artifact.key for artifact in artifacts)
    named = keys[0] if len(keys) == 1 else digest_json(keys)
    return step, ", ".join(map(str, versions)), f"{len(keys):,}", f"`{named[:16]}`"


def _models(release: Release) -> list[Row]:
    """Step, role and digest of each model or list that a step read, once each."""
    found = dict.fromkeys(
        (step, markdown_text(str(role)), f"`{digest}`")
        for step, artifacts in release.lineage.items()
        for artifact in artifacts
        for role, digest in sorted(artifact.manifest.terms.get("weights", {}).items())
    )
    return list(found)


def _settings(artifacts: Any) -> dict[str, Any]:
    """The settings of the first artifact; those of the others differ only by partition."""
    first = next(iter(artifacts), None)
    return {} if first is None else dict(first.manifest.terms["settings"])


_IMAGE_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp", "bmp": "image/bmp"}
_STATISTICS = {"shard": "sc:Text", "kind": "sc:Text", "name": "sc:Text", "count": "sc:Integer"}


def croissant(release: Release, digests: Mapping[str, str]) -> str:
    """Returns the metadata as JSON-LD. `digests`: sha256 of each tar and of `statistics.parquet`, by path."""
    statistics, extensions = "statistics.parquet", release.image_extensions()
    tars = [
        _file(name, "application/x-tar", digests, contentSize=f"{release.sizes[name]} B") for name in release.tables
    ]
    encodings = {each: _IMAGE_TYPES[each] for each in extensions} | {"json": "application/json"}
    members = [
        _named(
            "FileSet", f"{extension}-files", containedIn=[{"@id": name} for name in release.tables],
            encodingFormat=encoding, includes=f"*.{extension}",
        )
        for extension, encoding in encodings.items()
    ]  # fmt: skip
    counts = [
        _field("statistics", name, kind, {"fileObject": {"@id": statistics}}, {"column": name})
        for name, kind in _STATISTICS.items()
    ]
    values = {
        "@context": json.loads((_FOLDER / "croissant_context.json").read_bytes()),
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": release.title,
        "description": describe(release),
        "license": release.license,
        "version": "1.0.0",
        "distribution": [*tars, *members, _file(statistics, "application/x-parquet", digests)],
        "recordSet": [
            *(_record_set(extension, "image", "sc:ImageObject") for extension in extensions),
            _record_set("json", "labels", "sc:Text"),
            _named(
                "RecordSet",
                "statistics",
                description="Counts per tar: totals, categories and predicates.",
                field=counts,
            ),
        ],
    }
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def _named(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"cr:{kind}", "@id": name, "name": name, **fields}


def _file(name: str, encoding: str, digests: Mapping[str, str], **fields: Any) -> dict[str, Any]:
    return _named("FileObject", name, contentUrl=name, encodingFormat=encoding, sha256=digests[name], **fields)


def _record_set(extension: str, what: str, kind: str) -> dict[str, Any]:
    """The record set of all members with one extension. Records of a sample have equal keys."""
    name = what if extension == "json" else f"{what}s-{extension}"
    files = {"fileSet": {"@id": f"{extension}-files"}}
    key = _field(name, "key", "sc:Text", files, {"fileProperty": "filename"})
    key["source"]["transform"] = {"regex": r"^(.*)\.[^.]*$"}
    content = _field(name, what, kind, files, {"fileProperty": "content"})
    description = f"The {what} of each sample. Records of a sample have equal keys."
    return _named("RecordSet", name, description=description, field=[key, content])


def _field(record: str, name: str, kind: str, where: dict[str, Any], extract: dict[str, str]) -> dict[str, Any]:
    source = {**where, "extract": extract}
    return {"@type": "cr:Field", "@id": f"{record}/{name}", "name": name, "dataType": kind, "source": source}
