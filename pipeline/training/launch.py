"""Starting the training processes of this machine, following them, and ending them whatever happens here."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from pipeline.runtime.stage import Report
from pipeline.training.config import ERROR, LAUNCHER, MODEL, SUMMARY, Job, Summary
from storage.errors import Terminal, Transient

LOG = "train.log"
GRACE_SECONDS = 20.0
"""Between asking the processes to end and killing them; Prefect gives a cancelled flow 30 seconds."""
_PROGRESS = re.compile(r"step (\d+)/(\d+): (.*)")
_ROOT = Path(__file__).resolve().parents[2]


def launch(job: Job, report: Report) -> Summary:
    """Run the job's processes to their end; the model lies in `job.work` then.

    Must be called from the main thread: only there do signals interrupt it, and Linux ends the processes with the
    thread that started them. Raises `Terminal` for what the trainer says can't work, else `Transient` with the end of
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


def _command(job: Job, job_file: Path) -> list[str]:
    worker = ["-m", "pipeline.training.worker", str(job_file)]
    if job.settings.processes == 1:
        return [sys.executable, *worker]
    torchrun = ["-m", "pipeline.training.torchrun", "--standalone", "--local-addr=127.0.0.1"]
    return [sys.executable, *torchrun, f"--nproc-per-node={job.settings.processes}", *worker]


def _environment(job: Job) -> dict[str, str]:
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


def _follow(process: subprocess.Popen[bytes], log: Path, start: int, report: Report) -> int:
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


def _failure(job: Job, log: Path, code: int) -> Exception:
    if (job.work / ERROR).is_file():
        return Terminal((job.work / ERROR).read_text())
    tail = log.read_text(errors="replace").splitlines()[-15:]
    state = f"ended with exit code {code}" if code else "stopped before its last step"
    return Transient(
        f"training {state}; run again to go on from its last checkpoint. The end of {log}:\n" + "\n".join(tail)
    )
