"""Decoders that images mislead. Their processes import this module, and so none of what tests need."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from pipeline.data.images.decoder_process import DECODER_BYTES
from pipeline.data.images.opening import BadImage, Probe, probe_bytes

CRASHES = {b"segfault": signal.SIGSEGV, b"abort": signal.SIGABRT}
HOSTILE_WIDTH = 119


def misled(data: bytes) -> Probe:
    """Stands for a library in which images set off what they name. Other images have their length as width."""
    if data in CRASHES:
        os.kill(os.getpid(), CRASHES[data])
    if data == b"killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if data == b"busy":
        limit, _ = signal.getitimer(signal.ITIMER_PROF)
        signal.setitimer(signal.ITIMER_PROF, limit / 50)
        while limit:
            pass
    if data == b"asleep":
        time.sleep(600)
    if data == b"large":
        try:
            bytearray(DECODER_BYTES + 2**26)
        except MemoryError:
            raise BadImage("too large", "no memory") from None
    if data == b"threads":
        return Probe(int(os.environ.get("OMP_NUM_THREADS", 0)), 0, "JPEG", "L")
    if data == b"bad":
        raise BadImage("corrupt", "a \u2028 sign\n" + "x" * 10_000)
    return Probe(len(data), os.getpid(), "JPEG", "L")


def crashes_at_one(data: bytes, **settings: Any) -> Probe:
    """Stands for a library that can't bear images of one width."""
    probe = probe_bytes(data, **settings)
    if probe.width == HOSTILE_WIDTH:
        os.kill(os.getpid(), signal.SIGSEGV)
    return probe


def endless(data: bytes) -> Probe:
    """Writes its process id to the file that the image names, and never ends."""
    signal.setitimer(signal.ITIMER_PROF, 0)
    Path(data.decode()).write_text(f"{os.getpid()}\n")
    while True:
        pass
