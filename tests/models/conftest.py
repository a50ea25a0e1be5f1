"""Small networks to test, and the recorded reference networks: their weights in our modules, inputs and outputs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from timm.models import build_model_with_cfg, register_model
from timm.models.resnet import Bottleneck, ResNet
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor, nn

from models.config import NetworkConfig, TextConfig
from models.official.names import from_official
from models.predictions import Predictions
from models.relation_tagger import PairQueries, RelationTagger
from models.rlip import RLIP
from models.target import Target


class NarrowResNet(ResNet):
    """ResNet whose stem has 4 channels, as the recordings' backbone."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        self.conv1 = nn.Conv2d(3, 4, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(
            Bottleneck(4, 4, downsample=nn.Sequential(nn.Conv2d(4, 16, 1, bias=False), nn.BatchNorm2d(16)))
        )
        self.layer2[0].conv1 = nn.Conv2d(16, 8, 1, bias=False)


@register_model
def recorded_resnet(pretrained: bool = False, **settings: object) -> nn.Module:
    return build_model_with_cfg(
        NarrowResNet,
        "recorded_resnet",
        pretrained,
        block=Bottleneck,
        layers=(1, 1, 1, 1),
        channels=(4, 8, 16, 32),
        **settings,
    )


class Recording:
    """One of the tiny networks: parseda, parsed or tagger."""

    def __init__(self, folder: Path, name: str, tokenizer: Path) -> None:
        self.folder, self.name = folder, name
        self.args = json.loads((folder / f"{name}_tiny_args.json").read_text())
        self.forward = self.arrays("forward")
        self.state = load_file(folder / f"{name}_tiny.safetensors")
        self.config = _config(self.args["args"])
        network = (RelationTagger if name == "tagger" else RLIP)(self.config, tokenizer)
        network.load_state_dict(from_official(self.state, self.config))
        self.network = network

    def arrays(self, kind: str) -> dict[str, np.ndarray]:
        with np.load(self.folder / f"{self.name}_tiny_{kind}.npz") as file:
            return {key: file[key] for key in file.files}

    def tensor(self, key: str) -> Tensor:
        return torch.from_numpy(self.forward[key])

    def texts(self) -> tuple[Tensor, Tensor]:
        """Object and predicate features."""
        features = self.network.transformer.text_encoder.encode_tokens(
            self.tensor("in.input_ids"), self.tensor("in.attention_mask")
        )
        return features[: int(self.forward["in.n_obj"])], features[int(self.forward["in.n_obj"]) :]

    @staticmethod
    def targets(arrays: dict[str, np.ndarray]) -> list[Target]:
        """The two images' targets in recorded arrays."""
        targets = []
        for image in (0, 1):
            get = {
                key.split(".")[1]: torch.from_numpy(value)
                for key, value in arrays.items()
                if key.startswith(f"tgt{image}.")
            }
            targets.append(
                Target(
                    get["sub_labels"],
                    get["obj_labels"],
                    get["sub_boxes"],
                    get["obj_boxes"],
                    get["verb_labels"],
                    torch.ones(len(get["sub_labels"]), dtype=torch.bool),
                )
            )
        return targets

    def run(self, targets: list[Target]) -> Predictions:
        """Predictions for the recorded images and texts."""
        self.last_texts = self.texts()
        inputs = (self.tensor("in.images"), self.tensor("in.mask"), *self.last_texts)
        if self.config.tagger:
            return self.network(*inputs, self.queries(targets))
        return self.network(*inputs)

    def queries(self, targets: list[Target]) -> PairQueries:
        """The targets' boxes as the tagger's input, in all of its slots."""
        slots = self.config.pairs

        def padded(name: str) -> Tensor:
            parts = [getattr(target, name) for target in targets]
            return torch.stack([torch.cat((x, x.new_zeros((slots - len(x), *x.shape[1:])))) for x in parts])

        valid = torch.stack([torch.arange(slots) < len(target.subject_labels) for target in targets])
        return PairQueries(
            padded("subject_boxes"), padded("object_boxes"), padded("subject_labels"), padded("object_labels"), valid
        )


def _config(args: dict) -> NetworkConfig:
    return NetworkConfig(
        architecture="parseda" if args["RLIP_ParSeDA_v2"] else "parsed",
        backbone="recorded_resnet",
        width=args["hidden_dim"],
        heads=args["nheads"],
        encoder_layers=args["enc_layers"],
        decoder_layers=args["dec_layers"],
        feedforward=args["dim_feedforward"],
        pairs=args["num_queries"] // 2,
        fusion_width=64,
        gate=args["gating_mechanism"],
        relation_queries=args["verb_query_tgt_type"],
        text=TextConfig(hidden=64, layers=2, heads=4, feedforward=128, vocabulary=400, max_positions=40, dropout=0.0),
        official_compat=True,
        tagger=args["verb_tagger"],
    )


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small byte-level tokenizer of RoBERTa's kind."""
    folder = tmp_path_factory.mktemp("tokenizer")
    model = ByteLevelBPETokenizer(lowercase=True)
    words = ["person dog bicycle traffic light riding holding sitting on next to no objects"] * 4
    model.train_from_iterator(
        words, vocab_size=300, show_progress=False, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    )
    model.save_model(str(folder))
    return folder


@pytest.fixture(scope="session")
def small_config() -> NetworkConfig:
    """A ParSeDA that trains from nothing in moments."""
    text = TextConfig(hidden=32, layers=1, heads=2, feedforward=32, vocabulary=300, max_positions=16, dropout=0.0)
    return NetworkConfig(
        architecture="parseda",
        backbone="test_resnet",
        backbone_norm="group",
        width=32,
        heads=2,
        points=2,
        encoder_layers=2,
        decoder_layers=2,
        feedforward=32,
        pairs=5,
        fusion_width=32,
        fusion_heads=2,
        text=text,
    )


@pytest.fixture(scope="session")
def small_tagger_config(small_config: NetworkConfig) -> NetworkConfig:
    """A tagger of the same size."""
    return replace(small_config, architecture="parsed", tagger=True)


@pytest.fixture(scope="session", params=["parseda", "parsed", "tagger"])
def recording(request: pytest.FixtureRequest, shared: Path, tokenizer: Path) -> Recording:
    """Each of the recorded networks in turn."""
    return Recording(shared / "oracle", request.param, tokenizer)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The same order of additions on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
