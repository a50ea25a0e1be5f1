"""Describes published shards: the dataset card, and metadata in Croissant 1.1 for other tools.

The card has front matter for the Hugging Face hub, counts, and how the labels were made. Croissant:
https://docs.mlcommons.org/croissant/
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.labels.kept_labels import recorded_choice
from pipeline.labels.label_audit import LabelCount
from pipeline.labels.labelled_partitions import byte_copies, images_with_boxes
from pipeline.labels.verdict_log import VERDICTS
from pipeline.labels.verdict_summary import run_precision
from pipeline.runtime.wording import markdown_table, markdown_text
from storage.artifact import Artifact
from storage.digests import digest_json
from storage.runs import Run
from storage.shards.writer import LABELS

TOP = 25
"""Number of categories and predicates listed."""
_SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"))
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
_CAPTIONING = ("captioner", "of", "decoding", "draws", "top_p", "top_k", "temperature", "num_beams", "prompt")


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
    images = "synthetic images" if release.run.read_document("recipe").get("scenes") else "images"
    return (
        f"Scene graphs of {totals['images']:,} {images} of {', '.join(release.datasets())}: {totals['boxes']:,} boxes "
        f"and {totals['relations']:,} relations between them, as WebDataset tars. {_origin(release)}"
    )


def dataset_card(release: Release) -> str:
    """Returns the card as Markdown. Equal shards of the same run give equal text as long as the verdicts are the same."""
    return "\n".join(
        [
            "---", _front_matter(release), "---", "",
            f"# {markdown_text(release.title)}", "", markdown_text(describe(release)), "",
            *_contents(release), *_how_to_stream(release), *_labels(release), *_audits(release), *_lineage(release),
            "## Licence", "",
            f"The publisher states `{release.license}`. The images keep the terms of their original datasets.", "",
        ]
    )  # fmt: skip


def _front_matter(release: Release) -> str:
    """The metadata of the Hugging Face hub, in YAML."""
    from huggingface_hub import DatasetCardData

    images = release.counts.get("total", Counter())["images"]
    configs = {"default": "data/*.tar"}
    if len(release.datasets()) > 1:
        digits = "[0-9]"
        configs |= {name: f"data/{name}-{digits * 4}-{digits * 3}.tar" for name in release.datasets()}
    return DatasetCardData(
        license=release.license,
        pretty_name=release.title,
        task_categories=["object-detection", "image-feature-extraction"],
        size_categories=[next((name for most, name in _SIZES if images < most), "n>10M")],
        tags=["scene-graph-generation", "visual-relationship-detection", "webdataset", "croissant"],
        configs=[
            {"config_name": name, "data_files": [{"split": "train", "path": path}]} for name, path in configs.items()
        ],
        dataset_info=[{"config_name": name, "features": _features(release)} for name in configs],
    ).to_yaml()


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


def _contents(release: Release) -> list[str]:
    totals = release.counts.get("total", Counter())
    with_relations = totals["images"] - totals["images without relations"]
    share = f" ({totals['relations'] / totals['images']:.2f} per image)" if totals["images"] else ""
    copies = byte_copies([t.filter(pc.field("extension") != LABELS)["digest"] for t in release.tables.values()])
    predicates, objects = (release.counts.get(kind, Counter()) for kind in ("predicate", "object"))
    rows = [
        ("images", f"{totals['images']:,}"),
        ("of these with relations", f"{with_relations:,}"),
        *([("byte copies of others", f"{copies:,}")] if copies else []),
        ("boxes", f"{totals['boxes']:,}"),
        ("relations", f"{totals['relations']:,}{share}"),
        ("categories", f"{len(objects):,}"),
        ("predicates", f"{len(predicates):,}"),
        ("tars", f"{len(release.tables):,}"),
        ("bytes", f"{sum(release.sizes.values()):,}"),
    ]
    return [
        "## Contents", "", *markdown_table(("", "count"), rows), "",
        "A sample has two members: the original image, and `json` with its labels. Boxes (`objects`) are x, y, w and h",
        "in pixels of that image. Relations refer to boxes by their index in the list, and `predicate` is the",
        "canonical form of the words in `surface`.", "",
        *_histogram("category", objects), *_histogram("predicate", predicates),
        "`statistics.parquet` has all counts for each tar. Each tar has an index, `*.index.parquet`, with position and",
        "sha256 of every member; `sha256sum --check SHA256SUMS` or `rlip shards verify .` checks the whole copy.", "",
    ]  # fmt: skip


def _histogram(what: str, counts: Counter[str]) -> list[str]:
    if not counts:
        return []
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    total = counts.total()
    rows = [(markdown_text(name), f"{count:,}", f"{count / total:.1%}") for name, count in ranked[:TOP]]
    if len(ranked) > TOP:
        rest = sum(count for _, count in ranked[TOP:])
        rows.append((f"{len(ranked) - TOP:,} others", f"{rest:,}", f"{rest / total:.1%}"))
    return [*markdown_table((what, "count", "share"), rows), ""]


def _how_to_stream(release: Release) -> list[str]:
    return [
        "## How to stream it", "",
        "With this project, in an order that any number of ranks shares and that resumes exactly where it stopped:", "",
        "```python",
        "from pathlib import Path",
        "",
        "from storage.shards.index import index_path",
        "from storage.shards.sample_map import ShardFile, write_sample_map",
        "from storage.stream.stream import Stream",
        "",
        'tars = sorted(Path("data").glob("*.tar"))',
        'samples = write_sample_map(Path("../samples"), [ShardFile(str(tar), index_path(tar)) for tar in tars])',
        "for sample in Stream(samples, epochs=1):",
        '    print(sample["__key__"], sample["json"])',
        "```", "",
        "With webdataset, or with Hugging Face `datasets`:", "",
        "```python",
        "from glob import glob",
        "from pathlib import Path",
        "",
        "import datasets",
        "import webdataset",
        "",
        'for sample in webdataset.WebDataset(sorted(glob("data/*.tar")), shardshuffle=False).decode("pil"):',
        '    print(sample["__key__"], sample["json"]["relations"])',
        'print(datasets.load_dataset(str(Path().absolute()), split="train")[0])',
        "```", "",
    ]  # fmt: skip


def _labels(release: Release) -> list[str]:
    settings = _settings(release.shards.values())
    lines = ["## Labels", "", _origin(release), ""]
    if settings.get("labels", "pseudo") == "pseudo" and (choice := recorded_choice(settings).in_words()):
        lines += [f"Kept labels: {markdown_text(choice)}, at most {settings['max_relations']} per image.", ""]
    return lines


def _origin(release: Release) -> str:
    kind = _settings(release.shards.values()).get("labels", "pseudo")
    return {
        "pseudo": "A Relation Tagger scored what the images' captions state: pseudo-labels, not annotations.",
        "naive": "Every pair of boxes that a caption may mean has its predicate, whether or not the image shows it.",
        "given": "The relations are annotations of the datasets themselves.",
        "none": "They have boxes only.",
    }[kind]


def _audits(release: Release) -> list[str]:
    """The precision of pseudo-labels: by the verdicts in the run's store, and by the datasets' ground truth, if any."""
    settings = _settings(release.shards.values())
    if settings.get("labels", "pseudo") != "pseudo":
        return []
    lines = []
    if (by_people := run_precision(release.run, release.run.store.root / VERDICTS)) is not None:
        judged = [
            (markdown_text(each.predicate), f"{each.judged:,}", f"{each.right:,}", f"{each.low:.3f} to {each.high:.3f}")
            for each in by_people.predicates[:TOP]
        ]
        lines += [
            "## Precision by reviewers", "", f"{by_people.in_words()}.", "",
            *markdown_table(("predicate", "judged", "right", "95 % interval"), judged), "",
        ]  # fmt: skip
    ingested, tagged = images_with_boxes(release.run), release.run.artifacts("tag")
    rows = []
    for dataset in release.datasets():
        count = LabelCount(recorded_choice(settings))
        for partition in sorted(release.shards):
            if partition.split("/")[0] == dataset and partition in ingested and partition in tagged:
                count.add(ingested[partition].table("images"), tagged[partition])
        if (audit := count.audit()).given:
            numbers = (f"{number:,}" for number in (audit.images, audit.given, audit.tagger.kept))
            shares = (audit.tagger.precision, audit.tagger.recall)
            rows.append((markdown_text(dataset), *numbers, *("–" if x is None else f"{x:.3f}" for x in shares)))
    if rows:
        lines += [
            "## Audit", "",
            "On images with ground-truth relations. Ground truth is never complete, so labels that it lacks count as",
            "wrong here, and precision is a lower bound.", "",
            *markdown_table(("dataset", "images", "ground truth", "kept", "precision", "recall"), rows), "",
        ]  # fmt: skip
    return lines


def _lineage(release: Release) -> list[str]:
    """How the labels were made: every step, with what identifies it."""
    recipe = release.run.read_document("recipe").get("name", release.run.name)
    rows = []
    models: dict[tuple[str, str, str], None] = {}
    for step, artifacts in release.lineage.items():
        versions = sorted({artifact.manifest.terms["version"] for artifact in artifacts})
        keys = sorted(artifact.key for artifact in artifacts)
        named = keys[0] if len(keys) == 1 else digest_json(keys)
        rows.append((step, ", ".join(map(str, versions)), f"{len(keys):,}", f"`{named[:16]}`"))
        for artifact in artifacts:
            for role, digest in sorted(artifact.manifest.terms.get("weights", {}).items()):
                models[step, markdown_text(str(role)), f"`{digest}`"] = None
    lines = [
        "## Lineage", "",
        f"Run `{release.run.name}` of recipe `{markdown_text(str(recipe))}`. A key is the sha256 of",
        "everything that decides an artifact's bytes; the key of several artifacts is that of their sorted list.", "",
        *markdown_table(("step", "version", "artifacts", "key"), rows), "",
    ]  # fmt: skip
    if captioned := _settings(release.lineage.get("caption", ())):
        settings = ", ".join(f"{name} {json.dumps(captioned[name])}" for name in _CAPTIONING if name in captioned)
        lines += [f"Captions: {markdown_text(settings)}.", ""]
    if models:
        lines += [*markdown_table(("step", "model or list", "sha256"), [*models]), ""]
    return lines


def _settings(artifacts: Any) -> dict[str, Any]:
    """The settings of the first artifact; those of the others differ only by partition."""
    first = next(iter(artifacts), None)
    return {} if first is None else dict(first.manifest.terms["settings"])


_TERMS = (
    "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject", "fileProperty",
    "fileSet", "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet",
    "references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
_CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{term: f"cr:{term}" for term in _TERMS},
}
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
        "@context": _CONTEXT,
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
