"""Which files of a repository decide about its dependencies. An environment's key has them all."""

from __future__ import annotations

import re
from typing import Final

_MANIFESTS: Final = re.compile(
    r"(?:.*/)?(?:[^/]*requirements[^/]*\.(?:txt|in)|requirements/[^/]+|constraints[^/]*\.txt"
    r"|pyproject\.toml|setup\.(?:py|cfg)|uv\.lock|poetry\.lock|pdm\.lock|Pipfile(?:\.lock)?"
    r"|package\.json|package-lock\.json|npm-shrinkwrap\.json|pnpm-lock\.yaml|pnpm-workspace\.yaml"
    r"|yarn\.lock|\.npmrc|\.yarnrc(?:\.yml)?|Cargo\.(?:toml|lock)|go\.(?:mod|sum|work)"
    r"|Gemfile(?:\.lock)?|composer\.(?:json|lock)|rust-toolchain(?:\.toml)?"
    r"|\.(?:python|node|tool)-versions?|\.nvmrc|environment\.ya?ml"
    r"|\.agent-runtime\.ya?ml|devcontainer\.json|\.devcontainer\.json"
    r"|copilot-setup-steps\.ya?ml)\Z"
)


def is_manifest(path: str) -> bool:
    """Is it one, at any depth?"""
    return _MANIFESTS.match(path) is not None
