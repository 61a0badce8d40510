"""`guard …`: serve, check, keys, reviewers, keyring, messages, models, erase. Wiring only; each command's work is done elsewhere."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from guard.errors import BadConfiguration, InputError, LifeguardError
from guard.exports import Exports
from guard.records import Format
from guard.settings import GuardSettings, read_settings
from guard.store import Store, open_store
from guard.store.keyring import Keyring
from guard.store.states import Role

if TYPE_CHECKING:
    from guard.client import Answer

app = typer.Typer(help="The guard: classify, review, operate.", no_args_is_help=True, pretty_exceptions_enable=False)
keys = typer.Typer(help="API keys.", no_args_is_help=True)
reviewers = typer.Typer(help="Accounts of the people who review.", no_args_is_help=True)
keyring = typer.Typer(help="The keys that seal the stored texts.", no_args_is_help=True)
messages = typer.Typer(help="Messages and labels, in and out.", no_args_is_help=True)
models = typer.Typer(help="Exported versions and the champion pointer.", no_args_is_help=True)
app.add_typer(keys, name="keys")
app.add_typer(reviewers, name="reviewers")
app.add_typer(keyring, name="keyring")
app.add_typer(messages, name="messages")
app.add_typer(models, name="models")

MAX_COMPLAINTS: Final = 100  # rows of a file that are named; the others are counted

_T = TypeVar("_T")
Kind = Annotated[Format, typer.Option("--format", help="The kind of file.")]
Reason = Annotated[str, typer.Option(help="Why, in words; it is kept.")]


def _with_store(work: Callable[[Store], Awaitable[_T]]) -> _T:
    async def run() -> _T:
        async with open_store(read_settings(GuardSettings), create_keyring=True) as store:
            return await work(store)

    return asyncio.run(run())


@app.command()
def serve() -> None:
    """Serve, with the learner beside it unless GUARD_LEARNER=false."""
    from guard import server

    server.serve(read_settings(GuardSettings))


@app.command()
def check(
    text: Annotated[str, typer.Argument(help="A message, or - for one a line from standard input.")],
    *,
    url: Annotated[str | None, typer.Option(help="The guard to ask, if not that of GUARD_URL.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer a message as JSON too, as lines always are.")] = False,
) -> None:
    """Judge a message, or each line of standard input; nothing of them is kept.

    The guard at --url or GUARD_URL judges, with the key in GUARD_API_KEY; without one, the champion in GUARD_EXPORTS_DIR.

    Exit status: 0 nothing flagged, 1 something flagged, 2 not all judged.
    """
    from guard import check as checking

    lines = text == "-"

    def write(number: int, answer: "Answer") -> None:
        typer.echo(checking.in_json(number, answer) if lines or as_json else checking.in_words(answer))

    try:
        settings = read_settings(GuardSettings)
        address = url or settings.url
        judging = checking.served(address, settings.api_key) if address else checking.local(settings)
        with judging as judge, checking.followed(sys.stdin.buffer) if lines else nullcontext([[(1, text)]]) as groups:
            status = checking.check(judge, groups, write)
    except LifeguardError as error:
        _say(error)
        status = checking.FAILED
    raise typer.Exit(status)


@app.command()
def erase(user: Annotated[str, typer.Option(help="The user's id, as the chatbot sent it.")]) -> None:
    """Erase what a user sent: messages, labels, variations. Trained models forget with the next training."""
    erased = _with_store(lambda store: store.pool.erase_user(user))
    typer.echo(f"Erased {erased} messages with their labels and variations.")


@keys.command("create")
def create_key(name: str, role: Annotated[Role, typer.Option()] = Role.CLIENT) -> None:
    """Make a key and print it, this once."""
    secret = _with_store(lambda store: store.keys.create(name, role))
    typer.echo(secret)


@keys.command("list")
def list_keys() -> None:
    """List the keys, never their secrets."""
    table = Table("name", "role", "created", "revoked")
    for key in _with_store(lambda store: store.keys.all()):
        revoked = f"{key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else ""
        table.add_row(key.name, key.role, f"{key.created_at:%Y-%m-%d %H:%M}", revoked)
    Console().print(table)


@keys.command("revoke")
def revoke_key(name: str) -> None:
    """Revoke a key; a running guard refuses it within seconds."""
    _with_store(lambda store: store.keys.revoke(name))
    typer.echo(f"Revoked {name}.")


@reviewers.command("add")
def add_reviewer(
    name: str,
    *,
    admin: Annotated[bool, typer.Option("--admin", help="May also do what clients and admins do.")] = False,
) -> None:
    """Make an account; the password is asked for, or read from the first line of standard input."""
    password_hash = _new_password(name)
    role = Role.ADMIN if admin else Role.REVIEWER
    _with_store(lambda store: store.reviewers.add(name, role, password_hash))
    typer.echo(f"Added {name}.")


@reviewers.command("list")
def list_reviewers() -> None:
    """List the accounts."""
    table = Table("name", "role", "created", "revoked")
    for reviewer in _with_store(lambda store: store.reviewers.all()):
        revoked = f"{reviewer.revoked_at:%Y-%m-%d %H:%M}" if reviewer.revoked_at else ""
        table.add_row(reviewer.name, reviewer.role, f"{reviewer.created_at:%Y-%m-%d %H:%M}", revoked)
    Console().print(table)


@reviewers.command("revoke")
def revoke_reviewer(name: str) -> None:
    """Revoke an account for good and log it out; what it decided stays."""
    _with_store(lambda store: store.reviewers.revoke(name))
    typer.echo(f"Revoked {name}.")


@reviewers.command("password")
def reset_password(name: str) -> None:
    """Give an account another password, asked for as by `add`, and log it out."""
    password_hash = _new_password(name)
    _with_store(lambda store: store.reviewers.set_password(name, password_hash))
    typer.echo(f"{name} has another password.")


def _new_password(name: str) -> str:
    """Ask for a password, which never stands in an argument that others could read, and return its hash."""
    from guard.passwords import hash_password

    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    return hash_password(password, name=name)


@keyring.command("create")
def create_keyring() -> None:
    """Make the keyring's file, readable by its owner alone, where there is none."""
    settings = read_settings(GuardSettings)
    ring = Keyring.load(settings, create=True)
    typer.echo(f"The keyring is at {settings.keyring_path}; its active key is {ring.active_id}.")


