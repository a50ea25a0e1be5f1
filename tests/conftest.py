"""Fixtures shared by all test folders."""

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import HealthCheck, settings
from run_builder import TWO_PEOPLE, RunBuilder, captions, pairs, recipe_of, relations, triplets

from pipeline.runtime import processes
from pipeline.runtime.stage import Rejected
from storage.local_store import LocalStore
from storage.runs import Run

ROOT = Path(__file__).resolve().parents[1]

# Tests started in the background of a shell, and their child processes, ignore Ctrl-C, which some tests are about.
signal.signal(signal.SIGINT, signal.default_int_handler)

# On a busy machine, any example may take long. Fixtures of hypothesis tests hold nothing that an example changes.
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("tests")

# The processes of all tests of a worker are forks of one that has loaded and compiled what they use.
processes.preload(["tests.warm_parent"])
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])

LONGEST = (
    "flows/test_on_a_server.py", "device/test_other_devices.py", "models/test_deformable_read_triton.py",
    "chain/test_resume.py", "flows/test_run.py", "training/test_checkpoints.py",
    "training/test_training.py", "models/test_networks.py", "chain/test_label_quality.py", "training/test_ray.py",
    "training/test_ranks.py", "cli/test_installed.py", "hostile/test_hostile.py", "review/test_browser_looks.py",
    "training/test_trainer.py", "chain/test_your_data.py", "chain/test_caching.py", "review/test_browser_search.py",
    "training/test_slurm.py", "training/test_nodes.py", "chain/test_label_folder.py", "review/test_browser_keyboard.py",
    "storage/test_remote_store.py", "storage/test_on_s3.py", "runtime/test_ray_engine.py", "training/test_batches.py",
    "review/test_browser_grid.py", "models/test_deformable_attention.py",
    "storage/test_torture.py", "cli/test_weights.py", "models/test_onnx_export.py", "models/test_export.py",
    "training/test_launch.py", "models/test_import.py", "data/test_decoder_process.py", "review/test_browser_image.py",
    "training/test_tracking.py", "interop/test_publish_shards.py", "chain/test_funnel.py",
    "review/test_browser_people.py", "captioning/test_endpoint.py", "run/test_rehearsal.py",
    "review/test_index.py", "detection/test_detectors.py", "cli/test_api.py", "cli/test_plugins.py",
    "captioning/test_blip_recordings.py", "run/test_checks.py", "tagger/test_parsing_quality.py",
    "run/test_estimate.py", "scenes/test_captioner.py", "run/test_metrics.py", "review/test_team_review.py",
    "data/test_download.py",
)  # fmt: skip
"""Files that take long, about the longest first. A worker that got one of them last would go on alone."""
SLOW_FOLDERS = ("chain", "device", "flows", "hostile", "training")
SLOW_FIXTURES = frozenset({"s3_settings", "window"})
"""An S3 server and a browser."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Spares `make check` the imports of files that it leaves out."""
    place = collection_path.relative_to(ROOT / "tests") if collection_path.is_relative_to(ROOT / "tests") else Path()
    is_slow = str(place) in LONGEST or str(place) in SLOW_FOLDERS
    return True if is_slow and config.option.markexpr == "not slow" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make check` leaves out, and run the longest files first; pytest-xdist is told to keep this order."""
    places = {ROOT / "tests" / file: place for place, file in enumerate(LONGEST)}
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if item.path in places or item.path.parent.name in SLOW_FOLDERS or not SLOW_FIXTURES.isdisjoint(fixtures):
            item.add_marker(pytest.mark.slow)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (places.get(item.path, len(places)), item.path not in slow))


def pytest_collection_finish() -> None:
    """Keep garbage collection from visiting the million objects of modules and tests."""
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference recordings. Tests that need it are skipped if it is absent."""
    folder = Path(os.environ.get("RLIP_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder} (set RLIP_SHARED)")
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """Root folder of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def s3_settings() -> Iterator[dict[str, str]]:
    """An S3 server on loopback. Yields the environment variables that point to it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    server.stop()


@pytest.fixture
def s3(s3_settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket on that server, for this process and its child processes."""
    for name, value in s3_settings.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3", skip_instance_cache=True).makedirs("bucket", exist_ok=True)
    return "s3://bucket"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that makes this process act as another machine, which has none of the copies of the others."""
    return lambda name: monkeypatch.setenv("RLIP_CACHE", str(tmp_path / name))


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[[], Any]:
    """Returns what was printed as JSON since the last call."""
    return lambda: json.loads(capsys.readouterr().out)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread of torch, as in a worker."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def book(tmp_path: Path) -> RunBuilder:
    """An empty run."""
    return RunBuilder(Run(LocalStore(tmp_path / "store"), "toy"), tmp_path / "pictures")


@pytest.fixture
def labelled(book: RunBuilder) -> RunBuilder:
    """Two labelled images of a dataset with true relations, small enough to count all figures by hand.

    Given relations: in image 1 person 0 rides horse 2 and stands next to person 1; in image 2 person 0 rides horse 2.
    """
    first = book.image(1, TWO_PEOPLE, [(0, "riding", 2), (0, "next to", 1)])
    cut = Rejected(3, "truncated", "JPEG: <b>cut</b>")
    book.add("ingest", "toys/0000", [first, book.image(2, TWO_PEOPLE, [(0, "riding", 2)])], rows_in=3, rejected=[cut])
    texts = captions(1, "a man rides a horse", "a man holds a cup"), captions(2, "a horse <script>alert(1)</script>")
    book.add("caption", "toys/0000", texts)
    parsed = triplets(1, (0, "man", "ride", "horse"), (1, "man", "hold", "cup"))
    book.add("parse", "toys/0000", [parsed, triplets(2, (0, "horse", "next to", "man"))])
    labels = [
        relations(1, (0, "ride", 2, 0.9), (1, "ride", 2, 0.1), (1, "next to", 0, 0.8)),
        relations(2, (0, "ride", 2, 0.6), (2, "next to", 0, 0.7)),
    ]
    proposed = [
        pairs(1, (0, "ride", 2, 2), (1, "ride", 2, 2), (0, "next to", 1, 1)),
        pairs(2, (0, "ride", 2, 2), (1, "ride", 2, 2), (2, "next to", 0, 2), (2, "next to", 1, 2)),
    ]
    book.add("tag", "toys/0000", labels, candidates=proposed, facts={"images/s": 2.0})
    return book


@pytest.fixture
def recipe(book: RunBuilder) -> Any:
    """The recipe of the run in `book`."""
    return recipe_of(book)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a small byte-level tokenizer like RoBERTa's."""
    from tokenizers import ByteLevelBPETokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    model = ByteLevelBPETokenizer(lowercase=True)
    words = ["person dog bicycle traffic light riding holding sitting on next to no objects"] * 4
    model.train_from_iterator(
        words, vocab_size=300, show_progress=False, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    )
    model.save_model(str(folder))
    return folder


@pytest.fixture(scope="session")
def small_config() -> Any:
    """The configuration of a ParSeDA that trains from scratch in moments."""
    from models.config import NetworkConfig, TextConfig

    text = TextConfig(hidden=32, layers=1, heads=2, feedforward=32, vocabulary=300, max_positions=16, dropout=0.0)
    return NetworkConfig(
        architecture="parseda", backbone="test_resnet", backbone_norm="group", width=32, heads=2, points=2,
        encoder_layers=2, decoder_layers=2, feedforward=32, pairs=5, fusion_width=32, fusion_heads=2, text=text,
    )  # fmt: skip


@pytest.fixture(scope="session")
def small_tagger_config(small_config: Any) -> Any:
    """That of a tagger of the same size."""
    return replace(small_config, architecture="parsed", tagger=True)


class Stub:
    """A running endpoint of `chat_stub.py`, and the answers that it gave."""

    def __init__(self, folder: Path, rates: dict[str, float | str]) -> None:
        self.log = folder / "answers.log"
        self.log.touch()
        command = [sys.executable, ROOT / "tests" / "chat_stub.py", self.log, json.dumps(rates)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def answers(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Callable[..., Stub]]:
    """Starts stubs with the rates of their faults."""
    running: list[Stub] = []

    def start(**rates: float | str) -> Stub:
        folder = tmp_path / f"stub {len(running)}"
        folder.mkdir()
        running.append(Stub(folder, rates))
        return running[-1]

    yield start
    for each in running:
        each.process.kill()
        each.process.wait()
