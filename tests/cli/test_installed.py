"""The built package, without the repository: what it brings is found by name from an empty folder."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def installed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as its wheel holds it. The libraries are those of this interpreter."""
    source = tmp_path_factory.mktemp("source") / "rlip"
    project = tomllib.loads((root / "pyproject.toml").read_text())
    packages = [name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]]
    for name in packages:  # pip builds in the folder that it is given, and leaves files there
        shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    wheels = source.with_name("wheels")
    build = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w"]
    subprocess.run([sys.executable, *build, wheels, source], check=True, capture_output=True)
    (wheel,) = wheels.glob("rlip-*.whl")
    zipfile.ZipFile(wheel).extractall(source.with_name("site"))
    return source.with_name("site")


def test_the_wheel_has_every_file_of_its_packages(installed, root):
    packages = [path.name for path in installed.iterdir() if path.suffix != ".dist-info"]
    assert {"pipeline", "flows", "recipes", "scenes"} <= set(packages)
    listed = subprocess.run(
        ["git", "-C", root, "ls-files", *packages], check=True, capture_output=True, text=True
    ).stdout
    assert [name for name in listed.splitlines() if not (installed / name).is_file()] == []


def test_the_wheel_labels_pictures_in_an_empty_folder(installed, tmp_path):
    def rlip(*words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pipeline.cli", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}: {done.stdout[-1500:]}{done.stderr[-1500:]}"
        return done.stdout

    rlip("data", "scenes", "drawn", "--set", "scenes.train=2", "--set", "scenes.relations=0", "--set", "scenes.test=1")
    weights = ("--tagger", "demo-tagger", "--detector", "demo-detector", "--captioner", "demo-captioner")
    quick = ("--set", "caption.draws=1", "--set", "run.workers=1")
    said = rlip("label", "drawn/coco/train", "--as", "mine", *weights, *quick)
    assert "2 images" in said and (tmp_path / "out/labels/mine/labels.json").is_file()
    assert (tmp_path / "out/store/reports/mine/index.html").is_file()
