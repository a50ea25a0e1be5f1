"""Runs a training run on the coordinator: prepares it, starts the ranks of all nodes, restarts them when one is lost,
and collects the results.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from models.config import NO_OBJECTS
from pipeline.runtime import logs
from pipeline.runtime.devices import choose_device
from pipeline.runtime.processes import ready_to_fork
from pipeline.runtime.settings import resolve
from pipeline.runtime.stage import Output, ReportProgress
from pipeline.training.checkpoint_folder import CheckpointFolder
from pipeline.training.config import (
    CHECKPOINTS,
    HELD_OUT,
    METRICS_LOG,
    MODEL,
    PROGRESS,
    SUMMARY,
    TOKENIZER,
    VOCABULARY,
    WARNING,
    WARNINGS,
    WORKER,
    Summary,
    TrainConfig,
    TrainingProgress,
)
from pipeline.training.launch import messages
from pipeline.training.launch.failure import Failure
from pipeline.training.launch.meeting import LOOPBACK, file_store, interface_of, meeting, require_gpus, tcp_store
from pipeline.training.launch.messages import Command, MessageStore, NodeState
from pipeline.training.launch.rank_processes import Placement, RankProcesses
from pipeline.training.metrics_log import MetricsLog
from pipeline.training.settings import CALIBRATION, TaggerSettings, TrainingSettings
from pipeline.training.shards import map_samples
from pipeline.training.vocabulary import Vocabulary, copy_tokenizer, differ, make_tokenizer, tokenizer_files
from storage.digests import digest_file
from storage.errors import FatalError, RetryableError
from storage.shards.sample_map import SampleMap
from storage.tables import read_table

LOG = "train.log"
CAUSE_SECONDS = 5.0
"""Seconds to wait, after a rank lost its peers, for the rank that knows why; a lost node takes longer to be noticed."""
GATHER_SECONDS = 600.0
"""Longest time to wait for nodes that are missing at the start of a round."""
_LEAVE_SECONDS = 5.0
_TAIL = 15
"""Lines of the log that an error shows."""


def launch(config: TrainConfig, report: ReportProgress) -> Summary:
    """Runs the ranks of a training run to their end. The model is then in `config.work`.

    This must be called from the main thread: only there do signals interrupt it. When a rank is lost, all restart from
    the last checkpoint, at most `settings.restarts` times without a newer one. Raises `FatalError` for an error that a
    rank reports as such, otherwise `RetryableError` with the cause and the end of the log. On any other exception
    (Ctrl-C, a cancelled flow) the ranks get time to write a checkpoint first.

    With several nodes, `config.work` is on a file system that all of them share, under the same path.
    """
    require_gpus(config.settings)
    # Another node would choose for itself, and could not take part.
    settings = config.settings.model_copy(update={"device": choose_device(config.settings.device).type})
    config = config.model_copy(update={"settings": settings})
    ready_to_fork([WORKER])  # A coordinator that waits for imports looks lost to the other nodes.
    # Those of an earlier attempt would pass for the results of this one.
    for name in (SUMMARY, MODEL, PROGRESS):
        (config.work / name).unlink(missing_ok=True)
    checkpoints = CheckpointFolder(config.work / CHECKPOINTS)
    began = newest = checkpoints.newest()
    wanted, failed = settings.nodes, 0
    log = _Log(config.work, report)
    with meeting(config) as config_file, Nodes(settings, config_file) as nodes:
        while True:
            members = nodes.gather(wanted, log.report)
            cause = _run_round(config, config_file, members, nodes, log)
            if cause is None:
                break
            if cause.kind == "fatal":
                raise FatalError(cause.message)
            newest, before = checkpoints.newest(), newest
            failed = failed + 1 if newest == before else 1
            if failed > settings.restarts:
                raise log.given_up(cause.message)
            log.report(f"restarting from the last checkpoint, because {cause.message}")
            wanted = settings.min_nodes or settings.nodes
        if not (config.work / SUMMARY).is_file():
            raise log.given_up("the training run stopped before its last step")
    summary = Summary.model_validate_json((config.work / SUMMARY).read_bytes())
    # The last round began at the last restart, but the time is that of all rounds. If the newest checkpoint was
    # damaged, they began before it.
    seen = max(summary.images_seen, (summary.steps - began) * settings.batch)
    return summary.model_copy(update={"images_seen": seen})


def _run_round(
    config: TrainConfig, config_file: Path, members: tuple[int, ...], nodes: Nodes, log: _Log
) -> Failure | None:
    """Runs all members' ranks until they end. Returns why they did, or None if they finished or stopped on request."""
    nodes.start_round(members)
    placement = _placement(config, members, nodes.round, config_file.parent)
    ranks = RankProcesses(config_file, config, placement, log.path)
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


