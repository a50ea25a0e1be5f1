"""The `rlip` command as users see it: its options are fixed, and an error is one message and an exit code."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rlip_command import in_own_process, loaded_by, rlip
from run_builder import RunBuilder
from small_set import write_small_set

COMMANDS = {
    "predict": {
        "--out",
        "--objects",
        "--predicates",
        "--subject",
        "--image-size",
        "--per-image",
        "--tokenizer",
        "--batch",
        "--device",
        "--draw",
        "--json",
        "--help",
    },
    "evaluate": {
        "--ground-truth",
        "--detections",
        "--format",
        "--file",
        "--official",
        "--known-object",
        "--interactions",
        "--rare",
        "--split",
        "--validity",
        "--subject",
        "--boxes-given",
        "--allow-missing",
        "--drop-faulty",
        "--intervals",
        "--report",
        "--images",
        "--json",
        "--help",
    },
    "convert": {"--file", "--json", "--help"},
    "run": {"--set", "--until", "--direct", "--json", "--help"},
    "label": {
        "--tagger",
        "--detector",
        "--captioner",
        "--categories",
        "--threshold",
        "--tokenizer",
        "--hub",
        "--as",
        "--out",
        "--set",
        "--store",
        "--json",
        "--help",
    },
    "train-tagger": {"--set", "--direct", "--json", "--help"},
    "plan": {"--set", "--json", "--help"},
    "estimate": {"--from", "--images", "--workers", "--price", "--set", "--json", "--help"},
    "show": {"--store", "--json", "--help"},
    "runs": {"--store", "--json", "--help"},
    "checks": {"--store", "--json", "--help"},
    "why": {"--store", "--json", "--help"},
    "explain": {"--store", "--json", "--help"},
    "batch": {"--step-name", "--out", "--store", "--json", "--help"},
    "diff": {"--store", "--verdicts", "--json", "--help"},
    "query": {"--out", "--store", "--json", "--help"},
    "push": {"--last", "--store", "--json", "--help"},
    "pull": {"--store", "--json", "--help"},
    "export": {"--format", "--out", "--threshold", "--all", "--store", "--json", "--help"},
    "import": {"--as", "--dataset", "--images", "--paths", "--store", "--json", "--help"},
    "lineage": {"--out", "--url", "--partitions", "--store", "--json", "--help"},
    "report": {"--out", "--pictures", "--seed", "--against", "--store", "--json", "--help"},
    "verify": {"--repair", "--store", "--json", "--help"},
    "gc": {"--grace", "--delete", "--newest", "--store", "--json", "--help"},
    "du": {"--store", "--json", "--help"},
    "rm": {"--store", "--json", "--help"},
    "parse": {"--model", "--json", "--help"},
    "scenes": {"--recipe", "--set", "--json", "--help"},
    "doctor": {"--set", "--json", "--help"},
    "server": {"--store", "--port", "--help"},
    "recipe show": {"--section", "--set", "--json", "--help"},
    "recipe check": {"--set", "--json", "--help"},
    "recipe diff": {"--json", "--help"},
    "weights import": {"--args", "--text", "--set", "--seed", "--json", "--help"},
    "weights export": {"--json", "--help"},
    "join": {"--stay", "--ray", "--help"},
    "slurm": {"--nodes", "--gpus-per-node", "--partition", "--time", "--out", "--set", "--help"},
    "weights show": {"--json", "--help"},
    "data get": {"--root", "--only", "--mirror", "--json", "--help"},
    "data list": {"--root", "--json", "--help"},
    "verdicts show": {"--verdicts", "--seed", "--store", "--json", "--help"},
    "verdicts thresholds": {"--precision", "--fewest", "--verdicts", "--store", "--json", "--help"},
    "verdicts calibration": {"--fewest", "--verdicts", "--store", "--json", "--help"},
    "verdicts import": {"--reviewer", "--format", "--additions-only", "--verdicts", "--store", "--json", "--help"},
    "shards index": {"--format", "--keep-damaged", "--json", "--help"},
    "shards ls": {"--json", "--help"},
    "shards info": {"--json", "--help"},
    "shards verify": {"--json", "--help"},
    "shards preview": {"--out", "--samples", "--help"},
    "shards publish": {"--step", "--license", "--index", "--store", "--json", "--help"},
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_of_each_command_are_these(command: str, root: Path) -> None:
    done = rlip(*command.split(), "--help", cwd=root)
    assert done.exit_code == 0
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", done.stdout)) >= COMMANDS[command]
    listed = set(re.findall(r"^[^\w-]*(--[a-z-]+)", done.stdout, re.MULTILINE))
    assert listed == COMMANDS[command]


@pytest.mark.parametrize("words", [(), ("run",), ("shards",), ("shards", "ls")])
def test_h_asks_for_help(words: tuple[str, ...]) -> None:
    short, long = rlip(*words, "-h"), rlip(*words, "--help")
    assert (short.exit_code, short.stdout) == (0, long.stdout) and "Usage" in short.stdout


@pytest.mark.parametrize(("words", "meant"), [(("rnu",), "run"), (("shards", "verfy"), "verify")])
def test_a_misspelt_command_is_answered_with_the_one_that_is_meant(words: tuple[str, ...], meant: str) -> None:
    done = rlip(*words)
    assert done.exit_code == 2 and f"Did you mean '{meant}'" in done.stderr


def test_help_loads_nothing_heavy(root: Path) -> None:
    heavy = ("torch", "prefect", "pyarrow", "numpy", "spacy")
    code = f"import sys, pipeline.cli.app; print(*[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == ""


def test_a_run_loads_torch_only_where_it_computes(root: Path) -> None:
    heavy = ("torch", "torchvision", "transformers", "spacy")
    code = (
        f"import sys, pipeline.cli.run, pipeline.run.runner; print(*[name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stderr


HEAVY = {"torch", "scipy", "spacy", "fsspec", "prefect", "jinja2", "numba"}
"""What takes a good part of a second to import, or belongs to what only some commands do."""


def test_a_plan_loads_nothing_that_only_a_run_needs(tmp_path: Path) -> None:
    loaded = loaded_by("plan", write_small_set(tmp_path, 1))
    assert "pipeline.run.planner" in loaded
    assert not loaded & {*HEAVY, "duckdb", "pipeline.run.runner", "pipeline.report.figures"}


def test_commands_that_read_a_store_load_nothing_of_the_stages(labelled: RunBuilder) -> None:
    name, store = labelled.run.name, ("--store", labelled.run.store.root)
    for words in (["runs", name], ["query", name, "select count(*) from images"]):
        loaded = loaded_by(*words, *store)
        assert "pyarrow" in loaded
        assert not loaded & {*HEAVY, "pipeline.stages", "pipeline.run", "pipeline.labels"}, words


def test_a_caption_is_parsed_without_torch() -> None:
    loaded = loaded_by("parse", "a man riding a horse")
    assert "spacy" in loaded and not loaded & {"torch", "pyarrow"}


def test_a_wrong_recipe_is_one_message_and_exit_code_1(root: Path, tmp_path: Path) -> None:
    done = in_own_process("run", "recipes/demo.toml", "--direct", "--set", "caption.top_p=2", cwd=root)
    assert done.returncode == 1
    assert "caption.top_p = 2" in done.stderr and "Traceback" not in done.stderr


def test_missing_data_and_weights_stop_before_work(root: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = rlip(
        "run", "recipes/coco_sample.toml", "--direct", "--set", f"data.root={tmp_path}/none", "--set", f"store={store}",
        cwd=root,
    )  # fmt: skip
    assert done.exit_code == 1
    assert "no folder" in done.stderr and "data.root" in done.stderr
    assert not list((store / "artifacts").glob("*"))


def test_a_store_that_cannot_be_written_is_told(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = rlip("run", "recipes/demo.toml", "--direct", "--set", f"store={tmp_path}/file/store", cwd=root)
    assert done.exit_code == 1
    assert "can't be written" in done.stderr and "--set store=" in done.stderr


def test_doctor_tells_what_full_data_lack(root: Path) -> None:
    done = rlip("doctor", "recipes/coco.toml", cwd=root)
    assert done.exit_code == 1
    assert "instances_train2017.json" in done.stdout and "blip-image-captioning-large" in done.stdout


def test_not_enough_disk_is_told(root: Path, tmp_path: Path) -> None:
    settings = ["--set", f"store={tmp_path}/s", "--set", "run.min_free_gib=1e9"]
    done = rlip("run", "recipes/demo.toml", "--direct", *settings, cwd=root)
    assert done.exit_code == 1
    assert "GiB free" in done.stderr


def test_parse_shows_what_a_caption_states(root: Path) -> None:
    done = rlip("parse", "a man in a suit standing in front of a car", cwd=root)
    assert done.exit_code == 0
    assert "man" in done.stdout and "in front of (stand in front of)" in done.stdout and "attire" in done.stdout
    rows = json.loads(rlip("parse", "a horse ridden by a man", "--json", cwd=root).stdout)
    assert [(r["subject_lemma"], r["predicate_lemma"], r["object_lemma"], r["rule"]) for r in rows] == [
        ("man", "ride", "horse", "passive"),
        ("man", "sit on", "horse", "implied"),
    ]


def test_a_caption_that_is_not_parsed_is_one_message(root: Path) -> None:
    for caption in ("  ", "🐎", "word " * 10_000):
        done = rlip("parse", caption, cwd=root)
        assert done.exit_code == 1
        assert done.stderr.startswith("Error: caption ")


def test_an_interrupt_that_arrives_in_a_finaliser_is_not_lost(root: Path) -> None:
    code = """
import os, signal, time
from pipeline.cli.errors import errors_reported
class Finalised:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(10): pass
with errors_reported(resumes=True):
    Finalised()
    time.sleep(30)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=20)
    assert done.stderr.startswith("\nStopped.")


def test_the_version_is_that_of_the_package_and_the_module_runs_like_the_command(root: Path) -> None:
    version = f"rlip {importlib.metadata.version('rlip')}\n"
    assert in_own_process("--version", cwd=root).stdout == version
    command = [sys.executable, "-m", "pipeline.cli", "--version"]
    assert subprocess.run(command, cwd=root, capture_output=True, text=True).stdout == version
