"""Sends a training run's values to MLflow: to a database in the folder, or the server in MLFLOW_TRACKING_URI."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.training.tracking.service import ServiceTracker

EXPERIMENT = "rlip"
_LONGEST = 6000
"""Characters of a parameter's value that MLflow stores."""
_BATCH = 100
"""Parameters that MLflow takes at once."""


class MlflowTracker(ServiceTracker):
    """Writes to `folder`/mlflow.db, which `mlflow ui --backend-store-uri sqlite:///FOLDER/mlflow.db` shows."""

    kind = "mlflow"

    def __init__(self, folder: Path, run_name: str, settings: Mapping[str, Any], first_step: int) -> None:
        super().__init__(folder, run_name, settings, first_step)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._tracking: Any = import_module("mlflow.tracking")
        self._entities: Any = import_module("mlflow.entities")

    def _send(self, step: int, values: Mapping[str, float]) -> None:
        client, now = self._run, int(time.time() * 1000)
        metrics = [self._entities.Metric(name, value, now, step) for name, value in values.items()]
        client.log_batch(self._file.id, metrics=metrics)

    def _finish(self) -> None:
        self._run.set_terminated(self._file.id)

    def _open(self) -> Any:
        uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{(self._folder / 'mlflow.db').resolve()}")
        client = self._tracking.MlflowClient(tracking_uri=uri)
        if self._file.id:
            client.update_run(self._file.id, status="RUNNING")
            return client
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        experiment = client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else client.create_experiment(name)
        run = client.create_run(number, run_name=self._name)
        self._file.begin(run.info.run_id)
        parameters = [self._entities.Param(key, value) for key, value in _flat("", self._settings)]
        for first in range(0, len(parameters), _BATCH):
            client.log_batch(self._file.id, params=parameters[first : first + _BATCH])
        return client


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields settings by dotted names, because MLflow's parameters are texts."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", str(value)[:_LONGEST]
