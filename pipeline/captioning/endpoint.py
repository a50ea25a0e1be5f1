"""Captions of a vision-language model behind an HTTP endpoint in the OpenAI-compatible chat form (docs/labels.md).

Answers cost money, so each is written to a journal and synced when it arrives: a run that was killed, or another run on
the same store, does not ask for it again.
"""

from __future__ import annotations

import os
import sqlite3
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import psutil
from PIL import Image
from pydantic import Field, field_validator

from pipeline.captioning.captioner import Caption, CaptionerPlugin, ImageInput
from pipeline.captioning.recorded import LONGEST_TEXT, clean
from pipeline.captioning.settings import CaptionSettings
from pipeline.data.datasets.annotations import read_text
from pipeline.runtime.logs import log
from pipeline.runtime.settings import Settings, file_read, runtime
from pipeline.runtime.stage import Rejected, named_files
from storage.digests import digest_bytes, digest_json
from storage.errors import FatalError, RetryableError

if TYPE_CHECKING:
    import httpx

KEY = "OPENAI_API_KEY"
"""Environment variable with the key that the endpoint asks for."""
PROMPT = (
    "List the relations between the objects in this image: what people and things do to each other, hold, wear or ride, "
    "and where they are. Write one short sentence with one subject and one object per line, and nothing else."
)
EXCERPT = 200
"""Characters of an unusable answer that the quarantine keeps."""
_ALL = 20
"""Requests that are refused before the first answer, after which none is expected."""
_LONGEST_PAUSE = 60.0
"""Seconds between two tries while the endpoint is gone."""
_POLL = 0.05
"""Seconds between two looks for the answer that another process asks for."""
_QUALITY = 90
"""Of the JPEG that is sent."""
_TABLES = """
CREATE TABLE IF NOT EXISTS answers (request TEXT PRIMARY KEY, owner TEXT, text TEXT, fault TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS asked (terms TEXT PRIMARY KEY, model TEXT, tokens INTEGER) WITHOUT ROWID;
"""


class EndpointOptions(Settings):
    """Captioner "openai": the endpoint, what it is asked, and how fast."""

    base_url: str = runtime("http://127.0.0.1:8000/v1")
    """Where the endpoint is, up to and including /v1."""
    model: str
    """The model's name at the endpoint. An endpoint that reports another model than earlier is refused."""
    prompt: str = PROMPT
    """What the model is asked about each image. Each line of its answer is a caption."""
    prompt_file: Path | None = file_read(None)
    """File with the prompt, which replaces `prompt`; its content is part of the key."""
    samples: int = Field(1, ge=1, le=64)
    """Answers per image."""
    temperature: float = Field(0.0, ge=0, le=2)
    """0 takes the most probable token; several samples need more."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of the first answer; every other answer, and every retry, has one of its own."""
    max_tokens: int = Field(200, ge=1)
    """Tokens of an answer. One that is cut off there is not used."""
    image_size: int = Field(640, ge=32)
    """Longest side in pixels of the image that is sent, as JPEG. Smaller images are sent as they are."""
    in_flight: int = runtime(16, ge=1, le=1024)
    """Requests at once of each of `run.workers`; three times `caption.batch_size` answers are waited for at most."""
    requests_per_minute: float = runtime(0.0, ge=0)
    """Largest rate of each of `run.workers`; 0: no limit but the endpoint's own."""
    tokens_per_minute: float = runtime(0.0, ge=0)
    """The same for tokens that answers report, prompt and image included."""
    timeout: float = runtime(120.0, gt=0)
    """Seconds to wait for an answer."""
    retries: int = runtime(3, ge=0, le=100)
    """How often a request is repeated whose answer is empty, cut off, refused or missing, before it is quarantined."""
    patience: float = runtime(600.0, ge=0)
    """Seconds that an endpoint may be gone or busy; then the run stops, and goes on when it is started again."""
    budget_tokens: int = runtime(0, ge=0)
    """Tokens of all answers in this store to the same model, prompt and settings, whatever the seed, after which the run
    stops; 0: no limit."""

    @field_validator("base_url")
    @classmethod
    def _is_a_url(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")) or not urlsplit(url).hostname:
            raise ValueError("base_url: write http:// or https:// before the host, e.g. http://127.0.0.1:8000/v1")
        return url.rstrip("/")


class OpenAi(CaptionerPlugin):
    """Any model behind the OpenAI-compatible chat form: vLLM, SGLang, llama.cpp, Ollama, hosted ones."""

    version = 1
    Options = EndpointOptions
    batches_at_once = 3

    def __init__(self, settings: CaptionSettings) -> None:
        super().__init__(settings)
        self._journal = settings.answers

    def weights(self) -> dict[str, Path]:
        """The file of the prompt."""
        assert isinstance(self.options, EndpointOptions)
        return named_files("caption.options", {"prompt_file": self.options.prompt_file})

    def open(self, worker: int = 0) -> EndpointCaptioner:
        """Opens the journal. Raises `FatalError` if httpx is not installed."""
        try:
            import httpx
        except ImportError as error:
            raise FatalError("captioner 'openai' needs httpx: pip install 'rlip[vlm]'") from error
        assert isinstance(self.options, EndpointOptions) and self._journal is not None, "a recipe resolves it"
        key = os.environ.get(KEY, "")
        client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=self.options.timeout,
            limits=httpx.Limits(max_connections=self.options.in_flight + 1),
        )
        return EndpointCaptioner(self.options, client, self._journal)


