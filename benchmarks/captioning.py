"""Compares CPU-seconds of captioners: `make bench-captioning`.

Networks of BLIP-large size with the same random weights caption the same images with the authors' settings, ten nucleus
draws of 20 tokens, in one thread. Compared are this project's captioner, transformers'
`generate(num_return_sequences=10)` at the same precision, and LAVIS's `generate(num_captions=10)` if `make lavis-env`
has built its environment. Random weights hardly ever end a caption, so all draws have full length, which is our worst
case. The minimum of two interleaved runs counts.
"""

from __future__ import annotations

import subprocess
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Row, best_of, parser, run

LAVIS_PYTHON = Path(__file__).resolve().parents[1] / ".lavis" / "bin" / "python"
VOCABULARY = 30524
"""Vocabulary size of bert-base-uncased with BLIP's [DEC] and [ENC]."""
IMAGES, DRAWS = 4, 10
PRECISIONS = ("float32", "bfloat16")


def write_blip(folder: Path, small: bool) -> None:
    """Writes a BLIP captioner with random weights and its tokenizer, as transformers' folder and LAVIS's checkpoint."""
    from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration

    from tests.lavis_checkpoint import to_lavis

    names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    sizes = [(64, 2, 1)] * 2 if small else [(1024, 24, 16), (768, 12, 12)]
    vision, text = (dict(zip(names, size, strict=True)) | {"intermediate_size": 4 * size[0]} for size in sizes)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "picture", "of"]
    words += [f"word{number}" for number in range(VOCABULARY - 2 - len(words))] + ["[DEC]", "[ENC]"]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    special = {"bos_token_id": VOCABULARY - 2, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    text |= {"vocab_size": VOCABULARY, "encoder_hidden_size": vision["hidden_size"], **special}
    vision |= {"image_size": 384, "patch_size": 16, "layer_norm_eps": 1e-6}
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(BlipConfig(vision_config=vision, text_config=text))
    for values in model.vision_model.parameters():
        if values.dim() > 1:  # transformers' initial values are so small that products would be denormal, and slow
            torch.nn.init.normal_(values, std=0.02)
    model.save_pretrained(folder)
    torch.save({"model": to_lavis(model.state_dict())}, folder / "blip.pth")


def calls(folder: Path, precision: str) -> dict[str, Callable[[], object]]:
    """Returns calls that caption the images, by our captioner and by transformers."""
    from PIL import Image
    from transformers import BlipForConditionalGeneration

    from pipeline.captioning.blip import BlipCaptioner
    from pipeline.captioning.settings import CaptionSettings

    ours = BlipCaptioner(CaptionSettings(model=str(folder), precision=precision, batch_size=IMAGES, draws=DRAWS))  # type: ignore[arg-type]
    noise = torch.randint(0, 256, (IMAGES, 384, 384, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    images = [Image.fromarray(array) for array in noise.numpy()]
    theirs: Any = BlipForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, precision)).eval()
    pixels = ours.pixels(images)
    prompt = torch.tensor([[VOCABULARY - 2, 5, 6, 7, 3]] * IMAGES)
    sampling = {"do_sample": True, "top_p": 0.9, "top_k": 50, "num_return_sequences": DRAWS}
    settings = {**sampling, "max_length": 20, "min_length": 5, "repetition_penalty": 1.1}
    return {
        "ours": lambda: list(ours.caption(images, range(IMAGES))),
        "theirs": lambda: theirs.generate(pixel_values=pixels, input_ids=prompt, **settings),
    }


def lavis(folder: Path) -> float:
    """Returns LAVIS's CPU-seconds for ten captions of an image. Raises SystemExit if it fails."""
    script = Path(__file__).with_name("lavis_captioning.py")
    done = subprocess.run([LAVIS_PYTHON, "-I", script, folder], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"LAVIS failed; rebuild it with `make lavis-env`:\n{done.stderr}")
    return float(done.stdout.splitlines()[-1])


def measure(given: Namespace) -> Iterator[Row]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        write_blip(folder, given.small)
        totals = {}
        for precision in PRECISIONS:
            ways = calls(folder, precision)
            with torch.inference_mode():
                for way in ways.values():
                    way()
                seconds = {name: taken / IMAGES for name, taken in best_of(ways, rounds=2).items()}
            totals[precision] = seconds["ours"]
            yield Row(f"{precision}, beside transformers: all", "CPU-s/image", seconds["ours"], seconds["theirs"])
        if not LAVIS_PYTHON.is_file():
            yield Row("beside LAVIS", note="not measured; build its environment with `make lavis-env`")
            return
        theirs = lavis(folder)
        for precision, total in totals.items():
            yield Row(f"{precision}, beside LAVIS in float32", "CPU-s/image", total, theirs)


if __name__ == "__main__":
    run(parser(__doc__, small=True), measure)
