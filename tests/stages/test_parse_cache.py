"""Each distinct caption is parsed once across partitions, runs and processes; rows are the same without the cache."""

import multiprocessing
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import pytest
from run_builder import artifact, captions
from xxhash import xxh3_128_digest

from pipeline.runtime.stage import Inputs, Output
from pipeline.stages.parse import ParseSettings, ParseStage
from pipeline.stages.parse_cache import ParseCache, cache_fault
from storage.errors import FatalError
from tagger.parsing.parser import load_parser, parse_captions
from tagger.triplet import Triplet

Layer = Literal["rules", "learned"]
LAYERS: tuple[Layer, ...] = ("rules", "learned")
TEXTS = ["two men riding brown horses", "a cat on a mat", "a dog"]


def parses(texts: list[str]) -> dict[str, list[Triplet]]:
    return dict(zip(texts, parse_captions(texts, load_parser()), strict=True))


def parsed(folder: Path, texts: list[str], cache: Path | None, layer: Layer = "rules") -> Output:
    read = Inputs({"captions": (artifact(folder, captions=[captions(1, *texts)]),)})
    stage = ParseStage(ParseSettings(cache=cache, layer=layer))
    stage.open(Inputs())
    return stage.run(read, folder, lambda done, total, note="": None)


def test_what_was_kept_is_found_by_text_and_version(tmp_path):
    cache = ParseCache(tmp_path / "deep/parses.sqlite", "1")
    kept = parses(TEXTS)
    cache.keep(kept)
    cache.keep(kept)
    assert ParseCache(tmp_path / "deep/parses.sqlite", "1").find([*TEXTS, "a bird", "\ud800"]) == kept
    assert ParseCache(tmp_path / "deep/parses.sqlite", "2").find(TEXTS) == {}


def test_a_stage_parses_only_what_nobody_parsed_and_gives_the_same_rows(tmp_path):
    cache = tmp_path / "parses.sqlite"
    first = parsed(tmp_path / "a", TEXTS[:2], cache)
    second = parsed(tmp_path / "b", [*TEXTS, TEXTS[0]], cache)
    without = parsed(tmp_path / "c", [*TEXTS, TEXTS[0]], None)
    assert [out.facts["captions parsed"] for out in (first, second, without)] == [2, 1, 3]
    assert second.table.equals(without.table)


def test_what_the_layer_revises_has_a_key_and_cached_parses_of_its_own(tmp_path):
    stages = {layer: ParseStage(ParseSettings(layer=layer, cache=tmp_path / "parses.sqlite")) for layer in LAYERS}
    assert {layer: stage.row_settings()["layer"] for layer, stage in stages.items()} == {
        layer: layer for layer in LAYERS
    }
    assert [sorted(stage.files()) for stage in stages.values()] == [[], ["layer"]]
    texts = ["a dog trying to catch a frisbee"]
    rules, learned = (
        parsed(tmp_path / layer, texts, tmp_path / "parses.sqlite", layer).table["triplets"][0].as_py()
        for layer in LAYERS
    )
    assert [t["predicate_lemma"] for t in rules] == ["try to catch"]
    assert [t["predicate_lemma"] for t in learned] == ["catch"]


def _write(path: Path, turn: int, kept: dict[str, list[Triplet]]) -> None:
    cache = ParseCache(path, "1")
    for number in range(20):
        cache.keep({f"{turn if number % 2 else 0} {number}": triplets for triplets in kept.values()})


def test_two_processes_may_write_at_once(tmp_path):
    path, kept = tmp_path / "parses.sqlite", parses(TEXTS[:1])
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(path, turn, kept)) for turn in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    texts = [f"{turn if number % 2 else 0} {number}" for turn in (1, 2) for number in range(20)]
    assert set(ParseCache(path, "1").find(texts)) == set(texts)


def test_a_file_that_is_no_database_is_made_anew_and_logged(tmp_path, caplog):
    path, kept = tmp_path / "parses.sqlite", parses(TEXTS)
    for damaged in (b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000):
        path.write_bytes(damaged)
        Path(f"{path}-journal").write_bytes(b"of the old file")
        caplog.clear()
        cache = ParseCache(path, "1")
        (told,) = caplog.records
        assert told.levelname == "WARNING" and told.fields["file"] == str(path)
        assert cache.find(TEXTS) == {} and not Path(f"{path}-journal").exists()
        cache.keep(kept)
        path.write_bytes(damaged)
        assert cache.find(TEXTS) == {}, "a file that is damaged while it is in use"
        path.write_bytes(damaged)
        cache.keep(kept)
        assert cache.find(TEXTS) == kept and cache_fault(path) == ""


def test_a_file_that_cannot_be_used_is_named_with_what_to_do_and_stays(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.sqlite").mkdir()
    for path in (tmp_path / "file/parses.sqlite", tmp_path / "folder.sqlite"):
        with pytest.raises(FatalError, match=r"set parse\.cache"):
            ParseCache(path, "1")
    assert (tmp_path / "folder.sqlite").is_dir()


def _flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def test_a_flipped_bit_costs_a_parse_at_most_and_never_changes_one(tmp_path):
    path, kept = tmp_path / "parses.sqlite", {"two men": MEN, "a cat": [], "a dog": MEN}
    ParseCache(path, "1").keep(kept)
    original, lost = path.read_bytes(), 0
    for bit in (*range(120, 800, 5), *range(803, 8 * len(original), 2003)):
        path.write_bytes(_flipped(original, bit))
        fault = cache_fault(path)
        cache = ParseCache(path, "1")
        known = cache.find(list(kept))
        assert known == kept or (known.items() <= kept.items() and fault), bit
        cache.keep({text: triplets for text, triplets in kept.items() if text not in known})
        found = cache.find(list(kept))
        assert found == kept or (found.items() <= kept.items() and cache_fault(path)), bit
        lost += known != kept
    assert lost


MEN = [Triplet("men", "man", "riding", "ride", "horses", "horse", 4, 7, 8, 14, 21, 27, "verb", 2, 0, (), ("brown",))]


def _cell(path: Path, value: object) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE parsed SET triplets = ?", (value,))


def _signed(path: Path, packed: bytes) -> bytes:
    """Bytes with the checksum that they would have if they were a parse of the only text."""
    with closing(sqlite3.connect(path)) as connection:
        ((parser, text),) = connection.execute("SELECT parser, text FROM parsed")
    return xxh3_128_digest(parser + text + packed) + packed


@pytest.mark.parametrize(
    "packed",
    [
        zlib.compress(b"[" * 100_000), zlib.compress(b'[["men", 3]]'), b"",
        zlib.compress(b"[" + b"9" * 5000 + b"]"), zlib.compress(b"[]")[:-2],
    ],
    ids=["deep", "another shape", "empty", "long number", "torn"],
)  # fmt: skip
def test_what_no_parser_wrote_counts_as_not_cached(packed, tmp_path):
    path = tmp_path / "parses.sqlite"
    cache = ParseCache(path, "1")
    cache.keep({"two men": MEN})
    assert cache_fault(path) == ""
    for value in (packed, _signed(path, packed), 10**12, "text", None):
        _cell(path, value)
        assert cache.find(["two men"]) == {} and cache_fault(path)
    cache.keep({"two men": MEN})
    assert cache.find(["two men"]) == {"two men": MEN} and cache_fault(path) == ""


def test_paths_are_no_part_of_the_key(tmp_path):
    stage: Any = ParseStage(ParseSettings(cache=tmp_path / "parses.sqlite"))
    assert set(stage.row_settings()) == {"implied", "layer", "model", "model_version"}
