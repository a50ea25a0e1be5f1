"""Starts the training processes of this machine, follows them, and ends them whatever happens here."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
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
from pipeline.training.metrics_log import MetricsLog
from pipeline.training.settings import CALIBRATION
from pipeline.training.shards import map_samples
from pipeline.training.vocabulary import Vocabulary, copy_tokenizer, make_tokenizer, tokenizer_files
from storage.errors import FatalError, RetryableError
from storage.tables import read_table

LOG = "train.log"
GRACE_SECONDS = 20.0
"""Seconds between asking the processes to end and killing them. Prefect gives a cancelled flow 30."""
_PROGRESS = re.compile(r"step (\d+)/(\d+): (.*)")
_ROOT = Path(__file__).resolve().parents[2]


def launch(config: TrainConfig, report: ReportProgress) -> Summary:
    """Runs the training processes to their end. The model is then in `config.work`.

    This must be called from the main thread: only there do signals interrupt it, and Linux ends the processes with the
    thread that started them. Raises `FatalError` for an error that the trainer reports, otherwise `RetryableError` with the
    end of its log. On any other exception (Ctrl-C, a cancelled flow) the trainer gets time to write a checkpoint first.
    """
    for name in (ERROR, SUMMARY, MODEL):
        (config.work / name).unlink(missing_ok=True)
    config_file = config.work / "config.json"
    config_file.write_text(config.model_dump_json())
    log = config.work / LOG
    with log.open("ab") as out:
        start = out.tell()
        process = subprocess.Popen(
            _command(config, config_file),
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=_environment(config),
        )
    try:
        code = _follow(process, log, start, report)
    except BaseException:
        _end(process)
        raise
    if code or not (config.work / SUMMARY).is_file():
        raise _failure(config, log, code)
    return Summary.model_validate_json((config.work / SUMMARY).read_bytes())


def _command(config: TrainConfig, config_file: Path) -> list[str]:
    worker = ["-m", "pipeline.training.worker", str(config_file)]
    if config.settings.processes == 1:
        return [sys.executable, *worker]
    torchrun = ["-m", "pipeline.training.torchrun", "--standalone", "--local-addr=127.0.0.1"]
    return [sys.executable, *torchrun, f"--nproc-per-node={config.settings.processes}", *worker]


def _environment(config: TrainConfig) -> dict[str, str]:
    """Returns environment variables: import paths, threads, and the process that the trainer must not outlive."""
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = str(config.settings.threads)
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        # A folder of the user with the name of one of our packages must not be imported instead of it.
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "TOKENIZERS_PARALLELISM": "false",
        LAUNCHER: str(os.getpid()),
    }


def _follow(process: subprocess.Popen[bytes], log: Path, start: int, report: ReportProgress) -> int:
    """Reports the progress lines of the log until the process ends. Returns its exit code."""
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
    """Asks the whole process group to end, waits, then kills what is left."""
    for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            pass
        return


def _failure(config: TrainConfig, log: Path, code: int) -> Exception:
    if (config.work / ERROR).is_file():
        return FatalError((config.work / ERROR).read_text())
    tail = log.read_text(errors="replace").splitlines()[-15:]
    state = f"ended with exit code {code}" if code else "stopped before its last step"
    return RetryableError(
        f"training {state}; run again to continue from its last checkpoint. The end of {log}:\n" + "\n".join(tail)
    )


def prepare(config: TrainConfig) -> dict[str, Path]:
    """Writes vocabulary and tokenizer unless an earlier attempt did. Returns the files to keep with the weights.

    Raises `FatalError` when there is nothing to train on.
    """
    vocabulary_file, tokenizer = config.work / VOCABULARY, config.work / TOKENIZER
    if not len(map_samples(config)):
        needed = "an image with a box" if config.kind == "pretrain" else "an image with a relation between its boxes"
        raise FatalError(
            f"nothing to train on: the {config.kind} training set lacks {needed}; check what ingest rejected, and what stage "
            "shard left out, such as the images of data.test (pretrain.allow_overlap)"
        )
    if not vocabulary_file.is_file():
        statistics = [read_table(path) for path in sorted({shard.statistics for shard in config.shards})]
        vocabulary = Vocabulary.of(statistics, config.settings.predicate_form)
        network = config.settings.network
        if config.settings.tokenizer is not None:
            copy_tokenizer(config.settings.tokenizer, tokenizer)
        else:
            names = (*vocabulary.objects.names, *vocabulary.predicates.names, NO_OBJECTS)
            make_tokenizer(names, network["text"]["vocabulary"], tokenizer)
        vocabulary.save(vocabulary_file, image_size=config.settings.whole_size)
    return {VOCABULARY: vocabulary_file, **tokenizer_files(tokenizer)}


def run_training(config: TrainConfig, report: ReportProgress) -> Output:
    """Trains from the last checkpoint in `config.work`, if any. Returns the metrics and the files to keep."""
    kept = prepare(config)
    summary = launch(config, report)
    files: Mapping[str, Path] = {MODEL: config.work / MODEL, **kept}
    if (config.work / CALIBRATION).is_file():
        files = {**files, CALIBRATION: config.work / CALIBRATION}
    table = MetricsLog(config.work / METRICS_LOG).table()
    return Output(table, files, rows_in=summary.images, rows_out=summary.images, facts=summary.model_dump())
