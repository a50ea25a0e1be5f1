"""A vision-language model behind an HTTP endpoint with an OpenAI-compatible chat API (docs/labels.md).

Answers cost money, so each is written to a journal and synced when it arrives: a run that was killed, or another run on
the same store and machine, does not ask for it again.
"""

from __future__ import annotations

import os
import sqlite3
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import urlsplit

import psutil
from PIL import Image
from pydantic import Field, field_validator, model_validator

from pipeline.runtime.logs import log
from pipeline.runtime.settings import Settings, runtime
from pipeline.runtime.wording import one_line
from storage.digests import digest_bytes, digest_json
from storage.errors import FatalError, RetryableError

if TYPE_CHECKING:
    import httpx

KEY = "OPENAI_API_KEY"
"""Environment variable with the key that the endpoint asks for."""
TOKENS = ("prompt tokens", "completion tokens")
"""Names of the token counts in manifests and estimates."""
_EXCERPT = 200
"""Characters of an unusable answer that the quarantine keeps."""
_ALL = 20
"""Number of requests refused before the first answer, after which no answer is expected."""
_BUSY = (429, 503, 529)
"""Statuses of an endpoint that has too many requests or still loads its model. It lists its models meanwhile."""
_ALONE = "endpoint busy for this request alone"
"""Fault of a request that still gets status 503 after `patience`, while the endpoint answers most others."""
_LONGEST_PAUSE = 60.0
"""Maximum seconds between two tries while the endpoint is down."""
_POLL = 0.05
"""Seconds between checks for an answer that another process has requested."""
_QUALITY = 90
"""Quality of the JPEG that is sent."""
_TABLES = """
CREATE TABLE IF NOT EXISTS answers (request TEXT PRIMARY KEY, owner TEXT, text TEXT, fault TEXT, prompt_tokens INTEGER,
    completion_tokens INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS asked (terms TEXT PRIMARY KEY, model TEXT, tokens INTEGER, completion_tokens INTEGER)
    WITHOUT ROWID;
"""
_LATER = (("answers", "prompt_tokens"), ("answers", "completion_tokens"), ("asked", "completion_tokens"))
"""Columns that journals of earlier versions lack: these have only a total of tokens, which is priced like answers."""


