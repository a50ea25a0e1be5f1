"""Trains the small captioner on made scenes: `python -m scenes.train_captioner --out DIR --minutes 75 --threads 1`.

Each picture is encoded once and teaches several captions in one pass of the decoder. Two heads that the exported
captioner drops speed the encoder up: what each patch shows and which part it plays, and which relations the picture holds.
Stopped at any moment, the same command goes on from its last checkpoint.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BlipForConditionalGeneration
from transformers.models.blip.image_processing_blip import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from scenes import captioner
from scenes.captioner import CLS, DEC, GRID, PAD, PROMPT, SEP, SIDE
from scenes.categories import WORLD_CATEGORIES
from scenes.grammar import caption
from scenes.picture_cache import PictureCache
from scenes.predicates import PREDICATES
from scenes.reading import read

HELD_OUT_SEED = 900_000
KNOWN_SCENES = 5_000
"""The relations head knows the triplets of this many scenes; rarer ones have no output."""
PEOPLE = ("man", "woman", "boy", "girl")
PARTS = (*WORLD_CATEGORIES, *PEOPLE, *(f"{p} subject" for p in PREDICATES), *(f"{p} object" for p in PREDICATES))


@dataclass(frozen=True)
class Settings:
    """How long and on what to train."""

    out: Path
    minutes: float
    threads: int
    cache: Path
    seed: int
    scenes: int
    batch: int
    captions: int
    rate: float
    check_minutes: float


class Learner(nn.Module):
    """The captioner with its two training heads. B pictures, L tokens of a picture's captions in a row, V words."""

    def __init__(self, relation_count: int) -> None:
        super().__init__()
        self.captioner = captioner.fresh_model()
        width = self.captioner.config.vision_config.hidden_size
        self.parts = nn.Linear(width, len(PARTS))
        self.relations = nn.Linear(width, relation_count)
        for head in (self.parts, self.relations):
            nn.init.constant_(head.bias, -3.5)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        seen = self.captioner.vision_model(pixel_values=batch["pixels"]).last_hidden_state
        decoder = self.captioner.text_decoder
        hidden = decoder.bert(
            batch["tokens"], attention_mask=batch["mask"], position_ids=batch["places"],
            encoder_hidden_states=seen, is_decoder=True, use_cache=False,
        ).last_hidden_state  # fmt: skip
        taught = batch["targets"] >= 0
        logits = decoder.cls(hidden[taught])
        return {
            "caption": F.cross_entropy(logits.float(), batch["targets"][taught]),
            "parts": F.binary_cross_entropy_with_logits(self.parts(seen[:, 1:]).float(), batch["parts"]),
            "relations": F.binary_cross_entropy_with_logits(self.relations(seen[:, 0]).float(), batch["relations"]),
        }


