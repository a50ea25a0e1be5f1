"""Prefect runs and displays the chain: one flow per stage, and one for all. The store alone decides what is done."""

import logging

from storage.errors import PipelineError


def _in_one_line(record: logging.LogRecord) -> bool:
    """A filter that shows each error of this project in one line. Prefect logs it twice, with tracebacks."""
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, PipelineError):
        return True
    record.exc_info = None
    if str(record.msg).startswith("Encountered exception"):
        record.msg, record.args = "%s", (str(error),)
    return "exited with unexpected exception" not in str(record.msg)


# Here, because Prefect checks parameters, and logs what is wrong with them, before any flow runs.
for _name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
    logging.getLogger(_name).addFilter(_in_one_line)
