"""How processes share a network and its gradients (docs/training.md, Several processes).

A step's gradient is the mean over its micro-batches. Whatever the way, each process runs some of them, and afterwards
every parameter that any of them reached holds its part of that mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import cache
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._dynamo import config as dynamo_config
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.export import register_dataclass
from torch.nn.parallel import DistributedDataParallel

from models.decoder import Decoded, PairBoxes
from models.deformable_attention import References
from models.encoder import Encoded
from models.network import Network
from models.predictions import Predictions
from models.relation_tagger import PairQueries
from models.text_encoder import TextTokens
from pipeline.training.ranks import Ranks
from pipeline.training.settings import TrainingSettings

_RENAMED = "forward_sync_buffers" in signature(DistributedDataParallel).parameters
_KEEPS_BUFFERS: dict[str, Any] = {"forward_sync_buffers" if _RENAMED else "broadcast_buffers": False}
"""No training run of several processes changes a buffer. torch 2.13 deprecated the second name for the first."""


class Parallel:
    """A network trained by one process, or in a subclass by several. `module` runs it; `network` is the network."""

    def __init__(self, network: Network, ranks: Ranks, settings: TrainingSettings) -> None:
        self.network, self.ranks, self.micro_batches = network, ranks, settings.micro_batches
        self.module: nn.Module = network
        self.parts = 1
        """Number of processes, from rank 0 on, that hold the whole state between them."""

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Adds the gradient of one micro-batch. `is_last`: it is this process's last one of the step."""
        (loss / self.micro_batches).backward()  # type: ignore[no-untyped-call]

    def syncing(self, is_last: bool) -> AbstractContextManager[None]:
        """The context of the forward pass of a micro-batch."""
        return nullcontext()

    def measuring(self) -> AbstractContextManager[None]:
        """The context in which the network is measured."""
        return nullcontext()

    def finish(self) -> None:
        """Completes the step's gradient, after the last micro-batch."""

    def whole_state(self) -> Mapping[str, Tensor]:
        """Returns copies of all parameters and buffers, in the first process at least."""
        return {name: value.to("cpu", copy=True) for name, value in self.network.state_dict().items()}

    def own_parts(self) -> range:
        """The numbers of the micro-batches of a step that this process runs."""
        rank, count, parts = self.ranks.rank, self.ranks.count, self.micro_batches
        return range(parts * rank // count, parts * (rank + 1) // count)


def make_parallel(network: Network, ranks: Ranks, settings: TrainingSettings) -> Parallel:
    """Wraps a network in the way that the settings choose."""
    kinds: dict[str, type[Parallel]] = {"ddp": Replicated, "fsdp": Sharded, "hsdp": Sharded, "tree": TreeSummed}
    kind = Parallel if ranks.count == 1 and settings.parallel != "tree" else kinds[settings.parallel]
    if settings.compile:
        compile_layers(network)
    return kind(network, ranks, settings)


CASTS_NORMS = ("cuda",)
"""Devices whose autocast takes the weights of norms in bfloat16."""
GRAPHS = 16
"""Most graphs of one kind of layer. Decoder layers have up to five uses, each with and without padding."""


def compile_layers(network: Network, backend: str = "inductor") -> None:
    """Compiles a network in parts and with dynamic shapes, so that a few graphs serve all batches.

    Whatever sizes a batch joins, the code between the parts is Python's. A part that needs more than `GRAPHS` raises
    `FailOnRecompileLimitHit`.
    """
    dynamo_config.recompile_limit = GRAPHS
    for part in (network.backbone, *_layers(network)):
        part.compile(backend=backend, dynamic=True, fullgraph=True)


class Replicated(Parallel):
    """Each process has the whole network; gradients are averaged in buckets during the backward pass."""

    def __init__(self, network: Network, ranks: Ranks, settings: TrainingSettings) -> None:
        super().__init__(network, ranks, settings)
        # Looking for unused parameters keeps the buckets as they are after the first step: otherwise the order of
        # summation, and so low-order bits, would depend on where a training run was resumed. It also leaves a parameter
        # that no process reached without a gradient.
        self._replicas = DistributedDataParallel(
            network,
            device_ids=[ranks.device] if ranks.device.type == "cuda" else None,
            find_unused_parameters=True,
            gradient_as_bucket_view=True,
            **_KEEPS_BUFFERS,
        )
        self.module = self._replicas

    def syncing(self, is_last: bool) -> AbstractContextManager[None]:
        """Gradients are exchanged in the backward pass of the last micro-batch only."""
        return nullcontext() if is_last else self._replicas.no_sync()

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Adds the gradient of one micro-batch; the average over processes then divides by their number."""
        (loss * (self.ranks.count / self.micro_batches)).backward()  # type: ignore[no-untyped-call]


class Sharded(Parallel):
    """Each process keeps a part of every weight, gradient and average, and gathers a layer's weights when it runs.

    With bfloat16, GPUs gather the weights of layers in it. The other weights, whose rounding would move boxes, and all
    gradients are exchanged in float32.
    """

    def __init__(self, network: Network, ranks: Ranks, settings: TrainingSettings) -> None:
        super().__init__(network, ranks, settings)
        _show_tensors_in_dataclasses()
        mesh = _mesh(ranks, settings)
        self.parts = mesh.shape[-1]
        policy = MixedPrecisionPolicy()
        self._gathers_bfloat16 = settings.precision == "bfloat16" and ranks.device.type in CASTS_NORMS
        if self._gathers_bfloat16:
            # Cast inputs would round the places that deformable attention reads.
            policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        for layer in (*_layers(network), *_embedders(network)):
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        self._sharded: FSDPModule = fully_shard(network, mesh=mesh)
        # Checks call these themselves, whereas FSDP gathers weights for `forward` alone.
        for method in ("encode_tokens", "predict"):
            register_fsdp_forward_method(network, method)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Layers that are gathered in bfloat16 compute in it."""
        with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self._gathers_bfloat16):
            yield
        # What is gathered for a forward pass stays until a backward pass, and weights may change before that.
        self._sharded.reshard()

    def whole_state(self) -> Mapping[str, Tensor]:
        """Gathers the parameters in the memory of the first process."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return get_model_state_dict(self.network, options=options)  # type: ignore[return-value]

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Adds the gradient of one micro-batch."""
        self._sharded.set_requires_gradient_sync(is_last)
        (loss * (self.ranks.count / self.micro_batches)).backward()  # type: ignore[no-untyped-call]


