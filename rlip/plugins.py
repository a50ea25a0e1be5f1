"""The protocols of plug-ins from other packages, one for each group of entry points (docs/api.md)."""

from pipeline.captioning.captioner import (
    Caption as Caption,
    Captioner as Captioner,
    CaptionerPlugin as CaptionerPlugin,
    ImageInput as ImageInput,
)
from pipeline.data.datasets.annotations import AnnotationError as AnnotationError
from pipeline.data.datasets.reader import Reader as Reader
from pipeline.data.datasets.record import (
    AnnotatedRelation as AnnotatedRelation,
    Box as Box,
    Draft as Draft,
    ImageRecord as ImageRecord,
)
from pipeline.data.images.refs import ImageRef as ImageRef
from pipeline.detection.detector import Detector as Detector
from pipeline.detection.settings import DetectSettings as DetectSettings
from pipeline.detection.weights_files import DetectorFiles as DetectorFiles
from pipeline.evaluation.benchmark import (
    ClassScore as ClassScore,
    Evaluated as Evaluated,
    Figure as Figure,
    Measured as Measured,
    Metric as Metric,
    Options as Options,
)
from pipeline.evaluation.detection import Detections as Detections
from pipeline.evaluation.relations import Relations as Relations
from pipeline.interop.export_run import Writer as Writer
from pipeline.interop.further_fields import keeps_fields as keeps_fields
from pipeline.interop.run_rows import RunRows as RunRows, Tally as Tally, relations_of as relations_of
from pipeline.runtime.settings import Settings as Settings
from pipeline.runtime.stage import Rejected as Rejected
from pipeline.stages.labellers import (
    Labeller as Labeller,
    LabellerPlugin as LabellerPlugin,
    OpenLabeller as OpenLabeller,
)
from storage.artifact import Artifact as Artifact
from storage.errors import FatalError as FatalError, RetryableError as RetryableError
from tagger.labelling.calibration import Stack as Stack
from tagger.labelling.tagging_image import Labels as Labels, TaggingImage as TaggingImage
from tagger.relation import Relation as Relation
