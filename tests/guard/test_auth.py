"""Who is calling: keys as they stand in the store, this machine without them, and nobody else."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from litestar.datastructures import Headers

from guard.auth import LOCAL, STALE_S, Access, Caller, is_loopback
from guard.errors import BadConfiguration, NotAllowed, NotAuthenticated, StoreUnavailable
from guard.store import Store
from guard.store.states import Role

FOREIGN: list[dict[str, str]] = [
    {"host": "rebound.example.org:8000"},
    {"host": ""},
    {"host": "127.0.0.1.example.org"},
    {"host": "localhost.example.org:8000"},
    {"host": "10.0.0.7:8000"},
    {"host": "[::ffff:10.0.0.7]:8000"},
    {"origin": "https://example.org"},
    {"origin": "https://127.0.0.1.example.org"},
    {"origin": "http://example.org:8000"},
    {"origin": "null"},
    {"origin": ""},
]
WRONG: list[dict[str, str]] = [
    {},
    {"authorization": ""},
    {"authorization": "Bearer"},
    {"authorization": "Bearer "},
    {"authorization": "Bearer lg_wrong"},
    {"authorization": "Basic {secret}"},
    {"authorization": "{secret}"},
    {"authorization": "Bearer {secret}x"},
    {"x_api_key": "{secret} {secret}"},
    {"x_api_key": "\xff\xfe"},
    {"x_api_key": "lg_" + "x" * 100_000},
    {"cookie": "key={secret}"},
]


async def opened(store: Store, host: str = "127.0.0.1") -> Access:
    """Return access with its keys read."""
    access = Access(store, host)
    await access.open()
    return access


def sent(**headers: str) -> Headers:
    """Return a request's headers: `x_api_key` is `x-api-key`; the host is this machine's unless given."""
    return Headers({"host": "127.0.0.1:8000"} | {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "LocalHost"])
def test_loopback(host: str) -> None:
    """This machine is known by its names and addresses."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["", "0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example.org", "127.0.0.1.example.org", "127.1",
     "0x7f000001", "2130706433", "127.0.0.1:80", "127.0.0.1@example.org", " 127.0.0.1", "::ffff:10.0.0.1"],
)  # fmt: skip
def test_not_loopback(host: str) -> None:
    """What only looks like this machine is not."""
    assert not is_loopback(host)


# without keys


async def test_without_keys_whoever_sits_here(store: Store) -> None:
    """Without any key a request to this machine's own name may do everything."""
    access = await opened(store)
    for host in ("127.0.0.1:8000", "localhost:8000", "localhost", "[::1]:8000", "127.0.0.1"):
        assert access.caller(sent(host=host)) == LOCAL
    assert access.caller(sent(origin="http://localhost:3000")) == LOCAL
    assert access.caller(sent(authorization="Bearer lg_anything")) == LOCAL


async def test_without_keys_no_foreign_page(store: Store) -> None:
    """Without any key a foreign web page gets in neither by a name of its own nor by ours."""
    access = await opened(store)
    for headers in FOREIGN:
        with pytest.raises(NotAllowed, match="localhost"):
            access.caller(sent(**headers))


async def test_no_host_at_all(store: Store) -> None:
    """Without any key a request that names no host is refused."""
    access = await opened(store)
    with pytest.raises(NotAllowed):
        access.caller(Headers({}))


async def test_without_keys_loopback_only(store: Store) -> None:
    """Without any key the guard does not open to others, and says how to make one."""
    for host in ("0.0.0.0", "::", "10.0.0.1", "guard.example.org"):
        with pytest.raises(BadConfiguration, match="guard keys create"):
            await opened(store, host)


async def test_keys_gone_while_open_to_others(store: Store) -> None:
    """If the keys vanish under a guard that others reach, nobody is let in, whatever host they claim."""
    await store.keys.create("bot", Role.CLIENT)
    access = await opened(store, "0.0.0.0")
    access._store = store  # the same store, emptied as by a restored backup
    async with store.database.write() as session:
        for key in await store.keys.all():
            await session.delete(await session.merge(key))
    await access.refresh()
    with pytest.raises(NotAuthenticated):
        access.caller(sent(host="localhost"))


# with keys


