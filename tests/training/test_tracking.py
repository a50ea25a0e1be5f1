"""Trackers are read back with their own libraries; clocks of the timer are made."""

import json
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from torch.utils.checkpoint import checkpoint
from warm_process import WarmProcess

from pipeline.training.monitor import DivergenceAlarm
from pipeline.training.throughput import (
    StepFlops,
    StepTimer,
    count_flops,
    device_peak,
    known_peak,
    measured_peak,
    memory_gib,
)
from pipeline.training.trackers import GuardedTracker, ServiceTracker, open_trackers

CPU = torch.device("cpu")
SETTINGS = {"lr": 1e-3, "loss": {"box": 2.5}, "steps": 6}


@pytest.fixture(autouse=True)
def no_choice_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undoes what trackers and the environment of the tests set."""
    for name in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "TRACKIO_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def fresh_counter_of_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of one second are read by their number's text: .10 before .9. Attempts are processes, which begin at 0."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def attempt(folder: Path, first: int, last: int, *kinds: str) -> None:
    """Logs the steps after `first`, as a training does that is killed or ends after `last`."""
    warned: list[str] = []
    trackers = open_trackers(kinds, folder, "toy", SETTINGS, first, warned.append)
    for tracker in trackers:
        for step in range(first + 1, last + 1):
            tracker.log(step, {"loss": 1 / step, "lr": 1e-3})
        tracker.close()
    assert warned == [], warned


def in_processes(folder: Path, kind: str) -> None:
    """Two attempts in processes of their own, as a restart is: within one, wandb may lose the second run of an id."""
    for first, last in ((0, 4), (2, 6)):
        ran = WarmProcess(attempt, folder, first, last, kind)
        said = ran.communicate(timeout=120)
        assert ran.returncode == 0, said


def test_a_resumed_training_has_each_step_once_in_tensorboard(tmp_path):
    attempt(tmp_path, 0, 4)
    attempt(tmp_path, 2, 6)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, round(e.value, 4)) for e in events.Scalars("loss")] == [(n, round(1 / n, 4)) for n in range(1, 7)]
    (text,) = events.Tensors("settings/text_summary")
    assert '"box": 2.5' in text.tensor_proto.string_val[0].decode()


def test_a_training_that_begins_anew_replaces_its_earlier_events(tmp_path):
    attempt(tmp_path, 0, 4)
    attempt(tmp_path, 0, 2)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 2]


def test_a_folder_that_can_not_be_made_is_reported_and_stops_nothing(tmp_path):
    (tmp_path / "file").touch()
    warned: list[str] = []
    (tracker,) = open_trackers((), tmp_path / "file" / "toy", "toy", SETTINGS, 0, warned.append)
    tracker.log(1, {"loss": 1.0})
    tracker.close()
    assert len(warned) == 1 and str(tmp_path / "file") in warned[0] and "training continues" in warned[0]


def wandb_records(data: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format: blocks of 32 KiB of checksum, length and type, then the bytes."""
    place, parts = 7, b""
    while place + 7 <= len(data):
        if (left := -place % 2**15) and left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<4xHB", data, place)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_wandb_goes_on_with_its_run_offline(tmp_path):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    from wandb.proto.wandb_internal_pb2 import Record

    in_processes(tmp_path, "wandb")
    number = json.loads((tmp_path / "wandb.json").read_bytes())["id"]
    files = sorted((tmp_path / "wandb").glob(f"offline-run-*/run-{number}.wandb"))
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == len(files) >= 1
    found = []
    for data in (data for file in files for data in wandb_records(file.read_bytes())):
        record = Record()
        record.ParseFromString(data)
        items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        if items:
            found.append((items["step"], items["loss"]))
    assert found == [(step, 1 / step) for step in range(1, 7)]


def test_mlflow_goes_on_with_its_run_in_the_folder(tmp_path):
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    from mlflow.tracking import MlflowClient

    attempt(tmp_path, 0, 4, "mlflow")
    attempt(tmp_path, 2, 6, "mlflow")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("rlip").experiment_id])
    assert (run.info.run_name, run.info.status) == ("toy", "FINISHED")
    assert run.data.params == {"lr": "0.001", "loss.box": "2.5", "steps": "6"}
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(step, 1 / step) for step in range(1, 7)]
    attempt(tmp_path, 0, 1, "mlflow")
    assert len(client.search_runs([run.info.experiment_id])) == 2, "a training run that begins anew is a new run"


def trackio_rows(folder: Path) -> None:
    """Prints what Trackio has kept."""
    os.environ["TRACKIO_DIR"] = str(folder / "trackio")
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = trackio.Api().runs("rlip")
    print(*[(row["step"], row["loss"]) for row in SQLiteStorage.get_logs("rlip", run.name)])


