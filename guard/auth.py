"""Who is calling, and whether they may: keys by role, read every few seconds so that no request waits for the store."""

import asyncio
import contextlib
import hmac
import ipaddress
import math
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from litestar.connection import ASGIConnection
from litestar.datastructures import Headers
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from guard.errors import BadConfiguration, LifeguardError, NotAllowed, NotAuthenticated, StoreUnavailable
from guard.store import Store
from guard.store.keys import digest
from guard.store.states import Role

FRESH_S: Final = 2.0  # how often the keys are read: a revoked one works at most this long
STALE_S: Final = 300.0  # while the store is down, the keys known last are good for this long
_REACH: Final = {Role.CLIENT: {Role.CLIENT}, Role.REVIEWER: {Role.REVIEWER}, Role.ADMIN: set(Role)}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request: a key or a reviewer by its name, or whoever sits at this machine."""

    name: str
    role: Role


LOCAL: Final = Caller("local", Role.ADMIN)


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Return whether an address or host name can only be reached from this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


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
        self._read_at = -math.inf

    async def open(self) -> None:
        """Read the keys for the first time.

        Raises:
            BadConfiguration: There is no key and the server would be reachable from elsewhere.
            StoreUnavailable: The store does not answer.
        """
        await self.refresh()
        if self._keyless and not is_loopback(self._host):
            raise BadConfiguration(
                f"Without any key the guard binds loopback only, not {self._host}: "
                "run `guard keys create NAME --role client` first."
            )

    async def run(self) -> None:
        """Read the keys for ever; while the store does not answer, those known last stay in force."""
        while True:
            await asyncio.sleep(FRESH_S)
            with contextlib.suppress(LifeguardError):
                await self.refresh()

    async def refresh(self) -> None:
        """Read the keys.

        Raises:
            StoreUnavailable: The store does not answer.
        """
        keys = await self._store.keys.all()
        self._callers = {key.digest: Caller(key.name, key.role) for key in keys if key.revoked_at is None}
        self._keyless = not keys
        self._read_at = time.monotonic()

    def caller(self, headers: Headers) -> Caller:
        """Return who sends these headers.

        Raises:
            NotAuthenticated: No key, or one that is unknown or revoked.
            NotAllowed: Without keys, a request that was not meant for this machine.
            StoreUnavailable: The keys have not been read for too long to be trusted.
        """
        if time.monotonic() - self._read_at > STALE_S:
            raise StoreUnavailable("The keys cannot be read: nobody can be let in until the store answers again.")
        if self._keyless and is_loopback(self._host):
            return _local(headers)
        secret = headers.get("x-api-key") or _bearer(headers.get("authorization", ""))
        if not secret:
            raise NotAuthenticated("Send a key as `Authorization: Bearer lg_…` or `x-api-key: lg_…`.")
        presented = digest(secret)
        for known, caller in self._callers.items():
            if hmac.compare_digest(known, presented):
                return caller
        raise NotAuthenticated("This key is unknown or revoked: `guard keys list` shows those in force.")


def requires(role: Role) -> Guard:
    """Return a Litestar guard that lets a role through and notes the caller on the request."""

    async def check(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        access: Access = connection.app.state.access
        caller = access.caller(connection.headers)
        admit(caller, role)
        connection.scope["state"]["caller"] = caller

    return check


def admit(caller: Caller, role: Role) -> None:
    """Let a caller pass where a role is needed.

    Raises:
        NotAllowed: Their role does not reach.
    """
    if role not in _REACH[caller.role]:
        raise NotAllowed(f"This needs the role {role}; {caller.name!r} is a {caller.role}.")


def has_key(headers: Headers) -> bool:
    """Return whether a key is sent, be it a wrong one."""
    return "x-api-key" in headers or "authorization" in headers


def _local(headers: Headers) -> Caller:
    """Let in whoever sits at this machine, but not a foreign web page that their browser shows.

    Such a page reaches a loopback server by a name of its own (DNS rebinding: the host gives it away) or by ours (a
    cross-site request: the origin does).
    """
    origin = headers.get("origin")
    if not is_loopback(host_name(headers.get("host", ""))) or (
        origin is not None and not is_loopback(host_name(origin.partition("://")[2]))
    ):
        raise NotAllowed("Without keys only requests to localhost are answered: use 127.0.0.1, or create a key.")
    return LOCAL


def _bearer(header: str) -> str:
    scheme, _, value = header.partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""


def host_name(header: str) -> str:
    """Return the name in a Host header, without the port."""
    if header.startswith("["):
        return header.partition("]")[0] + "]"
    return header.rpartition(":")[0] if ":" in header else header
