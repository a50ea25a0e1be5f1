"""Captioning that is killed repeatedly: committed partitions stay, the interrupted one is redone, and bytes are the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_chain import World

SETTINGS = (
    "run.until=caption", "run.workers=1", "scenes.train=96", "scenes.relations=1", "scenes.test=1",
    "data.partition_size=16", "caption.batch_size=1", "caption.draws=40",
)  # fmt: skip
PARTITIONS = 6
Event = dict[str, Any]


def _first_image(events: list[Event]) -> bool:
    return any(event["event"] == "progress" for event in events)


def _within_the_third(events: list[Event]) -> bool:
    return len({event["partition"] for event in events if event["event"] == "progress"}) > 2


def _killed(world: World, when: Callable[[list[Event]], bool]) -> list[Event]:
    """Run until `when` is true of the events of stage `caption`, then kill the run. Returns those events."""
    process = world.start(*SETTINGS)
    assert process.stdout is not None and process.stderr is not None
    events: list[Event] = []
    for line in process.stdout:
        event = json.loads(line)
        if event.get("step") == "caption":
            events.append(event)
            if when(events):
                process.kill()
                break
    process.communicate(timeout=60)
    assert process.returncode == -9, "the run ended before it was killed"
    return events


@pytest.mark.timeout(1800)
def test_at_most_the_partition_under_way_is_captioned_again(root: Path, tmp_path: Path) -> None:
    recipe = root / "tests" / "chain" / "tiny.toml"
    undisturbed, killed = (World(root, recipe, tmp_path / "data", tmp_path / name) for name in ("one", "other"))
    undisturbed.run(*SETTINGS)
    done = begun = 0
    for when in (_within_the_third, _first_image):
        events = _killed(killed, when)
        (step,) = [event for event in events if event["event"] == "step"]
        assert step["cached"] + step["due"] == PARTITIONS
        assert max(done, begun - 1) <= step["cached"], "a finished partition is due again"
        done = step["cached"] + sum(event["event"] == "committed" for event in events)
        begun = step["cached"] + len({event["partition"] for event in events if "partition" in event})
    assert 2 <= done < PARTITIONS
    killed.run(*SETTINGS)
    assert killed.contents() == undisturbed.contents()
    assert len(killed.contents()["caption"]) == PARTITIONS
