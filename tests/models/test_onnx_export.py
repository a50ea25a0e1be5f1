"""What onnxruntime computes from an exported file is what PyTorch computes from the weights."""

import json
import runpy
import shutil
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from rlip_command import output_of, rlip

from models import weights
from models.config import NO_OBJECTS
from models.onnx_export import OUTPUTS
from models.relation_tagger import RelationTagger
from models.rlip import RLIP
from pipeline.evaluation.predictor import Names, Predictor
from tests.models.made import moved

OBJECTS, PREDICATES = ("person", "dog", "bicycle"), ("riding",)


@pytest.fixture(scope="module")
def exported(small_config, tokenizer, tmp_path_factory):
    """A small network and its file from `rlip weights export`. Converting takes as long as nodes are many."""
    config = replace(small_config, levels=2, backbone_strides=(16, 32), encoder_layers=1, decoder_layers=1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("exported") / "weights"
    shutil.copytree(tokenizer, folder)
    network = moved(RLIP(config, tokenizer)).eval()
    weights.save(network, folder / "model.safetensors")
    (folder / "vocabulary.json").write_text(json.dumps({"objects": OBJECTS, "predicates": ["on"], "image_size": 96}))
    told = output_of(
        "weights", "export", folder / "model.safetensors", folder / "model.onnx", "--onnx",
        "--predicates", ",".join(PREDICATES), "--json",
    )  # fmt: skip
    assert json.loads(told)["objects"] == [*OBJECTS]
    return network, folder / "model.onnx"


@pytest.mark.parametrize(("size", "names"), [((256, 320), None), ((96, 160), ["traffic light"])])
def test_images_have_any_size_and_texts_can_be_replaced(size, names, exported):
    network, path = exported
    session = onnxruntime.InferenceSession(path)
    image = torch.randn(1, 3, *size)
    with torch.inference_mode():
        texts = network.encode_texts([*(names or OBJECTS), NO_OBJECTS]), network.encode_texts(names or PREDICATES)
        predicted = network.predict(image, None, *texts)
    given = dict(zip(("objects", "predicates"), (each.numpy() for each in texts), strict=True)) if names else {}
    found = session.run(list(OUTPUTS), {"image": image.numpy(), **given})
    for name, values in zip(OUTPUTS, found, strict=True):
        np.testing.assert_allclose(values, getattr(predicted, name).numpy(), atol=1e-5, err_msg=name)


def test_the_example_finds_the_relations_that_the_network_finds(exported, root, tmp_path, capsys):
    network, path = exported
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 110, 3), np.uint8))
    image.save(tmp_path / "image.png")
    runpy.run_path(str(root / "examples/onnx/detect_relations.py"))["main"](str(path), str(tmp_path / "image.png"), "3")
    (found,) = Predictor(network, Names(OBJECTS, PREDICATES), 96).predict([image], 1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    for place, line in enumerate(lines):
        score, subject, predicate, object_ = line.split("  ")
        assert float(score) == pytest.approx(found.scores[place], abs=1e-3)
        assert predicate == PREDICATES[found.predicates[place]]
        for end, box in ((subject, found.subjects[place]), (object_, found.objects[place])):
            name, _, sides = end.partition(" ")
            assert name == OBJECTS[found.boxes.labels[box]]
            np.testing.assert_allclose(json.loads(sides), found.boxes.boxes[box], atol=1)


def test_what_can_not_be_exported_is_one_message(small_tagger_config, tokenizer, tmp_path):
    folder = tmp_path / "tagger"
    shutil.copytree(tokenizer, folder)
    weights.save(RelationTagger(small_tagger_config, tokenizer), folder / "model.safetensors")
    words = ("weights", "export", folder / "model.safetensors", tmp_path / "out", "--objects", "person")
    done = rlip(*words)
    assert done.exit_code == 1 and "belong to --onnx" in done.output
    done = rlip(*words, "--predicates", "on", "--onnx")
    assert done.exit_code == 1 and "a tagger takes boxes" in done.output and not (tmp_path / "out").exists()
