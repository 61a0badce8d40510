"""`guard …`: each command does its work and says so; what is wrong ends it with one line and status 1."""

import asyncio
import json
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from typer.testing import CliRunner, Result

from guard import cli
from guard.errors import LifeguardError
from guard.exports import Exports
from guard.passwords import is_password
from guard.settings import GuardSettings
from guard.store import Store, open_store
from guard.store.keys import digest
from guard.store.states import Role
from tests.guard.store.scenes import add, arrival, pooled
from tests.toys import publish_toy

Run = Callable[..., Result]
_T = TypeVar("_T")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process with everything it writes in a temporary folder."""
    monkeypatch.setenv("GUARD_DATA_DIR", str(tmp_path / "var"))
    monkeypatch.setenv("GUARD_EXPORTS_DIR", str(tmp_path / "exports"))
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(cli.app, list(arguments), input=stdin)

    return invoke


@pytest.fixture
def main(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command as the console script does, expect it to fail, and return what it says."""

    def fail(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["guard", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 1
        out, err = capsys.readouterr()
        assert out == ""
        return err

    return fail


@pytest.fixture
def exports(tmp_path: Path) -> Exports:
    """The exports that the commands see."""
    return Exports(tmp_path / "exports")


def _with_store(work: Callable[[Store], Awaitable[_T]]) -> _T:
    """Do something with the store that the commands see."""

    async def do() -> _T:
        async with open_store(GuardSettings(), create_keyring=True) as store:
            return await work(store)

    return asyncio.run(do())


def test_help_names_every_command(run: Run) -> None:
    """The help lists every command, each with what it does."""
    result = run("--help")
    assert result.exit_code == 0
    commands = ("serve", "check", "erase", "keys", "reviewers", "keyring", "messages", "models")
    assert all(name in result.output for name in commands)


# keys


def test_keys(run: Run) -> None:
    """A key is shown once when it is made, listed without its secret, and revoked by its name."""
    secret = run("keys", "create", "bot").output.strip()
    other = run("keys", "create", "ann", "--role", "reviewer").output.strip()
    assert secret.startswith("lg_")
    listed = run("keys", "list").output
    assert all(word in listed for word in ("bot", "client", "ann", "reviewer"))
    assert secret not in listed
    assert other not in listed
    assert run("keys", "revoke", "bot").output == "Revoked bot.\n"
    keys = _with_store(lambda store: store.keys.all())
    assert [(k.name, k.role, k.revoked_at is None) for k in keys] == [
        ("ann", Role.REVIEWER, True),
        ("bot", Role.CLIENT, False),
    ]
    assert [k.digest for k in keys] == [digest(other), digest(secret)]


@pytest.mark.parametrize("name", ["", " ", "x" * 65, "a\nb"])
def test_keys_without_a_proper_name(main: Callable[..., str], name: str) -> None:
    """A key needs a name that can be shown."""
    assert "name" in main("keys", "create", name)


def test_name_that_is_taken(run: Run, main: Callable[..., str]) -> None:
    """A name stands for one key for ever, revoked or not."""
    run("keys", "create", "bot")
    assert main("keys", "create", "bot").startswith("Conflict: There is a key named 'bot' already")
    run("keys", "revoke", "bot")
    assert "already" in main("keys", "create", "bot")
    assert main("keys", "revoke", "bot").startswith("Not found: ")


def test_unknown_role(run: Run) -> None:
    """A role that does not exist is refused with the ones that do."""
    result = run("keys", "create", "bot", "--role", "root")
    assert result.exit_code == 2
    assert "reviewer" in result.output


# texts


def test_messages_out_and_in(run: Run, main: Callable[..., str], tmp_path: Path) -> None:
    """An export is its owner's alone and overwrites nothing; its import says what it did, or names the rows it refuses."""

    async def fill(store: Store) -> None:
        await add(store, arrival("=mine", "ada"), arrival("theirs", "ben"))

    _with_store(fill)
    file = tmp_path / "out.csv"
    assert run("messages", "export", str(file), "--format", "csv").output == f"Wrote 2 messages to {file}.\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert main("messages", "export", str(file)).startswith("Invalid request: ")
    dry = run("messages", "import", str(file), "--format", "csv", "--dry-run")
    assert dry.output.startswith("Would import 0 messages and 0 labels; there already: 2 and 0;")
    file.write_text(file.read_text().replace("theirs,,", "theirs,self-harm,"))
    assert run("messages", "import", str(file), "--format", "csv").output.startswith(
        "Imported 0 messages and 1 labels;"
    )
    file.write_text("text,label\ncanary,wrong\n")
    refused = main("messages", "import", str(file), "--format", "csv")
    assert refused.startswith("Row 1: a label is none of self-harm")
    assert refused.endswith(f"Invalid request: 1 rows of {file} cannot be taken: nothing was imported.\n")
    assert "canary" not in refused
    file.write_bytes(b"\xff")
    assert "UTF-8" in main("messages", "import", str(file))
    assert main("messages", "import", str(tmp_path / "none")).startswith("Invalid request: ")


def test_erase(run: Run) -> None:
    """Erasing takes away what a user sent, and says how much that was."""

    async def fill(store: Store) -> None:
        await add(store, arrival("mine", "ada"), arrival("mine too", "ada"), arrival("theirs", "ben"))

    _with_store(fill)
    assert run("erase", "--user", "ada").output.startswith("Erased 2 messages")
    assert run("erase", "--user", "ada").output.startswith("Erased 0 messages")
    assert [t.text for t in _with_store(pooled)] == ["theirs"]


def test_keyring_is_its_owners(run: Run, tmp_path: Path) -> None:
    """The keyring's file is made for its owner alone; making it again changes nothing."""
    file = tmp_path / "var" / "keyring.json"
    assert str(file) in run("keyring", "create").output
    content = file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    run("keyring", "create")
    assert file.read_bytes() == content


def test_keyring_rotation(run: Run, tmp_path: Path) -> None:
    """After a rotation every text opens under the new key, and the old one is gone."""

    async def fill(store: Store) -> None:
        await add(store, arrival("one"), arrival("two"))

    _with_store(fill)
    before = json.loads((tmp_path / "var" / "keyring.json").read_bytes())
    assert run("keyring", "rotate").output == "Sealed 2 texts under k2; the older keys are gone.\n"
    after = json.loads((tmp_path / "var" / "keyring.json").read_bytes())
    assert list(after["encryption_keys"]) == ["k2"]
    assert after["index_key"] == before["index_key"]
    assert [t.text for t in _with_store(pooled)] == ["one", "two"]


def test_keyring_from_a_variable_does_not_rotate(main: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A keyring that comes from a variable cannot be rewritten: the command says what to do instead."""
    monkeypatch.setenv("GUARD_KEYRING", "canary")
    said = main("keyring", "rotate")
    assert "GUARD_KEYRING_FILE" in said
    assert "canary" not in said


# models


def test_models_list(run: Run, exports: Exports) -> None:
    """The versions are listed with the champion marked; without any there is an empty list."""
    assert run("models", "list").exit_code == 0
    publish_toy(exports)
    publish_toy(exports, parent="0001", promote=False)
    lines = run("models", "list").output.splitlines()
    assert "champion" in next(line for line in lines if "0001 " in line)
    assert "champion" not in next(line for line in lines if "0002 " in line)
    assert "50.0" in next(line for line in lines if "0002 " in line)


def test_models_show(run: Run, exports: Exports) -> None:
    """A version is shown by its manifest."""
    version = publish_toy(exports)
    assert json.loads(run("models", "show", version).output)["version"] == version


def test_models_shadow(run: Run, exports: Exports) -> None:
    """A version shadows the champion until none does."""
    for _ in range(2):
        publish_toy(exports, promote=not exports.versions())
    assert run("models", "shadow", "0002").output == "0002 shadows the champion.\n"
    assert [(line.split()[1:3]) for line in run("models", "list").output.splitlines() if "shadow" in line] == [
        ["0002", "│"]
    ]
    assert exports.shadow() == "0002"
    assert run("models", "shadow").output == "No version shadows the champion.\n"
    assert exports.shadow() is None


def test_models_promote_and_rollback(run: Run, exports: Exports) -> None:
    """The champion is named by hand, and taken back by hand, each with a reason that is kept."""
    publish_toy(exports)
    publish_toy(exports, promote=False)
    assert run("models", "promote", "0002", "--reason", "better").output == "The champion is 0002; it was 0001.\n"
    assert run("models", "rollback", "--reason", "worse").output == "The champion is 0001 again; it was 0002.\n"
    assert [(p.version, p.by, p.reason) for p in exports.promotions()][1:] == [
        ("0002", "cli", "better"),
        ("0001", "cli", "worse"),
    ]
    assert run("models", "promote", "0002").exit_code == 2


def test_models_that_cannot_serve(run: Run, main: Callable[..., str], exports: Exports) -> None:
    """A version that is not there, or is broken, is neither shown nor promoted."""
    publish_toy(exports)
    (exports.path(publish_toy(exports, promote=False)) / "model.onnx").write_bytes(b"")
    for version, said in (("0009", "Not found: "), ("0002", "Broken export: ")):
        assert main("models", "show", version).startswith(said)
        assert main("models", "promote", version, "--reason", "x").startswith(said)
    assert exports.champion() == "0001"


def test_nothing_to_roll_back_to(main: Callable[..., str], exports: Exports) -> None:
    """Without a champion before this one there is no going back."""
    publish_toy(exports)
    assert main("models", "rollback", "--reason", "x").startswith("Not found: ")


# settings


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("GUARD_PORT", "canary", "GUARD_PORT: Input should be a valid integer"),
        ("GUARD_PORT", "70000", "GUARD_PORT: Input should be less than or equal to 65535"),
        ("GUARD_AUDIT_RATE", "2", "GUARD_AUDIT_RATE: "),
        ("GUARD_PROVIDER", "canary", "GUARD_PROVIDER: "),
        ("GUARD_ACTIONS", "canary", "actions"),
        ("GUARD_ACTIONS", '{"self-harm": "canary"}', "GUARD_ACTIONS: "),
        ("GUARD_ACTIONS", '{"canary": "allow"}', "GUARD_ACTIONS: "),
        ("GUARD_DATABASE_URL", "canary", "GUARD_DATABASE_URL"),
        ("GUARD_DATABASE_URL", "mysql://root:canary@localhost/x", "GUARD_DATABASE_URL"),
        ("GUARD_KEYRING", "canary", "keyring"),
    ],
)
def test_settings_that_cannot_be(
    main: Callable[..., str], monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    """A value that cannot work is refused in one line that names the variable and never repeats the value."""
    monkeypatch.setenv(variable, value)
    line = main("keys", "list")
    assert line.startswith("Bad configuration: ")
    assert said in line
    assert line.count("\n") == 1
    assert "canary" not in line


def test_our_errors_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of our own ends a command in one line; any other is a fault to be seen."""

    def fail(error: Exception) -> None:
        raise error

    monkeypatch.setattr("sys.argv", ["guard", "models", "list"])
    monkeypatch.setattr(Exports, "champion", lambda _: fail(LifeguardError("said")))
    with pytest.raises(SystemExit):
        cli.main()
    monkeypatch.setattr(Exports, "champion", lambda _: fail(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main()


# reviewers


def test_reviewers(run: Run) -> None:
    """An account is made with a password from standard input, listed without it, given another one, and revoked."""
    assert run("reviewers", "add", "ann", stdin="correct horse\n").output == "Added ann.\n"
    assert run("reviewers", "add", "ben", "--admin", stdin="battery staple").output == "Added ben.\n"
    listed = run("reviewers", "list").output
    assert all(word in listed for word in ("ann", "reviewer", "ben", "admin"))
    assert "argon2" not in listed
    ann, ben = _with_store(lambda store: store.reviewers.all())
    assert (ann.role, ben.role) == (Role.REVIEWER, Role.ADMIN)
    assert is_password("correct horse", ann.password_hash)
    assert is_password("battery staple", ben.password_hash)
    assert run("reviewers", "password", "ann", stdin="another password\n").output == "ann has another password.\n"
    assert run("reviewers", "revoke", "ben").output == "Revoked ben.\n"
    ann, ben = _with_store(lambda store: store.reviewers.all())
    assert is_password("another password", ann.password_hash)
    assert ben.revoked_at is not None


def test_reviewer_without_a_password(run: Run) -> None:
    """Without a password nothing is made, and no password stands among the arguments."""
    for stdin in ("", "\n", "short\n"):
        result = run("reviewers", "add", "ann", stdin=stdin)
        assert isinstance(result.exception, LifeguardError)
        assert "12 to 256 characters" in str(result.exception)
    assert _with_store(lambda store: store.reviewers.all()) == []
    assert run("reviewers", "add", "ann", "--password", "correct horse").exit_code == 2