def test_trackio_goes_on_with_its_run_in_the_folder(tmp_path):
    pytest.importorskip("trackio", reason="the extra trackio is not installed")
    in_processes(tmp_path, "trackio")
    rows = WarmProcess(trackio_rows, tmp_path).communicate(timeout=120)[0]
    assert rows.split("\n")[-2] == " ".join(str((step, 1 / step)) for step in range(1, 7))


class Toy(ServiceTracker):
    """A service that shows what it was sent."""

    kind = "json"  # a library that is installed
    variable = ("RLIP_TOY", "")

    def _open(self) -> list[tuple[int, str]]:
        self._remember("run")
        return []

    def _send(self, step: int, values: Mapping[str, float]) -> None:
        self._run.extend((step, name) for name in values)

    def _finish(self) -> None:
        self.sent = self._run


def test_a_training_that_was_killed_while_it_measured_sends_the_measurement(tmp_path):
    killed = Toy(tmp_path, "toy", SETTINGS, 0)
    for step in range(1, 5):
        killed.log(step, {"loss": 1.0})
    resumed = Toy(tmp_path, "toy", SETTINGS, 2)
    for step in range(3, 6):
        resumed.log(step, {"loss": 1.0})
        resumed.log(step, {"held_out_map": 0.5})
    resumed.close()
    assert resumed.sent == [(4, "held_out_map"), (5, "loss"), (5, "held_out_map")]
    (tmp_path / "json.json").write_text('{"id": "run", "step": 5}')
    earlier = Toy(tmp_path, "toy", SETTINGS, 4)
    for step in (5, 6):
        earlier.log(step, {"loss": 1.0})
    earlier.close()
    assert earlier.sent == [(6, "loss")], "a file of an earlier version names no values: all were sent"


