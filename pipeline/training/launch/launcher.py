"""Runs a training run on the coordinator: starts its ranks and those of the others, and restarts all when one is lost."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from pipeline.runtime.processes import ready_to_fork
from pipeline.runtime.stage import ReportProgress
from pipeline.training.address import resolve
from pipeline.training.checkpoints.folder import CheckpointFolder
from pipeline.training.config import CHECKPOINTS, MODEL, SUMMARY, Summary, TrainConfig
from pipeline.training.launch.failure import Failure
from pipeline.training.launch.meeting import LOOPBACK, file_store, interface_of, meeting, require_gpus, tcp_store
from pipeline.training.launch.nodes import Nodes
from pipeline.training.launch.progress_log import ProgressLog
from pipeline.training.launch.rank_processes import IMPORTS, WORKER, Placement, RankProcesses
from storage.errors import FatalError, RetryableError

LOG = "train.log"
CAUSE_SECONDS = 5.0
"""Seconds to wait, after a rank lost its peers, for the rank that knows why; a lost node takes longer to be noticed."""


def launch(config: TrainConfig, report: ReportProgress, worker: str = WORKER) -> Summary:
    """Runs the ranks of a training run to their end. The model is then in `config.work`.

    This must be called from the main thread: only there do signals interrupt it. When a rank is lost, all restart from the
    last checkpoint, at most `settings.restarts` times without a newer one. Raises `FatalError` for an error that a rank
    reports as such, otherwise `RetryableError` with the cause and the end of the log. On any other exception (Ctrl-C, a
    cancelled flow) the ranks get time to write a checkpoint first.

    With several nodes, `config.work` is on a file system that all of them share, under the same path.
    """
    settings = config.settings
    require_gpus(settings)
    ready_to_fork(IMPORTS)  # Other nodes take a coordinator that waits for imports to be lost.
    for name in (SUMMARY, MODEL):
        (config.work / name).unlink(missing_ok=True)
    checkpoints = CheckpointFolder(config.work / CHECKPOINTS)
    wanted, failed, newest = settings.nodes, 0, checkpoints.newest()
    with (
        ProgressLog(config.work / LOG, report) as log,
        meeting(config) as config_file,
        Nodes(settings, config_file) as nodes,
    ):
        while True:
            members = nodes.gather(wanted, log.note)
            cause = _run_round(config, config_file, members, nodes, log, worker)
            if cause is None:
                break
            if cause.kind == "fatal":
                raise FatalError(cause.message)
            newest, before = checkpoints.newest(), newest
            failed = failed + 1 if newest == before else 1
            if failed > settings.restarts:
                raise _given_up(cause.message, log)
            log.note(f"restarting from the last checkpoint, because {cause.message}")
            wanted = settings.min_nodes or settings.nodes
        if not (config.work / SUMMARY).is_file():
            raise _given_up("the training stopped before its last step", log)
    return Summary.model_validate_json((config.work / SUMMARY).read_bytes())


def _run_round(
    config: TrainConfig, config_file: Path, members: tuple[int, ...], nodes: Nodes, log: ProgressLog, worker: str
) -> Failure | None:
    """Runs the ranks of all members until they end. Returns why they did, or None when they finished or stopped on request."""
    nodes.start_round(members)
    placement = _placement(config, members, nodes.round, config_file.parent)
    ranks = RankProcesses(config_file, config, placement, log.path, worker)
    try:
        return _watch(ranks, nodes, log)
    except BaseException:
        _stop(ranks, nodes, config.settings.stop_timeout, log)
        raise
    finally:
        ranks.kill()
        nodes.end_round()


def _placement(config: TrainConfig, members: tuple[int, ...], number: int, folder: Path) -> Placement:
    count = config.settings.processes * len(members)
    if config.settings.nodes == 1 or config.settings.address is None:
        return Placement(0, count, file_store(folder, number), interface_of(LOOPBACK))
    interface = interface_of(resolve(config.settings.address))
    return Placement(0, count, tcp_store(config.settings.address, number), interface, socket.gethostname())


def _watch(ranks: RankProcesses, nodes: Nodes, log: ProgressLog) -> Failure | None:
    """Waits for the end of all ranks or the first failure. Returns its cause."""
    deadline: float | None = None
    while True:
        ended = ranks.ended() and nodes.ended()
        log.follow()
        nodes.tick()
        failures = [*ranks.failures(), *nodes.failures()]
        causes = [failure for failure in failures if failure.kind != "peer"]
        if causes:
            return next((cause for cause in causes if cause.kind == "fatal"), causes[0])
        if failures:
            now = time.monotonic()
            deadline = deadline or now + CAUSE_SECONDS + nodes.timeout
            if ended or now > deadline:
                return failures[0]
        elif ended:
            return None
        time.sleep(0.1)


def _stop(ranks: RankProcesses, nodes: Nodes, seconds: float, log: ProgressLog) -> None:
    """Asks all ranks to write a checkpoint and end, and gives them time for it."""
    ranks.ask()
    nodes.ask()
    log.write(f"stopping after this step with a checkpoint, for at most {seconds:.0f} s (stop_timeout)")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not (ranks.ended() and nodes.ended()):
        nodes.tick()
        time.sleep(0.1)
    if not ranks.ended():
        log.write("it took longer, so the training resumes from the checkpoint before")


def _given_up(cause: str, log: ProgressLog) -> RetryableError:
    return RetryableError(
        f"{cause}; run again to continue from its last checkpoint. The end of {log.path}:\n{log.end()}"
    )
