"""The keyring: texts in, ciphertexts out, and the keyed hashes by which they are found again.

A text is sealed with AES-256-GCM under the newest encryption key; older keys stay readable until every row is sealed
anew. Fingerprints and user hashes use a key of their own, which never changes, or nothing could be found again.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path
from typing import Self

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from guard.errors import BadConfiguration
from guard.settings import GuardSettings

_NONCE_BYTES = 12
_KEY_BYTES = 32
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,16}")


class _KeyringFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keyring as JSON: keys in base64, newest encryption key last."""

    index_key: str
    encryption_keys: dict[str, str]


class Keyring:
    """Seals and opens texts; makes fingerprints and user hashes.

    Args:
        index_key: 32 bytes for keyed hashes.
        encryption_keys: id to 32 bytes, newest last.

    Raises:
        BadConfiguration: A key or an id is not of its form.
    """

    def __init__(self, index_key: bytes, encryption_keys: dict[str, bytes]) -> None:
        if not encryption_keys or any(len(k) != _KEY_BYTES for k in (index_key, *encryption_keys.values())):
            raise BadConfiguration("The keyring needs an index key and at least one encryption key, 32 bytes each.")
        if not all(_KEY_ID.fullmatch(key_id) for key_id in encryption_keys):
            raise BadConfiguration("An id of the keyring has 1 to 16 letters, digits, dashes or underscores.")
        self._index_key = index_key
        self._keys = dict(encryption_keys)
        self._ciphers = {key_id: AESGCM(key) for key_id, key in encryption_keys.items()}
        self.active_id = next(reversed(self._keys))

    def __repr__(self) -> str:
        return f"Keyring(active_id={self.active_id!r}, keys={len(self._keys)})"

    @classmethod
    def generate(cls) -> Self:
        """Return a keyring of fresh random keys."""
        return cls(secrets.token_bytes(_KEY_BYTES), {"k1": secrets.token_bytes(_KEY_BYTES)})

    @classmethod
    def parse(cls, content: bytes | str) -> Self:
        """Read a keyring from its JSON.

        Raises:
            BadConfiguration: It is no keyring; the message never repeats it.
        """
        try:
            data = msgspec.json.decode(content, type=_KeyringFile)
            keys = {key_id: base64.b64decode(key, validate=True) for key_id, key in data.encryption_keys.items()}
            return cls(base64.b64decode(data.index_key, validate=True), keys)
        except (msgspec.DecodeError, binascii.Error, ValueError):
            raise BadConfiguration(
                'The keyring is not readable: expected {"index_key": …, "encryption_keys": {id: …}} with base64 of 32 bytes.'
            ) from None

    @classmethod
    def load(cls, settings: GuardSettings, *, create: bool = False) -> Self:
        """Load the keyring from its setting or its file.

        Args:
            settings: `keyring` wins over `keyring_file`.
            create: Write a fresh keyring, readable by its owner alone, when there is no file.

        Raises:
            BadConfiguration: There is none, it cannot be read, or others can read it.
        """
        if settings.keyring is not None:
            return cls.parse(settings.keyring.get_secret_value())
        path = settings.keyring_path
        if not path.exists():
            if not create:
                raise BadConfiguration(
                    f"There is no keyring at {path}. Set GUARD_KEYRING or GUARD_KEYRING_FILE, or run `guard keyring create`."
                )
            keyring = cls.generate()
            try:
                keyring.save(path, replace=False)
            except FileExistsError:  # another process was first: its keyring is the one
                return cls.load(settings)
            return keyring
        try:
            mode, content = path.stat().st_mode, path.read_bytes()
        except OSError as error:
            raise BadConfiguration(f"The keyring {path} cannot be read ({type(error).__name__}).") from None
        if mode & 0o077:
            raise BadConfiguration(f"The keyring {path} is readable by others: chmod 600 it.")
        return cls.parse(content)

    def save(self, path: Path, *, replace: bool) -> None:
        """Write the keyring for its owner alone, atomically and durably; without `replace`, only where there is none.

        Raises:
            FileExistsError: There is one and it is not to be replaced.
        """
        data = _KeyringFile(
            index_key=base64.b64encode(self._index_key).decode(),
            encryption_keys={key_id: base64.b64encode(key).decode() for key_id, key in self._keys.items()},
        )
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(data)))
                file.flush()
                os.fsync(file.fileno())
            if replace:
                partial.replace(path)
            else:
                os.link(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # without its name on disk, every text sealed since would be lost with the power
        finally:
            os.close(folder)

    def rotated(self) -> Self:
        """Return a keyring with one more encryption key, the active one."""
        number = 1 + max(int(key_id[1:]) if re.fullmatch(r"k\d+", key_id) else 0 for key_id in self._keys)
        return type(self)(self._index_key, {**self._keys, f"k{number}": secrets.token_bytes(_KEY_BYTES)})

    def retired(self) -> Self:
        """Return a keyring with the active encryption key alone."""
        return type(self)(self._index_key, {self.active_id: self._keys[self.active_id]})

    def holds(self, key_id: str) -> bool:
        """Return whether a text sealed under this key can be opened."""
        return key_id in self._keys

    def seal(self, text: str, *, owner: bytes) -> bytes:
        """Encrypt a text for the row that owns it (`owner` is authenticated, not stored)."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[self.active_id].encrypt(nonce, _encode(text), owner)
        return nonce + sealed

    def open(self, sealed: bytes, *, key_id: str, owner: bytes) -> str:
        """Decrypt a text.

        Raises:
            BadConfiguration: The key is not on the ring, or the row was altered.
        """
        try:
            text = self._ciphers[key_id].decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], owner)
        except (KeyError, InvalidTag, ValueError):  # ValueError: too short for a nonce
            raise BadConfiguration(
                f"A stored text cannot be opened with key {key_id}: the keyring is not the one it was sealed with."
            ) from None
        return text.decode(errors="surrogatepass")

    def fingerprint(self, text: str) -> bytes:
        """Return the 32-byte keyed hash by which a normalised text is found again."""
        return self._digest(b"text", text)

    def user_hash(self, user: str) -> str:
        """Return the keyed hash that stands for a user."""
        return self._digest(b"user", user).hex()

    def subject(self, kind: str, value: str) -> bytes:
        """Return the 32-byte keyed hash that stands for who tries to log in: a name, an address, or both."""
        return self._digest(b"login " + kind.encode(), value)

    def tag(self, purpose: str, *parts: bytes | str | int | None) -> bytes:
        """Return a 32-byte keyed hash over parts, in their order; no other parts, however cut, have the same."""
        framed = bytearray(b"tag\x00" + purpose.encode() + b"\x00")
        for part in parts:
            value = part if isinstance(part, bytes) else b"" if part is None else _encode(str(part))
            framed += b"-" if part is None else b"%d:" % len(value)
            framed += value
        return hmac.digest(self._index_key, framed, hashlib.sha256)

    def _digest(self, purpose: bytes, value: str) -> bytes:
        return hmac.digest(self._index_key, purpose + b"\x00" + _encode(value), hashlib.sha256)


def _encode(value: str) -> bytes:
    return value.encode(errors="surrogatepass")  # a user's id is opaque: even half a surrogate pair names somebody
