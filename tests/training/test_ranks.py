"""Trainings with other numbers of processes, other ways to share the work, and other ways to stop: the same outcome."""

import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers.models.roberta.modeling_roberta import RobertaSelfAttention

from pipeline.training import parallel, throughput
from pipeline.training.checkpoint_folder import CheckpointFolder
from pipeline.training.config import CHECKPOINTS
from pipeline.training.ranks import Ranks
from pipeline.training.settings import CALIBRATION, TrainingSettings
from tests.training.conftest import TINY, metrics
from tests.training.in_ranks import in_ranks, train

STEPS = 3
SETTINGS = TINY | {"steps": STEPS, "batch": 8, "log_every": 1, "processes": 1}
SETTINGS |= {"max_grad_norm": 0.5, "checkpoint_every": 100}
Job = tuple[str, dict, int | None]
"""Name of its folder, changed settings, step to stop after."""


def several(ranks: Ranks, shard, root: Path, jobs: list[Job]) -> None:
    warnings.simplefilter("ignore")
    for name, changes, stop_after in jobs:
        throughput.COUNTED = int(name in ("ddp2", "fsdp2"))
        if changes == FSDP | ROUNDED:
            cast_norms_as_a_gpu_does()
        train(ranks, shard, root / name, SETTINGS | changes, stop_after)


def cast_norms_as_a_gpu_does() -> None:
    """A CPU's autocast leaves the weights of norms as they are, and so can't have them in bfloat16."""
    parallel.CASTS_NORMS = ("cpu",)

    def cast(norm, *given):
        return norm(*(each.float() if isinstance(each, torch.Tensor) else each for each in given))

    F.layer_norm, F.group_norm = partial(cast, F.layer_norm), partial(cast, F.group_norm)
    register_module_forward_pre_hook(note_dtype)


def note_dtype(layer: torch.nn.Module, _) -> None:
    if isinstance(layer, RobertaSelfAttention):
        assert next(layer.parameters()).dtype == torch.bfloat16


TREE, FSDP, HSDP = {"parallel": "tree"}, {"parallel": "fsdp"}, {"parallel": "hsdp", "processes": 2}
TAGGER = {"held_out": 0.5, "check_every": 2, "ema": 0.9}
ROUNDED = {"steps": 2, "precision": "bfloat16", "network": TINY["network"] | {"official_compat": True}}
ROUNDED |= TAGGER


@pytest.fixture(scope="module")
def root(tmp_path_factory, shard) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    # What is changing begins with 2 processes and ends with 3; without a tree, it is 1 in between.
    two = [("changing", FSDP, 1), ("changing_tree", TREE, 2), ("ddp2", {}, None), ("fsdp2", FSDP | {"ema": 0.9}, None)]
    two += [("tagger2", TAGGER | FSDP, None), ("rounded2", FSDP | ROUNDED, None)]
    one = [("changing", {}, 2), ("alone", {"ema": 0.9}, None), ("tree1", TREE, None)]
    one += [("tagger1", TAGGER, None), ("rounded1", ROUNDED, None)]
    three = [("changing", {}, None), ("changing_tree", TREE, None)]
    four = [("hsdp4", {}, 1), ("hsdp4", HSDP, None)]
    for count, jobs in ((2, two), (1, one), (3, three), (4, four)):
        (folder / str(count)).mkdir()
        in_ranks(count, folder / str(count), several, shard, folder, jobs)
    return folder


def losses(work: Path, name: str = "loss") -> list[float]:
    return [row["value"] for row in metrics(work) if row["name"] == name]


def weights(work: Path) -> dict[str, torch.Tensor]:
    return torch.load(work / "state.pt")


@pytest.mark.parametrize("name", ["ddp2", "fsdp2", "hsdp4", "changing"])
def test_losses_and_gradients_do_not_depend_on_the_processes(root, name):
    found = losses(root / name)
    assert len(found) == STEPS
    assert found == pytest.approx(losses(root / "alone"), abs=1e-5)
    norms, expected = (losses(root / each, "gradient_norm") for each in (name, "alone"))
    assert norms == pytest.approx(expected, rel=1e-3)


def test_summed_in_a_tree_not_a_bit_depends_on_the_processes(root):
    expected, found = weights(root / "tree1"), weights(root / "changing_tree")
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert losses(root / "changing_tree") == losses(root / "tree1")


@pytest.mark.parametrize("number", [3, 6, 7])
def test_the_tree_sums_any_number_of_micro_batches(number):
    layer = torch.nn.Linear(2, 3)
    settings = TrainingSettings(batch=number, micro_batch=1, parallel="tree", processes=1)
    tree = parallel.make_parallel(layer, Ranks(), settings)  # type: ignore[arg-type] - any module has parameters
    images = torch.randn(number, 2)
    for image in images:
        tree.backward(layer(image).sum(), is_last=False)
    tree.finish()
    torch.testing.assert_close(layer.weight.grad, images.mean(0).expand(3, 2))


def test_the_tree_trains_as_the_others_do(root):
    assert losses(root / "tree1") == pytest.approx(losses(root / "alone"), abs=1e-5)


def test_the_average_is_kept_whoever_shares_it(root):
    assert "initial weights will make up 73% of the result" in (root / "alone" / "notes.txt").read_text()
    averaged, last = weights(root / "alone"), weights(root / "tree1")
    assert max((averaged[key] - last[key]).abs().max() for key in last) > 1e-3
    sharded = weights(root / "fsdp2")
    # Adam's first steps have nearly the same length whatever the gradient, so rounding can move single weights.
    assert max((averaged[key] - sharded[key]).abs().mean() for key in last) < 1e-4


def test_held_out_images_are_scored_by_all_processes_together(root):
    def scores(work: Path) -> dict[str, list[float]]:
        names = {row["name"] for row in metrics(work) if row["name"].startswith("held_out")}
        return {each: losses(work, each) for each in names}

    expected, found = scores(root / "tagger1"), scores(root / "tagger2")
    assert found.keys() == expected.keys() and len(found["held_out_map"]) == 2
    assert found["held_out_images"] == expected["held_out_images"] != [0.0, 0.0]
    for each, values in expected.items():
        assert found[each] == pytest.approx(values, abs=2e-3), each
    assert (root / "tagger2" / CALIBRATION).is_file()
    assert losses(root / "tagger2") == pytest.approx(losses(root / "tagger1"), abs=1e-5), "the step after a measurement"


def test_each_process_of_fsdp_writes_its_part(root):
    (folder,) = (root / "fsdp2" / CHECKPOINTS).glob("step-*")
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert files == ["shard-00001-of-00002.safetensors", "shard-00002-of-00002.safetensors"]
    assert CheckpointFolder(root / "fsdp2" / CHECKPOINTS).record(STEPS)["about"]["step"] == STEPS


def test_the_first_node_of_hsdp_writes_all_weights(root):
    folder = CheckpointFolder(root / "hsdp4" / CHECKPOINTS).path(STEPS)
    assert len(list(folder.glob("*-of-00002.safetensors"))) == 2
    expected = weights(root / "hsdp4")
    found = {f"model.{name}": torch.zeros_like(value) for name, value in expected.items()}
    dcp.load(found, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=True)
    assert all(torch.equal(found[f"model.{name}"], value) for name, value in expected.items())


def test_weights_that_are_gathered_in_sixteen_bits_train_nearly_the_same(root):
    assert losses(root / "rounded2") == pytest.approx(losses(root / "rounded1"), rel=2e-3)
    rounded, expected = (losses(root / name, "held_out_map") for name in ("rounded2", "rounded1"))
    assert rounded == pytest.approx(expected, abs=0.05)
