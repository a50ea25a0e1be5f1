"""Tars, as the folder of a dataset's images."""

import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image

from tests.data.toy_sets import encoded
from tests.hostile.case import GOOD, Case, Make, ingested, instances, sparse, table, written
from tests.hostile.images import bomb

END = bytes(1024)


def picture() -> bytes:
    return encoded(Image.new("RGB", (64, 48), (90, 90, 200)))


def entry(
    name: str = "x.jpg", kind: bytes = b"0", size: bytes = b"%011o\0" % 0, data: bytes = b"", link: str = ""
) -> bytes:
    """An entry with any bytes as its size, and a right checksum."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data + bytes(-len(data) % 512)


def plain(name: str, data: bytes) -> bytes:
    return entry(name, size=b"%011o\0" % len(data), data=data)


def tar_of(members: Mapping[str, bytes]) -> bytes:
    """A tar of plain files."""
    return b"".join(plain(name, data) for name, data in members.items()) + END


def negative(number: int) -> bytes:
    """A size below zero, as GNU tar encodes it."""
    return b"\xff" + (256**11 + number).to_bytes(11, "big")


def base256(number: int) -> bytes:
    return b"\x80" + number.to_bytes(11, "big")


def pax(**fields: str) -> bytes:
    """A header of the format pax for the entry that follows."""
    records = b""
    for name, value in fields.items():
        text = f" {name.replace('__', '.')}={value}\n".encode()
        length = len(text) + 1
        length = len(str(length + len(str(length)) - 1)) + len(text)
        records += str(length).encode() + text
    return entry("pax", b"x", b"%011o\0" % len(records), records)


GOOD_ENTRY = plain(GOOD, picture())
DAMAGED = r"refused: .*images\.tar: can't be read as a tar"
KEPT = r"kept 1 images, 1 boxes; quarantined (nothing|2 missing file: x\.jpg)"


TARS: dict[str, tuple[str, Make]] = {
    "empty": (DAMAGED, b""),
    "compressed 4 GiB": (DAMAGED, b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + bomb(4096)),
    "cut in a header": (DAMAGED, GOOD_ENTRY + entry()[:300]),
    "cut in an entry": (DAMAGED, GOOD_ENTRY + plain("x.jpg", bytes(9999))[:2000]),
    "a link to the passwords": (KEPT, GOOD_ENTRY + entry(kind=b"2", link="/etc/passwd") + END),
    "a size below zero": (DAMAGED, GOOD_ENTRY + entry(size=negative(-512)) + END),
    "a size of 2^80": (DAMAGED, GOOD_ENTRY + entry(size=base256(2**80)) + END),
    "pax: a size of 10^30": (DAMAGED, GOOD_ENTRY + pax(size="1" + "0" * 30) + entry() + END),
    "pax: a size of 5,000 digits": (f"{KEPT}|{DAMAGED}|2 empty file", GOOD_ENTRY + pax(size="1" * 5000) + entry() + END),
    "pax: a name that leads out": (KEPT, GOOD_ENTRY + pax(path="../../x.jpg") + plain("x.jpg", b"x") + END),
    "pax: a record that is longer than it": (f"{KEPT}|{DAMAGED}|2 not an image", GOOD_ENTRY + entry("pax", b"x", b"%011o\0" % 9, b"999 a=b\n\n") + plain("x.jpg", b"x") + END),
    "pax: a map of a sparse file": (f"{KEPT}|{DAMAGED}", GOOD_ENTRY + pax(GNU__sparse__major="1", GNU__sparse__minor="0", GNU__sparse__name="x.jpg") + plain("x.jpg", b"9999999\n" * 64) + END),
    "a long name of 512 GiB": (DAMAGED, sparse(GOOD_ENTRY + entry(kind=b"L", size=base256(2**39)))),
    "two thousand headers of headers": (DAMAGED, GOOD_ENTRY + entry(kind=b"L") * 2000 + END),
    "a tebibyte of zeros behind it": (KEPT, sparse(GOOD_ENTRY)),
    "the same name twice": ("kept 2 images", GOOD_ENTRY + plain("x.jpg", b"x") + plain("x.jpg", picture()) + END),
}  # fmt: skip


def cases() -> Iterator[Case]:
    """Each tar as a folder of images."""
    yield from table("tar", TARS, _as_images)


def _as_images(folder: Path, content: Make) -> str:
    tar = written(folder / "images.tar", content)
    return ingested(folder, instances([{"id": 2, "file_name": "x.jpg", "width": 64, "height": 48}]), tar)
