"""A decoder that hangs or crashes costs one image, and its process never outlives the one that started it."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from misled_decoders import endless, misled
from warm_process import WarmProcess, watched

from pipeline.data.images import decoder_process
from pipeline.data.images.decoder_process import DECODER_SECONDS, DecoderProcess
from pipeline.data.images.opening import BadImage, Probe
from storage.errors import RetryableError


@pytest.fixture
def decoder() -> Iterator[DecoderProcess]:
    decoder = DecoderProcess(misled)
    yield decoder
    decoder.close()


def found(decoder: DecoderProcess, *images: bytes) -> list[int | str]:
    """What is found of the images: widths and reasons, in order."""
    probes = map(decoder.probe, images)
    return [str(probe) if isinstance(probe, BadImage) else probe.width for probe in probes]


def test_a_decoder_has_one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    decoder = DecoderProcess(misled)
    assert found(decoder, b"threads") == [1]
    decoder.close()


def test_images_are_decoded_by_one_other_process(decoder):
    probes = [decoder.probe(bytes(1 + number)) for number in range(100)]
    assert [probe.width for probe in probes if isinstance(probe, Probe)] == list(range(1, 101))
    assert len({probe.height for probe in probes if isinstance(probe, Probe)} - {os.getpid()}) == 1
    assert found(decoder, bytes(2**24), b"", bytes(2**23), b"abc") == [2**24, 0, 2**23, 3]


def test_an_image_that_crashes_the_decoder_costs_itself_alone(decoder):
    images = [bytes(1 + number) for number in range(50)]
    expected: list[int | str] = list(range(1, 51))
    for place in (0, 49):
        images[place], expected[place] = b"segfault", "corrupt: the decoder ended by signal 11"
    images[31], expected[31] = b"abort", "corrupt: the decoder ended by signal 6"
    assert found(decoder, *images) == expected


def test_what_cannot_be_used_keeps_its_reason(decoder):
    (bad,) = found(decoder, b"bad")
    assert str(bad).startswith("corrupt: a \u2028 sign\nxxx") and len(str(bad)) < 600


def test_an_image_that_takes_too_long_or_too_much_memory_costs_itself_alone(decoder, monkeypatch):
    slow = f"too slow: decoding takes more than {DECODER_SECONDS:g} s"
    assert found(decoder, b"a", b"busy", b"large", b"ab") == [1, slow, "too large: no memory", 2]
    with monkeypatch.context() as patience:
        patience.setattr(decoder_process, "PATIENCE", 2)
        assert found(decoder, b"asleep") == [slow]
    assert found(decoder, b"ab") == [2]


def test_an_image_is_not_blamed_for_what_others_do_to_the_decoder(decoder):
    with pytest.raises(RetryableError, match="exit code -9"):
        found(decoder, b"a", b"killed", b"ab")
    assert found(decoder, b"a", b"ab") == [1, 2]


def test_processes_that_were_replaced_or_closed_are_gone():
    before = {child.pid for child in psutil.Process().children()}
    decoder = DecoderProcess(misled)
    found(decoder, b"segfault", b"a", b"abort", b"a")
    assert len({child.pid for child in psutil.Process().children()} - before) == 1
    decoder.close()
    assert {child.pid for child in psutil.Process().children()} == before


def start(told: Path) -> None:
    """Waits for a decoder that never ends, as the first process of its group."""
    os.setsid()
    DecoderProcess(endless).probe(str(told).encode())


@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_a_busy_decoder_ends_with_the_process_that_started_it(tmp_path, how):
    told = tmp_path / "pid"
    starter = WarmProcess(start, told)
    while not (told.exists() and told.read_text().endswith("\n")):
        assert starter.poll() is None, starter.communicate()
        time.sleep(0.05)
    with watched(int(told.read_text())) as ends:
        if how == "killed":
            starter.kill()
        else:
            os.killpg(starter.pid, signal.SIGINT)
        starter.wait()
        assert ends(30)
