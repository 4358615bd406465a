"""Secrets in what is kept are found in the forms that programs give them."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
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


def test_an_encoded_secret_is_found_over_several_lines() -> None:
    secret = "".join(chr(33 + number * 7 % 90) for number in range(300))
    redactor = Redactor({"TOKEN": secret})
    encoded = base64.encodebytes(f"user:{secret}".encode())
    for form in (
        encoded,
        encoded.replace(b"\n", b"\r\n  "),
        secret.encode().hex("\n", 30).encode(),
    ):
        assert redactor.is_in(form)
        assert len(redactor.redact(form)) < 50
        assert len(form) <= redactor.bytes_max


def test_each_line_of_a_key_is_secret_and_its_head_is_not() -> None:
    head, first, last = (
        "-----BEGIN PRIVATE KEY-----",
        "MIIEvQIBADANBgkqhkiG9w0BA",
        "Zm9vYmFyYmF6cXV4Zm9v",
    )
    redactor = Redactor({"KEY": f"{head}\n{first}\n{last}\n"})
    assert redactor.text(f"{head}\n  {first}\n") == f"{head}\n  [secret KEY]\n"
    assert redactor.text(f"{head} {first} {last}") == "[secret KEY]"


@pytest.mark.parametrize(
    "form",
    ["a/b%20c%27%3cd%3e", "a/b%20c'%3Cd%3E", "a/b c&#x27;&lt;d&gt;", "a/b c'&lt;d&gt;",
     "a/b c'\"'\"'<d>", r"a/b c'\''<d>", "a%2fb%20c%27%3cd%3e"],
)  # fmt: skip
def test_quotings_of_other_programs_are_known(form: str) -> None:
    assert Redactor({"TOKEN": "a/b c'<d>"}).text(f"x{form}y") == "x[secret TOKEN]y"


def test_the_longest_secret_goes_first() -> None:
    redactor = Redactor({"SHORT": "abcdef", "LONG": "abcdef-and-more"})
    assert redactor.text("abcdef-and-more abcdef") == "[secret LONG] [secret SHORT]"


def test_without_secrets_nothing_changes() -> None:
    assert not Redactor({})
    assert Redactor({}).text("abc\udcff") == "abc\udcff"
