"""`align data`: what a source of prompts, pairs or demonstrations holds, before anything is trained on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from align_cli.cli.options import AsJson, Quiet
from align_cli.cli.output import Output, check_output_place, guarded
from align_cli.errors import DataError

if TYPE_CHECKING:
    from align_cli.report.survey.figures import Survey
    from align_cli.report.survey.source import Source

USES = ("pairs", "demonstrations", "prompts")


@guarded
def command(
    source: Annotated[str, typer.Argument(help="A file, a folder or a Hub id.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Keys of data, such as data.criterion=helpful.", show_default=False
        ),
    ] = None,
    policy: Annotated[
        str | None, typer.Option("--policy", metavar="MODEL", help="Whose tokenizer and chat template read it.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Of a folder or a Hub dataset.")] = "train",
    use: Annotated[
        str | None, typer.Option("--for", metavar="|".join(USES), help="What to read it for, where it gives several.")
    ] = None,
    evaluation: Annotated[
        str | None, typer.Option("--eval", metavar="PROMPTS", help="Held-out prompts that should not be in it.")
    ] = None,
    num_examples: Annotated[int, typer.Option("--examples", min=0, help="Rows to show.")] = 3,
    as_json: AsJson = False,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE|-", help="Write the rows in TRL's format.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Show what a source of data holds: formats, counts, lengths, duplicates, ties, examples; loads no weights."""
    from align_cli.models.load import load_without_weights
    from align_cli.recipe import load_data_section
    from align_cli.report.survey.figures import survey_of
    from align_cli.report.survey.source import rows_left

    if use is not None and use not in USES:
        raise typer.BadParameter(f"--for is {use!r}; it must be one of {', '.join(USES)}")
    talk = Output(quiet=quiet, as_json=as_json)
    if output is not None:
        check_output_place(output)
    section = load_data_section(overrides or [])
    if policy is None and (section.max_prompt_tokens or section.max_completion_tokens):
        what = "data.max_prompt_tokens and data.max_completion_tokens count a policy's tokens"
        raise DataError(what, where=source, hint="name the policy whose tokens are meant: --policy MODEL")
    reader = load_without_weights(policy) if policy is not None else None
    held_out = _read(evaluation, "train", section, reader, "prompts") if evaluation is not None else None
    found = _read(source, split, section, reader, use)
    if output != "-":
        _show(talk, survey_of(found, reader, held_out, num_examples, section))
    if output is not None:
        left = found.rows if reader is None else rows_left(found, reader, section)
        talk.rows([_for_trl(row) for row in left], output)


def _read(name: str, split: str, section: Any, reader: Any, use: Any) -> Source:
    from align_cli.recipe.data_names import BUILT_IN_WORLDS
    from align_cli.report.survey.source import read_source

    if name in BUILT_IN_WORLDS:
        what = "this is a built-in world, which is made and not read"
        raise DataError(what, where=name, hint="name a file, a folder or a Hub id")
    return read_source(name, split, section, reader, use)


def _show(talk: Output, survey: Survey) -> None:
    from align_cli.report.survey.tables import (
        example_lines,
        figures_table,
        histogram_lines,
        lengths_table,
        limits_table,
    )

    if talk.as_json:
        talk.data(survey.to_dict())
        return
    talk.table(figures_table(survey))
    talk.table(lengths_table(survey))
    if survey.within:
        talk.table(limits_table(survey))
    for line in histogram_lines(survey):
        talk.text(line)
    for number, example in enumerate(survey.examples, start=1):
        talk.text("\n" + "\n".join(example_lines(example, number, survey.unit)))


def _for_trl(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row as TRL reads it: a demonstration that is a conversation as `messages`."""
    if "completion" not in row or isinstance(row["prompt"], str):
        return row
    others = {key: value for key, value in row.items() if key not in ("prompt", "completion")}
    return {"messages": [*row["prompt"], *row["completion"]], **others}