def _watch(ranks: RankProcesses, nodes: Nodes, log: _Log) -> Failure | None:
    """Waits for the end of all ranks or the first failure. Returns its cause."""
    deadline: float | None = None
    while True:
        # Asked before the failures: a rank that fails in between must not count as finished.
        ended = ranks.ended() and nodes.ended()
        nodes.tick()
        failures = [*ranks.failures(), *nodes.failures()]
        log.follow()  # of a rank that failed, to its end
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


def _stop(ranks: RankProcesses, nodes: Nodes, seconds: float, log: _Log) -> None:
    """Makes all ranks write a checkpoint and end, and gives them time for it."""
    ranks.request_stop()
    nodes.request_stop()
    log.write(f"stopping after this step with a checkpoint, for at most {seconds:.0f} s (stop_timeout)")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not (ranks.ended() and nodes.ended()):
        nodes.tick()
        time.sleep(0.1)
    if not ranks.ended():
        log.write("it took longer, so the training run resumes from the previous checkpoint")


class _Log:
    """The log of the ranks of this node, to which the launcher adds lines, and the progress of rank 0."""

    def __init__(self, work: Path, report: ReportProgress) -> None:
        self.path = work / LOG
        self.path.touch()
        self._progress_file, self._warnings_file, self._report = work / PROGRESS, work / WARNINGS, report
        self._warnings_file.write_bytes(b"")
        self._progress = TrainingProgress(step=0, total=1, message="")
        self._reported = 0
        """Number of warnings reported."""

    def follow(self) -> None:
        """Reports every new warning, which the run's log gets too, and the latest progress if it is new."""
        for line in self._warnings_file.read_bytes().split(b"\n")[self._reported : -1]:
            self._reported += 1
            progress = TrainingProgress.model_validate_json(line)
            warning = progress.message.removeprefix(WARNING)
            logs.log.warning(warning, extra={"notice": warning})
            self._report(progress.step, progress.total, progress.message)
        if not self._progress_file.is_file():
            return
        latest = TrainingProgress.model_validate_json(self._progress_file.read_bytes())
        if latest != self._progress:
            self._progress = latest
            self._report(latest.step, latest.total, latest.message)

    def write(self, text: str) -> None:
        """Appends a line of the launcher."""
        with self.path.open("a") as log:
            log.write(f"{text}\n")

    def report(self, text: str) -> None:
        """Appends a line of the launcher and reports it."""
        self.write(text)
        self._report(self._progress.step, self._progress.total, text)

    def given_up(self, cause: str) -> RetryableError:
        """Returns the error that ends the training run, with the last lines of the log."""
        tail = "\n".join(self.path.read_text(errors="replace").splitlines()[-_TAIL:])
        return RetryableError(
            f"{cause}; run again to continue from its last checkpoint. The end of {self.path}:\n{tail}"
        )


