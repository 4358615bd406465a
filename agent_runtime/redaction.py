"""Taking secrets out of what is kept: outputs, messages, files.

A secret is looked for as it is, and in the forms that programs usually give it: in lower case,
quoted for a URL, in base64 (alone, or as a user's password in between), in hexadecimal. What a
program does beyond that, such as compressing it, is not seen.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, quote_plus

SECRET_CHARS_MIN: Final = 6
"""A shorter one would be found in every other word."""


class Redactor:
    """Knows the secrets of one task, by name."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        forms: dict[bytes, bytes] = {}
        for name, value in secrets.items():
            for form in _forms(value):
                forms.setdefault(form, f"[secret {name}]".encode())
        # The longest first: a form may contain another.
        self._forms = sorted(forms.items(), key=lambda item: -len(item[0]))

    def __bool__(self) -> bool:
        return bool(self._forms)

    def redact(self, data: bytes) -> bytes:
        """`data`, with the name of a secret in its place."""
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

    def is_in(self, data: bytes) -> bool:
        """Is there any secret in it?"""
        return any(form in data for form, _ in self._forms)

    @property
    def bytes_max(self) -> int:
        """Of the longest form: who reads in pieces keeps that much of the one before."""
        return len(self._forms[0][0]) if self._forms else 0


def _forms(value: str) -> set[bytes]:
    raw = value.encode()
    forms = {
        raw,
        value.lower().encode(),  # as a part of a host's name
        quote(value, safe="").encode(),
        quote_plus(value).encode(),
        json.dumps(value)[1:-1].encode(),
        json.dumps(value, ensure_ascii=False)[1:-1].encode(),
        raw.hex().encode(),
        raw.hex().upper().encode(),
    }
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
