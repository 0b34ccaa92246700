"""`align samples`: held-out prompts and what the policies of a run's rounds answered, in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from align_cli.cli.options import AsJson, RunFolderPath
from align_cli.cli.output import Output, guarded
from align_cli.errors import RunError, counted

if TYPE_CHECKING:
    from align_cli.artifacts.records import Completion
    from align_cli.report.samples import Answers

MODES = ("all", "changed", "gain", "loss", "longest", "unfinished")
ALL = "all"


@guarded
def command(
    run: RunFolderPath,
    rounds: Annotated[
        str | None,
        typer.Option(
            "--rounds",
            metavar="N,N|all",
            help="Which rounds; the first and the last when left out.",
            show_default=False,
        ),
    ] = None,
    mode: Annotated[
        str, typer.Option(metavar="|".join(MODES), help="Which prompts, from the first of the rounds to the last.")
    ] = "all",
    search: Annotated[
        str, typer.Option(metavar="TEXT", help="What prompt or response must hold.", show_default=False)
    ] = "",
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="Prompts to show.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Show held-out prompts and what each round's policy answered."""
    from align_cli.report.samples import answers_of, chosen_answers
    from align_cli.run.chosen import open_run

    if mode not in MODES:
        raise typer.BadParameter(f"--mode is {mode!r}; it must be one of {', '.join(MODES)}")
    talk, results = Output(as_json=as_json), open_run(run)
    evaluated = [item.round for item in results.evaluations()]
    if not evaluated:
        raise RunError(
            "the run has no held-out responses yet",
            where=str(run),
            hint="a round leaves them when it is evaluated, which needs data.eval_prompts",
        )
    wanted = _rounds(rounds, evaluated, str(run))
    answers = answers_of({one: results.samples(one) for one in wanted})
    found = chosen_answers(answers, mode, search)
    if as_json:
        talk.data([_as_data(one) for one in found[:number]])
        return
    for one in found[:number]:
        for line in _lines(one):
            talk.text(line)
    shown = f"{min(number, len(found))} of {counted(len(found), 'prompt')}"
    talk.note(shown if len(found) == len(answers) else f"{shown} that --mode and --search leave, of {len(answers)}")


def _rounds(wanted: str | None, evaluated: Sequence[int], where: str) -> list[int]:
    """The rounds that are meant, of those that were evaluated.

    Raises:
        RunError: if one was not, or is no number.
    """
    if wanted == ALL:
        return list(evaluated)
    if wanted is None:
        return list(dict.fromkeys([evaluated[0], evaluated[-1]]))
    names = [name.strip() for name in wanted.split(",")]
    unknown = [name for name in names if not name.isdecimal() or int(name) not in evaluated]
    if unknown:
        there = ", ".join(map(str, evaluated))
        raise RunError(f"no evaluated round is {unknown[0]!r}", where=where, hint=f"there are {there}, and `{ALL}`")
    return list(dict.fromkeys(map(int, names)))


def _lines(answers: Answers) -> list[str]:
    from align_cli.report.samples import shown_text

    lines = [f"row {answers.row}: {shown_text(answers.prompt)}"]
    first = next(iter(answers.by_round.values()))
    for number, response in answers.by_round.items():
        text = shown_text(response.completion).strip().replace("\n", "\n    ")
        lines.append(f"  round {number} ({_facts(response, first)}): {text}")
    return [*lines, ""]


def _facts(response: Completion, first: Completion) -> str:
    facts = []
    for name, score in (response.scores or {}).items():
        before = (first.scores or {}).get(name)
        moved = "" if response is first or before is None else f", {score - before:+.3g}"
        facts.append(f"{name} {score:.3g}{moved}")
    facts.append(counted(response.num_tokens, "token"))
    return ", ".join(facts + ["unfinished"] * (response.finish_reason != "stop"))


def _as_data(answers: Answers) -> dict[str, Any]:
    return {
        "row": answers.row,
        "prompt": answers.prompt,
        "responses": [
            {
                "round": number,
                "completion": response.completion,
                "scores": response.scores,
                "num_tokens": response.num_tokens,
                "finish_reason": response.finish_reason,
                "logp": sum(response.logps),
            }
            for number, response in answers.by_round.items()
        ],
    }