class Nodes:
    """The other nodes of a training run, as the coordinator directs them; on one node there are none.

    Opens the store at `settings.address` for the time of a `with` block. At its end, the nodes are sent the outcome.
    """

    def __init__(self, settings: TrainingSettings, config_file: Path) -> None:
        self._settings = settings
        self._messages = MessageStore.listen(settings.address or "") if settings.nodes > 1 else None
        digest = digest_file(config_file)
        self._command = Command(kind="wait", config=str(config_file), digest=digest, node_timeout=settings.node_timeout)
        self._states: dict[int, NodeState] = {}
        self._changed: dict[int, float] = {}
        self._next_tick = 0.0
        self._send("wait")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Sends the outcome, and stays until all nodes know it: the store ends with this process."""
        if self._messages is None:
            return
        with suppress(RuntimeError):
            if error is None:
                self._send("finished")
            else:
                self._send("failed", str(error) or repr(error))
            self._wait(lambda: not self._responsive("waiting", "running", "ended"), _LEAVE_SECONDS)
        # Code that keeps the error keeps this object, and must not keep the port from the next attempt.
        self._messages.close()

    @property
    def timeout(self) -> float:
        """Seconds until the loss of another node is noticed. 0 where there can be none."""
        return 0.0 if self._messages is None else self._settings.node_timeout

    @property
    def round(self) -> int:
        """Number of the current round."""
        return self._command.round

    def tick(self) -> None:
        """Sends the current command with a new heartbeat and reads the nodes' states when it is time. Call it often."""
        now = time.monotonic()
        if self._messages is None or now < self._next_tick:
            return
        self._next_tick = now + messages.TICK_SECONDS
        self._command = self._command.model_copy(update={"heartbeat": self._command.heartbeat + 1})
        self._messages.write_command(self._command)
        for number, state in self._messages.states().items():
            if number not in self._states or state.heartbeat != self._states[number].heartbeat:
                self._changed[number] = now
            self._states[number] = state

    def gather(self, wanted: int, report: Callable[[str], None]) -> tuple[int, ...]:
        """Waits until `wanted` nodes are free, and returns the numbers of all that are, this one first.

        At most `settings.nodes` are taken. Raises `RetryableError` when too few come.
        """
        if self._messages is None:
            return (0,)
        self._send("wait")
        if not self._is_gathered(wanted):
            report(f"waiting until {wanted} nodes have joined {self._settings.address}")
        if not self._wait(lambda: self._is_gathered(wanted), GATHER_SECONDS):
            here, address = 1 + len(self._free()), self._settings.address or ""
            raise RetryableError(
                f"{here} of {wanted} nodes joined {address} (here {resolve(address)}) within {GATHER_SECONDS:.0f} s; "
                f"run `rlip cluster join {address} STORE` on the others"
            )
        return (0, *self._free()[: self._settings.nodes - 1])

    def start_round(self, members: tuple[int, ...]) -> None:
        """Makes the members start their ranks."""
        self._command = self._command.model_copy(update={"round": self._command.round + 1, "members": members})
        self._send("run")

    def request_stop(self) -> None:
        """Makes all ranks write a checkpoint and end."""
        self._send("stop")

    def end_round(self) -> None:
        """Makes all members end their ranks at once."""
        with suppress(RuntimeError):
            self._send("end")

    def ended(self) -> bool:
        """Whether no rank of another node can still run in this round."""
        return all(self._is_silent(number) or self._has_ended(number) for number in self._others())

    def failures(self) -> list[Failure]:
        """Returns the failures of this round that other nodes report, and those of nodes that are lost."""
        failures: list[Failure] = []
        for number in self._others():
            state = self._states[number]
            if state.round == self.round:
                failures += state.failures
            if self._is_silent(number) and not self._has_ended(number):
                silent = f"silent for {self._settings.node_timeout:.0f} s"
                message = f"node {state.name} has been {silent} (is it down, or cut off?)"
                failures.append(Failure(rank=None, node=state.name, kind="retry", message=message))
        return failures

    def _others(self) -> tuple[int, ...]:
        return self._command.members[1:]

    def _has_ended(self, number: int) -> bool:
        state = self._states[number]
        return state.kind == "left" or (state.round == self.round and state.kind == "ended")

    def _is_silent(self, number: int) -> bool:
        return time.monotonic() - self._changed[number] > self._settings.node_timeout

    def _responsive(self, *kinds: str) -> list[int]:
        """Returns the nodes with a current heartbeat and a state of one of these kinds."""
        return [n for n, state in sorted(self._states.items()) if state.kind in kinds and not self._is_silent(n)]

    def _free(self) -> list[int]:
        return self._responsive("waiting", "ended")

    def _is_gathered(self, wanted: int) -> bool:
        # A node that still ends its ranks is about to be free, or about to be found silent.
        return 1 + len(self._free()) >= wanted and not self._responsive("running")

    def _send(self, kind: str, message: str = "") -> None:
        self._command = self._command.model_copy(update={"kind": kind, "message": message})
        self._next_tick = 0.0
        self.tick()

    def _wait(self, reached: Callable[[], bool], seconds: float) -> bool:
        """Waits until a condition holds. Returns whether it does."""
        deadline = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > deadline:
                return False
            self.tick()
            time.sleep(0.1)
        return True


