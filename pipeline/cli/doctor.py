"""`rlip doctor`: shows a recipe's requirements and which are missing, or tests the device of this machine."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from pipeline.cli.options import AsJson, Overrides
from pipeline.report.formatting import sanitise
from storage.errors import FatalError

if TYPE_CHECKING:
    from pipeline.run.device_doctor import TimedOutcome


def doctor(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="A recipe file, or the name of a built-in recipe.")
    ] = None,
    overrides: Overrides = None,
    device: Annotated[
        bool, typer.Option("--device", help="Test the GPU, else the CPU: agreement with the CPU, speed, memory.")
    ] = False,
    minutes: Annotated[float, typer.Option(min=0.1, help="Time limit of --device.")] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Check that data, weights, store, disk, versions and machine suit a recipe, and say how to fix what is missing."""
    if device != (recipe is None) or (device and overrides):
        raise FatalError("rlip doctor: name a recipe, or use --device alone")
    if recipe is None:
        from pipeline.run.device_doctor import examine_device
        from pipeline.runtime.devices import choose_device

        chosen = choose_device("auto")
        show_lines(examine_device(chosen, minutes), as_json, str(chosen))
        return
    from pipeline.run.context import RunContext
    from pipeline.run.doctor import examine
    from pipeline.run.recipe_files import load_recipe

    findings = list(examine(RunContext(load_recipe(recipe, overrides or []))))
    if as_json:
        print(json.dumps([vars(finding) for finding in findings]))
    else:
        console = Console(markup=False)
        for finding in findings:  # one line each, so that paths can be copied whole
            line = f"{finding.state:<7}  {finding.what}: {finding.detail}"
            console.print(Text(sanitise(line, len(line))), soft_wrap=True)
    missing = [finding for finding in findings if finding.state == "missing"]
    if missing:
        raise FatalError(f"{recipe}: {len(missing)} requirement(s) missing; the list above says how to fix each")


def show_lines(lines: Iterable[TimedOutcome], as_json: bool, subject: str) -> None:
    """Shows each line as it comes, then a summary. Raises `FatalError` when the subject is not fit for training."""
    console, states = Console(markup=False), Counter[str]()
    bad = []
    for name, outcome, seconds in lines:
        states[outcome.state] += 1
        if outcome.state in ("wrong", "failed"):
            bad.append(name)
        if as_json:
            print(json.dumps({"check": name, "seconds": round(seconds, 1), **vars(outcome)}), flush=True)
        else:
            line = f"{name}: {outcome.figure} ({seconds:.1f} s)" + (f"; {outcome.advice}" if outcome.advice else "")
            console.print(Text(f"{outcome.state:<6}  {sanitise(line, len(line))}"), soft_wrap=True)
    if not as_json:
        console.print(f"{subject}: " + ", ".join(f"{count} {state}" for state, count in states.items()))
    if bad:
        raise FatalError(f"{subject} is not fit for training: {', '.join(bad)}; the lines above say what to do")
