"""Pairs, ratios, spreads, targets and the page that is made of them."""

import asyncio
from typing import Any

import pytest

from bench import report
from bench.figures import Spread, Target, ratios, short
from bench.meter import Meter
from bench.rows import GROUPS, LANGGRAPH, OURS, ROWS, Row, judge
from bench.runs import Measurement, take_turns


def rounds_of(ours: list[float], peer: list[float]) -> dict[str, list[dict[str, float]]]:
    return {
        OURS: [{"steps_per_second": figure} for figure in ours],
        LANGGRAPH: [{"steps_per_second": figure} for figure in peer],
    }


def test_a_ratio_is_of_two_measurements_of_the_same_round() -> None:
    """Not of two medians: a slow minute slows both sides of its own pair only."""
    rounds = rounds_of([200, 20, 300], [100, 10, 100])
    assert ratios(rounds, OURS, LANGGRAPH, "steps_per_second") == [2, 2, 3]


@pytest.mark.parametrize("peer", [[], [1.0]])
def test_measurements_without_a_pair_are_refused(peer: list[float]) -> None:
    with pytest.raises(ValueError, match=f"'agent-runtime' was measured 2 times .*{len(peer)} ti"):
        ratios(rounds_of([1.0, 2.0], peer), OURS, LANGGRAPH, "steps_per_second")


def test_a_row_is_judged_by_the_median_of_its_ratios() -> None:
    row = Row(group="one", what="speed", peer=LANGGRAPH, figure="steps_per_second",
              target=Target(at_least=2))  # fmt: skip
    judged = judge(row, rounds_of([100, 210, 900], [100, 100, 100]))
    assert judged.spread == Spread(least=1.0, median=2.1, greatest=9.0)
    assert judged.met and judged.pairs == 3
    assert not judge(row, rounds_of([100, 199, 900], [100, 100, 100])).met


def test_a_row_without_a_peer_is_our_own_figure() -> None:
    row = Row(group="start", what="start", ours="--help", figure="cpu_ms", unit="ms",
              target=Target(at_most=150))  # fmt: skip
    assert judge(row, {"--help": [{"cpu_ms": 140.0}, {"cpu_ms": 160.0}]}).met
    assert not judge(row, {"--help": [{"cpu_ms": 150.1}]}).met


def test_a_target_has_one_bound_and_the_bound_is_enough() -> None:
    assert Target(at_least=2).met(2) and not Target(at_least=2).met(1.99)
    assert Target(at_most=0.1).met(0.1) and not Target(at_most=0.1).met(0.11)
    for bounds in ({}, {"at_least": 1.0, "at_most": 2.0}):
        with pytest.raises(ValueError, match="at_least or at_most"):
            Target(**bounds)


def test_figures_are_told_with_three_digits() -> None:
    told = [short(figure) for figure in (0, 0.01234, 1, 1.239, 12.345, 123.4, 12345, 40)]
    assert told == ["0", "0.0123", "1", "1.24", "12.3", "123", "12,300", "40"]


def test_measurements_take_turns_and_every_other_round_is_reversed(monkeypatch: Any) -> None:
    """Whoever comes second finds a warmer disk: both sides must."""
    order: list[str] = []

    def measured(measurement: Measurement, prepared: object) -> dict[str, float]:
        order.append(measurement.name)
        return {"round": float(len(order))}

    monkeypatch.setattr("bench.runs.measure", measured)
    told = take_turns([Measurement("a", "x"), Measurement("b", "y")], 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert [figures["round"] for figures in told["a"]] == [1, 4, 5]
    assert [figures["round"] for figures in told["b"]] == [2, 3, 6]


def test_every_row_names_measurements_of_its_group() -> None:
    for row in ROWS:
        names = {measurement.name for measurement in GROUPS[row.group].measurements}
        assert row.ours in names and row.peer in names | {""}, row.what


def test_the_page_says_what_is_met_what_is_not_and_what_is_missing() -> None:
    slow = Row(group="one", what="speed", peer=LANGGRAPH, figure="steps_per_second",
               target=Target(at_least=2))  # fmt: skip
    rounds = rounds_of([300, 300, 300], [100, 150, 300])
    fast = Row(group="one", what="speed", peer=LANGGRAPH, figure="steps_per_second",
               target=Target(at_least=40))  # fmt: skip
    judged = [judge(slow, rounds), judge(fast, rounds)]
    run = report.Run(3, {"one": rounds}, judged, {"langgraph": "1.2"})
    page = report.markdown(run, "a machine")
    assert "| speed | LangGraph | ≥ 2 x | 2 (1 to 3) x | met |" in page
    assert "| speed | LangGraph | ≥ 40 x | 2 (1 to 3) x | **not met** |" in page
    assert "**1 of 2 rows are met.**" in page and "langgraph 1.2" in page
    assert report.terminal(run).splitlines()[-1] == "1 of 2 rows are NOT MET"


def test_an_engine_with_several_works_has_a_line_for_each() -> None:
    """With figures that differ, the others' cells are empty."""
    rounds = {
        "daemon": [{"submit cpu_us": 200.0, "submit kept": 100.0, "get cpu_us": 90.0}] * 2,
        "streams": [{"cpu_us": 30.0, "readers": 1000.0}] * 2,
    }
    page = report.section(report.Run(2, {"http": rounds}, [], {}))
    assert "| The daemon over HTTP | CPU us | kept of 100 |" in page
    for line in (
        "| daemon: submit | 200 | 100 |",
        "| daemon: get | 90 |  |",
        "| streams | 30 |  |",
    ):
        assert line in page


async def _agents(meter: Meter, agents: int) -> None:
    async def agent(name: str) -> None:
        for number in range(meter.calls):
            await meter.call(name, number)

    await asyncio.gather(*(agent(f"a{n}") for n in range(agents)))


def test_the_meter_counts_the_steps_behind_the_gate_of_all_agents() -> None:
    """Steps before all agents live are not measured."""
    meter = Meter(agents=3, hold=2, steps=4)
    asyncio.run(_agents(meter, 3))
    meter.done()
    assert meter.calls == 7 and len(meter.periods) == 3 * 4
    assert meter.seconds >= max(meter.periods) > 0


def test_a_meter_whose_agents_did_not_finish_tells_no_figure() -> None:
    meter = Meter(agents=1, hold=0, steps=2)
    with pytest.raises(RuntimeError, match="0 steps were made, not 2"):
        meter.done()