def prepare(config: TrainConfig) -> dict[str, Path]:
    """Writes vocabulary and tokenizer unless an earlier attempt did. Returns the files to keep with the weights.

    Raises `FatalError` when there is nothing to train on.
    """
    vocabulary_file, tokenizer = config.work / VOCABULARY, config.work / TOKENIZER
    if not len(map_samples(config)):
        kind = config.settings.kind
        needed = "an image with a box" if kind == "pretrain" else "an image with a relation between its boxes"
        raise FatalError(
            f"nothing to train on: the {kind} training set lacks {needed}; check what ingest rejected, and what "
            "stage shard excluded, such as the images of data.test (pretrain.allow_overlap)"
        )
    if not vocabulary_file.is_file():
        tagger = config.settings if isinstance(config.settings, TaggerSettings) else None
        if tagger and tagger.held_out_share and not len(SampleMap(config.work / HELD_OUT)):
            share, remedy = f"held_out = {tagger.held_out}", "raise held_out"
            if tagger.folds > 1:
                share, remedy = f"fold {tagger.fold} of {tagger.folds}", "lower folds"
            notice = (
                f"no image is held out ({share}), so this tagger is neither measured nor calibrated; {remedy}, or add "
                "images with relations"
            )
            logs.log.warning(notice, extra={"notice": notice})
        statistics = [read_table(path) for path in sorted({shard.statistics for shard in config.shards})]
        vocabulary = Vocabulary.of(statistics, config.settings.predicate_form)
        if not vocabulary.predicates.names and config.settings.loss.predicates:
            raise FatalError(
                "nothing to learn predicates from: no image of the training set has a relation; lower shard.threshold, "
                "name a dataset with relations in data.mix, or set loss.predicates = 0 to learn boxes only"
            )
        pretrained = config.settings.pretrained
        if chosen := config.settings.tokenizer or (pretrained and pretrained.parent):
            copy_tokenizer(chosen, tokenizer)
            if pretrained and differ(chosen, pretrained.parent):
                logs.log.warning(
                    "the tokenizer differs from the one beside the pretrained weights",
                    extra={"fields": {"tokenizer": str(chosen), "pretrained": str(pretrained)}},
                )
        else:
            names = (*vocabulary.objects.names, *vocabulary.predicates.names, NO_OBJECTS)
            make_tokenizer(names, config.settings.network.text.vocabulary, tokenizer)
        vocabulary.save(vocabulary_file, image_size=config.settings.whole_size)
    return {VOCABULARY: vocabulary_file, **tokenizer_files(tokenizer)}


def run_training(config: TrainConfig, report: ReportProgress) -> Output:
    """Trains from the last checkpoint in `config.work`, if any. Returns the metrics and the files to keep."""
    files: dict[str, Path] = {MODEL: config.work / MODEL, **prepare(config)}
    summary = launch(config, report)
    if (config.work / CALIBRATION).is_file():
        files[CALIBRATION] = config.work / CALIBRATION
    table = MetricsLog(config.work / METRICS_LOG).table()
    return Output(table, files, rows_in=summary.images, rows_out=summary.images, facts=summary.model_dump())
