"""A browser on the review page: a real server process, real Chromium, and the few gestures of a reviewer."""

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, TypeVar

import pytest
from rlip_command import PLAIN, call_rlip
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait
from warm_process import WarmProcess

from pipeline.review import review_state

DESKTOP, LAPTOP, PHONE = (1440, 900), (1280, 900), (390, 844)
_LONGEST_WAIT = 15.0
MISSING = "no Chromium with its chromedriver; `make browser` installs both on Debian"
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
    # Whatever a page asks of another host fails and shows in its console.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
Found = TypeVar("Found")


@dataclass
class Served:
    """A running `rlip review`."""

    process: WarmProcess
    url: str
    """The link that it printed."""
    verdicts: Path

    @property
    def root(self) -> str:
        """The address under which all pages lie, without a slash at its end."""
        return re.match(r"http://[^/]+/[^/]+", self.url).group()

    def log(self, reviewer: str = "ada") -> list[dict[str, Any]]:
        """The lines of a reviewer's log on disk."""
        path = self.verdicts / f"{reviewer}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def kinds(self, predicate: str, reviewer: str = "ada") -> list[str]:
        """The kinds of the verdicts in the log on labels with this predicate, in their order."""
        return [row["kind"] for row in self.log(reviewer) if row["relation"]["predicate"] == predicate]

    def kill(self) -> None:
        """End the server as a loss of power would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def served(store: Path, run: str, *options: str, env: Mapping[str, str] | None = None) -> Iterator[Served]:
    """Serve a run with `rlip review` while the context lasts."""
    named = [] if "--reviewer" in options or env else ["--reviewer", "ada"]
    process = WarmProcess(
        _review, "review", run, "--store", str(store), *options, *named, cwd=store.parent,
        environment={**PLAIN, "OMP_NUM_THREADS": "1", **(env or {})},
    )  # fmt: skip
    try:
        url = process.stdout.readline().partition(": ")[2].strip()
        assert url, f"rlip review ended with {process.wait()}: {process.stderr.read()}"
        yield Served(process, url, Path(process.stdout.readline().partition(": ")[2].strip()))
    finally:
        process.terminate()
        process.wait(30)
        print(process.stderr.read(), file=sys.stderr)
        process.stdout.close()
        process.stderr.close()


def _review(*words: str) -> None:
    """The command, which looks for new partitions more often than users' do."""
    review_state.REFRESH_SECONDS = 0.5
    call_rlip(*words)