@keyring.command("rotate")
def rotate_keyring() -> None:
    """Seal every stored text under a new key. Stop the guard and the learner first; start them again afterwards."""
    settings = read_settings(GuardSettings)
    if settings.keyring is not None:
        raise BadConfiguration(
            "The keyring comes from GUARD_KEYRING: put it into a file and set GUARD_KEYRING_FILE instead."
        )
    fresh = Keyring.load(settings).rotated()
    fresh.save(settings.keyring_path, replace=True)  # both keys are on disk before the first text is sealed anew

    async def rotate() -> int:
        async with open_store(settings) as store:
            return await store.rotate(fresh)

    count = asyncio.run(rotate())
    fresh.retired().save(settings.keyring_path, replace=True)
    typer.echo(f"Sealed {count} texts under {fresh.active_id}; the older keys are gone.")


@messages.command("export")
def export_messages(
    file: Annotated[Path, typer.Argument(help="Written for its owner alone; there must be none of this name yet.")],
    kind: Kind = Format.JSONL,
    *,
    labelled: Annotated[bool, typer.Option("--labelled", help="Only messages that have a label.")] = False,
) -> None:
    """Write the stored messages, opened, with their verdicts and labels. Whoever has the file reads what people wrote."""
    from guard import exchange

    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise InputError(f"{file} cannot be written ({type(error).__name__}): name a file that is not there.") from None
    with open(descriptor, "w", encoding="utf-8", errors="replace", newline="") as stream:  # noqa: PTH123 - a descriptor
        number = _with_store(lambda store: exchange.export(store, kind, stream, labelled=labelled))
    typer.echo(f"Wrote {number} messages to {file}.")


