"""Tables that come from elsewhere are compared with their manifest and with today's columns before they are believed."""

from __future__ import annotations

import errno
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_store import put

from storage.artifact import require_schemas
from storage.errors import FatalError
from storage.local_store import LocalStore
from storage.manifest import MANIFEST, Counts, FileEntry, Manifest
from storage.tables import REJECTED, read_table, table_bytes, write_table

IMAGES = pa.table({"image_id": [1, 2]})


def _manifest(stage: str, **rows: int | None) -> Manifest:
    """A manifest of files (`a__b`: a.b) with that many rows each."""
    files = {name.replace("__", "."): FileEntry(digest="0" * 64, size=1, rows=count) for name, count in rows.items()}
    return Manifest(
        stage=stage, key="0" * 64, terms={}, upstream={}, files=files, counts=Counts(), schema_fingerprint="",
        seconds=0, host="", versions={},
    )  # fmt: skip


def _said(manifest: Manifest, folder: Path) -> str:
    with pytest.raises(FatalError) as caught:
        require_schemas(manifest, folder)
    return str(caught.value)


def test_a_table_of_today_is_read_without_a_look_at_the_manifest(tmp_path: Path) -> None:
    artifact = put(LocalStore(tmp_path), "caption", rows=[3])
    (artifact.folder / MANIFEST).unlink()
    assert artifact.table("captions")["image_id"].to_pylist() == [3]


def test_a_file_that_the_manifest_names_and_that_is_gone_is_damage(tmp_path: Path) -> None:
    artifact = put(LocalStore(tmp_path), "caption")
    artifact.file("captions.parquet").unlink()
    with pytest.raises(
        FatalError, match=rf"^{artifact.folder}/captions\.parquet: damaged \(gone\); remove its artifact"
    ):
        artifact.table("captions")
    with pytest.raises(FileNotFoundError, match=rf"^caption {artifact.key[:12]} has no other\.parquet$"):
        artifact.table("other")


def test_a_torn_table_is_damage_and_a_failing_disk_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = put(LocalStore(tmp_path), "caption")
    path = artifact.file("captions.parquet")
    path.write_bytes(b"PAR1 torn PAR1")
    with pytest.raises(
        FatalError, match=rf"^{path}: damaged \(.*arquet.*\); remove its artifact with `rlip store verify"
    ):
        artifact.table("captions")

    def fail(path: Path) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr("storage.artifact.read_table", fail)
    with pytest.raises(OSError, match="no") as caught:
        artifact.table("captions")
    assert caught.value.errno == errno.EIO


def test_a_whole_artifact_has_all_files_with_the_bytes_of_its_manifest(tmp_path: Path) -> None:
    artifact = put(LocalStore(tmp_path), "caption")
    artifact.require_whole()
    path = artifact.file("captions.parquet")
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(FatalError, match=rf"^{path}: damaged \(bytes do not match the digest\); remove its artifact"):
        artifact.require_whole()
    path.unlink()
    with pytest.raises(FatalError, match=rf"^{path}: damaged \(gone\); remove its artifact"):
        artifact.require_whole()


def test_a_table_is_written_in_one_form(tmp_path: Path) -> None:
    table = pa.table({"text": [f"a man rides horse {n % 97}" for n in range(5000)]})
    expected = tmp_path / "expected.parquet"
    pq.write_table(table, expected, compression="zstd", compression_level=3, write_statistics=False, store_schema=False)
    assert table_bytes(table) == expected.read_bytes()
    (column,) = [pq.read_metadata(expected).row_group(0).column(0)]
    assert (column.compression, column.is_stats_set) == ("ZSTD", False)


def test_a_table_is_read_as_the_one_that_was_asked_for(tmp_path: Path) -> None:
    write_table(pa.table({"image_id": pa.array([1], pa.int32())}), tmp_path / "toys.parquet")
    assert read_table(tmp_path / "toys.parquet").schema.types == [pa.int32()]
    wanted = pa.schema({"image_id": pa.int64()})
    assert read_table(tmp_path / "toys.parquet", wanted).schema == wanted
    with pytest.raises(ValueError, match="field names"):
        read_table(tmp_path / "toys.parquet", pa.schema({"other": pa.int64()}))


def test_tables_that_fit_are_accepted(tmp_path: Path) -> None:
    write_table(IMAGES, tmp_path / "toys.parquet")
    write_table(REJECTED.empty_table(), tmp_path / "rejected.parquet")
    require_schemas(_manifest("toy", toys__parquet=2, rejected__parquet=0, weights__bin=None), tmp_path)
    require_schemas(_manifest("toy", toys__parquet=None), tmp_path)


def test_a_table_beside_other_files_is_compared(tmp_path: Path) -> None:
    write_table(IMAGES, tmp_path / "toys.more.parquet")
    manifest = _manifest("toy", weights__bin=None, toys__more__parquet=3000)
    assert _said(manifest, tmp_path) == "toys.more.parquet has 2 rows, and its manifest says 3,000"


def test_what_is_no_table_is_told_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "toys.parquet").write_bytes(b"PAR1 no table PAR1")
    said = _said(_manifest("toy", toys__parquet=2), tmp_path)
    assert said.startswith("toys.parquet is no table (") and "arquet" in said.partition("(")[2]


def test_quarantined_rows_have_todays_columns(tmp_path: Path) -> None:
    write_table(IMAGES, tmp_path / "rejected.parquet")
    manifest = _manifest("toy", rejected__parquet=2)
    assert _said(manifest, tmp_path) == "rejected.parquet has other columns than quarantined rows have"


def test_a_table_that_can_not_be_upgraded_is_named(tmp_path: Path) -> None:
    write_table(IMAGES.append_column("mood", pa.array(["a", "b"])), tmp_path / "captions.parquet")
    said = _said(_manifest("caption", captions__parquet=2), tmp_path)
    assert said.startswith("captions.parquet: column captions.mood is of another version of rlip")