class _Answer(NamedTuple):
    """A text, or in its place an excerpt of what was answered, with the fault for which it can't be used."""

    text: str
    fault: str = ""
    seed: int = 0


class EndpointCaptioner:
    """Asks the endpoint about images, many at once."""

    needs_images = True
    side = None

    def __init__(self, options: EndpointOptions, client: httpx.Client, journal: Path) -> None:
        self.rejects: list[Rejected] = []
        """Answers that could not be used after all retries."""
        self._options, self._client = options, client
        file = options.prompt_file
        self._prompt = options.prompt if file is None else read_text(file, "a prompt")
        # Without the seed, which each request adds: further samples don't ask for the first ones again.
        terms = options.model_dump(include={"model", "temperature", "max_tokens", "image_size"})
        self._terms = digest_json([self._prompt, terms])
        self._journal = Journal(journal, self._terms)
        self._pace = Pace(options.requests_per_minute, options.tokens_per_minute)
        self._pool = ThreadPoolExecutor(options.in_flight)
        self._refused, self._is_useful = 0, False

    def caption(self, images: Sequence[ImageInput], image_ids: Sequence[int]) -> list[list[Caption]]:
        """Each line of the answers to each image, in order. Raises `RetryableError` when the endpoint stays away."""
        asked: list[list[Future[_Answer]]] = []
        for image in images:  # the pool takes them in this order, so no thread waits for an image that is behind it
            encoded = self._pool.submit(_encoded, image, self._options.image_size)
            asked.append([self._pool.submit(self._ask, encoded, sample) for sample in range(self._options.samples)])
        try:
            answers = [[each.result() for each in of_image] for of_image in asked]
        except BaseException:
            self._pool.shutdown(wait=False, cancel_futures=True)
            raise
        captions: list[list[Caption]] = []
        for image_id, of_image in zip(image_ids, answers, strict=True):
            self.rejects += [
                Rejected(image_id, answer.fault, answer.text[:EXCERPT]) for answer in of_image if answer.fault
            ]
            lines = [(line, a.seed) for a in of_image if not a.fault for line in a.text.splitlines()]
            captions.append(
                [Caption(line, draw, seed, None, self._options.model) for draw, (line, seed) in enumerate(lines)]
            )
        self.rejects.sort(key=lambda reject: reject.image_id)  # batches end in any order
        return captions

    def _ask(self, encoded: Future[bytes], sample: int) -> _Answer:
        """The first usable answer, or else the last."""
        answer, image = _Answer("", "no answer"), encoded.result()
        for attempt in range(self._options.retries + 1):
            seed = self._options.seed + sample + attempt * self._options.samples
            request = digest_json([self._terms, digest_bytes(image), seed])
            answer = self._journal.find(request) or self._paid(request, image, seed)
            if not answer.fault:
                return answer._replace(seed=seed)
        return answer

    def _paid(self, request: str, image: bytes, seed: int) -> _Answer:
        """Asks once, and writes what is answered to the journal."""
        url = f"data:image/jpeg;base64,{b64encode(image).decode()}"
        content = [{"type": "text", "text": self._prompt}, {"type": "image_url", "image_url": {"url": url}}]
        body = {
            "model": self._options.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": self._options.temperature,
            "seed": seed,
            "max_tokens": self._options.max_tokens,
        }
        try:
            response = self._response(body)
            if isinstance(response, _Answer):
                self._journal.release(request)
                return response
            answer, model, tokens = _read(response)
            self._is_useful = True
            self._pace.spent(tokens)
            self._journal.keep(request, answer, model, tokens)
            return answer
        except BaseException:
            self._journal.release(request)
            raise

    def _response(self, body: dict[str, Any]) -> httpx.Response | _Answer:
        """What the endpoint answers, or the fault if it is there, and fails at or refuses this request alone.

        While it is gone or busy, waits and tries again. Raises `RetryableError` after `patience`, and `FatalError` if the
        budget is spent or the endpoint refuses the key, the model, the path or every request.
        """
        import httpx

        options, pause, began = self._options, 1.0, time.monotonic()
        while True:
            self._pace.wait()
            self._journal.require_budget(options.budget_tokens)
            try:
                response = self._client.post(f"{options.base_url}/chat/completions", json=body)
                status, reason = response.status_code, f"answers {response.status_code}"
            except httpx.RequestError as error:
                status, reason = 0, repr(error)
            if status == 200:
                return response
            if 200 < status < 500 and status not in (408, 409, 425, 429):
                self._refused += 1
                if status < 400 or status in (401, 403, 404) or (self._refused >= _ALL and not self._is_useful):
                    raise FatalError(
                        f"{options.base_url} answers {status} ({_excerpt(response)}); check caption.options.base_url and "
                        f"model, and the key in {KEY}"
                    )
                return _Answer(_excerpt(response), "request refused")
            if status != 429 and self._is_there():
                return _Answer(reason, "no answer")
            if time.monotonic() - began + pause > options.patience:
                raise RetryableError(
                    f"{options.base_url} {reason} and did not recover within {options.patience:g} s; start it, or correct "
                    "caption.options.base_url. Every answer so far is kept"
                )
            asked = response.headers.get("retry-after", "") if status else ""
            wait = min(float(asked) if asked.isdigit() else pause, _LONGEST_PAUSE)
            log.warning("the endpoint is gone or busy", extra={"fields": {"reason": reason, "seconds": wait}})
            time.sleep(wait)
            pause *= 2

    def _is_there(self) -> bool:
        """Whether the endpoint answers at all."""
        import httpx

        try:
            return self._client.get(f"{self._options.base_url}/models", timeout=5.0).status_code < 500
        except httpx.RequestError:
            return False


