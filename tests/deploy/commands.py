"""Whether a command line, as a page or an image has it, is one that the installed programs would take."""

import importlib
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import typer.main


def check(words: Sequence[str]) -> None:
    """Parse a command line of `guard` or `learner` without running it.

    Raises:
        Exception: Typer's usage error, when there is no such command, option or choice.
    """
    (script,) = {e.value for e in metadata.entry_points(group="console_scripts", name=words[0])}
    app = importlib.import_module(script.partition(":")[0]).app
    command: Any = typer.main.get_command(app)
    name, arguments, context = words[0], list(words[1:]), None
    while True:
        context = command.make_context(name, arguments, parent=context)
        if not hasattr(command, "resolve_command"):
            return
        name, command, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
