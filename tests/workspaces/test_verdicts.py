"""Names of tests that stay the same from run to run, and what two runs have apart."""

import pytest

from agent_runtime.verdicts import (
    NAMES_MAX,
    Named,
    Seen,
    TestsCompared,
    Verdict,
    compare,
    differing,
    few,
    ids_sha256,
    read_stored,
    steadied,
    steady,
    stored,
)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("t[<a.O object at 0x7f1c2d3e4f50>]", "t[<a.O object at 0x7f0000000010>]"),
        ("t[2026-11-21T17:36:48.027+00:00]", "t[2026-11-22 09:01:00Z]"),
        (
            "t[datetime.datetime(2026, 11, 21, 1, 2, 3, 4)]",
            "t[datetime.datetime(2027, 1, 2, 3, 4)]",
        ),
        ("t[1763745408]", "t[1763745409]"),
        ("t[1763745408.125]", "t[1763745999.5]"),
        ("t[1763745408125]", "t[1763745409125]"),
        (
            "t[0b1e6c1e-0000-4000-8000-00805f9b34fb]",
            "t[aa1e6c1e-1111-4000-8000-00805F9B34FB]",
        ),
        ("t[/tmp/pytest-of-me/pytest-7/x]", "t[/tmp/pytest-of-me/pytest-8/x]"),
    ],
)
def test_what_changes_from_run_to_run_is_not_part_of_a_name(first: str, second: str) -> None:
    assert steady(first) == steady(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("t[0x10]", "t[0x20]"),
        ("t[2026-11-21]", "t[2026-11-22]"),
        ("t[1.2.3]", "t[1.2.4]"),
        ("t[123456789]", "t[123456780]"),
        ("t[deadbeef]", "t[deadbeee]"),
        ("t[v1763745408x]", "t[v1763745409x]"),
        ("t[" + "a" * 600 + "b]", "t[" + "a" * 600 + "c]"),
    ],
)
def test_what_tells_tests_apart_stays_in_their_names(first: str, second: str) -> None:
    assert steady(first) != steady(second)


def test_namesakes_are_numbered_so_that_none_is_lost() -> None:
    tests: dict[str, Verdict] = {"t[0x7f0001]": "passed", "t[0x7f0002]": "failed", "u": "passed"}
    assert steadied(tests) == {"t[0x…]": "failed", "t[0x…] #2": "passed", "u": "passed"}
    del tests["t[0x7f0002]"]
    assert steadied(tests) == {"t[0x…]": "passed", "u": "passed"}


def test_a_stored_list_is_read_back_whatever_the_names_are() -> None:
    strange = steadied({"a\nb\tc\x85\u2028\ud800": "passed", "": "error", "é #2": "not_run"})
    record, data = stored(Seen(known_by="report", runner="pytest", tests=strange))
    assert read_stored(data) == strange
    assert (record.passed, record.errors, record.not_run) == (1, 1, 1)
    assert record.ids_sha256 == ids_sha256(list(reversed(list(strange))))
    assert stored(Seen())[1] == b""
    with pytest.raises(ValueError):
        read_stored(b"fine\tname\n")


BEFORE: dict[str, Verdict] = {
    "gone": "passed", "gone_too": "skipped", "skipped": "passed", "muted": "failed",
    "unran": "error", "mended": "failed", "mended_too": "error", "broken": "passed",
    "same": "passed", "still": "skipped", "late": "not_run",
}  # fmt: skip
AFTER: dict[str, Verdict] = {
    "skipped": "skipped", "muted": "skipped", "unran": "not_run", "mended": "passed",
    "mended_too": "passed", "broken": "failed", "same": "passed", "still": "passed",
    "late": "skipped", "new": "passed",
}  # fmt: skip


def test_what_became_of_every_test_is_told() -> None:
    assert compare(BEFORE, AFTER) == TestsCompared(
        lost=Named(
            5,
            [
                "gone (gone)",
                "gone_too (gone)",
                "muted (failed before, skipped now)",
                "skipped (passed before, skipped now)",
                "unran (error before, not run now)",
            ],
        ),
        mended=Named(2, ["mended", "mended_too"]),
        broken=Named(1, ["broken"]),
        added=Named(1, ["new"]),
    )


@pytest.mark.parametrize(
    ("may_lose", "unstable", "left"),
    [
        (["gone"], [], ["gone_too", "muted", "skipped", "unran"]),
        (["gone*"], ["muted"], ["skipped", "unran"]),
        (["**"], [], []),
        ([], ["gone", "gone_too", "muted", "skipped", "unran"], []),
    ],
)
def test_what_may_be_lost_or_comes_and_goes_is_not_lost(
    may_lose: list[str], unstable: list[str], left: list[str]
) -> None:
    compared = compare(BEFORE, AFTER, may_lose=may_lose, unstable=unstable)
    assert [name.split()[0] for name in compared.lost.names] == left
    assert compared.unstable == Named(len(unstable), sorted(unstable))


def test_a_parametrised_name_is_named_as_it_is() -> None:
    """In a pattern `[a]` would be a set of characters."""
    assert compare({"t[a]": "passed"}, {}, may_lose=["t[a]"]).lost == Named()
    assert compare({"d/t.py::x": "passed"}, {}, may_lose=["d/*"]).lost == Named()
    assert compare({"d/e/t.py::x": "passed"}, {}, may_lose=["d/*"]).lost.count == 1


def test_two_looks_at_one_tree_name_what_differs() -> None:
    assert differing({"a": "passed", "b": "passed"}, {"a": "failed", "b": "passed"}) == {"a"}
    assert differing({"a": "passed"}, {"b": "passed"}) == {"a", "b"}


def test_a_list_is_short_and_its_count_is_not() -> None:
    many: dict[str, Verdict] = {f"t{number:03}": "passed" for number in range(200)}
    lost = compare(many, {}).lost
    assert (lost.count, len(lost.names)) == (200, NAMES_MAX)
    assert few(lost.names, lost.count).endswith("t004 (gone) and 195 more")
