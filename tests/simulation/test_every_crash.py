"""The fixed tasks, killed at some of their awaits and appends (`make sim`: at all)."""

import pytest

from tests.simulation.lives import crash_failures, points_of
from tests.simulation.plans import SCENES

POINTS_A_SCENE = 12
"""`make sim` takes every point; this many, evenly spread, take a second."""


@pytest.mark.parametrize("name", SCENES)
def test_a_task_survives_a_crash_at_any_point(name: str) -> None:
    """Our contract: kill it anywhere."""
    points = points_of(name)
    step = max(1, points // POINTS_A_SCENE)
    # Another offset for every scene, so that together they stand at all kinds of places.
    first = 1 + len(name) % step
    assert not crash_failures(name, range(first, points + 1, step))
