"""JSON of our own is read within limits, faults are told in a line, and digests of it stay the same for ever."""

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, field_validator

from storage.digests import canonical_json, digest_bytes, digest_file, digest_json, digest_path
from storage.errors import FatalError
from storage.json_files import (
    LIMITS,
    Limits,
    json_values,
    parse_json,
    parse_json_or_none,
    read_json,
    read_within_limit,
    sealed_json,
)
from storage.manifest import parse_manifest


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int
    names: list[str] = []


class Checked(BaseModel):
    size: int

    @field_validator("size")
    @classmethod
    def _is_even(cls, size: int) -> int:
        if size % 2:
            raise ValueError("give an even number")
        return size


def _said(data: bytes, kind: type = Strict, remedy: str = "", most: Limits = LIMITS) -> str:
    with pytest.raises(FatalError) as caught:
        parse_json(data, kind, "here", remedy, most)
    return str(caught.value)


def test_values_are_those_of_their_type():
    assert parse_json(b'{"size": 3, "names": ["a"]}', Strict, "here") == Strict(size=3, names=["a"])
    assert parse_json(b"[1, null, 2.5]", list[Any], "here") == [1, None, 2.5]
    assert parse_json_or_none(b'{"size": 3}', Strict) == Strict(size=3)
    assert parse_json_or_none(None, Strict) is None and parse_json_or_none(b"{", Strict) is None


@pytest.mark.parametrize("data, said", [
    (b'{"size": "3"}', "size: Input should be a valid integer"),
    (b'{"size": 3, "names": ["a", "b", 7]}', "names: 2: Input should be a valid string"),
    (b'{"size": 3, "\\u001b[2Jx": 1}', "\\x1b[2Jx: Extra inputs are not permitted"),
    (b"{}", "size: Field required"),
])  # fmt: skip
def test_what_is_wrong_is_reported_in_a_line(data, said):
    assert _said(data) == f"here: damaged ({said})"
    assert _said(data, remedy="do that") == f"here: damaged ({said}); do that"


def test_a_check_of_our_own_is_quoted_as_it_is_written():
    assert _said(b'{"size": 3}', Checked) == "here: damaged (size: give an even number)"


def test_long_and_numerous_faults_are_reported_in_short():
    assert _said(b'{"%s": 1, "size": 2}' % (b"x" * 1000)) == f"here: damaged ({'x' * 200})"
    for count, said in ((1000, "names: 0: Input should be a valid string"), (1001, "1,001 values do not fit")):
        assert _said(b'{"size": 1, "names": [%s]}' % b",".join([b"1"] * count)) == f"here: damaged ({said})"


def test_limits_count_bytes_and_values():
    most = Limits(size=20, values=4)
    assert parse_json(b"[[1,2,{}]]" + b" " * 9, object, "here", most=Limits(20, 5)) == [[1, 2, {}]]
    assert parse_json(b"[1,2,3] " + b" " * 12, object, "here", most=most) == [1, 2, 3]
    assert _said(b"[1,2,3] " + b" " * 13, object, most=most) == "here: damaged (more than 20 bytes)"
    assert _said(b"[1,2,3,[]]", object, most=most) == "here: damaged (more than 4 values)"
    assert _said(b'{"a":{"b":[[1]]}}', object, most=Limits(20, 3)) == "here: damaged (more than 3 values)"


def test_a_file_is_read_no_further_than_its_limit(tmp_path):
    path = tmp_path / "note.json"
    with pytest.raises(FileNotFoundError):
        read_json(path, object)
    path.write_bytes(b"[1, 2]")
    assert read_json(path, object) == [1, 2]
    assert read_within_limit(path, 3) == b"[1, " and read_within_limit(path, 6) == b"[1, 2]"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(FatalError, match=rf"^{path}: damaged \(more than 67,108,864 bytes\); do that$"):
        read_json(path, object, "do that")
    with pytest.raises(FatalError, match=rf"^{path}: damaged \(more than 9 bytes\)$"):
        read_json(path, object, most=Limits(9))
    with pytest.raises(FatalError, match=rf"^{tmp_path}: damaged \(a folder instead of a file\); remove it and run"):
        read_json(tmp_path, object)


def test_a_seal_covers_every_byte_before_it():
    data = sealed_json({"a": 1, "b": Path("x")}, default=str)
    assert data.startswith(b'{\n "a": 1,\n "b": "x",\n "seal": "')
    assert parse_json(data, dict[str, Any], "here")["b"] == "x"
    for at in range(len(data)):
        flipped = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        assert parse_json_or_none(flipped, dict[str, Any]) is None
    with pytest.raises(TypeError):
        sealed_json({"a": Path("x")})


def test_a_manifest_that_is_too_large_is_damaged():
    with pytest.raises(FatalError, match=r"^here: damaged manifest \(more than 524,288 values\); remove it with"):
        parse_manifest(b'{"format": 99, "x": [%s1]}' % (b"1," * 2**19), "here")


EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""sha256 of no bytes, as any other program computes it."""


def test_equal_values_give_the_same_bytes_in_every_version():
    value = {"z": [1, 2.5, None, True], "é": {"b": "x", "a": "日"}, "a": ""}
    assert canonical_json(value) == '{"a":"","z":[1,2.5,null,true],"é":{"a":"日","b":"x"}}'.encode()
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)
    assert digest_json(value) == digest_bytes(canonical_json(value))
    assert digest_bytes(b"") == EMPTY


@pytest.mark.parametrize("value", [math.nan, math.inf, {"score": -math.inf}])
def test_a_number_that_json_has_not_is_refused(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(value)


def test_values_that_json_lacks_become_null_text_and_lists():
    given = {1: (math.nan, "a", {"b": [-math.inf, 2]})}
    assert json_values(given) == {"1": [None, "a", {"b": [None, 2]}]}


def test_a_folder_is_identified_by_the_names_and_bytes_of_its_files_but_hidden_ones(tmp_path):
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
