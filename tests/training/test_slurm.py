"""The batch script for Slurm, checked by bash and run with stand-ins for its commands and for `rlip`, which note their words."""

import os
import subprocess
from pathlib import Path

import pytest

from pipeline.cli.cluster import write_slurm_script
from storage.errors import FatalError
from tests.training.launched import ROOT

RECIPE = ROOT / "recipes" / "demo.toml"
STAND_INS = {
    "scontrol": '#!/bin/bash\n[[ $1 == requeue ]] && echo "$*" >> told || printf "127.0.0.2\\n127.0.0.3\\n"\n',
    "srun": '#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n',
    "rlip": """#!/bin/bash
echo "$*" >> told
[[ $1 == run ]] || exec sleep 60
until grep -q ^cluster told; do sleep 0.1; done
[[ $TIME_IS_UP ]] || exit 7
sleep 0.5; kill -TERM $PPID; exec sleep 60
""",
}  # fmt: skip


def script(tmp_path: Path, **changes) -> str:
    options = {"nodes": 2, "gpus": 1, "partition": None, "time": None, "out": tmp_path / "job.sh", "overrides": []}
    write_slurm_script(**({"path": RECIPE} | options | changes))
    return (tmp_path / "job.sh").read_text()


def test_bash_accepts_the_script_and_slurm_gets_what_was_asked_for(tmp_path):
    smaller = ["train_tagger.micro_batch=4", "pretrain.settings.micro_batch=2"]
    made = script(tmp_path, gpus=2, partition="long", time="12:00:00", overrides=["store=out/it's here", *smaller])
    assert subprocess.run(["bash", "-n", tmp_path / "job.sh"], timeout=60).returncode == 0
    options = [line.removeprefix("#SBATCH --") for line in made.splitlines() if line.startswith("#SBATCH")]
    assert {"nodes=2", "gpus-per-node=2", "partition=long", "time=12:00:00", "signal=B:TERM@150", "requeue"} <= set(
        options
    )
    assert """--set 'store=out/it'"'"'s here'""" in made


@pytest.mark.parametrize("time_is_up, code, last", [("", 7, []), ("yes", 143, ["requeue 40017"])])
def test_the_first_node_runs_the_recipe_and_the_others_join_it_until_it_ends(tmp_path, time_is_up, code, last):
    for name, text in STAND_INS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    script(tmp_path, overrides=[f"store={tmp_path}"])
    environment = {"SLURM_JOB_ID": "40017", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_CPUS_ON_NODE": "2"}
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TIME_IS_UP": time_is_up}
    done = subprocess.run(
        ["bash", "job.sh"], cwd=tmp_path, capture_output=True, timeout=30, env=os.environ | environment
    )
    told = (tmp_path / "told").read_text().splitlines()
    assert (done.returncode, told[2:]) == (code, last), "the job ends as the recipe does, or goes back into the queue"
    joined, run = sorted(told[:2])
    assert joined == f"cluster join 127.0.0.2:20017 {tmp_path} --stay"
    assert run.startswith(f"run {RECIPE} --set store={tmp_path} ")
    for section in ("train_tagger", "pretrain.settings"):
        for setting in ("processes=1", "nodes=2", "address=127.0.0.2:20017"):
            assert f"--set {section}.{setting}" in run


def test_a_recipe_without_pre_training_gets_none(tmp_path):
    tagger = ROOT / "recipes" / "paper" / "tagger_swin_l.toml"
    assert "pretrain" not in script(tmp_path, path=tagger, gpus=8)
    bare = tmp_path / "bare.toml"
    bare.write_text('[data]\nsources = [{ name = "set", format = "coco", images = "i", annotations = "a.json" }]\n')
    assert "pretrain" not in script(tmp_path, path=bare)
    at_least = ["pretrain.settings.min_nodes=2", "pretrain.settings.micro_batch=4"]
    assert "--set pretrain.settings.nodes=2" in script(tmp_path, overrides=at_least)


def test_what_the_nodes_cannot_share_is_told(tmp_path):
    with pytest.raises(FatalError, match="a store in a folder that they all share"):
        script(tmp_path, overrides=["store=s3://bucket/folder"])
    with pytest.raises(FatalError, match=r"use batch = 8000 with lr_for_batch = \d+ .*, a smaller micro_batch"):
        script(tmp_path, nodes=1000)
