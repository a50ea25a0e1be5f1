"""Imports and exports runs in external formats: the authors' files, COCO, HICO-DET and Visual Genome."""
