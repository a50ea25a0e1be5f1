"""Describes published shards in Croissant 1.1 (https://docs.mlcommons.org/croissant/), so that other tools can load them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline.interop.dataset_card import Release, describe

_TERMS = (
    "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet",
    "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references",
    "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
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
            *(_members(extension, "image", "sc:ImageObject") for extension in extensions),
            _members("json", "labels", "sc:Text"),
            {
                "@type": "cr:RecordSet",
                "@id": "statistics",
                "name": "statistics",
                "description": "Counts per tar: totals, categories and predicates.",
                "field": [
                    _field("statistics", name, kind, {"fileObject": {"@id": "statistics.parquet"}}, {"column": name})
                    for name, kind in _STATISTICS.items()
                ],
            },
        ],
    }
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def _members(extension: str, what: str, kind: str) -> dict[str, Any]:
    """The record set of all members with one extension. Records of a sample have equal keys."""
    name = what if extension == "json" else f"{what}s-{extension}"
    files = {"fileSet": {"@id": f"{extension}-files"}}
    key = _field(name, "key", "sc:Text", files, {"fileProperty": "filename"})
    key["source"]["transform"] = {"regex": r"^(.*)\.[^.]*$"}
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"The {what} of each sample. Records of a sample have equal keys.",
        "field": [key, _field(name, what, kind, files, {"fileProperty": "content"})],
    }


def _field(record: str, name: str, kind: str, where: dict[str, Any], extract: dict[str, str]) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{record}/{name}",
        "name": name,
        "dataType": kind,
        "source": {**where, "extract": extract},
    }
