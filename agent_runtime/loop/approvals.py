"""What the policy says about one call: ask a person, allow, or deny. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from agent_runtime.types import Decision, Json, Policy, ToolInfo


def decision_for(
    policy: Policy, tool: ToolInfo, arguments: Mapping[str, Json]
) -> tuple[Decision, str]:
    """The decision, and the rule that took it; empty where none speaks of the tool."""
    decision = policy.approvals.get(tool.name)
    return (decision, tool.name) if decision is not None else ("allow", "")
