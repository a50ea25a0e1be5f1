"""Changed files of every kind, drawn by hypothesis: whatever the change, there are rows, a quarantine or a message."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from models.official.checkpoint import read_checkpoint
from models.weights_file import WeightsError
from pipeline.captioning.recorded import RecordedCaptioner
from pipeline.captioning.settings import CaptionSettings
from pipeline.data.images.opening import BadImage, decode_image
from pipeline.run.recipe_files import load_recipe
from storage.errors import FatalError
from storage.shards.scan import scan_tar
from tests.hostile.checkpoints import SOUND
from tests.hostile.images import encoded
from tests.hostile.recipes import GOOD as RECIPE
from tests.hostile.tars import END, pax, plain

few = settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True)


def read_tar(path: Path) -> None:
    list(scan_tar(path))


def read_image(path: Path) -> None:
    decode_image(path.read_bytes(), upright=True)


def read_captions(path: Path) -> None:
    RecordedCaptioner(CaptionSettings(captioner="recorded", recorded=(path,)))


TAR = plain("a.jpg", bytes(600)) + pax(path="ä" * 60 + ".json") + plain("x.json", bytes(600)) + END
CAPTIONS = json.dumps({"1": ["a man rides"], "2": "a dog"}).encode()
FILES: dict[str, tuple[bytes, Callable[[Path], Any]]] = {
    "JPEG": (encoded("JPEG", progressive=True), read_image),
    "TIFF": (encoded("TIFF", compression="tiff_lzw"), read_image), "tar": (TAR, read_tar),
    "checkpoint": (SOUND, read_checkpoint), "old checkpoint": (b"", read_checkpoint),
    "captions.json": (CAPTIONS, read_captions), "recipe.toml": (RECIPE.encode(), load_recipe),
}  # fmt: skip
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
