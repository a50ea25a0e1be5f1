"""Renders the HTML pages of reports. They load nothing, run no script, and show all names as text."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.report.formatting import without_controls

_TEMPLATES = Path(__file__).parent / "templates"
# One for all pages, since it keeps compiled templates: compiling takes as long as drawing a page.
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(_TEMPLATES),
    autoescape=True,
    finalize=without_controls,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render_page(
    template: str, styles: Sequence[str], filters: Mapping[str, Callable[[Any], Any]], *, rules: str = "", **values: Any
) -> str:
    """Renders a template with the style sheets `styles` and further CSS `rules`; the template shows `values`."""
    style = "".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in styles) + rules
    _ENVIRONMENT.filters |= filters
    # The page's policy allows only this style, by its hash.
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return _ENVIRONMENT.get_template(template).render(style=Markup(style), style_hash=f"sha256-{digest}", **values)
