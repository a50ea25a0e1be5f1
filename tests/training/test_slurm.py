"""The batch script for Slurm, checked by bash and run with stand-ins for Slurm's commands and for `rlip`."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli.cluster import write_slurm_script
from pipeline.training.config import SUMMARY
from storage.errors import FatalError
from tests.training.launched import ROOT

RECIPE = ROOT / "recipes" / "demo.toml"
STAND_INS = {
    "scontrol": "#!/bin/bash\necho 127.0.0.2\necho 127.0.0.3\n",
    "srun": '#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n',
    "rlip": f'#!/bin/bash\nexec {sys.executable} "$RLIP_STAND_IN" "$@"\n',
}
RLIP = """
import sys
from pathlib import Path

from pipeline.training.config import TrainConfig
from pipeline.training.launch import rank_processes

rank_processes.IMPORTS = ("torch",)  # All that its ranks use, which are none of a network.

from pipeline.training.launch.agent import join
from pipeline.training.launch.launcher import launch
from pipeline.training.settings import TrainingSettings
from tests.training.launched import WORKER

def main(command, *words):
    if command == "cluster":
        words = words[1:]
        sys.exit(join(words[0], Path(words[1]), words[2] == "--stay", WORKER))
    settings = dict(word.removeprefix("pretrain.settings.").split("=") for word in words if word.startswith("pretrain."))
    work = Path(words[words.index("--set") + 1].removeprefix("store=")) / "work"
    made = TrainingSettings(
        steps=4, batch=4, micro_batch=1, nodes=int(settings["nodes"]), processes=int(settings["processes"]),
        address=settings.get("address"),
    )
    launch(TrainConfig(kind="pretrain", settings=made, work=work), print, WORKER)

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


def free_port() -> int:
    """Returns a port among those that the script takes."""
    for port in range(20000, 40000):
        try:
            with socket.create_server(("127.0.0.2", port)):
                return port
        except OSError:
            continue
    raise AssertionError("no free port")


def script(tmp_path: Path, **changes) -> str:
    options = {"nodes": 2, "gpus": 1, "partition": None, "time": None, "out": tmp_path / "job.sh", "overrides": []}
    write_slurm_script(RECIPE, **(options | changes))
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


def test_the_nodes_of_the_script_train_together(tmp_path):
    for name, text in STAND_INS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "stand_in.py").write_text(RLIP)
    work = tmp_path / "store" / "work"
    work.mkdir(parents=True)
    script(tmp_path, overrides=[f"store={work.parent}"])
    port = free_port()
    done = subprocess.run(
        ["bash", tmp_path / "job.sh"], cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
            "RLIP_STAND_IN": str(tmp_path / "stand_in.py"),
            "SLURM_JOB_ID": str(port - 20000),
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_CPUS_ON_NODE": "2",
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "joined it as node 1" in done.stdout
    assert '"processes":2' in (work / SUMMARY).read_text()


def test_a_store_that_nodes_cannot_share_is_told(tmp_path):
    with pytest.raises(FatalError, match="a store in a folder that they all share"):
        script(tmp_path, overrides=["store=s3://bucket/folder"])


def test_a_recipe_that_the_nodes_cannot_share_is_told(tmp_path):
    with pytest.raises(FatalError, match=r"use batch = 8000 with lr_for_batch = \d+ .*, a smaller micro_batch"):
        script(tmp_path, nodes=1000)
