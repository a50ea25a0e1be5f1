"""Recipes, and the names and URLs that they and commands are given. No password of a URL is ever told."""

from collections.abc import Iterator
from pathlib import Path

from tests.hostile.case import Case, table, told, written
from tests.hostile.stores import labelled_run

GOOD = 'name = "r"\n[data]\nlabel = ["s"]\n[[data.sources]]\nname = "s"\nformat = "coco"\nimages = "i"\nannotations = "a.json"\n[pretrain]\nvariants = []\n'
BAD_TOML = r"^refused: Error: .*r\.toml: not a readable TOML file"
BAD_VALUE = "^refused: Error: "

RECIPES: dict[str, tuple[str, str | bytes]] = {
    "no UTF-8": (BAD_TOML, b'name = "\xff"'),
    "YAML with a call": (BAD_TOML, "name: !!python/object/apply:os.system ['touch escaped']"),
    "tables within tables": (r"^refused: Error: .*r\.toml", "a" + ".a" * 20_000 + " = 1"),
    "a number of 5,000 digits": (BAD_TOML, "seed = " + "1" * 5000),
    "a name that leads out": (BAD_VALUE + ".*name", GOOD.replace('"r"', '"../../escaped"')),
    "a name that clears terminals": (BAD_VALUE + ".*name", GOOD.replace('"r"', r'"\u001b[2J"')),
    "a split that leads out": (BAD_VALUE + ".*split", GOOD.replace('images = "i"', 'images = "i"\nsplit = "../x"')),
    "a split that clears terminals": (BAD_VALUE + ".*split", GOOD.replace('images = "i"', 'images = "i"\nsplit = "\\u001b[2J"')),
    "itself extended": (BAD_VALUE + ".*remove one `extends`", 'extends = "r.toml"\n' + GOOD),
    "a file outside extended": (BAD_VALUE, 'extends = "/etc/passwd"\n' + GOOD),
    "a zero byte extended": (BAD_VALUE + ".*extends", 'extends = "a\\u0000b"\n' + GOOD),
    "a name of 5,000 characters extended": (BAD_VALUE, f'extends = "{"a" * 5000}"\n' + GOOD),
    "a device extended": (BAD_VALUE + ".*not a file", 'extends = "/dev/zero"\n' + GOOD),
    "a pipe of images": (BAD_VALUE, GOOD.replace('images = "i"', 'images = "pipe:touch escaped"')),
    "a store that is a file": (BAD_VALUE, 'store = "r.toml"\n' + GOOD),
    "a store with a zero byte": (BAD_VALUE, 'store = "a\\u0000b"\n' + GOOD),
    "annotations that are a device": (BAD_VALUE, GOOD.replace("a.json", "/dev/zero")),
    "annotations of 5,000 characters": (BAD_VALUE, GOOD.replace("a.json", "a" * 5000)),
    "an interpreter of LAVIS that isn't": (BAD_VALUE, GOOD + '[caption]\ncaptioner = "lavis"\nlavis_python = "/bin/false"\n'),
}  # fmt: skip

SETTINGS: dict[str, tuple[str, str]] = {
    "half a character": ("^refused: error .*r.toml", "name=\udc80"),
    "code": ("^refused: error .*r.toml", "name=__import__('os').system('touch escaped')"),
    "control characters": ("^refused: error .*r.toml", "name=\x1b[2J"),
}

NAMES: dict[str, tuple[str, tuple[str, ...]]] = {
    "a run that leads out": ("^refused", ("show", "../../etc")),
    "a run that clears terminals": ("^refused: [^\x1b]*$", ("show", "\x1b[2J")),
    "a run with half a character": ("^refused", ("show", "\udc80")),
    "a step that clears terminals": ("^refused: [^\x1b]*$", ("show", "toy", "\x1b[2J")),
    "a partition that isn't": ("^refused: [^\x1b]*$", ("why", "toy", "tag", "\x1b[2J")),
    "an image that isn't": ("^refused: [^\x1b]*$", ("explain", "\x1b[2J")),
    "a removal that leads out": ("^refused", ("store", "rm", "../toy")),
    "a report that is a device": ("^refused", ("report", "toy", "--out", "/dev/null")),
    "an export onto a file": ("^refused", ("export", "toy", "--format", "parquet", "--out", "store/runs/toy/steps/tag.json")),
    "a difference to a run that isn't": ("^refused", ("diff", "toy", "\x1b[2J")),
}  # fmt: skip

SECRET = "hunter2"
NO_SECRET = f"^refused: (?!.*{SECRET})"
MISTYPED: dict[str, tuple[str, str]] = {
    "an archive of no name": ("^refused", "zip://"),
    "5,000 characters": ("^refused: .*(too long|not a server URL)", "s" * 5000),
    "a port of letters": ("^refused", "http://127.0.0.1:port/x"),
    "half an IPv6 address": ("^refused", "http://[::1/x"),
}
PASSWORDS: dict[str, tuple[str, str]] = {
    "a password to an unknown protocol": (NO_SECRET, f"nosuch://user:{SECRET}@host/x"),
    "a password to a silent host": (NO_SECRET, f"http://user:{SECRET}@127.0.0.1:9/x"),
    "a password in a query": (NO_SECRET, f"http://127.0.0.1:9/x?token={SECRET}"),
    "a password behind a chain": (NO_SECRET, f"simplecache::http://user:{SECRET}@127.0.0.1:9/x"),
}
STRANGE: dict[str, tuple[str, str]] = {
    "an unknown protocol": ("^refused", "nosuch://bucket/x"),
    "a chain of protocols": ("^refused", "simplecache::file:///etc"),
    "control characters": ("^refused: [^\x1b]*$", "nosuch://\x1b[2J"),
}
LABEL = ("label", "{}", "--tagger", "demo-tagger", "--detector", "demo-detector", "--captioner", "demo-captioner")
ADDRESSED: dict[str, tuple[tuple[str, ...], dict[str, tuple[str, str]]]] = {
    "show": (("show", "--store", "{}"), STRANGE | MISTYPED | PASSWORDS),
    "push": (("store", "push", "toy", "{}", "--store", "store"), PASSWORDS),
    "pull": (("store", "pull", "toy", "{}", "--store", "store"), PASSWORDS),
    "lineage": (("store", "lineage", "toy", "--url", "{}", "--store", "store"), MISTYPED | PASSWORDS),
    "label": (LABEL, MISTYPED), "shards": (("shards", "info", "{}"), MISTYPED),
}  # fmt: skip
"""Commands, with the addresses that each is given in a folder with a store."""


def cases() -> Iterator[Case]:
    """Recipes that are checked, settings of the command line, names of things that a store holds, and URLs."""
    yield from table("recipe", RECIPES, lambda folder, text: told("plan", written(folder / "r.toml", text)))
    yield from table("setting", SETTINGS, _set)
    yield from table("names", NAMES, _named)
    for command, (words, addresses) in ADDRESSED.items():
        given = {f"{command}: {name}": each for name, each in addresses.items()}
        yield from table("URL", given, lambda folder, url, words=words: _addressed(folder, words, url))


def _set(folder: Path, setting: str) -> str:
    return told("recipe", "check", written(folder / "r.toml", GOOD), "--set", setting)


def _named(folder: Path, words: tuple[str, ...]) -> str:
    return told(*words, "--store", labelled_run(folder))


def _addressed(folder: Path, words: tuple[str, ...], url: str) -> str:
    labelled_run(folder)
    return told(*(word.format(url) for word in words))
