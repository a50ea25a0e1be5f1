"""Training of the tagger: pairs as queries, noise, and measurements."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.predictions import Target
from pipeline.training.config import HELD_OUT, MODEL, TOKENIZER, VOCABULARY, Shard
from pipeline.training.launch.launcher import prepare
from pipeline.training.ranks import Ranks
from pipeline.training.sample import SampleBox, SampleRelation, TrainingSample
from pipeline.training.settings import CALIBRATION, TaggerSettings
from pipeline.training.shards import ShardSamples, map_samples
from pipeline.training.tagger_evaluation import ScoredPairs, average_precision, check_tagger, proposals
from pipeline.training.task import TaggerTask, add_noise, names_for_noise, pair_queries
from pipeline.training.vocabulary import Vocabulary
from storage.shards.reader import DamagedSample
from storage.shards.sample_map import SampleMap
from storage.tables import read_table
from tagger.labelling.calibration import Calibration
from tests.training.conftest import config_of, metrics, sample, train_as_a_stage, write_shard


def target(pairs: int) -> Target:
    boxes = torch.rand(pairs, 4) * 0.2 + 0.4
    labels = torch.arange(pairs)
    return Target(labels, labels, boxes, boxes, torch.zeros(pairs, 3), torch.ones(pairs, dtype=torch.bool))


def test_queries_are_filled_up_with_empty_slots():
    queries = pair_queries([target(3), target(1)])
    assert queries.valid.tolist() == [[True, True, True], [True, False, False]]
    assert queries.subject_boxes.shape == (2, 3, 4)
    assert pair_queries([target(0)]).valid.tolist() == [[False]]


def test_noise_stays_within_its_bounds_and_leaves_the_targets_alone():
    queries = target(200)
    before = queries.subject_boxes.clone()
    settings = TaggerSettings(box_noise=0.2, label_noise=0.25)
    moved = add_noise(queries, settings, 50, np.random.default_rng(0))
    assert torch.equal(queries.subject_boxes, before)
    shift = (moved.subject_boxes - before).abs() / before[..., 2:].repeat(1, 2)
    assert 0 < shift[..., :2].max() <= 0.1 + 1e-5
    assert 0 < shift[..., 2:].max() <= 0.2 + 1e-5
    assert 0.1 < (moved.subject_labels != queries.subject_labels).float().mean() < 0.4
    same = add_noise(queries, TaggerSettings(box_noise=0, label_noise=0), 50, np.random.default_rng(0))
    assert torch.equal(same.subject_boxes, before) and torch.equal(same.object_labels, queries.object_labels)


def test_wrong_labels_are_any_of_the_names_and_the_authors_the_first_few():
    queries, settings = target(200), TaggerSettings(label_noise=1)
    drawn = {
        compat: add_noise(queries, settings, names_for_noise(50, 8, compat), np.random.default_rng(0)).object_labels
        for compat in (False, True)
    }
    assert drawn[False].min() == 0 and drawn[False].max() == 49
    assert drawn[True].unique().tolist() == list(range(8))
    assert names_for_noise(5, 8, True) == 5


def test_average_precision_of_a_ranking():
    assert average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True])) == pytest.approx((1 + 2 / 3) / 2)


def made_set(folder: Path, name: str, numbers: Iterable[int], prefix: str = "") -> Shard:
    """Writes the shard of a dataset, of which every other image has relations. Its predicates begin with `prefix`."""
    (folder / name).mkdir()
    labels = [replace(sample(number), dataset=name) for number in numbers if sample(number).relations]
    if prefix:
        labels = [
            replace(one, relations=tuple(r._replace(predicate=f"{prefix} {r.predicate}") for r in one.relations))
            for one in labels
        ]
    return write_shard(folder / name, labels)


def test_images_are_held_out_by_their_ids_whatever_else_is_in_the_set(tmp_path, work):
    found = []
    for numbers in (range(1, 21), range(1, 41)):
        place = tmp_path / str(len(numbers))
        place.mkdir()
        shard = made_set(place, "made", numbers)
        samples = map_samples(config_of(place, shard, held_out=0.4))
        held_out = SampleMap(place / HELD_OUT)
        kept, out = ({each.key(n) for n in range(len(each))} for each in (samples, held_out))
        assert len(kept) + len(out) == len(numbers) // 2 and not kept & out
        found.append(out)
    assert found[0] and found[0] <= found[1]


def test_it_is_reported_if_no_image_is_held_out(tmp_path, work, caplog):
    shard = made_set(tmp_path, "made", range(1, 21))
    prepare(config_of(tmp_path, shard, held_out=0.4))
    assert not caplog.messages
    prepare(config_of(work, shard, held_out=1e-9))
    (told,) = caplog.messages
    assert told.startswith("no image is held out (held_out = 1e-09), so this tagger is neither measured nor calibrated")


def test_several_sets_train_one_tagger_in_half_precision_in_several_processes(tmp_path, work):
    shards = made_set(tmp_path, "made", range(1, 13)), made_set(tmp_path, "more", range(1, 9), "never")
    settings = {"steps": 3, "processes": 2, "held_out": 0.3, "check_every": 2, "precision": "bfloat16", "log_every": 1}
    summary = train_as_a_stage(work, *shards, **settings)
    known = Vocabulary.load(work / VOCABULARY).predicates.names
    assert {"hold", "left of"} < set(known) and any("never" in name for name in known)
    between, scores = ({row["name"]: row["value"] for row in metrics(work) if row["step"] == step} for step in (2, 3))
    assert (summary.processes, summary.images + scores["held_out_images"]) == (2, 6 + 4)
    shares = [
        "held_out_map", "held_out_recall", "held_out_recall_20", "held_out_recall_50", "held_out_calibration_error",
        "held_out_calibrated_error",
    ]  # fmt: skip
    assert all(0 <= measured[name] <= 1 for measured in (between, scores) for name in shares)
    assert scores["held_out_recall_50"] == 1  # an image has fewer labels
    assert np.isfinite(scores["loss"])
    assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in load_file(work / MODEL).values())
    assert 0 < Calibration.from_json((work / CALIBRATION).read_bytes()).probability("hold", 0.5) < 1


def test_a_tagger_is_measured_on_all_its_datasets_and_says_on_how_many_images(tmp_path, work):
    class Noted(ShardSamples):
        read_sets: ClassVar[dict[int, str]] = {}

        def read(self, samples: Sequence[int]) -> list[tuple[TrainingSample, bytes] | DamagedSample]:
            self.read_sets |= {one: self.samples.datasets[self.samples.sets[one]] for one in samples}
            return super().read(samples)

    shards = made_set(tmp_path, "made", range(1, 17)), made_set(tmp_path, "more", range(1, 17), "never")
    config = config_of(work, *shards, held_out=0.9)
    prepare(config)
    known = Vocabulary.of([read_table(shards[0].statistics)], "predicate")  # no relation of the other can be scored
    network = TaggerTask(config.settings, known, work / TOKENIZER).build(lambda note: None)
    source = Noted(SampleMap(work / HELD_OUT))
    scores, _ = check_tagger(network, source, known, config.settings, Ranks(), most=6)
    sets = list(source.read_sets.values())
    assert len(source) > len(sets) == 6
    assert 0 < scores["held_out_images"] == sets.count("made") < 6


def test_proposals_are_what_captions_would_propose():
    boxes = tuple(SampleBox(name, 0.0, 0.0, 1.0, 1.0) for name in ("person", "person", "dog"))
    relations = (SampleRelation(0, 2, "hold"), SampleRelation(2, 1, "next to"))
    labels = TrainingSample(1, "made", 9, 9, boxes, relations)
    pairs = [(s, o) for s in range(3) for o in range(3) if s != o]
    scores = np.arange(12, dtype=np.float32).reshape(6, 2) / 12
    scored = ScoredPairs(labels, pairs, scores, np.zeros((6, 2), bool))
    stated = {("person", "hold", "dog"), ("dog", "next to", "person")}
    made = list(proposals(0, scored, ["hold", "next to"], stated, {"next to"}))
    found = {((p.candidate.subject, p.candidate.object), p.candidate.predicate, p.right) for p in made}
    assert found == {
        ((0, 2), "hold", True), ((1, 2), "hold", False), ((2, 0), "next to", False), ((2, 1), "next to", True),
    }  # fmt: skip
    assert {(p.candidate.subject, p.candidate.object): p.score for p in made}[2, 1] == scores[5, 1]
    false = list(proposals(0, scored, ["hold", "next to"], {("person", "hold", "person")}, ()))
    assert {((p.candidate.subject, p.candidate.object), p.right) for p in false} == {((0, 1), False), ((1, 0), False)}
