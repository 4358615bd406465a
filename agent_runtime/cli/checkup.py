"""What `doctor` looks at, one check a concern. A check that fails says what mends it."""
from __future__ import annotations
from dataclasses import dataclass

@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    name: str
    ok: bool
    detail: str
    needed: bool = True
    remedy: str = ""

def run(settings: object) -> list[Check]:
    return []

def settings_shown(settings: object) -> list[dict[str, str]]:
    return []
