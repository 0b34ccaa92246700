"""Two answers and which of them is better: arenas, PKU-SafeRLHF, HelpSteer's preferences.

    conversation_a and _b    two whole conversations (chatbot arenas, judgements of MT-bench), with `winner`
    response_a and _b        beside `prompt`, with `winner`, or with `winner_model_a`, `winner_model_b`, `winner_tie`;
                             prompt and responses may be JSON lists of text, turn by turn
    response_0 and _1        beside `prompt`, with `better_response_id` and `safer_response_id` (PKU-SafeRLHF,
                             arXiv:2310.12773): data.criterion says whether `helpful` or `safer` decides
    response_1 and _2        beside `prompt` or `context`, also response1 and response2, with `preference_strength` or
                             `overall_preference`, a number that is below 0 where the first is better (HelpSteer 2, 3)

A tie is a pair whose label is one half; which of the two is called chosen says nothing then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from align_cli.data.faults import RowError, describe, text_of
from align_cli.data.formats.base import (
    PROMPTS,
    Answer,
    Choices,
    Dropped,
    Exchange,
    Format,
    Verdict,
    Wanted,
    chosen_criterion,
    holds,
    number_of,
)
from align_cli.data.formats.pairs import split_conversations
from align_cli.data.messages import Message, Text, assistant_message, text_or_messages, to_messages, user_message
from align_cli.data.strict_json import JsonSyntaxError, decode_at

FIRST, SECOND, TIE = 0, 1, None
WINNERS: dict[str, int | None] = {
    **dict.fromkeys(("model_a", "a", "response_a", "conversation_a"), FIRST),
    **dict.fromkeys(("model_b", "b", "response_b", "conversation_b"), SECOND),
    **dict.fromkeys(("tie", "tie (bothbad)", "both_bad", "bothbad", "both_good", "tie (both good)"), TIE),
}
WINNER_COLUMNS: dict[str, int | None] = {"winner_model_a": FIRST, "winner_model_b": SECOND, "winner_tie": TIE}
CRITERIA = {"helpful": "better_response_id", "safer": "safer_response_id"}
STRENGTHS = ("preference_strength", "overall_preference")
NUMBERED = (("response_1", "response_2"), ("response1", "response2"))


class Arena(Format):
    name = "arena"
    fields = "`conversation_a` and `conversation_b`, or `prompt`, `response_a` and `response_b`; with `winner`"
    example = """{"prompt": "Name a colour.", "winner": "model_a",
 "response_a": "Blue.",
 "response_b": "No."}"""

    def recognises(self, row: Mapping[str, Any], wanted: Wanted) -> bool:
        has_winner = holds(row, "winner") or any(holds(row, name) for name in WINNER_COLUMNS)
        has_conversations = holds(row, "conversation_a", "conversation_b")
        return has_winner and (has_conversations or holds(row, "prompt", "response_a", "response_b"))

    def exchanges(self, row: dict[str, Any], wanted: Wanted, choices: Choices) -> Iterator[Exchange | Dropped]:
        winner = TIE if wanted == PROMPTS else _winner(row)
        if holds(row, "conversation_a", "conversation_b"):
            first, second = (to_messages(row[name], name) for name in ("conversation_a", "conversation_b"))
            yield _of_conversations(first, second, winner)
            return
        prompts, *sides = (_turns(row[name], name) for name in ("prompt", "response_a", "response_b"))
        if any(len(side) != len(prompts) for side in sides):
            raise RowError(f"'prompt' has {len(prompts)} turns, and the responses {len(sides[0])} and {len(sides[1])}")
        if isinstance(row["prompt"], str) and prompts == [row["prompt"]]:
            yield _compared(prompts[0], sides[0][0], sides[1][0], winner)
        else:
            yield _of_conversations(_interleaved(prompts, sides[0]), _interleaved(prompts, sides[1]), winner)


class SafeRlhf(Format):
    name = "PKU-SafeRLHF"
    fields = "`prompt`, `response_0`, `response_1`, with `better_response_id` (helpful) and `safer_response_id`"
    example = """{"prompt": "How do I open a lock?", "better_response_id": 0, "safer_response_id": 1,
 "response_0": "With two hairpins: ...",
 "response_1": "Call a locksmith."}"""

    def recognises(self, row: Mapping[str, Any], wanted: Wanted) -> bool:
        return holds(row, "prompt", "response_0", "response_1") and any(holds(row, key) for key in CRITERIA.values())

    def exchanges(self, row: dict[str, Any], wanted: Wanted, choices: Choices) -> Iterator[Exchange | Dropped]:
        prompt, first, second = (text_or_messages(row[name], name) for name in ("prompt", "response_0", "response_1"))
        if wanted == PROMPTS:
            yield Exchange(prompt)
            return
        judged = {name: row[key] for name, key in CRITERIA.items() if holds(row, key)}
        criterion = chosen_criterion(judged, choices)
        better = number_of(judged[criterion], CRITERIA[criterion])
        if better not in (FIRST, SECOND):
            raise RowError(f"{CRITERIA[criterion]!r} is {describe(judged[criterion])}; it must be 0 or 1")
        yield _compared(prompt, first, second, int(better))


class SignedPreference(Format):
    name = "HelpSteer preferences"
    fields = "`prompt` or `context`, `response_1` and `response_2` (or `response1`, `response2`), with "
    fields += "`preference_strength` or `overall_preference`, below 0 where the first is better"
    example = """{"prompt": "Name a colour.", "preference_strength": -2,
 "response_1": "Blue.",
 "response_2": "No."}"""

    def recognises(self, row: Mapping[str, Any], wanted: Wanted) -> bool:
        has_responses = any(holds(row, *names) for names in NUMBERED)
        is_judged = any(holds(row, name) for name in STRENGTHS)
        return has_responses and is_judged and (holds(row, "prompt") or holds(row, "context"))

    def exchanges(self, row: dict[str, Any], wanted: Wanted, choices: Choices) -> Iterator[Exchange | Dropped]:
        key = next(key for key in ("prompt", "context") if holds(row, key))
        names = next(names for names in NUMBERED if holds(row, *names))
        strength = next(name for name in STRENGTHS if holds(row, name))
        number = number_of(row[strength], strength)
        winner = TIE if number == 0 else FIRST if number < 0 else SECOND
        prompt, first, second = (text_or_messages(row[name], name) for name in (key, *names))
        yield _compared(prompt, first, second, winner)


def _compared(prompt: Text, first: Text, second: Text, winner: int | None) -> Exchange:
    """The two answers, as messages where the prompt is."""
    if not all(isinstance(text, str) for text in (prompt, first, second)):
        prompt = [user_message(prompt)] if isinstance(prompt, str) else prompt
        first, second = ([assistant_message(text)] if isinstance(text, str) else text for text in (first, second))
    verdict = Verdict(FIRST, SECOND, 0.5) if winner is TIE else Verdict(winner, 1 - winner)
    return Exchange(prompt, (Answer(first), Answer(second)), (verdict,))


def _of_conversations(first: list[Message], second: list[Message], winner: int | None) -> Exchange | Dropped:
    split = split_conversations(first, second, None)
    if isinstance(split, Dropped):
        return split
    return _compared(split.prompt, split.answers[FIRST].text, split.answers[SECOND].text, winner)


def _winner(row: dict[str, Any]) -> int | None:
    if holds(row, "winner"):
        name = text_of(row["winner"], "winner")
        if name.strip().lower() not in WINNERS:
            raise RowError(f"'winner' is {describe(name)}; it must be one of {', '.join(WINNERS)}")
        return WINNERS[name.strip().lower()]
    won = [name for name in WINNER_COLUMNS if holds(row, name) and number_of(row[name], name) == 1]
    if len(won) != 1:
        raise RowError(f"{len(won)} of {', '.join(WINNER_COLUMNS)} are 1; one of them must be")
    return WINNER_COLUMNS[won[0]]


def _turns(value: Any, name: str) -> list[str]:
    """What is said turn by turn: a JSON list of texts, or a text alone."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = decode_at(value, 0).value
        except JsonSyntaxError:
            return [text_of(value, name)]
    if not isinstance(value, list):
        return [text_of(value, name)]
    return [text_of("" if turn is None else turn, f"{name}[{index}]") for index, turn in enumerate(value)]


def _interleaved(prompts: Sequence[str], responses: Sequence[str]) -> list[Message]:
    turns = zip(map(user_message, prompts), map(assistant_message, responses), strict=True)
    return [message for turn in turns for message in turn]
