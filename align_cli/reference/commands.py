"""The page of commands: what Typer knows of each, and the exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from align_cli.errors import ExitCode
from align_cli.report.tables import TextTable, markdown

INTRODUCTION = """# Every command

Made from the commands themselves by `make docs`; `align COMMAND --help` says the same. What is asked for goes to
standard output, talk to standard error. Keys to override stand behind the recipe: `method.beta=0.2`; values are YAML.

## Exit codes

{codes}

What each means for a run that is not finished stands in [reliability.md](reliability.md#exit-codes).
"""


def commands_page() -> str:
    """The page `docs/commands.md`."""
    codes = markdown(TextTable(["code", "a command ended so"], [[str(code.value), code.meaning] for code in ExitCode]))
    return "\n".join([INTRODUCTION.format(codes=codes), *_sections()])


def _sections() -> Iterator[str]:
    from typer.main import get_command

    from align_cli.cli.main import app

    for name, command in _leaves(get_command(app), "align"):
        context = command.make_context(name, [], resilient_parsing=True)
        arguments = [_argument(one) for one in command.params if one.param_type_name == "argument"]
        rows = [list(found) for one in command.params if (found := _row(one, context)) is not None]
        usage = " ".join([name, "[OPTIONS]", *arguments])
        said = markdown(TextTable(["argument or option", "what it is for"], rows))
        yield f"## `{name}`\n\n{command.help}\n\n```\n{usage}\n```\n\n{said}\n"


def _leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its whole name, in the order of `align --help`."""
    below = getattr(command, "commands", None)
    if below is None:
        yield name, command
        return
    if command.invoke_without_command and name != "align":
        yield name, command
    for one, each in below.items():
        yield from _leaves(each, f"{name} {one}")


def _row(one: Any, context: Any) -> tuple[str, str] | None:
    """An argument or option with what it is for; None for one that is hidden."""
    record = one.get_help_record(context)
    if record is None:
        return None
    name = _argument(one) if one.param_type_name == "argument" else " ".join(record[0].split())
    return f"`{name}`", " ".join(record[1].split())


def _argument(one: Any) -> str:
    name: str = one.metavar or one.name.upper()
    return name if one.required or name.startswith("[") else f"[{name}]"
