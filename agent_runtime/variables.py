"""Which `AGENT_RUNTIME_*` variables are read here, so that a misspelt one does not go unheard.

They are told, not refused: the prefix is not ours alone. A plug-in, a secret's source (`env:NAME`)
or an orchestrator that names variables after its services may use it, and a program must not stop
because of a variable that it does not read. Nothing here is heavy: every verb looks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from agent_runtime.schema import nearest

PREFIX: Final = "AGENT_RUNTIME_"

SETTINGS: Final = frozenset(
    """
    allowed_hosts approval_wait_seconds artifact_bytes artifact_files behind_proxy bwrap
    container_name container_network container_writable git_credentials hibernate_seconds host
    jwt_algorithms jwt_audience jwt_claim jwt_issuer jwt_jwks jwt_leeway_seconds jwt_roles
    log_format log_level mcp_prompts mcp_servers mcp_short_way memory_bytes_max model
    model_cache_bytes model_endpoints model_fallbacks model_keys modules notify pending_tasks_max
    plugins port proxy_addresses public_url rate_limit retention_audit_days retention_bytes
    retention_days sandbox sandbox_cpus sandbox_cpus_max sandbox_disk_bytes sandbox_disk_bytes_max
    sandbox_inodes sandbox_inodes_max sandbox_memory_bytes sandbox_memory_bytes_max
    sandbox_processes sandbox_processes_max sandbox_spares secrets setup_egress shutdown_seconds
    store submitter_tasks_max tasks_max tls_cert tls_client_ca tls_key toolchains upload_bytes
    upload_hours webhook_allow workspace_roots
    """.split()
)
"""The names of `settings.Settings`, which costs a fifth of a second to import; a test compares."""

BESIDES: Final = frozenset({"URL", "TOKEN", "PLAIN_HTTP"})
"""What clients read (`client.places`), without the prefix."""
INSIDE: Final = frozenset({"REPORTING", "SERVICES", "SHARED"})
"""What the runtime itself sets for the programs in a sandbox."""

_OF_SERVICES = re.compile(
    r"(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?"
    r"|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
"""Kubernetes and old Docker links say of a service `agent-runtime` where it is."""


def unread(environ: Mapping[str, str], *, besides: Iterable[str] = ()) -> list[str]:
    """A sentence for each variable of the prefix that nothing reads; `besides` names others that
    something does. Settings are read in any case of letters."""
    known = {*(name.upper() for name in SETTINGS), *BESIDES, *INSIDE}
    others = frozenset(besides)
    said = []
    for variable in sorted(environ):
        name = variable.upper().removeprefix(PREFIX)
        if not variable.upper().startswith(PREFIX) or name in known or variable in others:
            continue
        if _OF_SERVICES.fullmatch(name):
            continue
        guess = nearest(name, known - INSIDE)
        hint = f"; did you mean {PREFIX}{guess}?" if guess else ", and no setting is called so"
        said.append(f"nothing reads the variable {variable}{hint}")
    return said
