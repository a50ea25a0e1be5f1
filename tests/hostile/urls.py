"""URLs: of stores, images and deliveries. No password of theirs is ever told."""

from collections.abc import Iterator
from pathlib import Path

from tests.hostile.case import Case, table, told
from tests.hostile.stores import labelled_run

SECRET = "hunter2"
NO_SECRET = f"^refused: (?!.*{SECRET})"
MISTYPED: dict[str, tuple[str, str]] = {
    "an archive of no name": ("^refused", "zip://"),
    "5,000 characters": ("^refused: .*too long", "s" * 5000),
    "a port of letters": ("^refused", "http://127.0.0.1:port/x"),
    "half an IPv6 address": ("^refused", "http://[::1/x"),
}
COMMANDS: dict[str, tuple[str, ...]] = {
    "label": ("label", "{}", "--tagger", "demo-tagger", "--detector", "demo-detector", "--captioner", "demo-captioner"),
    "shards": ("shards", "info", "{}"),
}
STORES: dict[str, tuple[str, str]] = {
    "an unknown protocol": ("^refused", "nosuch://bucket/x"),
    "a chain of protocols": ("^refused", "simplecache::file:///etc"),
    **MISTYPED,
    "control characters": ("^refused: [^\x1b]*$", "nosuch://\x1b[2J"),
    "a password to an unknown protocol": (NO_SECRET, f"nosuch://user:{SECRET}@host/x"),
    "a password to a silent host": (NO_SECRET, f"http://user:{SECRET}@127.0.0.1:9/x"),
    "a password in a query": (NO_SECRET, f"http://127.0.0.1:9/x?token={SECRET}"),
    "a password behind a chain": (NO_SECRET, f"simplecache::http://user:{SECRET}@127.0.0.1:9/x"),
}  # fmt: skip


def cases() -> Iterator[Case]:
    """Stores that are shown, and copies of a run to and from them."""
    yield from table(
        "URL", {f"show: {n}": g for n, g in STORES.items()}, lambda folder, url: told("show", "--store", url)
    )
    passwords = {f"{{}}: {name}": given for name, given in STORES.items() if SECRET in given[1]}
    for command in ("push", "pull"):
        given = {name.format(command): each for name, each in passwords.items()}
        yield from table("URL", given, lambda folder, url, command=command: _copied(folder, url, command))
    for command, words in COMMANDS.items():
        given = {f"{command}: {name}": ("^refused", address) for name, (_, address) in MISTYPED.items()}
        yield from table("URL", given, lambda folder, url, words=words: told(*(word.format(url) for word in words)))
    yield from table(
        "URL", {f"lineage: {name}": ("^refused", address) for name, (_, address) in MISTYPED.items()}, _lineage
    )
    yield from table("URL", {name.format("lineage"): each for name, each in passwords.items()}, _lineage)


def _copied(folder: Path, url: str, command: str) -> str:
    return told("store", command, "toy", url, "--store", labelled_run(folder))


def _lineage(folder: Path, url: str) -> str:
    return told("store", "lineage", "toy", "--url", url, "--store", labelled_run(folder))