async def test_keys_by_either_header(store: Store) -> None:
    """A key is taken from either header, and tells name and role."""
    secrets = {role: await store.keys.create(f"the {role}", role) for role in Role}
    access = await opened(store, "0.0.0.0")
    for role, secret in secrets.items():
        for headers in (
            {"authorization": f"Bearer {secret}"},
            {"authorization": f"bearer  {secret} "},
            {"x_api_key": secret},
        ):
            assert access.caller(sent(host="guard.example.org", **headers)) == Caller(f"the {role}", role)


async def test_no_key_or_a_wrong_one(store: Store) -> None:
    """Once there is a key, nobody gets in without one, not even from this machine."""
    secret = await store.keys.create("bot", Role.CLIENT)
    access = await opened(store)
    for headers in WRONG:
        with pytest.raises(NotAuthenticated) as caught:
            access.caller(sent(**{name: value.format(secret=secret) for name, value in headers.items()}))
        assert secret not in caught.value.detail


async def test_digest_is_no_key(store: Store) -> None:
    """Whoever reads the stored digests cannot call with them."""
    await store.keys.create("bot", Role.CLIENT)
    access = await opened(store)
    (key,) = await store.keys.all()
    with pytest.raises(NotAuthenticated):
        access.caller(sent(x_api_key=key.digest.hex()))


async def test_first_key_ends_keyless_service(store: Store) -> None:
    """With the first key, this machine needs one too."""
    access = await opened(store)
    await store.keys.create("bot", Role.CLIENT)
    await access.refresh()
    with pytest.raises(NotAuthenticated):
        access.caller(sent())


async def test_last_key_revoked_is_not_keyless(store: Store) -> None:
    """When the last key is revoked, the guard is closed, not open."""
    secret = await store.keys.create("bot", Role.ADMIN)
    access = await opened(store)
    await store.keys.revoke("bot")
    await access.refresh()
    for headers in (sent(), sent(x_api_key=secret)):
        with pytest.raises(NotAuthenticated):
            access.caller(headers)


async def test_revoked_among_others(store: Store) -> None:
    """A revoked key is refused, the others are not."""
    gone, kept = await store.keys.create("gone", Role.CLIENT), await store.keys.create("kept", Role.REVIEWER)
    access = await opened(store)
    await store.keys.revoke("gone")
    await access.refresh()
    with pytest.raises(NotAuthenticated, match="revoked"):
        access.caller(sent(x_api_key=gone))
    assert access.caller(sent(x_api_key=kept)).name == "kept"


# the store away


async def test_outage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the store does not answer, known keys work for a while and then no longer; after it they do again."""
    secret = await store.keys.create("bot", Role.CLIENT)
    access = await opened(store)
    read = store.keys.all

    async def away() -> None:
        raise StoreUnavailable("The database does not answer.")

    monkeypatch.setattr(store.keys, "all", away)
    with pytest.raises(StoreUnavailable):
        await access.refresh()
    assert access.caller(sent(x_api_key=secret)).name == "bot"
    access._read_at -= STALE_S + 1
    with pytest.raises(StoreUnavailable, match="keys"):
        access.caller(sent(x_api_key=secret))
    monkeypatch.setattr(store.keys, "all", read)
    await access.refresh()
    assert access.caller(sent(x_api_key=secret)).name == "bot"


async def test_never_read(store: Store) -> None:
    """Before the keys were read nobody is let in."""
    with pytest.raises(StoreUnavailable):
        Access(store, "127.0.0.1").caller(sent())


async def test_reads_in_the_background(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task reads the keys again and again, through an outage, without a request's waiting for it."""
    monkeypatch.setattr("guard.auth.FRESH_S", 0.001)
    access = await opened(store)
    read, failed, again = store.keys.all, asyncio.Event(), asyncio.Event()

    async def away() -> None:
        failed.set()
        raise StoreUnavailable("The database does not answer.")

    async def back() -> object:
        keys = await read()
        again.set()
        return keys

    monkeypatch.setattr(store.keys, "all", away)
    task = asyncio.create_task(access.run())
    await failed.wait()
    await store.keys.create("bot", Role.CLIENT)
    assert access.caller(sent()) == LOCAL
    monkeypatch.setattr(store.keys, "all", back)
    await again.wait()
    await asyncio.sleep(0)
    with pytest.raises(NotAuthenticated):
        access.caller(sent())
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _everything(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


async def test_stored_as_digests(store: Store, tmp_path: Path) -> None:
    """No key stands in any file of the data folder."""
    secret = await store.keys.create("bot", Role.ADMIN)
    content = _everything(tmp_path)
    assert content
    assert secret.encode() not in content
    assert secret[3:].encode() not in content
