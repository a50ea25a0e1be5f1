"""Settings of stage `tag` choose where candidates come from, and the content of their files is part of keys."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.stages.tag import TagSettings, TagStage, open_candidates
from storage.errors import FatalError
from tagger.box import Box
from tagger.parsing.parser import load_parser, parse_captions

BOXES = [Box("person", 0, 0, 10, 10), Box("chair", 5, 0, 10, 10), Box("cat", 40, 0, 10, 10)]


def found(settings: TagSettings) -> list[tuple[int, str, int]]:
    [triplets] = parse_captions(["a cat sitting on a chair"], load_parser())
    return [(pair.subject, pair.predicate, pair.object) for pair in open_candidates(settings)(triplets, BOXES).pairs]


@pytest.fixture
def dictionary(tmp_path: Path) -> Path:
    path = tmp_path / "phrases.json"
    path.write_text(json.dumps({"person": ["hair"], "chair": ["seat"], "cat": ["cat"]}))
    return path


def test_each_setting_changes_what_is_proposed(dictionary: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"cat": {"person": ["near"]}}))
    assert found(TagSettings()) == [(2, "sit on", 1)]
    assert found(TagSettings(wording="official")) == [(2, "on", 1)]
    assert found(TagSettings(overlap=True)) == []
    assert found(TagSettings(matching="official", paraphrases=dictionary)) == [(2, "sit on", 0)]
    assert found(TagSettings(enumeration="official")) == [(2, "sit on", 1)]
    assert found(TagSettings(cooccurrence=table)) == [(2, "near", 0)]


def test_files_are_part_of_the_key_by_content_and_paths_are_not(dictionary: Path) -> None:
    stage = TagStage(TagSettings(paraphrases=dictionary))
    assert stage.weights() == {"paraphrases": dictionary}
    assert "paraphrases" not in stage.row_settings()
    assert stage.row_settings()["matching"] == "words"


def test_a_file_that_is_missing_or_something_else_is_named(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match=r"tag\.paraphrases = .*: no such file"):
        TagStage(TagSettings(paraphrases=tmp_path / "none.json")).weights()
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(FatalError, match=r"list\.json"):
        open_candidates(TagSettings(cooccurrence=tmp_path / "list.json"))


def test_a_table_without_captions_excludes_ways_to_read_them(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="reads no captions"):
        TagSettings(cooccurrence=tmp_path / "table.json", matching="official")
