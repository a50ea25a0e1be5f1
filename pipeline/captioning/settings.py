"""Settings of the captioning: which captioner, how it decodes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from pipeline.runtime.settings import Settings, runtime

CaptionerName = Literal["blip", "lavis", "recorded"]
Decoding = Literal["nucleus", "beam"]


class CaptionSettings(Settings):
    """The defaults are the authors' (spec 1.3): ten nucleus draws an image, five to twenty tokens, prompt included."""

    captioner: CaptionerName = "blip"
    model: str = runtime("Salesforce/blip-image-captioning-large")
    """blip: a folder with config.json, model.safetensors and the tokenizer's files, or a name on the Hugging Face hub;
    its content is part of the key. lavis: a folder with one BLIP checkpoint (*.pth) and vocab.txt."""
    hub: bool = runtime(False)
    """blip: whether a model that is not on disk may be downloaded from the hub."""
    decoding: Decoding = "nucleus"
    """"beam" gives one caption an image, without `draws`, sampling settings and repetition penalty."""
    draws: int = Field(default=10, ge=1, le=256)
    top_p: float = Field(default=0.9, gt=0, le=1)
    top_k: int = Field(default=50, ge=0)
    """0 switches it off. The authors never set it, but their library's default of 50 was in force."""
    temperature: float = Field(default=1.0, ge=0)
    """0 takes the likeliest token at every step: all draws are then the same."""
    max_length: int = Field(default=20, ge=2, le=128)
    """In tokens, with the begin token and the prompt."""
    min_length: int = Field(default=5, ge=0)
    """Likewise."""
    repetition_penalty: float = Field(default=1.1, gt=0)
    """"nucleus" only: divides (or multiplies, below zero) the logits of tokens already there, the prompt's included."""
    prompt: str = "a picture of "
    """Begins every caption for the model, and is not part of the text that comes out."""
    num_beams: int = Field(default=3, ge=1, le=32)
    dense: Literal["no", "also", "only"] = "no"
    """blip: beam captions of the cut-outs around pairs of boxes, beside those of the whole image or instead of them."""
    dense_pairs: int = Field(default=100, ge=1, le=10_000)
    """dense: pairs of an image at most, the first in the order of its boxes."""
    merge_draws: bool = False
    """Whether draws of an image that say the same become one caption, the first, with `times`, their number."""
    filter: str = runtime("")
    """A folder (or a hub name) with a `BlipForImageTextRetrieval`, whose matching head then scores every caption (CapFilt
    of BLIP, section 3.3); its content is part of the key. "" for no filter."""
    match_at_least: float = Field(default=0.5, ge=0, le=1)
    """filter: captions of a lower probability to belong to their image are left out; 0 only stores the score."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    precision: Literal["float32", "bfloat16"] = "float32"
    device: str = runtime("auto", pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$")
    """"cpu", "cuda" (each worker takes a GPU, in turn), one GPU such as "cuda:1", or "auto": GPUs where there are any."""
    batch_size: int = runtime(32)
    """Images that go through the network together."""
    lavis_python: Path = runtime(Path(".lavis/bin/python"))
    """lavis: the Python of LAVIS's environment, which `make lavis-env` builds."""
    recorded: tuple[Path, ...] = runtime(())
    """recorded: files of captions (see `recorded.py`); an image's captions are those of all files, in order."""

    @model_validator(mode="after")
    def _consistent(self) -> CaptionSettings:
        if self.captioner == "recorded" and not self.recorded:
            raise ValueError("recorded: name at least one file of captions, or set captioner to 'blip'")
        if self.captioner == "lavis" and self.precision != "float32":
            raise ValueError(f"precision: {self.precision} is for captioner 'blip'; 'lavis' works in float32")
        if self.captioner == "lavis" and self.device.startswith("cuda"):
            raise ValueError(f"device: {self.device!r} is for captioner 'blip'; 'lavis' works on the CPU")
        if self.captioner != "blip" and self.dense != "no":
            raise ValueError(f"dense: {self.dense!r} needs captioner 'blip', not {self.captioner!r}")
        if self.min_length > self.max_length:
            raise ValueError(f"min_length: {self.min_length} is above max_length ({self.max_length})")
        if self.batch_size < 1:
            raise ValueError(f"batch_size: {self.batch_size} must be at least 1")
        return self
