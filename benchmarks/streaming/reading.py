"""Reading samples with and without decoding, beside other libraries on the same images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from benchmarks.harness import Row, best_of
from benchmarks.photos import Photos
from benchmarks.streaming.peers import peers, rgb
from benchmarks.streaming.writing import write_mapped
from storage.stream.stream import Stream

BATCH = 8
UNIT = "images/CPU-s"


class Reading:
    """Our stream and its peers on the same images."""

    def __init__(self, photos: Photos, folder: Path, rounds: int) -> None:
        self._photos, self._rounds = photos, rounds
        self._samples = write_mapped(photos, folder / "ours")
        self._peers = peers(photos, self._samples.tars, folder)

    def plain(self) -> Iterator[Row]:
        """Compares reading bytes. Ours compares each member with its checksum."""
        ways = {"ours": self._stream} | {peer.name: peer.read for peer in self._peers if peer.read}
        seconds = self._seconds(ways)
        for peer in self._peers:
            if peer.name not in seconds:
                yield Row(f"reading / {peer.name}", note=peer.note)
                continue
            yield Row(f"reading / {peer.name}", UNIT, 1 / seconds["ours"], 1 / seconds[peer.name])

    def decoded(self) -> Iterator[Row]:
        """Compares reading images decoded to bytes of red, green and blue, and their labels."""
        members = [dict(sample.members) for sample in self._photos.samples()]
        ways = {"ours": lambda: map(_decoded, self._stream()), "bare": lambda: map(_decoded, members)}
        ways |= {peer.name: peer.decode for peer in self._peers if peer.decode}
        speeds = {name: 1 / seconds for name, seconds in self._seconds(ways).items()}
        yield Row("decoding / bare loop over bytes in memory", UNIT, speeds["ours"], speeds["bare"])
        for peer in self._peers:
            if peer.name in speeds:
                yield Row(f"decoding / {peer.name}: {peer.decoder}", UNIT, speeds["ours"], speeds[peer.name])
            else:
                yield Row(f"decoding / {peer.name}", note=peer.note)

    def _stream(self) -> Stream:
        return Stream(self._samples, batch=BATCH, epochs=1)

    def _seconds(self, ways: Mapping[str, Callable[[], Iterable[object]]]) -> dict[str, float]:
        """Returns CPU-seconds per image."""
        best = best_of({name: partial(_exhaust, way) for name, way in ways.items()}, self._rounds)
        return {name: seconds / len(self._photos) for name, seconds in best.items()}


def _exhaust(way: Callable[[], Iterable[object]]) -> int:
    return sum(1 for _ in way())


def _decoded(sample: dict[str, bytes]) -> tuple[Tensor, object]:
    return rgb(sample["jpg"]), json.loads(sample["json"])
