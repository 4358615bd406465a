"""The steps that can move now: kept in the state, and always what the plan says."""

from agent_runtime.loop import codec
from agent_runtime.loop.evolve import evolve
from agent_runtime.loop.front import front_of
from agent_runtime.loop.state import State
from tests.loop.recorded import lives


def test_the_front_that_is_kept_is_the_one_of_the_whole_plan() -> None:
    """After every event of every recorded life, with fallbacks, aborts and continuations."""
    for life in lives():
        state = State()
        for row in life.rows:
            state = evolve(state, codec.decode(row), row.at_us)
            assert state.front == front_of(state), (row.seq, row.type)
