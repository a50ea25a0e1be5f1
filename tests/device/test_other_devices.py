"""What runs on the CPU runs on another device, with the same results and few waits for it.

Each file of checks has a process of its own, because torch learns of the stand-in's device before anything else. This
takes more than a minute: each operation on the stand-in passes through Python.
"""

import sys
from pathlib import Path

import pytest
from warm_process import WarmProcess

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]


@pytest.mark.parametrize("checks", sorted(path.stem for path in FOLDER.glob("check_*.py")))
def test_on_a_stand_in(checks: str, tmp_path: Path) -> None:
    words = ["-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={tmp_path / 'checks'}", f"{FOLDER / checks}.py"]
    process = WarmProcess(_pytest, words, cwd=ROOT)
    said, _ = process.communicate(timeout=600)
    assert process.wait() == 0, said


def _pytest(words: list[str]) -> None:
    sys.exit(pytest.main(words))