class ChatOptions(Settings):
    """The endpoint, how its model answers, and how fast it is asked."""

    base_url: str = runtime("http://127.0.0.1:8000/v1")
    """Where the endpoint is, up to and including /v1."""
    model: str
    """The model's name at the endpoint. An endpoint that reports a different model than before is refused."""
    samples: int = Field(1, ge=1, le=64)
    """Responses per image."""
    temperature: float = Field(0.0, ge=0, le=2)
    """0 takes the most probable token; several samples need more."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of the first response; others and retries have their own."""
    max_tokens: int = Field(200, ge=1)
    """Maximum tokens of a response. A truncated response is not used."""
    image_size: int = Field(640, ge=32)
    """Longest side in pixels of the image that is sent, as JPEG. Smaller images are sent as they are."""
    in_flight: int = runtime(16, ge=1, le=1024)
    """Concurrent requests of each of `run.workers`; for captions, at most three times `caption.batch_size`."""
    requests_per_minute: float = runtime(0.0, ge=0)
    """Maximum rate of each of `run.workers`; 0: only the endpoint's own limit."""
    tokens_per_minute: float = runtime(0.0, ge=0)
    """The same for tokens reported by responses, including prompt and image."""
    timeout: float = runtime(120.0, gt=0)
    """Seconds to wait for a response."""
    retries: int = runtime(3, ge=0, le=100)
    """Maximum retries of a request without a usable response."""
    patience: float = runtime(600.0, ge=0)
    """Seconds that an endpoint may be down or busy before the run stops."""
    budget_tokens: int = runtime(0, ge=0)
    """The run stops after this many tokens in all responses in the file `answers` with the same model, prompt and
    settings; 0: no limit. Each machine has its own file and budget."""
    budget_cost: float = runtime(0.0, ge=0)
    """The same as a sum of money; needs both prices. Responses in flight come on top of either budget."""
    prompt_price: float | None = runtime(None, ge=0)
    """Price of a million tokens of prompts and images, in any currency, for `rlip estimate` and `budget_cost`."""
    completion_price: float | None = runtime(None, ge=0)
    """Price of a million tokens of responses."""

    @field_validator("base_url")
    @classmethod
    def _is_a_url(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")) or not urlsplit(url).hostname:
            raise ValueError("write http:// or https:// before the host, e.g. http://127.0.0.1:8000/v1")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _cost_has_prices(self) -> Self:
        if self.budget_cost and None in (self.prompt_price, self.completion_price):
            raise ValueError("budget_cost: also set prompt_price and completion_price, each per million tokens")
        return self


class Answer(NamedTuple):
    """A model's answer or, if that is unusable, an excerpt of it and the fault."""

    text: str
    fault: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seed: int = 0


Read = Callable[[str, Mapping[str, Any]], Answer]
"""Turns the model's text, and the `choice` that it came in, into what is kept. Raises KeyError, TypeError, ValueError
or IndexError for an answer of another form."""


class ChatEndpoint:
    """Asks a model about images, from `in_flight` threads."""

    def __init__(self, options: ChatOptions, journal: Path, section: str, prompt: str) -> None:
        """`section`: that of the recipe. `prompt`: what the prompts of all requests have in common.

        Raises `FatalError` for a key that can't be sent.
        """
        self._client = _client(options)
        self._options, self._section = options, section
        # Without the seed, which each request adds: further samples don't ask for the first ones again.
        self._terms = options.model_dump(include={"model", "temperature", "max_tokens", "image_size"})
        self._journal = Journal(journal, digest_json([prompt, self._terms]), section)
        self._pace = Pace(options.requests_per_minute, options.tokens_per_minute)
        self._pool = ThreadPoolExecutor(options.in_flight)
        self._refused, self._is_useful = 0, False
        self._lead = 0  # answers, less the requests that found the endpoint down or busy
        self._tokens, self._lock = Counter[str](), Lock()

    @contextmanager
    def threads(self) -> Iterator[ThreadPoolExecutor]:
        """The threads to ask from, which end with the first error.

        Answers in flight are paid for, so they are kept before the error is raised; an interrupt doesn't wait for them.
        """
        try:
            yield self._pool
        except BaseException as error:
            self._pool.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
            raise

    def ask(self, image: bytes, prompt: str, sample: int, read: Read, **more: Any) -> Answer:
        """The first usable answer about a JPEG, or else the last. `more`: further fields of the request.

        Raises `RetryableError` when the endpoint stays unavailable.
        """
        answer, options = Answer("", "no answer"), self._options
        # Requests with and without log-probabilities share no answers.
        terms = digest_json([prompt, self._terms, *(["logprobs"] if more.get("logprobs") else [])])
        for attempt in range(options.retries + 1):
            # A retry takes a seed that no sample has: the journal would answer a repeated one with the same fault.
            seed = options.seed + sample + attempt * options.samples
            request = digest_json([terms, digest_bytes(image), seed])
            answer = self._journal.find(request) or self._paid(request, image, prompt, seed, read, more)
            with self._lock:
                self._tokens.update(dict(zip(TOKENS, (answer.prompt_tokens, answer.completion_tokens), strict=True)))
            if not answer.fault or answer.fault == _ALONE:  # a retry would take as long again
                return answer._replace(seed=seed)
        return answer._replace(text=answer.text[:_EXCERPT])

    def take_tokens(self) -> dict[str, int]:
        """The tokens of all answers since the last call, by `TOKENS`; empty where the endpoint counts none.

        Answers that were paid for earlier count, too, so that a partition has the same tokens after a crash.
        """
        with self._lock:
            taken, self._tokens = self._tokens, Counter()
        return dict(taken) if any(taken.values()) else {}

    def _paid(self, request: str, image: bytes, prompt: str, seed: int, read: Read, more: Mapping[str, Any]) -> Answer:
        """Asks once, and writes the answer to the journal."""
        url = f"data:image/jpeg;base64,{b64encode(image).decode()}"
        content = [{"type": "text", "text": prompt}, {"type": "image_url", "image_url": {"url": url}}]
        body = {
            "model": self._options.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": self._options.temperature,
            "seed": seed,
            "max_tokens": self._options.max_tokens,
            **more,
        }
        try:
            response = self._response(body)
            if isinstance(response, Answer):
                self._journal.release(request)
                return response
            answer, model = _read(response, read)
            self._is_useful = True
            self._pace.spent(answer.prompt_tokens + answer.completion_tokens)
            # Kept before it is judged: it has been paid for.
            self._journal.keep(request, answer, model)
            has_budget = self._options.budget_tokens or self._options.budget_cost
            if has_budget and not answer.fault and not answer.prompt_tokens:
                raise FatalError(
                    f"{self._options.base_url} reports no token counts, so no budget of {self._section}.options can "
                    "stop the run; set budget_tokens and budget_cost to 0 to continue without one"
                )
            return answer
        except BaseException:
            # After an interrupt, too: others would wait for the answer as long as this process lives.
            self._journal.release(request)
            raise

    def _response(self, body: dict[str, Any]) -> httpx.Response | Answer:
        """The endpoint's response, or the fault if it is up and only this request fails or is refused.

        While it is down or busy, waits and tries again. Raises `RetryableError` after `patience`, unless most others
        are answered, and `FatalError` if the budget is spent or the endpoint refuses the key, the model, the path or
        every request.
        """
        import httpx

        options, pause, began = self._options, 1.0, time.monotonic()
        lead: int | None = None
        while True:
            self._pace.wait()
            self._require_budget()
            try:
                response = self._client.post(f"{options.base_url}/chat/completions", json=body)
                status, reason = response.status_code, f"answers {response.status_code}"
            except httpx.RequestError as error:
                status, reason = 0, _in_words(error)
            if status == 200:
                self._lead += 1
                return response
            # These four mean "try again": timeout, conflict, too early, too many requests.
            if 200 < status < 500 and status not in (408, 409, 425, 429):
                self._refused += 1
                if status < 400 or status in (401, 403, 404) or (self._refused >= _ALL and not self._is_useful):
                    raise FatalError(
                        f"{options.base_url} answers {status} ({_excerpt(response)}); check "
                        f"{self._section}.options.base_url and model, and the key in {KEY}"
                    )
                return Answer(_excerpt(response), "request refused")
            if status not in _BUSY and self._is_there():
                return Answer(reason, "no answer")
            asked = response.headers.get("retry-after", "") if status else ""
            wait = min(float(asked if asked.isdigit() else 0) or pause, _LONGEST_PAUSE)
            if time.monotonic() - began + wait > options.patience:
                # Since the first try, it answered more requests than it refused: it neither restarts nor is overloaded.
                if status == 503 and lead is not None and self._lead > lead:
                    return Answer(reason, _ALONE)
                raise RetryableError(
                    f"{options.base_url} {reason} and did not recover within {options.patience:g} s; start it, or "
                    f"correct {self._section}.options.base_url. Every response so far is kept"
                )
            if lead is None:
                lead = self._lead = self._lead - 1
            fields = {"reason": reason, "seconds": wait}
            notice = f"{options.base_url} {reason}; trying again for up to {options.patience:g} s"
            log.warning("the endpoint is down or busy", extra={"fields": fields, "notice": notice})
            time.sleep(wait)
            pause *= 2

    def _require_budget(self) -> None:
        """Raises `FatalError` if all answers of these settings took as many tokens, or as much money, as they may."""
        options = self._options
        if not options.budget_tokens and not options.budget_cost:
            return
        prompt, completion = self._journal.spent()
        cost = (prompt * (options.prompt_price or 0.0) + completion * (options.completion_price or 0.0)) / 1e6
        for name, spent in (("budget_tokens", prompt + completion), ("budget_cost", round(cost, 6))):
            if (budget := getattr(options, name)) and spent >= budget:
                raise FatalError(
                    f"the budget is spent: responses took {spent:,}, {self._section}.options.{name} is {budget:,}; "
                    "raise it to continue. Every response so far is kept"
                )

    def _is_there(self) -> bool:
        """Whether the endpoint answers at all."""
        import httpx

        try:
            return self._client.get(f"{self._options.base_url}/models", timeout=5.0).status_code < 500
        except httpx.RequestError:
            return False


def models_of(options: ChatOptions) -> list[str]:
    """The models that an endpoint lists; none if it lists none.

    Raises `RetryableError` if it does not answer, and `FatalError` if it refuses the key.
    """
    import httpx

    with _client(options) as client:
        try:
            response = client.get(f"{options.base_url}/models", timeout=5.0)
        except httpx.RequestError as error:
            raise RetryableError(f"{options.base_url} {_in_words(error)}; start it, or correct the URL") from error
    if response.status_code in (401, 403):
        raise FatalError(f"{options.base_url} answers {response.status_code} ({_excerpt(response)}); check {KEY}")
    try:
        return [str(each["id"]) for each in response.json()["data"]]
    except (ValueError, TypeError, KeyError):
        return []


def _client(options: ChatOptions) -> httpx.Client:
    import httpx

    key = _key()
    if not (key.isascii() and key.isprintable()):  # httpx would repeat it in its error
        raise FatalError(f"the key in {KEY} has line breaks or characters that no key has; set it again")
    return httpx.Client(
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=options.timeout,
        limits=httpx.Limits(max_connections=options.in_flight + 1),
    )


def _key() -> str:
    return os.environ.get(KEY, "").strip()


def _in_words(error: Exception) -> str:
    return f"does not respond ({str(error) or type(error).__name__})"


def tokens_taken(model: object) -> dict[str, int]:
    """The tokens that a captioner or labeller has used since the last call, by `TOKENS`; none without an endpoint."""
    taken: dict[str, int] = getattr(model, "take_tokens", dict)()
    return taken


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """An image with a longest side of at most `side` pixels, itself if it is no larger."""
    if max(image.size) > side:
        # `thumbnail` works in place.
        image = image.copy()
        image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return image


def jpeg(image: Image.Image) -> bytes:
    """The image as it is sent."""
    file = BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def _excerpt(response: httpx.Response) -> str:
    """The beginning of a response, without the key, which endpoints may repeat."""
    text, key = response.text, _key()
    return one_line((text.replace(key, "…") if key else text)[: 4 * _EXCERPT])[:_EXCERPT]


def _read(response: httpx.Response, read: Read) -> tuple[Answer, str]:
    """The answer, and the model that the endpoint reports."""
    model, tokens, text = "", (0, 0), ""
    try:
        content = response.json()
        usage, model = content.get("usage") or {}, str(content.get("model", ""))
        tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        choice = content["choices"][0]
        text, refusal = choice["message"].get("content") or "", choice["message"].get("refusal")
        ended = choice.get("finish_reason")
        if refusal or ended == "content_filter":
            answer = Answer(one_line(str(refusal or text)), "answer refused")
        elif ended == "length" or not text.strip():
            answer = Answer(one_line(text), "answer cut off" if ended == "length" else "answer empty")
        else:
            answer = read(text, choice)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError):
        answer = Answer(one_line(str(text)) or _excerpt(response), "answer of another form")
    return answer._replace(prompt_tokens=tokens[0], completion_tokens=tokens[1]), model


