"""Logs of whole lives that together hold every kind of event, made once for all who read them."""

from collections.abc import Sequence
from functools import cache

from agent_runtime.loop import events as e
from agent_runtime.testing import says
from agent_runtime.types import Row, TaskSpec, WorkspaceSpec
from tests.simulation.plans import OBJECTIVES, SCENES, Scene
from tests.simulation.world import Chances, Life, live

CALM = Chances(fault=0.0, crashes=0)
ROUGH = Chances(fault=0.2, crashes=4)

TALKATIVE = Scene(
    TaskSpec(
        goal="live", workspace=WorkspaceSpec(repo="/fake"), model="world/model",
        objectives=OBJECTIVES,
    ),
    answers=(
        *(says(f"{n} " * 1500, ("write", {"text": str(n)})) for n in range(14)),
        says("done"),
    ),
)  # fmt: skip
"""Says more than its model can hold: the history is compacted."""


@cache
def scene(name: str) -> Life:
    """A named task, with nobody who disturbs it."""
    return live(0, CALM, TALKATIVE if name == "talkative" else SCENES[name])


@cache
def lives() -> Sequence[Life]:
    """Every named task, and some lives with crashes and faults."""
    return [*map(scene, (*SCENES, "talkative")), *(live(seed, ROUGH) for seed in range(12))]


def logs() -> Sequence[Sequence[Row]]:
    return [life.rows for life in lives()]


def histories() -> Sequence[Sequence[e.AnyEvent]]:
    return [life.events for life in lives()]
