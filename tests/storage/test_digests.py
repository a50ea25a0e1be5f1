"""Digests stay the same for ever, because keys and seals are made of them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from storage.digests import canonical_json, digest_bytes, digest_file, digest_json, digest_path

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""sha256 of no bytes, as any other program computes it."""


def test_equal_values_give_the_same_bytes_in_every_version() -> None:
    value = {"z": [1, 2.5, None, True], "é": {"b": "x", "a": "日"}, "a": ""}
    assert canonical_json(value) == '{"a":"","z":[1,2.5,null,true],"é":{"a":"日","b":"x"}}'.encode()
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)
    assert digest_json(value) == digest_bytes(canonical_json(value))
    assert digest_bytes(b"") == EMPTY


@pytest.mark.parametrize("value", [math.nan, math.inf, {"score": -math.inf}])
def test_a_number_that_json_has_not_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(value)


def test_a_folder_is_told_by_the_names_and_bytes_of_its_files_but_hidden_ones(tmp_path: Path) -> None:
    (tmp_path / "weights" / "deep").mkdir(parents=True)
    (tmp_path / "weights" / "config.json").write_bytes(b"")
    (tmp_path / "weights" / "deep" / "model.bin").write_bytes(b"12")
    (tmp_path / "weights" / ".cache").write_bytes(b"3")
    model = tmp_path / "weights" / "deep" / "model.bin"
    assert digest_path(model) == digest_file(model) == digest_bytes(b"12")
    names = {"config.json": EMPTY, "deep/model.bin": digest_bytes(b"12")}
    assert digest_path(tmp_path / "weights") == digest_json(names)
    model.rename(model.with_name("other.bin"))
    assert digest_path(tmp_path / "weights") != digest_json(names)
