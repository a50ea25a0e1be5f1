"""An artifact that is held reads each table once, wherever its files lie."""

from uuid import uuid4

import fsspec
from toy_store import put

from pipeline.labels.labelled_partitions import held
from storage.remote_store import RemoteStore


def test_a_held_artifact_of_an_object_store_brings_its_table_once(tmp_path):
    url, files = f"memory://{uuid4().hex}", fsspec.filesystem("memory")
    key = put(RemoteStore(url, tmp_path / "here", files), "second", rows=(3, 4)).key
    found = RemoteStore(url, tmp_path / "elsewhere", files).find("second", key)
    assert found is not None
    artifact = held(found)
    table = artifact.table("second")
    assert table["image_id"].to_pylist() == [3, 4]
    assert artifact.table("second") is table
    assert artifact.manifest.partition == "toys/0000"
