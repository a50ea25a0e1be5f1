"""The stream: one global sequence however it is cut, resumed anywhere, with damaged samples left out."""

import copy
import errno
import json
import math
import os
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from faulty_disk import flip
from torchdata.stateful_dataloader import StatefulDataLoader

from storage.errors import FatalError, RetryableError
from storage.shards.sample_map import SampleMap, write_sample_map
from storage.stream.order import EpochOrder, Interleaving, Mix, OrderSettings, stable_seed, uniforms
from storage.stream.sequence import SampleSequence
from storage.stream.stream import Stream, StreamBatch
from tests.storage.shard_files import made_map, moved, write_sets

ORDER = OrderSettings(block=8, window=4)
SIZES = {"a": 237, "b": 100}
COUNT = 337
RECORDED_ORDER = [857, 947, 225, 393, 678, 958, 552, 840, 495, 463, 352, 71, 851, 979]
RECORDED_UNIFORMS = [[0.09401486273738302, 0.6041035458526728], [0.08393769198186174, 0.2163910547210497]]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> SampleMap:
    return made_map(tmp_path_factory.mktemp("samples"), SIZES)


def keys(found: Any) -> list[str]:
    return [sample["__key__"] for sample in found]


def batch_keys(batch: StreamBatch) -> tuple[list[str], dict[int, str]]:
    return keys(batch.samples), batch.damaged


def loader(stream: Stream, workers: int, kind: Any = torch.utils.data.DataLoader) -> Any:
    """Gives the keys and the damage of each batch."""
    return kind(stream.batches(), batch_size=None, num_workers=workers, collate_fn=batch_keys)


def sequence(samples: SampleMap, start: int, stop: int, **settings: Any) -> list[str]:
    drawn = SampleSequence(samples, order=ORDER, **settings).draw(start, stop)
    return [samples.key(number) for number in drawn.samples.tolist()]


def steps(samples: SampleMap, ranks: int, batch: int, state: Any = None, **settings: Any) -> Any:
    """Yields each global batch, as all ranks together see it, with the state after it."""
    streams = [Stream(samples, batch=batch, rank=r, ranks=ranks, order=ORDER, **settings) for r in range(ranks)]
    for stream in streams:
        if state is not None:
            stream.load_state_dict(state)
    parts = [iter(stream) for stream in streams]
    for number in range(10**6):
        found = [key for stream, part in zip(streams, parts, strict=True) for key in keys(islice(part, stream.share))]
        if not found:
            return
        yield found, json.loads(json.dumps(streams[0].state_after(number + 1)))


def test_an_epoch_has_every_sample_once_in_a_new_order(samples):
    first, second = sequence(samples, 0, COUNT), sequence(samples, COUNT, 2 * COUNT)
    assert sorted(first) == sorted(second) == sorted(samples.key(n) for n in range(COUNT))
    assert first != second and first != sequence(samples, 0, COUNT, seed=1)


