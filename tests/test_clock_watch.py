"""A clock that was set is told, and ages are not believed for a while."""

from __future__ import annotations

import pytest

from agent_runtime.clock_watch import DOUBT_SECONDS, STEADY_SECONDS, ClockWatch


class Clocks:
    def __init__(self) -> None:
        self.wall, self.steady = 1_800_000_000.0, 50.0
        self.watch = ClockWatch(lambda: self.wall, lambda: self.steady)

    def go(self, seconds: float) -> str:
        self.wall += seconds
        self.steady += seconds
        return self.watch.look()


@pytest.mark.parametrize("jump", [-3600.0, 40 * 86_400.0])
def test_a_jump_is_told_until_the_clock_has_been_steady(jump: float) -> None:
    clocks = Clocks()
    assert clocks.go(1) == ""
    clocks.wall += jump
    assert f"{jump:+.0f} s" in clocks.go(1)
    assert clocks.go(STEADY_SECONDS - 1) != ""
    assert clocks.go(2) == ""


def test_nothing_is_forgotten_for_an_hour_after_a_jump() -> None:
    clocks = Clocks()
    assert clocks.watch.is_trusted
    clocks.wall += 86_400
    clocks.go(1)
    assert not clocks.watch.is_trusted
    clocks.go(DOUBT_SECONDS + 1)
    assert clocks.watch.is_trusted


def test_a_stopped_process_and_a_slewed_clock_are_no_jump() -> None:
    clocks = Clocks()
    assert clocks.go(60) == ""  # kill -STOP: both clocks went on
    clocks.wall += 0.5
    assert clocks.go(1) == ""
    assert clocks.watch.is_trusted
