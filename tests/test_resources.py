"""From `environment.resources` to the limits of a sandbox."""

from __future__ import annotations

import pytest

from agent_runtime.ports import SandboxLimits
from agent_runtime.resources import limited, size_bytes
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
