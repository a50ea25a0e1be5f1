"""Helpers that write images and annotation files, and read a source to its end."""

import io
import json
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from pipeline.data.datasets.reader import Reader
from pipeline.data.datasets.record import ImageRecord
from pipeline.data.datasets.record_index import open_source
from pipeline.data.datasets.source import DataSource
from pipeline.data.datasets.validate import validate
from pipeline.data.images.opening import LOOSEST_LIMITS, BadImage, ImageLimits, probe_bytes, read_bytes
from pipeline.runtime.stage import Rejected


def save_picture(path: Path, width: int = 100, height: int = 80) -> Path:
    """Writes a plain image to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 120, 60)).save(path, "JPEG")
    return path


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """Returns the bytes of an image in a format."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def save_json(path: Path, content: Any) -> Path:
    """Writes `content` as JSON to `path`."""
    path.write_text(json.dumps(content))
    return path


def checked(
    record: ImageRecord, limits: ImageLimits = LOOSEST_LIMITS, verify: Literal["decode", "header"] = "decode"
) -> tuple[ImageRecord | None, list[Rejected]]:
    """Opens a record's image, and validates the record."""
    try:
        return validate(record, probe_bytes(read_bytes(record.path, limits), limits, verify))
    except BadImage as bad:
        return validate(record, bad)


def text(path: Path, content: str) -> Path:
    """Writes a text file."""
    path.write_text(content)
    return path


def read_all(source: DataSource) -> tuple[Reader, list[Any]]:
    """Reads a source to its end. Returns the exhausted reader and the records."""
    reader = open_source(source)
    return reader, list(map(reader.sized, reader.read()))
