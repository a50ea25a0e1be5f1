"""A verdict that was acknowledged is in the log, whatever dies, fails or writes beside it."""

import errno
import fcntl
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from faulty_disk import Died, FaultyDisk

from pipeline.labels.verdict_log import VerdictLog, verdicts_folder
from pipeline.labels.verdicts import JudgedRelation, Kind, Verdict
from storage.disk import Disk
from storage.errors import FatalError, RetryableError

MUG = JudgedRelation("d" * 64, (1, 2, 30, 40), (5, 6, 70, 80), "on")
DOG = JudgedRelation("e" * 64, (1, 2, 30, 40), (5, 6, 70, 80), "next to")


def verdict(kind: Kind = "accept", reviewer: str = "ada", relation: JudgedRelation = MUG, **values: object) -> Verdict:
    given = {"time": "2026-01-31T12:00:00+00:00", "subject_category": "cup", "object_category": "table", **values}
    return Verdict(relation, kind, reviewer, **given)  # type: ignore[arg-type]


def test_a_writer_and_a_reader_wait_for_a_writer_in_the_middle_of_its_lines(tmp_path):
    log = VerdictLog(tmp_path)
    log.append([verdict()])
    whole = verdict("reject", relation=DOG)
    line = json.dumps(whole.as_row()).encode() + b"\n"
    found: list[int] = []
    with (tmp_path / "ada.jsonl").open("ab", buffering=0) as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        writer.write(line[:50])
        others = [
            threading.Thread(target=lambda: VerdictLog(tmp_path).append([verdict(image_id=3)])),
            threading.Thread(target=lambda: found.append(len(list(log.verdicts())))),
        ]
        for other in others:
            other.start()
            other.join(0.3)
        writer.write(line[50:])
    for other in others:
        other.join()
    assert found[0] >= 2
    assert list(log.verdicts())[:2] == [verdict(), whole]
    assert len(list(log.verdicts())) == 3


def test_a_line_torn_by_a_crash_is_never_merged_with_the_next(tmp_path):
    log = VerdictLog(tmp_path)
    log.append([verdict()])
    path = tmp_path / "ada.jsonl"
    path.write_bytes(path.read_bytes() + path.read_bytes()[:-40])
    assert len(list(log.verdicts())) == 1
    assert log.damaged == (f"{path}: its incomplete last line was skipped",)
    log.append([verdict("reject", relation=DOG)])
    assert [each.kind for each in log.verdicts()] == ["accept", "reject"]
    assert len(log.damaged) == 1
    assert log.damaged[0].startswith(f"{path}:2: skipped: Invalid JSON")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_where_the_disk_fails_the_append_is_refused_as_a_whole_and_may_be_repeated(tmp_path, code):
    VerdictLog(tmp_path).append([verdict()])
    error = FatalError if code == errno.ENOSPC else RetryableError
    for at in (1, 2):
        disk = FaultyDisk(tmp_path, at, code)
        with pytest.raises(error):
            VerdictLog(tmp_path, disk).append([verdict(image_id=1), verdict(image_id=2)])
        log = VerdictLog(tmp_path)
        assert [each.image_id for each in log.verdicts()] == [None]
        assert not log.damaged
    log.append([verdict(image_id=3)])
    assert [each.image_id for each in log.verdicts()] == [None, 3]


@pytest.mark.parametrize("fault", ["stop", "torn write", "power cut, names lost", "power cut, bytes lost"])
def test_wherever_a_machine_dies_what_was_acknowledged_outlives_it(tmp_path, fault):
    def judge(disk: Disk, folder: Path, told: list[int]) -> None:
        for number in range(3):
            VerdictLog(folder, disk).append([verdict(image_id=number)])
            told.append(number)

    rehearsal = FaultyDisk(tmp_path, 0, "stop")
    judge(rehearsal, tmp_path / "whole" / "verdicts", [])
    assert rehearsal.done.count("fsync") == 3
    for at in range(1, len(rehearsal.done) + 1):
        root = tmp_path / f"{fault}-{at}"
        root.mkdir()
        disk = FaultyDisk(root, at, fault)  # type: ignore[arg-type]
        told: list[int] = []
        try:
            judge(disk, root / "verdicts", told)
        except Died:
            disk.cut_power()
        after = VerdictLog(root / "verdicts")
        assert set(told) <= {each.image_id for each in after.verdicts()}
        after.append([verdict(image_id=9)])
        assert list(after.verdicts())[-1].image_id == 9


