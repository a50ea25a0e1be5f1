"""`rlip shards preview`: draws the first samples of a tar as one image, with their boxes and relations."""

from __future__ import annotations

from pathlib import Path

from pipeline.cli.contact_sheet import contact_sheet, labelled_cell
from pipeline.data.images.opening import DEFAULT_LIMITS, BadImage, decode_image
from pipeline.interop.shard_samples import MAX_LABELS_SIZE, TarSample, read_labels, read_member, tar_samples
from pipeline.report.formatting import bytes_in_words, sanitise
from pipeline.runtime.wording import counted
from storage.atomic import atomic_file
from storage.errors import FatalError, translate_os_errors


def preview_shard(tar: Path, out: Path, samples: int) -> None:
    """Draw the first samples of a tar that have an image to the PNG `out`; print the members of the others.

    Raises `FatalError` when no sample has an image that can be shown.
    """
    damage = ""
    shown: list[TarSample] = []
    for entry in tar_samples(tar):
        if isinstance(entry, TarSample):
            shown.append(entry)
        elif entry.damaged:
            damage = f"{sanitise(entry.reason)}; "
        if len(shown) == samples:
            break
    cells = []
    with tar.open("rb") as file:
        for sample in shown:
            image, labels = sample.image(), sample.labels()
            data = read_member(file.fileno(), labels, MAX_LABELS_SIZE) if labels is not None else None
            seen = read_labels(data) if data is not None else None
            pixels = read_member(file.fileno(), image, DEFAULT_LIMITS.max_bytes) if image is not None else None
            if pixels is None:
                print(f"{sanitise(sample.key)}: no image; {_members(sample)}")
                continue
            try:
                cells.append(labelled_cell(sanitise(sample.key, 60), decode_image(pixels), seen))
            except BadImage as bad:
                print(f"{sanitise(sample.key)}: {sanitise(str(bad))}; {_members(sample)}")
    if not cells:
        raise FatalError(
            f"{tar}: {damage}no image among its first {counted(len(shown), 'sample')}; `rlip shards ls {tar}` lists them"
        )
    with translate_os_errors(f"writing {out}"), atomic_file(out) as aside:
        contact_sheet(cells).save(aside, "PNG")
    print(f"{counted(len(cells), 'sample')} drawn to {out}")


def _members(sample: TarSample) -> str:
    return ", ".join(f"{sanitise(m.extension)} {bytes_in_words(m.size)}" for m in sample.members)
