"""The built package, without the repository: what it brings is found by name from an empty folder."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from built_wheel import unpacked_wheel
from PIL import Image

from scenes.scene import render
from scenes.world import make_scene


@pytest.fixture(scope="module")
def installed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as its wheel holds it. The libraries are those of this interpreter."""
    source = tmp_path_factory.mktemp("source") / "rlip"
    project = tomllib.loads((root / "pyproject.toml").read_text())
    packages = [name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]]
    for name in packages:
        shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    return unpacked_wheel(source)


def test_the_wheel_has_every_file_of_its_packages(installed, root):
    packages = [path.name for path in installed.iterdir() if path.suffix != ".dist-info"]
    assert {"rlip", "pipeline", "flows", "recipes", "scenes"} <= set(packages)
    listed = subprocess.run(
        ["git", "-C", root, "ls-files", *packages], check=True, capture_output=True, text=True
    ).stdout
    assert [name for name in listed.splitlines() if not (installed / name).is_file()] == []


def test_the_quick_start_of_the_readme_runs_with_the_wheel_in_an_empty_folder(installed, root, tmp_path):
    for index, name in enumerate(("street", "field")):
        (tmp_path / "photos").mkdir(exist_ok=True)
        render(make_scene(31, index)).save(tmp_path / "photos" / f"{name}.png")
    readme = (root / "README.md").read_text()
    (script,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(script.splitlines()) <= 10
    # A script without `if __name__ == "__main__"`: workers must not run it again.
    (tmp_path / "quick.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "quick.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{done.stdout[-1500:]}{done.stderr[-1500:]}"
    assert "subject_category: string" in done.stdout and "street.png" in done.stdout
    assert (tmp_path / "out/store/reports/photos/index.html").is_file()
    assert Image.open(tmp_path / "street.png").width > 500
