"""The runtime's own rows of `make crashes`, by real processes and a real kill -9 each."""

from pathlib import Path

import pytest

from bench.crashes import ours
from bench.crashes.__main__ import Cell, markdown
from bench.crashes.outside import AFTER, BEFORE, BETWEEN, PLACES


@pytest.mark.long
def test_what_may_happen_once_is_not_repeated_and_its_unknown_effect_is_told(
    tmp_path: Path,
) -> None:
    """Our contract: never silently twice."""
    seen = ours.live("once", BETWEEN, tmp_path, unknown="fail")
    assert (seen.runs, seen.effects, seen.reported, seen.status) == (1, 1, True, "failed")
    assert seen.kept("once") and "unknown whether 'pay' (act.1) took effect" in seen.said


@pytest.mark.long
def test_what_can_be_looked_for_is_found_and_not_repeated(tmp_path: Path) -> None:
    """DESIGN, the effect ledger: probe."""
    seen = ours.live("probe", BETWEEN, tmp_path)
    assert (seen.runs, seen.effects, seen.reported) == (1, 1, False)
    assert "happened" in seen.said


@pytest.mark.long
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("effect", ours.CLASSES)
def test_every_class_keeps_its_promise_wherever_it_is_killed(
    effect: str, place: str, tmp_path: Path
) -> None:
    """One effect, or at most one and a reported unknown."""
    seen = ours.live(effect, place, tmp_path)
    assert seen.kept(effect), seen
    assert seen.reported == (effect == "once" and place != AFTER)


def test_the_page_shows_what_was_not_told() -> None:
    def cell(engine: str, place: str, effects: int, reported: bool, kept: bool) -> Cell:
        return Cell(engine, "once", place, effects, effects, reported, f"says {engine}", kept)

    cells = [cell("ours", place, 1, place == BETWEEN, True) for place in PLACES]
    cells += [cell("peer", place, 1 + (place == BETWEEN), False, place != BETWEEN)
              for place in (BEFORE, BETWEEN, AFTER)]  # fmt: skip
    page = markdown(cells, {"peer": "1.0"})
    assert "| ours | once | 1 effect | 1 effect, told: unknown | 1 effect |" in page
    assert "| peer | once | 1 effect | **2 effects, not told** | 1 effect |" in page
    assert "| peer | once | says peer |" in page and "peer 1.0" in page
