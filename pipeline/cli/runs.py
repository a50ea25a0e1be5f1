"""`rlip runs`: lists what was executed."""

from __future__ import annotations

import json

from rich.console import Console
from rich.text import Text

from pipeline.report.formatting import table
from storage.open_store import Address, existing_store
from storage.runs import find_run, runs_of


def show_records(root: Address, run_name: str | None, as_json: bool) -> None:
    """List the executions of a run, or of all runs, oldest first. Runs of earlier versions begin theirs when next executed."""
    store, console = existing_store(root), Console()
    runs = runs_of(store) if run_name is None else [find_run(store, run_name.partition("@")[0])]
    records = [record for run in runs for record in run.records()]
    if as_json:
        shown = {"records": [{"run": record.name, **record.facts} for record in records]}
        print(json.dumps(shown, ensure_ascii=False, indent=1, default=str))
        return
    console.print(Text(f"Executions in {store.address}", "bold"), soft_wrap=True)
    made = table(None, "run", "time (UTC)", "status", "computed", "cached", "host", "rlip")
    for record in records:
        facts = record.facts
        steps = facts.get("outcome") or []
        cached = sum(step["cached"] or 0 for step in steps)
        computed = sum(step["partitions"] for step in steps) - cached
        texts = (facts["time"][:19].replace("T", " "), facts["status"], f"{computed:,}", f"{cached:,}")
        made.add_row(*map(Text, (record.name, *texts, facts.get("host", "–"), facts.get("rlip", "–"))))
    console.print(made)
