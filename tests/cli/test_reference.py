"""docs/cli.md and docs/settings.md say what the code says, and every setting says what it does."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from pipeline.run.context import RunContext
from pipeline.run.recipe_files import load_recipe


@pytest.mark.parametrize("page", ["cli", "settings"])
def test_the_page_is_made_from_the_code(page: str, root: Path) -> None:
    made = runpy.run_path(str(root / "docs" / "reference.py"))[f"{page}_page"]()
    assert (root / "docs" / f"{page}.md").read_text() == made, "run `make reference`"


def test_every_setting_says_what_it_does(root: Path) -> None:
    rows = re.findall(r"^- `(\w+).*?(?:: (.*))?$", (root / "docs" / "settings.md").read_text(), re.MULTILINE)
    assert len(rows) > 100
    assert [name for name, meaning in rows if not meaning.strip()] == []


def test_the_recipe_in_the_readme_is_valid(root: Path, tmp_path: Path) -> None:
    section = (root / "README.md").read_text().partition("## Your own data")[2].partition("\n## ")[0]
    recipe = "\n".join(line.strip() for line in section.splitlines() if line.startswith("    "))
    (tmp_path / "mine.toml").write_text(recipe)
    context = RunContext(load_recipe(tmp_path / "mine.toml"))
    assert [step.name for step in context.steps] == ["ingest", "caption", "parse", "import_tagger", "tag"]
    assert len(recipe.splitlines()) <= 10
