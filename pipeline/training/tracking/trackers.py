"""Opens the trackers of a training run: TensorBoard always, others where the settings name them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.training.tracking.extras import require_extras
from pipeline.training.tracking.guarded import GuardedTracker
from pipeline.training.tracking.tracker import Tracker, TrackerKind


def make_trackers(
    kinds: Sequence[TrackerKind],
    folder: Path,
    run_name: str,
    settings: Mapping[str, Any],
    first_step: int,
    warn: Callable[[str], None] = lambda text: print(f"warning: {text}", flush=True),
) -> Tracker:
    """Opens TensorBoard and the named trackers as one. All write to `folder`, unless a tracker's environment says otherwise.

    `settings` are shown with the run as JSON values. `first_step` is the number of steps that a resumed training has behind
    it: it goes on with the runs that `folder` knows, and no step counts twice; with 0, new runs begin.
    A tracker that fails later on is told of by `warn`, once, and the training goes on without it. Close the trackers after
    the last checkpoint is written, because that may take some seconds. Raises `FatalError` when an extra is not installed.
    """
    require_extras(("tensorboard", *kinds))
    folder.mkdir(parents=True, exist_ok=True)
    opened = {"tensorboard": _tensorboard(folder, settings, first_step)}
    opened |= {kind: _tracker(kind, folder, run_name, settings, first_step) for kind in kinds}
    return _Several([GuardedTracker(name, tracker, warn) for name, tracker in opened.items()])


class _Several:
    """Passes everything on to each of its trackers."""

    def __init__(self, trackers: Iterable[Tracker]) -> None:
        self._trackers = list(trackers)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(step, values)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()


def _tensorboard(folder: Path, settings: Mapping[str, Any], first_step: int) -> Tracker:
    from pipeline.training.tracking.tensorboard import TensorBoardTracker

    return TensorBoardTracker(folder / "tensorboard", settings, first_step)


def _tracker(kind: TrackerKind, folder: Path, run_name: str, settings: Mapping[str, Any], first_step: int) -> Tracker:
    if kind == "wandb":
        from pipeline.training.tracking.wandb import WandbTracker

        return WandbTracker(folder, run_name, settings, first_step)
    if kind == "mlflow":
        from pipeline.training.tracking.mlflow import MlflowTracker

        return MlflowTracker(folder, run_name, settings, first_step)
    from pipeline.training.tracking.trackio import TrackioTracker

    return TrackioTracker(folder, run_name, settings, first_step)
