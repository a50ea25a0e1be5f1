"""Compares CPU-seconds of captioners: `make bench-captioning` (`python -m benchmarks.captioning --help` for sizes).

Networks of BLIP-base and BLIP-large size with the same random weights caption the same images with the authors'
settings, ten nucleus draws of 20 tokens, in one thread. Compared are this project's captioner, transformers'
`generate(num_return_sequences=10)` at the same precision, and LAVIS's `generate(num_captions=10)` if `make lavis-env`
has built its environment. Random weights hardly ever end a caption, so all draws have full length, which is our worst
case. The minimum of `--repeat` interleaved runs counts.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Row, best_of, parser, run

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"tiny": (64, 2, 1), "base": (768, 12, 12), "large": (1024, 24, 16)}
"""Width, layers and heads of the image encoder. The text decoder is of base size, or tiny."""
VOCABULARY = 30524
"""Vocabulary size of bert-base-uncased with BLIP's [DEC] and [ENC]."""
DRAWS = 10
PRECISIONS = ("float32", "bfloat16")


def write_blip(folder: Path, vocabulary: int, vision: Mapping[str, Any], text: Mapping[str, Any]) -> Any:
    """Writes a BLIP captioner with random weights and its tokenizer as a folder of transformers. Returns its model."""
    from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "picture", "of"]
    words += [f"word{number}" for number in range(vocabulary - 2 - len(words))] + ["[DEC]", "[ENC]"]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    special = {"bos_token_id": vocabulary - 2, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    shared = {"vocab_size": vocabulary, "encoder_hidden_size": vision["hidden_size"]}
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(BlipConfig(vision_config=vision, text_config={**text, **special, **shared}))
    for values in model.vision_model.parameters():
        if values.dim() > 1:  # transformers' initial values are so small that products would be denormal, and slow
            torch.nn.init.normal_(values, std=0.02)
    model.save_pretrained(folder)
    return model


def encoder_size(width: int, layers: int, heads: int) -> dict[str, int]:
    """Returns the sizes of a transformer in the words of transformers' configurations."""
    return {
        "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers, "num_attention_heads": heads,
    }  # fmt: skip


def calls(folder: Path, precision: str, count: int) -> dict[str, Callable[[], object]]:
    """Returns calls that encode and that caption `count` images, by our captioner and by transformers."""
    from PIL import Image
    from transformers import BlipForConditionalGeneration

    from pipeline.captioning.blip import BlipCaptioner
    from pipeline.captioning.settings import CaptionSettings

    ours = BlipCaptioner(CaptionSettings(model=str(folder), precision=precision, batch_size=count, draws=DRAWS))  # type: ignore[arg-type]
    noise = torch.randint(0, 256, (count, 384, 384, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    images = [Image.fromarray(array) for array in noise.numpy()]
    theirs: Any = BlipForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, precision)).eval()
    pixels = ours.pixels(images)
    prompt = torch.tensor([[VOCABULARY - 2, 5, 6, 7, 3]] * count)
    sampling = {"do_sample": True, "top_p": 0.9, "top_k": 50, "num_return_sequences": DRAWS}
    settings = {**sampling, "max_length": 20, "min_length": 5, "repetition_penalty": 1.1}
    return {
        "ours, encoder": lambda: ours.encode(ours.pixels(images)),
        "ours, all": lambda: list(ours.caption(images, range(count))),
        "theirs, encoder": lambda: theirs.vision_model(pixel_values=pixels),
        "theirs, all": lambda: theirs.generate(pixel_values=pixels, input_ids=prompt, **settings),
    }


def lavis(interpreter: Path, folder: Path) -> dict[str, float]:
    """Returns LAVIS's CPU-seconds of an image. Raises SystemExit if it fails."""
    script = Path(__file__).with_name("lavis_captioning.py")
    done = subprocess.run([interpreter, "-I", script, folder], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"LAVIS failed; rebuild it with `make lavis-env`:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(given: Namespace) -> Iterator[Row]:
    from tests.lavis_checkpoint import to_lavis

    torch.set_num_threads(1)
    for size in given.sizes:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            vision = {**encoder_size(*SIZES[size]), "image_size": 384, "patch_size": 16, "layer_norm_eps": 1e-6}
            model = write_blip(folder, VOCABULARY, vision, encoder_size(*SIZES["base" if size == "large" else size]))
            torch.save({"model": to_lavis(model.state_dict())}, folder / "blip.pth")
            totals = {}
            for precision in given.precisions:
                ways = calls(folder, precision, given.images)
                with torch.inference_mode():
                    for way in ways.values():
                        way()
                    seconds = {name: taken / given.images for name, taken in best_of(ways, given.repeat).items()}
                totals[precision] = seconds["ours, all"]
                name = f"{size}, {precision}, beside transformers"
                yield Row(f"{name}: encoder", "CPU-s/image", seconds["ours, encoder"], seconds["theirs, encoder"])
                yield Row(f"{name}: all", "CPU-s/image", seconds["ours, all"], seconds["theirs, all"])
            if not given.lavis_python.is_file():
                yield Row(f"{size}, beside LAVIS", note="not measured; build its environment with `make lavis-env`")
                continue
            theirs = lavis(given.lavis_python, folder)
            for precision, total in totals.items():
                note = f"its encoder {theirs['encoder']:.2f}"
                yield Row(f"{size}, {precision}, beside LAVIS in float32", "CPU-s/image", total, theirs["all"], note)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--sizes", nargs="+", choices=SIZES, default=["base", "large"])
    options.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    options.add_argument("--images", type=int, default=4, help="images per batch")
    options.add_argument("--repeat", type=int, default=2)
    options.add_argument("--lavis-python", type=Path, default=ROOT / ".lavis" / "bin" / "python")
    run(options, measure)
