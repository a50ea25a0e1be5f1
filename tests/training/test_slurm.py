"""The Slurm batch script, checked by bash and run with stand-ins for its commands and `rlip` that note their words."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from warm_process import wait_for

from pipeline.cli.cluster import write_slurm_script
from storage.errors import FatalError
from tests.training.launched import ROOT

RECIPE = ROOT / "recipes" / "demo.toml"
STAND_INS = {
    "scontrol": '#!/bin/bash\n[[ $1 == requeue ]] && echo "$*" >> told || printf "127.0.0.2\\n127.0.0.3\\n"\n',
    "scancel": '#!/bin/bash\n[[ $* == "--signal=TERM 40017" ]] && kill -TERM $(cat tasks)\n',
    # Slurm's turns SIGTERM into SIGKILL for its tasks.
    "srun": """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
trap 'kill -KILL $!' TERM
"$@" & echo $! >> tasks
wait $!; code=$?
[[ $code == 143 ]] || exit $code
wait $!
""",
    "rlip": """#!/bin/bash
trap '[[ $1 == run ]] && echo stopped >> told; exit 130' TERM
echo "$*" >> told
until grep -q ^cluster told; do sleep 0.1; done
[[ $1 == run && ! $IS_SIGNALLED ]] && exit 7
sleep 60 & wait
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
    asked = {"nodes=2", "gpus-per-node=2", "partition=long", "time=12:00:00"}
    assert asked | {"signal=B:USR1@150", "exclusive", "mem=0", "requeue"} <= set(options)
    assert """--set 'store=out/it'"'"'s here'""" in made
    alone = script(tmp_path, nodes=1)
    assert subprocess.run(["bash", "-n", tmp_path / "job.sh"], timeout=60).returncode == 0
    assert f"rlip run {RECIPE} --set" in alone and "cluster join" not in alone and "address" not in alone


@pytest.mark.parametrize(
    "sent, code, last",
    [(None, 7, []), (signal.SIGUSR1, 130, ["stopped", "requeue 40017"]), (signal.SIGTERM, -signal.SIGTERM, [])],
)
def test_the_first_node_runs_the_recipe_and_the_others_join_it_until_it_ends(tmp_path, sent, code, last):
    for name, text in STAND_INS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    script(tmp_path, overrides=[f"store={tmp_path}"])
    environment = {"SLURM_JOB_ID": "40017", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_CPUS_ON_NODE": "2"}
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "IS_SIGNALLED": "yes" if sent else ""}
    job = subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, start_new_session=True, env=os.environ | environment)
    try:
        for name in ("told", "tasks"):
            wait_for(lambda name=name: _lines(tmp_path / name)[1:] or None, "the script starts no two steps")
        if sent:
            job.send_signal(sent)
        assert job.wait(30) == code
    finally:
        with suppress(ProcessLookupError):  # everything that it started may have ended
            os.killpg(job.pid, signal.SIGKILL)
    told = _lines(tmp_path / "told")
    assert told[2:] == last, "only the time limit puts the job back into the queue, after a checkpoint"
    joined, run = sorted(told[:2])
    assert joined == f"cluster join 127.0.0.2:20017 {tmp_path} --stay"
    assert run.startswith(f"run {RECIPE} --set store={tmp_path} ")
    for section in ("train_tagger", "pretrain.settings"):
        for setting in ("processes=1", "nodes=2", "address=127.0.0.2:20017"):
            assert f"--set {section}.{setting}" in run


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def test_a_recipe_without_pre_training_gets_none(tmp_path):
    tagger = ROOT / "recipes" / "paper" / "tagger_swin_l.toml"
    assert "pretrain" not in script(tmp_path, path=tagger, gpus=8)
    bare = tmp_path / "bare.toml"
    bare.write_text('[data]\nsources = [{ name = "set", format = "coco", images = "i", annotations = "a.json" }]\n')
    assert "pretrain" not in script(tmp_path, path=bare)
    at_least = ["pretrain.settings.min_nodes=2", "pretrain.settings.micro_batch=4"]
    assert "--set pretrain.settings.nodes=2" in script(tmp_path, overrides=at_least)


def test_what_the_nodes_cannot_share_is_reported(tmp_path):
    with pytest.raises(FatalError, match="a store in a folder that they all share"):
        script(tmp_path, overrides=["store=s3://bucket/folder"])
    with pytest.raises(FatalError, match=r"use batch = 8000 with lr_for_batch = \d+ .*, a smaller micro_batch"):
        script(tmp_path, nodes=1000)
