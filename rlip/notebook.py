"""How notebooks display objects: the tables and texts of the commands as HTML, and images with their labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Callable
from html import escape
from io import BytesIO, StringIO
from pathlib import Path

from PIL import Image
from rich.console import Console

from pipeline.cli.contact_sheet import ARROWS, labelled_cell
from pipeline.interop.shard_samples import SeenLabels
from rlip.arguments import checked
from storage.errors import FatalError


def console_html(show: Callable[[Console], None]) -> str:
    """What a command prints, as HTML."""
    console = Console(record=True, file=StringIO(), width=120, force_jupyter=False, markup=False)
    show(console)
    return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")


class Drawable(ABC):
    """An image with labels."""

    title: str

    @property
    @abstractmethod
    def image(self) -> Image.Image:
        """The image in RGB."""

    @abstractmethod
    def seen(self, top: int) -> SeenLabels:
        """What to draw: boxes, and the `top` best relations."""

    @checked
    def draw(self, out: str | Path | None = None, top: int = ARROWS) -> Image.Image:
        """Draws the image with its boxes and a list of its `top` best relations. `out`: file to write."""
        drawn = labelled_cell(self.title, self.image, self.seen(top), top)
        if out is not None:
            try:
                drawn.save(out)
            except (OSError, ValueError) as error:
                raise FatalError(f"{out}: can't be written ({error}); name a .png or .jpg in a folder") from error
        return drawn

    def _repr_html_(self) -> str:
        file = BytesIO()
        self.draw().save(file, "PNG")
        return f'<img alt="{escape(self.title)}" src="data:image/png;base64,{b64encode(file.getvalue()).decode()}">'
