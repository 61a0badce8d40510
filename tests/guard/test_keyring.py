"""The keyring: its file, its forms, and what it seals."""

import base64
import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from guard.errors import BadConfiguration
from guard.settings import GuardSettings
from guard.store.keyring import Keyring

TEXT = "canary: I cannot sleep"
OWNER = b"row 1"


def _content(keyring: Keyring, path: Path) -> str:
    keyring.save(path, replace=True)
    return path.read_text()


def test_seal_and_open(keyring: Keyring) -> None:
    """What was sealed for a row opens for that row, is never the same twice, and shows nothing of the text."""
    sealed = keyring.seal(TEXT, owner=OWNER)
    assert keyring.open(sealed, key_id="k1", owner=OWNER) == TEXT
    assert sealed != keyring.seal(TEXT, owner=OWNER)
    assert b"canary" not in sealed


def test_is_aes_256_gcm(keyring: Keyring) -> None:
    """A sealed text is a nonce of 12 bytes and AES-256-GCM under the active key: any other tool can open it."""
    sealed = keyring.seal(TEXT, owner=OWNER)
    assert AESGCM(b"a" * 32).decrypt(sealed[:12], sealed[12:], OWNER).decode() == TEXT


@pytest.mark.parametrize("text", ["", "\ud800 alone", "\U0001f9e0" * 1000, "nul \x00"])
def test_any_text(keyring: Keyring, text: str) -> None:
    """Whatever can be a string can be sealed and opened."""
    assert keyring.open(keyring.seal(text, owner=OWNER), key_id="k1", owner=OWNER) == text


@pytest.mark.parametrize("position", [0, 11, 12, 20, -1])
def test_altered(keyring: Keyring, position: int) -> None:
    """A sealed text of which one bit was changed does not open, and the error tells neither text nor key."""
    sealed = bytearray(keyring.seal(TEXT, owner=OWNER))
    sealed[position] ^= 1
    with pytest.raises(BadConfiguration) as caught:
        keyring.open(bytes(sealed), key_id="k1", owner=OWNER)
    assert "canary" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("length", [0, 5, 12, 20])
def test_cut_short(keyring: Keyring, length: int) -> None:
    """A sealed text that was cut short does not open."""
    with pytest.raises(BadConfiguration):
        keyring.open(keyring.seal(TEXT, owner=OWNER)[:length], key_id="k1", owner=OWNER)


def test_other_row(keyring: Keyring) -> None:
    """A sealed text that was copied to another row does not open there."""
    with pytest.raises(BadConfiguration):
        keyring.open(keyring.seal(TEXT, owner=OWNER), key_id="k1", owner=b"row 2")


def test_wrong_key(keyring: Keyring) -> None:
    """Under another key, or one that is not on the ring, nothing opens."""
    other = Keyring(b"i" * 32, {"k1": b"b" * 32})
    for ring, key_id in ((other, "k1"), (keyring, "k9")):
        with pytest.raises(BadConfiguration, match=f"key {key_id}"):
            ring.open(keyring.seal(TEXT, owner=OWNER), key_id=key_id, owner=OWNER)


def test_fingerprints(keyring: Keyring) -> None:
    """Equal texts have equal fingerprints under one index key and others under another; users have hashes apart."""
    assert keyring.fingerprint("a") == keyring.fingerprint("a") != keyring.fingerprint("b")
    assert len(keyring.fingerprint("a")) == 32
    assert keyring.fingerprint("a") != Keyring(b"j" * 32, {"k1": b"a" * 32}).fingerprint("a")
    assert keyring.user_hash("a") != keyring.fingerprint("a").hex()
    assert keyring.user_hash("\ud800") != keyring.user_hash("\udfff")


def test_rotated(keyring: Keyring) -> None:
    """A rotated ring seals under a new key, opens what the old one sealed, and finds the same texts."""
    rotated = keyring.rotated()
    assert (keyring.active_id, rotated.active_id, rotated.rotated().active_id) == ("k1", "k2", "k3")
    assert rotated.open(keyring.seal(TEXT, owner=OWNER), key_id="k1", owner=OWNER) == TEXT
    assert rotated.fingerprint(TEXT) == keyring.fingerprint(TEXT)
    with pytest.raises(BadConfiguration):
        keyring.open(rotated.seal(TEXT, owner=OWNER), key_id="k2", owner=OWNER)


def test_retired(keyring: Keyring) -> None:
    """A retired ring has the active key alone, and the next key's id is not one that was used before."""
    retired = keyring.rotated().rotated().retired()
    with pytest.raises(BadConfiguration):
        retired.open(keyring.seal(TEXT, owner=OWNER), key_id="k1", owner=OWNER)
    assert (retired.active_id, retired.rotated().active_id) == ("k3", "k4")


