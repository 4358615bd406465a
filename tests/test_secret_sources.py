"""Where secrets come from, and what is said if they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_runtime.errors import ConfigError
from agent_runtime.secret_sources import fault_of, read_secret


def test_a_secret_comes_from_a_variable_a_file_or_a_command(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-a-file\n", encoding="utf-8")
    assert read_secret("T", "env:X", {"X": "from-a-variable"}) == "from-a-variable"
    assert read_secret("T", f"file:{tmp_path}/token", {}) == "from-a-file"
    assert read_secret("T", "command:printf '%s' 'from a command'", {}) == "from a command"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("env:MISSING", "secret T: the variable 'MISSING' is not set"),
        ("env:SHORT", "secret T: it has less than 6 characters"),
        ("file:/nowhere/at/all", "No such file"),
        ("file:/", "Is a directory"),
        ("command:false", "secret T: its command ended with 1"),
        ("command:/nowhere/program", "No such file"),
        (r"command:printf '\377\376\375\374\373\372'", "it is no text in UTF-8"),
        (r"command:printf 'secret\0value'", "it has a zero byte"),
    ],
)
def test_a_secret_that_cannot_be_had_is_named_with_its_source(source: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_secret("T", source, {"SHORT": "abc"})
    assert said in str(raised.value) and "abc" not in str(raised.value)


@pytest.mark.parametrize("source", ["", "x", "env:", "file:relative", "vault:x", "command:'a"])
def test_a_source_that_can_be_none_is_refused(source: str) -> None:
    assert fault_of(source)
    assert not fault_of("env:A") and not fault_of("file:/a") and not fault_of("command:a b")
