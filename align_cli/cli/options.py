"""Arguments and options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from align_cli.cli import complete

RecipePath = Annotated[
    Path,
    typer.Argument(help="The recipe, a YAML file.", show_default=False, autocompletion=complete.recipe_files),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Keys to override, such as method.beta=0.2.",
        show_default=False,
        autocompletion=complete.overrides,
    ),
]
PolicyPath = Annotated[
    Path | None,
    typer.Option("--policy", help="A checkpoint or a model; the initial policy when left out.", show_default=False),
]
RunFolderPath = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="A run's folder: its output_dir.",
        show_default=False,
        autocompletion=complete.run_folders,
    ),
]
RoundName = Annotated[
    str | None,
    typer.Option(
        "--round", metavar="best|last|N", help="Which round's policy; the best if rounds were compared, else the last."
    ),
]
ForkOrigin = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="RUN@K",
        help="Begin with the rounds up to K of another run.",
        autocompletion=complete.run_folders,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but results, warnings and errors.")]
AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON.")]
InputPlace = Annotated[str, typer.Option("-i", "--input", metavar="FILE|-", help="Where to read; - is standard input.")]
OutputPlace = Annotated[
    str, typer.Option("-o", "--output", metavar="FILE|-", help="Where to write; - is standard output.")
]