def test_reads_of_a_short_time_lie_close_together():
    order = EpochOrder(0, 100_000, 0, OrderSettings(block=64, window=16))
    for start in (0, 5_120, 50_000):
        blocks = {number // 64 for number in order.draw(start, start + 512).samples.tolist()}
        assert len(blocks) <= 32


def test_the_order_is_the_same_on_every_machine_and_in_every_version():
    assert stable_seed("a", 1) == 3483044825973052546
    assert EpochOrder(0, 1000, 7, OrderSettings()).draw(990, 1004).samples.tolist() == RECORDED_ORDER
    drawn = uniforms(3, 2, np.array([1, 2**63], np.uint64), 2)
    assert drawn.tolist() == RECORDED_UNIFORMS


@pytest.mark.parametrize("place", [5, 337, 10_000_000])
def test_any_place_is_found_without_walking_there(samples, place):
    walked = SampleSequence(samples, order=ORDER)
    walked.draw(max(0, place - 50), place)
    assert walked.draw(place, place + 20).samples.tolist() == (
        SampleSequence(samples, order=ORDER).draw(place, place + 20).samples.tolist()
    )


@pytest.mark.parametrize(("ranks", "batch"), [(1, 1), (6, 64), (4, 7)])
def test_any_number_of_ranks_sees_the_same_sequence_also_across_epochs(samples, ranks, batch):
    seen = [key for found, _ in steps(samples, ranks, batch, epochs=2) for key in found]
    assert seen == sequence(samples, 0, 2 * COUNT)


def test_ranks_and_batches_change_in_the_middle_of_an_epoch_and_no_sample_is_lost_or_seen_twice(samples):
    seen: list[str] = []
    state = None
    for ranks, batch, count in ((8, 64, 2), (4, 64, 2), (6, 48, 1), (1, 1, 2)):
        for found, after in islice(steps(samples, ranks, batch, state), count):
            seen += found
            state = after
    assert seen == sequence(samples, 0, 4 * 64 + 48 + 2)
    assert max(Counter(seen).values()) == 1


@pytest.mark.parametrize("workers", [0, 3])
def test_any_number_of_loader_processes_gives_the_same_batches(samples, workers):
    streams = [Stream(samples, batch=20, rank=rank, ranks=2, epochs=2, order=ORDER) for rank in range(2)]
    loaders = [loader(stream, workers) for stream in streams]
    seen = [key for parts in zip(*loaders, strict=True) for part, _ in parts for key in part]
    assert seen == sequence(samples, 0, 2 * COUNT)


@pytest.mark.parametrize("workers", [0, 2])
def test_torchdatas_loader_goes_on_where_it_stopped(samples, workers):
    def stateful() -> Any:
        return loader(Stream(samples, batch=12, rank=1, ranks=2, epochs=1, order=ORDER), workers, StatefulDataLoader)

    whole = list(stateful())
    first = stateful()
    part = list(islice(iter(first), 7))
    resumed = stateful()
    resumed.load_state_dict(first.state_dict())
    assert part + list(resumed) == whole
    assert list(resumed) == whole  # the next pass begins at the beginning


def test_a_stream_goes_on_in_the_middle_of_a_batch(samples):
    first = Stream(samples, batch=12, epochs=1, order=ORDER)
    head = keys(islice(first, 17))
    rest = Stream(samples, batch=12, epochs=1, order=ORDER)
    rest.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert head + keys(rest) == sequence(samples, 0, COUNT)
    other = Stream(samples, batch=6, epochs=1, order=ORDER)
    with pytest.raises(FatalError, match="state_after"):
        other.load_state_dict(first.state_dict())


def test_a_mix_changes_only_between_whole_batches(samples):
    def stream(**weights: float) -> Stream:
        return Stream(samples, batch=12, order=ORDER, mix=Mix(kind="proportional", weights=weights))

    first = stream()
    keys(islice(first, 36))
    with pytest.raises(FatalError, match="or mix, within a pass; save `state_after`"):
        stream(b=5.0).load_state_dict(first.state_dict())
    stream(b=5.0).load_state_dict(first.state_after(3))
    stream().load_state_dict(json.loads(json.dumps(first.state_dict())))


def test_whole_batches_are_counted_from_where_a_pass_went_on(samples):
    first = Stream(samples, batch=12, epochs=1, order=ORDER)
    keys(islice(first, 17))
    rest = Stream(samples, batch=12, epochs=1, order=ORDER)
    rest.load_state_dict(first.state_dict())
    assert len(rest) == COUNT - 17
    keys(islice(rest, 7))
    assert rest.state_after(1)["place"] == 24


def test_the_state_after_the_last_batch_is_the_end_of_the_epoch(samples):
    stream = Stream(samples, batch=64, epochs=1, order=ORDER)
    head = keys(stream)
    more = Stream(samples, batch=50, epochs=2, order=ORDER)
    more.load_state_dict(stream.state_after(6))
    assert head + keys(more) == sequence(samples, 0, 2 * COUNT)
    with pytest.raises(FatalError, match="past the end of the stream"):
        Stream(samples, epochs=1, order=ORDER).load_state_dict(more.state_after(7))


@pytest.mark.parametrize("order", [OrderSettings(), OrderSettings(run=16)])
def test_the_length_is_what_comes_also_of_one_sample(samples, tmp_path, order):
    for rank in range(3):
        stream = Stream(samples, batch=10, rank=rank, ranks=3, epochs=1, order=order)
        assert len(stream) == len(keys(stream))
    assert keys(Stream(made_map(tmp_path, {"a": 1}), epochs=3, order=order)) == ["a-000000000000"] * 3


def test_samples_are_webdatasets_and_compose_with_its_pipelines(samples):
    stream = Stream(samples, epochs=1, order=ORDER)
    sample = next(iter(stream))
    assert sample["__url__"] in samples.tars and set(sample) == {"__key__", "__url__", "jpg", "json"}
    pipeline = webdataset.DataPipeline(
        stream, webdataset.select(lambda s: s["__key__"].startswith("b")), webdataset.to_tuple("__key__", "jpg")
    )
    loader = webdataset.WebLoader(pipeline, batch_size=None, num_workers=2).shuffle(10)
    assert sorted(key for key, _ in loader) == [samples.key(n) for n in range(237, COUNT)]


def test_only_the_members_that_are_asked_for_are_read(samples):
    sample = next(iter(Stream(samples, extensions=["json"], order=ORDER)))
    assert "jpg" not in sample and sample["json"].startswith(b"{")


def test_every_stretch_of_a_proportional_mix_has_its_shares(samples):
    found = sequence(samples, 0, 4 * COUNT, mix=Mix(kind="proportional"))
    for start in range(0, 3 * COUNT, 100):
        assert sum(key.startswith("b") for key in found[start : start + 100]) == pytest.approx(100 * 100 / 337, abs=1)
    of_b = [key for key in found if key.startswith("b")][:100]
    assert len(set(of_b)) == 100  # each of its samples before any comes again


def test_temperature_and_weights_change_the_shares():
    sizes = {"a": 900, "b": 100}
    assert Mix(kind="proportional").shares(sizes) == pytest.approx({"a": 0.9, "b": 0.1})
    assert Mix(kind="temperature", temperature=2.0).shares(sizes) == pytest.approx({"a": 0.75, "b": 0.25})
    assert Mix(kind="proportional", weights={"b": 9.0}).shares(sizes) == pytest.approx({"a": 0.5, "b": 0.5})
    with pytest.raises(FatalError, match="'c'; the datasets are a, b"):
        Mix(kind="proportional", weights={"c": 1.0}).shares(sizes)
    with pytest.raises(ValueError, match="concat"):
        Mix(kind="concat", weights={"a": 2.0})
    for temperature, weight, wrong in (
        (0.01, 1.0, "temperature"),
        (2.0, 0.0, "weights.a"),
        (2.0, math.inf, "weights.a"),
    ):
        with pytest.raises(ValueError, match=wrong):
            Mix(kind="temperature", temperature=temperature, weights={"a": weight})


def test_batches_lie_within_runs_of_like_samples_in_every_epoch():
    settings = OrderSettings(block=8, window=16, run=16)
    keys_of = np.random.default_rng(0).permutation(1003)
    order = EpochOrder(0, 1003, 0, settings, lambda epoch, chosen: keys_of[chosen])
    plain = EpochOrder(0, 1003, 0, OrderSettings(block=8, window=16))
    for epoch in range(3):
        assert sorted(order.draw(epoch * 1003, (epoch + 1) * 1003).samples.tolist()) == list(range(1003))
    spreads = {
        name: np.mean([np.ptp(keys_of[each.draw(at, at + 8).samples]) for at in range(0, 3000, 8)])
        for name, each in (("sorted", order), ("plain", plain))
    }
    assert spreads["plain"] > 600 and spreads["sorted"] < 150


def test_the_smallest_set_of_a_mix_has_a_run_of_each_cycle():
    shares = Interleaving(np.array([0.99996, 0.00004]), 1)
    assert shares.counts(10_000).tolist() == [9_999, 1]


@pytest.mark.parametrize("run", [1, 16])
def test_interleaving_counts_what_it_assigns(run):
    shares = Interleaving(np.array([0.62, 0.307, 0.073]), run)
    sets = shares.sets(0, 400_000)
    for place in (0, 1, 15, 16, 17, 9_999, 160_001, 399_999):
        assert shares.counts(place).tolist() == np.bincount(sets[:place], minlength=3).tolist()
    assert np.bincount(sets) / 400_000 == pytest.approx([0.62, 0.307, 0.073], abs=1e-3)


def test_the_weights_of_a_mix_change_in_the_middle_and_each_set_continues(samples):
    before, after = Mix(kind="proportional"), Mix(kind="proportional", weights={"b": 5.0})
    first = SampleSequence(samples, mix=before, order=ORDER)
    head = first.draw(0, 150).samples.tolist()
    second = SampleSequence(samples, mix=after, order=ORDER)
    place = second.restore(json.loads(json.dumps(first.state(150))))
    tail = second.draw(place, 400).samples.tolist()
    third = SampleSequence(samples, mix=before, order=ORDER)
    third.restore(second.state(400))
    tail += third.draw(400, 600).samples.tolist()
    for number, (begin, end) in enumerate(((0, 237), (237, COUNT))):
        of_set = [n for n in head + tail if begin <= n < end]
        alone = EpochOrder(begin, end, 0, ORDER).draw(0, len(of_set)).samples.tolist()
        assert of_set == alone, number
    with pytest.raises(FatalError, match="where the weights of the mix changed"):
        third.draw(0, 10)
    assert sum(n >= 237 for n in tail[:250]) > 1.5 * sum(n >= 237 for n in head)


def test_a_state_of_other_samples_another_seed_or_order_is_refused_at_once(samples, tmp_path):
    state = Stream(samples, order=ORDER).state_after(3)
    other = made_map(tmp_path, {"a": 237, "b": 99})
    for stream, what in (
        (Stream(samples, seed=1, order=ORDER), "the seed is 1"),
        (Stream(samples, order=OrderSettings(block=9, window=4)), "the order is"),
        (Stream(other, order=ORDER), "the samples are"),
        (Stream(samples, order=ORDER, mix=Mix(kind="proportional")), "only weights and temperature may change"),
    ):
        with pytest.raises(FatalError, match=what):
            stream.load_state_dict(copy.deepcopy(state))


def damaged(folder: Path, *numbers: int) -> SampleMap:
    """A map of 200 samples, of which some have a wrong byte."""
    samples = made_map(folder, {"a": 200})
    for number in numbers:
        flip_a_byte(samples, number)
    return samples


def flip_a_byte(samples: SampleMap, number: int) -> None:
    """Damages a sample, or heals it again."""
    flip(Path(samples.tars[samples.shard(number)]), samples.members(number)[0].offset)


@pytest.mark.parametrize("ranks", [1, 3])
def test_damaged_samples_are_left_out_named_and_stay_out_after_a_resume(tmp_path, ranks, caplog):
    samples = damaged(tmp_path, 7, 90)
    expected = [key for key in sequence(samples, 0, 400) if key not in (samples.key(7), samples.key(90))]
    streams = [Stream(samples, batch=20, rank=r, ranks=ranks, epochs=2, order=ORDER) for r in range(ranks)]
    seen = sorted(key for stream in streams for key in keys(stream))
    assert seen == sorted(expected)
    assert sorted({n for stream in streams for n in stream.skipped.reasons}) == [7, 90]
    assert "a-000000000007.jpg: differs from its index" in caplog.text
    left_out = streams[0].state_after(0) | {"place": 0, "skipped": {"7": "damaged", "90": "damaged"}}
    for number in (7, 90):  # what was left out is not read again, even if it is whole now
        flip_a_byte(samples, number)
    again = Stream(samples, batch=20, epochs=2, order=ORDER)
    again.load_state_dict(left_out)
    assert keys(again) == expected and again.skipped.reasons == {7: "damaged", 90: "damaged"}


@pytest.mark.parametrize("workers", [0, 3])
def test_a_damaged_sample_moves_no_other_whatever_loads_it(tmp_path, workers):
    samples = damaged(tmp_path, 5)
    expected = sequence(samples, 0, 400)
    found = list(loader(Stream(samples, batch=20, epochs=2, order=ORDER), workers))
    assert [part for part, _ in found] == [
        [key for key in expected[at : at + 20] if key != samples.key(5)] for at in range(0, 400, 20)
    ]
    left_out = {number for _, batch in found for number in batch}
    assert left_out == {5}
    stream = Stream(samples, batch=20, epochs=2, order=ORDER)
    head = list(islice(loader(stream, workers), 12))
    state = stream.state_after(12, {number: reason for _, batch in head for number, reason in batch.items()})
    again = Stream(samples, batch=50, epochs=2, order=ORDER)
    again.load_state_dict(json.loads(json.dumps(state)))
    assert again.skipped.reasons.keys() == {5}
    assert keys(again) == [key for key in expected[240:] if key != samples.key(5)]


def test_errors_of_this_machine_are_no_damage(samples, monkeypatch):
    def refused(*given: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    stream = Stream(samples, order=ORDER)
    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(RetryableError, match="Too many open files"):
        next(iter(stream))
    assert not stream.skipped.reasons


def test_a_stream_stops_when_too_many_samples_are_damaged(tmp_path):
    samples = damaged(tmp_path, 1, 5, 9)
    with pytest.raises(FatalError, match=r"3 of 200 samples are damaged.*rlip shards verify"):
        keys(Stream(samples, epochs=1, order=ORDER, max_damaged=0.01))
    assert len(keys(Stream(samples, epochs=1, order=ORDER, max_damaged=0.02))) == 197


def test_a_missing_or_short_tar_is_found_before_going_on(tmp_path):
    samples = made_map(tmp_path, {"a": 200})
    state = Stream(samples, order=ORDER).state_after(1)
    Path(samples.tars[2]).write_bytes(b"")
    with pytest.raises(FatalError, match="its index needs"):
        Stream(samples, order=ORDER).load_state_dict(state)


def test_a_stream_without_samples_or_with_more_ranks_than_samples_is_refused(tmp_path):
    samples = made_map(tmp_path, {"a": 2})
    with pytest.raises(FatalError, match="give each rank at least one"):
        Stream(samples, batch=2, rank=0, ranks=3)
    with pytest.raises(FatalError, match="no samples to stream"):
        Stream(write_sample_map(tmp_path / "empty", []))


def test_remote_shards_are_requested_ahead_and_come_in_order(tmp_path):
    shards = write_sets(tmp_path, {"a": 120})
    found, local = (
        write_sample_map(tmp_path / name, each) for name, each in (("far", moved(shards)), ("near", shards))
    )
    assert keys(Stream(found, epochs=1, order=ORDER)) == keys(Stream(local, epochs=1, order=ORDER))
    assert found.fingerprint == local.fingerprint
