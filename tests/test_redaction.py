"""Secrets in what is kept are found in the forms that programs give them."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from agent_runtime.redaction import SECRET_CHARS_MIN, Redactor

SECRETS = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=SECRET_CHARS_MIN + 2, max_size=60
)


@given(secret=SECRETS, before=st.binary(max_size=7), after=st.binary(max_size=7))
def test_no_usual_form_of_a_secret_is_left(secret: str, before: bytes, after: bytes) -> None:
    redactor = Redactor({"TOKEN": secret})
    for form in (
        secret.encode(),
        quote(secret, safe="").encode(),
        json.dumps(secret).encode(),
        secret.encode().hex().encode(),
        base64.b64encode(before + secret.encode() + after),
        base64.urlsafe_b64encode(before + secret.encode() + after),
    ):
        data = b"a " + form + b" z"
        assert redactor.is_in(data)
        cleaned = redactor.redact(data)
        assert b"[secret TOKEN]" in cleaned
        assert not redactor.is_in(cleaned.replace(b"[secret TOKEN]", b""))


def test_a_secret_in_the_name_of_a_host_is_found_in_lower_case() -> None:
    redactor = Redactor({"TOKEN": "AbC-123"})
    assert redactor.text("abc-123.example.org") == "[secret TOKEN].example.org"


def test_the_longest_secret_goes_first() -> None:
    redactor = Redactor({"SHORT": "abcdef", "LONG": "abcdef-and-more"})
    assert redactor.text("abcdef-and-more abcdef") == "[secret LONG] [secret SHORT]"


def test_without_secrets_nothing_changes() -> None:
    assert not Redactor({})
    assert Redactor({}).text("abc\udcff") == "abc\udcff"