@messages.command("import")
def import_messages(
    file: Path,
    kind: Kind = Format.JSONL,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and keep nothing.")] = False,
) -> None:
    """Add messages to the pool, and labels to messages: the whole file, or nothing where a row cannot be taken.

    A row names its message by the text, or without one by the id. What is there already is passed over, so that a file
    may be imported again. Texts without a verdict are judged by the champion. Stop nothing for it, but expect labels and
    the pool to wait while it writes.
    """
    from guard import exchange

    settings = read_settings(GuardSettings)
    bad = 0

    def complain(number: int, why: str) -> None:
        nonlocal bad
        bad += 1
        if bad <= MAX_COMPLAINTS:
            typer.echo(f"Row {number}: {why}.", err=True)

    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            done = _with_store(
                lambda store: exchange.bring(store, settings, kind, stream, complain=complain, keep=not dry_run)
            )
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as UTF-8 text ({type(error).__name__}).") from None
    if bad:
        raise InputError(f"{bad} rows of {file} cannot be taken: nothing was imported.")
    typer.echo(
        f"{'Would import' if dry_run else 'Imported'} {done.messages} messages and {done.labels} labels; "
        f"there already: {done.known} and {done.labels_known}; past their retention or erased: {done.expired}."
    )


@models.command("list")
def list_models() -> None:
    """List the exported versions."""
    exports = Exports(read_settings(GuardSettings).exports_dir)
    roles = {exports.shadow(): "shadow", exports.champion(): "champion"}
    table = Table("version", "", "parent", "created", "backbone", "macro-F1")
    for version in exports.versions():
        manifest = exports.manifest(version)
        score = manifest.metrics.get("macro_f1")
        table.add_row(
            version,
            roles.get(version, ""),
            manifest.parent or "",
            f"{manifest.created_at:%Y-%m-%d %H:%M}",
            manifest.backbone,
            "" if score is None else f"{100 * score:.1f}",
        )
    Console().print(table)


@models.command("show")
def show_model(version: str) -> None:
    """Print a version's manifest and check its files."""
    import msgspec

    manifest = Exports(read_settings(GuardSettings).exports_dir).verify(version)
    typer.echo(msgspec.json.format(msgspec.json.encode(manifest)))


@models.command("promote")
def promote_model(version: str, reason: Reason) -> None:
    """Make a version the champion, whatever the gate said."""
    promotion = Exports(read_settings(GuardSettings).exports_dir).promote(version, by="cli", reason=reason)
    typer.echo(f"The champion is {promotion.version}; it was {promotion.previous or 'none'}.")


@models.command("shadow")
def shadow_model(
    version: Annotated[str | None, typer.Argument(help="Without one, none shadows the champion any more.")] = None,
) -> None:
    """Have a version judge GUARD_SHADOW_SHARE of the traffic beside the champion; callers see nothing of it."""
    Exports(read_settings(GuardSettings).exports_dir).set_shadow(version)
    typer.echo(f"{version} shadows the champion." if version else "No version shadows the champion.")


@models.command("rollback")
def rollback_model(reason: Reason) -> None:
    """Go back to the champion before this one."""
    promotion = Exports(read_settings(GuardSettings).exports_dir).rollback(by="cli", reason=reason)
    typer.echo(f"The champion is {promotion.version} again; it was {promotion.previous}.")


def execute(program: typer.Typer) -> None:
    """Run a command of a program; one of our own errors ends it with one line and the exit status 1."""
    try:
        program()
    except LifeguardError as error:
        _say(error)
        sys.exit(1)


def _say(error: LifeguardError) -> None:
    typer.echo(f"{error.title}: {error.detail}", err=True)


def main() -> None:
    """Run `guard …`."""
    execute(app)


if __name__ == "__main__":
    main()
