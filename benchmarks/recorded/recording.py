"""A recorded network: its weights in our modules, its inputs and its outputs.

Recording N is a set of files: `N.safetensors` (weights by the authors' names), `N_args.json` (training settings under
"args"), and `N_PART.npz` for each recorded part: forward, evalpath_post, post_zs, loss_hard, loss_soft, loss_empty.

Shapes: B images, H×W pixels, T texts, N tokens of the longest text, P pairs.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.config import LossSettings, TextConfig
from models.encoder import Encoded
from models.losses import MatchWeights
from models.official.checkpoint import read_checkpoint
from models.official.imported import import_checkpoint
from models.predictions import Predictions, Target
from models.relation_tagger import PairQueries, RelationTagger
from models.rlip import RLIP
from models.text_encoder import TextEncoder
from models.weights import build

PARTS = ("forward", "evalpath_post", "post_zs", "loss_hard", "loss_soft", "loss_empty")
Arrays = dict[str, np.ndarray]


def recordings_in(folder: Path) -> list[str]:
    """Returns the names of the recordings in a folder. Raises FileNotFoundError if there are none."""
    names = sorted(
        path.name.removesuffix("_args.json")
        for path in folder.glob("*_args.json")
        if path.with_name(path.name.removesuffix("_args.json") + "_forward.npz").is_file()
    )
    if not names:
        raise FileNotFoundError(f"{folder}: no recording; name a folder with NAME_args.json beside NAME_forward.npz")
    return names


class Recording:
    """One recorded network, loaded by the importer of official checkpoints, without dropout."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.args: dict[str, Any] = json.loads((folder / f"{name}_args.json").read_text())["args"]
        self.forward = self.arrays("forward")
        files = folder / f"{name}.safetensors", folder / f"{name}_args.json"
        self.official = read_checkpoint(*files).state
        imported = import_checkpoint(*files, {"text": {"dropout": 0.0, "heads": 1}, "dropout": 0.0})
        self.config = replace(imported.config, text=self._with_heads(imported.config.text, imported.state))
        self.network = build(self.config, None)
        self.network.load_state_dict(imported.state)
        self.images = self.tensor("in.images")
        shown = ~self.tensor("in.mask")
        self.sizes = [(int(mask[:, 0].sum()), int(mask[0].sum())) for mask in shown]

    def parts(self) -> list[str]:
        return [part for part in PARTS if (self.folder / f"{self.name}_{part}.npz").is_file()]

    def arrays(self, part: str) -> Arrays:
        with np.load(self.folder / f"{self.name}_{part}.npz", allow_pickle=False) as file:
            return {key: file[key] for key in file.files}

    def tensor(self, key: str) -> Tensor:
        """Returns an input of the part `forward`. All parts have the same inputs."""
        return torch.from_numpy(self.forward[key])

    def texts(self) -> tuple[Tensor, Tensor]:
        """Returns features T×E of the object texts and of the predicate texts."""
        features = self.network.transformer.text_encoder.encode_tokens(
            self.tensor("in.input_ids"), self.tensor("in.attention_mask")
        )
        objects = int(self.forward["in.n_obj"])
        return features[:objects], features[objects:]

    def encode(self, texts: tuple[Tensor, Tensor]) -> Encoded:
        """Encodes the recorded images together with the texts."""
        return self.network.encode(self.images, self.sizes, *texts)

    def decode(self, encoded: Encoded, targets: list[Target]) -> Predictions:
        """Returns predictions for the recorded images. A tagger scores the targets' pairs."""
        if isinstance(self.network, RelationTagger):
            return self.network.decode(encoded, self.queries(targets))
        assert isinstance(self.network, RLIP)
        return self.network.decode(encoded)

    def queries(self, targets: list[Target]) -> PairQueries:
        """Returns the targets' boxes and labels, padded to the tagger's number of slots."""
        slots = self.config.pairs

        def padded(name: str) -> Tensor:
            parts = [getattr(target, name) for target in targets]
            return torch.stack([torch.cat((x, x.new_zeros((slots - len(x), *x.shape[1:])))) for x in parts])

        boxes_and_labels = (padded(f"{role}_{what}") for what in ("boxes", "labels") for role in ("subject", "object"))
        valid = torch.stack([torch.arange(slots) < len(target.subject_labels) for target in targets])
        return PairQueries(*boxes_and_labels, valid)

    def match_weights(self) -> MatchWeights:
        args = self.args
        return MatchWeights(
            object_class=args["set_cost_obj_class"],
            # The authors weight both classes by the object's weight.
            subject_class=args["set_cost_obj_class"], predicates=args["set_cost_verb_class"],
            box=args["set_cost_bbox"], giou=args["set_cost_giou"],
        )  # fmt: skip

    def loss_settings(self) -> LossSettings:
        args = self.args
        return LossSettings(
            classes=args["obj_loss_coef"], predicates=args["verb_loss_coef"], box=args["bbox_loss_coef"],
            giou=args["giou_loss_coef"], background=args["eos_coef"], localised_predicates=args["giou_verb_label"],
            pseudo_predicates=args["pseudo_verb"],
        )  # fmt: skip

    def _with_heads(self, text: TextConfig, state: dict[str, Tensor]) -> TextConfig:
        """Sets the number of heads that best reproduces the recorded text features, because no file states it."""
        prefix = "transformer.text_encoder."
        own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        recorded_TD = self.tensor("act.text.pooler_output")

        def distance(heads: int) -> float:
            encoder = TextEncoder(replace(text, heads=heads), None)
            encoder.load_state_dict(own)
            with torch.no_grad():
                features_TD = encoder.encode_tokens(self.tensor("in.input_ids"), self.tensor("in.attention_mask"))
            return (features_TD - recorded_TD).abs().max().item()

        usual = [text.hidden // 64] if text.hidden in (768, 1024) else range(1, text.hidden + 1)
        return replace(text, heads=min((heads for heads in usual if text.hidden % heads == 0), key=distance))


def targets_in(arrays: Arrays) -> list[Target]:
    """Returns the targets of each image."""
    targets = []
    for image in sorted({int(key[3:].partition(".")[0]) for key in arrays if key.startswith("tgt")}):
        names = ("sub_labels", "obj_labels", "sub_boxes", "obj_boxes", "verb_labels")
        values = [torch.from_numpy(arrays[f"tgt{image}.{name}"]) for name in names]
        targets.append(Target(*values, torch.ones(len(values[0]), dtype=torch.bool)))
    return targets
