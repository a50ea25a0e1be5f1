"""Captions from a vision-language model behind an endpoint (`pipeline/runtime/chat_endpoint.py`)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from operator import attrgetter
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.captioning.captioner import Caption, CaptionerPlugin, ImageInput
from pipeline.captioning.recorded import LONGEST_TEXT, clean
from pipeline.data.datasets.annotations import read_text
from pipeline.runtime.chat_endpoint import Answer, ChatEndpoint, ChatOptions, jpeg, shrunk
from pipeline.runtime.settings import file_read
from pipeline.runtime.stage import Rejected, named_files

PROMPT = (
    "List the relations between the objects in this image: what people and things do to each other, hold, wear or "
    "ride, and where they are. Write one short sentence with one subject and one object per line, and nothing else."
)
_MARKER = re.compile(r"^([-*•]+|\d{1,3}[.)](?!\d))\s*")
"""What begins an item of a list. The number of "2 dogs" is part of the caption."""


class EndpointOptions(ChatOptions):
    """Captioner "openai": the endpoint, its prompt, and the request rate."""

    prompt: str = PROMPT
    """The prompt for each image. Each line of the response is a caption."""
    prompt_file: Path | None = file_read(None)
    """File with the prompt, which replaces `prompt`."""


class OpenAi(CaptionerPlugin):
    """Any model behind an OpenAI-compatible chat API: vLLM, SGLang, llama.cpp, Ollama, hosted ones."""

    version = 1
    Options = EndpointOptions
    options: EndpointOptions
    batches_at_once = 3

    def files(self) -> dict[str, Path]:
        """The file of the prompt."""
        return named_files("caption.options", {"prompt_file": self.options.prompt_file})

    def open(self, worker: int = 0) -> EndpointCaptioner:
        """Opens the journal."""
        assert self.settings.answers is not None, "a recipe resolves it"
        return EndpointCaptioner(self.options, self.settings.answers)


class EndpointCaptioner:
    """Asks the endpoint about images, many at once."""

    needs_images = True
    side = None

    def __init__(self, options: EndpointOptions, journal: Path) -> None:
        self.rejects: list[Rejected] = []
        """Answers that stayed unusable after all retries, since the last `take_tokens`, which ends a partition."""
        self._options, file = options, options.prompt_file
        self._prompt = options.prompt if file is None else read_text(file, "a prompt")
        self._endpoint = ChatEndpoint(options, journal, "caption", self._prompt)

    def take_tokens(self) -> dict[str, int]:
        """The tokens of a partition. Its rejects end with it, since images of other datasets may have the same ids."""
        self.rejects = []
        return self._endpoint.take_tokens()

    def caption(self, images: Sequence[ImageInput], image_ids: Sequence[int]) -> list[list[Caption]]:
        """Each line of the answers to each image, in order. Raises `RetryableError` when the endpoint stays away."""
        asked: list[list[Future[Answer]]] = []
        with self._endpoint.threads() as pool:
            for image in images:  # taken in this order, so no thread waits for an image that is behind it
                encoded = pool.submit(_encoded, image, self._options.image_size)
                asked.append([pool.submit(self._ask, encoded, sample) for sample in range(self._options.samples)])
            answers = [[each.result() for each in of_image] for of_image in asked]
        captions: list[list[Caption]] = []
        for image_id, of_image in zip(image_ids, answers, strict=True):
            self.rejects += [Rejected(image_id, answer.fault, answer.text) for answer in of_image if answer.fault]
            lines = [(line, a.seed) for a in of_image if not a.fault for line in a.text.splitlines()]
            captions.append(
                [Caption(line, draw, seed, None, self._options.model) for draw, (line, seed) in enumerate(lines)]
            )
        self.rejects.sort(key=attrgetter("image_id", "reason", "value"))  # batches end in any order
        return captions

    def _ask(self, encoded: Future[bytes], sample: int) -> Answer:
        return self._endpoint.ask(encoded.result(), self._prompt, sample, _lines)


def _encoded(image: ImageInput, side: int) -> bytes:
    assert isinstance(image, Image.Image), "captioners without a side get whole images"
    return jpeg(shrunk(image, side))


def _lines(text: str, choice: Mapping[str, Any]) -> Answer:
    """A caption a line."""
    lines = [line for line in (_MARKER.sub("", clean(line)) for line in text.splitlines()) if line]
    too_long = max(map(len, lines), default=0) > LONGEST_TEXT
    return Answer("\n".join(lines), "caption too long" if too_long else "" if lines else "answer empty")
