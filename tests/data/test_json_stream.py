"""Lists streamed element by element equal the result of `json.load`, wherever the buffer boundaries fall."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from pipeline.data.datasets import json_stream
from pipeline.data.datasets.annotations import AnnotationError, read_json
from pipeline.data.datasets.json_stream import stream_lists, stream_rows

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is streamed a few characters at a time."""
    monkeypatch.setattr(json_stream, "CHUNK", 5)
    return tmp_path / "annotations.json"


@given(st.lists(values, max_size=5), st.sampled_from([None, 1]), st.booleans())
@settings(max_examples=60)
def test_rows_are_what_json_reads(file, rows, indent, escaped):
    file.write_text(json.dumps(rows, indent=indent, ensure_ascii=escaped), encoding="utf-8", errors="replace")
    assert list(stream_rows(file, "rows")) == json.loads(file.read_text(encoding="utf-8"))


@given(st.dictionaries(st.sampled_from(["a", "b", "c", "other"]), st.lists(values, max_size=3)), values)
@settings(max_examples=60)
def test_lists_come_in_file_order_and_the_rest_is_skipped(file, lists, info):
    file.write_text(json.dumps({"info": info, **{name: lists.get(name, []) for name in ("c", "a")}, **lists, "z": 1}))
    found = list(stream_lists(file, "lists", ("a", "c")))
    content = json.loads(file.read_text())
    assert found == [(name, element) for name in content if name in ("a", "c") for element in content[name]]


def test_numbers_are_never_cut_and_nan_and_a_byte_order_mark_are_read(file):
    file.write_text("\ufeff[-1234567890123, 1.5e-300, NaN, -Infinity, 123456789, tru" + "e]")
    *found, last = stream_rows(file, "rows")
    assert found[:2] == [-1234567890123, 1.5e-300] and math.isnan(found[2])
    assert found[3:] == [-math.inf, 123456789] and last is True


@pytest.mark.parametrize("content", [
    '{"a": [1, 2}', '{"a": [1,\n {"b": 2,}\n]}', '{"a": [1, "no end', '{"a": [1]} more', '{"a": [1] "b": 2}',
    "{a: [1]}", '{"a" [1]}', "", '{"a": [\n"' + "x" * 50 + '",\n\n  oops]}', '{"a": [{"a": oops' + " " * 1000 + "]}",
])  # fmt: skip
def test_faults_are_reported_with_their_place(file, content):
    file.write_text(content)
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(content)
    with pytest.raises(AnnotationError) as caught:
        list(stream_lists(file, "a list", ("a",)))
    assert f"{file}: not valid JSON at line {expected.value.lineno}, column" in str(caught.value)


def test_other_kinds_of_file(file, tmp_path):
    for content, kind in (("[1]", "list"), ("3", "number"), ('"x"', "string"), ("null", "null")):
        file.write_text(content)
        with pytest.raises(AnnotationError, match=f"contains a JSON {kind}; expected lists"):
            list(stream_lists(file, "lists", ("a",)))
    file.write_text("3")
    with pytest.raises(AnnotationError, match="contains a JSON number; expected rows"):
        list(stream_rows(file, "rows"))
    with pytest.raises(AnnotationError, match="no such file"):
        list(stream_rows(tmp_path / "none.json", "rows"))
    with pytest.raises(AnnotationError, match="is a folder"):
        list(stream_lists(tmp_path, "lists", ("a",)))
    assert read_json(file, "anything") == 3
