"""A report of a run whose tables someone else wrote: no character of theirs hides text, no image from outside is embedded."""

import pytest
from PIL import Image
from report_page import report
from run_builder import TWO_PEOPLE, RunBuilder, captions, relations, triplets

CONTROLS = "\x1b[2J\x00\x07\x9b\u202e\u2066\u200f"


def add_image(book: RunBuilder, uri: str, text: str) -> None:
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE, [(0, text, 2)]) | {"uri": uri}])
    book.add("caption", "toys/0000", [captions(1, text)])
    book.add("parse", "toys/0000", [triplets(1, (0, text, text, text))])
    book.add("tag", "toys/0000", [relations(1, (0, text, 2, 0.9))])


def test_text_of_tables_brings_no_control_characters_into_the_page(book, recipe, tmp_path):
    add_image(book, "1.png", f"ride{CONTROLS}")
    page = report(recipe, book, tmp_path / "report")
    assert "ride�" in page.text
    text = (tmp_path / "report" / "index.html").read_text()
    assert not set(text) & (set(CONTROLS) - set("[2J"))


@pytest.mark.parametrize("where", ["../secret.png", "absolute"])
def test_no_picture_from_outside_its_folder_is_embedded(book, recipe, tmp_path, where):
    secret = book.pictures / "secret.png"
    add_image(book, str(secret) if where == "absolute" else where, "ride")
    Image.new("RGB", (64, 64), (255, 0, 0)).save(secret)
    page = report(recipe, book, tmp_path / "report")
    assert "missing file" in page.text
    assert page.all("img") == [] and list((tmp_path / "report" / "images").iterdir()) == []
