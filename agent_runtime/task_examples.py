"""What the parts of a task file look like, for a message about one that looks otherwise. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agent_runtime.types import (
    Alternative,
    AnsweredCall,
    Check,
    EnvironmentSpec,
    Expect,
    Limits,
    LimitsChange,
    Objective,
    PlanSpec,
    Policy,
    ResourcesSpec,
    ServiceReady,
    ServiceSpec,
    StepSpec,
    TaskSpec,
    WorkspaceSpec,
)

Example = tuple[str, str]
"""A shape with `<>` where a single value most likely belongs, and what stands there by default."""

EXAMPLES: Final[Mapping[type, Example]] = {
    WorkspaceSpec: ("{repo: <>}", "./project"),
    EnvironmentSpec: ("{setup: [<>]}", "pip install -e ."),
    ServiceSpec: ("{id: db, command: <>, ready: {port: 5432}}", "./start-db"),
    ServiceReady: ("{port: <>}", "5432"),
    ResourcesSpec: ("{memory: <>}", "2GiB"),
    PlanSpec: ("{steps: [{id: test, tool: shell, args: {command: <>}}]}", "make test"),
    StepSpec: ("{id: test, tool: shell, args: {command: <>}}", "make test"),
    Expect: ("{exit: <>}", "1"),
    Alternative: ("{tool: <>, args: {command: make test}}", "shell"),
    Objective: ("{id: tests, check: {command: <>}}", "make test"),
    Check: ("{command: <>, exit: 0}", "make test"),
    Limits: ("{seconds: <>, steps: 100}", "3600"),
    LimitsChange: ("{seconds: <>}", "3600"),
    Policy: ("{network: <>}", "none"),
    AnsweredCall: ("{name: <>, arguments: {command: make test}}", "shell"),
}

MAPPINGS: Final[Mapping[tuple[type, str], str]] = {
    (TaskSpec, "labels"): "write {team: parsers}",
    (EnvironmentSpec, "env"): "write {NAME: value}",
    (ServiceSpec, "env"): "write {NAME: value}",
    (StepSpec, "args"): "write {command: make test}; `agent-runtime tools` has each tool's",
    (Alternative, "args"): "write {command: make test}; `agent-runtime tools` has each tool's",
    (Policy, "approvals"): "write {shell: ask}",
}
"""Keys whose own keys are free."""
