"""What tests of tools, of modules and of the loop itself need.

Reading order: `fakes` (a fake of every port, virtual time), `grading` (does a tool keep the promise
of its effect class?), `trials` (one call on the real loop, killed at one await).
"""

from __future__ import annotations

from agent_runtime.testing.fakes import (
    FakeEnvironment,
    FakePublisher,
    FakeRemote,
    FakeSandbox,
    FakeSession,
    FakeToolbox,
    FakeVerifier,
    FakeWorkspaces,
    Point,
    ScriptedModel,
    VirtualClock,
    checkpoint,
    deterministic_trio,
    info_of,
    says,
)
from agent_runtime.testing.grading import Fault, Grade, check_effect, grade_effect

__all__ = [
    "FakeEnvironment",
    "FakePublisher",
    "FakeRemote",
    "FakeSandbox",
    "FakeSession",
    "FakeToolbox",
    "FakeVerifier",
    "FakeWorkspaces",
    "Fault",
    "Grade",
    "Point",
    "ScriptedModel",
    "VirtualClock",
    "check_effect",
    "checkpoint",
    "deterministic_trio",
    "grade_effect",
    "info_of",
    "says",
]