class Broken:
    """A tracker whose disk is full until step 3."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step < 3:
            raise OSError(28, "No space left on device")
        self.steps.append(step)

    def close(self) -> None:
        raise SystemExit(1)


def test_a_tracker_that_fails_warns_once_and_gets_the_later_values():
    warned: list[str] = []
    broken = Broken()
    tracker = GuardedTracker("toy", broken, warned.append)
    for step in range(1, 6):
        tracker.log(step, {"loss": 1.0})
    tracker.close()
    assert broken.steps == [3, 4, 5]
    (warning,) = warned
    assert "the tracker toy failed" in warning and "No space left on device" in warning


def test_a_server_that_does_not_answer_delays_nothing():
    class Stuck(Broken):
        def log(self, step: int, values: Mapping[str, float]) -> None:
            released.wait(20)

    released = threading.Event()
    warned: list[str] = []
    tracker = GuardedTracker("toy", Stuck(), warned.append, patience=0.05)
    began = time.monotonic()
    for step in range(1, 1100):
        tracker.log(step, {"loss": 1.0})
    tracker.close()
    assert time.monotonic() - began < 5
    released.set()
    assert len(warned) == 1 and "behind" in warned[0]


def clock(*seconds: float) -> Callable[[], float]:
    """A clock that shows these times one after the other."""
    times = iter(seconds)
    return lambda: next(times)


def test_a_timer_tells_waiting_from_work():
    timer = StepTimer(CPU, peak=1e9, clock=clock(0.0, 1.0, 4.0, 5.0, 8.0, 108.0, 109.0, 110.0))
    for _ in range(2):
        timer.loaded()
        timer.trained(images=16, shown_pixels=75, batch_pixels=100, flops=10**9)
    values = timer.take()
    assert values.pop("memory_gib") > 0
    assert values == {"images_per_second": 4.0, "data_wait": 0.25, "padding": 0.25, "mfu": 0.25}
    timer.pause()
    timer.loaded()
    timer.trained(4, 10, 10)
    values = timer.take()
    assert values["images_per_second"] == 2.0 and "mfu" not in values
    assert timer.data_wait == 3 / 10


def test_memory_is_that_of_this_process():
    before = memory_gib(CPU)
    held = torch.ones(2**26)
    assert 0.2 < memory_gib(CPU) - before < 0.3
    del held


def test_random_numbers_go_on_as_if_nothing_had_been_counted():
    torch.manual_seed(0)
    expected = torch.rand(5)
    torch.manual_seed(0)
    count_flops(lambda: torch.rand(7), CPU)
    assert torch.equal(torch.rand(5), expected)


def test_what_is_recomputed_is_no_operation_of_the_model():
    layer, x = torch.nn.Linear(4, 5), torch.ones(3, 4)

    def passes(model: Callable[[torch.Tensor], torch.Tensor]) -> int:
        return count_flops(lambda: model(x).sum().backward(), CPU)

    assert passes(lambda x: checkpoint(lambda x: layer(x).tanh(), x, use_reentrant=False)) == passes(
        lambda x: layer(x).tanh()
    )


def test_the_first_steps_are_counted_and_the_others_estimated(monkeypatch):
    monkeypatch.setattr("pipeline.training.throughput.COUNTED", 3)
    flops, texts = StepFlops(CPU), torch.ones(7, 4)
    assert flops.of(100) == 0
    for pixels in (100, 100, 300):
        assert flops.is_counting
        flops.count(pixels, lambda pixels=pixels: (texts @ texts.T, torch.ones(pixels, 2) @ torch.ones(2, 5)))
    assert not flops.is_counting
    assert [flops.of(pixels) for pixels in (100, 300, 1000)] == [392 + 20 * pixels for pixels in (100, 300, 1000)]


@pytest.mark.parametrize("name, precision, tera", [
    ("NVIDIA H100 80GB HBM3", "bfloat16", 989.5), ("NVIDIA H100 PCIe", "tf32", 378.0),
    ("NVIDIA GeForce RTX 4090", "bfloat16", 165.2), ("Tesla V100-SXM2-16GB", "bfloat16", None),
    ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bfloat16", None), ("", "float32", None),
])  # fmt: skip
def test_the_peak_is_the_vendors_for_a_whole_known_device(name, precision, tera):
    assert known_peak(name, precision) == (None if tera is None else pytest.approx(tera * 1e12))


def test_the_peak_of_a_cpu_is_measured_and_that_of_a_gpu_depends_on_the_precision(monkeypatch):
    assert measured_peak(CPU, torch.float32, 64, 1.0, clock(0.0, 0.0, 0.5, 0.5, 0.75, 0.75, 1.75)) == 2 * 64**3 / 0.25
    assert device_peak(CPU, "float32") > 1e8
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    gpu = torch.device("cuda", 0)
    assert device_peak(gpu, "bfloat16") == 989.5e12
    assert device_peak(gpu, "tf32") == device_peak(gpu, "medium") == 494.5e12
    assert device_peak(gpu, "float32") == 67e12


def alarm() -> DivergenceAlarm:
    """An alarm after eight steps of loss 2."""
    made = DivergenceAlarm(factor=3.0, window=8)
    for step in range(1, 9):
        assert made.check(step, {"loss": 2.0, "gradient_norm": 1.0}) is None
    return made


def test_an_alarm_is_reported_once_per_episode_with_the_checkpoint_to_go_back_to():
    made = alarm()
    told = [made.check(step, {"loss": 7.0, "gradient_norm": 1.0}, [4, 8, 10]) for step in range(9, 30)]
    assert [step for step, said in enumerate(told, start=9) if said] == [11]
    assert told[2] == (
        "the training run seems to diverge at step 11: loss 7 is above 3 times 2, the median of the last 8 steps, for "
        "3 steps in a row; the checkpoint of step 8 is kept"
    )
    assert made.last_good_step == 8 and made.kept([4, 8, 10]) == 8 and made.kept([9]) is None
    assert made.check(30, {"loss": 2.0, "gradient_norm": 1.0}) is None
    assert made.last_good_step == 30
    told = [made.check(step, {"loss": 2.0, "gradient_norm": 9.0}) for step in range(31, 40)]
    assert [bool(said) for said in told] == [False, False, True, *[False] * 6]
    assert "gradient norm 9" in str(told[2]) and "no checkpoint" in str(told[2])


def test_two_high_steps_are_no_alarm():
    made = alarm()
    told = [made.check(step, {"loss": 2.0 if step % 3 == 2 else 7.0, "gradient_norm": 1.0}) for step in range(9, 60)]
    assert not any(told)


def test_a_restored_alarm_behaves_the_same():
    losses = [2.0 + step % 3 for step in range(20)] + [40.0] * 5 + [2.0] * 3 + [50.0] * 4
    whole = DivergenceAlarm(4.0, 8)
    said = [whole.check(step, {"loss": loss}, [16]) for step, loss in enumerate(losses, start=1)]
    assert sum(map(bool, said)) == 2
    for cut in range(len(losses)):
        before, after = DivergenceAlarm(4.0, 8), DivergenceAlarm(4.0, 8)
        for step, loss in enumerate(losses[:cut], start=1):
            before.check(step, {"loss": loss}, [16])
        after.restore(json.loads(json.dumps(before.state())))
        again = [after.check(step, {"loss": loss}, [16]) for step, loss in enumerate(losses[cut:], start=cut + 1)]
        assert again == said[cut:]
        assert after.state() == whole.state()


def test_trackers_keep_the_choice_of_the_user(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    attempt(tmp_path, 0, 2, "wandb")
    assert os.environ["WANDB_MODE"] == "disabled"
    assert not list(tmp_path.glob("wandb/offline-run-*"))
