"""`align chat`: talk to a round's policy, or to two side by side, and see them answer."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from align_cli.cli.complete import run_folders
from align_cli.cli.options import AsJson, Quiet, RoundName
from align_cli.cli.output import Output, Terminated, guarded
from align_cli.errors import DataError
from align_cli.seeds import derive_seed

if TYPE_CHECKING:
    from align_cli.engines.conversation import Conversation
    from align_cli.run.partners import Partners

RESET, QUIT = "/reset", "/quit"
COMMANDS = f"{RESET} begins anew, {QUIT} or Ctrl-D ends, Ctrl-C stops an answer"
AGAIN = "Ctrl-C again ends"


@guarded
def command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run's folder, a model's, or a Hub id.",
            show_default=False,
            autocompletion=run_folders,
        ),
    ],
    which: RoundName = None,
    beside: Annotated[
        str | None, typer.Option("--beside", metavar="N|initial", help="Another round, which answers too.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", min=0, help="In place of the recipe's; 0 takes the likeliest token."),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="Longest answer, in place of the recipe's.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="In place of the recipe's.")] = None,
    system: Annotated[str | None, typer.Option("--system", help="System prompt, in place of the recipe's.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Talk to the policy of a round. From a pipe, each line is a prompt of its own."""
    from align_cli.run.partners import Wishes, partners

    talk = Output(quiet=quiet)
    if as_json and sys.stdin.isatty():
        raise typer.BadParameter("--json answers prompts that come through a pipe, one a line")
    found = partners(name, which, beside, Wishes(temperature, max_new_tokens, seed, system), talk.note)
    if sys.stdin.isatty():
        _converse(talk, found)
    else:
        _answer_lines(talk, found, as_json)


def _answer_lines(talk: Output, found: Partners, as_json: bool) -> None:
    from align_cli.cli.streams import read_lines

    for number, line in enumerate(read_lines()):
        seed = derive_seed(found.seed, "chat", number)
        for conversation in found.conversations.values():
            conversation.reset()
        if as_json:
            answers = {title: one.answer(line, seed, lambda piece: None) for title, one in found.conversations.items()}
            talk.rows([{"prompt": line, "answers": answers}], "-")
        else:
            if len(found.conversations) > 1:
                talk.text(f"> {line}")
            _answer(talk, found.conversations, line, seed)


def _converse(talk: Output, found: Partners) -> None:
    """Until the end is asked for: by a command, by the end of the input, or by a second Ctrl-C in a row."""
    from align_cli.cli.streams import read_line

    conversations, turn, was_interrupted = found.conversations, 0, False
    if not all(one.chats for one in conversations.values()):
        talk.note("there is no chat template: each text is gone on with by itself")
    talk.note(f"{COMMANDS}; answers are cut at {found.max_new_tokens} tokens (--max-new-tokens)")
    while True:
        try:
            line = read_line("> ")
            was_interrupted = False
            if line is None or line.strip() == QUIT:
                return
            if line.strip() == RESET:
                for one in conversations.values():
                    one.reset()
                talk.note("begun anew")
            elif line.startswith("/") and line[1:].strip().isalpha():
                talk.note(f"there is no {line.strip()}: {COMMANDS}")
            elif line.strip():
                _answer(talk, conversations, line, derive_seed(found.seed, "chat", turn))
                turn += 1
        except KeyboardInterrupt as interrupt:
            if was_interrupted or isinstance(interrupt, Terminated):
                raise
            was_interrupted = True
            talk.note(f"\n{AGAIN}")
        except DataError as error:
            talk.warn(str(error))


def _answer(talk: Output, conversations: Mapping[str, Conversation], text: str, seed: int) -> None:
    """Everybody's answer to one turn, as it comes."""
    if (columns := talk.columns(list(conversations))) is not None:
        with columns:
            for number, conversation in enumerate(conversations.values()):
                conversation.answer(text, seed, partial(columns.add, number))
        return
    for title, conversation in conversations.items():
        if len(conversations) > 1:
            talk.text(f"{title}:")
        conversation.answer(text, seed, talk.piece)
        talk.piece("\n")
