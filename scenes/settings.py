"""Settings of a written dataset of synthetic scenes."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class SceneSettings(BaseModel):
    """The synthetic world, written to `data.root` if it is missing. The same settings always give the same bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(1, ge=0, le=10**9)
    """Seed from which each part's own seed is derived, so that parts share no scene."""
    world: Literal[1, 2] = 1
    """1: relations that mostly follow from boxes; 2: also actions that only pixels distinguish, in many wordings, some
    only in the test part."""
    train: int = Field(1000, ge=1, le=10**6)
    """Number of images to label in COCO's layout: instances, captions, and the planted relations for comparison."""
    objects365: int = Field(0, ge=0, le=10**6)
    """Number of images to label in Objects365's layout."""
    relations: int = Field(500, ge=0, le=10**6)
    """Number of images with relations in Visual Genome's layout, to train the tagger on."""
    test: int = Field(200, ge=0, le=10**6)
    """Number of images in HICO-DET's layout, to evaluate on."""
    quality: int = Field(90, ge=50, le=100)
    """JPEG quality."""
    processes: int = Field(2, ge=1, le=64)
    """Number of drawing processes. Does not change the output."""

    def content(self) -> dict[str, Any]:
        """Returns the fields that change the output. The first world is meant without `world`, as in older folders."""
        return self.model_dump(exclude={"processes"} | ({"world"} if self.world == 1 else set()))