def test_a_log_sees_what_another_appends_and_reads_nothing_twice(tmp_path):
    log, other = VerdictLog(tmp_path), VerdictLog(tmp_path)
    assert log.standing() == {}
    other.append([verdict()])
    before = log.standing()
    assert before == {MUG: {"ada": verdict()}}
    path = tmp_path / "ada.jsonl"
    whole = path.read_bytes()
    # What was read already is damaged in place: only a log that reads it again can notice.
    with path.open("r+b") as file:
        file.write(b"#" * (len(whole) - 1))
    other.append([verdict("reject", reviewer="bob"), verdict("reject")])
    assert {name: said.kind for name, said in log.standing()[MUG].items()} == {"ada": "reject", "bob": "reject"}
    assert before == {MUG: {"ada": verdict()}}
    assert len(list(log.verdicts())) == 3


def test_a_file_that_was_replaced_or_removed_is_read_anew(tmp_path):
    log = VerdictLog(tmp_path)
    log.append([verdict(), verdict(relation=DOG), verdict(reviewer="bob")])
    assert len(log.standing()) == 2
    lines = (tmp_path / "ada.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "ada.jsonl").write_bytes(lines[1])
    (tmp_path / "bob.jsonl").unlink()
    assert set(log.standing()) == {DOG}
    assert len(list(log.verdicts())) == 1


def test_undo_takes_back_the_last_verdict_that_stands_of_this_reviewer_on_this_relation(tmp_path):
    log = VerdictLog(tmp_path)
    log.append([verdict(), verdict("reject"), verdict(relation=DOG), verdict("reject", reviewer="bob")])
    log.append([verdict("undo")])
    assert {name: said.kind for name, said in log.standing()[MUG].items()} == {"ada": "accept", "bob": "reject"}
    log.append([verdict("undo", seconds=1.0), verdict("undo", seconds=2.0)])
    assert set(log.standing()[MUG]) == {"bob"}
    log.append([verdict("undo", reviewer="bob")])
    assert set(log.standing()) == {DOG}
    assert len(list(log.verdicts())) == 8


def test_files_of_one_reviewer_from_two_machines_may_be_joined_in_any_order(tmp_path):
    said = [
        verdict(kind, time=f"2026-01-31T12:00:0{second}+00:00")
        for second, kind in enumerate(("accept", "reject", "undo", "unsure", "undo"))
    ]
    for name, verdicts in (("office", said[:2]), ("home", said)):  # the file was copied, and went on in both places
        VerdictLog(tmp_path / name).append(verdicts)
    for name, kind, second in (("office", "reject", 6), ("home", "accept", 7)):
        VerdictLog(tmp_path / name).append([verdict(kind, relation=DOG, time=f"2026-01-31T12:00:0{second}+00:00")])
    office, home = ((tmp_path / name / "ada.jsonl").read_bytes() for name in ("office", "home"))
    for joined in (office + home, home + office):
        (tmp_path / "ada.jsonl").write_bytes(joined)
        log = VerdictLog(tmp_path)
        standing = {relation: by["ada"].kind for relation, by in log.standing().items()}
        assert (standing, len(list(log.verdicts())), log.damaged) == ({MUG: "accept", DOG: "accept"}, 7, ())


HOSTILE = {
    "not JSON": b"{", "deep": b"[" * 100_000, "a list": b"[]", "no relation": b'{"kind": "accept"}',
    "other reviewer": None, "too long": b'{"a": "' + b"x" * 200_000 + b'"}', "not text": b"\xff\xfe",
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_line_is_named_with_file_and_line_and_the_others_are_read(tmp_path, kind):
    log = VerdictLog(tmp_path)
    log.append([verdict()])
    bad = HOSTILE[kind] or json.dumps(verdict(reviewer="bob").as_row()).encode()
    with (tmp_path / "ada.jsonl").open("ab") as file:
        file.write(bad + b"\n")
    log.append([verdict("reject")])
    assert [each.kind for each in log.verdicts()] == ["accept", "reject"]
    assert len(log.damaged) == 1
    assert log.damaged[0].startswith(f"{tmp_path}/ada.jsonl:2: skipped: ")
    assert len(log.damaged[0]) < 600


@pytest.mark.parametrize("name, value", [
    ("kind", "maybe"),
    ("time", "yesterday"),
    ("time", "2026-01-31T12:00:00+02:00"),
    ("seconds", 1e400),
    ("seconds", True),
    ("score", "0.5"),
    ("image_id", 1.5),
    ("run", 7),
    ("corrected_predicate", "..."),
    ("corrected_subject", [1, 2, 3]),
    ("corrected_subject", [1, 2, 3, 4]),
    ("relation", {"image": "d", "subject": [0, 0, 1, 1], "object": [0, 0, 1, None], "predicate": "on"}),
    ("relation", {"image": "d", "subject": [0, 0, 1, 1], "object": [0, 0, 1, 1]}),
])  # fmt: skip
def test_a_line_with_a_wrong_value_names_the_field(tmp_path, name, value):
    row = {**verdict().as_row(), name: value}
    (tmp_path / "ada.jsonl").write_text(json.dumps(row) + "\n")
    log = VerdictLog(tmp_path)
    assert not list(log.verdicts())
    wanted = {"corrected_subject": "corrected", "relation": "ject|predicate"}.get(name, name)
    assert any(word in log.damaged[0].partition("skipped: ")[2] for word in wanted.split("|"))


def test_a_pipe_or_a_foreign_name_in_the_folder_is_named_and_not_waited_for(tmp_path):
    log = VerdictLog(tmp_path)
    log.append([verdict()])
    os.mkfifo(tmp_path / "bob.jsonl")
    (tmp_path / "no body.jsonl").write_text("{}\n")
    assert len(list(log.verdicts())) == 1
    assert ["bob.jsonl: skipped" in log.damaged[0], "no body.jsonl: skipped" in log.damaged[1]] == [True, True]


def test_a_reviewer_is_a_safe_name_of_a_file_with_composed_accents(tmp_path):
    for name in ["", ".", "..", "../ada", "a/b", "-rf", "ada ", "ada\n", "x" * 65, "ä b"]:
        with pytest.raises(FatalError, match="reviewer"):
            verdict(reviewer=name)
    log = VerdictLog(tmp_path)
    log.append([verdict(reviewer="Zoe\u0308")])
    assert [one.reviewer for one in log.standing_of("Zoë")] == ["Zoë"]
    assert [path.name for path in tmp_path.iterdir()] == ["Zoë.jsonl"]


def test_of_two_files_whose_names_differ_only_in_the_form_of_accents_the_composed_one_counts(tmp_path):
    log, other = VerdictLog(tmp_path), tmp_path / "Zoe\u0308.jsonl"
    VerdictLog(tmp_path / "copy").append([verdict(reviewer="Zoë")])
    (tmp_path / "copy" / "Zoë.jsonl").rename(other)
    assert set(log.standing()) == {MUG} and not log.damaged
    log.append([verdict(reviewer="Zoë", relation=DOG)])
    assert set(log.standing()) == {DOG} and log.damaged[0].startswith(f"{other}: skipped: ")


def test_what_is_read_equals_what_was_appended(tmp_path):
    given = verdict(
        "wrong_pair", corrected_object=(1.005, 2, 3, 4), seconds=2.5, queue="audit", run="demo", score=0.25,
        dataset="tasse à café", image_id=7,
    )  # fmt: skip
    log = VerdictLog(tmp_path)
    log.append([given])
    assert list(log.verdicts()) == [given]
    assert given.corrected == replace(MUG, object=(1.0, 2.0, 3.0, 4.0))


def test_standing_verdicts_are_in_the_order_of_their_first_lines(tmp_path):
    judged = [replace(MUG, predicate=each) for each in ("on", "in", "under", "at", "by", "over")]
    log = VerdictLog(tmp_path)
    log.append([verdict(relation=each) for each in judged])
    assert list(log.standing()) == judged


def test_a_relation_is_the_same_however_its_boxes_and_its_predicate_are_written():
    other = JudgedRelation(MUG.image, (1.001, 2.0, 29.999, 40), (5.0, 6, 70, 80.0), "is ON")
    assert other == MUG
    assert hash(other) == hash(MUG)


def test_threads_share_a_log(tmp_path):
    log = VerdictLog(tmp_path)

    def judge(number: int) -> None:
        for place in range(20):
            log.append([verdict(reviewer=f"r{number}", relation=replace(MUG, image=f"{place}"))])
            log.standing()

    threads = [threading.Thread(target=judge, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(said) for said in log.standing().values()] == [4] * 20


def test_verdicts_lie_in_the_store_or_where_a_folder_was_named(tmp_path):
    assert verdicts_folder(tmp_path) == tmp_path / "verdicts"
    assert verdicts_folder(f"file://{tmp_path}") == tmp_path / "verdicts"
    with pytest.raises(FatalError, match="--verdicts"):
        verdicts_folder("s3://bucket/folder")
