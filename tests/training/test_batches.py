"""Batches: what a step sees, how little of it is padding, and what becomes of damaged samples."""

import dataclasses
import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.images.training_view import snake
from pipeline.training.batches import MicroBatch, MicroBatches, sample_sequence
from pipeline.training.checkpoint_folder import CheckpointFolder
from pipeline.training.config import CHECKPOINTS, HELD_OUT, Shard, Summary, TrainConfig
from pipeline.training.launch.launcher import prepare
from pipeline.training.ranks import Ranks
from pipeline.training.sample import SampleBox, TrainingSample
from pipeline.training.settings import TrainingSettings
from pipeline.training.shards import ShardSamples, map_samples
from pipeline.training.task import Draws, PretrainTask
from pipeline.training.vocabulary import Vocabulary
from storage.errors import FatalError
from storage.shards.sample_map import SampleMap
from storage.tables import read_table
from tests.training import in_ranks
from tests.training.conftest import TINY, config_of, sample, statistics, train_as_a_stage, write_shard

CPU = torch.device("cpu")


def settings_of(**changes) -> TrainingSettings:
    return TrainingSettings(**(TINY | {"processes": 1} | changes))


def samples_of(work: Path, shard: Shard, settings: TrainingSettings) -> ShardSamples:
    samples = map_samples(TrainConfig(settings=settings, work=work, shards=(shard,)))
    return ShardSamples(samples, predicate_form=settings.predicate_form)


class Unprepared:
    """A task that leaves the samples of a micro-batch as they are."""

    def inputs(self, samples, draws):
        return samples


def batches_of(samples: ShardSamples, settings: TrainingSettings) -> MicroBatches:
    return MicroBatches(samples, settings, Unprepared(), {})


def batch_of(work: Path, shard: Shard, step: int = 0, micro_batch: int = 1000, part: int = 0, **changes) -> MicroBatch:
    settings = settings_of(micro_batch=micro_batch, **changes)
    return batches_of(samples_of(work, shard, settings), settings)[step * settings.micro_batches + part]


def test_the_micro_batches_of_a_step_are_the_step(work, shard):
    whole = batch_of(work, shard, step=2)
    parts = [batch_of(work, shard, step=2, micro_batch=2, part=part) for part in range(2)]
    assert [s for part in parts for s in part.inputs.to(CPU)] == list(whole.inputs.to(CPU))
    assert [len(part.sizes) for part in parts] == [2, 2]


def test_a_micro_batch_is_the_same_in_another_process_and_only_its_pixels_are_shared(work, shard):
    settings = settings_of()
    samples = samples_of(work, shard, settings)
    prepare(config_of(work, shard))
    task = PretrainTask(settings, Vocabulary.load(work / "vocabulary.json"), work / "tokenizer")
    sent = MicroBatches(samples, settings, task, {})[0]
    received = pickle.loads(ForkingPickler.dumps(sent))
    tensors = [tensors_of(batch.inputs.to(CPU)) for batch in (sent, received)]
    assert torch.equal(sent.pixels, received.pixels) and len(tensors[0]) > 10
    assert all(torch.equal(*pair) and pair[0].dtype == pair[1].dtype for pair in zip(*tensors, strict=True))
    assert received.damaged == sent.damaged and received.sizes == sent.sizes
    assert received.inputs.to(CPU).texts.objects == sent.inputs.to(CPU).texts.objects
    assert received.pixels.is_shared() and not received.inputs.block.is_shared()