class Browser:
    """One browser window on the page."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.server: Served | None = None

    def reset(self) -> None:
        """Leave the page for an empty one on a desktop, and forget the server."""
        self.clear_cookies()
        self.driver.get("about:blank")
        self.screen(DESKTOP)
        self.server = None

    def clear_cookies(self) -> None:
        """Forget the cookies of all servers."""
        self.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})

    def visit(self, server: Served, path: str = "/") -> None:
        """Open the server's link when the browser comes to it, and then a page."""
        if self.server is not server:
            self.server = server
            self.driver.get(server.url)
        self.open(path)

    def open(self, path: str) -> None:
        """Open a page of the server and wait until its scripts have begun."""
        self.driver.get(self.server.root + path)
        self.ready()

    def ready(self) -> None:
        """Wait until the scripts of the page have taken it in."""
        self.until(lambda: self.script(
            "return document.readyState === 'complete' && "
            "[...document.querySelectorAll('[data-view], #scroller')].every((view) => view.dataset.begun)"
        ))  # fmt: skip

    def reach_image(self, act: Callable[[], object]) -> None:
        """Do what leads to the view of an image, and wait for it."""
        act()
        self.until(lambda: self.count("#image") == 1)
        self.ready()

    def until(self, condition: Callable[[], Found], what: str = "") -> Found:
        """The first truthy value of a condition."""
        return WebDriverWait(self.driver, _LONGEST_WAIT, poll_frequency=0.02).until(lambda _: condition(), what)

    def script(self, code: str, *arguments: Any) -> Any:
        """The value of JavaScript in the page."""
        return self.driver.execute_script(code, *arguments)

    def find(self, selector: str) -> WebElement:
        """The first element that a CSS selector finds."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def count(self, selector: str) -> int:
        """How many elements a CSS selector finds."""
        return self.script("return document.querySelectorAll(arguments[0]).length", selector)

    def text(self, selector: str) -> str:
        """The text of the first element that a CSS selector finds, as its reader sees it; "" without one."""
        return self.script("return document.querySelector(arguments[0])?.innerText ?? ''", selector).strip()

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements that a CSS selector finds."""
        found: list[str] = self.script(
            "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent.trim())", selector
        )
        return found

    def has(self, selector: str, text: str) -> None:
        """Wait until an element has this text among its own."""
        self.until(lambda: text in self.text(selector), f"{selector} never said {text!r}, but {self.text(selector)!r}")

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        chain = ActionChains(self.driver, duration=0)
        for key in keys:
            chain.send_keys(key)
        chain.perform()

    def press_shift(self, key: str) -> None:
        """Press a key while Shift is down."""
        ActionChains(self.driver, duration=0).key_down(Keys.SHIFT).send_keys(key).key_up(Keys.SHIFT).perform()

    def hover(self, selector: str) -> None:
        """Move the pointer over an element."""
        ActionChains(self.driver, duration=0).move_to_element(self.find(selector)).perform()

    def next_screen(self) -> None:
        """Go on to the next screen of labels."""
        before = self.text(".pager span")
        self.press("n")
        self.until(lambda: self.text(".pager span") not in ("", before))
        self.ready()

    def judge(self, key: str, kind: str) -> str:
        """Press a key on the current label of the grid and wait for the verdict. Returns the label's number."""
        label: str = self.find(".chip.current").get_attribute("data-label") or ""
        self.press(key)
        self.until(lambda: self.state(label) == kind, f"label {label} never became {kind!r}")
        return label

    def state(self, label: str) -> str:
        """What the page shows as the reviewer's own verdict on a label."""
        return self.script(
            "return document.querySelector(`[data-label='${arguments[0]}'][data-kind]`)?.dataset.kind", label
        )

    def query(self) -> str:
        """Path and query of the page's address, from where its server's pages begin."""
        address: str = self.script("return location.origin + location.pathname + location.search")
        return address.removeprefix(self.server.root)

    def screen(self, size: tuple[int, int], *, dark: bool = False) -> None:
        """Give the page this width and height, and a light or dark system."""
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def errors(self) -> list[str]:
        """What the console has said since the last call."""
        return [f"{entry['level']} {entry['message']}" for entry in self.driver.get_log("browser")]

    def foreign(self) -> list[str]:
        """The addresses that the page has asked of any other server than its own."""
        asked = self.script("return performance.getEntries().map((entry) => entry.name).filter((n) => n.includes(':'))")
        return [address for address in asked if not address.startswith(self.server.root + "/")]

    def violations(self) -> list[str]:
        """The serious and critical rules of accessibility that the page breaks, by axe-core, with the first places."""
        # The page's policy forbids added scripts; the browser's own tools may run one.
        source = Path(str(distribution("axe-playwright-python").locate_file("axe_playwright_python/axe.min.js")))
        self.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": source.read_text()})
        found = self.driver.execute_async_script(
            "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then(done, "
            "(e) => done({error: `${e}`}))"
        )
        return [
            f"{rule['impact']} {rule['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
            for rule in found["violations"] if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"][:3]
        ]  # fmt: skip


def installed() -> tuple[str | None, str | None]:
    """The paths of Chromium and of its chromedriver; None for what is missing."""
    return shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser that ends with the context. Without Chromium the test is skipped; in CI it fails."""
    chromium, chromedriver = installed()
    if chromium is None or chromedriver is None:
        if os.environ.get("RLIP_REQUIRE_BROWSER"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in _FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    try:
        window = Browser(driver)
        window.reset()
        yield window
    finally:
        driver.quit()
