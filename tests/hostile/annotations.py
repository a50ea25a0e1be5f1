"""Annotation and caption files, of which a bad one is refused by name and a bad row costs itself; captions to parse."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py

from pipeline.captioning.recorded import RecordedCaptioner
from pipeline.captioning.settings import CaptionSettings
from tests.hostile.case import CATEGORIES, Case, ingested, instances, sparse, table, told, written

REFUSED = r"refused: .*set\.json: .*expected COCO instances"
INVALID = r"refused: .*set\.json: not (valid JSON|UTF-8)"
DEEP = 100_000

FILES: dict[str, tuple[str, Any]] = {
    "no UTF-8": (INVALID, b'{"images": ["\xff\xfe"]}'),
    "cut short": (INVALID, b'{"images": [{"id": 1, "file_na'),
    "a string of 10 MB": (REFUSED, b'"' + b"x" * 10**7 + b'"'),
    "no images": (r"refused: .*no field 'images'", {"annotations": [], "categories": []}),
    "images that are an object": (r"refused: .*field 'images' is a JSON object", {**instances(), "images": {}}),
    "an empty set": (r"refused: .*no usable image.*annotations of unknown image", {**instances(), "images": []}),
    "lists within lists": (INVALID, b'{"images": [' + b"[" * DEEP),
    "a number of 5,000 digits": (r"refused: .*no usable image .*image id not an integer", b'{"annotations": [], "categories": [], "images": [{"id": ' + b"1" * 5000 + b"}]}"),
    "a number of a million digits": ("refused: .*has no field 'annotations'", b'{"info": ' + b"1" * 10**6 + b"}"),
    "a million empty lists in an element": ("refused: .*has no field", b'{"info": {"a": [' + b"[]," * 10**6 + b"[]]}}"),
    "images twice": ("kept 1 images.*1 duplicate image id", str(instances()).replace("'", '"').encode()[:-1] + b', "images": [{"id": 1, "file_name": "good.png"}]}'),
}  # fmt: skip


def image(**fields: Any) -> dict[str, Any]:
    return {"images": [{"id": 2, "file_name": "2.png", "width": 64, "height": 48} | fields]}


def box(**fields: Any) -> dict[str, Any]:
    return {"annotations": [{"id": 2, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "iscrowd": 0} | fields]}


ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "an image that is null": ("-1 image id not an integer", {"images": [None]}),
    "an id that is true": ("-1 image id not an integer", image(id=True)),
    "an id of 2^63": ("-1 image id not an integer", image(id=2**63)),
    "an id of 400 digits": ("-1 image id not an integer", image(id=10**400)),
    "a name of 300 bytes": ("2 file name not usable", image(file_name="ä" * 150 + ".png")),
    "a name of a megabyte": ("2 file name not usable", image(file_name="a" * 2**20)),
    "a name that leads out": ("2 file name not usable: ../../secret.png", image(file_name="../../secret.png")),
    "a name that leads out by backslashes": ("2 file name not usable", image(file_name="..\\..\\secret.png")),
    "an absolute name": ("2 file name not usable: /etc/passwd", image(file_name="/etc/passwd")),
    "a name that is the folder": ("2 file name not usable", image(file_name=".")),
    "a name with a zero byte": ("2 file name not usable", image(file_name="2\0.png")),
    "a name with half a character": ("2 file name not usable", image(file_name="2\ud800.png")),
    "a name that clears terminals": ("2 missing file", image(file_name="\x1b[2J2.png")),
    "a name that is a URL": ("2 missing file", image(file_name="http://169.254.169.254/latest.png")),
    "a box that is null": ("-1 annotation without image id", {"annotations": [None]}),
    "a box without numbers": ("1 box malformed: None", box(bbox=None)),
    "a box of NaN": ("1 box not finite", box(bbox=[float("nan")] * 4)),
    "a box of 1e308": ("1 box outside", box(bbox=[1e308, 1, 1e308, 1])),
    "a box of 10^400": ("1 box malformed", box(bbox=[1, 1, 10**400, 9])),
    "a box with an id of 10^400": ("kept 1 images, 2 boxes; quarantined nothing", box(id=10**400)),
    "a category without a name": ("-1 category without an integer id", {"categories": [*CATEGORIES, {"id": 3}]}),
    "a category of two names": ("-1 category id of several names", {"categories": [*CATEGORIES, {"id": 2, "name": "dog"}]}),
    "a category with half a character": ("kept 1 images, 2 boxes; quarantined nothing", {"categories": [*CATEGORIES, {"id": 3, "name": "\udc80"}], **box(category_id=3)}),
}  # fmt: skip

LARGER = r"refused: .*: has more than 20,971,520 bytes, the maximum for reading at once; expected "


def nested(size: int) -> bytes:
    """Lists within lists, the JSON that takes most memory for its size."""
    deep = b"[" * 900 + b"]" * 900 + b","
    return b'{"annotation": [' + deep * ((size - 20) // len(deep)) + b"0]}"


def arrays(make: Callable[[Any, str], Any]) -> Callable[[Path], None]:
    """An HDF5 file with VG150's names, each made by `make`."""

    def fill(path: Path) -> None:
        places = [f"img_to_{end}_{kind}" for end in ("first", "last") for kind in ("box", "rel")]
        with h5py.File(path, "w") as file:
            for name in ("boxes_1024", "labels", "relationships", "predicates", "split", *places):
                make(file, name)

    return fill


