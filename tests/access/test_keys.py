"""API keys: their form, and what they may be."""

from __future__ import annotations

import random
from typing import Any, get_args

import pytest

from agent_runtime.access.callers import ROLES, SCOPES
from agent_runtime.access.key_texts import id_in
from agent_runtime.access.keys import NewKey, make
from agent_runtime.api.keys import RoleName, ScopeName
from agent_runtime.errors import UsageError


def test_a_key_has_the_form_that_scanners_look_for_and_is_not_in_what_is_stored() -> None:
    choose = random.Random(7).choice
    key, text = make(NewKey(name="ci", role="viewer"), by="cli:me", now_us=1, choose=choose)
    other, _ = make(NewKey(name="ci", role="viewer"), by="cli:me", now_us=1, choose=choose)
    assert id_in(text) == key.key_id != other.key_id and len(text) == 58
    assert text.rpartition("_")[2] not in repr(key)
    assert key.matches(text) and not other.matches(text) and not key.matches(text[:-1] + "?")


@pytest.mark.parametrize(
    ("wish", "fragment"),
    [
        ({"name": ""}, "name: "),
        ({"name": "a b"}, "name: "),
        ({"name": "x" * 65}, "name: "),
        ({"role": "root"}, "role: 'root' is none of viewer"),
        ({"scopes": ("tasks:rule",)}, "scopes: 'tasks:rule' is none of tasks:read"),
        ({"role": ""}, "role: a key needs a role"),
        ({"rate": 0}, "rate: "),
        ({"rate": float("nan")}, "rate: "),
        ({"burst": 0}, "burst: "),
        ({"expires_seconds": -1}, "expires_seconds: "),
        ({"usd_day": -0.5}, "usd_day: "),
        ({"tasks_day": 2**60}, "tasks_day: "),
    ],
)
def test_what_a_key_cannot_be_is_told_by_field(wish: dict[str, Any], fragment: str) -> None:
    full = NewKey(**{"name": "ci", "role": "viewer", **wish})
    with pytest.raises(UsageError) as caught:
        make(full, by="", now_us=1, choose=random.Random(1).choice)
    assert str(caught.value).startswith(fragment)


def test_the_api_knows_the_same_roles_and_scopes() -> None:
    assert set(get_args(RoleName)) == set(ROLES) and set(get_args(ScopeName)) == set(SCOPES)