def _mesh(ranks: Ranks, settings: TrainingSettings) -> DeviceMesh:
    """Returns the processes that share weights: all, or with "hsdp" those of a node, whose weights other nodes copy."""
    if settings.parallel == "fsdp":
        # A mesh with its own group would connect the processes again.
        assert dist.group.WORLD is not None
        return DeviceMesh.from_group(dist.group.WORLD, ranks.device.type)
    nodes = torch.arange(ranks.count).view(-1, settings.processes)
    timeout = timedelta(seconds=settings.collective_timeout)
    groups = [ranks.own_group(each.tolist(), timeout) for each in (nodes.T, nodes)]
    return DeviceMesh.from_group(groups, ranks.device.type, nodes, mesh_dim_names=("replicate", "shard"))


class TreeSummed(Parallel):
    """Sums the gradients of micro-batches in a fixed binary tree over their numbers.

    Floating-point sums depend on their order. Here it is the same with any number of processes, so the bits are too.
    """

    def __init__(self, network: Network, ranks: Ranks, settings: TrainingSettings) -> None:
        super().__init__(network, ranks, settings)
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._summed: list[tuple[int, int, Tensor]] = []
        """Sums over aligned ranges of micro-batches: first, number (a power of two), flat gradient."""

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Adds the gradient of one micro-batch to the sums."""
        loss.backward()  # type: ignore[no-untyped-call]
        own = self.own_parts()
        done = sum(count for _, count, _ in self._summed)
        _add(self._summed, (own.start + done, 1, _flat(self._parameters)))
        for parameter in self._parameters:
            parameter.grad = None

    def finish(self) -> None:
        """Joins the sums of all processes."""
        summed: list[tuple[int, int, Tensor]] = []
        for part in self._of_all():
            _add(summed, part)
        # Ranges that no power of two covers are joined from the right, which is the order of a recursive halving.
        while len(summed) > 1:
            first, count, left = summed[-2]
            summed[-2:] = [(first, count + summed[-1][1], left + summed[-1][2])]
        self._summed = []
        _spread(summed[0][2] / self.micro_batches, self._parameters)

    def _of_all(self) -> list[tuple[int, int, Tensor]]:
        if self.ranks.count == 1:
            return self._summed
        every = self.ranks.gathered([(first, count) for first, count, _ in self._summed])
        sums = []
        mine = {first: total for first, _, total in self._summed}
        for rank, parts in enumerate(every):
            for first, count in parts:
                total = mine[first] if rank == self.ranks.rank else torch.empty_like(self._summed[0][2])
                dist.broadcast(total, rank)
                sums.append((first, count, total))
        return sums


def _add(summed: list[tuple[int, int, Tensor]], part: tuple[int, int, Tensor]) -> None:
    """Appends a sum over the range that follows, and merges neighbours that form a node of the tree."""
    summed.append(part)
    while len(summed) > 1:
        (first, count, left), (_, following, right) = summed[-2:]
        if count != following or first % (2 * count):
            return
        summed[-2:] = [(first, 2 * count, left + right)]


def _flat(parameters: Sequence[Tensor]) -> Tensor:
    """Joins all gradients, with a 1 for each parameter that has one."""
    has = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters] + [has])


def _spread(flat: Tensor, parameters: Sequence[Tensor]) -> None:
    *gradients, has = torch.split(flat, [*(parameter.numel() for parameter in parameters), len(parameters)])
    for parameter, gradient, reached in zip(parameters, gradients, has.tolist(), strict=True):
        parameter.grad = gradient.view_as(parameter) if reached else None


# Once, because torch refuses a class that it already knows
@cache
def _show_tensors_in_dataclasses() -> None:
    """Lets FSDP find the tensors among what layers take and return, which tell it when to gather and to reduce."""
    for kind in (Predictions, Encoded, PairBoxes, Decoded, References, PairQueries, TextTokens):
        register_dataclass(kind)


def _layers(network: Network) -> list[nn.Module]:
    """The parts of a network whose weights are gathered together: one after the other, so that memory is saved."""
    transformer = network.transformer
    language_model: Any = transformer.text_encoder.roberta
    return [
        *language_model.encoder.layer,
        *transformer.encoder.VLFuse_layers,
        *transformer.encoder.roberta_layers,
        *transformer.encoder.layers,
        *transformer.ho_decoder.layers,
        *transformer.verb_decoder.layers,
    ]


def _embedders(network: Network) -> list[nn.Module]:
    """What comes before the layers: the words of the text encoder, and the backbone's stem and stages.

    A backbone that takes images of each size separately runs a different number of times in each process, which then
    must not gather weights each time.
    """
    words: Any = network.transformer.text_encoder.roberta
    stages = network.backbone.body.children() if network.config.official_compat else ()
    return [words.embeddings, *(stage for stage in stages if any(True for _ in stage.parameters()))]
