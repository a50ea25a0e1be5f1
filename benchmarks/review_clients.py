"""Reviewers for the benchmark of the review page: each signs in, filters, pages, opens images and judges, at a pace."""

from __future__ import annotations

import http.client
import json
import random
import re
import threading
import time
import urllib.parse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness import wall_seconds

Pace = Mapping[str, float]
"""Seconds between two actions of one kind. A grid is a screen of 20 labels and the chips on it."""
FAST: Pace = {"verdict": 1.0, "grid": 4.0, "image": 4.0, "filter": 15.0}
"""Someone who leafs through screens and images at once, faster than they can judge what they see."""
IN_THE_GRID: Pace = {"verdict": 1.0, "grid": 20.0, "filter": 30.0}
IN_IMAGES: Pace = {"verdict": 3.0, "image": 3.0, "filter": 30.0}
"""With `IN_THE_GRID`, the pace of judging that the page aims at: a label a second in the grid, one every three over an image."""
WORDS = ("person", "dog", "horse", "bus", "kite", "umbrella", "snowboard", "sky")
_CHIP = re.compile(r'data-label="(\d+)" data-kind.*?href="(image\?[^"]*)"', re.DOTALL)

Seconds = dict[str, list[float]]


class Reviewer:
    """One signed-in browser with one connection that is kept open."""

    def __init__(self, page: str, name: str, password: str, predicates: Sequence[str]) -> None:
        self.seconds: Seconds = defaultdict(list)
        self.failed: list[str] = []
        where = urllib.parse.urlsplit(page)
        self._connection = http.client.HTTPConnection(where.netloc, timeout=60)
        self._origin, self._root = f"http://{where.netloc}", where.path
        self._cookies: dict[str, str] = {}
        self._random = random.Random(name)
        self._predicates = predicates
        self._search, self._page = "", 1
        self._chips: list[tuple[str, str]] = []
        form_type = {"Content-Type": "application/x-www-form-urlencoded"}
        self._ask("POST", "login", urllib.parse.urlencode({"reviewer": name, "password": password}), form_type)

    def act(self, kind: str) -> None:
        """Do one thing: `filter`, `grid`, `image` or `verdict`. What it took goes to `seconds`."""
        if kind == "filter":
            self._search, self._page = self._draw_search(), 1
            self._look("filter")
        elif kind == "grid":
            self._page += 1
            self._look("grid")
        elif self._chips and kind == "image":
            self._timed("image", "GET", self._random.choice(self._chips)[1])
        elif self._chips:
            label = int(self._random.choice(self._chips)[0])
            said = {"label": label, "kind": self._random.choice(["accept", "reject"]), "seconds": 1.0, "queue": "grid"}
            headers = {"Content-Type": "application/json"}
            self._timed("verdict", "POST", "verdicts", json.dumps({"decisions": [said]}), headers)

    def time(self, address: str) -> float:
        """Opens a page and returns the seconds that it took. Raises RuntimeError if the server refuses it."""
        return wall_seconds(lambda: self._ask("GET", address))

    def _look(self, kind: str) -> None:
        page = self._timed(kind, "GET", f"labels?{self._search}&page={self._page}")
        self._chips = [(label, address.replace("&amp;", "&")) for label, address in _CHIP.findall(page)]
        if not self._chips:
            self._search, self._page = "", 0
        for label, _ in self._chips:
            self._timed("chip", "GET", f"chips/{label}.jpg")

    def _draw_search(self) -> str:
        """A search as people make them: most by predicate, a fifth by a word of the captions."""
        draw = self._random
        predicate, word, least = draw.choice(self._predicates), draw.choice(WORDS), round(draw.random() * 0.9, 2)
        order = draw.choice(("score", "score", "uncertain", "informative", "disagreement", "rare", "random", "lowest"))
        fields = draw.choice((
            {"predicate": predicate}, {"predicate": predicate, "subject": word}, {"category": word, "kept": "yes"},
            {"text": f"{word} {predicate}"}, {"least": least, "most": least + 0.1},
        ))  # fmt: skip
        return urllib.parse.urlencode({**fields, "order": order})

    def _timed(self, kind: str, *request: Any) -> str:
        began = time.perf_counter()
        try:
            found = self._ask(*request)
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            self._connection.close()
            self.failed.append(f"{kind}: {error!r}")
            return ""
        self.seconds[kind].append(time.perf_counter() - began)
        return found

    def _ask(self, method: str, address: str, body: str | None = None, headers: dict[str, str] | None = None) -> str:
        address = self._root + address
        cookies = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        sent = {"Accept": "text/html", "Origin": self._origin, "Cookie": cookies, **(headers or {})}
        try:
            self._connection.request(method, address, body, sent)
            answer = self._connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionError):
            # The server closes connections that nobody used for five seconds; browsers open another.
            self._connection.close()
            self._connection.request(method, address, body, sent)
            answer = self._connection.getresponse()
        content = answer.read()
        for name, value in answer.getheaders():
            if name.lower() == "set-cookie":
                cookie, _, rest = value.partition(";")[0].partition("=")
                self._cookies[cookie] = rest
        if answer.status >= 400:
            raise RuntimeError(f"{method} {address}: {answer.status}")
        return content.decode("utf-8", "replace")


def review(reviewers: Sequence[Reviewer], seconds: float, paces: Sequence[Pace] = ()) -> tuple[Seconds, list[str]]:
    """Lets reviewers work at the same time for so long. Returns seconds by kind, and the requests that failed.

    They take turns at having one of the `paces`. Without any, each sends the next request when it has the answer to the last.
    Each has a screen of labels before the time begins.
    """
    for one in reviewers:
        one.act("grid")
        one.seconds, one.failed = defaultdict(list), []
    end = time.monotonic() + seconds
    threads = [
        threading.Thread(target=_at_pace, args=(one, end, paces[number % len(paces)]))
        if paces
        else threading.Thread(target=_without_pause, args=(one, end))
        for number, one in enumerate(reviewers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found: Seconds = defaultdict(list)
    for one in reviewers:
        for kind, taken in one.seconds.items():
            found[kind] += taken
    return found, [each for one in reviewers for each in one.failed]


def _at_pace(reviewer: Reviewer, end: float, pace: Pace) -> None:
    start = time.monotonic()
    due = {kind: start + reviewer._random.random() * every for kind, every in pace.items()}
    while due[kind := min(due, key=due.__getitem__)] < end:
        time.sleep(max(0.0, due[kind] - time.monotonic()))
        reviewer.act(kind)
        due[kind] = max(due[kind] + pace[kind], time.monotonic())


def _without_pause(reviewer: Reviewer, end: float) -> None:
    turn = ["verdict"] * 15 + ["grid"] * 4 + ["image"] * 4
    while time.monotonic() < end:
        reviewer._random.shuffle(turn)
        for kind in ("filter", *turn):
            if time.monotonic() < end:
                reviewer.act(kind)
