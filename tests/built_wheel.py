"""Packages as their wheels hold them."""

import subprocess
import sys
import zipfile
from pathlib import Path

BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
"""What pip has the build backend do, without what pip does before and after."""


def unpacked_wheel(source: Path) -> Path:
    """Build the wheel of a project, which leaves files in its folder. Returns a folder beside it with the content."""
    wheels, site = (source.with_name(name) for name in ("wheels", "site"))
    subprocess.run([sys.executable, "-P", "-c", BUILD, wheels], cwd=source, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    return site
