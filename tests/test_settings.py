from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_runtime.errors import ConfigError
from agent_runtime.settings import Settings, load_settings, state_dir, store_path, user_config_path

DOCS = Path(__file__).parents[1] / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty working directory and home, and none of the caller's settings."""
    for name in list(Settings.model_fields):
        monkeypatch.delenv(f"AGENT_RUNTIME_{name.upper()}", raising=False)
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path


def write_user_config(text: str) -> None:
    file = Path(user_config_path())
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def write_here(text: str) -> None:
    Path("agent-runtime.yaml").write_text(text, encoding="utf-8")


def refused(flags: dict[str, object] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(flags)
    return str(caught.value)


def test_defaults_need_nothing(place: Path) -> None:
    settings = load_settings()
    assert settings.store == f"sqlite:///{place}/home/.local/state/agent-runtime/store.db"
    assert settings.plugins == () and settings.log_format == "text"
    assert state_dir(settings) == f"{place}/home/.local/state/agent-runtime"


def test_flag_beats_environment_beats_directory_beats_user(monkeypatch: pytest.MonkeyPatch) -> None:
    write_user_config("log_level: error\nlog_format: json\nplugins: [user]\nretention_days: 1\n")
    write_here("log_level: warning\nlog_format: text\nplugins: [here]\n")
    monkeypatch.setenv("AGENT_RUNTIME_LOG_LEVEL", "debug")
    monkeypatch.setenv("AGENT_RUNTIME_PLUGINS", "a, b")
    settings = load_settings({"log_level": "info", "log_format": None})
    assert settings.log_level == "info"
    assert settings.plugins == ("a", "b")
    assert settings.log_format == "text"
    assert settings.retention_days == 1


def test_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_RUNTIME_STORE", "")
    assert load_settings().store.endswith("/agent-runtime/store.db")


def test_empty_file_is_no_setting() -> None:
    write_here("# nothing yet\n")
    assert load_settings().log_level == "info"


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:///a/b.db", "{here}/a/b.db"),
        ("sqlite:////srv/b.db", "/srv/b.db"),
        ("sqlite:///../b c.db", "{place}/b c.db"),
    ],
)
def test_store_path_is_absolute_and_state_lies_beside_it(place: Path, url: str, file: str) -> None:
    settings = load_settings({"store": url})
    expected = file.format(here=place / "here", place=place)
    assert store_path(settings) == expected
    assert state_dir(settings) == str(Path(expected).parent)
    assert load_settings({"store": settings.store}) == settings


def test_store_of_another_kind_keeps_its_state_in_the_state_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    settings = load_settings({"store": "memory://x"})
    assert store_path(settings) is None
    assert state_dir(settings) == "/state/agent-runtime"


