"""Where the installation's secrets come from: `env:NAME`, `file:/path`, `command:words`.

A task names secrets, the settings say where they are: nobody who may submit a task can read a
variable or a file of the daemon's by naming it. Values are read when they are needed, never kept.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping
from typing import Final

from agent_runtime.errors import ConfigError
from agent_runtime.redaction import SECRET_CHARS_MIN

KINDS: Final = ("env", "file", "command")
COMMAND_SECONDS_MAX: Final = 30.0
SECRET_BYTES_MAX: Final = 64 << 10


def fault_of(source: str) -> str:
    """Why a source cannot be used, whatever is there; empty if it can."""
    kind, _, rest = source.partition(":")
    if kind not in KINDS or not rest.strip():
        return "must be env:NAME, file:/path or command:words"
    if kind == "file" and not rest.startswith("/"):
        return "must name a file by an absolute path"
    if kind == "command":
        try:
            shlex.split(rest)
        except ValueError as error:
            return f"must hold words as a shell reads them: {error}"
    return ""


def read_secret(name: str, source: str, environ: Mapping[str, str]) -> str:
    """The value; the newline at its end is not part of it. Blocks, for as long as a command may.

    Raises:
        ConfigError: it is not there; names the secret and its source, never a value.
    """
    kind, _, rest = source.partition(":")
    try:
        match kind:
            case "env":
                value = environ.get(rest, "")
                if not value:
                    raise ConfigError(f"secret {name}: the variable {rest!r} is not set")
            case "file":
                with open(rest, "rb") as file:
                    value = file.read(SECRET_BYTES_MAX + 1).decode()
            case _:
                ran = subprocess.run(
                    shlex.split(rest),
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=COMMAND_SECONDS_MAX,
                    check=False,
                )
                if ran.returncode:
                    raise ConfigError(f"secret {name}: its command ended with {ran.returncode}")
                value = ran.stdout.decode()
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"secret {name}: its command had no end within {COMMAND_SECONDS_MAX:g} s"
        ) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise ConfigError(f"secret {name} cannot be read from {kind}:{rest}: {why}") from None
    value = value.rstrip("\r\n")
    if "\0" in value or len(value) > SECRET_BYTES_MAX:
        raise ConfigError(f"secret {name}: it has a zero byte, or more than 64 KiB")
    if len(value) < SECRET_CHARS_MIN:
        raise ConfigError(
            f"secret {name}: it has less than {SECRET_CHARS_MIN} characters: so short a one cannot "
            "be kept out of what is printed"
        )
    return value
