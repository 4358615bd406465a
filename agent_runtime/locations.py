"""Where state and settings lie, for those who cannot wait for all the settings to be read.

Reading every setting takes a quarter of a second; finding a daemon needs one of them.
"""

from __future__ import annotations

import os
from typing import Final

from agent_runtime.errors import AgentRuntimeError, ConfigError

SQLITE: Final = "sqlite:///"
FILE_NAME: Final = "agent-runtime.yaml"
"""In the working directory."""
STORE_VARIABLE: Final = "AGENT_RUNTIME_STORE"


def xdg(variable: str, default: str) -> str:
    """A base directory, see the XDG specification: a relative path is invalid and is ignored."""
    path = os.environ.get(variable, "")
    return os.path.normpath(path if os.path.isabs(path) else os.path.expanduser(default))


def default_store() -> str:
    """The store where nothing else is said."""
    return f"{SQLITE}{xdg('XDG_STATE_HOME', '~/.local/state')}/agent-runtime/store.db"


def user_config() -> str:
    """The user's own settings file, whether it exists or not."""
    return f"{xdg('XDG_CONFIG_HOME', '~/.config')}/agent-runtime/config.yaml"


def config_files() -> tuple[str, str]:
    """The directory's own settings and the user's, in their order, whether they exist or not."""
    return os.path.abspath(FILE_NAME), user_config()


def store_url(given: str | None = None) -> str:
    """The store in force, in the order of `settings`: given, environment, files, default.

    What is wrong with it, and with other settings, `settings.load_settings` says.

    Raises:
        ConfigError: the working directory is gone.
    """
    if found := given or os.environ.get(STORE_VARIABLE):
        return found
    try:
        files = config_files()
    except OSError:
        raise ConfigError("the working directory was removed; change to one that exists") from None
    for path in files:
        if os.path.isfile(path) and (found := _store_in(path)):
            return found
    return default_store()


def state_dir_of(store: str) -> str:
    """The directory of a store, in which daemons leave their address and token."""
    path = store if store.startswith(SQLITE) else default_store()
    return os.path.dirname(os.path.abspath(path.removeprefix(SQLITE)))


def _store_in(path: str) -> str | None:
    # YAML takes a while to import, and most people have no such file.
    from agent_runtime.documents import BYTES_MAX, decode, load

    try:
        with open(path, "rb") as file:
            value = load(decode(file.read(BYTES_MAX), name=path), name=path).value
    except (OSError, AgentRuntimeError):
        return None
    found = value.get("store") if isinstance(value, dict) else None
    return found if isinstance(found, str) else None
