"""Stage `shard` on real image files and tables."""

import hashlib
import io
import json
import pickle
import tempfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from run_builder import artifact, box, pair, relation

from pipeline.data.images.folders import UprightRoot, locate_image
from pipeline.data.images.opening import decode_image, read_image
from pipeline.data.images.perceptual_hash import perceptual_hash
from pipeline.labels.verdict_log import VerdictLog
from pipeline.labels.verdicts import JudgedRelation, Verdict
from pipeline.runtime.logs import noticing
from pipeline.runtime.stage import Inputs
from pipeline.stages.shard import ShardSettings, ShardStage
from pipeline.training.sample import SampleRelation, TrainingSample
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.shards.reader import SampleReader
from storage.shards.sample_map import SampleMap, ShardFile, write_sample_map
from storage.tables import FINGERPRINTS, REJECTED, read_table, write_table
from tests.data.toy_sets import encoded


def image_bytes(form="JPEG"):
    return encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8)), form)


def one(category, crowd=False):
    return box(category, 5.0, 5.0, 20.0, 30.0, 1, crowd)


PRIOR = {"mention": 0, "prior": 0.5, "support": 1}


def images_row(folder: Path, image_id: int, data: bytes, boxes, relations=()):
    path = folder / f"{image_id}.jpg"
    path.write_bytes(data)
    row = {"dataset": "scenes", "split": "train", "image_id": image_id, "uri": path.name, "digest": ""}
    return {**row, "width": 100, "height": 80, "boxes": boxes, "relations": list(relations)}


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    """Three good images (the second a PNG named .jpg), one truncated, one without boxes."""
    two = [one("person"), one("dog")]
    given = [{"subject": 0, "predicate": "sitting on", "object": 1}]
    rows = [
        images_row(tmp_path, 1, image_bytes(), two, given), images_row(tmp_path, 2, image_bytes("PNG"), two),
        images_row(tmp_path, 3, image_bytes()[:900], two), images_row(tmp_path, 4, image_bytes(), []),
        images_row(tmp_path, 5, image_bytes(), [one("person", crowd=True), *two]),
    ]  # fmt: skip
    relations = [
        {
            "image_id": 1,
            "tagger": "first fold",
            "relations": [relation(0, "riding", 1, 0.6, caption=3), relation(1, "near", 0, 0.1, caption=3)],
        },
        {
            "image_id": 5,
            "tagger": "second fold",
            "relations": [relation(0, "ride", 1, 0.9, caption=3), relation(1, "walking", 2, 0.21, caption=3)],
        },
    ]
    candidates = [{"image_id": 1, "pairs": [pair(0, "riding", 1, 4, **PRIOR), pair(0, "riding", 1, 2, **PRIOR)]}]
    made = artifact(tmp_path / "inputs", images=rows, relations=relations, candidates=candidates)
    return Inputs({"images": (made,), "relations": (made,)})


def shard(inputs: Inputs, work: Path, known: pa.Table | None = None, folder: Path | str | None = None, **settings):
    """Runs the stage. Returns its output, the members of each image by extension, and its labels, by image id.

    `known`: fingerprints of the test sets. `folder`: that of the images; unset: the one that `work` lies in.
    """
    work.mkdir()
    stage = ShardStage(ShardSettings(**{"threshold": 0.2} | settings), {"scenes": folder or work.parent})
    if known is not None:
        write_table(known, work / "fingerprints.parquet")
    stage.open(Inputs({} if known is None else {"fingerprints": (Artifact(work),)}))
    output = stage.run(inputs, work, lambda done, total, note="": None)
    write_table(output.table, work / "shards.parquet")
    tars = sorted(name for name in output.files if name.endswith(".tar"))
    samples = write_sample_map(work / "map", [ShardFile(str(work / tar), work / "shards.parquet") for tar in tars])
    members = {number_of(samples, n): SampleReader(samples).read(n) for n in range(len(samples))}
    return output, members, {n: TrainingSample.from_json(found["json"]) for n, found in members.items()}


def number_of(samples: SampleMap, sample: int) -> int:
    return int(samples.key(sample).removeprefix("scenes-"))


def labels(sample: TrainingSample):
    return [(r.subject, r.predicate, r.object, r.confidence) for r in sample.relations]


