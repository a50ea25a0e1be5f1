"""Stage `import_tagger`: imports a trained tagger, from another run or a file, instead of training one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa

from pipeline.runtime.settings import Settings, file_read, runtime
from pipeline.runtime.stage import Inputs, Output, ReportProgress, Stage
from pipeline.training.config import MODEL, VOCABULARY
from pipeline.training.settings import CALIBRATION
from pipeline.training.vocabulary import is_tokenizer, tokenizer_files, tokenizer_of
from storage.errors import FatalError, first_line
from storage.open_store import existing_store
from storage.runs import find_run
from storage.tables import METRICS, read_table

_STEPS = ("train_tagger", "import_tagger")
_METRICS = "tagger.parquet"


class ImportTaggerSettings(Settings):
    """Where the tagger comes from; filled in from the sections `tag` and `train_tagger`."""

    weights: str = file_read("")
    """A weights file, a folder with one, or a run of the store (`demo`, `demo@2`)."""
    store: str = runtime("")
    tokenizer: Path | None = file_read(None)
    """Folder of the tokenizer, for weights that have none next to them."""
    image_size: int = 800
    """Side that images are scaled to, for weights without a vocabulary.json next to them, which would state it."""


class ImportTaggerStage(Stage):
    """Makes the same artifact as `train_tagger` does, so that equal weights lead to the same keys downstream."""

    name = "import_tagger"
    version = 1
    writes = "tagger"
    schema = METRICS
    whole = True
    settings: ImportTaggerSettings

    def files(self) -> dict[str, Path]:
        """The files of the tagger. Raises `FatalError` that says what is missing where."""
        settings: ImportTaggerSettings = self.settings
        found = _files(settings.weights, settings.store)
        if is_tokenizer(found):
            return found
        named, beside = f"tag.weights = {settings.weights}", next(iter(found.values()))
        return found | tokenizer_of(beside, settings.tokenizer, named, "train_tagger.tokenizer")

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Copy the files. Weights alone know no names; then images are scaled as the settings say."""
        found = self.files()
        metrics = found.pop(_METRICS, None)
        files = {name: Path(shutil.copyfile(path, work / name)) for name, path in found.items()}
        if VOCABULARY not in files:
            files[VOCABULARY] = work / VOCABULARY
            vocabulary = {"objects": [], "predicates": [], "image_size": self.settings.image_size}
            files[VOCABULARY].write_text(json.dumps(vocabulary))
        table = METRICS.empty_table() if metrics is None else _metrics(metrics)
        return Output(table, files, rows_in=0, rows_out=0, facts={"from": self.settings.weights})


def _metrics(path: Path) -> pa.Table:
    """The metrics of the training run. Raises `FatalError` for an invalid file."""
    try:
        return read_table(path, METRICS)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise FatalError(
            f"{path}: not the metrics of a tagger's training ({first_line(error)}); remove it or copy it again"
        ) from error


def _files(weights: str, store: str) -> dict[str, Path]:
    path = Path(weights)
    file = path if path.suffix == ".safetensors" else path / MODEL
    if file.is_file():
        beside = {name: file.parent / name for name in (VOCABULARY, CALIBRATION, _METRICS)}
        known = {name: each for name, each in beside.items() if each.is_file()}
        return {MODEL: file, **known, **tokenizer_files(file.parent)}
    if path.is_file():
        raise FatalError(f"tag.weights = {weights}: not a .safetensors file; convert it with `rlip weights import`")
    try:
        run = find_run(existing_store(store), weights)
    except FatalError as error:
        raise FatalError(f"tag.weights = {weights}: neither a file nor a run (no file {file}; {error})") from error
    # A run keeps the taggers of its earlier recipes. Of those of several folds, the first counts.
    recipe = run.read_document("recipe")
    folds = recipe.get("train_tagger", {}).get("folds", 1)
    trained = "train_tagger" if folds == 1 else "train_tagger:0"
    own = "import_tagger" if recipe.get("tag", {}).get("weights") else trained
    taggers = (name for name in run.steps() if name.partition(":")[0] in _STEPS)
    for step in sorted(taggers, key=lambda name: (name != own, name)):
        for artifact in run.artifacts(step).values():
            # A remote store fetches each file on its own, so that none lies beside another.
            return {name: artifact.file(name) for name in artifact.manifest.files}
    raise FatalError(f"tag.weights = {weights}: run {run.name!r} has no tagger; run its recipe until train_tagger")
