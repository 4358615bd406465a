"""The arithmetic of a comparison: ratios of pairs, their spread, and whether a target is met. Pure.

A machine that does other things as well gives other figures every minute, but two measurements one
after the other suffer alike: what is judged is the median of their ratios.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Figures = Mapping[str, float]
"""What one measurement told, by name."""
Rounds = Mapping[str, Sequence[Figures]]
"""Measurements by name; number N of each belongs to round N."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Least, median and greatest of some figures."""

    least: float
    median: float
    greatest: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """Of at least one figure."""
        return cls(min(figures), statistics.median(figures), max(figures))

    def text(self) -> str:
        """`2.1 (1.9 to 2.3)`"""
        return f"{short(self.median)} ({short(self.least)} to {short(self.greatest)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A bound; exactly one of the two."""

    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("a target is at_least or at_most")

    def met(self, figure: float) -> bool:
        """The bound itself is good enough."""
        if self.at_least is not None:
            return figure >= self.at_least
        assert self.at_most is not None
        return figure <= self.at_most

    def text(self, unit: str = "") -> str:
        """`≥ 40 x` or `≤ 50 ms`"""
        bound, sign = (self.at_least, "≥") if self.at_most is None else (self.at_most, "≤")
        assert bound is not None
        return f"{sign} {short(bound)} {unit}".rstrip()


def ratios(rounds: Rounds, ours: str, peer: str, figure: str, peer_figure: str = "") -> list[float]:
    """`figure` of `ours` by that of `peer` (or its `peer_figure`), round by round.

    Raises:
        ValueError: the two were not measured equally often, or never.
    """
    mine, theirs = rounds.get(ours, ()), rounds.get(peer, ())
    if len(mine) != len(theirs) or not mine:
        raise ValueError(
            f"{ours!r} was measured {len(mine)} times and {peer!r} {len(theirs)} times: no pairs"
        )
    return [a[figure] / b[peer_figure or figure] for a, b in zip(mine, theirs, strict=True)]


def short(figure: float) -> str:
    """Three digits that mean something: `0.0123`, `1.23`, `12.3`, `123`, `1,230`."""
    if figure == 0:
        return "0"
    if abs(figure) >= 100:
        rounded = float(f"{figure:.3g}")
        return f"{rounded:,.0f}"
    return f"{float(f'{figure:.3g}'):g}"