def test_pseudo_labels_above_the_threshold_go_into_the_shard_with_their_words_and_the_images_bytes(inputs, tmp_path):
    output, members, samples = shard(inputs, tmp_path / "work")
    assert list(samples) == [1, 2, 5]
    assert labels(samples[1]) == [(0, "ride", 1, 0.6)]
    assert labels(samples[2]) == []
    assert labels(samples[5]) == [(0, "walk", 1, 0.21)]
    assert [(r.image_id, r.reason) for r in output.rejected] == [(3, "truncated")]
    assert (output.rows_in, output.rows_out) == (4, 3)  # an image without a box is left out, not rejected
    counts = {"images": 3, "without a box": 1, "without a relation": 0, "relations": 2, "excluded": {}}
    assert output.facts == counts
    (relation,) = samples[1].relations
    assert (relation.surface, relation.ambiguity, relation.caption, relation.triplet) == ("riding", 2, 3, 0)
    assert samples[5].relations[0].ambiguity is None
    assert json.loads(members[1]["json"])["version"] == 1
    assert (samples[1].labels, samples[1].tagger, samples[5].tagger) == ("pseudo", "first fold", "second fold")
    assert set(members[1]) == {"jpg", "json"} and members[1]["jpg"] == image_bytes()
    assert members[2]["png"] == image_bytes("PNG")


