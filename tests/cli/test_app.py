"""The `rlip` command as users see it: an error is one message and an exit code. test_reference.py holds its options."""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rlip_command import in_own_process, loaded_by, rlip
from small_set import write_small_set

from pipeline.cli.app import COMMANDS, FORMER
from pipeline.cli.errors import errors_reported


@pytest.mark.parametrize("words", [(), ("run",), ("shards",), ("shards", "ls")])
def test_h_asks_for_help(words):
    short, long = rlip(*words, "-h"), rlip(*words, "--help")
    assert (short.exit_code, short.stdout) == (0, long.stdout) and "Usage" in short.stdout


@pytest.mark.parametrize(("words", "meant"), [(("rnu",), "run"), (("shards", "verfy"), "verify")])
def test_a_misspelt_command_is_answered_with_the_one_that_is_meant(words, meant):
    done = rlip(*words)
    assert done.exit_code == 2 and f"Did you mean '{meant}'" in done.stderr


def test_the_list_of_commands_is_short_and_names_each_that_there_is():
    lines = re.findall(r"^│ ([a-z]+)  +\S", rlip("--help").stdout, re.MULTILINE)
    assert lines == [name for names in COMMANDS.values() for name in names] and len(lines) <= 24


@pytest.mark.parametrize("former", FORMER)
def test_a_former_name_runs_the_command_and_says_its_name_now(former):
    name, *flags = FORMER[former].split(" --")
    done, now = rlip(former, "--help"), rlip(*name.split(), "--help")
    assert (done.exit_code, done.stdout) == (0, now.stdout)
    assert done.stderr == f"Warning: `rlip {former}` is now `rlip {FORMER[former]}`\n"
    assert all(f"--{flag}" in now.stdout for flag in flags)


def test_a_former_name_that_is_an_option_now_prints_json_as_before(labelled):
    words = (labelled.run.name, "--store", labelled.run.store.root, "--json")
    assert list(json.loads(rlip("runs", *words).stdout)) == ["records"]
    assert list(json.loads(rlip("checks", *words).stdout)) == ["run", "checks"]


def test_the_project_itself_calls_no_command_by_a_former_name(root):
    listed = subprocess.run(["git", "-C", root, "ls-files", "-z"], check=True, capture_output=True, text=True).stdout
    suffixes = {".md", ".py", ".toml", ".yaml", ".json", ".sh", ""}
    files = [root / name for name in listed.split("\0") if Path(name).suffix in suffixes and name != "CHANGELOG.md"]
    former = re.compile(rf"\brlip ({'|'.join(FORMER)})\b(?!-)")
    found = {str(path): former.findall(path.read_text(errors="replace")) for path in files if path.is_file()}
    assert {name: words for name, words in found.items() if words} == {}


def test_no_command_loads_more_than_it_needs_to_say_what_it_does(root):
    code = """
import sys
from pipeline.cli.app import COMMANDS, app, declared
heavy = ("torch", "torchvision", "transformers", "prefect", "spacy", "ray")
assert not {*heavy, "pyarrow", "numpy", "pydantic"} & {*sys.modules}, "the list of commands"
for name in (name for names in COMMANDS.values() for name in names):
    declared(name)
    print(*(f"{name}: {each}" for each in heavy if each in sys.modules))
import pipeline.run.runner
print(*(f"the runner: {each}" for each in heavy if each in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=600)
    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stderr


HEAVY = {"torch", "scipy", "spacy", "fsspec", "prefect", "jinja2", "numba"}
"""What takes a good part of a second to import, or belongs to what only some commands do."""


def test_a_plan_loads_nothing_that_only_a_run_needs(tmp_path):
    loaded = loaded_by("plan", write_small_set(tmp_path, 1))
    assert "pipeline.run.planner" in loaded
    assert not loaded & {*HEAVY, "duckdb", "pipeline.run.runner", "pipeline.report.figures"}


def test_commands_that_read_a_store_load_nothing_of_the_stages(labelled):
    name, store = labelled.run.name, ("--store", labelled.run.store.root)
    for words in (["show"], ["show", name, "--history"], ["query", name, "select count(*) from images"]):
        loaded = loaded_by(*words, *store)
        assert "pyarrow" in loaded
        assert not loaded & {*HEAVY, "pipeline.stages", "pipeline.run", "pipeline.labels.kept_labels"}, words


def test_a_caption_is_parsed_without_torch():
    loaded = loaded_by("parse", "a man riding a horse")
    assert "spacy" in loaded and not loaded & {"torch", "pyarrow"}


def test_a_wrong_recipe_is_one_message_and_exit_code_1(root):
    done = in_own_process("run", "recipes/demo.toml", "--direct", "--set", "caption.top_p=2", cwd=root)
    assert done.returncode == 1
    assert "caption.top_p = 2" in done.stderr and "Traceback" not in done.stderr


def test_parse_shows_what_a_caption_states(root):
    done = rlip("parse", "a man in a suit standing in front of a car", cwd=root)
    assert done.exit_code == 0
    assert "man" in done.stdout and "in front of (stand in front of)" in done.stdout and "attire" in done.stdout
    rows = json.loads(rlip("parse", "a horse ridden by a man", "--json", cwd=root).stdout)
    assert [(r["subject_lemma"], r["predicate_lemma"], r["object_lemma"], r["rule"]) for r in rows] == [
        ("man", "ride", "horse", "passive"),
        ("man", "sit on", "horse", "implied"),
    ]


def test_a_caption_that_is_not_parsed_is_one_message(root):
    for caption in ("  ", "🐎", "word " * 10_000):
        done = rlip("parse", caption, cwd=root)
        assert done.exit_code == 1
        assert done.stderr.startswith("Error: caption ")


def test_an_interrupt_that_arrives_in_a_finaliser_is_not_lost(root):
    code = """
import os, signal, time
from pipeline.cli.errors import errors_reported
class Finalised:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(10): pass
with errors_reported():
    Finalised()
    time.sleep(30)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=20)
    assert done.stderr.startswith("\nStopped.")


def test_a_reader_that_has_read_enough_is_no_error(capsys):
    with pytest.raises(BrokenPipeError), errors_reported():  # which click ends on quietly
        raise BrokenPipeError(32, "Broken pipe")
    assert capsys.readouterr().err == ""


def test_the_version_is_that_of_the_package_and_the_module_runs_like_the_command(root):
    version = f"rlip {importlib.metadata.version('rlip')}\n"
    assert in_own_process("--version", cwd=root).stdout == version
    command = [sys.executable, "-m", "pipeline.cli", "--version"]
    assert subprocess.run(command, cwd=root, capture_output=True, text=True).stdout == version
