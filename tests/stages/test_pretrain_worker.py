"""What the processes of a pre-training tell each other about the test images that each has scored."""

import numpy as np

from pipeline.evaluation.detection import Detections
from pipeline.evaluation.relations import Interactions
from pipeline.evaluation.test_set import Scored
from pipeline.stages.pretrain_worker import _arrays, _scored
from pipeline.training.ranks import Ranks


def test_scores_reach_the_other_processes_bit_by_bit():
    draw = np.random.default_rng(0)

    def image(position: int, pairs: int) -> Scored:
        boxes = draw.random((3, pairs, 4)).astype(np.float32)
        labels = draw.integers(0, 9, (4, pairs))
        relations = Interactions(boxes[0], boxes[1], *labels[:3], draw.random(pairs))
        return Scored(position, relations, Detections(boxes[2], labels[3], draw.random(pairs).astype(np.float32)))

    images = [image(7, 5), image(2, 0)]
    every = Ranks().every({each.position: _arrays(each) for each in images})
    for told, own in zip([_scored(position, every[position]) for position in (7, 2)], images, strict=True):
        assert told.position == own.position
        for part in ("relations", "boxes"):
            found, stated = vars(getattr(told, part)), vars(getattr(own, part))
            assert found.keys() == stated.keys()
            for name, array in stated.items():
                assert found[name].dtype == array.dtype and np.array_equal(found[name], array)
