"""`agent-runtime models`: what a person sees of models, and never a key."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.helpers import Cli
from tests.models.server import Provider, answer, provider
from tests.models.talk import KEY

LISTED = answer({"data": [{"id": "gpt-6.1-sol"}, {"id": "models/other"}]})


@pytest.fixture
def served() -> Iterator[Provider]:
    with provider() as running:
        running.say(LISTED)
        yield running


def test_nothing_configured_tells_what_would_serve(cli: Cli) -> None:
    done = cli("models")
    assert done.code == 0
    assert "tasks that name no model wait" in done.out
    assert "set OPENAI_API_KEY" in done.out and "http://127.0.0.1:11434/v1" in done.out


def test_key_in_the_environment_shows_model_price_and_size_and_no_key(cli: Cli) -> None:
    cli.env["ANTHROPIC_API_KEY"] = KEY
    done = cli("models")
    assert done.code == 0, done.err
    line = next(line for line in done.out.splitlines() if line.startswith("anthropic/claude-"))
    assert "1,000,000" in line and "2.5" in line
    assert "env:ANTHROPIC_API_KEY" in done.out
    assert KEY not in done.out + done.err


def test_settings_are_what_is_shown(cli: Cli) -> None:
    cli.env |= {
        "AGENT_RUNTIME_MODEL": "vllm/qwen3",
        "AGENT_RUNTIME_MODEL_ENDPOINTS": "vllm=http://10.0.0.5:8000/v1",
        "AGENT_RUNTIME_MODEL_FALLBACKS": "openai/gpt-4o",
        "AGENT_RUNTIME_MODEL_KEYS": "OPENAI_API_KEY=env:ELSEWHERE",
        "ELSEWHERE": KEY,
    }
    shown = cli("models", "--json").json()
    assert [each["name"] for each in shown["brain"]["models"]] == ["vllm/qwen3", "openai/gpt-4o"]
    assert shown["brain"]["models"][0]["provider"] == "openai:http://10.0.0.5:8000/v1"
    places = {each["name"]: each for each in shown["providers"]}
    assert places["vllm"]["url"] == "http://10.0.0.5:8000/v1"
    assert places["openai"]["key_from"] == "env:ELSEWHERE"
    assert places["mistral"]["key"] == "missing"


def test_check_asks_those_with_a_key_and_tells_what_they_say(cli: Cli, served: Provider) -> None:
    cli.env |= {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{served.url}/v1",
                "AGENT_RUNTIME_MODEL": "openai/gpt-unknown"}  # fmt: skip
    done = cli("models", "--check")
    assert done.code == 0, done.out + done.err
    assert "well, 2 models" in done.out
    assert "does not list 'gpt-unknown'; it has: gpt-6.1-sol, other" in done.err
    (asked,) = served.asked
    assert (asked.method, asked.path) == ("GET", "/v1/models")
    assert asked.headers["authorization"] == f"Bearer {KEY}"


def test_check_fails_when_a_key_is_refused(cli: Cli, served: Provider) -> None:
    served.say(answer({"error": {"message": f"no, {KEY}"}}, status=401))
    cli.env |= {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": served.url}
    done = cli("models", "--check", "--json")
    assert done.code == 3
    place = next(each for each in done.json()["providers"] if each["name"] == "anthropic")
    assert place["state"] == "auth" and served.url in place["message"]
    assert KEY not in done.out + done.err
    assert served.asked[0].path.startswith("/v1/models")
