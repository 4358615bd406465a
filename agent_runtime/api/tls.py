"""TLS by files, which may be replaced meanwhile: the next handshake sees the new ones."""

from __future__ import annotations

import logging
import os
import ssl
from typing import Any

from agent_runtime.errors import ConfigError
from agent_runtime.settings import Settings

log = logging.getLogger(__name__)


def tls_options(settings: Settings) -> dict[str, Any]:
    """What uvicorn is told; empty without TLS.

    Raises:
        ConfigError: the files cannot be read, or do not fit each other.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return {}
    context = tls_context(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    return {"ssl_context_factory": lambda _config, _default: context}


def tls_context(cert: str, key: str, client_ca: str | None) -> ssl.SSLContext:
    """A context that looks at its files before each handshake.

    Raises:
        ConfigError: as `tls_options`.
    """
    paths = [path for path in (cert, key, client_ca) if path is not None]
    seen = _look(paths)
    try:
        current = _load(cert, key, client_ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"TLS cannot be had with {', '.join(map(repr, paths))}: {error}"
        ) from None

    def before_handshake(
        asked: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
    ) -> None:
        nonlocal seen, current
        if (now := _look(paths)) != seen:
            seen = now
            try:
                current = _load(cert, key, client_ca)
                log.info("TLS goes on with the new files")
            except (OSError, ssl.SSLError) as error:
                # Half replaced: the next change tries again, and the old ones serve until then.
                log.warning("TLS goes on with the old files: %s", error)
        asked.context = current

    first = _load(cert, key, client_ca)
    first.sni_callback = before_handshake
    return first


def _load(cert: str, key: str, client_ca: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # An encrypted key would make OpenSSL ask at a terminal.
    context.load_cert_chain(cert, key, password=_no_password)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _no_password() -> str:
    raise ssl.SSLError(
        "the key is encrypted: give it without a password, readable by the daemon only"
    )


def _look(paths: list[str]) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    for path in paths:
        try:
            about = os.stat(path)
        except OSError:
            found.append(())
        else:
            found.append((about.st_ino, about.st_mtime_ns, about.st_size))
    return found
