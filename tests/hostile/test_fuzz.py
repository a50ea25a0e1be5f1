"""Changed files of every kind, drawn by hypothesis: whatever the change, there are rows, a quarantine or a message."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.official.checkpoint import read_checkpoint
from models.weights_file import WeightsError
from pipeline.captioning.recorded import RecordedCaptioner
from pipeline.captioning.settings import CaptionSettings
from pipeline.data.images.opening import BadImage, decode_image
from pipeline.run.recipe_files import load_recipe
from storage.errors import FatalError
from storage.manifest import parse_manifest
from storage.secrets import redacted
from storage.shards.scan import scan_tar
from tests.hostile.checkpoints import SOUND
from tests.hostile.images import encoded
from tests.hostile.ingested import CATEGORIES, ingested, instances
from tests.hostile.recipes import GOOD as RECIPE

few = settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True)
Value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as file:
        for name in ("a.jpg", "ä" * 60 + ".json"):
            info = tarfile.TarInfo(name)
            info.size = 600
            file.addfile(info, io.BytesIO(bytes(600)))
    return buffer.getvalue()


def read_tar(path: Path) -> None:
    list(scan_tar(path))


def read_image(path: Path) -> None:
    decode_image(path.read_bytes(), upright=True)


def read_captions(path: Path) -> None:
    RecordedCaptioner(CaptionSettings(captioner="recorded", recorded=(path,)))


def read_manifest(path: Path) -> None:
    parse_manifest(path.read_bytes(), "here")


CAPTIONS = json.dumps({"1": ["a man rides"], "2": "a dog"}).encode()
FILES: dict[str, tuple[bytes, Callable[[Path], Any]]] = {
    "JPEG": (encoded("JPEG", progressive=True), read_image),
    "TIFF": (encoded("TIFF", compression="tiff_lzw"), read_image),
    "tar": (tar(), read_tar),
    "checkpoint": (SOUND, read_checkpoint),
    "old checkpoint": (b"", read_checkpoint),
    "captions.json": (CAPTIONS, read_captions),
    "recipe.toml": (RECIPE.encode(), load_recipe),
}
_old = io.BytesIO()
torch.save({"model": {"w": torch.ones(8)}}, _old, _use_new_zipfile_serialization=False)
FILES["old checkpoint"] = _old.getvalue(), read_checkpoint


@pytest.mark.parametrize("name", FILES)
@few
@given(data=st.data())
def test_changed_bytes_are_read_or_refused(name, data):
    sound, read = FILES[name]
    changed = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(changed) - 1))
        piece = data.draw(st.binary(max_size=8) | st.sampled_from([b"\xff" * 8, bytes(8), b"9" * 12, b"-1"]))
        changed[place : place + data.draw(st.integers(0, 9))] = piece
        changed = changed or bytearray(b"\0")
    with TemporaryDirectory() as folder:
        path = Path(folder) / ("x" + Path(name).suffix)
        path.write_bytes(bytes(changed))
        try:
            read(path)
        except (BadImage, FatalError, WeightsError) as error:
            assert str(error)


@few
@given(
    image=st.dictionaries(st.sampled_from(["id", "file_name", "width", "height"]), Value),
    box=st.dictionaries(st.sampled_from(["id", "image_id", "category_id", "bbox", "iscrowd"]), Value),
    category=Value,
)
def test_any_row_beside_a_good_one_costs_itself_at_most(image, box, category):
    folder = Path("fuzzed")
    with TemporaryDirectory() as root:
        content = instances([image], [{"image_id": 1, "category_id": 1} | box])
        outcome = ingested(Path(root) / folder, content | {"categories": [category, *CATEGORIES]})
    assert outcome.startswith(("kept 1 images", "kept 2 images")), outcome


@few
@given(value=Value)
def test_any_json_is_read_or_refused(value):
    with TemporaryDirectory() as root:
        for feed in (read_captions, lambda path: ingested(path.parent / "set", path.read_bytes()), read_manifest):
            path = Path(root) / "x.json"
            path.write_text(json.dumps(value))
            try:
                feed(path)
            except FatalError as error:
                assert str(error)
            shutil.rmtree(Path(root) / "set", ignore_errors=True)


@few
@given(
    user=st.text("abc@:-", max_size=6),
    password=st.text("xyz@:", min_size=1, max_size=6),
    path=st.text("/?a=", max_size=6),
)
def test_no_part_of_a_password_is_told(user, password, path):
    told = redacted(f"http://{user}:S{password}S@host{path and '/'}{path} is silent")
    assert "S" not in told and told.startswith("http://***@host")
