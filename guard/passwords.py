"""Reviewers' passwords: into an argon2id hash, and compared with one. `guard.store` keeps the hashes."""

import secrets
import unicodedata
from functools import cache
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from guard.errors import InputError

LEAST_CHARS: Final = 12
MOST_CHARS: Final = 256  # more would only take longer
# OWASP's first choice for argon2id: 46 MiB, one pass, one lane. A lane more would be a core less for the verdicts.
_HASHER: Final = PasswordHasher(memory_cost=47_104, time_cost=1, parallelism=1)


def hash_password(password: str, *, name: str) -> str:
    """Return the argon2id hash of a new password, with its salt and parameters; takes some 50 ms.

    Raises:
        InputError: It is too short, too long, or the reviewer's name.
    """
    if not LEAST_CHARS <= len(password) <= MOST_CHARS:
        raise InputError(f"A password has {LEAST_CHARS} to {MOST_CHARS} characters; a few words do well.")
    if password.casefold() == name.casefold():
        raise InputError("The name is no password: everybody knows it.")
    return _HASHER.hash(_encoded(password))


def is_password(password: str, password_hash: str | None) -> bool:
    """Return whether a password is the one of a hash; without one it takes as long, and it is not."""
    if len(password) > MOST_CHARS:
        return False
    try:
        _HASHER.verify(password_hash or _nobodys(), _encoded(password))
    except VerifyMismatchError:
        return False
    return password_hash is not None


@cache
def _nobodys() -> str:
    """Return a hash that no password has: where there is no account, looking must take as long."""
    return _HASHER.hash(secrets.token_bytes(32))


def _encoded(password: str) -> bytes:
    # keyboards make one character in several ways: NFKC, as NIST SP 800-63B has it
    return unicodedata.normalize("NFKC", password).encode(errors="surrogatepass")
