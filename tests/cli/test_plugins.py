"""A package with a captioner and an export is installed and used; a broken one costs its users a message, nobody else."""

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rlip_command import output_of, rlip
from small_set import write_small_set

from pipeline.runtime import plugins

BROKEN = """
[rlip.captioners]
brightness = broken:Captioner
torn = broken:Captioner
"""


@pytest.fixture
def on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Lets this process see the packages in a folder, as an environment in which they are installed does."""

    def add(folder: Path) -> None:
        monkeypatch.syspath_prepend(folder)
        plugins._registered.cache_clear()

    yield add
    monkeypatch.undo()
    plugins._registered.cache_clear()
    sys.modules.pop("rlip_example", None)


@pytest.fixture(scope="module")
def example(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed package of `examples/plugin`."""
    source = tmp_path_factory.mktemp("source") / "plugin"  # pip leaves files there
    shutil.copytree(root / "examples" / "plugin", source)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--no-compile", "--target", source.with_name("site"))
    subprocess.run([sys.executable, "-m", "pip", "install", *options, source], check=True, capture_output=True)
    return source.with_name("site")


def test_a_chain_runs_with_the_captioner_and_the_export_of_another_package(example, on_path, root, tmp_path):
    lines = [path.read_text().count("\n") for path in (root / "examples" / "plugin").iterdir() if path.is_file()]
    assert sum(lines) <= 60
    recipe, words = (
        write_small_set(tmp_path),
        ("--direct", "--json", "--set", "tag.method=prior", "--set", "tag.floor=0"),
    )
    asks = ("--set", "caption.captioner=brightness", "--set", "caption.options.states=a person riding a horse")
    assert "give one of 'blip', 'lavis', 'openai'" in rlip("run", recipe, *words, *asks).stderr
    on_path(example)
    output_of("run", recipe, *words, *asks, cwd=tmp_path)
    store = ("--store", tmp_path / "out" / "store")
    shown = json.loads(output_of("explain", "1", "small", *store, "--json"))
    assert [caption["text"] for caption in shown["captions"]] == ["a bright picture of a person riding a horse"] or [
        caption["text"] for caption in shown["captions"]
    ] == ["a dark picture of a person riding a horse"]
    output_of("export", "small", *store, "--format", "lines", "--all", "--out", tmp_path / "lines")
    assert "1\tperson\tride\thorse" in (tmp_path / "lines" / "set.txt").read_text().splitlines()
    (planned,) = (json.loads(output_of("plan", recipe, *words[1:], *asks[:2])),)
    assert {row["step"]: row["due"] for row in planned}["caption"] == 2, "other options make other captions"
    done = rlip("plan", recipe, *words[1:], *asks[:2], "--set", "caption.options.state=x")
    assert "caption.options.state" in done.stderr and "the options are states" in done.stderr


def test_a_broken_or_doubled_plugin_costs_a_message_when_it_is_used(example, on_path, tmp_path):
    recipe, site = write_small_set(tmp_path / "set"), tmp_path / "site"
    (site / "broken-1.0.dist-info").mkdir(parents=True)
    (site / "broken-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (site / "broken-1.0.dist-info" / "entry_points.txt").write_text(BROKEN)
    (site / "broken.py").write_text("import no_such_library")
    on_path(site)
    importlib.invalidate_caches()
    assert rlip("plan", recipe).exit_code == 0
    done = rlip("plan", recipe, "--set", "caption.captioner=torn")
    assert done.exit_code == 1
    assert "captioner 'torn' of package broken" in done.stderr and "no_such_library" in done.stderr
    on_path(example)
    done = rlip("plan", recipe, "--set", "caption.captioner=brightness")
    assert done.exit_code == 1 and "registered by" in done.stderr and "broken" in done.stderr
