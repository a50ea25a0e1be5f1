"""Starting the training processes of this machine, following them, and ending them whatever happens here."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from models.config import NO_OBJECTS
from pipeline.runtime.stage import Output, ReportProgress
from pipeline.training.config import (
    ERROR,
    LAUNCHER,
    METRICS_LOG,
    MODEL,
    SUMMARY,
    TOKENIZER,
    VOCABULARY,
    Summary,
    TrainConfig,
)
from pipeline.training.dataset import ImageSource, SampleSource, ShardSource, Subset
from pipeline.training.metrics_log import MetricsLog
from pipeline.training.sample import TrainingSample
from pipeline.training.settings import CALIBRATION, TaggerSettings
from pipeline.training.vocabulary import Vocabulary, copy_tokenizer, make_tokenizer, tokenizer_files
from storage.errors import FatalError, RetryableError

LOG = "train.log"
GRACE_SECONDS = 20.0
"""Between asking the processes to end and killing them; Prefect gives a cancelled flow 30 seconds."""
_PROGRESS = re.compile(r"step (\d+)/(\d+): (.*)")
_ROOT = Path(__file__).resolve().parents[2]


def launch(job: TrainConfig, report: ReportProgress) -> Summary:
    """Run the job's processes to their end; the model lies in `job.work` then.

    Must be called from the main thread: only there do signals interrupt it, and Linux ends the processes with the
    thread that started them. Raises `FatalError` for what the trainer says can't work, else `RetryableError` with the end of
    its log; on any other exception (Ctrl-C, a cancelled flow) the trainer gets time to write a checkpoint first.
    """
    for name in (ERROR, SUMMARY, MODEL):
        (job.work / name).unlink(missing_ok=True)
    job_file = job.work / "job.json"
    job_file.write_text(job.model_dump_json())
    log = job.work / LOG
    with log.open("ab") as out:
        start = out.tell()
        process = subprocess.Popen(
            _command(job, job_file),
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=_environment(job),
        )
    try:
        code = _follow(process, log, start, report)
    except BaseException:
        _end(process)
        raise
    if code or not (job.work / SUMMARY).is_file():
        raise _failure(job, log, code)
    return Summary.model_validate_json((job.work / SUMMARY).read_bytes())


def _command(job: TrainConfig, job_file: Path) -> list[str]:
    worker = ["-m", "pipeline.training.worker", str(job_file)]
    if job.settings.processes == 1:
        return [sys.executable, *worker]
    torchrun = ["-m", "pipeline.training.torchrun", "--standalone", "--local-addr=127.0.0.1"]
    return [sys.executable, *torchrun, f"--nproc-per-node={job.settings.processes}", *worker]


def _environment(job: TrainConfig) -> dict[str, str]:
    """Paths, threads, and the process that the trainer must not outlive."""
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = str(job.settings.threads)
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        # A folder of the user's that is named like one of our packages must not be imported in its place.
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "TOKENIZERS_PARALLELISM": "false",
        LAUNCHER: str(os.getpid()),
    }


def _follow(process: subprocess.Popen[bytes], log: Path, start: int, report: ReportProgress) -> int:
    """Pass the log's progress lines on until the process ends; returns its exit code."""
    with log.open("rb") as lines:
        lines.seek(start)
        rest = b""
        while True:
            code = process.poll()
            *whole, rest = (rest + lines.read()).split(b"\n")
            found = [m for line in whole if (m := _PROGRESS.fullmatch(line.decode(errors="replace")))]
            if found:
                report(int(found[-1][1]), int(found[-1][2]), found[-1][3])
            if code is not None:
                return code
            time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the whole process group to end, wait, then kill what is left."""
    for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            pass
        return


def _failure(job: TrainConfig, log: Path, code: int) -> Exception:
    if (job.work / ERROR).is_file():
        return FatalError((job.work / ERROR).read_text())
    tail = log.read_text(errors="replace").splitlines()[-15:]
    state = f"ended with exit code {code}" if code else "stopped before its last step"
    return RetryableError(
        f"training {state}; run again to go on from its last checkpoint. The end of {log}:\n" + "\n".join(tail)
    )


def prepare(job: TrainConfig) -> dict[str, Path]:
    """Write vocabulary and tokenizer unless an earlier attempt has; returns the files to keep with the weights.

    Raises `FatalError` when there is nothing to train on.
    """
    vocabulary_file, tokenizer = job.work / VOCABULARY, job.work / TOKENIZER
    if not vocabulary_file.is_file():
        vocabulary = Vocabulary.of(_samples(training_source(job), job))
        config = job.settings.network
        if job.settings.tokenizer is not None:
            copy_tokenizer(job.settings.tokenizer, tokenizer)
        else:
            names = (*vocabulary.objects.names, *vocabulary.predicates.names, NO_OBJECTS)
            make_tokenizer(names, config["text"]["vocabulary"], tokenizer)
        vocabulary.save(vocabulary_file, image_size=job.settings.image_size)
    return {VOCABULARY: vocabulary_file, **tokenizer_files(tokenizer)}


def training_source(job: TrainConfig) -> SampleSource:
    """The samples that the job trains on."""
    if job.kind == "pretrain":
        return ShardSource([(shard.tar, shard.index) for shard in job.shards])
    assert isinstance(job.settings, TaggerSettings)
    images = ImageSource(job.tables, job.image_folders)
    return Subset(images, images.split(job.settings.held_out)[0])


def _samples(source: SampleSource, job: TrainConfig) -> Iterator[TrainingSample]:
    if not len(source):
        needed = "an image with a box" if job.kind == "pretrain" else "an image with a relation between its boxes"
        raise FatalError(
            f"nothing to train on: the {job.kind} training set lacks {needed}; look at what ingest rejected"
        )
    for position in range(len(source)):
        yield source.labels(position)


def run_training(job: TrainConfig, report: ReportProgress) -> Output:
    """Train, or go on from the last checkpoint in `job.work`; model, vocabulary, tokenizer, calibration, metrics."""
    kept = prepare(job)
    summary = launch(job, report)
    files: Mapping[str, Path] = {MODEL: job.work / MODEL, **kept}
    if (job.work / CALIBRATION).is_file():
        files = {**files, CALIBRATION: job.work / CALIBRATION}
    table = MetricsLog(job.work / METRICS_LOG).table()
    return Output(table, files, rows_in=summary.images, rows_out=summary.images, facts=summary.model_dump())
