"""Why an artifact was computed: the first term that differs from the nearest artifact, traced up to its cause."""

import pytest
from toy_store import put, put_chain, record, rewrite

from pipeline.cli.why import reasons_of
from storage.keys import changes
from storage.local_store import LocalStore


def test_a_changed_input_is_followed_up_to_the_setting_that_changed_it(tmp_path):
    store = LocalStore(tmp_path)
    before, after = put_chain(store, top_p=0.9, rows=[1, 2]), put_chain(store, top_p=0.5, rows=[1, 2, 3])
    (found,) = reasons_of(record(store, "demo", after), "parse", "toys/0000")
    assert [(cause.stage, cause.change.term) for cause in found.causes] == [
        ("parse", "inputs.captions"),
        ("caption", "settings.top_p"),
    ]
    assert (found.causes[1].change.old, found.causes[1].change.new) == (0.9, 0.5)
    assert found.causes[0].nearest == before["parse"][0].key
    assert found.first == "caption: top_p: 0.9 → 0.5"


def test_the_nearest_is_of_the_same_partition_and_differs_least(tmp_path):
    store = LocalStore(tmp_path)
    put(store, "caption", "toys/0001", {"top_p": 0.5, "draws": 10})
    put(store, "caption", "toys/0000", {"top_p": 0.9, "draws": 3})
    near = put(store, "caption", "toys/0000", {"top_p": 0.9, "draws": 10})
    ours = put(store, "caption", "toys/0000", {"top_p": 0.5, "draws": 10})
    (found,) = reasons_of(record(store, "demo", {"caption": [ours]}), "caption")
    assert [(cause.nearest, str(cause.change)) for cause in found.causes] == [(near.key, "top_p: 0.9 → 0.5")]


def test_what_has_nothing_beside_it_is_new(tmp_path):
    store = LocalStore(tmp_path)
    run = record(store, "demo", put_chain(store, "toys/0000"), put_chain(store, "toys/0001"))
    assert all(found.causes == () and found.first.startswith("new") for found in reasons_of(run, "parse"))


def test_a_cause_that_is_gone_from_the_store_ends_the_trail(tmp_path):
    store = LocalStore(tmp_path)
    before, after = put_chain(store, top_p=0.9, rows=[1]), put_chain(store, top_p=0.5, rows=[2])
    (before["caption"][0].folder / "manifest.json").unlink()
    (found,) = reasons_of(record(store, "demo", after), "parse")
    assert [cause.change.term for cause in found.causes] == ["inputs.captions"]


@pytest.mark.parametrize("named", [True, False])
def test_the_trail_ends_at_a_data_sets_records_and_where_a_manifest_names_too_little(named, tmp_path):
    """No artifact holds the records of a dataset. Old manifests do not name everything that their keys cover."""
    store, made = LocalStore(tmp_path), []
    for rows in ([1], [2]):
        images = put(store, "ingest", inputs={"records": [_Records(str(rows))]}, rows=rows)
        made.append(put(store, "caption", inputs={"images": [images]}, rows=rows))
    if not named:
        for artifact in made:
            rewrite(artifact, upstream={})
    (found,) = reasons_of(record(store, "demo", {"caption": made[1:]}), "caption")
    assert [cause.change.term for cause in found.causes] == ["inputs.images", "inputs.records"][: 1 + named]
    if named:
        assert found.first == "ingest: data.sources, annotations or image files: [1] → [2]"


class _Records:
    """What ingest reads: it has a digest, but no key that the store knows."""

    def __init__(self, content: str) -> None:
        self.content, self.key = content, "f" * 64


@pytest.mark.parametrize("value, told", [
    (None, "unset"),
    (False, "False"),
    (["one"], "one"),
    ([None], "None"),
    (["one", "two"], "['one', 'two']"),
    ("0123456789abcdef" * 4, "0123456789ab"),
    ("0123456789ABCDEF" * 4, "0123456789ABCDEF" * 3 + "012345678..."),
    ("x" * 60, "x" * 60),
    ("x" * 61, "x" * 57 + "..."),
])  # fmt: skip
def test_values_are_described_in_a_few_words(value, told):
    assert [str(change) for change in changes({"settings": {"a": "old"}}, {"settings": {"a": value}})] == [
        f"a: old → {told}"
    ]


def test_terms_are_listed_version_first_and_inputs_last():
    old = {"version": 1, "settings": {"a": 1, "b": {"c": [1, 2]}}, "weights": {"w": "x"}, "inputs": {"t": ["1"]}}
    new = {"version": 2, "settings": {"a": 1, "b": {"c": (1, 3)}}, "weights": {}, "inputs": {"t": ("1", "2")}}
    assert [str(change) for change in changes(old, new)] == [
        "version: 1 → 2", "b.c: [1, 2] → [1, 3]", "weights.w: x → unset", "inputs.t: 1 → 2 artifacts",
    ]  # fmt: skip
    assert changes(new, new) == []
