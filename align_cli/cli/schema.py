"""`align schema`: a JSON Schema of recipes, by which editors complete keys, show what they are for, and mark faults."""

from __future__ import annotations

from typing import Annotated

import typer

from align_cli.cli.output import Output, check_output_place, guarded


@guarded
def command(
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE|-", help="Where to write; - is standard output.")
    ] = "-",
) -> None:
    """A JSON Schema of recipes for editors; `align schema -o align.schema.json` writes it beside yours."""
    from pathlib import Path

    from align_cli.artifacts.store import write_json
    from align_cli.recipe.json_schema import editor_line, recipe_schema

    talk, schema = Output(), recipe_schema()
    if output == "-":
        talk.data(schema)
        return
    check_output_place(output)
    write_json(Path(output), schema)
    talk.note(f"{output} is written; a recipe beside it begins with:")
    talk.note(editor_line(Path(output).name))
