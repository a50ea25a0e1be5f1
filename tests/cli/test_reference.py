"""docs/cli.md, docs/settings.md and docs/api.md say what the code says, and every setting says what it does."""

import importlib
import re
import runpy
from pathlib import Path

import pytest
from rich.text import Text

from pipeline.captioning.captioner import Captioner
from pipeline.cli.app import COMMANDS
from pipeline.run.context import RunContext
from pipeline.run.recipe_files import load_recipe


@pytest.mark.parametrize("page", ["cli", "settings", "api"])
def test_the_page_is_made_from_the_code(page, root):
    made = runpy.run_path(str(root / "docs" / "reference.py"))[f"{page}_page"]()
    assert (root / "docs" / f"{page}.md").read_text() == made, "run `make reference`"


def test_the_page_lists_every_member_of_a_captioner(root):
    section = (root / "docs/api.md").read_text().partition("`Captioner`:")[2].partition("###")[0]
    members = {name for name in (*Captioner.__annotations__, *vars(Captioner)) if not name.startswith("_")}
    assert members == set(re.findall(r"^- `(\w+)", section, re.MULTILINE)) >= {"side", "caption"}


def test_every_setting_says_what_it_does(root):
    rows = re.findall(r"^- `(\w+).*?(?:: (.*))?$", (root / "docs" / "settings.md").read_text(), re.MULTILINE)
    assert len(rows) > 100
    assert [name for name, meaning in rows if not meaning.strip()] == []


def test_help_shows_every_word_and_the_page_the_choices_of_every_option(root):
    page = (root / "docs" / "cli.md").read_text().partition("\n## ")[2]
    for text in (page, *(line for panel in COMMANDS.values() for line in panel.values())):
        assert Text.from_markup(text).plain == text, "rich drops what it takes for markup"
    assert "| `--format label_studio\\|cvat` |" in page and not re.findall(r"^\| `-[^`]*`[^ ].*", page, re.MULTILINE)


def test_the_recipe_in_the_readme_is_valid(root, tmp_path):
    section = (root / "README.md").read_text().partition("## Your own data")[2].partition("\n## ")[0]
    recipe = "\n".join(line.strip() for line in section.splitlines() if line.startswith("    "))
    (tmp_path / "mine.toml").write_text(recipe)
    context = RunContext(load_recipe(tmp_path / "mine.toml"))
    assert [step.name for step in context.steps] == ["ingest", "caption", "parse", "import_tagger", "tag"]
    assert len(recipe.splitlines()) <= 10


ROOT = Path(__file__).parents[2]
MODULES = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "benchmarks").rglob("*.py"))
PEERS = {"litdata", "spdl", "grain", "array_record", "lavis", "sng_parser"}


@pytest.mark.parametrize("module", MODULES)
def test_a_benchmark_can_be_loaded(module):
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in PEERS:
            raise
        pytest.skip(f"the peer {error.name} is not installed")
