"""Many lives in a row: what failed, and how to see it again."""

from collections.abc import Iterable

from tests.simulation.world import Chances, run_life


def failures_of(seeds: Iterable[int], chances: Chances) -> list[str]:
    """One line for each seed that broke a promise; the others are not held up by it."""
    failures = []
    for seed in seeds:
        try:
            run_life(seed, chances)
        except Exception as error:  # noqa: BLE001 - whatever it is, the seed is what counts
            failures.append(f"{first_line(error)}\n  again: {command(seed, chances)}")
    return failures


def first_line(error: BaseException) -> str:
    """The innermost cause, in one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = str(error).split("\n", 1)[0]
    return f"{type(error).__name__}: {text}"


def command(seed: int, chances: Chances) -> str:
    """The command line that lives one life again."""
    return (
        f"python -m tests.simulation --seed {seed} --lives 1 "
        f"--crashes {chances.crashes} --fault {chances.fault}"
    )