def test_relative_xdg_directory_is_ignored(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """XDG base directory specification: paths must be absolute, others are invalid."""
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    assert state_dir(load_settings()) == f"{place}/home/.local/state/agent-runtime"


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("log_levl: debug", "agent-runtime.yaml:1: log_levl: unknown setting; did you mean 'log_l"),
        ("\nlog_level: loud", "agent-runtime.yaml: log_level: should be 'debug', 'info'"),
        ("log_level: no", "agent-runtime.yaml: log_level: should be"),
        ("sandbox_memory_bytes: 1000", "sandbox_memory_bytes: should be"),
        ("sandbox_memory_bytes: yes", "sandbox_memory_bytes: must be a number, got true"),
        ("retention_days: yes", "retention_days: must be a number, got true"),
        ("retention_days: .nan", "retention_days: should be"),
        ("retention_days: 0", "retention_days: should be greater than 0, got 0"),
        ("approval_wait_seconds: -1", "should be greater than or equal to 0, got -1"),
        ("plugins: 3", "plugins: should be a valid tuple, got 3"),
        ("workspace_roots: [x]", "workspace_roots: decides who reaches the daemon"),
        ("rate_limit: 1", "rate_limit: decides who reaches the daemon"),
        ("jwt_jwks: 'https://evil.example'", "jwt_jwks: decides who reaches the daemon"),
        ("unsafe_no_sandbox: true", "is a flag only (--unsafe-no-sandbox)"),
        (
            "bwrap: /tmp/evil",
            "bwrap: is about this machine, and a file in the working directory may come",
        ),
        ("secrets: {A: 'env:A'}", "secrets: is about this machine"),
        ("modules: {knowledge: {folders: [/]}}", "modules: is about this machine"),
        ("toolchains: [/opt/x]", "toolchains: is about this machine"),
        ("model: openai/x", "model: decides who reads your code"),
        ("model_fallbacks: [openai/x]", "model_fallbacks: decides who reads your code"),
        ("model_endpoints: {a: 'http://x/v1'}", "model_endpoints: decides who reads your code"),
        ("model_keys: {A: 'env:A'}", "model_keys: decides who reads your code"),
        ("model_cache_bytes: -1", "model_cache_bytes: should be greater than or equal to 0"),
        ("setup_egress: [x.org]", "setup_egress: is about this machine"),
        ("sandbox: Container", "sandbox: lowers the sandbox's walls, and a file in the working"),
        ("container_name: here", "container_name: lowers the sandbox's walls"),
        ("container_network: shared", "container_network: lowers the sandbox's walls"),
        ("container_writable: [/tmp]", "container_writable: lowers the sandbox's walls"),
        ("- a", "must hold a mapping, got a list of 1"),
        ("store: a\nstore: b", "agent-runtime.yaml:2: the key stands twice, in lines 1 and 2"),
        ("a: b: c", "agent-runtime.yaml:1:5: malformed YAML"),
    ],
)
def test_wrong_file_is_refused_by_name(text: str, fragment: str) -> None:
    write_here(text)
    assert fragment in refused()


def test_user_may_choose_the_sandbox_program(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    write_user_config("bwrap: ~/bin/bwrap\n")
    assert load_settings().bwrap == f"{place}/home/bin/bwrap"
    monkeypatch.setenv("AGENT_RUNTIME_BWRAP", "/usr/bin/bwrap")
    assert load_settings().bwrap == "/usr/bin/bwrap"


def test_modules_are_told_texts_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    write_user_config("modules: {a: {folders: [/x, /y], count: 3, fast: true}, b: {file: z}}\n")
    told = {"a": {"folders": "/x\n/y", "count": "3", "fast": "true"}, "b": {"file": "z"}}
    assert load_settings().modules == told
    monkeypatch.setenv("AGENT_RUNTIME_MODULES", "a.folders=/x:/y, a.count=3,b.file=z=1")
    told = {"a": {"folders": "/x:/y", "count": "3"}, "b": {"file": "z=1"}}
    assert load_settings().modules == told
    monkeypatch.setenv("AGENT_RUNTIME_MODULES", "folders=/x")
    assert "AGENT_RUNTIME_MODULES: 'folders' must name a module and its setting" in refused()
    monkeypatch.delenv("AGENT_RUNTIME_MODULES")
    write_user_config("modules: {a: /x}\n")
    assert "modules: should be a valid dictionary" in refused()


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("model: gpt", "must be provider/name"),
        ("model_fallbacks: [openai/x, gpt]", "must be provider/name"),
        ("model_endpoints: {A B: 'http://x/v1'}", "cannot stand before the slash"),
        ("model_endpoints: {a: 'ftp://x'}", "the address of a must be http(s)://host/v1"),
        ("model_endpoints: {a: 'https://u:hidden@x/v1'}", "without a user, a password"),
        ("model_keys: {A: hidden}", "must be env:NAME, file:/path or command:words"),
    ],
)
def test_wrong_models_are_refused_by_name_and_not_repeated(text: str, fragment: str) -> None:
    write_user_config(text)
    assert fragment in refused() and "hidden" not in refused()


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("workspace_roots: [x]", "workspace_roots: must be an absolute path, got 'x'"),
        ("allowed_hosts: ['http://a.example']", "'http://a.example' is no name of a host"),
        ("allowed_hosts: ['*']", "'*' is no name of a host"),
        ("proxy_addresses: [10.0.0.0/33]", "'10.0.0.0/33' is no address or network"),
        ("jwt_algorithms: [none]", "'none' is none of RS256"),
        ("jwt_algorithms: [HS256]", "'HS256' is none of RS256"),
        ("jwt_algorithms: []", "must name at least one"),
        ("jwt_jwks: 'http://id.example.org/jwks'", "must be an https:// URL"),
        ("jwt_jwks: keys.json", "must be an absolute path"),
        ("jwt_roles: {a: root}", "the role of 'a' is none of viewer"),
        ("rate_limit: 0", "rate_limit: should be greater than or equal to 0.001"),
    ],
)
def test_wrong_settings_of_access_are_refused(text: str, fragment: str) -> None:
    write_user_config(text)
    assert fragment in refused()


