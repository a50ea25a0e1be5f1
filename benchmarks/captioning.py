"""Compares CPU-seconds of captioners: `make bench-captioning` (`python -m benchmarks.captioning --help` for sizes).

Networks of BLIP-base and BLIP-large size with the same random weights caption the same images with the authors'
settings, ten nucleus draws of 20 tokens, in one thread. Compared are this project's captioner, transformers'
`generate(num_return_sequences=10)` at the same precision, and LAVIS's `generate(num_captions=10)` if `make lavis-env`
has built its environment. Random weights hardly ever end a caption, so all draws have full length, which is our worst
case. The minimum of `--repeat` interleaved runs counts.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
WORKER = ROOT / "pipeline" / "captioning" / "lavis_worker.py"
VISION = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 1},
    "base": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "large": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
}
TEXT = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 1},
    "base": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
}
TEXT["large"] = TEXT["base"]
VOCABULARY = 30524
"""Vocabulary size of bert-base-uncased with BLIP's [DEC] and [ENC]."""
DRAWS = 10
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}


def make_model(size: str, folder: Path) -> None:
    """Writes a BLIP of `size` with random weights, as a transformers folder with a LAVIS checkpoint in it."""
    from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration

    from pipeline.captioning.lavis_weights import to_lavis

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "picture", "of"]
    words += [f"word{i}" for i in range(VOCABULARY - 2 - len(words))] + ["[DEC]", "[ENC]"]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    special = {"bos_token_id": VOCABULARY - 2, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    config = BlipConfig(
        vision_config={**VISION[size], "image_size": 384, "patch_size": 16, "layer_norm_eps": 1e-6},
        text_config={
            **TEXT[size],
            **special,
            "vocab_size": VOCABULARY,
            "encoder_hidden_size": VISION[size]["hidden_size"],
        },
    )
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(config)
    for values in model.vision_model.parameters():
        if values.dim() > 1:  # transformers' initial values are so small that products would be denormal, and slow
            torch.nn.init.normal_(values, std=0.02)
    model.save_pretrained(folder)
    torch.save({"model": to_lavis(model.state_dict())}, folder / "blip.pth")


def cpu_seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    outcome = call()
    return time.process_time() - began, outcome


class Ours:
    """This project's captioner."""

    def __init__(self, folder: Path, precision: str, images: int) -> None:
        from PIL import Image

        from pipeline.captioning.blip import BlipCaptioner
        from pipeline.captioning.settings import CaptionSettings

        settings = CaptionSettings(model=str(folder), precision=PRECISIONS[precision], batch_size=images, draws=DRAWS)  # type: ignore[arg-type]
        self.captioner = BlipCaptioner(settings)
        generator = torch.Generator().manual_seed(1)
        noise = torch.randint(0, 256, (images, 384, 384, 3), dtype=torch.uint8, generator=generator).numpy()
        self.images = [Image.fromarray(array) for array in noise]

    def encode(self) -> Any:
        return self.captioner.encode(self.captioner.pixels(self.images))

    def all(self) -> list[str]:
        return [c.text for found in self.captioner.caption(self.images, range(len(self.images))) for c in found]


class Transformers:
    """transformers' own generation, on the same pixels as our captioner."""

    def __init__(self, folder: Path, precision: str, ours: Ours) -> None:
        from transformers import BlipForConditionalGeneration

        dtype = getattr(torch, PRECISIONS[precision])
        self.model: Any = BlipForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()
        self.pixels = ours.captioner.pixels(ours.images)
        self.prompt = torch.tensor([[VOCABULARY - 2, 5, 6, 7, 3]] * len(self.pixels))

    @torch.inference_mode()
    def encode(self) -> Any:
        return self.model.vision_model(pixel_values=self.pixels).last_hidden_state

    @torch.inference_mode()
    def all(self) -> list[str]:
        tokens = self.model.generate(
            pixel_values=self.pixels,
            input_ids=self.prompt,
            do_sample=True,
            top_p=0.9,
            top_k=50,
            max_length=20,
            min_length=5,
            repetition_penalty=1.1,
            num_return_sequences=DRAWS,
        )
        return [str(row) for row in tokens.tolist()]


def lavis_here(folder: Path, calls: bool) -> dict[str, float]:
    """Measures LAVIS, in its own environment, on one image: ten captions by one call, or also by ten like the authors."""
    torch.set_num_threads(1)
    model = runpy.run_path(str(WORKER))["build"](folder / "blip.pth", folder / "vocab.txt", "a picture of ")
    pixels = torch.randn(1, 3, 384, 384, generator=torch.Generator().manual_seed(1))
    settings = {"use_nucleus_sampling": True, "top_p": 0.9, "max_length": 20, "min_length": 5}
    with torch.inference_mode():
        model.forward_encoder({"image": pixels})
        encoder, _ = cpu_seconds(lambda: model.forward_encoder({"image": pixels}))
        total, found = cpu_seconds(lambda: model.generate({"image": pixels}, num_captions=DRAWS, **settings))
        assert len(found) == DRAWS
        figures = {"encoder": encoder, "total": total}
        if calls:
            figures["ten calls"], _ = cpu_seconds(
                lambda: [model.generate({"image": pixels}, **settings) for _ in range(DRAWS)]
            )
    return figures


def measure(size: str, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields a row of CPU-seconds per image for each captioner and precision at one size."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        make_model(size, folder)
        for precision in given.precisions:
            ours = Ours(folder, precision, given.images)
            rivals: dict[str, Ours | Transformers] = {
                "ours": ours,
                "transformers": Transformers(folder, precision, ours),
            }
            least = {(name, part): float("inf") for name in rivals for part in ("encoder", "total")}
            for name, rival in rivals.items():
                assert len(rival.all()) == given.images * DRAWS, name
            for _ in range(given.repeat):
                for name, rival in rivals.items():
                    for part, call in (("encoder", rival.encode), ("total", rival.all)):
                        seconds, _ = cpu_seconds(call)
                        least[name, part] = min(least[name, part], seconds / given.images)
            for name in rivals:
                yield _row(size, name, precision, least[name, "encoder"], least[name, "total"])
        if given.lavis_python.is_file():
            command = [
                given.lavis_python,
                "-I",
                __file__,
                "--lavis",
                folder,
                *(["--ten-calls"] if given.ten_calls else []),
            ]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"LAVIS failed; rebuild it with `make lavis-env`:\n{done.stderr}")
            figures = json.loads(done.stdout.splitlines()[-1])
            yield _row(size, "LAVIS", "fp32", figures["encoder"], figures["total"])
            if given.ten_calls:
                yield _row(size, "LAVIS, ten calls", "fp32", DRAWS * figures["encoder"], figures["ten calls"])


def _row(size: str, name: str, precision: str, encoder: float, total: float) -> dict[str, Any]:
    return {
        "size": size, "captioner": name, "precision": precision, "encoder": round(encoder, 3),
        "decoder": round(total - encoder, 3), "total": round(total, 3),
    }  # fmt: skip


def show(rows: list[dict[str, Any]]) -> None:
    """Prints the table with our speed-up: over transformers at the same precision, over LAVIS at each of ours."""
    print("CPU-seconds per image, one thread, ten captions of 20 tokens")
    print(f"{'size':6} {'captioner':18} {'':5} {'encoder':>8} {'decoder':>8} {'total':>8}   our speed-up")
    totals = {(row["size"], row["captioner"], row["precision"]): row["total"] for row in rows}
    for row in rows:
        same = [row["precision"]] if row["captioner"] == "transformers" else list(PRECISIONS)
        same = [p for p in same if (row["size"], "ours", p) in totals]
        ratios = [f"{row['total'] / totals[row['size'], 'ours', p]:.1f} x ({p})" for p in same]
        beside = "" if row["captioner"] == "ours" else ", ".join(ratios)
        print(
            f"{row['size']:6} {row['captioner']:18} {row['precision']:5} {row['encoder']:8.2f} {row['decoder']:8.2f} "
            f"{row['total']:8.2f}   {beside}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=sorted(VISION), default=["base", "large"])
    parser.add_argument("--precisions", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--images", type=int, default=4, help="images per batch")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--lavis-python", type=Path, default=ROOT / ".lavis" / "bin" / "python")
    parser.add_argument("--ten-calls", action="store_true", help="also time LAVIS by ten calls: takes minutes")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--lavis", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.lavis:
        print(json.dumps(lavis_here(given.lavis, given.ten_calls)))
        return
    torch.set_num_threads(1)
    rows = []
    for size in given.sizes:
        for row in measure(size, given):
            print(json.dumps(row), file=sys.stderr)
            rows.append(row)
    show(rows)
    if not given.lavis_python.is_file():
        print(f"LAVIS not measured: {given.lavis_python} does not exist; build it with `make lavis-env`")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    figures = {
        "machine": platform.processor() or platform.machine(), "torch": torch.__version__, "images": given.images,
        "draws": DRAWS, "cpu_seconds_an_image": rows, "peak_mib": peak, "python": sys.version.split()[0],
    }  # fmt: skip
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(figures, indent=1) + "\n")
    else:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
