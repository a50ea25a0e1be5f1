"""Each distinct caption is parsed once across partitions, runs and processes; rows are the same without the cache."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.runtime.stage import Inputs, Output
from pipeline.stages.parse import ParseSettings, ParseStage
from pipeline.stages.parse_cache import ParseCache
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.tables import CAPTIONS, write_table
from tagger.parsing.parser import load_parser, parse_captions
from tagger.triplet import Triplet

TEXTS = ["two men riding brown horses", "a cat on a mat", "a dog"]


def parses(texts: list[str]) -> dict[str, list[Triplet]]:
    return dict(zip(texts, parse_captions(texts, load_parser()), strict=True))


def parsed(folder: Path, texts: list[str], cache: Path | None) -> Output:
    folder.mkdir()
    captions = [
        {"text": text, "draw": draw, "seed": 0, "log_probability": None, "source": "hand"}
        for draw, text in enumerate(texts)
    ]
    write_table(
        pa.Table.from_pylist([{"image_id": 1, "captions": captions}], schema=CAPTIONS), folder / "captions.parquet"
    )
    stage = ParseStage(ParseSettings(cache=cache))
    stage.open(Inputs())
    return stage.run(Inputs({"captions": (Artifact(folder),)}), folder, lambda done, total, note="": None)


def test_what_was_kept_is_found_by_text_and_version(tmp_path: Path) -> None:
    cache = ParseCache(tmp_path / "deep/parses.sqlite", "1")
    kept = parses(TEXTS)
    cache.keep(kept)
    cache.keep(kept)
    assert ParseCache(tmp_path / "deep/parses.sqlite", "1").find([*TEXTS, "a bird", "\ud800"]) == kept
    assert ParseCache(tmp_path / "deep/parses.sqlite", "2").find(TEXTS) == {}


def test_a_stage_parses_only_what_nobody_parsed_and_gives_the_same_rows(tmp_path: Path) -> None:
    cache = tmp_path / "parses.sqlite"
    first = parsed(tmp_path / "a", TEXTS[:2], cache)
    second = parsed(tmp_path / "b", [*TEXTS, TEXTS[0]], cache)
    without = parsed(tmp_path / "c", [*TEXTS, TEXTS[0]], None)
    assert [out.facts["captions parsed"] for out in (first, second, without)] == [2, 1, 3]
    assert second.table.equals(without.table)


def _write(path: Path, turn: int, kept: dict[str, list[Triplet]]) -> None:
    cache = ParseCache(path, "1")
    for number in range(20):
        cache.keep({f"{turn if number % 2 else 0} {number}": triplets for triplets in kept.values()})


def test_two_processes_may_write_at_once(tmp_path: Path) -> None:
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


def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "parses.sqlite"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(FatalError, match=r"parses\.sqlite: damaged.*remove it"):
        ParseCache(path, "1")
    (tmp_path / "file").write_text("")
    with pytest.raises(FatalError, match=r"set parse\.cache"):
        ParseCache(tmp_path / "file/parses.sqlite", "1")


def test_paths_are_no_part_of_the_key(tmp_path: Path) -> None:
    stage: Any = ParseStage(ParseSettings(cache=tmp_path / "parses.sqlite"))
    assert set(stage.row_settings()) == {"implied", "model", "model_version"}
