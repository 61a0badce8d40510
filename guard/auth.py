"""Who is calling, and whether they may: keys by role, cached for seconds so that a request never waits for the store."""

import asyncio
import hmac
import ipaddress
import time
from dataclasses import dataclass
from typing import Any, Final

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from guard.errors import BadConfiguration, NotAllowed, NotAuthenticated, Unavailable
from guard.store import Store
from guard.store.keys import digest
from guard.store.states import Role

FRESH_S: Final = 2.0  # a revoked key works at most this long
STALE_S: Final = 300.0  # while the store is down, the keys known last are good for this long
_REACH: Final = {Role.CLIENT: {Role.CLIENT}, Role.REVIEWER: {Role.REVIEWER}, Role.ADMIN: set(Role)}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request: a key by its name, or whoever sits at this machine."""

    name: str
    role: Role


LOCAL: Final = Caller("local", Role.ADMIN)


def is_loopback(host: str) -> bool:
    """Return whether an address or host name can only be reached from this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Access:
    """Knows the keys.

    Args:
        store: Holds them.
        host: The address the server binds; without any key it must be loopback.
    """

    def __init__(self, store: Store, host: str) -> None:
        self._store = store
        self._host = host
        self._callers: dict[bytes, Caller] = {}
        self._keyless = False
        self._read_at = -STALE_S
        self._reading = asyncio.Lock()

    async def open(self) -> None:
        """Read the keys for the first time.

        Raises:
            BadConfiguration: There is no key and the server would be reachable from elsewhere.
        """
        await self._read()
        if self._keyless and not is_loopback(self._host):
            raise BadConfiguration(
                f"Without any key the guard binds loopback only, not {self._host}: "
                "run `guard keys create NAME --role client` first."
            )

    async def caller(self, connection: ASGIConnection[Any, Any, Any, Any]) -> Caller:
        """Return who is calling.

        Raises:
            NotAuthenticated: No key, or one that is unknown or revoked.
            NotAllowed: Without keys, a request that did not come to this machine's own name.
        """
        await self._refresh()
        if self._keyless:
            # a web page could reach a loopback server by a name of its own (DNS rebinding): only our names are served
            if not is_loopback(_host_name(connection.headers.get("host", ""))):
                raise NotAllowed(
                    "Without keys only requests to localhost are answered: use 127.0.0.1, or create a key."
                )
            return LOCAL
        secret = connection.headers.get("x-api-key") or _bearer(connection.headers.get("authorization", ""))
        if not secret:
            raise NotAuthenticated("Send a key as `Authorization: Bearer lg_…` or `x-api-key: lg_…`.")
        presented = digest(secret)
        for known, caller in self._callers.items():
            if hmac.compare_digest(known, presented):
                return caller
        raise NotAuthenticated("This key is unknown or revoked: `guard keys list` shows those in force.")

    async def _refresh(self) -> None:
        if time.monotonic() - self._read_at < FRESH_S or (self._reading.locked() and self._callers):
            return
        async with self._reading:
            if time.monotonic() - self._read_at < FRESH_S:
                return
            try:
                await self._read()
            except Unavailable:
                if time.monotonic() - self._read_at > STALE_S:
                    raise

    async def _read(self) -> None:
        keys = await self._store.keys.all()
        self._callers = {key.digest: Caller(key.name, key.role) for key in keys if key.revoked_at is None}
        self._keyless = not keys
        self._read_at = time.monotonic()


def requires(role: Role) -> Guard:
    """Return a Litestar guard that lets a role through and notes the caller on the request."""

    async def check(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        access: Access = connection.app.state.access
        caller = await access.caller(connection)
        if role not in _REACH[caller.role]:
            raise NotAllowed(f"This needs a key with the role {role}; the key {caller.name!r} is a {caller.role}.")
        connection.scope["state"]["caller"] = caller

    return check


def _bearer(header: str) -> str:
    scheme, _, value = header.partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""


def _host_name(header: str) -> str:
    if header.startswith("["):
        return header.partition("]")[0] + "]"
    return header.rpartition(":")[0] if ":" in header else header
