"""Files of others: the authors' formats, COCO, HICO-DET and Visual Genome, in and out of runs."""