class Pace:
    """Limits the requests and tokens a minute of one process."""

    def __init__(self, requests: float, tokens: float) -> None:
        self._each = 60 / requests if requests else 0.0
        self._token = 60 / tokens if tokens else 0.0
        self._next, self._lock = time.monotonic(), Lock()

    def wait(self) -> None:
        """Waits for this request's turn."""
        with self._lock:
            # Time without requests earns no burst of them.
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

    def __init__(self, path: Path, terms: str, section: str) -> None:
        """`terms`: digest of what all requests of a captioner or labeller share. `section`: that of the recipe."""
        self._path, self._terms, self._section, self._lock = path, terms, section, Lock()
        own = psutil.Process()
        # Process ids are used again, so the time of its start is part of the name.
        self._owner = f"{own.pid} {own.create_time()}"
        with self._errors_reported():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=120, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.executescript(_TABLES)
        with self._transaction("FULL") as connection:
            for table, column in _LATER:
                if column not in {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")}:
                    connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} INTEGER")

    def find(self, request: str) -> Answer | None:
        """The answer; None if this thread is to ask for it. Waits while another one asks."""
        while True:
            with self._transaction("NORMAL") as connection:
                row = connection.execute(
                    "SELECT owner, text, fault, coalesce(prompt_tokens, 0), coalesce(completion_tokens, 0) FROM "
                    "answers WHERE request = ?",
                    (request,),
                ).fetchone()
                if row is not None and row[1] is not None:
                    return Answer(*row[1:])
                if row is None or not _is_alive(row[0]):
                    connection.execute(
                        "INSERT OR REPLACE INTO answers (request, owner) VALUES (?, ?)", (request, self._owner)
                    )
                    return None
            time.sleep(_POLL)

    def keep(self, request: str, answer: Answer, model: str) -> None:
        """Writes an answer, synced. Raises `FatalError` if the endpoint reports a different model than before."""
        with self._transaction("FULL") as connection:
            connection.execute(
                "UPDATE answers SET text = ?, fault = ?, prompt_tokens = ?, completion_tokens = ? WHERE request = ?",
                (*answer[:4], request),
            )
            connection.execute(
                "INSERT INTO asked VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET tokens = tokens + excluded.tokens, "
                "completion_tokens = coalesce(completion_tokens, tokens) + excluded.completion_tokens, "
                "model = iif(model = '', excluded.model, model)",
                (self._terms, model, answer.prompt_tokens + answer.completion_tokens, answer.completion_tokens),
            )
            (known,) = connection.execute("SELECT model FROM asked WHERE terms = ?", (self._terms,)).fetchone()
            if model and model != known:  # undoes the transaction
                raise FatalError(
                    f"the endpoint reports model {model!r}, but {known!r} gave the earlier responses with these "
                    f"settings; serve that model again, or name the new one in {self._section}.options.model"
                )

    def release(self, request: str) -> None:
        """Gives up a request that got no answer."""
        with self._transaction("NORMAL") as connection:
            connection.execute("DELETE FROM answers WHERE request = ? AND text IS NULL", (request,))

    def spent(self) -> tuple[int, int]:
        """The tokens of prompts and of answers that all requests of these settings took."""
        with self._transaction("NORMAL") as connection:
            row = connection.execute(
                "SELECT tokens, coalesce(completion_tokens, tokens) FROM asked WHERE terms = ?", (self._terms,)
            ).fetchone()
        return (0, 0) if row is None else (row[0] - row[1], row[1])

    @contextmanager
    def _transaction(self, synchronous: str) -> Iterator[sqlite3.Connection]:
        """A transaction that is on the disk when it ends ("FULL"), or soon after ("NORMAL")."""
        with self._lock, self._errors_reported():
            self._connection.execute(f"PRAGMA synchronous = {synchronous}")
            # A transaction that begins by reading can't wait for another's writing: its own would fail at once.
            self._connection.execute("BEGIN IMMEDIATE")
            with self._connection:
                yield self._connection

    @contextmanager
    def _errors_reported(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise FatalError(
                f"{self._path}: {error}; free space, restore the file, or set {self._section}.answers to one on "
                "another disk"
            ) from error


def _is_alive(owner: str) -> bool:
    """Whether the process that a claim names still runs. In a container, a killed one may remain as a zombie."""
    pid, created = owner.split()
    try:
        process = psutil.Process(int(pid))
        return bool(process.create_time() == float(created) and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
