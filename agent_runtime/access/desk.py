"""Making, listing and revoking keys: what the command line and the API do alike."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from agent_runtime.access import keys
from agent_runtime.access.auditor import Auditor
from agent_runtime.access.callers import Caller
from agent_runtime.access.gate import Gate
from agent_runtime.access.keys import Key, NewKey
from agent_runtime.access.ports import AccessStore
from agent_runtime.errors import Forbidden, NotFound

_PAGE = 500


class Desk:
    """Gives keys out and takes them back, and has it recorded with them."""

    def __init__(
        self,
        store: AccessStore,
        auditor: Auditor,
        *,
        now_us: Callable[[], int],
        gate: Gate | None = None,
        choose: Callable[[str], str] = secrets.choice,
    ) -> None:
        """`gate` forgets at once what is revoked here."""
        self._store = store
        self._auditor = auditor
        self._now_us = now_us
        self._gate = gate
        self._choose = choose

    async def make(self, wish: NewKey, *, caller: Caller, peer: str = "") -> tuple[Key, str]:
        """The key as it is stored, and its text, which is shown once and kept nowhere.

        Raises:
            UsageError: it cannot be as wished.
            Forbidden: it would be allowed more than who makes it.
            Conflict: its name is taken.
        """
        if more := keys.checked(wish) - caller.scopes:
            raise Forbidden(
                f"a key cannot be given what its maker has not: {', '.join(sorted(more))}"
            )
        key, text = keys.make(wish, by=caller.by, now_us=self._now_us(), choose=self._choose)
        told = f"{key.name}: {' '.join(key.scopes)}"
        entry = self._auditor.entry(caller, "key.create", key.key_id, detail=told, peer=peer)
        await self._store.add_key(key, entry)
        return key, text

    async def revoke(self, key_id: str, *, caller: Caller, peer: str = "") -> Key:
        """The key, revoked for good; one that is already stays as it was.

        Raises:
            NotFound: there is no such key.
        """
        key = await self._store.key(key_id)
        entry = self._auditor.entry(caller, "key.revoke", key_id, detail=key.name, peer=peer)
        revoked = await self._store.revoke_key(
            key_id, at_us=self._now_us(), by=caller.by, entry=entry
        )
        if self._gate is not None:
            self._gate.forget()
        return revoked

    async def find(self, name: str) -> Key:
        """The key with this id, or the one in force with this name. `NotFound` if there is none."""
        for key in await self.all():
            if key.key_id == name or (key.name == name and not key.revoked_at_us):
                return key
        raise NotFound(f"no key in force is called {name!r}, and none has this id")

    async def all(self) -> list[Key]:
        """Every key, revoked ones too, by name and then by age."""
        found: list[Key] = []
        page = await self._store.keys(limit=_PAGE)
        while page:
            found += page
            page = await self._store.keys(after=page[-1].key_id, limit=_PAGE)
        return sorted(found, key=lambda key: (key.name, key.made_at_us))
