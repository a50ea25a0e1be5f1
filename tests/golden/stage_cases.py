"""One small real case per stage: its settings, what it reads, and the rows that come out, as plain values.

Each stage reads the recorded rows of the stage above, so that a change in one stage shows in that stage alone.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from models.config import NetworkConfig
from models.relation_tagger import RelationTagger
from models.weights import save
from pipeline.captioning.settings import CaptionSettings
from pipeline.data.datasets.source import DataSource
from pipeline.runtime.execute import WorkItem, execute
from pipeline.runtime.stage import Inputs, Stage
from pipeline.stages.caption import CaptionStage
from pipeline.stages.ingest import IngestSettings, IngestStage
from pipeline.stages.parse import ParseSettings, ParseStage
from pipeline.stages.shard import ShardSettings, ShardStage
from pipeline.stages.tag import TagSettings, TagStage
from storage.artifact import Artifact
from storage.keys import KeyTerms
from storage.local_store import LocalStore
from storage.tables import CANDIDATES, CAPTIONS, IMAGES, RELATIONS, TRIPLETS, write_table
from tagger.labelling.calibration import Calibration, PlattScaling

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PICTURES = HERE / "pictures"
TABLES = {"images": IMAGES, "captions": CAPTIONS, "triplets": TRIPLETS, "relations": RELATIONS}
WRITER = {"images": "ingest", "captions": "caption", "triplets": "parse", "relations": "tag"}

SENTENCES = (
    "a man riding a brown horse on the beach", "two dogs are lying on a couch next to a cat",
    "a woman in a red coat holding an umbrella over her head", "there is a bird that sits on top of a wooden bench",
    "a person being pulled by a boat", "a cup of coffee and a laptop on a desk in front of a window",
    "the boy is about to throw the frisbee to his friend", "a tall building",
)  # fmt: skip
"""Captions for the parser beside the recorded ones: one construction each."""


def stages() -> dict[str, Stage]:
    """The stages whose rows may change only with their version, by name."""
    source = DataSource(
        name="golden", format="coco", images=PICTURES, annotations=PICTURES / "instances.json",
        relations=PICTURES / "relations.json",
    )  # fmt: skip
    folders = {"golden": PICTURES}
    captioner = CaptionSettings(model=str(ROOT / "scenes/weights/captioner"), draws=10)
    return {
        "ingest": IngestStage(IngestSettings(sources=(source,)), folders),
        "caption": CaptionStage(captioner, folders),
        "parse": ParseStage(ParseSettings(), folders),
        "tag": TagStage(TagSettings(floor=0.0), folders),
        "shard": ShardStage(ShardSettings(threshold=0.012), folders),
    }


def recorded(stage: str) -> dict[str, Any]:
    """What is recorded of a stage: `version` and `rows`."""
    found: dict[str, Any] = json.loads((HERE / "rows" / f"{stage}.json").read_bytes())
    return found


def rows_of(stage: Stage, folder: Path) -> list[dict[str, Any]]:
    """Run the stage's case in a store of its own. The last row of a shard is the digest of its tar."""
    given = {"tagger": (tagger(folder / "tagger"),)} if stage.name == "tag" else {}
    stage.open(Inputs({name: tuple(Artifact(path) for path in paths) for name, paths in given.items()}))
    inputs = {table: (_inputs(stage.name, table, folder / table),) for table in stage.reads}
    item = WorkItem(stage.name, "golden/0000", KeyTerms(stage.name, stage.version, {}, {}), inputs, (1, 2, 9))
    store = LocalStore(folder / "store")
    artifact = store.find(stage.name, execute(stage, item, store, lambda done, total, note="": None).key)
    assert artifact is not None
    rows: list[dict[str, Any]] = artifact.table(stage.writes).to_pylist()
    files = artifact.manifest.files
    rows += [{"tar": files[name].digest} for name in sorted(files) if name.endswith(".tar")]
    return rows


def _inputs(stage: str, table: str, folder: Path) -> Path:
    """A folder with the recorded rows of `table`, and further captions for the parser."""
    rows = recorded(WRITER[table])["rows"]
    if stage == "parse":
        plain = {"seed": 0, "log_probability": None, "source": "hand"}
        rows = [*rows, {"image_id": 3, "captions": [{"text": s, "draw": d, **plain} for d, s in enumerate(SENTENCES)]}]
    folder.mkdir()
    write_table(pa.Table.from_pylist(rows, schema=TABLES[table]), folder / f"{table}.parquet")
    write_table(CANDIDATES.empty_table(), folder / "candidates.parquet")
    return folder


def tagger(folder: Path) -> Path:
    """A small tagger whose weights follow from their names, so that machines and releases of torch agree on them."""
    tokenizer = ROOT / "scenes/weights/text"
    text = {"hidden": 32, "layers": 1, "heads": 2, "feedforward": 64, "vocabulary": 1000, "max_positions": 24}
    config = NetworkConfig.from_dict(
        {
            "architecture": "parsed", "tagger": True, "backbone": "test_resnet", "backbone_norm": "group",
            "backbone_strides": [8, 16], "levels": 3, "width": 32, "heads": 2, "encoder_layers": 1,
            "decoder_layers": 1, "feedforward": 64, "pairs": 8, "fusion_width": 32, "fusion_heads": 2,
            "fusion_interval": 1, "text": text,
        }
    )  # fmt: skip
    folder.mkdir()
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    network = RelationTagger(config, folder)
    with torch.no_grad():
        # RandomState: the one generator whose numbers never change between releases.
        for name, values in network.named_parameters():
            generator = np.random.RandomState(zlib.crc32(name.encode()))
            matrix = values.dim() > 1
            drawn = generator.normal(0, values[0].numel() ** -0.5 if matrix else 0.1, values.shape)
            values.copy_(torch.from_numpy(drawn + (not matrix and name.endswith("weight"))))
    save(network, folder / "model.safetensors")
    vocabulary = {"objects": ["person", "dog"], "predicates": ["ride", "hold", "next to", "on"], "image_size": 96}
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary))
    (folder / "calibration.json").write_bytes(
        Calibration(PlattScaling(0.9, 0.5), {"on": PlattScaling(1.2, -0.1)}).to_json()
    )
    return folder


def settle(rows: list[dict[str, Any]], stage: str) -> list[dict[str, Any]]:
    """Rows as they are recorded: plain JSON, floats to six digits, the relations of an image sorted by their terms."""
    settled: list[dict[str, Any]] = json.loads(json.dumps(rows), parse_float=lambda text: float(f"{float(text):.6g}"))
    if stage == "tag":
        key: Callable[[dict[str, Any]], tuple[Any, ...]] = lambda r: (r["subject"], r["object"], r["predicate"])  # noqa: E731
        for row in settled:
            row["relations"].sort(key=key)
    return settled
