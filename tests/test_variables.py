from __future__ import annotations

import pytest
from click.testing import CliRunner

from agent_runtime.cli import cli
from agent_runtime.settings import Settings
from agent_runtime.variables import SETTINGS, unread


def test_every_setting_may_be_a_variable_and_no_other_name_is_known() -> None:
    """They are listed a second time, because the settings themselves are slow to import."""
    assert set(Settings.model_fields) == SETTINGS


def test_a_misspelt_variable_is_told_with_the_one_that_was_meant() -> None:
    """Found as a user: it was ignored in silence."""
    said = unread({"AGENT_RUNTIME_SANDBX": "x", "agent_runtime_tokn": "y", "PATH": "z"})
    assert said == [
        "nothing reads the variable AGENT_RUNTIME_SANDBX; did you mean AGENT_RUNTIME_SANDBOX?",
        "nothing reads the variable agent_runtime_tokn; did you mean AGENT_RUNTIME_TOKEN?",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "URL", "TOKEN", "PLAIN_HTTP", "STORE", "sandbox", "SHARED", "SERVICE_HOST", "SERVICE_PORT",
        "SERVICE_PORT_HTTP", "PORT_8700_TCP", "PORT_8700_TCP_ADDR", "METRICS_SERVICE_HOST",
    ],
)  # fmt: skip
def test_what_is_read_or_named_after_a_service_is_not_told(name: str) -> None:
    """Kubernetes sets the latter for a service that is called agent-runtime."""
    assert unread({f"AGENT_RUNTIME_{name}": "x"}) == []


def test_a_variable_that_a_setting_names_is_read() -> None:
    assert unread({"AGENT_RUNTIME_NPM": "x"}, besides=["AGENT_RUNTIME_NPM"]) == []
    assert len(unread({"AGENT_RUNTIME_NPM": "x"})) == 1


def test_every_verb_says_it_unless_warnings_are_not_wanted() -> None:
    env = {"AGENT_RUNTIME_SANDBX": "x"}
    arguments = ["--url", "http://127.0.0.1:1/?", "ps"]  # no address: nobody is asked
    said = CliRunner().invoke(cli, arguments, env=env).output
    assert "warning: nothing reads the variable AGENT_RUNTIME_SANDBX" in said
    quiet = CliRunner().invoke(cli, ["--log-level", "error", *arguments], env=env)
    assert "SANDBX" not in quiet.output
