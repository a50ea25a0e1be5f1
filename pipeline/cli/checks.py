"""`rlip checks`: shows what the checks of a run's partitions found."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from pipeline.report.formatting import table
from pipeline.run.checks import CheckResult, recorded_checks
from pipeline.stages.order import chain_order
from storage.open_store import Address, existing_store
from storage.runs import find_run


def print_checks(root: Address, run_name: str, as_json: bool) -> None:
    """Print one line for each check of each step, and one for each partition that failed."""
    run = find_run(existing_store(root), run_name)
    found = recorded_checks(run)
    steps = sorted(found, key=chain_order)
    if as_json:
        rows = [
            {"step": step, "partition": partition, **asdict(result), "passed": result.passed}
            for step in steps
            for partition, results in found[step].items()
            for result in results
        ]
        print(json.dumps({"run": run.name, "checks": rows}))
        return
    console = Console()
    if not found:
        console.print(Text(f"Run {run.name} has no checks; set limits in [run.checks] of its recipe"))
        return
    made = table(f"Checks of {run.name}", "step", "check", "limit", "partitions", "not judged", "worst", "failed")
    for step in steps:
        for name in dict.fromkeys(result.check for results in found[step].values() for result in results):
            made.add_row(Text(step), name, *_summary([r for rs in found[step].values() for r in rs if r.check == name]))
    console.print(made)
    for step in steps:
        for partition, results in found[step].items():
            for result in results:
                if not result.passed:
                    console.print(Text(f"{step} {partition}: {result.in_words}"), soft_wrap=True)


def _summary(results: list[CheckResult]) -> tuple[str, ...]:
    """Limit, partitions, how many were not judged, the value closest to failing, and how many failed."""
    first, values = results[0], [result.value for result in results if result.value is not None]
    worst = (min if first.is_least else max)(values, default=None)
    failed = sum(not result.passed for result in results)
    counts = f"{len(results):,}", f"{len(results) - len(values):,}"
    limit = f"{'≥' if first.is_least else '≤'} {first.limit:g}"
    return limit, *counts, "–" if worst is None else f"{worst:.4g}", f"{failed:,}"
