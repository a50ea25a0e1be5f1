"""The stages in DAG order: each follows those whose tables it reads."""

from __future__ import annotations

from pipeline.runtime.stage import Stage
from pipeline.stages.caption import CaptionStage
from pipeline.stages.detect import DetectStage
from pipeline.stages.evaluate import EvaluateStage
from pipeline.stages.fingerprint import FingerprintStage
from pipeline.stages.import_tagger import ImportTaggerStage
from pipeline.stages.ingest import IngestStage
from pipeline.stages.overlap import OverlapStage
from pipeline.stages.parse import ParseStage
from pipeline.stages.pretrain import PretrainStage, TrainTaggerStage
from pipeline.stages.shard import ShardStage, ShardTaggerStage
from pipeline.stages.split import SplitStage
from pipeline.stages.tag import TagStage
from pipeline.stages.verify import VerifyStage

STAGES: tuple[type[Stage], ...] = (
    IngestStage,
    DetectStage,
    FingerprintStage,
    CaptionStage,
    ParseStage,
    ShardTaggerStage,
    TrainTaggerStage,
    ImportTaggerStage,
    TagStage,
    VerifyStage,
    SplitStage,
    ShardStage,
    OverlapStage,
    PretrainStage,
    EvaluateStage,
)

_PLACES = {stage.name: place for place, stage in enumerate(STAGES)}


def chain_order(step: str) -> tuple[int, str]:
    """A sort key that puts step names (e.g. `shard:pseudo`) in DAG order. Steps of unknown stages come last."""
    return _PLACES.get(step.partition(":")[0], len(STAGES)), step
