"""What plug-ins of other packages are made of: a protocol for each group of entry points (docs/api.md)."""

from pipeline.captioning.captioner import Caption as Caption
from pipeline.captioning.captioner import Captioner as Captioner
from pipeline.captioning.captioner import CaptionerPlugin as CaptionerPlugin
from pipeline.data.datasets.reader import Reader as Reader
from pipeline.data.datasets.record import AnnotatedRelation as AnnotatedRelation
from pipeline.data.datasets.record import Box as Box
from pipeline.data.datasets.record import ImageRecord as ImageRecord
from pipeline.detection.detector import Detector as Detector
from pipeline.detection.weights_files import DetectorFiles as DetectorFiles
from pipeline.evaluation.benchmark import Evaluated as Evaluated
from pipeline.evaluation.benchmark import Metric as Metric
from pipeline.evaluation.detection import Detections as Detections
from pipeline.evaluation.summary import Figure as Figure
from pipeline.interop.export_run import Writer as Writer
from pipeline.interop.run_rows import RunRows as RunRows
from pipeline.interop.run_rows import Tally as Tally
from pipeline.interop.run_rows import relations_of as relations_of
from pipeline.runtime.settings import Settings as Settings
from pipeline.stages.labellers import Labeller as Labeller
from pipeline.stages.labellers import LabellerPlugin as LabellerPlugin
from pipeline.stages.labellers import OpenLabeller as OpenLabeller
from storage.errors import FatalError as FatalError
from storage.errors import RetryableError as RetryableError
from tagger.labelling.tagging_image import Labels as Labels
