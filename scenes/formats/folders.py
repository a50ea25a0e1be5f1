"""Where a written set of scenes keeps its files."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SceneFolders:
    """Paths below the root; a part with no images has no files."""

    root: Path

    @property
    def stamp(self) -> Path:
        """The settings that the set was written with; present only when all is written."""
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
        """Five captions an image."""
        return self.root / "coco" / "annotations" / "captions_train.json"

    @property
    def coco_relations(self) -> Path:
        """The planted relations as pairs of boxes."""
        return self.root / "coco" / "annotations" / "relations_train.json"

    @property
    def objects365_images(self) -> Path:
        """Holds patch0/objects365_v1_00000001.jpg, ..."""
        return self.root / "objects365" / "train"

    @property
    def objects365_instances(self) -> Path:
        """Boxes and categories, as the set names its file."""
        return self.root / "objects365" / "zhiyuan_objv2_train.json"

    @property
    def objects365_relations(self) -> Path:
        """The planted relations as pairs of boxes."""
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
        """All objects, those in no relation too."""
        return self.root / "vg" / "objects.json"

    @property
    def vg_image_data(self) -> Path:
        """Images' sizes."""
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
        """A list of verb names; ids count from 1."""
        return self.root / "hico" / "verbs.json"

    @property
    def hico_objects(self) -> Path:
        """Object name to id."""
        return self.root / "hico" / "objects.json"