VG150 = {"set.json": arrays(lambda file, name: file.create_dataset(name, data=[0]))}
DICTIONARY = {"idx_to_label": {"1": "cat"}, "idx_to_predicate": {"1": "on"}}
NO_ARRAYS = r"refused: .*set\.json: has no array of numbers boxes_1024; expected VG150"
LAYOUT = h5py.VirtualLayout((1,), "i4")
LAYOUT[:] = h5py.VirtualSource("/etc/passwd", "x", (1,))
NOT_ARRAYS: dict[str, Callable[[Any, str], object]] = {
    "groups for arrays": lambda file, name: file.create_group(name),
    "links to another file": lambda file, name: file.update({name: h5py.ExternalLink("/etc/passwd", "x")}),
    "the bytes of another file": lambda file, name: file.create_dataset(name, (1,), "u1", external="/etc/passwd"),
    "a view of another file": lambda file, name: file.create_virtual_dataset(name, LAYOUT),
}
AT_ONCE: dict[str, tuple[str, tuple[str, dict[str, Any]]]] = {
    "HICO-DET: lists within lists of 4 MB": (r"refused: .*set\.json: has no list 'objects'", ("hico_instances", {"set.json": nested(4 * 2**20)})),
    "HICO-DET: a sparse file of 1 TiB": (LARGER + "HICO-DET", ("hico_instances", {"set.json": sparse()})),
    "V-COCO: lists within lists of 30 MB": ("refused: .*set\\.json: .*expected V-COCO", ("vcoco", {"set.json": nested(30 * 2**20).removeprefix(b'{"annotation": ').removesuffix(b"}"), "instances": {}})),
    "VG150: a dictionary of 1 TiB": (LARGER + "VG-SGG-dicts.json", ("vg150", {**VG150, "dictionary": sparse(), "image_data": []})),
    "VG150: image data of 1 TiB": (r"refused: .*image_data: .*expected image_data", ("vg150", {**VG150, "dictionary": DICTIONARY, "image_data": sparse()})),
    "VG150: arrays that claim 4 TiB": (r"refused: .*set\.json: claims [\d,]+ bytes of arrays", ("vg150", {"set.json": arrays(lambda file, name: file.create_dataset(name, (2**40,), "i4", chunks=(2**20,))), "dictionary": DICTIONARY, "image_data": []})),
    **{f"VG150: {name}": (NO_ARRAYS, ("vg150", {"set.json": arrays(make), "dictionary": DICTIONARY, "image_data": []})) for name, make in NOT_ARRAYS.items()},
    "VRD: names of 1 TiB": (LARGER + "a JSON list of names", ("vrd", {"set.json": {}, "objects": sparse(), "predicates": []})),
    "HICO-DET: verbs of 1 TiB": (LARGER, ("hico_det", {"set.json": [], "verbs": sparse()})),
    "Visual Genome: aliases of 1 TiB": (LARGER + "comma-separated lines", ("visual_genome", {"set.json": [], "object_aliases": sparse()})),
}  # fmt: skip

