"""A small run in a store, its files as anyone may have changed them, and SQL that must reach its tables alone."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from faulty_disk import flip
from run_builder import TWO_PEOPLE, RunBuilder, captions, relations, triplets

from storage.local_store import LocalStore
from storage.runs import Run
from tests.hostile.case import Case, table, told

DEEP = b"[" * 100_000
Change = Callable[[Path], object]


def labelled_run(folder: Path) -> Path:
    """Puts the run `toy` of one image into a folder. Returns its store."""
    shutil.copytree(_made(), folder, dirs_exist_ok=True)
    return folder / "store"


@cache
def _made() -> Path:
    """A folder with that run. It lies in that of the first case that needs it, since cases may write nowhere else."""
    folder = Path(mkdtemp())
    book = RunBuilder(Run(LocalStore(folder / "store"), "toy"), folder / "pictures")
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE, [(0, "riding", 2)])])
    book.add("caption", "toys/0000", [captions(1, "a man rides a horse")])
    book.add("parse", "toys/0000", [triplets(1, (0, "man", "ride", "horse"))])
    book.add("tag", "toys/0000", [relations(1, (0, "ride", 2, 0.9))])
    book.run.append("completed", recipe={}, outcome=[])
    return folder


def replaced(data: bytes) -> Change:
    return lambda path: path.write_bytes(data)


def field(name: str, value: Any) -> Change:
    """A JSON object with one field changed."""
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_bytes()), name: value}))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flipped(place: int) -> Change:
    return lambda path: flip(path, place)


def padded(path: Path) -> None:
    os.truncate(path, 2**30)


def linked(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def rows(**columns: Any) -> Change:
    return lambda path: pq.write_table(pa.table(columns), path)


def footer(length: int) -> Change:
    """A table that states another length of its description."""
    return lambda path: path.write_bytes(path.read_bytes()[:-8] + length.to_bytes(4, "little") + b"PAR1")


DAMAGED = "^refused: Error: .*(damaged|is not)"
NOT_JSON: dict[str, Change] = {
    "empty": replaced(b""), "no UTF-8": replaced(b'{"a": "\xff"}'), "a list": replaced(b"[]"),
    "an object of nothing": replaced(b"{}"), "5,000 digits": replaced(b'{"step": ' + b"1" * 5000 + b"}"),
}  # fmt: skip
STEP = "store/runs/toy/steps/tag.json"
RECORD = "store/runs/toy/records/*.json"
MANIFEST = "store/artifacts/tag/*/manifest.json"
TABLE = "store/artifacts/tag/*/relations.parquet"

STEPS = {
    **{name: (DAMAGED, change) for name, change in NOT_JSON.items()},
    "a key that leads out": (DAMAGED, field("partitions", {"toys/0000": "../../../../etc"})),
    "a stage that leads out": (DAMAGED, field("stage", "../../runs")),
    "lists within lists": (DAMAGED, replaced(DEEP)),
    "a gigabyte of blanks": ("^refused", padded),
    "a folder in its place": ("^refused", as_folder),
}  # fmt: skip
MANIFESTS = {
    **{name: ("^refused", change) for name, change in NOT_JSON.items()},
    "lists within lists": ("^refused", replaced(DEEP)),
    "a gigabyte of blanks": ("^refused", padded),
    "half a million wrong values": ("^refused", replaced(b'{"upstream": {"images": [%s1]}}' % (b"1," * (2**19 - 9)))),
    "an edited count": ("^refused", field("counts", {"rows_in": 10**9, "rows_out": 1, "rejected": {}})),
    "a file that leads out": ("^refused", field("files", {"../../../../escaped": {"digest": "0" * 64, "size": 1}})),
    "a later format": ("^refused: .*format 99", field("format", 99)),
    "a link to the passwords": ("^refused", linked),
    "a folder in its place": ("^refused", as_folder),
}  # fmt: skip
TABLES = {
    "empty": (DAMAGED, replaced(b"")), "cut short": (DAMAGED, cut),
    "a flipped bit in its middle": ("^refused", flipped(60)),
    "a flipped bit in its description": ("^(refused|passed)", flipped(-60)),
    "a description of 4 GiB": (DAMAGED, footer(2**32 - 1)), "other columns": ("^refused", rows(a=[1])),
    "a link to the passwords": (DAMAGED, linked), "a folder in its place": ("^refused", as_folder),
}  # fmt: skip


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
    """Each change of a file, then the commands that read it; and each query of the same small run."""
    yield from _cases("record", "show", ("show", "toy", "tag"), STEP, STEPS)
    histories = {name: ("^(refused|passed)", change) for name, change in NOT_JSON.items()}
    yield from _cases("record", "history", ("show", "toy", "--history"), RECORD, histories)
    yield from _cases("manifest", "verify", ("store", "verify"), MANIFEST, MANIFESTS)
    damaged = {name: ("^refused", change) for name, (_, change) in TABLES.items()}
    yield from _cases("table", "verify", ("store", "verify"), TABLE, damaged)
    asked = {name: ("^(refused|passed)", change) for name, (_, change) in TABLES.items()}
    yield from _cases("table", "query", ("query", "toy", "select * from relations"), TABLE, asked)
    yield from _cases("table", "show", ("show", "toy", "tag"), TABLE, TABLES)
    yield from table("SQL", QUERIES, lambda folder, sql: told("query", "toy", sql, "--store", labelled_run(folder)))


def _cases(
    kind: str, command: str, words: tuple[str, ...], place: str, changes: dict[str, tuple[str, Change]]
) -> Iterator[Case]:
    def feed(folder: Path, change: Change) -> str:
        store = labelled_run(folder)
        (path,) = folder.glob(place)
        change(path)
        return told(*words, "--store", store)

    yield from table(kind, {f"{command}: {name}": given for name, given in changes.items()}, feed)
