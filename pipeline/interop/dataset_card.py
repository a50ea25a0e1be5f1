"""Describes published shards: the dataset card, and metadata in Croissant 1.1 for other tools.

The card has front matter for the Hugging Face hub, counts, and how the labels were made. Croissant:
https://docs.mlcommons.org/croissant/
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.labels.kept_labels import recorded_choice
from pipeline.labels.label_audit import LabelAudit, LabelCount
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
_OBJECT = {"category": "string", **dict.fromkeys("xywh", "float64")}
_RELATION = {
    "subject": "int64", "object": "int64", "predicate": "string", "confidence": "float64", "surface": "string",
    "ambiguity": "int64", "triplet": "int64", "caption": "int64",
}  # fmt: skip
_LABELS = {
    "version": "int64", "image_id": "int64", "dataset": "string", "width": "int64", "height": "int64",
    "labels": "string", "tagger": "string",
}  # fmt: skip
_CAPTIONING = ("captioner", "decoding", "draws", "top_p", "top_k", "temperature", "num_beams", "prompt")


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
        return sorted({name for index in self.tables.values() for name in index["dataset"].unique().to_pylist()})

    def image_extensions(self) -> list[str]:
        """The file extensions of the images."""
        found = {name for index in self.tables.values() for name in index["extension"].unique().to_pylist()}
        return sorted(found - {LABELS})

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
            "---", *_front_matter(release), "---", "",
            f"# {markdown_text(release.title)}", "", markdown_text(describe(release)), "",
            *_contents(release), *_how_to_stream(release), *_labels(release), *_audits(release), *_lineage(release),
            "## Licence", "",
            f"The publisher states `{release.license}`. The images keep the terms of their original datasets.", "",
        ]
    )  # fmt: skip


def _front_matter(release: Release) -> list[str]:
    """YAML front matter. JSON strings are YAML strings, so names need no other quoting."""
    images = release.counts.get("total", Counter())["images"]
    size = next((name for most, name in _SIZES if images < most), "n>10M")
    configs = {"default": "data/*.tar"}
    if len(release.datasets()) > 1:
        digits = "[0-9]"
        configs |= {name: f"data/{name}-{digits * 4}-{digits * 3}.tar" for name in release.datasets()}
    lines = [
        f"license: {json.dumps(release.license)}",
        f"pretty_name: {json.dumps(release.title)}",
        "task_categories:", "- object-detection", "- image-feature-extraction",
        "size_categories:", f"- {size}",
        "tags:", "- scene-graph-generation", "- visual-relationship-detection", "- webdataset", "- croissant",
        "configs:",
    ]  # fmt: skip
    for name, path in configs.items():
        lines += [
            f"- config_name: {json.dumps(name)}",
            "  data_files:",
            "  - split: train",
            f"    path: {json.dumps(path)}",
        ]
    lines.append("dataset_info:")
    for name in configs:
        lines += [f"- config_name: {json.dumps(name)}", *_features(release)]
    return lines


def _features(release: Release) -> Iterator[str]:
    """The fields of a sample. Without them, `datasets` would guess from the first five, which may lack relations."""
    yield "  features:"
    for extension in release.image_extensions():
        yield from _feature("  ", extension, "dtype: image")
    yield from _feature("  ", LABELS, "struct:")
    for name, kind in _LABELS.items():
        yield from _feature("    ", name, f"dtype: {kind}")
    for name, fields in (("objects", _OBJECT), ("relations", _RELATION)):
        yield from _feature("    ", name, "list:")
        for inner, kind in fields.items():
            yield from _feature("      ", inner, f"dtype: {kind}")
    for name in ("__key__", "__url__"):
        yield from _feature("  ", name, "dtype: string")


def _feature(indent: str, name: str, kind: str) -> list[str]:
    return [f"{indent}- name: {name}", f"{indent}  {kind}"]


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
    choice = "" if settings.get("labels", "pseudo") != "pseudo" else recorded_choice(settings).in_words()
    lines = ["## Labels", "", _origin(release), ""]
    if choice:
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
    """The pseudo-labels compared with the datasets' ground truth, if any."""
    settings = _settings(release.shards.values())
    if settings.get("labels", "pseudo") != "pseudo":
        return []
    ingested, tagged = images_with_boxes(release.run), release.run.artifacts("tag")
    rows = []
    for dataset in release.datasets():
        count = LabelCount(recorded_choice(settings))
        for partition in sorted(release.shards):
            if partition.split("/")[0] == dataset and partition in ingested and partition in tagged:
                count.add(ingested[partition].table("images"), tagged[partition])
        audit = count.audit()
        if audit.given:
            rows.append((markdown_text(dataset), *_scores(audit)))
    return [
        *_human_precision(release),
        *([] if not rows else _given_precision(rows)),
    ]