class Feed:
    """Batches of pictures with freshly made captions and the heads' targets."""

    def __init__(self, cache: PictureCache, settings: Settings) -> None:
        self.cache, self.settings = cache, settings
        self.ids = {word: i for i, word in enumerate(captioner.words())}
        self.prompt = [DEC, *(self.ids[w] for w in PROMPT.split())]
        triplets = {self._triplet(s, r) for s in cache.scenes[:KNOWN_SCENES] for r in s["relations"]}
        self.triplets = {t: i for i, t in enumerate(sorted(triplets))}
        self.part = {name: i for i, name in enumerate(PARTS)}
        mean, std = (torch.tensor(v)[:, None, None] * 255 for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
        self.mean, self.std = mean, std

    @staticmethod
    def _triplet(scene: dict[str, Any], relation: list[Any]) -> tuple[str, str, str]:
        s, p, o = relation
        return scene["objects"][s][0], p, scene["objects"][o][0]

    def pixels(self, pictures: np.ndarray) -> Tensor:
        """(B, SIDE, SIDE, 3) uint8 to (B, 3, SIDE, SIDE), normalised as BLIP's image processor does."""
        return (torch.from_numpy(pictures.copy()).permute(0, 3, 1, 2).float() - self.mean) / self.std

    def batch(self, step: int) -> dict[str, Tensor]:
        """The batch of a step: the same whenever it is asked for."""
        size, count = self.settings.batch, len(self.cache.scenes)
        steps_an_epoch = count // size
        epoch, at = divmod(step, steps_an_epoch)
        order = np.random.default_rng((self.settings.seed, epoch)).permutation(count)
        chosen = np.sort(order[at * size : (at + 1) * size])
        rng = Random(f"{self.settings.seed}/{step}")
        pictures = np.ascontiguousarray(self.cache.pictures[chosen])
        flips = [rng.random() < 0.5 for _ in chosen]
        for i, flip in enumerate(flips):
            if flip:
                pictures[i] = pictures[i][:, ::-1]
        scenes = [self.cache.scenes[i] for i in chosen]
        given = self._captions(scenes, rng)
        parts = torch.from_numpy(np.stack([self._parts(s, f) for s, f in zip(scenes, flips, strict=True)]))
        relations = torch.zeros(size, len(self.triplets))
        for i, scene in enumerate(scenes):
            for relation in scene["relations"]:
                known = self.triplets.get(self._triplet(scene, relation))
                if known is not None:
                    relations[i, known] = 1.0
        return {"pixels": self.pixels(pictures), "parts": parts, "relations": relations, **given}

    def _captions(self, scenes: list[dict[str, Any]], rng: Random) -> dict[str, Tensor]:
        """Each picture's captions in one row; a token sees its own caption's earlier tokens alone."""
        rows: list[tuple[list[int], list[int], list[int], list[int]]] = []
        for scene in scenes:
            tokens: list[int] = []
            targets: list[int] = []
            places: list[int] = []
            owner: list[int] = []
            things = [tuple(o[:3]) for o in scene["objects"]]
            facts = [tuple(r) for r in scene["relations"]]
            for k in range(self.settings.captions):
                text = [*self.prompt, *(self.ids[w] for w in caption(things, facts, rng, opening=False).split())]
                silent = len(self.prompt) - 1
                tokens += text
                targets += [-1] * silent + text[silent + 1 :] + [SEP]
                places += range(len(text))
                owner += [k] * len(text)
            rows.append((tokens, targets, places, owner))
        longest = max(len(r[0]) for r in rows)
        filled = [
            np.array([row[part] + [blank] * (longest - len(row[part])) for row in rows])
            for part, blank in enumerate((PAD, -1, 0, -1))
        ]
        tokens_BL, targets_BL, places_BL, owner_BL = (torch.from_numpy(a) for a in filled)
        sees = (owner_BL[:, :, None] == owner_BL[:, None, :]) & torch.ones(longest, longest).tril().bool()
        mask = torch.zeros(sees.shape).masked_fill_(~sees, -1e4)[:, None]
        return {"tokens": tokens_BL, "targets": targets_BL, "places": places_BL, "mask": mask}

    def _parts(self, scene: dict[str, Any], flip: bool) -> np.ndarray:
        """(GRID * GRID, parts): the share of each patch that an object's box covers, for what it is and what it does."""
        out = np.zeros((len(PARTS), GRID, GRID), dtype=np.float32)
        edges = np.arange(GRID)
        roles: list[list[str]] = [[o[0], *([o[1]] if o[1] in PEOPLE else [])] for o in scene["objects"]]
        for s, p, o in scene["relations"]:
            roles[s].append(f"{p} subject")
            roles[o].append(f"{p} object")
        for (_, _, _, (x, y, w, h)), names in zip(scene["objects"], roles, strict=True):
            x = 1 - x - w if flip else x
            across = np.clip(np.minimum(edges + 1, (x + w) * GRID) - np.maximum(edges, x * GRID), 0, 1)
            down = np.clip(np.minimum(edges + 1, (y + h) * GRID) - np.maximum(edges, y * GRID), 0, 1)
            cover = np.minimum(1.0, 1.5 * down[:, None] * across[None])
            for name in names:
                plane = out[self.part[name]]
                np.maximum(plane, cover, out=plane)
        return out.reshape(len(PARTS), -1).T


@torch.no_grad()
def draw_captions(
    model: BlipForConditionalGeneration, pixels: Tensor, prompt: list[int], draws: int, words: list[str]
) -> list[list[str]]:
    """Nucleus draws (p = 0.9) as the authors make them, for each picture."""
    out: list[list[str]] = []
    for start in range(0, len(pixels), 25):
        some = pixels[start : start + 25]
        ids = torch.tensor([[*prompt, SEP]]).repeat(len(some), 1)
        found = model.generate(
            pixel_values=some, input_ids=ids, do_sample=True, top_p=0.9, top_k=0, min_length=5, max_length=20,
            num_return_sequences=draws,
        )  # fmt: skip
        texts = [" ".join(words[t] for t in row[len(prompt) :] if t not in (PAD, SEP, CLS, DEC)) for row in found.tolist()]
        out += [texts[i * draws : (i + 1) * draws] for i in range(len(some))]
    return out


def measure(learner: Learner, feed: Feed, held_out: PictureCache, count: int = 100) -> dict[str, Any]:
    """Share of stated triplets that are true, and of planted triplets that ten draws state."""
    learner.eval()
    torch.manual_seed(0)
    pixels = feed.pixels(np.ascontiguousarray(held_out.pictures[:count]))
    drawn = draw_captions(learner.captioner, pixels, feed.prompt, 10, captioner.words())
    learner.train()
    stated = true = planted = found = silent = 0
    for scene, texts in zip(held_out.scenes, drawn, strict=False):
        truth = {feed._triplet(scene, r) for r in scene["relations"]}
        both = truth | {(o, p, s) for s, p, o in truth if p == "next to"}
        union = set()
        for text in texts:
            said = read(text)
            silent += not said
            stated += len(said)
            true += len(said & both)
            union |= said
        planted += len(truth)
        found += len(truth & (union | {(o, p, s) for s, p, o in union if p == "next to"}))
    return {
        "precision": round(true / max(1, stated), 4), "recall": round(found / planted, 4),
        "silent": round(silent / (10 * count), 4), "examples": [t[0] for t in drawn[:4]],
    }  # fmt: skip


def save_checkpoint(path: Path, learner: Learner, optimizer: torch.optim.Optimizer, step: int, seconds: float) -> None:
    """Weights, optimizer and progress in one file, replaced at once."""
    tensors = {f"model.{k}": v for k, v in learner.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"optimizer.{i}.{key}"] = value
    shared: dict[int, str] = {}
    unique = {}
    for key, value in tensors.items():
        if shared.setdefault(value.data_ptr(), key) == key or value.dim() == 0:
            unique[key] = value.contiguous()
    aside = path.with_suffix(".part")
    save_file(unique, aside, metadata={"step": str(step), "seconds": str(seconds)})
    aside.replace(path)


def load_checkpoint(path: Path, learner: Learner, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Puts a checkpoint back; returns its step and the seconds already spent."""
    from safetensors import safe_open

    tensors = load_file(path)
    learner.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")}, strict=False)
    learner.captioner.tie_weights()
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, i, name = key.split(".")
            state.setdefault(int(i), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    with safe_open(path, "pt") as file:
        told = file.metadata()
    return int(told["step"]), float(told["seconds"])


def train(settings: Settings) -> None:
    """Trains until the minutes are spent, then exports to `out/captioner`."""
    torch.set_num_threads(settings.threads)
    settings.out.mkdir(parents=True, exist_ok=True)
    held_out = PictureCache.open(settings.cache, HELD_OUT_SEED, 150)
    cache = PictureCache.open(settings.cache, settings.seed, settings.scenes)
    feed = Feed(cache, settings)
    learner = Learner(len(feed.triplets))
    decayed = [p for p in learner.parameters() if p.dim() > 1]
    others = [p for p in learner.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.98))
    checkpoint = settings.out / "checkpoint.safetensors"
    step, spent = load_checkpoint(checkpoint, learner, optimizer) if checkpoint.exists() else (0, 0.0)
    log = (settings.out / "log.jsonl").open("a")
    budget = settings.minutes * 60
    last_save = last_check = spent
    sums: dict[str, float] = {}
    learner.train()
    while spent < budget:
        began = time.perf_counter()
        share = spent / budget
        rate = settings.rate * min(1.0, (step + 1) / 300) * (0.5 + 0.5 * np.cos(np.pi * share) + 0.01)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = feed.batch(step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = learner(batch)
        total = losses["caption"] + 10 * losses["parts"] + 10 * losses["relations"]
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        step += 1
        for key, value in losses.items():
            sums[key] = sums.get(key, 0.0) + value.item()
        spent += time.perf_counter() - began
        if step % 100 == 0:
            line = {"step": step, "minutes": round(spent / 60, 2), "pictures_a_second": round(step * settings.batch / spent, 1)}
            print(json.dumps({**line, **{k: round(v / 100, 4) for k, v in sums.items()}}), file=log, flush=True)
            sums = {}
        if spent - last_save > 180:
            save_checkpoint(checkpoint, learner, optimizer, step, spent)
            last_save = spent
        if spent - last_check > settings.check_minutes * 60:
            print(json.dumps({"minutes": round(spent / 60, 2), **measure(learner, feed, held_out)}), file=log, flush=True)
            captioner.export(learner.captioner, settings.out / "captioner")
            last_check = spent
    save_checkpoint(checkpoint, learner, optimizer, step, spent)
    print(json.dumps({"minutes": round(spent / 60, 2), **measure(learner, feed, held_out)}), file=log, flush=True)
    captioner.export(learner.captioner, settings.out / "captioner")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, log and exported captioner")
    parser.add_argument("--minutes", type=float, default=75, help="time to train, earlier runs included")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, help="folder for the drawn pictures (default: OUT/pictures)")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--scenes", type=int, default=40_000)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--captions", type=int, default=4, help="captions a picture in each step")
    parser.add_argument("--rate", type=float, default=1.2e-3)
    parser.add_argument("--check-minutes", type=float, default=10)
    given = vars(parser.parse_args())
    given["cache"] = given["cache"] or given["out"] / "pictures"
    train(Settings(**given))


if __name__ == "__main__":
    main()