def _encoded(image: ImageInput, side: int) -> bytes:
    assert isinstance(image, Image.Image), "captioners without a side get whole images"
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    file = BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def _excerpt(response: httpx.Response) -> str:
    """The begin of a response, without the key, which endpoints may repeat."""
    text, key = response.text, os.environ.get(KEY, "")
    return clean((text.replace(key, "…") if key else text)[: 4 * EXCERPT])[:EXCERPT]


def _read(response: httpx.Response) -> tuple[_Answer, str, int]:
    """The answer, the model that the endpoint reports, and the tokens that it counts."""
    try:
        content = response.json()
        choice = content["choices"][0]
        message, ended = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content") or "", message.get("refusal")
        model, tokens = str(content.get("model", "")), int((content.get("usage") or {}).get("total_tokens", 0))
        lines = [clean(line).lstrip("-*•0123456789.) ") for line in text.splitlines()]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError):
        return _Answer(_excerpt(response), "answer of another form"), "", 0
    lines = [line for line in lines if line]
    whole = "\n".join(lines)
    fault = ""
    if refusal or ended == "content_filter":
        fault, whole = "answer refused", str(refusal or whole)
    elif ended == "length":
        fault = "answer cut off"
    elif not lines:
        fault = "answer empty"
    elif max(map(len, lines)) > LONGEST_TEXT:
        fault = "caption too long"
    return _Answer(whole, fault), model, tokens


