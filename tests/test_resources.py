"""From `environment.resources` to the limits of a sandbox."""

from __future__ import annotations

import pytest

from agent_runtime.ports import SandboxCeiling, SandboxLimits
from agent_runtime.resources import above, bounded, limited, size_bytes
from agent_runtime.types import ResourcesSpec


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2GiB", 2 << 30),
        ("1.5 GiB", 3 << 29),
        ("64MiB", 64 << 20),
        ("1GB", 10**9),
        ("0.5TB", 5 * 10**11),
        ("1024KiB", 1 << 20),
        ("2", None),
        ("2G", None),
        ("2gib", None),
        ("GiB", None),
        ("1..5GiB", None),
        ("1,5GiB", None),
        ("2GiB\n", None),
        ("٢GiB", None),
        ("infGiB", None),
    ],
)
def test_a_size_is_a_number_and_a_unit(text: str, wanted: int | None) -> None:
    assert size_bytes(text) == wanted


def test_what_a_task_names_takes_the_place_of_the_installations_limits() -> None:
    ours = SandboxLimits(memory_bytes=1 << 30, cpus=0.5, processes=100)
    assert limited(ours, None) is ours
    assert limited(ours, ResourcesSpec()) == ours
    named = ResourcesSpec(memory="2GiB", cpus=1.5, processes=512)
    assert limited(ours, named) == SandboxLimits(memory_bytes=2 << 30, cpus=1.5, processes=512)
    assert limited(ours, ResourcesSpec(cpus=2)) == SandboxLimits(
        memory_bytes=1 << 30, cpus=2, processes=100
    )


def test_a_disk_of_its_own_size_has_its_own_number_of_files() -> None:
    ours = SandboxLimits(disk_bytes=1 << 30, inodes=5000)
    assert limited(ours, ResourcesSpec(disk="2GiB")) == SandboxLimits(disk_bytes=2 << 30)
    both = ResourcesSpec(disk="2GiB", inodes=9000)
    assert limited(ours, both) == SandboxLimits(disk_bytes=2 << 30, inodes=9000)


CEILING = SandboxCeiling(memory_bytes=1 << 30, cpus=2, disk_bytes=1 << 30)


def test_what_is_named_nowhere_is_bounded_by_the_ceiling() -> None:
    """No limit is more than any limit."""
    assert bounded(SandboxLimits(processes=64), CEILING) == SandboxLimits(
        processes=64, memory_bytes=1 << 30, cpus=2, disk_bytes=1 << 30
    )
    assert bounded(SandboxLimits(cpus=0.5, memory_bytes=4 << 30), CEILING) == SandboxLimits(
        cpus=0.5, memory_bytes=1 << 30, disk_bytes=1 << 30
    )


def test_a_task_that_asks_for_more_than_the_operator_allows_is_told_each_of_them() -> None:
    assert above(None, CEILING) == above(ResourcesSpec(memory="1GiB", cpus=2), CEILING) == []
    asked = ResourcesSpec(memory="2GiB", cpus=2.5, processes=60_000, disk="1GiB")
    assert above(asked, CEILING) == [
        "environment.resources.memory: 2,048 MiB is more than this installation allows "
        "(1,024 MiB, the setting sandbox_memory_bytes_max); ask for at most that, or leave it out",
        "environment.resources.cpus: 2.5 is more than this installation allows "
        "(2, the setting sandbox_cpus_max); ask for at most that, or leave it out",
    ]
