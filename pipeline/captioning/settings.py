"""Settings of captioning: which captioner to use, and how it decodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from pipeline.runtime.devices import DEVICES
from pipeline.runtime.plugins import PluginName, PluginOptions, PluginSettings
from pipeline.runtime.settings import data_file, file_read, runtime

Decoding = Literal["nucleus", "beam"]
KINDS = ("image", "box", "pair")
"""What a caption describes, by the number of its boxes."""
REGION_SETTINGS = {"of", "max_regions", "context"}


class CaptionSettings(PluginSettings):
    """How images are captioned. Defaults are the authors': ten nucleus draws per image (docs/labels.md, Decoding)."""

    section: ClassVar[str] = "caption"
    group: ClassVar[str] = "captioners"
    named_by: ClassVar[str] = "captioner"

    captioner: Annotated[str, AfterValidator(PluginName("captioners"))] = "blip"
    """What makes captions. blip: BLIP in transformers; lavis: BLIP in LAVIS; recorded: files of captions; openai: a
    vision-language model behind an HTTP endpoint (docs/labels.md); or one of another package."""
    options: PluginOptions = runtime(PluginOptions())
    """Settings of a captioner of another package, which are part of the key."""
    of: tuple[Literal["image", "box", "pair"], ...] = Field(("image",), min_length=1)
    """What captions describe, one or more of: the whole image, a box, a pair of boxes. Candidates of a caption contain
    its boxes."""
    max_regions: int = Field(10, ge=1)
    """box, pair: maximum number of each per image: the largest boxes, and the pairs with the highest prior by size and
    distance."""
    context: float = Field(0.25, ge=0, le=10)
    """box, pair: margin of the crop around the rectangle, on each side, as a share of its size. The rectangle is
    outlined in red, unless this is 0."""
    model: str = file_read("Salesforce/blip-image-captioning-large")
    """The captioner's model. blip: a folder, or a name on the Hugging Face hub; lavis: a folder with one BLIP
    checkpoint (`*.pth`) and `vocab.txt`."""
    hub: bool = runtime(False)
    """Allow downloading BLIP's or the filter's model from the Hugging Face hub."""
    decoding: Decoding = "nucleus"
    """nucleus: sampling; beam: beam search, with one caption per image; settings marked nucleus have no effect."""
    draws: int = Field(default=10, ge=1, le=256)
    """nucleus: number of captions per image."""
    top_p: float = Field(default=0.9, gt=0, le=1)
    """nucleus: tokens are drawn from the smallest set of most probable ones that reaches this probability."""
    top_k: int = Field(default=50, ge=0)
    """nucleus: tokens are drawn from at most this many most probable ones, 0 for all; the authors' default is 50."""
    temperature: float = Field(default=1.0, ge=0)
    """nucleus: divisor of the logits; 0 takes the most probable token, so all draws are the same."""
    max_length: int = Field(default=20, ge=2, le=128)
    """Maximum length of a caption in tokens, with the begin token and the prompt."""
    min_length: int = Field(default=5, ge=0)
    """Minimum length of a caption in tokens, with the begin token and the prompt."""
    repetition_penalty: float = Field(default=1.1, gt=0)
    """nucleus: divisor of positive and factor of negative logits of tokens that already occurred, including in the
    prompt."""
    prompt: str = "a picture of "
    """Text with which the model starts a caption; it is removed from the result."""
    num_beams: int = Field(default=3, ge=1, le=32)
    """Number of beams of beam search."""
    merge_draws: bool = False
    """Merge equal captions of an image, box or pair, with their number as `times`. Merged captions support a label
    as one, which lowers its probability."""
    filter: str = file_read("")
    """Folder or hub name of a `BlipForImageTextRetrieval` whose matching head scores every caption (CapFilt). "": no
    filter."""
    match_at_least: float = Field(default=0.5, ge=0, le=1)
    """filter: minimum probability that a caption matches its image. 0 only stores the score."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """nucleus: seed of the random numbers."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Number format of the captioner and the filter; lavis: float32 only. auto: bfloat16 if the device has instructions
    for it, else float32; the key records which."""
    device: str = runtime("auto", pattern=DEVICES)
    """Where models run: cpu, cuda (workers take GPUs in turn), cuda:1 (that GPU), or auto (GPUs, else CPU)."""
    batch_size: int = runtime(32, ge=1)
    """Images, or crops of them, per batch of the network."""
    answers: Path | None = runtime(None)
    """openai: SQLite file of this machine's responses, on a local disk. Unset: answers.sqlite in the store, or in this
    machine's copies of a store at a URL."""
    lavis_python: Path = runtime(Path(".lavis/bin/python"))
    """lavis: Python interpreter of the environment built by `make lavis-env`."""
    recorded: tuple[Path, ...] = data_file(())
    """recorded: caption files (docs/labels.md, Decoding); an image gets the captions of all files."""

    @field_validator("of", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    def row_settings(self) -> dict[str, Any]:
        """The settings that change captions. Those of whole images are the ones from before `of`, so that keys stay."""
        # Keys hold the default of `dense`, which `of` replaced.
        found = super().row_settings() | {"dense": "no", "dense_pairs": 100}
        return found if self.crops else {name: found[name] for name in found if name not in REGION_SETTINGS}

    @property
    def crops(self) -> bool:
        """Whether anything but whole images is captioned."""
        return self.of != ("image",)

    @property
    def regions(self) -> int:
        """What is captioned of an image, at most."""
        return sum(1 if kind == "image" else self.max_regions for kind in self.of)

    @model_validator(mode="after")
    def _consistent(self) -> CaptionSettings:
        if len({*self.of}) < len(self.of):
            raise ValueError(f"of: {[*self.of]} names one twice")
        if self.captioner == "recorded" and not self.recorded:
            raise ValueError("recorded: name at least one caption file, or set captioner to 'blip'")
        if self.captioner == "recorded" and self.filter and self.crops:
            raise ValueError(
                f"filter: it would compare recorded captions of {[*self.of]} with whole images; set it in the run that "
                "makes the captions, or of = 'image'"
            )
        if self.captioner == "lavis" and self.precision == "bfloat16":
            raise ValueError(f"precision: {self.precision} needs captioner 'blip'; 'lavis' supports float32 only")
        if self.captioner == "lavis" and self.device.startswith("cuda"):
            raise ValueError(f"device: {self.device!r} needs captioner 'blip'; 'lavis' runs on the CPU only")
        if self.min_length > self.max_length:
            raise ValueError(f"min_length: {self.min_length} is above max_length ({self.max_length})")
        return self

    def planned(self) -> Self:
        """As for every stage, but LAVIS computes only in float32."""
        is_fixed = self.captioner == "lavis" and self.precision == "auto"
        return self.model_copy(update={"precision": "float32"}) if is_fixed else super().planned()