class Pace:
    """Limits the requests and tokens a minute of one process."""

    def __init__(self, requests: float, tokens: float) -> None:
        self._each = 60 / requests if requests else 0.0
        self._token = 60 / tokens if tokens else 0.0
        self._next, self._lock = time.monotonic(), Lock()

    def wait(self) -> None:
        """Waits for this request's turn."""
        with self._lock:
            self._next = max(self._next, time.monotonic()) + self._each
            turn = self._next - self._each
        time.sleep(max(0.0, turn - time.monotonic()))

    def spent(self, tokens: int) -> None:
        """Delays the next request for the tokens of an answer."""
        with self._lock:
            self._next += tokens * self._token


class Journal:
    """Every answer that was paid for, in one SQLite file for any number of processes of a machine.

    A request belongs to the thread that asks it: others that need its answer, in this process or another, wait for it.
    """

    def __init__(self, path: Path, terms: str) -> None:
        """`terms`: digest of what all requests of a captioner share."""
        self._path, self._terms, self._lock = path, terms, Lock()
        own = psutil.Process()
        self._owner = f"{own.pid} {own.create_time()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, timeout=120, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.executescript(_TABLES)

    def find(self, request: str) -> _Answer | None:
        """The answer; None if there is none and this thread is to ask. Waits while another one asks."""
        while True:
            with self._transaction("NORMAL") as connection:
                row = connection.execute(
                    "SELECT owner, text, fault FROM answers WHERE request = ?", (request,)
                ).fetchone()
                if row is not None and row[1] is not None:
                    return _Answer(row[1], row[2])
                if row is None or not _is_alive(row[0]):
                    connection.execute(
                        "INSERT OR REPLACE INTO answers VALUES (?, ?, NULL, NULL)", (request, self._owner)
                    )
                    return None
            time.sleep(_POLL)

    def keep(self, request: str, answer: _Answer, model: str, tokens: int) -> None:
        """Writes an answer, synced. Raises `FatalError` if the endpoint reports another model than earlier."""
        with self._transaction("FULL") as connection:
            connection.execute(
                "UPDATE answers SET text = ?, fault = ? WHERE request = ?", (answer.text, answer.fault, request)
            )
            connection.execute(
                "INSERT INTO asked VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET tokens = tokens + excluded.tokens, "
                "model = iif(model = '', excluded.model, model)",
                (self._terms, model, tokens),
            )
            (known,) = connection.execute("SELECT model FROM asked WHERE terms = ?", (self._terms,)).fetchone()
            if model and model != known:  # undoes the transaction
                raise FatalError(
                    f"the endpoint reports model {model!r}, but {known!r} gave the earlier answers of these settings; serve "
                    "that model again, or name the new one in caption.options.model"
                )

    def release(self, request: str) -> None:
        """Gives up a request that got no answer."""
        with self._transaction("NORMAL") as connection:
            connection.execute("DELETE FROM answers WHERE request = ? AND text IS NULL", (request,))

    def require_budget(self, tokens: int) -> None:
        """Raises `FatalError` if all answers of these settings took that many tokens; 0: no limit."""
        if not tokens:
            return
        with self._transaction("NORMAL") as connection:
            row = connection.execute("SELECT tokens FROM asked WHERE terms = ?", (self._terms,)).fetchone()
        if row is not None and row[0] >= tokens:
            raise FatalError(
                f"the budget is spent: {row[0]:,} tokens, caption.options.budget_tokens is {tokens:,}; raise it to go on. "
                "Every answer so far is kept"
            )

    @contextmanager
    def _transaction(self, synchronous: str) -> Iterator[sqlite3.Connection]:
        """A transaction that is on the disk when it ends ("FULL"), or soon after ("NORMAL")."""
        with self._lock:
            try:
                self._connection.execute(f"PRAGMA synchronous = {synchronous}")
                self._connection.execute("BEGIN IMMEDIATE")
                with self._connection:
                    yield self._connection
            except sqlite3.Error as error:
                raise FatalError(
                    f"{self._path}: {error}; set caption.answers to a file on another disk, or restore this one"
                ) from error


def _is_alive(owner: str) -> bool:
    """Whether the process that a claim names still runs."""
    pid, created = owner.split()
    try:
        return bool(psutil.Process(int(pid)).create_time() == float(created))
    except psutil.Error:
        return False
