"""How the text of a key looks: `ark_<id>_<secret>`. What is stored of keys is in `keys`.

Imports nothing that is slow: whoever only sends a token must start at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

PREFIX: Final = "ark_"
LOCAL_ID: Final = "local"
"""Where the id of a key stands in the token of the state directory."""
SECRET_CHARS: Final = 43
"""Of 62 characters each: 256 bits."""

_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_FORM: Final = re.compile(rf"ark_([a-z0-9]{{1,16}})_([A-Za-z0-9]{{{SECRET_CHARS}}})")


def text_of(key_id: str, choose: Callable[[str], str]) -> str:
    """A new secret, under `key_id`."""
    return f"{PREFIX}{key_id}_{''.join(choose(_LETTERS) for _ in range(SECRET_CHARS))}"


def id_in(text: str) -> str:
    """The id in a key's text; empty if it has not the form of one."""
    found = _FORM.fullmatch(text)
    return found[1] if found else ""
