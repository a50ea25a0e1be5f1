"""SQL of `rlip query`, which reaches the tables of a run and nothing else."""

from collections.abc import Iterator
from pathlib import Path

from tests.hostile.case import Case, table, told
from tests.hostile.stores import labelled_run

NO = "^refused: Error: "
FORBIDDEN = NO + ".*(disabled|Permission|not allowed|locked|Cannot)"

QUERIES: dict[str, tuple[str, str]] = {
    "a file": (NO, "select * from '/etc/passwd'"),
    "a file as text": (FORBIDDEN, "select * from read_text('/etc/passwd')"),
    "a URL": (NO, "select * from 'http://127.0.0.1:9/x.parquet'"),
    "a copy to a file": (FORBIDDEN, "copy images to 'escaped.csv'"),
    "another database": (FORBIDDEN, "attach 'escaped.db' as other"),
    "an extension to install": (NO, "install httpfs"),
    "access switched on": (NO, "set enable_external_access = true"),
    "a secret": (NO, "create persistent secret s (type s3, key_id 'a', secret 'b')"),
    "a prepared statement": (FORBIDDEN, "prepare p as select * from read_text('/etc/passwd'); execute p"),
    "five thousand brackets": (NO, "select " + "(" * 5000 + "1" + ")" * 5000),
    "a name of a megabyte": (NO, f'select "{"x" * 2**20}" from images'),
    "a zero byte": ("^passed: [^\0]*$", "select 'a\0b'"),
    "control characters in the answer": ("^passed: [^\x1b]*$", "select '\x1b[2J' || chr(7) as a"),
    "a string of 2 GB": (NO, "select length(repeat('x', 2000000000) || repeat('y', 2000000000))"),
    "a pattern that explodes": ("^(passed|refused)", "select regexp_matches(repeat('a', 5000), '(a*)*b')"),
}  # fmt: skip


def cases() -> Iterator[Case]:
    """Each query of the same small run."""
    yield from table("SQL", QUERIES, _asked)


def _asked(folder: Path, sql: str) -> str:
    return told("query", "toy", sql, "--store", labelled_run(folder))
