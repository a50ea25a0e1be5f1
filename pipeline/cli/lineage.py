"""`rlip store lineage`: exports what a run read and wrote for other systems."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import STORE, AsJson, RunName, StorePath
from pipeline.interop.openlineage_delivery import is_server, send_events, write_events
from storage.errors import FatalError
from storage.open_store import existing_store
from storage.runs import find_run
from storage.secrets import redacted


def lineage(
    run_name: RunName,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write to this new file, one event per line.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", help="Send to this lineage server, e.g. Marquez at http://127.0.0.1:5000."),
    ] = None,
    partitions: Annotated[
        bool, typer.Option("--partitions", help="One event per partition, with the locations of tables in the store.")
    ] = False,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Export what a run read and wrote, down to columns, as OpenLineage events; prints them without --out or --url."""
    try:
        from openlineage.client.serde import Serde

        from pipeline.interop.openlineage_events import RunLineage
    except ImportError as error:
        raise FatalError(f"lineage events need {error.name}: pip install 'rlip[lineage]'") from error
    if url is not None and not is_server(url):
        raise FatalError("--url: not a server URL; write e.g. http://127.0.0.1:5000, or name a file with --out")
    events = list(RunLineage(find_run(existing_store(store), run_name)).events(partitions))
    targets: list[str] = []
    if out is not None:
        write_events(events, out)
        targets.append(str(out))
    if url is not None:
        send_events(events, url)
        targets.append(redacted(url))
    if not targets:
        sys.stdout.writelines(f"{Serde.to_json(event)}\n" for event in events)
    elif as_json:
        print(json.dumps({"events": len(events), "told": targets}))
    else:
        print(f"{len(events)} events: {', '.join(targets)}")
