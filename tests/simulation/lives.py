"""Many lives in a row: what failed, and how to see it again."""

from collections.abc import Iterable

from tests.simulation.checks import run_life
from tests.simulation.forks import check_fork
from tests.simulation.plans import SCENES
from tests.simulation.world import Chances

FORKED = 20
"""One life in so many is forked when it has ended."""


def whole_life(seed: int, chances: Chances) -> None:
    """One life, and now and then a fork of it."""
    life = run_life(seed, chances)
    if seed % FORKED == 0:
        number = seed // FORKED
        at = number * 7 % len(life.rows) + 1
        while check_fork(life, at, crashes=number % 3, model=number % 2 == 0) is None:
            at -= 1


def failures_of(seeds: Iterable[int], chances: Chances) -> list[str]:
    """One line for each seed that broke a promise; the others are not held up by it."""
    failures = []
    for seed in seeds:
        try:
            whole_life(seed, chances)
        except Exception as error:  # noqa: BLE001 - whatever it is, the seed is what counts
            again = f"--seed {seed} --lives 1 --crashes {chances.crashes} --fault {chances.fault}"
            failures.append(_report(error, again))
    return failures


def crash_failures(name: str, points: Iterable[int]) -> list[str]:
    """One line for each point of a fixed task at which a crash broke a promise."""
    failures = []
    for point in points:
        try:
            run_life(0, Chances(fault=0.0, crash_at=point), SCENES[name])
        except Exception as error:  # noqa: BLE001 - whatever it is, the point is what counts
            failures.append(_report(error, f"--scene {name!r} --crash-at {point}"))
    return failures


def points_of(name: str) -> int:
    """Points of a fixed task at which it can be killed."""
    return run_life(0, Chances(fault=0.0, crashes=0), SCENES[name]).points


def _report(error: BaseException, again: str) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = str(error).split("\n", 1)[0]
    return f"{type(error).__name__}: {text}\n  again: python -m tests.simulation {again}"
