"""Shows errors of this project in Prefect's logs as one line each. Prefect writes each twice, with tracebacks."""

from __future__ import annotations

import logging

from storage.errors import PipelineError

LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")


def in_one_line(record: logging.LogRecord) -> bool:
    """A filter of these loggers: takes the traceback from errors that say themselves what to do, and the second report."""
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, PipelineError):
        return True
    record.exc_info = None
    if str(record.msg).startswith("Encountered exception"):
        record.msg, record.args = "%s", (str(error),)
    return "exited with unexpected exception" not in str(record.msg)
