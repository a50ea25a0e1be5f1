"""A stub of an endpoint in the OpenAI-compatible chat form, as a process: `python chat_stub.py LOG [RATES as JSON]`.

It prints its URL. What it answers follows from image and seed alone: two captions, or, at the given rates, a fault. Rates:
`empty`, `cut`, `refused` (an answer without use), `broken` (no JSON), `rejected` (status 400), `error` (500), `busy` (429
once), `hang` (no answer in time). `seconds` is the time of an answer, `model` the name that it reports. Each answer that is
paid for is a line of LOG.
"""

import hashlib
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock

LOG = Path(sys.argv[1])
RATES = json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}")
SECONDS, MODEL = RATES.pop("seconds", 0.0), RATES.pop("model", "stub")
LOCK, BUSY = Lock(), set()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.reply(200, json.dumps({"data": [{"id": "stub"}]}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        image = body["messages"][0]["content"][1]["image_url"]["url"]
        asked = hashlib.sha256(f"{image} {body['seed']}".encode()).hexdigest()
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
        text = "" if fault == "empty" else f"- A person riding a horse.\n- A horse next to person {asked[:6]}."
        message = {"content": text, "refusal": "I can't help with that." if fault == "refused" else None}
        choice = {"message": message, "finish_reason": "length" if fault == "cut" else "stop"}
        self.reply(200, json.dumps({"model": MODEL, "choices": [choice], "usage": {"total_tokens": 100}}))

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


with Server(("127.0.0.1", 0), Handler) as server:
    print(f"http://127.0.0.1:{server.server_port}/v1", flush=True)
    server.serve_forever()
