"""Decodes untrusted images in a separate process, which may hang or crash at the cost of one image.

The other process runs this module as a program (`_serve`).
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipeline.data.images.opening import BadImage, Probe
from pipeline.runtime.processes import die_with_parent, one_thread_each
from storage.errors import RetryableError

MODULE = "pipeline.data.images.decoder_process"
"""This module's name; where it runs as a program, `__name__` differs."""
DECODER_SECONDS = 10.0
"""Processor time after which the system ends the process, whichever library it is in."""
DECODER_BYTES = 2**30
"""Address space that the process may take beyond what it begins with."""
MAX_VALUE = 500
"""Maximum characters of a bad image's fault that are passed on."""
_MAX_ANSWER = 2**16
"""Bytes of an answer."""
PATIENCE = 600
"""Seconds that an image may take, for a decoder that waits and so uses no processor time."""
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
"""Signals that a process brings upon itself. Others come from outside, e.g. when the machine runs out of memory."""
# Answers are not pickled, because a decoder that an image took over must not run code here.
_ANSWER: TypeAdapter[Probe | dict[str, str]] = TypeAdapter(Probe | dict[str, str])


class DecoderProcess:
    """Calls `decode` on the bytes of images in another process, which ends with this one and is replaced if it dies.

    `decode` returns a `Probe` or raises `BadImage`, and must be picklable. Its processor time and memory are limited.
    Use a `DecoderProcess` from one thread.
    """

    def __init__(self, decode: Callable[[bytes], Probe]) -> None:
        self._decode = decode
        self._start()

    def probe(self, image: bytes) -> Probe | BadImage:
        """Probe an image. One that kills the process or takes too long is bad, too.

        Raises `RetryableError` when something else ended the process.
        """
        try:
            self._channel.send_bytes(image)
            for _ in range(PATIENCE):  # by the second, because both processes may be stopped for hours
                if self._channel.poll(1):
                    answer = _ANSWER.validate_json(self._channel.recv_bytes(_MAX_ANSWER))
                    return BadImage(**answer) if isinstance(answer, dict) else answer
            self.close()
            ended: int = signal.SIGPROF
        except (EOFError, OSError):
            ended = -self.close()
        self._start()
        return _fault(ended)

    def close(self) -> int:
        """End the process, unless it has ended by itself, and return its exit code."""
        self._process.kill()
        self._channel.close()
        return self._process.wait()

    def _start(self) -> None:
        self._channel, theirs = Pipe()
        # -P: no file of the current folder may pass for a module. -W: sizes that Pillow warns of are refused.
        command = [sys.executable, "-P", "-W", "ignore:Image size", "-m", MODULE, str(theirs.fileno())]
        # A new interpreter takes 0.3 s. Workers are daemons, which multiprocessing allows no children.
        with theirs, one_thread_each():
            finds_our_modules = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            self._process = subprocess.Popen(
                command, env=finds_our_modules, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )
        self._channel.send_bytes(pickle.dumps(self._decode))


def _fault(ended: int) -> BadImage:
    """The fault of the image at which a signal ended the process. Raises `RetryableError` for another cause."""
    if ended == signal.SIGPROF:
        return BadImage("too slow", f"decoding takes more than {DECODER_SECONDS:g} s")
    if ended in _CRASHES:
        return BadImage("corrupt", f"the decoder ended by signal {ended}")
    raise RetryableError(
        f"the process that decodes images ended with exit code {-ended}; check whether memory ran out, then run again"
    )


def _serve(channel: Connection) -> None:
    """Decode images until the process at the other end of the channel ends. An answer to each is JSON.

    The first message is the pickled function that decodes.
    """
    decode: Callable[[bytes], Probe] = pickle.loads(channel.recv_bytes())
    _limit_memory(DECODER_BYTES)
    while True:
        channel.send_bytes(json.dumps(_answer(decode, channel.recv_bytes())).encode())


def _answer(decode: Callable[[bytes], Probe], data: bytes) -> Any:
    """The probe of an image, or the reason and the value of its `BadImage`."""
    signal.setitimer(signal.ITIMER_PROF, DECODER_SECONDS)
    try:
        return decode(data)
    except BadImage as bad:
        return {"reason": bad.reason, "value": bad.value[:MAX_VALUE]}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _limit_memory(size: int) -> None:
    """Limit this process to `size` bytes of address space beyond what it has now. It leaves no core file."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + size,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    die_with_parent(os.getppid())
    with suppress(EOFError):
        _serve(Connection(int(sys.argv[1])))
