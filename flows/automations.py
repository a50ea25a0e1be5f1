"""Creates or updates the automations on Prefect's server: `python -m flows.automations [--notify TYPE/NAME]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from flows.connection import configured, require_server
from storage.errors import FatalError, PipelineError

TAG = "rlip"
"""Tag of all deployments in prefect.yaml. Runs of other projects on the same server are left alone."""

SILENT_FOR = timedelta(seconds=75)
"""A flow run without a heartbeat for this long counts as dead. Deployments send one every 30 seconds, Prefect's
shortest interval, and one may get lost."""

_OURS = {"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"}
_RUNS = {"prefect.resource.id": "prefect.flow-run.*"}


def zombies(silent_for: timedelta) -> AutomationCore:
    """An automation that marks a flow run as crashed when its heartbeats stop and no new state follows."""
    trigger = EventTrigger(
        match=_RUNS,
        match_related=_OURS,
        after={"prefect.flow-run.heartbeat"},
        # All events of a run, not a list of final states, because this project adds states such as `Cached`.
        expect={"prefect.flow-run.*"},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        within=silent_for,
    )
    message = (
        f"no heartbeat for {silent_for.total_seconds():g} seconds; its committed results are in the store: run it again"
    )
    action = ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message=message)
    return AutomationCore(name=f"{TAG}: crash zombies", trigger=trigger, actions=[action])


def failures(block: UUID) -> AutomationCore:
    """An automation that sends a message through a notification block when a flow run fails or crashes."""
    trigger = EventTrigger(
        match=_RUNS,
        match_related=_OURS,
        expect={f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", "TimedOut")},
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
    )
    action = SendNotification(
        block_document_id=block,
        subject="rlip: {{ flow_run.name }} {{ flow_run.state.name }}",
        body="{{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
    )
    return AutomationCore(name=f"{TAG}: notify of failures", trigger=trigger, actions=[action])


def create_automations(client: SyncPrefectClient, notify: str | None, silent_for: timedelta = SILENT_FOR) -> list[str]:
    """Create or update the automations, that for failures only with a block `notify` (TYPE/NAME). Returns their names.

    Raises `FatalError` when there is no such block.
    """
    wanted = [zombies(silent_for)]
    if notify is not None:
        wanted.append(failures(_block(client, notify)))
    for automation in wanted:
        known = client.read_automations_by_name(automation.name)
        if known:
            client.update_automation(known[0].id, automation)
        else:
            client.create_automation(automation)
    return [automation.name for automation in wanted]


def _block(client: SyncPrefectClient, name: str) -> UUID:
    """The id of a notification block, e.g. `slack-webhook/oncall`."""
    kind, _, document = name.partition("/")
    try:
        return client.read_block_document_by_name(document, kind).id
    except ObjectNotFound as error:
        raise FatalError(
            f"--notify {name}: the server has no such block; create one on its page Blocks, and name it TYPE/NAME, "
            "e.g. slack-webhook/oncall (prefect block ls)"
        ) from error


def main(arguments: Sequence[str]) -> None:
    """Create the automations on the configured server. Raises `FatalError` without a usable one."""
    parser = argparse.ArgumentParser(prog="python -m flows.automations", description=__doc__)
    parser.add_argument("--notify", metavar="TYPE/NAME", help="notification block that reports failures")
    options = parser.parse_args(arguments)
    api = configured("PREFECT_API_URL")
    if api is None:
        raise FatalError("PREFECT_API_URL is not set: set it to the server for the automations")
    require_server(api)
    with get_client(sync_client=True) as client:
        for name in create_automations(client, options.notify):
            print(name)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PipelineError as error:
        sys.exit(f"Error: {error}")