def test_what_other_loaders_would_show_otherwise_is_packed_upright_and_readable(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.open(io.BytesIO(image_bytes("PNG")))
    rows = []
    for image_id, form in enumerate(("JPEG", "PNG", "GIF"), start=1):
        data = encoded(picture, form, **({} if form == "GIF" else {"exif": exif}))
        rows.append(images_row(tmp_path, image_id, data, [one("person")]))
    given = Inputs({"images": (artifact(tmp_path, images=rows),)})
    for name, folder in (("raw", tmp_path), ("upright", UprightRoot(tmp_path))):
        _, members, _ = shard(given, tmp_path / name, folder=folder, labels="none")
        packed = [next((kind, data) for kind, data in found.items() if kind != "json") for found in members.values()]
        assert [kind for kind, _ in packed] == ["jpg", "png", "png"]
        for (_, data), row in zip(packed, rows, strict=True):
            expected = np.asarray(read_image(locate_image({"scenes": folder}, row)), int)
            assert np.abs(np.asarray(decode_image(data), int) - expected).mean() < 4
        stored = [(tmp_path / row["uri"]).read_bytes() for row in rows[:2]]
        assert ([data for _, data in packed[:2]] == stored) == (name == "raw")


def test_images_without_relations_are_kept_or_dropped_and_counted(inputs, tmp_path):
    output, _, samples = shard(inputs, tmp_path / "work", without_relations="drop")
    assert list(samples) == [1, 5]
    assert output.facts["without a relation"] == 2 and (output.rows_in, output.rows_out) == (2, 2)


def test_the_names_in_the_shards_are_counted_for_whoever_trains_on_them(inputs, tmp_path):
    output, _, _ = shard(inputs, tmp_path / "work", max_bytes=2**20)
    rows = read_table(output.files["statistics.parquet"]).to_pylist()
    counted = {(row["kind"], row["name"]): row["count"] for row in rows}
    assert {row["shard"] for row in rows} == {"shard-000.tar"}
    assert counted["object", "dog"] == 3 and counted["object", "person"] == 3
    assert counted["predicate", "ride"] == 1 and counted["surface", "riding"] == 1
    assert counted["total", "images"] == 3 and counted["total", "images without relations"] == 1


def test_images_of_a_list_or_of_a_test_set_are_left_out_and_listed(inputs, tmp_path):
    (tmp_path / "ids.txt").write_text("1\n")
    data = image_bytes()
    found = {"dataset": "test", "image_id": 42, "digest": hashlib.sha256(data).hexdigest()}
    known = pa.Table.from_pylist([found | {"phash": perceptual_hash(data)}], schema=FINGERPRINTS)
    listed = [{"ids": tmp_path / "ids.txt", "reason": "V-COCO test"}]
    output, _, samples = shard(inputs, tmp_path / "work", known, exclude=listed)
    assert list(samples) == []
    same, near = "same bytes as an evaluation image", "near-duplicate of an evaluation image"
    assert output.facts["excluded"] == {"V-COCO test": 1, near: 1, same: 1}
    ledger = read_table(output.files["excluded.parquet"], REJECTED).to_pylist()
    assert [(row["image_id"], row["reason"]) for row in ledger] == [(1, "V-COCO test"), (2, near), (5, same)]
    assert ledger[2]["value"] == "test/42"
    assert output.rows_in == 1  # only the truncated one counts as rejected


def test_a_list_is_the_one_that_an_opened_stage_has_read_whatever_it_is_later(inputs, tmp_path):
    (listed := tmp_path / "ids.txt").write_text("1\n")
    stage = ShardStage(ShardSettings(exclude=[{"ids": listed, "reason": "test"}]), {"scenes": tmp_path})
    stage.open(Inputs({}))
    listed.write_text("2\n")
    (work := tmp_path / "work").mkdir()
    output = stage.run(inputs, work, lambda done, total, note="": None)
    assert read_table(output.files["excluded.parquet"], REJECTED)["image_id"].to_pylist() == [1]


def test_labels_below_the_threshold_may_be_uncertain(inputs, tmp_path):
    output, _, samples = shard(inputs, tmp_path / "work", threshold=0.5, uncertain=0.1)
    assert (output.facts["relations"], output.facts["uncertain relations"]) == (1, 2)
    assert [r.predicate for r in samples[1].relations] == ["ride"]
    assert [(r.subject, r.predicate, r.object, r.confidence) for r in samples[1].uncertain] == [(1, "near", 0, 0.1)]
    assert [r.predicate for r in samples[5].uncertain] == ["walk"]
    for least in (0.3, 0.5, 1.0):
        _, _, fewer = shard(inputs, tmp_path / str(least), threshold=0.5, uncertain=least)
        assert not any(sample.uncertain for sample in fewer.values())
    _, _, capped = shard(inputs, tmp_path / "capped", threshold=0.05, uncertain=0.01, max_relations=1)
    assert [r.predicate for r in capped[1].relations] == ["ride"]
    assert [r.predicate for r in capped[1].uncertain] == ["near"], "what the limit leaves out is not negative either"
    same, _, _ = shard(inputs, tmp_path / "given", labels="given", uncertain=0.1)
    assert "uncertain relations" not in same.facts


def test_given_and_no_labels(inputs, tmp_path):
    _, _, given = shard(inputs, tmp_path / "given", labels="given")
    assert given[1].relations == (SampleRelation(0, 1, "sit on", 1.0, surface="sitting on"),)
    _, _, none = shard(inputs, tmp_path / "none", labels="none")
    assert not any(sample.relations for sample in none.values())


def test_naive_labels_are_all_candidates_whatever_the_tagger_says(inputs, tmp_path):
    riding = [pair(0, "riding", 1, 4, **PRIOR), pair(0, "riding", 1, 2, **PRIOR), pair(0, "ride", 1, 3, **PRIOR)]
    pairs = [*riding, pair(1, "riding", 0, 2, **PRIOR), pair(0, "", 1, 1, **PRIOR)]
    unscored = [{"image_id": 1, "pairs": pairs}, {"image_id": 5, "pairs": [pair(0, "near", 1, 2, **PRIOR)]}]
    artifact(inputs.artifact("relations").folder, candidates=unscored)
    _, _, samples = shard(inputs, tmp_path / "work", labels="naive", threshold=0.99)
    assert labels(samples[1]) == [(0, "ride", 1, 1.0), (1, "ride", 0, 1.0)]
    assert labels(samples[5]) == []  # its subject is a crowd, which no sample has
    assert (samples[1].labels, samples[1].tagger) == ("naive", None)
    first = samples[1].relations[0]
    assert (first.surface, first.ambiguity, first.triplet, first.caption) == ("riding", 2, 0, None)
    _, _, fewer = shard(inputs, tmp_path / "fewer", labels="naive", max_relations=1)
    assert labels(fewer[1]) == [(0, "ride", 1, 1.0)]


def test_settings_that_do_not_matter_are_not_in_the_key():
    none, other = (ShardStage(ShardSettings(labels="none", threshold=t)) for t in (0.2, 0.3))
    assert none.row_settings() == other.row_settings()
    assert none.row_settings()["labels"] == "none" and "threshold" not in none.row_settings()
    assert ShardStage(ShardSettings(threshold=0.3)).row_settings()["threshold"] == 0.3
    naive = ShardStage(ShardSettings(labels="naive", threshold=0.3))
    assert "threshold" not in naive.row_settings() and naive.row_settings()["max_relations"] == 100


def test_relations_of_unseen_triplets_are_left_out_whoever_states_them(inputs, tmp_path):
    def packed(labels, *unseen, **settings):
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        rows = [dict(zip(("subject", "predicate", "object"), t, strict=True), instances=0, unseen=True) for t in unseen]
        stage = ShardStage(ShardSettings(labels=labels, threshold=0.2, **settings), {"scenes": tmp_path})
        stage.open(Inputs({"split": (artifact(folder, split=rows),)}))
        facts = stage.run(inputs, folder, lambda done, total, note="": None).facts
        return facts["relations"], facts["relations of unseen triplets"], facts.get("uncertain relations")

    assert packed("given", ("person", "ride", "dog")) == (1, 0, None)
    assert packed("given", ("person", "sit on", "dog")) == (0, 1, None)
    assert packed("pseudo", uncertain=0.1)[2] == 1
    assert packed("pseudo", ("dog", "near", "person"), uncertain=0.1)[2] == 0
    kept, none, _ = packed("pseudo")
    left, gone, _ = packed("pseudo", ("person", "ride", "dog"))
    assert none == 0 and gone > 0 and left + gone == kept


def judged(kind, predicate="riding", reviewer="ada", **values):
    about = JudgedRelation("d" * 64, (5, 5, 20, 30), (5, 5, 20, 30), predicate)
    return Verdict(about, kind, reviewer, "2026-01-31T12:00:00+00:00", "person", "dog", **values)


def with_digests(inputs):
    folder = inputs.artifact("images").folder
    rows = [{**row, "digest": "d" * 64} for row in read_table(folder / "images.parquet").to_pylist()]
    artifact(folder, images=rows[:1])


def test_what_reviewers_settled_decides_labels_and_is_recorded_with_the_shard(inputs, tmp_path):
    with_digests(inputs)
    VerdictLog(tmp_path / "verdicts").append([judged("wrong_predicate", corrected_predicate="leads")])
    output, _, samples = shard(inputs, tmp_path / "work", verdicts=tmp_path / "verdicts")
    assert [each[1:2] + each[3:] for each in labels(samples[1])] == [("lead", 1.0)]
    assert output.facts["labels that reviewers accepted"] == 1
    assert {row["predicate"] for row in read_table(output.files["overrides.parquet"]).to_pylist()} == {"lead", "ride"}


def test_verdicts_of_which_none_is_on_an_image_of_the_run_are_reported_but_not_refused(inputs, tmp_path):
    """As before its first review, or after a change of `ingest.fingerprint`, which gives all images other digests."""
    folder, told = tmp_path / "verdicts", []
    folder.mkdir()

    def audited(work):
        output, _, _ = shard(inputs, tmp_path / work, verdicts=folder)
        with noticing(told.append):
            made = Inputs({"shards": [Mock(manifest=Mock(facts=output.facts))]})
            ShardStage(ShardSettings(verdicts=folder)).audit(made)
        return len(told)

    assert audited("unreviewed") == 0
    VerdictLog(folder).append([judged("reject")])
    assert audited("other digests") == 1 and "none of these verdicts is on an image of this run" in told[0]
    with_digests(inputs)
    assert audited("same digests") == 1


def test_verdicts_change_the_key_only_where_the_setting_names_them_and_as_they_were_when_planned(tmp_path):
    without = ShardStage(ShardSettings()).row_settings()
    assert "verdicts" not in without and "calibration" not in without
    assert ShardStage(ShardSettings(calibration={"": (1.0, 0.0)})).row_settings() != without
    verdicts = VerdictLog(tmp_path)
    verdicts.append([judged("reject")])
    planned = ShardSettings(verdicts=tmp_path).planned()
    key = ShardStage(planned).row_settings()
    assert {name: value for name, value in key.items() if name != "verdicts"} == without
    verdicts.append([judged("unsure", reviewer="bob")])
    assert ShardStage(ShardSettings(verdicts=tmp_path).planned()).row_settings() == key
    verdicts.append([judged("accept")])
    assert ShardStage(ShardSettings(verdicts=tmp_path).planned()).row_settings() != key
    sent = pickle.loads(pickle.dumps(planned))
    assert ShardStage(sent).row_settings() == ShardStage(planned).row_settings() == key
    given = ShardSettings(verdicts=tmp_path, labels="given").planned()
    assert "verdicts" not in ShardStage(given).row_settings()


def test_a_list_is_a_file_of_the_key_and_what_is_not_there_is_named(tmp_path):
    (tmp_path / "ids.txt").write_text("1\n")
    stage = ShardStage(ShardSettings(exclude=[{"ids": tmp_path / "ids.txt", "reason": "test"}]))
    assert list(stage.files().values()) == [tmp_path / "ids.txt"]
    with pytest.raises(FatalError, match="no such file"):
        ShardStage(ShardSettings(exclude=[{"ids": tmp_path / "none", "reason": "test"}])).files()
    with pytest.raises(FatalError, match=r"no folder of verdicts at .*none"):
        ShardSettings(verdicts=tmp_path / "none").planned()
