"""Passwords: hashed with argon2id, compared as people type them, and never too short."""

import pytest

from guard.errors import InputError
from guard.passwords import MOST_CHARS, hash_password, is_password

PASSWORD = "correct horse"


def test_hash() -> None:
    """A hash is argon2id's, another one each time, holds its parameters and not the password."""
    first, second = hash_password(PASSWORD, name="ann"), hash_password(PASSWORD, name="ann")
    assert first.startswith("$argon2id$v=19$m=47104,t=1,p=1$")
    assert first != second
    assert PASSWORD not in first
    assert len(first) < 255
    assert is_password(PASSWORD, first)
    assert is_password(PASSWORD, second)


@pytest.mark.parametrize("other", ["", "correct hors", "Correct horse", "correct horse ", "x" * (MOST_CHARS + 1)])
def test_another_password(other: str) -> None:
    """Nothing but the password is the password."""
    assert not is_password(other, hash_password(PASSWORD, name="ann"))


def test_nobodys() -> None:
    """Where there is no account no password is right."""
    assert not is_password(PASSWORD, None)
    assert not is_password("", None)


def test_as_typed() -> None:
    """An accented letter is the same whether the keyboard makes it of one character or of two."""
    assert is_password("cafe\u0301 au lait", hash_password("caf\u00e9 au lait", name="ann"))


@pytest.mark.parametrize("password", ["", "short", "x" * 11, "x" * (MOST_CHARS + 1), "Ann-of-Kleve-1539"])
def test_no_password(password: str) -> None:
    """Too short, too long, or the name: refused, and the message does not repeat it."""
    with pytest.raises(InputError) as caught:
        hash_password(password, name="ann-of-kleve-1539")
    assert not password or password not in caught.value.detail