def _human_precision(release: Release) -> list[str]:
    """The precision by the verdicts in the run's store, if any."""
    found = run_precision(release.run, release.run.store.root / VERDICTS)
    if found is None:
        return []
    rows = [
        (markdown_text(each.predicate), f"{each.judged:,}", f"{each.right:,}", f"{each.low:.3f} to {each.high:.3f}")
        for each in found.predicates[:TOP]
    ]
    return [
        "## Precision by reviewers", "", f"{found.in_words()}.", "",
        *markdown_table(("predicate", "judged", "right", "95 % interval"), rows), "",
    ]  # fmt: skip


def _given_precision(rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [
        "## Audit", "",
        "On images with ground-truth relations. Ground truth is never complete, so labels that it lacks count as wrong",
        "here, and precision is a lower bound.", "",
        *markdown_table(("dataset", "images", "ground truth", "kept", "precision", "recall"), rows), "",
    ]  # fmt: skip


def _scores(audit: LabelAudit) -> tuple[str, ...]:
    shares = ("–" if share is None else f"{share:.3f}" for share in (audit.tagger.precision, audit.tagger.recall))
    return (f"{audit.images:,}", f"{audit.given:,}", f"{audit.tagger.kept:,}", *shares)


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
                models[step, markdown_text(str(role)), str(digest)] = None
    lines = [
        "## Lineage", "",
        f"Run `{release.run.name}` of recipe `{markdown_text(str(recipe))}`. A key is the sha256 of",
        "everything that decides an artifact's bytes; the key of several artifacts is that of their sorted list.", "",
        *markdown_table(("step", "version", "artifacts", "key"), rows), "",
    ]  # fmt: skip
    captioned = _settings(
        artifact for step, found in release.lineage.items() if step == "caption" for artifact in found
    )
    if captioned:
        settings = ", ".join(f"{name} {json.dumps(captioned[name])}" for name in _CAPTIONING if name in captioned)
        lines += [f"Captions: {markdown_text(settings)}.", ""]
    if models:
        used = [(step, role, f"`{digest}`") for step, role, digest in models]
        lines += [*markdown_table(("step", "model or list", "sha256"), used), ""]
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
    tars = [
        {
            "@type": "cr:FileObject",
            "@id": name,
            "name": name,
            "contentUrl": name,
            "contentSize": f"{release.sizes[name]} B",
            "encodingFormat": "application/x-tar",
            "sha256": digests[name],
        }
        for name in release.tables
    ]
    inside = [{"@id": name} for name in release.tables]
    extensions = release.image_extensions()
    file_sets = [
        {
            "@type": "cr:FileSet",
            "@id": f"{extension}-files",
            "name": f"{extension}-files",
            "containedIn": inside,
            "encodingFormat": encoding,
            "includes": f"*.{extension}",
        }
        for extension, encoding in [*((each, _IMAGE_TYPES[each]) for each in extensions), ("json", "application/json")]
    ]
    counts = {
        "@type": "cr:FileObject",
        "@id": "statistics.parquet",
        "name": "statistics.parquet",
        "contentUrl": "statistics.parquet",
        "encodingFormat": "application/x-parquet",
        "sha256": digests["statistics.parquet"],
    }
    values = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": release.title,
        "description": describe(release),
        "license": release.license,
        "version": "1.0.0",
        "distribution": [*tars, *file_sets, counts],
        "recordSet": [
            *(_record_set(extension, "image", "sc:ImageObject") for extension in extensions),
            _record_set("json", "labels", "sc:Text"),
            {
                "@type": "cr:RecordSet",
                "@id": "statistics",
                "name": "statistics",
                "description": "Counts per tar: totals, categories and predicates.",
                "field": [
                    _croissant_field(
                        "statistics", name, kind, {"fileObject": {"@id": "statistics.parquet"}}, {"column": name}
                    )
                    for name, kind in _STATISTICS.items()
                ],
            },
        ],
    }
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def _record_set(extension: str, what: str, kind: str) -> dict[str, Any]:
    """The record set of all members with one extension. Records of a sample have equal keys."""
    name = what if extension == "json" else f"{what}s-{extension}"
    files = {"fileSet": {"@id": f"{extension}-files"}}
    key = _croissant_field(name, "key", "sc:Text", files, {"fileProperty": "filename"})
    key["source"]["transform"] = {"regex": r"^(.*)\.[^.]*$"}
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"The {what} of each sample. Records of a sample have equal keys.",
        "field": [key, _croissant_field(name, what, kind, files, {"fileProperty": "content"})],
    }


def _croissant_field(
    record: str, name: str, kind: str, where: dict[str, Any], extract: dict[str, str]
) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{record}/{name}",
        "name": name,
        "dataType": kind,
        "source": {**where, "extract": extract},
    }
