"""File layout of a written set of scenes."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SceneFolders:
    """Paths below the root. Files of a part exist only if it has images."""

    root: Path

    @property
    def stamp(self) -> Path:
        """Settings of the set. The file exists only once the set is complete."""
        return self.root / "scenes.json"

    @property
    def coco_images(self) -> Path:
        """Holds 000000000001.jpg, ..."""
        return self.root / "coco" / "train"

    @property
    def coco_instances(self) -> Path:
        """Boxes and categories."""
        return self.root / "coco" / "annotations" / "instances_train.json"

    @property
    def coco_captions(self) -> Path:
        """Five captions per image."""
        return self.root / "coco" / "annotations" / "captions_train.json"

    @property
    def coco_relations(self) -> Path:
        """Planted relations as pairs of boxes."""
        return self.root / "coco" / "annotations" / "relations_train.json"

    @property
    def objects365_images(self) -> Path:
        """Holds patch0/objects365_v1_00000001.jpg, ..."""
        return self.root / "objects365" / "train"

    @property
    def objects365_instances(self) -> Path:
        """Boxes and categories, under Objects365's own file name."""
        return self.root / "objects365" / "zhiyuan_objv2_train.json"

    @property
    def objects365_relations(self) -> Path:
        """Planted relations as pairs of boxes."""
        return self.root / "objects365" / "relations_train.json"

    @property
    def vg_images(self) -> Path:
        """Holds 1.jpg, ..."""
        return self.root / "vg" / "images"

    @property
    def vg_relationships(self) -> Path:
        """Relations between objects."""
        return self.root / "vg" / "relationships.json"

    @property
    def vg_objects(self) -> Path:
        """All objects, including those without a relation."""
        return self.root / "vg" / "objects.json"

    @property
    def vg_image_data(self) -> Path:
        """Image sizes."""
        return self.root / "vg" / "image_data.json"

    @property
    def hico_images(self) -> Path:
        """Holds HICO_test2015_00000001.jpg, ..."""
        return self.root / "hico" / "images"

    @property
    def hico_test(self) -> Path:
        """Boxes and relations."""
        return self.root / "hico" / "test.json"

    @property
    def hico_verbs(self) -> Path:
        """List of verb names, whose ids count from 1."""
        return self.root / "hico" / "verbs.json"

    @property
    def hico_objects(self) -> Path:
        """Object name -> id."""
        return self.root / "hico" / "objects.json"