NO_CAPTIONS = r"^refused: .*captions\.json: .*expected COCO captions"
NO_ID = "kept nothing; left out -1 caption without image id"

CAPTIONS: dict[str, tuple[str, Any]] = {
    "empty": (NO_CAPTIONS, b""), "no UTF-8": (NO_CAPTIONS, b'{"1": "\xff"}'), "lists within lists": (NO_CAPTIONS, b"[" * 10**5),
    "an id of 5,000 digits": (NO_ID, b'[{"image_id": ' + b"1" * 5000 + b', "caption": "a man"}]'),
    "a caption that is null": ("1 caption not text", {"1": None}),
    "a caption of nothing": ("1 caption empty", {"1": ""}),
    "a caption of invisible characters": ("1 caption empty", {"1": "\u200b\u202e\ufeff"}),
    "a caption of a megabyte": ("1 caption too long", {"1": "man " * 2**18}),
    "a caption with half a character": ("kept 1: 'a man'", {"1": "a \ud800man"}),
    "a caption that clears terminals": (r"kept 1: '\[2J a man'", {"1": "\x1b[2J a man"}),
}  # fmt: skip

TEXTS: dict[str, tuple[str, str]] = {
    "one word of 100,000 letters": ("^(passed|refused)", "m" * 100_000),
    "relations within relations": ("^(passed|refused)", "a man on " * 400 + "a horse"),
    "control characters": ("^(passed|refused)[^\x1b]*$", "a man \x1b[2J rides a horse"),
    "half a character": ("^(passed|refused)", "a man \udc80 rides a horse"),
    "brackets of rich": ("^(passed|refused)", "a [red]man[/red] rides a [link=http://x]horse"),
}  # fmt: skip


def cases() -> Iterator[Case]:
    """Files as a whole, of COCO and of formats that are read at once, rows beside a good one, and captions."""
    yield from table("annotations", AT_ONCE, _of_format)
    yield from table("annotations", FILES, ingested)
    yield from table("annotation rows", ROWS, _beside_a_good_row)
    yield from table("captions", CAPTIONS, _read)
    yield from table("caption", TEXTS, lambda folder, text: told("parse", text))


def _beside_a_good_row(folder: Path, added: dict[str, Any]) -> str:
    given = instances(added.get("images"), added.get("annotations"))
    outcome = ingested(folder, given | {name: added[name] for name in added if name == "categories"})
    return outcome if outcome.startswith(("kept 1", "kept 2")) else f"the good image is lost: {outcome}"


def _of_format(folder: Path, given: tuple[str, dict[str, Any]]) -> str:
    form, contents = given
    for name, content in contents.items():
        written(folder / name, content)
    files = {name: folder / name for name in contents if name != "set.json"}
    return ingested(folder, None, format=form, split="test", **files)


def _read(folder: Path, content: Any) -> str:
    captioner = RecordedCaptioner(
        CaptionSettings(captioner="recorded", recorded=(written(folder / "captions.json", content),))
    )
    kept = [
        f"{i}: {caption.text!r}" for i in sorted(captioner.image_ids()) for caption in captioner.caption([], [i])[0]
    ]
    lost = [f"{reject.image_id} {reject.reason}" for reject in captioner.rejects]
    return f"kept {'; '.join(kept) or 'nothing'}; left out {'; '.join(lost) or 'nothing'}"
