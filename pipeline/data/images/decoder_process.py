"""Decodes untrusted images in a process of their own, which may hang or crash at the cost of one image.

The other process runs this module as a program (`_serve`).
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from pipeline.data.images.opening import BadImage, Probe
from pipeline.runtime.processes import die_with_parent, one_thread_each
from storage.errors import RetryableError

MODULE = "pipeline.data.images.decoder_process"
"""The name of this module, which is another one where it runs as a program."""
DECODER_SECONDS = 10.0
"""Processor time after which the system ends the process, whichever library it is in."""
DECODER_BYTES = 2**30
"""Address space that the process may take beyond what it begins with."""
MAX_VALUE = 500
"""Characters of what is wrong with a bad image that are passed on."""
Key = TypeVar("Key")
PATIENCE = 600
"""Seconds that a batch of images may take, for a decoder that waits and so uses no processor time."""
_BATCH = 16
"""Images that are handed over at once, because a change from process to process costs as much as a small image."""
_BATCH_BYTES = 2**22
"""Bytes of images at which a batch is complete."""
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
"""Signals that a process brings upon itself. Others come from outside, e.g. when the machine runs out of memory."""
# Answers are no pickles, because a decoder that an image took over must not run code here.
_ANSWER: TypeAdapter[Probe | dict[str, str]] = TypeAdapter(Probe | dict[str, str])


class DecoderProcess:
    """Calls `decode` on the bytes of images in another process, which ends with this one and is replaced if it dies.

    `decode` returns a `Probe` or raises `BadImage`, and must be picklable. Its processor time and memory are limited.
    Use a `DecoderProcess` from one thread.
    """

    def __init__(self, decode: Callable[[bytes], Probe]) -> None:
        self._decode = decode
        self._file = os.fdopen(os.memfd_create("images"), "r+b")
        self._start()

    def probes(self, images: Iterable[tuple[Key, bytes | BadImage]]) -> Iterator[tuple[Key, Probe | BadImage]]:
        """Yield what is found of each image, in their order. One that could not be read stays the `BadImage` that it is.

        An image that the process does not survive, or that takes too long, is a `BadImage`, too. Raises `RetryableError` when
        something else ended the process.
        """
        batch: list[tuple[Key, bytes | BadImage]] = []
        size = 0
        for key, data in images:
            batch.append((key, data))
            size += 0 if isinstance(data, BadImage) else len(data)
            if len(batch) == _BATCH or size >= _BATCH_BYTES:
                yield from self._probed(batch)
                batch, size = [], 0
        yield from self._probed(batch)

    def close(self) -> None:
        """End the process."""
        self._file.close()
        self._end()

    def _start(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(1)
        passed = (theirs.fileno(), self._file.fileno())
        command = [sys.executable, "-P", "-m", MODULE, *map(str, passed)]
        finds_our_modules = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        # A new interpreter takes 0.3 s. Workers are daemons, which multiprocessing allows no children.
        with theirs, one_thread_each():
            self._process = subprocess.Popen(command, env=finds_our_modules, pass_fds=passed, stdin=subprocess.DEVNULL)
        self._send(pickle.dumps(self._decode))

    def _end(self) -> int:
        """End the process, unless it has ended by itself, and return its exit code."""
        self._process.kill()
        self._channel.close()
        return self._process.wait()

    def _probed(self, batch: Sequence[tuple[Key, bytes | BadImage]]) -> Iterator[tuple[Key, Probe | BadImage]]:
        left = [data for _, data in batch if not isinstance(data, BadImage)]
        found: list[Probe | BadImage] = []
        while len(found) < len(left):
            found += self._found(left[len(found) :])
        answers = iter(found)
        for key, data in batch:
            yield key, data if isinstance(data, BadImage) else next(answers)

    def _found(self, images: Sequence[bytes]) -> list[Probe | BadImage]:
        """Return what is found of the images, up to the first one that the process does not survive."""
        self._file.seek(0)
        self._file.writelines(images)
        self._file.truncate()
        self._send(json.dumps([len(image) for image in images]).encode())
        ended = self._wait()
        answers = map(_ANSWER.validate_json, self._file.read().splitlines())
        found = [BadImage(**answer) if isinstance(answer, dict) else answer for answer in answers]
        if ended is not None:
            self._start()
            found.append(_fault(ended))
        return found

    def _send(self, message: bytes) -> None:
        with suppress(ConnectionError):  # a dead process is noticed where its answer is missing
            self._channel.send(message)

    def _wait(self) -> int | None:
        """Wait until the batch is done. If it never is, return the number of the signal that ended the process."""
        for _ in range(PATIENCE):  # by the second, because both processes may be stopped for hours
            try:
                if self._channel.recv(1):
                    return None
            except TimeoutError:
                continue
            except ConnectionError:
                pass
            return -self._end()
        self._end()
        return signal.SIGPROF


def _fault(ended: int) -> BadImage:
    """What is wrong with the image at which a signal ended the process. Raises `RetryableError` where it is not the image."""
    if ended == signal.SIGPROF:
        return BadImage("too slow", f"decoding takes more than {DECODER_SECONDS:g} s")
    if ended in _CRASHES:
        return BadImage("corrupt", f"the decoder ended by signal {ended}")
    raise RetryableError(
        f"the process that decodes images ended with exit code {-ended}; check whether memory ran out, then run again"
    )


def _serve(channel: socket.socket, file: int) -> None:
    """Decode batches of images until the process at the other end of the channel ends.

    The first message is the pickled function that decodes. Each further one lists the lengths in bytes of images that lie one
    behind the other in a file in memory. An answer for each is written behind them as a line of JSON; after the last one, a
    byte is sent back.
    """
    decode: Callable[[bytes], Probe] = pickle.loads(channel.recv(2**16))
    _limit_memory(DECODER_BYTES)
    while lengths := channel.recv(2**16):
        place, end = 0, os.fstat(file).st_size
        for length in json.loads(lengths):
            answer = json.dumps(_answer(decode, os.pread(file, length, place))).encode() + b"\n"
            place, end = place + length, end + os.pwrite(file, answer, end)
        channel.send(b"\0")


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
    """Limit this process to `size` bytes of address space beyond what it has now. It leaves no core file when it crashes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + size,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    die_with_parent(os.getppid())
    _serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
