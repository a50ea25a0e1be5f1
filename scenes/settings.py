"""Settings of a written data set of made scenes."""

from pydantic import BaseModel, ConfigDict, Field


class SceneSettings(BaseModel):
    """How many scenes of each part to write. The same settings always give the same bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(1, ge=0, le=10**9)
    """Each part draws its scenes from a seed of its own, derived from this one, so no scene is in two parts."""
    train: int = Field(1000, ge=1, le=10**6)
    """Images in COCO's layout, to be labelled: instances, captions, and the planted relations for comparison."""
    objects365: int = Field(0, ge=0, le=10**6)
    """Images in Objects365's layout, to be labelled too."""
    relations: int = Field(500, ge=0, le=10**6)
    """Images in Visual Genome's layout, with relations, to train the tagger on."""
    test: int = Field(200, ge=0, le=10**6)
    """Images in HICO-DET's layout, to evaluate on."""
    quality: int = Field(90, ge=50, le=100)
    """JPEG quality."""
    processes: int = Field(2, ge=1, le=64)
    """Processes that draw; changes no byte."""

    def content(self) -> dict[str, int]:
        """The fields that change what is written."""
        return self.model_dump(exclude={"processes"})
