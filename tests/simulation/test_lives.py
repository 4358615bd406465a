"""Whole random lives: one crash at a random point, one fault in ten chances; and what must hold."""

import pytest

from tests.simulation.checks import run_life
from tests.simulation.lives import failures_of
from tests.simulation.world import Chances

LIVES, CHUNK = 1000, 50
SHORT = 250


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(first, marks=[pytest.mark.long] if first >= SHORT else [])
        for first in range(0, LIVES, CHUNK)
    ],
)
def test_a_life_with_one_crash_and_faults_keeps_every_promise(first: int) -> None:
    """Our contract: 0 lost, 0 repeated, 0 unreported, 0 stuck, 0 overshoot."""
    assert not failures_of(range(first, first + CHUNK), Chances())


def test_a_life_with_many_crashes_keeps_every_promise() -> None:
    """Recovery is interrupted too: every owner dies somewhere."""
    assert not failures_of(range(5_000, 5_060), Chances(crashes=12))


def test_a_life_without_faults_or_crashes_keeps_every_promise() -> None:
    assert not failures_of(range(6_000, 6_030), Chances(fault=0.0, crashes=0))


@pytest.mark.parametrize("seed", [1, 7, 33, 120, 404, 777])
def test_the_same_seed_gives_the_same_log(seed: int) -> None:
    """A found seed must be a test: the head hash covers every byte of the log."""
    assert run_life(seed).head == run_life(seed).head