def test_the_example_of_access_is_loaded() -> None:
    text = (DOCS.parent / "access.md").read_text("utf-8")
    found = re.search(r"<!-- example[^\n]*\n```yaml\n(.*?)```", text, flags=re.S)
    assert found is not None
    write_user_config(found[1])
    assert load_settings().jwt_roles == {"agents-dev": "operator", "agents-leads": "admin"}


def test_user_may_declare_that_a_container_is_the_boundary(monkeypatch: pytest.MonkeyPatch) -> None:
    write_here("sandbox: bubblewrap\n")
    write_user_config("container_network: shared\n")
    monkeypatch.setenv("AGENT_RUNTIME_SANDBOX", "Container")
    monkeypatch.setenv("AGENT_RUNTIME_CONTAINER_WRITABLE", "/tmp,/srv/cache")
    settings = load_settings()
    assert (settings.sandbox, settings.container_network) == ("container", "shared")
    assert settings.container_writable == ("/tmp", "/srv/cache")


def test_wrong_value_names_the_flag_or_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused({"log_level": "x"}).startswith("--log-level: should be 'debug'")
    monkeypatch.setenv("AGENT_RUNTIME_SANDBOX", "docker")
    assert refused().startswith("AGENT_RUNTIME_SANDBOX: should be 'auto', 'bubblewrap'")


@pytest.mark.parametrize(
    "url", ["store.db", "sqlite://x.db", "sqlite:///", "sqlite:///a/", "/a/store.db", "sqlite:x"]
)
def test_store_that_is_no_url_of_a_file_is_refused(url: str) -> None:
    assert refused({"store": url}).startswith("--store: must ")


def test_password_in_a_store_url_is_not_told() -> None:
    assert "secret" not in refused({"store": "Postgresql//u:secret@host/db"})


def test_every_wrong_setting_is_told_at_once() -> None:
    write_here("log_format: xml\nretention_days: soon\n")
    assert len(refused({"store": "x"}).splitlines()) == 3


def test_taking_in_the_task_file_does_not_import_pydantic() -> None:
    """`--help` and `run` without settings stay fast."""
    code = (
        "import sys, agent_runtime.taskfile; print(sorted({'pydantic', 'jinja2'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- the documentation -------------------------------------------------------------------


def rows() -> dict[str, str]:
    table = DOCS.read_text(encoding="utf-8").split("## The store")[0]
    found: list[tuple[str, str]] = re.findall(r"^\| `(\w+)` \| .*? \| (.*?) \|", table, flags=re.M)
    return dict(found)


def told(name: str, value: Any) -> str:
    if name == "store":
        return "`sqlite:///$XDG_STATE_HOME/agent-runtime/store.db`"
    if value is None:
        return "not set"
    if value == ():
        return "empty"
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


def test_docs_tell_every_setting_with_its_default_and_no_other() -> None:
    fields = Settings.model_fields
    assert rows() == {name: told(name, field.default) for name, field in fields.items()}


def test_example_of_the_docs_is_loaded() -> None:
    found = re.search(r"<!-- example[^\n]*\n```yaml\n(.*?)```", DOCS.read_text("utf-8"), flags=re.S)
    assert found is not None
    write_here(found[1])
    assert state_dir(load_settings()) == "/var/lib/agent-runtime"
