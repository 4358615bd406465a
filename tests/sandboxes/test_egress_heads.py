"""What a client may ask the egress proxy for."""

from __future__ import annotations

import pytest

from agent_runtime.sandboxes.egress_heads import BadRequest, answer, parse_head


def head(*lines: str) -> bytes:
    return "\r\n".join(lines).encode("latin-1")


def test_a_tunnel_has_host_and_port() -> None:
    found = parse_head(head("CONNECT PyPI.org.:443 HTTP/1.1", "Host: other:1"))
    assert (found.host, found.port, found.is_tunnel) == ("pypi.org", 443, True)


def test_the_server_hears_the_targets_host_whatever_the_client_said() -> None:
    """RFC 9112, 3.2.2: a Host that differs from an absolute target is replaced."""
    found = parse_head(
        head("GET http://A.org:8080/x?y HTTP/1.1", "Host: secret.org", "HOST: b", "Accept: */*")
    )
    assert found.forwarded() == (
        b"GET /x?y HTTP/1.1\r\nHost: a.org:8080\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )


def test_headers_for_the_proxy_end_at_the_proxy() -> None:
    """RFC 9110, 7.6.1; Connection cannot take the body's length away."""
    found = parse_head(
        head(
            "POST http://a.org HTTP/1.1",
            "Proxy-Authorization: Basic x", "Connection: keep-alive, X-Own, Content-Length",
            "X-Own: 1", "Keep-Alive: 5", "Upgrade: websocket", "TE: trailers", "Content-Length: 5",
        )
    )  # fmt: skip
    assert found.headers == (("Content-Length", "5"),)
    assert (found.path, found.body_bytes) == ("/", 5)


def test_the_companys_proxy_gets_the_whole_target_and_its_own_password() -> None:
    found = parse_head(head("GET http://a.org/x HTTP/1.1", "Proxy-Authorization: Basic theirs"))
    assert found.forwarded(absolute=True, authorization="Basic ours") == (
        b"GET http://a.org/x HTTP/1.1\r\nHost: a.org\r\nProxy-Authorization: Basic ours\r\n"
        b"Connection: close\r\n\r\n"
    )


@pytest.mark.parametrize(
    "lines",
    [
        ["GET / HTTP/1.1", "Host: a.org"],
        ["GET https://a.org/ HTTP/1.1"],
        ["GET ftp://a.org/ HTTP/1.1"],
        ["GET http://u:p@a.org/ HTTP/1.1"],
        ["GET http://a.org\\@b.org/ HTTP/1.1"],
        ["GET http://a.org/#x HTTP/1.1"],
        ["CONNECT a.org HTTP/1.1"],
        ["CONNECT u@a.org:443 HTTP/1.1"],
        ["CONNECT http://a.org:443 HTTP/1.1"],
        ["CONNECT a.org:443"],
        ["CONNECT a.org:443 HTTP/2.0"],
        ["CONNECT  a.org:443 HTTP/1.1"],
        ["GET http://a.org/ HTTP/1.1", " folded: x"],
        ["GET http://a.org/ HTTP/1.1", "Name : x"],
        ["GET http://a.org/ HTTP/1.1", "no colon"],
        ["GET http://a.org/ HTTP/1.1", "X: a\nTransfer-Encoding: chunked"],
        ["GET http://a.org/ HTTP/1.1", "X: a\rb"],
        ["GET http://a.org/ HTTP/1.1", "X: a\0b"],
        ["GET http://a.org/ HTTP/1.1", "Content-Length: 1", "Content-Length: 2"],
        ["GET http://a.org/ HTTP/1.1", "Content-Length: +1"],
        ["GET http://a.org/ HTTP/1.1", "Content-Length: 1", "Transfer-Encoding: chunked"],
        ["GET http://a.org/ HTTP/1.1", "Transfer-Encoding: gzip, chunked"],
        ["GET http://a.org/ HTTP/1.1", *["X: y"] * 101],
    ],
)
def test_what_two_programs_could_read_differently_is_refused(lines: list[str]) -> None:
    with pytest.raises(BadRequest):
        parse_head(head(*lines))


def test_an_answer_is_one_answer_whatever_is_in_it() -> None:
    """A host that the sandbox chose cannot add headers."""
    data = answer(403, "a\r\nX: y\u2028", "all\nof it")
    first, *_ = data.split(b"\r\n")
    assert first == b"HTTP/1.1 403 Forbidden: a??X: y?"
    assert data.endswith(b"\r\n\r\nall\nof it\n")
