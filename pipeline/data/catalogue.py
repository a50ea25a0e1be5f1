"""The public datasets and weights that recipes use: where each is published, how large it is, and what goes where."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from storage.errors import FatalError

ROOT = Path("data")
"""The `data.root` of the recipes that use public sets."""


@dataclass(frozen=True)
class PublicFile:
    """A file that is published under a stable address."""

    part: str
    """What `--only` calls it; several files may form one part."""
    url: str
    path: str
    """Where the file itself goes, relative to the root. An archive is unpacked into its folder and then removed."""
    size: int
    """Bytes to download, approximately."""
    digest: str | None = None
    """A published digest, as "md5:..." or "sha256:..."."""
    then: Literal["keep", "unpack", "gunzip"] = "keep"
    """What becomes of the file: it stays, is unpacked into its folder, or is decompressed to `places[0]`."""
    unpacked: tuple[str, ...] = ()
    """Files and folders that an archive leaves, relative to the root."""

    @property
    def places(self) -> tuple[str, ...]:
        """The files and folders that exist once this file is in place."""
        return self.unpacked or (self.path,)

    def is_there(self, root: Path) -> bool:
        """Whether all its places exist; a folder counts for the .tar of its name, as for the recipes."""
        return all(_exists(root / place) for place in self.places)


@dataclass(frozen=True)
class PublicSet:
    """A dataset, or the files of a model."""

    name: str
    title: str
    page: str
    """The official page."""
    files: tuple[PublicFile, ...] = ()
    by_hand: str = ""
    """How to download it manually, for sets without stable addresses."""
    hand_places: tuple[str, ...] = ()
    """The files and folders that are put in place manually, relative to the root."""
    hand_size: int = 0
    """Bytes to download manually, approximately."""
    note: str = ""
    """What to do with the files afterwards."""

    @property
    def size(self) -> int:
        """Bytes to download, approximately."""
        return self.hand_size + sum(file.size for file in self.files)

    @property
    def parts(self) -> tuple[str, ...]:
        """The names that `--only` takes, in the order in which they are downloaded."""
        return tuple(dict.fromkeys(file.part for file in self.files))

    @property
    def places(self) -> tuple[str, ...]:
        """All files and folders of the set."""
        return (*(place for file in self.files for place in file.places), *self.hand_places)

    def is_there(self, root: Path) -> bool:
        """Whether every file and folder of the set exists."""
        return all(_exists(root / place) for place in self.places)


def _exists(place: Path) -> bool:
    if place.suffix == ".tar" and _exists(place.with_suffix("")):
        return True
    return place.is_file() or (place.is_dir() and any(place.iterdir()))


def _coco() -> PublicSet:
    host = "http://images.cocodataset.org"
    annotations = tuple(f"coco/annotations/instances_{split}2017.json" for split in ("train", "val"))
    return PublicSet(
        name="coco",
        title="COCO 2017",
        page="https://cocodataset.org/#download",
        files=(
            PublicFile(
                "annotations", f"{host}/annotations/annotations_trainval2017.zip", "coco/annotations_trainval2017.zip",
                252_907_541, "md5:f4bbac642086de4f52a3fdda2de5fa2c", "unpack", annotations,
            ),
            PublicFile(
                "val", f"{host}/zips/val2017.zip", "coco/val2017.zip",
                815_585_330, "md5:442b8da7639aecaf257c1dceb8ba8c80", "unpack", ("coco/val2017",),
            ),
            PublicFile(
                "train", f"{host}/zips/train2017.zip", "coco/train2017.zip",
                19_336_861_798, "md5:cced6f7f71b7629ddf16f17bbcfab6b2", "unpack", ("coco/train2017",),
            ),
        ),
    )  # fmt: skip


def _objects365() -> PublicSet:
    host = "https://dorc.ks3-cn-beijing.ksyun.com/data-set/2020Objects365%E6%95%B0%E6%8D%AE%E9%9B%86"
    annotations = (
        PublicFile(
            "annotations", f"{host}/train/zhiyuan_objv2_train.tar.gz", "objects365/zhiyuan_objv2_train.tar.gz",
            1_200_000_000, None, "unpack", ("objects365/zhiyuan_objv2_train.json",),
        ),
        PublicFile(
            "annotations", f"{host}/val/zhiyuan_objv2_val.json", "objects365/zhiyuan_objv2_val.json", 269_422_006,
        ),
    )  # fmt: skip
    val = (_patch("val", f"{host}/val/images/v{1 if n < 16 else 2}", n, 350_000_000) for n in range(44))
    train = (_patch("train", f"{host}/train", n, 6_500_000_000) for n in range(51))
    return PublicSet(
        name="objects365",
        title="Objects365 v2",
        page="https://www.objects365.org/download.html",
        files=(*annotations, *val, *train),
        note="Each patch stays one uncompressed .tar, which is read in place: patch16.tar serves as the folder "
        "patch16.",
    )


def _patch(split: str, address: str, number: int, size: int) -> PublicFile:
    path = f"objects365/{split}/patch{number}.tar"
    return PublicFile(
        split, f"{address}/patch{number}.tar.gz", f"{path}.gz", size, then="gunzip", unpacked=(path,)
    )  # fmt: skip


def _visual_genome() -> PublicSet:
    data = "https://homes.cs.washington.edu/~ranjay/visualgenome/data/dataset"
    images = "https://cs.stanford.edu/people/rak248/VG_100K_2"
    lists = tuple(
        PublicFile(
            "annotations", f"{data}/{name}.json.zip", f"visual_genome/{name}.json.zip",
            size, None, "unpack", (f"visual_genome/{name}.json",),
        )
        for name, size in (("image_data", 2_000_000), ("relationships", 100_000_000), ("objects", 100_000_000))
    )  # fmt: skip
    aliases = tuple(
        PublicFile("annotations", f"{data}/{name}.txt", f"visual_genome/{name}.txt", 200_000)
        for name in ("relationship_alias", "object_alias")
    )
    return PublicSet(
        name="visual_genome",
        title="Visual Genome 1.4",
        page="https://homes.cs.washington.edu/~ranjay/visualgenome/api.html",
        files=(
            *lists,
            *aliases,
            PublicFile(
                "images", f"{images}/images.zip", "visual_genome/images/images.zip",
                9_700_000_000, None, "unpack", ("visual_genome/images/VG_100K",),
            ),
            PublicFile(
                "images", f"{images}/images2.zip", "visual_genome/images/images2.zip",
                5_500_000_000, None, "unpack", ("visual_genome/images/VG_100K_2",),
            ),
        ),
    )  # fmt: skip


def _hico_det() -> PublicSet:
    return PublicSet(
        name="hico_det",
        title="HICO-DET",
        page="http://www-personal.umich.edu/~ywchao/hico/",
        by_hand="The images lie on Google Drive, linked from the official page: unpack hico_20160224_det.tar.gz and "
        "move images/test2015 to hico_det/images. test_hico.json is in the annotations of PPDM's authors, which the "
        "README of https://github.com/JacobYuan7/RLIPv2 links (Downstream Dataset preparation, also on Google Drive). "
        'verbs.json names the verbs by id: a JSON list of 117 names, or lines such as "001 adjust" (the official '
        "hico_list_vb.txt).",
        hand_places=("hico_det/images/test2015", "hico_det/annotations/test_hico.json", "hico_det/verbs.json"),
        hand_size=8_000_000_000,
    )


def _vcoco() -> PublicSet:
    host = "https://raw.githubusercontent.com/s-gupta/v-coco/master/data/vcoco"
    names = (("vcoco_train", 3_100_000), ("vcoco_val", 3_600_000), ("vcoco_test", 6_300_000))
    return PublicSet(
        name="vcoco",
        title="V-COCO",
        page="https://github.com/s-gupta/v-coco",
        files=tuple(PublicFile(name[6:], f"{host}/{name}.json", f"vcoco/{name}.json", size) for name, size in names),
        note="The files name COCO's annotation ids by action: format `vcoco`, with COCO's instances JSON of 2014 as "
        "`instances`. The images are COCO's.",
    )


def _open_images() -> PublicSet:
    return PublicSet(
        name="open_images",
        title="Open Images V6, test split with relations",
        page="https://storage.googleapis.com/openimages/web/download_v6.html",
        by_hand="From the official page: Visual relationships (test) to open_images/oidv6-test-annotations-vrd.csv, "
        "Boxes (test) to open_images/test-annotations-bbox.csv, Class Names to "
        "open_images/class-descriptions-boxable.csv, and the images of the test split to open_images/test.",
        hand_places=(
            "open_images/oidv6-test-annotations-vrd.csv",
            "open_images/test-annotations-bbox.csv",
            "open_images/class-descriptions-boxable.csv",
            "open_images/test",
        ),
        hand_size=36_000_000_000,
        note="The CSVs state no image sizes; `image_data` of a source may give them (ImageID, Width, Height).",
    )


def _vg150() -> PublicSet:
    return PublicSet(
        name="vg150",
        title="VG150, Visual Genome's split for scene graphs",
        page="https://github.com/danfeiX/scene-graph-TF-release",
        by_hand="The README of data_tools there links VG-SGG.h5, VG-SGG-dicts.json and image_data.json: put them in "
        "vg150. The images are Visual Genome's.",
        hand_places=("vg150/VG-SGG.h5", "vg150/VG-SGG-dicts.json", "vg150/image_data.json"),
        hand_size=60_000_000,
    )


def _vrd() -> PublicSet:
    return PublicSet(
        name="vrd",
        title="VRD",
        page="https://cs.stanford.edu/people/ranjaykrishna/vrd/",
        by_hand="The official page links the annotations (json_dataset.zip: annotations_train.json, "
                "annotations_test.json, objects.json, predicates.json), which go to vrd, and the images "
                "(sg_dataset.zip): move sg_test_images and sg_train_images to vrd.",
        hand_places=(
            "vrd/annotations_train.json", "vrd/annotations_test.json", "vrd/objects.json", "vrd/predicates.json",
            "vrd/sg_train_images", "vrd/sg_test_images",
        ),
        hand_size=2_000_000_000,
    )  # fmt: skip


def _hub(name: str, title: str, repository: str, files: Iterable[tuple[str, int]], note: str) -> PublicSet:
    """The files of a repository on the Hugging Face hub, which states the sha256 of large ones with the download."""
    page, folder = f"https://huggingface.co/{repository}", f"weights/{repository.rpartition('/')[2]}"
    found = tuple(PublicFile(name, f"{page}/resolve/main/{file}", f"{folder}/{file}", size) for file, size in files)
    return PublicSet(name=name, title=title, page=page, files=found, note=note)


CATALOGUE: dict[str, PublicSet] = {
    each.name: each
    for each in (
        _coco(),
        _objects365(),
        _visual_genome(),
        _hico_det(),
        _vcoco(),
        _open_images(),
        _vg150(),
        _vrd(),
        _hub(
            "blip",
            "BLIP, large, for captions",
            "Salesforce/blip-image-captioning-large",
            (
                ("config.json", 4_600),
                ("preprocessor_config.json", 445),
                ("special_tokens_map.json", 125),
                ("tokenizer.json", 711_000),
                ("tokenizer_config.json", 527),
                ("vocab.txt", 232_000),
                ("model.safetensors", 1_880_000_000),
            ),
            "Set caption.model to the folder, e.g. --set caption.model=data/weights/blip-image-captioning-large.",
        ),
        _hub(
            "roberta",
            "RoBERTa's tokenizer",
            "FacebookAI/roberta-base",
            (("tokenizer.json", 1_360_000), ("vocab.json", 899_000), ("merges.txt", 456_000)),
            "The recipes name this folder as `tokenizer`. The text encoder's weights come with `pretrained` or are "
            "trained.",
        ),
    )
}
"""The sets by name, in the order in which they are listed."""

_ROLES = {
    "vg": "visual_genome",
    "hico": "hico_det",
    "v-coco": "vcoco",
    "tokenizer": "roberta",
    "roberta-base": "roberta",
    "model": "blip",
    "captioner": "blip",
    "blip-image-captioning-large": "blip",
}
"""Other names of the sets: roles of weights, and names on the Hugging Face hub without their owner."""


def find_sets(names: Iterable[str]) -> list[PublicSet]:
    """The sets of these names, each once. Raises `FatalError` that lists all names."""
    unknown = [name for name in names if name not in CATALOGUE]
    if unknown:
        raise FatalError(f"no public set named {unknown[0]!r}; the sets are {', '.join(CATALOGUE)}")
    return [CATALOGUE[name] for name in dict.fromkeys(names)]


def where_to_get(kind_or_path: str | Path) -> str:
    """One sentence on how to get a public set: its official page, size and command; "" for anything else.

    Takes a format or name ("coco", "hico_det"), a role of weights ("tokenizer", "model"), a name on the Hugging Face
    hub, or a missing path, which is recognised by its end and gives the folder for `--root`. Prefer the path: a set of
    any origin may have format "coco", and only its path shows that it is COCO itself.
    """
    asked = str(kind_or_path).rstrip("/")
    name, root = asked, ""
    if asked not in CATALOGUE:
        name, root = _found_by_path(asked)
    name = name or _ROLES.get(PurePosixPath(asked).name, "")
    return _sentence(CATALOGUE[name], root) if name else ""


def _found_by_path(asked: str) -> tuple[str, str]:
    """The set that has a file or folder at the end of this path, and what is before it."""
    for each in CATALOGUE.values():
        for place in each.places:
            for end in (place, *map(str, PurePosixPath(place).parents)):
                # A last name alone, such as "coco", is ambiguous.
                if end.count("/") and (asked == end or asked.endswith(f"/{end}")):
                    return each.name, asked.removesuffix(end).rstrip("/") or ("/" if asked[:1] == "/" else ".")
    return "", ""


def _sentence(found: PublicSet, root: str) -> str:
    size = in_bytes(found.size)
    if found.by_hand:
        how = f"`rlip data get {found.name}` says how"
        return f"{found.title} (about {size}) must be downloaded manually from {found.page}; {how}"
    option = f" --root {shlex.quote(root)}" if root and Path(root) != ROOT else ""
    return f"{found.title} (about {size}, {found.page}) is downloaded by `rlip data get {found.name}{option}`"


def in_bytes(count: int) -> str:
    """Formats a number of bytes in the decimal units that the official pages use."""
    for unit, amount in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= amount:
            return f"{count / amount:.1f} {unit}"
    return f"{count} bytes"