def test_own_ids() -> None:
    """A ring with ids of one's own choice can be rotated too."""
    assert Keyring(b"i" * 32, {"summer-2026": b"a" * 32}).rotated().active_id == "k1"


def test_repr(keyring: Keyring) -> None:
    """What is printed of a keyring holds no key."""
    assert repr(keyring) == "Keyring(active_id='k1', keys=1)"


def test_file(tmp_path: Path, guard_settings: GuardSettings) -> None:
    """A keyring is made where there is none, for its owner alone, and the same one is read ever after."""
    made = Keyring.load(guard_settings, create=True)
    path = guard_settings.keyring_path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [p.name for p in path.parent.iterdir()] == ["keyring.json"]
    assert Keyring.load(guard_settings, create=True).fingerprint(TEXT) == made.fingerprint(TEXT)


def test_not_made_unasked(guard_settings: GuardSettings) -> None:
    """Without a keyring nothing starts, and the error says what to do."""
    with pytest.raises(BadConfiguration, match="guard keyring create"):
        Keyring.load(guard_settings)
    assert not guard_settings.keyring_path.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o610])
def test_readable_by_others(guard_settings: GuardSettings, mode: int) -> None:
    """A keyring that anybody but its owner may touch is refused."""
    Keyring.load(guard_settings, create=True)
    guard_settings.keyring_path.chmod(mode)
    with pytest.raises(BadConfiguration, match="chmod 600"):
        Keyring.load(guard_settings)


def test_no_file(guard_settings: GuardSettings) -> None:
    """A keyring that cannot be read is a matter of configuration, not of luck."""
    guard_settings.keyring_path.mkdir(parents=True)
    with pytest.raises(BadConfiguration, match="cannot be read"):
        Keyring.load(guard_settings)


def test_second_writer_loses(keyring: Keyring, tmp_path: Path) -> None:
    """A keyring is never overwritten by accident: texts sealed under it would be lost."""
    path = tmp_path / "keyring.json"
    keyring.save(path, replace=False)
    with pytest.raises(FileExistsError):
        Keyring.generate().save(path, replace=False)
    assert Keyring.parse(path.read_bytes()).fingerprint(TEXT) == keyring.fingerprint(TEXT)
    assert len(list(tmp_path.iterdir())) == 1


def test_race_of_makers(guard_settings: GuardSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two processes that make the keyring at once, both go on with the one that was first."""
    first = Keyring.generate()
    generate = Keyring.generate

    def late() -> Keyring:
        first.save(guard_settings.keyring_path, replace=False)
        return generate()

    monkeypatch.setattr(Keyring, "generate", late)
    assert Keyring.load(guard_settings, create=True).fingerprint(TEXT) == first.fingerprint(TEXT)


def test_setting_wins(guard_settings: GuardSettings, keyring: Keyring, tmp_path: Path) -> None:
    """The keyring of GUARD_KEYRING is taken before any file, and no file is made."""
    content = _content(keyring, tmp_path / "elsewhere.json")
    settings = guard_settings.model_copy(update={"keyring": SecretStr(content)})
    assert Keyring.load(settings, create=True).fingerprint(TEXT) == keyring.fingerprint(TEXT)
    assert not settings.keyring_path.exists()


def test_variable(monkeypatch: pytest.MonkeyPatch, keyring: Keyring, tmp_path: Path) -> None:
    """GUARD_KEYRING in the environment is the keyring."""
    monkeypatch.setenv("GUARD_KEYRING", _content(keyring.rotated(), tmp_path / "keyring.json"))
    loaded = Keyring.load(GuardSettings())
    assert (loaded.active_id, loaded.fingerprint(TEXT)) == ("k2", keyring.fingerprint(TEXT))


def _ring(index: object, keys: object) -> str:
    return json.dumps({"index_key": index, "encryption_keys": keys})


KEY = base64.b64encode(b"s" * 32).decode()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "c3Nz",
        "[]",
        "{}",
        _ring(KEY, {}),
        _ring(KEY, {"k1": "c3Nz"}),
        _ring("c3Nz", {"k1": KEY}),
        _ring(KEY, {"k1": "not base64: s"}),
        _ring(KEY, {"k1": 7}),
        _ring(KEY, {"": KEY}),
        _ring(KEY, {"k1 of seventeen c": KEY}),
        _ring(KEY, {"k1": KEY})[:-1] + ', "more": 1}',
        b"\xff\xfe",
    ],
)
def test_unreadable(content: str | bytes) -> None:
    """What is no keyring is refused without repeating any of it."""
    with pytest.raises(BadConfiguration) as caught:
        Keyring.parse(content)
    assert "c3Nz" not in str(caught.value)
    assert "ssss" not in str(caught.value)
