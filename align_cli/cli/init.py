"""`align init`: five questions, a look at the data, and a commented recipe that `align check` accepts.

Each question is an option too. At a terminal what no option says is asked; elsewhere it has the default that is told,
or ends in words where nobody could guess.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from align_cli.cli.complete import RECIPE_SUFFIXES, preset_names
from align_cli.cli.output import Output, guarded
from align_cli.errors import RecipeError

if TYPE_CHECKING:
    from align_cli.begin.answers import Answers
    from align_cli.begin.looked import Looked
    from align_cli.cli.questions import Questions

DEFAULT_PATH = Path("recipe.yaml")


@guarded
def command(
    path: Annotated[Path, typer.Argument(metavar="RECIPE", help="The new recipe.")] = DEFAULT_PATH,
    model: Annotated[
        str | None, typer.Option("--model", help="A folder, a Hub id, or playground.", show_default=False)
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="A file, a folder, a Hub id, or playground.", show_default=False)
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="KIND[=NAME]",
            help="Who says which answer is better: dataset, function=FILE.py:NAME, reward_model[=MODEL|run], "
            "judge[=MODEL@URL], policy, person.",
            show_default=False,
        ),
    ] = None,
    hardware: Annotated[
        str | None,
        typer.Option("--hardware", metavar="cpu|mps|24gb|8x80gb", help="What the run has.", show_default=False),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="PRESET",
            help="One of `align presets`.",
            show_default=False,
            autocompletion=preset_names,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Ask five questions, look at the data, and write a commented recipe."""
    from align_cli.artifacts.files import write_text
    from align_cli.begin.written import recipe_text
    from align_cli.cli.questions import Questions

    talk = Output()
    _check_place(path, force=force)
    answers, looked = _answers(Questions(talk), model, data, labels, hardware, method)
    text, notes = recipe_text(answers, looked, path)
    _check(text)
    write_text(path, text)
    for note in notes:
        talk.note(f"note: {note}")
    talk.note(f"{path}: {answers.method} on {answers.data}, labels: {answers.labels}. Next:")
    for arguments in (("check", str(path)), ("train", str(path), "--smoke"), ("train", str(path))):
        talk.text(f"  align {shlex.join(arguments)}")


def _check_place(path: Path, *, force: bool) -> None:
    if path.suffix not in RECIPE_SUFFIXES:
        raise RecipeError("a recipe's name ends in .yaml", where=str(path), hint=f"write {path.with_suffix('.yaml')}")
    if path.exists() and not force:
        hint = "name another one, or add --force to write over it"
        raise RecipeError("there is a file of this name already", where=str(path), hint=hint)


def _check(text: str) -> None:
    """What is written is sound, as far as it can be seen without the network.

    Raises:
        RecipeError: with its faults, such as a function's file that is not there.
    """
    import tempfile

    from align_cli.recipe import load_recipe

    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "recipe.yaml"
        draft.write_text(text, encoding="utf-8")
        try:
            load_recipe(draft)
        except RecipeError as error:  # of a file that is nowhere any more
            faults = [replace(fault, where=fault.key, snippet="", line=None, column=None) for fault in error.faults]
            raise RecipeError.of(faults) from None


def _answers(
    questions: Questions,
    model: str | None,
    data: str | None,
    labels: str | None,
    hardware: str | None,
    method: str | None,
) -> tuple[Answers, Looked]:
    """The five answers in the order of the questions, each checked as it is given, and what the data holds."""
    from align_cli.begin import answers as begin
    from align_cli.begin.labels import labelers_for
    from align_cli.begin.looked import look_at
    from align_cli.begin.methods import method_on, methods_for
    from align_cli.recipe.data_names import PLAYGROUND

    questions.begin()
    is_new = model is None and data is None
    model = questions.ask(
        "model", model, begin.read_model, default=PLAYGROUND if is_new or data == PLAYGROUND else None
    )
    data_default = PLAYGROUND if model == PLAYGROUND else None
    looked = questions.ask("data", data, lambda text: look_at(text.strip(), model), default=data_default)
    data = looked.data
    questions.tell(looked.told)
    who = questions.ask(
        "labels",
        labels,
        lambda text: begin.read_labels(text, data),
        default=begin.default_labels(data, has_pairs=looked.has_pairs),
    )
    where = questions.ask("hardware", hardware, begin.read_hardware, default=lambda: str(begin.hardware_here()))

    def fits(text: str) -> Answers:
        made = begin.Answers(model, data, who, where, begin.read_method(text))
        labelers_for(made, method_on(made.method, looked), looked)
        return made

    usual = begin.default_method(who, has_pairs=looked.has_pairs)
    default = usual if usual in methods_for(looked) else methods_for(looked)[0]
    if method is None:
        questions.tell([f"this data feeds {', '.join(methods_for(looked))}"], only_if_asked=True)
    return questions.ask("method", method, fits, default=default), looked