def tensors_of(value: object) -> list[torch.Tensor]:
    """Returns all tensors in a dataclass, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value if isinstance(value, list) else vars(value).values() if dataclasses.is_dataclass(value) else ()
    return [tensor for part in parts for tensor in tensors_of(part)]


def test_images_lie_in_the_top_left_and_padding_is_zero_on_the_device(tmp_path, work):
    labels = [dataclasses.replace(sample(i), width=80, height=60 if i % 2 else 40) for i in range(1, 5)]
    batch = batch_of(work, write_shard(tmp_path, labels), bucket=1, image_size=160)
    assert batch.pixels.dtype == torch.uint8
    images = batch.images(CPU)
    assert images.dtype == torch.float32 and images.shape == batch.pixels.shape
    assert list(batch.sizes) == [(one.height, one.width) for one in batch.inputs.to(CPU)]
    assert len({height for height, _ in batch.sizes}) == 2
    for image, (height, width) in zip(images, batch.sizes, strict=True):
        assert image[:, :height, :width].any(0).all()
        assert not image[:, height:].any() and not image[:, :, width:].any()


def test_a_view_is_drawn_anew_each_epoch_but_not_by_rank_or_batch(work, shard):
    def views(step: int, **changes):
        batch = batch_of(work, shard, step=step, flip=0.5, smallest=0.5, bucket=1, **changes)
        return {one.image_id: (one.width, one.height, one.boxes) for one in batch.inputs.to(CPU)}

    first = views(0, batch=10)
    assert first == {**views(0, batch=5), **views(1, batch=5)}
    assert first != views(1, batch=10)
    assert views(0, batch=10, seed=1) != first


def test_little_of_a_batch_is_padding_and_an_epoch_is_still_seen_once(tmp_path, work):
    rng = np.random.default_rng(0)
    sizes = [(64, 48), (48, 64), (64, 43), (64, 64), (50, 37)]
    labels = [
        dataclasses.replace(sample(i), width=w, height=h)
        for i, (w, h) in enumerate(sizes[n] for n in rng.integers(0, len(sizes), 400))
    ]
    shard = write_shard(tmp_path, labels)
    found = {}
    for bucket in (1, 16):
        settings = settings_of(bucket=bucket, image_size=333, shortest=tuple(range(120, 201, 8)), crop=0.5)
        samples = samples_of(work, shard, settings)
        sequence = sample_sequence(samples, settings)
        drawn = sequence.draw(0, 400)
        assert sorted(drawn.samples.tolist()) == list(range(400)) and set(drawn.epochs.tolist()) == {0}
        order = batches_of(samples, settings_of(**settings.model_dump() | {"batch": 8, "micro_batch": 8}))
        found[bucket] = [batch_sizes(order, step) for step in range(0, 50, 5)]
    padding = {bucket: np.mean([padded(of) for of in batches]) for bucket, batches in found.items()}
    distinct = {bucket: np.mean([len(set(of)) for of in batches]) for bucket, batches in found.items()}
    assert padding[1] > 0.25 and padding[16] < 0.1
    assert distinct[1] > 6 and distinct[16] < 4  # of 20,000 images it is 1.3


def batch_sizes(batches: MicroBatches, step: int) -> list[tuple[int, int]]:
    return [(one.height, one.width) for one in batches[step].inputs.to(CPU)]


def padded(sizes: list[tuple[int, int]]) -> float:
    height, width = (max(size[side] for size in sizes) for side in (0, 1))
    return 1 - sum(h * w for h, w in sizes) / (len(sizes) * height * width)


def test_neighbours_of_a_snake_differ_in_one_side():
    sides = np.repeat(np.arange(3), 4), np.tile(np.arange(4), 3)
    order = np.argsort(snake(*sides))
    steps = np.abs(np.diff(np.stack(sides)[:, order], axis=1))
    assert steps.max() == 1 and (steps.sum(axis=0) == 1).all()


def test_predicates_are_in_the_words_of_the_data_set_if_asked(tmp_path, work):
    labels = [sample(i) for i in range(1, 6)]
    worded = [
        dataclasses.replace(one, relations=tuple(r._replace(surface=f"is {r.predicate}") for r in one.relations))
        for one in labels
    ]
    shard = write_shard(tmp_path, worded)
    batch = batch_of(work, shard, predicate_form="surface", flip=0.0, batch=5)
    assert {r.predicate for one in batch.inputs.to(CPU) for r in one.relations} == {"is hold", "is left of"}
    vocabulary = Vocabulary.of([read_table(shard.statistics)], "surface")
    assert set(vocabulary.predicates.names) == {"is hold", "is left of", "is right of"}


@pytest.mark.parametrize("self_pairs", [True, False])
def test_images_without_boxes_or_relations_give_a_finite_loss(work, shard, self_pairs):
    settings = settings_of(self_pairs=self_pairs)
    prepare(config_of(work, shard))
    vocabulary = Vocabulary.of([statistics([sample(1), sample(2)])], "predicate")
    task = PretrainTask(settings, vocabulary, work / "tokenizer")
    empty = TrainingSample(1, "made", 64, 64, (), ())
    alone = TrainingSample(2, "made", 64, 64, (SampleBox("dog", 1, 1, 9, 9),), ())
    given = task.inputs([empty, alone], Draws(0, 0, 0))
    predictions = task.predict(task.build(print), torch.zeros(2, 3, 64, 64), None, given)
    loss = task.losses(predictions.float(), given)["loss"]
    assert torch.isfinite(loss)
    loss.backward()


def flip_a_byte(shard: Shard, image_id: int) -> None:
    """Damages the image of one sample."""
    rows = read_table(shard.index).to_pylist()
    (row,) = [r for r in rows if r["image_id"] == image_id and r["extension"] == "jpg"]
    data = bytearray(Path(shard.tar).read_bytes())
    data[row["offset"] + 200] ^= 1
    Path(shard.tar).write_bytes(data)


@pytest.fixture
def damaged(tmp_path) -> Shard:
    """A shard of ten images, of which the fourth has a wrong byte."""
    shard = write_shard(tmp_path, [sample(i) for i in range(1, 11)])
    flip_a_byte(shard, 4)
    return shard


def train(work: Path, shard: Shard, **changes) -> Summary:
    return train_as_a_stage(work, shard, **{"steps": 6, "checkpoint_every": 3, "processes": 1} | changes)


def test_a_training_leaves_out_a_damaged_image_and_names_it(work, damaged):
    summary = train(work, damaged, max_damaged=0.1, processes=2, num_workers=1)
    assert list(summary.damaged) == ["made-000000000004"]
    assert "differs from its index" in summary.damaged["made-000000000004"]
    about = CheckpointFolder(work / CHECKPOINTS).record(6)["about"]
    assert about["skipped"].keys() == {"3"} and about["sequence"]["place"] == 24


def test_a_held_out_image_that_cannot_be_read_is_left_out_of_the_measurement(tmp_path, work):
    shard = write_shard(tmp_path, [sample(i) for i in range(1, 21)])
    changes = {"processes": 1, "steps": 1, "held_out": 0.5}
    prepare(config_of(work, shard, **changes))
    flip_a_byte(shard, int(SampleMap(work / HELD_OUT).key(0).split("-")[-1]))
    assert in_ranks.train(Ranks(), shard, work, TINY | changes).finished


def test_a_resumed_training_leaves_out_what_it_left_out_before(work, damaged):
    train(work, damaged, max_damaged=0.1, steps=3)
    flip_a_byte(damaged, 4)  # whole again
    assert train(work, damaged, max_damaged=0.1, steps=6).damaged.keys() == {"made-000000000004"}


def test_a_training_stops_when_too_many_images_are_damaged(work, damaged):
    with pytest.raises(FatalError, match=r"1 of 10 samples are damaged, more than max_damaged = 0\.05"):
        train(work, damaged, max_damaged=0.05)


def test_a_batch_without_a_readable_image_is_an_error_that_names_one(tmp_path, work):
    shard = write_shard(tmp_path, [sample(1)])
    flip_a_byte(shard, 1)
    with pytest.raises(FatalError, match=r"step 1 .* none of which can be read \(.*made-000000000001") as caught:
        train(work, shard, max_damaged=1.0, batch=1, num_workers=1)
    assert "Traceback" not in str(caught.value)


def test_a_training_goes_on_where_its_shards_were_moved_to(tmp_path, work):
    (tmp_path / "before").mkdir()
    labels = [sample(i) for i in range(1, 11)]
    train(work, write_shard(tmp_path / "before", labels), steps=3)
    (tmp_path / "before").rename(tmp_path / "after")
    moved = write_shard(tmp_path / "after", labels)
    assert train(work, moved, steps=6).resumed_from == 3


def test_a_missing_tar_stops_a_training_before_its_first_step(tmp_path, work):
    shard = write_shard(tmp_path, [sample(i) for i in range(1, 11)])
    Path(shard.tar).unlink()
    with pytest.raises(FatalError, match="there is no such file; restore the tar"):
        train(work, shard, max_damaged=1.0)
    assert not CheckpointFolder(work / CHECKPOINTS).steps()


def test_labels_of_another_version_name_their_sample(tmp_path, work, monkeypatch):
    samples = samples_of(work, write_shard(tmp_path, [sample(1)]), settings_of())
    monkeypatch.setattr("pipeline.training.sample.VERSION", 9)
    with pytest.raises(FatalError, match=r"shard-000\.tar: made-000000000001: its labels are of version 1"):
        samples.read([0])
