"""SQL of `rlip query`, which reaches the tables of a run and nothing else."""

from collections.abc import Iterator
from pathlib import Path

from tests.hostile.case import Case, table, told
from tests.hostile.stores import labelled_run

NO = "^refused: Error: "
FORBIDDEN = NO + ".*(disabled|Permission|not allowed|locked|Cannot)"

QUERIES: dict[str, tuple[str, str]] = {
    "nothing": (NO, ""),
    "no SQL": (NO + ".*tables of run", "give me the labels"),
    "a table that isn't there": (NO + ".*tables of run 'toy': .*images", "select * from users"),
    "a file": (NO, "select * from '/etc/passwd'"),
    "a file as text": (FORBIDDEN, "select * from read_text('/etc/passwd')"),
    "a file as Parquet": (NO, "select * from read_parquet('/etc/*.parquet')"),
    "names of files": (FORBIDDEN, "select * from glob('/*')"),
    "a URL": (NO, "select * from 'http://127.0.0.1:9/x.parquet'"),
    "a copy to a file": (FORBIDDEN, "copy images to 'escaped.csv'"),
    "a copy to a command": (NO, "copy images to '| touch escaped'"),
    "a copy from a file": (NO, "copy images from '/etc/passwd'"),
    "an export": (FORBIDDEN, "export database 'escaped'"),
    "another database": (FORBIDDEN, "attach 'escaped.db' as other"),
    "an extension to install": (NO, "install httpfs"),
    "access switched on": (NO, "set enable_external_access = true"),
    "locks switched off": (NO, "set lock_configuration = false"),
    "a log file": (NO, "set log_query_path = 'escaped.log'"),
    "a secret": (NO, "create persistent secret s (type s3, key_id 'a', secret 'b')"),
    "a pragma": (NO, "pragma enable_profiling = 'json'; pragma profiling_output = 'escaped.json'; select 1"),
    "variables of the caller": (NO, "select * from sql"),
    "several statements, the last one outside": (FORBIDDEN, "select 1; select * from read_text('/etc/passwd')"),
    "a prepared statement": (FORBIDDEN, "prepare p as select * from read_text('/etc/passwd'); execute p"),
    "a macro": (NO, "create macro m() as table select * from read_text('/etc/passwd'); select * from m()"),
    "a drop": ("^passed", "drop view images"),
    "a change of a table": (NO, "update images set split = 'test'"),
    "a checkpoint": ("^(refused|passed)", "checkpoint"),
    "five thousand brackets": (NO, "select " + "(" * 5000 + "1" + ")" * 5000),
    "a name of a megabyte": (NO, f'select "{"x" * 2**20}" from images'),
    "half a character": (NO, "select '\udc80'"),
    "a zero byte": ("^passed: [^\0]*$", "select 'a\0b'"),
    "control characters in the answer": ("^passed: [^\x1b]*$", "select '\x1b[2J' || chr(7) as a"),
    "brackets of rich": (r"^passed: .*\[red\]", "select '[red]x' as a"),
    "a string of 2 GB": (NO, "select length(repeat('x', 2000000000) || repeat('y', 2000000000))"),
    "a pattern that explodes": ("^(passed|refused)", "select regexp_matches(repeat('a', 5000), '(a*)*b')"),
    "rows that the terminal need not show": ("^passed: .*first 100 of", "select * from range(100000)"),
}  # fmt: skip


def cases() -> Iterator[Case]:
    """Each query of the same small run."""
    yield from table("SQL", QUERIES, _asked)


def _asked(folder: Path, sql: str) -> str:
    return told("query", "toy", sql, "--store", labelled_run(folder))
