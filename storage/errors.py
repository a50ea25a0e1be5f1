"""Two kinds of failure, told apart by type: `Terminal` needs a person, `Transient` may pass when tried again."""

from __future__ import annotations


class PipelineError(Exception):
    """A failure with a message that says what, where and what to do."""


class Terminal(PipelineError):
    """Trying again cannot help: something must be changed first."""


class Transient(PipelineError):
    """Trying again may help: a worker died, a server did not answer."""
