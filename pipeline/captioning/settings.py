"""Settings of captioning: which captioner to use, and how it decodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pipeline.runtime.devices import best_precision
from pipeline.runtime.plugins import PluginOptions, RequireName
from pipeline.runtime.settings import Settings, data_file, file_read, runtime

Decoding = Literal["nucleus", "beam"]


class CaptionSettings(Settings):
    """How images are captioned. Defaults are the authors': ten nucleus draws per image (docs/labels.md, Decoding)."""

    captioner: Annotated[str, AfterValidator(RequireName("captioners"))] = "blip"
    """What makes captions. blip: BLIP in transformers; lavis: BLIP in LAVIS; recorded: files of captions; openai: a
    vision-language model behind an HTTP endpoint (docs/labels.md). Other packages
    can add captioners (docs/api.md)."""
    options: PluginOptions = runtime(PluginOptions())
    """Settings of a captioner of another package, which are part of the key."""
    model: str = file_read("Salesforce/blip-image-captioning-large")
    """The captioner's model; its content is part of the key. blip: a model folder, or a name on the Hugging Face
    hub; lavis: a folder with one BLIP checkpoint (`*.pth`) and `vocab.txt`."""
    hub: bool = runtime(False)
    """Whether BLIP's or the filter's model may be downloaded from the Hugging Face hub when it is not on disk."""
    decoding: Decoding = "nucleus"
    """Decoding. nucleus: sampling; beam: beam search, with one caption per image; the settings marked nucleus have no
    effect."""
    draws: int = Field(default=10, ge=1, le=256)
    """nucleus: number of captions per image."""
    top_p: float = Field(default=0.9, gt=0, le=1)
    """nucleus: tokens are drawn from the smallest set of most probable tokens that reaches this probability."""
    top_k: int = Field(default=50, ge=0)
    """nucleus: tokens are drawn from at most this many most probable ones, 0 for all; the authors' default is 50."""
    temperature: float = Field(default=1.0, ge=0)
    """nucleus: divisor of the logits; 0 takes the most probable token at every step, so that all draws are the same."""
    max_length: int = Field(default=20, ge=2, le=128)
    """Maximum length of a caption in tokens, counted with the begin token and the prompt."""
    min_length: int = Field(default=5, ge=0)
    """Minimum length of a caption in tokens, counted with the begin token and the prompt."""
    repetition_penalty: float = Field(default=1.1, gt=0)
    """nucleus: divisor of positive logits and factor of negative ones for tokens that occurred already, the prompt's
    included."""
    prompt: str = "a picture of "
    """Text with which every caption begins for the model; it is not part of the resulting text."""
    num_beams: int = Field(default=3, ge=1, le=32)
    """Number of beams of beam search."""
    dense: Literal["no", "also", "only"] = "no"
    """blip: beam captions of crops around pairs of boxes. no: none; also: beside the whole image's; only: alone."""
    dense_pairs: int = Field(default=100, ge=1, le=10_000)
    """dense: maximum number of pairs of boxes per image, taken in the order of its boxes."""
    merge_draws: bool = False
    """Whether equal captions of an image become one, the first of them, with their number as `times`."""
    filter: str = file_read("")
    """Folder or hub name of a `BlipForImageTextRetrieval` whose matching head scores every caption (CapFilt; BLIP,
    section 3.3). "": no filter."""
    match_at_least: float = Field(default=0.5, ge=0, le=1)
    """filter: minimum probability that a caption belongs to its image; others are excluded. 0 only stores the score."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """nucleus: seed of the random numbers, which follow from it, the image id, the draw and the position alone."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Number format of the captioner and the filter; lavis supports float32 only. auto: bfloat16 if the device has
    instructions for it, else float32, and the key holds which."""
    device: str = runtime("auto", pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$")
    """Where models run: "cpu", "cuda" (workers take GPUs in turn), "cuda:1" (that GPU), or "auto" (GPUs, else CPU)."""
    batch_size: int = runtime(32, ge=1)
    """Images per batch of the network."""
    answers: Path | None = runtime(None)
    """openai: SQLite file that keeps every answer that was paid for. Unset: answers.sqlite in the store."""
    lavis_python: Path = runtime(Path(".lavis/bin/python"))
    """lavis: Python interpreter of LAVIS's environment, which `make lavis-env` builds."""
    recorded: tuple[Path, ...] = data_file(())
    """recorded: files of captions (docs/labels.md, Decoding); an image gets those of all files, in order."""

    @model_validator(mode="after")
    def _consistent(self) -> CaptionSettings:
        if self.captioner == "recorded" and not self.recorded:
            raise ValueError("recorded: name at least one file of captions, or set captioner to 'blip'")
        if self.captioner == "lavis" and self.precision == "bfloat16":
            raise ValueError(f"precision: {self.precision} needs captioner 'blip'; 'lavis' supports float32 only")
        if self.captioner == "lavis" and self.device.startswith("cuda"):
            raise ValueError(f"device: {self.device!r} needs captioner 'blip'; 'lavis' runs on the CPU only")
        if self.captioner != "blip" and self.dense != "no":
            raise ValueError(f"dense: {self.dense!r} needs captioner 'blip', not {self.captioner!r}")
        if self.min_length > self.max_length:
            raise ValueError(f"min_length: {self.min_length} is above max_length ({self.max_length})")
        return self

    def planned(self) -> Self:
        """The same settings, with the precision that "auto" stands for on this machine."""
        if self.precision != "auto":
            return self
        precision = "float32" if self.captioner == "lavis" else best_precision(self.device)
        return self.model_copy(update={"precision": precision})
