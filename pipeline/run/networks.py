"""Checks of the networks that a recipe trains or imports, before any work: they are built, and their weights and
tokenizers read.

Networks are built without memory for their parameters, which takes a second; loading torch takes longer. A fork does
both, at little cost: workers need what the process that it is forked from has then loaded. If all networks are fit, a
run notes its findings, and the next run and the doctor reuse them while nothing has changed.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from pipeline.run.context import RunContext
from pipeline.run.dag import Step
from pipeline.runtime.execute import installed_version
from pipeline.runtime.processes import in_fork
from pipeline.stages.import_tagger import ImportTaggerStage
from pipeline.training.config import MODEL, VOCABULARY
from pipeline.training.settings import TrainingSettings
from pipeline.training.vocabulary import TrainedNames, is_tokenizer, tokenizer_files
from storage.digests import digest_json
from storage.errors import FatalError, PipelineError

FIT = "fit"
"""Name of the run's note with the findings about networks that passed."""
ROBERTA_BASE = {"hidden": 768, "layers": 12}
"""Text encoders from this size on learn nothing useful from the labels of a relation dataset alone."""


@dataclass(frozen=True)
class Finding:
    """The result of one check. Only state `missing` stops a run."""

    state: Literal["ok", "missing", "note"]
    what: str
    detail: str


def networks(context: RunContext, note: bool = False) -> list[Finding]:
    """Build each network of a recipe, and compare pretrained weights and an imported tagger with it.

    With `note`, the findings are kept with the run if none is missing. Then nothing is built again while settings,
    files and machine stay the same.
    """
    with suppress(PipelineError, ValidationError):  # a store that can't be opened is reported by itself
        noted = context.run.read_document(FIT)
        if noted.get("stamp") == _stamp(context):
            return TypeAdapter(list[Finding]).validate_python(noted.get("found"))
    findings = list(_examined(context))
    if note and all(finding.state != "missing" for finding in findings):
        context.run.note(FIT, {"stamp": _stamp(context), "found": [asdict(finding) for finding in findings]})
    return findings


def _stamp(context: RunContext) -> str:
    """Digest of what decides whether networks are fit: the machine, its GPUs and packages, settings and files."""
    packages = map(installed_version, ("rlip", "torch", "timm", "transformers"))
    machine = [platform.node(), os.environ.get("CUDA_VISIBLE_DEVICES"), *packages]
    steps = [[step.name, step.settings.model_dump(mode="json"), _files(step), here] for step, here in _steps(context)]
    return digest_json([machine, steps])


def _examined(context: RunContext) -> Iterator[Finding]:
    yield from random_starts(context.steps)
    if steps := _steps(context):
        try:
            yield from in_fork(None, _built, steps)
        except ChildProcessError as error:
            yield Finding("missing", "networks", f"building them: {error}; its output is above")


def _built(steps: Iterable[tuple[Step, bool]]) -> list[Finding]:
    findings = []
    for step, here in steps:
        try:
            detail = _imported(step) if step.stage is ImportTaggerStage else _trained(step.settings, here)
            findings.append(Finding("ok", f"{step.name} network", detail))
        except FatalError as error:
            findings.append(Finding("missing", f"{step.name} network", str(error)))
    return findings


def _steps(context: RunContext) -> list[tuple[Step, bool]]:
    """The steps with a network, each with whether this process computes it."""
    return [
        (step, step in context.computed)
        for step in context.steps
        if step.stage is ImportTaggerStage or isinstance(step.settings, TrainingSettings)
    ]


def _files(step: Step) -> list[Any]:
    """Size and time of the files that a network starts from."""
    try:
        paths = step.stage(step.settings).files().values()
        files = [file for path in paths for file in (path, *tokenizer_files(path).values())]
        return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    except (OSError, PipelineError):
        return []


def _trained(settings: Any, here: bool) -> str:
    """Builds the network of a training run. Raises `FatalError` when it can't be built, or can't be trained `here`."""
    import torch

    from models.weights import build, shared_names
    from models.weights_file import WeightsError
    from pipeline.training.launch.meeting import require_gpus

    try:
        with torch.device("meta"):
            network = build(settings.network, None)
    except Exception as error:  # timm raises what it likes for stages that a model does not have
        raise FatalError(f"{error}; change the section's `network`") from error
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    if here:  # with on_pools, another machine trains
        require_gpus(settings)
    name = settings.network.backbone
    if settings.pretrained is None:
        _require_tokenizer(settings.tokenizer, settings)
        return f"{type(network).__name__} with {name}, from random weights"
    try:
        taken = len(shared_names(settings.pretrained, settings.network, own))
    except (OSError, WeightsError) as error:
        remedy = "convert some with `rlip weights import` (docs/training_recipes.md)"
        raise FatalError(
            f"pretrained: {error}{f'; {remedy}' if isinstance(error, FileNotFoundError) else ''}"
        ) from error
    _require_tokenizer(settings.tokenizer or settings.pretrained.parent, settings)
    rest = ", the others random" if taken < len(own) else ""
    return f"{type(network).__name__} with {name}; {taken} of {len(own)} entries from {settings.pretrained}{rest}"


def _require_tokenizer(folder: Path | None, settings: Any) -> None:
    """Raises `FatalError` when the folder's tokenizer can't be read, or does not fit the text encoder."""
    from models.config import ConfigError
    from models.text_encoder import load_tokenizer

    # None is asked for, or the doctor's line of the file says so.
    if folder is None or not is_tokenizer(tokenizer_files(folder)):
        return
    try:
        load_tokenizer(folder, settings.network.text)
    except ConfigError as error:
        raise FatalError(str(error)) from error


def _imported(step: Step) -> str:
    """Reads the imported tagger. Raises `FatalError` when the file holds no tagger."""
    from models.weights_file import WeightsError, read_config

    files = step.stage(step.settings).files()
    try:
        config = read_config(files[MODEL])
    except (OSError, WeightsError) as error:
        raise FatalError(f"tag.weights: {error!s} ({files[MODEL]}); name the weights of a Relation Tagger") from error
    if not config.tagger:
        raise FatalError(
            f"tag.weights: {files[MODEL]} contains a detector, not a Relation Tagger; name the weights of a tagger"
        )
    if VOCABULARY in files:
        TrainedNames.read(files[VOCABULARY])
    return f"tagger with {config.backbone}, from {Path(files[MODEL])}"


def random_starts(steps: Iterable[Step]) -> Iterator[Finding]:
    """Reports training runs that start a network made for pre-trained weights from random ones, unless intended."""
    for step in steps:
        settings = step.settings
        if not isinstance(settings, TrainingSettings) or settings.pretrained is not None:
            continue
        parts, network = [], settings.network
        if network.backbone_norm == "frozen":
            parts.append(f'{network.backbone}, of which parts stay as they are (backbone_norm = "frozen")')
        if all(getattr(network.text, size) >= least for size, least in ROBERTA_BASE.items()):
            parts.append("a text encoder as large as roberta-base")
        if not parts:
            continue
        detail = f"starts from random weights: {', and '.join(parts)}"
        if not settings.random_start:
            section = "train_tagger" if step.stage.name == "train_tagger" else "pretrain.settings"
            detail += (
                f"; set {section}.pretrained to converted weights (docs/training_recipes.md says how to get them), or "
                f"{section}.random_start = true if this is intended"
            )
        yield Finding("note" if settings.random_start else "missing", f"{step.name} weights", detail)
