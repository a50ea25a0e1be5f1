"""Renders HTML pages, which show all names as text. Those of reports load nothing and run no script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.report.formatting import without_controls


def templates_in(folder: Path, **options: Any) -> Environment:
    """The templates of a folder. Data become text, never markup, and a name that a template misspells is an error."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        **options,
    )


_FOLDER = Path(__file__).parent / "templates"


def page_templates(filters: Mapping[str, Callable[..., Any]]) -> Environment:
    """The templates of this package, with filters.

    It keeps compiled templates, and a template that others import keeps the filters of its first use.
    """
    templates = templates_in(_FOLDER, finalize=without_controls)
    templates.filters |= filters
    return templates


def render_page(templates: Environment, template: str, styles: Sequence[str], *, rules: str = "", **values: Any) -> str:
    """Renders a template with the style sheets `styles` and further CSS `rules`; the template shows `values`."""
    style = "".join((_FOLDER / name).read_text(encoding="utf-8") for name in styles) + rules
    # The page's policy allows only this style, by its hash.
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    shown = {"style": Markup(style), "style_hash": f"sha256-{digest}", **values}
    return templates.get_template(template).render(**shown)
