"""Sending one e-mail over SMTP. TLS is needed unless the operator says that there is none."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Final
from urllib.parse import urlsplit

SECONDS_MAX: Final = 20.0
"""For each answer of the server."""


class NotMailed(Exception):
    """The server did not take it; says why, without a password."""


@dataclass(frozen=True, slots=True)
class Mail:
    """What is sent, and through whom."""

    smtp: str
    sender: str
    addresses: Sequence[str]
    subject: str
    text: str
    message_id: str
    user: str = ""
    password: str = ""
    is_plain: bool = False


def send(mail: Mail) -> None:
    """Send it; blocks. A try that is repeated has the same Message-ID.

    Raises:
        NotMailed: it was not taken for every address.
    """
    url = urlsplit(mail.smtp)
    host = url.hostname or ""
    try:
        context = ssl.create_default_context()
        server: smtplib.SMTP
        if url.scheme == "smtps":
            server = smtplib.SMTP_SSL(host, url.port or 465, timeout=SECONDS_MAX, context=context)
        else:
            server = smtplib.SMTP(host, url.port or 587, timeout=SECONDS_MAX)
        with server:
            if url.scheme == "smtp" and not mail.is_plain:
                server.starttls(context=context)
            if mail.user:
                server.login(mail.user, mail.password)
            refused = server.send_message(_written(mail))
    except smtplib.SMTPAuthenticationError as error:
        # What the server says may repeat what it was told.
        raise NotMailed(f"{host} does not take user and password ({error.smtp_code})") from None
    except smtplib.SMTPNotSupportedError as error:
        way_out = "; a relay on the same machine may do without: tls: none"
        raise NotMailed(f"{host}: {error}{way_out if 'STARTTLS' in str(error) else ''}") from None
    except smtplib.SMTPResponseException as error:
        told = error.smtp_error
        said = (told if isinstance(told, str) else told.decode("utf-8", "replace"))[:200]
        raise NotMailed(f"{host} answered {error.smtp_code} {said}") from None
    except smtplib.SMTPRecipientsRefused:
        raise NotMailed(f"{host} takes no mail for these addresses") from None
    except ssl.SSLError as error:
        raise NotMailed(f"{host}: no TLS connection ({error.reason or error})") from None
    except (smtplib.SMTPException, OSError) as error:
        raise NotMailed(f"{host}: {type(error).__name__} ({str(error)[:200]})") from None
    if refused:
        raise NotMailed(f"{host} takes no mail for {', '.join(sorted(refused))}")


def _written(mail: Mail) -> EmailMessage:
    message = EmailMessage()
    message["From"] = mail.sender
    message["To"] = ", ".join(mail.addresses)
    message["Subject"] = " ".join(mail.subject.split())[:200]
    message["Message-ID"] = f"<{mail.message_id}@agent-runtime>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's holiday answer comes back
    message.set_content(mail.text)
    return message
