"""The process that decodes untrusted images for another one (`DecoderProcess`), which does not depend on its survival."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from pipeline.data.images.opening import BadImage, Probe
from pipeline.runtime.processes import die_with_parent
from storage.processes import limit_memory

DECODER_SECONDS = 10.0
"""Processor time after which the system ends the process, whichever library it is in."""
DECODER_BYTES = 2**30
"""Address space that the process may take beyond what it begins with."""
MOST_VALUE = 500
"""Characters that are told of a bad image."""


def serve(channel: socket.socket, file: int) -> None:
    """Decode batches of images, which lie in a file in memory one behind the other, until the other process ends.

    The first message is the pickled function that decodes. Each further one lists the lengths of the images in bytes. What is
    found of an image is written behind them as a line of JSON; after the last one, a byte is sent back.
    """
    decode: Callable[[bytes], Probe] = pickle.loads(channel.recv(2**16))
    limit_memory(DECODER_BYTES)
    while lengths := channel.recv(2**16):
        place, end = 0, os.fstat(file).st_size
        for length in json.loads(lengths):
            answer = json.dumps(_found(decode, file, length, place)).encode() + b"\n"
            place, end = place + length, end + os.pwrite(file, answer, end)
        channel.send(b"\0")


def _found(decode: Callable[[bytes], Probe], file: int, length: int, place: int) -> Any:
    """The probe of an image, or the reason and the value of its `BadImage`."""
    signal.setitimer(signal.ITIMER_PROF, DECODER_SECONDS)
    try:
        return decode(os.pread(file, length, place))
    except BadImage as bad:
        return {"reason": bad.reason, "value": bad.value[:MOST_VALUE]}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    die_with_parent(os.getppid())
    serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
