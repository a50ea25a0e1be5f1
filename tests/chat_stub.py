"""A stub of an endpoint in the OpenAI-compatible chat form, as a process: `python chat_stub.py LOG [RATES as JSON]`.

It prints its URL. What it answers follows from image and seed alone: two captions, or, at the given rates, a fault.
Rates: `empty`, `cut`, `refused`, `prose` (an answer without use), `broken` (no JSON), `rejected` (status 400), `error`
(500), `busy` (429 once), `hang` (no answer in time). `seconds` is the time of an answer, `model` the name that it
reports, `port` where it listens. Each answer that is paid for is a line of LOG.

To questions of a forced choice it answers with the first choice that is true, in `wrong` of the questions with another.
`truth` is a JSON file of the true predicates by pair, "person (0, 0, 500, 500), horse (400, 0, 900, 900)"; without it,
the first predicate is true. `surety`, if it isn't 0, is the probability of what it chooses, in log-probabilities. With
`counts` false it counts no tokens.
"""

import hashlib
import json
import math
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock

LOG = Path(sys.argv[1])
RATES = json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}")
SECONDS, MODEL = RATES.pop("seconds", 0.0), RATES.pop("model", "stub")
WRONG, SURETY, FILE = (RATES.pop(name, 0) for name in ("wrong", "surety", "truth"))
COUNTS, PORT = RATES.pop("counts", True), RATES.pop("port", 0)
TRUTH = json.loads(Path(FILE).read_text()) if FILE else None
LOCK, BUSY = Lock(), set()
BOX, QUESTION = re.compile(r"^(\d+): (.*)$", re.M), re.compile(r"^(\d+)\. .* (\d+) and .* (\d+): (.*)$", re.M)


def share(*of: object) -> float:
    """A number in [0, 1) that follows from its arguments."""
    return int(hashlib.sha256(repr(of).encode()).hexdigest()[:8], 16) / 2**32


def choices_of(prompt: str, seed: int, model: str) -> dict[str, tuple[str, str]]:
    """Question → letter and all letters."""
    boxes, chosen = dict(BOX.findall(prompt)), {}
    for number, subject, other, listed in QUESTION.findall(prompt):
        names = dict(choice.split(" ", 1) for choice in listed.split(", "))
        pair = f"{boxes[subject]}, {boxes[other]}"
        true = [names["b"]] if TRUTH is None else TRUTH.get(pair, [])
        right = next((letter for letter, name in names.items() if name in true), "a")
        others = [letter for letter in names if letter != right]
        drawn = share(pair, listed, seed, model)
        chosen[number] = others[int(drawn / WRONG * len(others))] if drawn < WRONG else right, "".join(names)
    return chosen


def tokens_of(chosen: dict[str, tuple[str, str]]) -> list[dict[str, object]]:
    """The tokens of a JSON answer, with log-probabilities at the letters."""
    tokens = []
    for number, (letter, letters) in chosen.items():
        rest = (1 - SURETY) / max(len(letters) - 1, 1)
        for text in ("{" if not tokens else ", ", f'"{number}": "'):
            tokens.append({"token": text, "logprob": 0.0, "top_logprobs": []})
        odds = [{"token": each, "logprob": math.log(SURETY if each == letter else rest)} for each in letters]
        tokens.append({"token": letter, "logprob": math.log(SURETY), "top_logprobs": odds})
        tokens.append({"token": '"', "logprob": 0.0, "top_logprobs": []})
    return [*tokens, {"token": "}", "logprob": 0.0, "top_logprobs": []}]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.reply(200, json.dumps({"data": [{"id": "stub"}]}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt, image = (each.get("text") or each["image_url"]["url"] for each in body["messages"][0]["content"])
        chosen = choices_of(prompt, body["seed"], body["model"])
        asked = hashlib.sha256(f"{image} {body['seed']} {prompt if chosen else ''}".encode()).hexdigest()
        drawn, fault = int(asked[:8], 16) / 2**32, ""
        for name, rate in RATES.items():
            if not fault and drawn < rate:
                fault = name
            drawn -= rate
        time.sleep(SECONDS)
        if fault == "busy" and asked not in BUSY:
            BUSY.add(asked)
            return self.reply(429, "slow down", ("Retry-After", "0"))
        if fault in ("error", "hang"):
            time.sleep(30 if fault == "hang" else 0)
            return self.reply(500, "out of memory")
        if fault == "rejected":
            return self.reply(400, f"bad image; your key is {self.headers['Authorization']}")
        with LOCK, LOG.open("a") as log:
            log.write(f"{asked} {fault}\n")
        if fault == "broken":
            return self.reply(200, "<html>")
        text = "" if fault == "empty" else f"- A person riding a horse.\n2) 2 horses next to person {asked[:6]}."
        if chosen and text and fault != "prose":
            text = json.dumps({number: letter for number, (letter, _) in chosen.items()})
        message = {"content": text, "refusal": "I can't help with that." if fault == "refused" else None}
        choice = {"message": message, "finish_reason": "length" if fault == "cut" else "stop"}
        if SURETY and body.get("logprobs"):
            choice["logprobs"] = {"content": tokens_of(chosen)}
        usage = {"prompt_tokens": 80, "completion_tokens": 20, "total_tokens": 100}
        self.reply(200, json.dumps({"model": MODEL, "choices": [choice], "usage": usage if COUNTS else None}))

    def reply(self, status: int, text: str, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for header in (*headers, ("Content-Length", str(len(text)))):
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *words: object) -> None:
        """Stay silent."""


class Server(ThreadingHTTPServer):
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent about clients that are gone."""


with Server(("127.0.0.1", PORT), Handler) as server:
    print(f"http://127.0.0.1:{server.server_port}/v1", flush=True)
    server.serve_forever()
