"""Labels candidates by forced choice of a vision-language model behind an endpoint (docs/labels.md)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field

from pipeline.runtime.chat_endpoint import Answer, ChatEndpoint, ChatOptions, jpeg, shrunk
from pipeline.runtime.settings import file_read
from pipeline.runtime.stage import named_files
from pipeline.stages.labellers import LabellerPlugin, OpenLabeller
from storage.artifact import Artifact
from storage.errors import FatalError
from tagger.candidates.cooccurrence import Table, read_cooccurrence
from tagger.labelling.calibration import Stack
from tagger.labelling.forced_choice import (
    INSTRUCTIONS,
    MOST_CHOICES,
    Question,
    boxes_in,
    chosen,
    probabilities_of,
    prompt_of,
    questions_of,
    relations_of,
    schema_of,
)
from tagger.labelling.tagging_image import Labels, Problem, TaggingImage
from tagger.matching import AuthorsFileError

if TYPE_CHECKING:
    from torch import Tensor

_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#f032e6", "#9a6324")
_ALTERNATIVES = 20
"""Tokens whose log-probabilities are asked for: the maximum that the API allows."""


_PREPARED = 2
"""Maximum number of full-size images in memory, at twelve bytes per pixel."""


class VlmOptions(ChatOptions):
    """Labeller "vlm": the endpoint, the choices of the model, and the request rate."""

    max_tokens: int = Field(1000, ge=1)
    """Maximum tokens of a response, about seven per question. A truncated response is not used."""
    image_size: int = Field(1024, ge=32)
    """Longest side in pixels of the image that is sent, as JPEG, with the boxes drawn and numbered."""
    ask: Literal["pair", "label"] = "pair"
    """The question. pair: which one of its predicates a pair has, if any; label: whether each label holds."""
    usual: Path | None = file_read(None)
    """JSON file of further choices, by category pair, from `rlip export --format cooccurrence`."""
    choices: int = Field(12, ge=1, le=MOST_CHOICES)
    """Predicates per question: those proposed by captions, then the most frequent of `usual`. A pair with more gets
    several questions."""
    questions: int = Field(50, ge=1, le=200)
    """Questions per request. An image with more takes several requests."""


class Vlm(LabellerPlugin):
    """Any model behind an OpenAI-compatible chat API. Its probability of a choice is that of the label."""

    version = 3
    Options = VlmOptions
    options: VlmOptions

    def files(self) -> dict[str, Path]:
        """The file of usual predicates."""
        return named_files(f"{self.settings.section}.options", {"usual": self.options.usual})

    def open(self, taggers: Sequence[Artifact], worker: int) -> list[OpenLabeller]:
        """Opens the journal and reads the usual predicates."""
        options, section, journal = self.options, self.settings.section, self.settings.answers
        assert journal is not None, "a recipe resolves it"
        try:
            usual = {} if options.usual is None else read_cooccurrence(options.usual)
        except AuthorsFileError as error:
            raise FatalError(f"{section}.options.usual: {error}") from error
        endpoint = ChatEndpoint(options, journal, section, INSTRUCTIONS)
        labeller = VlmLabeller(options, endpoint, usual, self.settings.floor)
        # What a model that has seen the image says of a pair holds of that pair: priors add nothing to it.
        itself = Stack(tagger=1.0, prior=0.0, posterior=0.0, captions=0.0, offset=0.0)
        return [OpenLabeller(labeller, f"vlm {options.model}", None, itself)]


class VlmLabeller:
    """Asks about the candidates of images, many images at once."""

    def __init__(self, options: VlmOptions, endpoint: ChatEndpoint, usual: Table, floor: float) -> None:
        self._options, self._endpoint, self._usual, self._floor = options, endpoint, usual, floor
        self.take_tokens = endpoint.take_tokens
        self._preparing = BoundedSemaphore(_PREPARED)

    def label(
        self, images: Sequence[TaggingImage], progress: Callable[[int], None] = lambda done: None
    ) -> list[Labels]:
        """The labels of each image. One with an unusable answer gets a problem; one without candidates isn't loaded.

        Raises `RetryableError` when the endpoint stays unreachable.
        """
        labels = []
        with self._endpoint.threads() as pool:
            for each in [pool.submit(self._label, image) for image in images]:
                labels.append(each.result())
                progress(len(labels))
        return labels

    def _label(self, image: TaggingImage) -> Labels:
        options = self._options
        questions = list(questions_of(image, self._usual, options.choices, options.ask == "label"))
        if not questions:
            return Labels()
        parts = [questions[start : start + options.questions] for start in range(0, len(questions), options.questions)]
        with self._preparing:
            pixels = image.load()
            if isinstance(pixels, Problem):
                return Labels(problem=pixels)
            sent = [jpeg(_marked(image, pixels, part, options.image_size)) for part in parts]
            # Before the next image may be loaded: `_PREPARED` limits the whole images in memory.
            del pixels
        answers: list[list[float]] = []
        for part, encoded in zip(parts, sent, strict=True):
            found = self._ask(image, part, encoded)
            if isinstance(found, Problem):
                return Labels(problem=found)
            answers += found
        return Labels(relations_of(image, questions, answers, self._floor))

    def _ask(self, image: TaggingImage, questions: Sequence[Question], encoded: bytes) -> list[list[float]] | Problem:
        """The probability of each choice of each question: the mean over all samples."""
        schema = {"name": "choices", "strict": True, "schema": schema_of(questions)}
        more: dict[str, Any] = {"response_format": {"type": "json_schema", "json_schema": schema}}
        if self._options.samples == 1:  # some servers refuse requests with what they don't have
            more |= {"logprobs": True, "top_logprobs": _ALTERNATIVES}
        prompt, samples = prompt_of(image, questions), []

        def read(text: str, choice: Mapping[str, Any]) -> Answer:
            letters = chosen(text, questions)
            known = probabilities_of((choice.get("logprobs") or {}).get("content") or (), questions)
            return Answer(json.dumps(letters if known is None else known))

        for sample in range(self._options.samples):
            answer = self._endpoint.ask(encoded, prompt, sample, read, **more)
            if answer.fault:
                return Problem(answer.fault, answer.text)
            samples.append(self._shares(json.loads(answer.text), questions))
        return [np.mean(of_question, axis=0).tolist() for of_question in zip(*samples, strict=True)]

    def _shares(self, said: str | list[list[float]], questions: Sequence[Question]) -> list[list[float]]:
        """The probabilities that an answer gives, or 1 for the letters that it chose."""
        if not isinstance(said, str):
            return said
        options = self._options
        # At temperature 0, all samples are alike.
        if options.samples == 1 or not options.temperature:
            raise FatalError(
                f"{options.base_url} returns no log-probabilities, and a single response has no probability; set "
                "samples to 5 or more and temperature to about 1"
            )
        return [
            [float(letter == each) for each in question.letters]
            for letter, question in zip(said, questions, strict=True)
        ]


def _marked(image: TaggingImage, pixels: Tensor, questions: Sequence[Question], side: int) -> Image.Image:
    """The image with the boxes that questions are about, each with its number, counted from 1.

    `pixels`: 3×H×W in [0, 1].
    """
    whole = Image.fromarray((pixels.permute(1, 2, 0) * 255).round().byte().numpy())
    seen = shrunk(whole, side)
    draw, font = ImageDraw.Draw(seen), ImageFont.load_default(size=max(seen.size) / 50 + 8)
    across, down = seen.width / image.width, seen.height / image.height
    for number in boxes_in(questions):
        box, colour = image.boxes[number], _COLOURS[number % len(_COLOURS)]
        left, top = box.x * across, box.y * down
        draw.rectangle((left, top, left + box.w * across, top + box.h * down), outline=colour, width=2)
        place, text = (max(left, 0.0) + 2, max(top, 0.0) + 1), str(number + 1)
        draw.rectangle(draw.textbbox(place, text, font), fill=colour)
        draw.text(place, text, fill="white", font=font)
    return seen
