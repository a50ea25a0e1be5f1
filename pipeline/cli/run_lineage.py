"""`rlip lineage`: tells other systems what a run read and wrote."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pipeline.interop.openlineage_delivery import is_server, send_events, without_secrets, write_events
from storage.errors import FatalError
from storage.open_store import Address, existing_store
from storage.runs import find_run


def print_lineage_events(
    root: Address, run_name: str, out: Path | None, url: str | None, by_partition: bool, as_json: bool
) -> None:
    """Write the OpenLineage events of a run to `out` or send them to `url`; without either, print them.

    Raises `FatalError` when the package `openlineage-python` is missing.
    """
    try:
        from openlineage.client.serde import Serde

        from pipeline.interop.openlineage_events import RunLineage
    except ImportError as error:
        raise FatalError(f"lineage events need {error.name}: pip install 'rlip[lineage]'") from error
    if url is not None and not is_server(url):
        raise FatalError("--url: not the URL of a server; write e.g. http://127.0.0.1:5000, or name a file with --out")
    events = list(RunLineage(find_run(existing_store(root), run_name)).events(by_partition))
    told: list[str] = []
    if out is not None:
        write_events(events, out)
        told.append(str(out))
    if url is not None:
        send_events(events, url)
        told.append(without_secrets(url))
    if not told:
        sys.stdout.writelines(f"{Serde.to_json(event)}\n" for event in events)
    elif as_json:
        print(json.dumps({"events": len(events), "told": told}))
    else:
        print(f"{len(events)} events: {', '.join(told)}")
