"""Taking secrets out of what is kept: outputs, messages, files.

A secret is looked for as it is, and in the forms that programs usually give it: in lower case,
quoted for a URL, JSON, HTML or a shell, in base64 (alone, or as a user's password in between) and
in hexadecimal, both wrapped into lines or not. Of one with several lines, such as a key, each long
line is a secret too. What a program does beyond that, such as compressing it, is not seen.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, quote_plus

from agent_runtime.types import Json

SECRET_CHARS_MIN: Final = 6
"""A shorter one would be found in every other word."""


LINE_CHARS_MIN: Final = 16
"""Of one line among several, to be looked for by itself."""
WRAPPED_CHARS_MIN: Final = 40
"""A shorter encoded form is on one line."""
_LOOKED_FOR_MAX: Final = 400
"""Of a long encoded form; what follows in the same letters goes with it."""


class Redactor:
    """Knows the secrets of one task, by name."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        forms: dict[bytes, bytes] = {}
        wrapped: dict[bytes, bytes] = {}
        for name, value in secrets.items():
            shown = f"[secret {name}]".encode()
            for form in _plain(value):
                forms.setdefault(form, shown)
            for form in _encoded(value):
                (wrapped if len(form) > WRAPPED_CHARS_MIN else forms).setdefault(form, shown)
        # The longest first: a form may contain another.
        self._forms = sorted(forms.items(), key=lambda item: -len(item[0]))
        self._wrapped = [
            (_in_lines(form), name)
            for form, name in sorted(wrapped.items(), key=lambda item: -len(item[0]))
        ]
        longest = max((len(form) for form in (*forms, *wrapped)), default=0)
        self.bytes_max: Final = 2 * longest
        """Of the longest form, its ends of lines included: who reads in pieces keeps that much of
        the one before."""

    def __bool__(self) -> bool:
        return bool(self._forms)

    def redact(self, data: bytes) -> bytes:
        """`data`, with the name of a secret in its place."""
        for pattern, name in self._wrapped:
            data = pattern.sub(name.replace(b"\\", rb"\\"), data)
        for form, name in self._forms:
            if form in data:
                data = data.replace(form, name)
        return data

    def text(self, text: str) -> str:
        """As `redact`, for text."""
        if not self._forms:
            return text
        return self.redact(text.encode("utf-8", "surrogateescape")).decode(
            "utf-8", "surrogateescape"
        )

    def json(self, value: Json) -> Json:
        """As `redact`, for every text and number of a JSON value; its form stays."""
        if not self._forms:
            return value
        match value:
            case str():
                return self.text(value)
            case dict():
                return {self.text(key): self.json(item) for key, item in value.items()}
            case list() | tuple():
                return [self.json(item) for item in value]
            case int() | float() if not isinstance(value, bool):
                written = str(value)
                return value if (shown := self.text(written)) == written else shown
            case _:
                return value

    def is_in(self, data: bytes) -> bool:
        """Is there any secret in it?"""
        return any(form in data for form, _ in self._forms) or any(
            pattern.search(data) for pattern, _ in self._wrapped
        )


def _plain(value: str) -> set[bytes]:
    lines = value.split()
    forms = {
        value,
        value.lower(),  # as a part of a host's name
        " ".join(lines),  # as a shell prints it without quotes
        *(
            quoted
            for safe in ("", "/", "!'()*", "/!'()*")  # the last ones are JavaScript's
            for quoted in (quote(value, safe=safe), _lower(quote(value, safe=safe)))
        ),
        quote_plus(value),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        html.escape(value, quote=False),
        html.escape(value),
        repr(value)[1:-1],
        value.replace("'", r"'\''"),
        value.replace("'", "'\"'\"'"),
        value.replace("\n", "\r\n"),
    }
    if "\n" in value:
        # Whole lines without a space: those of a key, and not the head that all keys have.
        forms |= {
            line
            for line in map(str.strip, value.splitlines())
            if len(line) >= LINE_CHARS_MIN and line in lines and not line.startswith("-----")
        }
    return {form.encode() for form in forms if form}


def _in_lines(form: bytes) -> re.Pattern[bytes]:
    """The form, with or without line ends in it."""
    letters = [re.escape(bytes([letter])) for letter in form[:_LOOKED_FOR_MAX]]
    rest = rb"(?:[A-Za-z0-9+/_=-]|\r?\n[ \t]*)*" if len(form) > _LOOKED_FOR_MAX else b""
    return re.compile(rb"(?:\r?\n[ \t]*)?".join(letters) + rest)


def _lower(quoted: str) -> str:
    return re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), quoted)


def _encoded(value: str) -> set[bytes]:
    raw = value.encode()
    forms = {raw.hex().encode(), raw.hex().upper().encode()}
    # In the middle of a longer text the same bytes look different in each of three positions; what
    # stays the same is without the characters that neighbours have a part in.
    for before in range(3):
        padded = b"\0" * before + raw
        for encoded in (base64.b64encode(padded), base64.urlsafe_b64encode(padded)):
            first = -(-before * 8 // 6)
            whole = len(padded) * 8 // 6
            if whole - first >= SECRET_CHARS_MIN:
                forms.add(encoded[first:whole])
    return {form for form in forms if form}
