"""`rlip query`: SQL over a run's tables and over nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from review.hand_made import Book

from pipeline.commands.query import print_query, query
from storage.errors import Terminal


def test_every_table_of_a_run_can_be_asked(labelled: Book) -> None:
    sql = """
        select r.predicate, count(*) as times from (select unnest(relations) as r from relations)
        where r.score >= 0.5 group by 1 order by times desc, 1
    """
    assert query(labelled.run, sql).to_pylist() == [
        {"predicate": "next to", "times": 2},
        {"predicate": "ride", "times": 2},
    ]
    assert query(labelled.run, "select distinct partition from captions").to_pylist() == [{"partition": "toys/0000"}]
    assert query(labelled.run, "select reason from rejected").to_pylist() == [{"reason": "truncated"}]


def test_tables_that_several_steps_write_bear_their_arms(labelled: Book) -> None:
    for arm in ("pseudo", "none"):
        labelled.metrics(f"evaluate:{arm}", (0, "map", 0.5))
    sql = "select p.value - n.value as gain from scores_pseudo p join scores_none n using (name)"
    assert query(labelled.run, sql).to_pylist() == [{"gain": 0.0}]


def test_what_json_can_not_hold_is_told_as_null(labelled: Book, capsys: pytest.CaptureFixture[str]) -> None:
    sql = """select 'nan'::double as a, [1.5, '-inf'::double] as b, {'c': 'inf'::float} as d, date '2026-01-02' as e"""
    print_query(labelled.run.store.root, labelled.run.name, sql, as_json=True)
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert told == [{"a": None, "b": [1.5, None], "d": {"c": None}, "e": "2026-01-02"}]


def test_a_wrong_query_names_the_tables(labelled: Book) -> None:
    with pytest.raises(Terminal, match=r"candidates, captions, images, rejected, relations, triplets"):
        query(labelled.run, "select * from labels")
    with pytest.raises(Terminal, match=r"asks for no rows; e\.g\. 'select count"):
        query(labelled.run, "")


@pytest.mark.parametrize(
    "sql",
    [
        "select * from read_csv('{file}')", "select * from '{file}'", "copy images to '{file}'",
        "attach '{file}' as other", "install httpfs", "set enable_external_access = true",
    ],
)  # fmt: skip
def test_a_query_reaches_nothing_but_the_run(labelled: Book, sql: str, tmp_path: Path) -> None:
    file = tmp_path / "secret.csv"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(Terminal):
        query(labelled.run, sql.format(file=file))
    assert file.read_text() == "a,b\n1,2\n"
