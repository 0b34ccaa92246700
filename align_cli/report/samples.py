"""A run's held-out responses as columns: each prompt once, each response once, so that thousands fit one page.

Where there are too many for a page, some prompts are shown: those whose score has risen or fallen most, and the first
of the order in which they were drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from align_cli.artifacts.json_text import to_json
from align_cli.artifacts.records import Completion, Text

MOST_SAMPLES = 6_000
MOST_CHARS = 6_000_000
MOST_TOKENS = 500_000
"""Whose ids and log-probabilities are shown one by one."""
MOST_ROUNDS = 250
UNITS_PER_NAT = 100
"""Log-probabilities are kept in hundredths of a nat, as whole numbers."""

Key = tuple[int, int]
"""Row of a prompt in its data set, and which of its samples."""


class Answers(NamedTuple):
    """What the policies of several rounds answered to one prompt.

    Args:
        row: of the prompt in its data set.
        prompt: as the data set has it.
        by_round: the responses, in the order of the rounds.
    """

    row: int
    prompt: Text
    by_round: dict[int, Completion]

    @property
    def before(self) -> Completion:
        """The first round's response."""
        return self.by_round[min(self.by_round)]

    @property
    def after(self) -> Completion:
        """The last round's."""
        return self.by_round[max(self.by_round)]

    @property
    def gain(self) -> float:
        """How much the first scorer's score has risen from the first round to the last; 0 where one lacks."""
        return _gain(self.before, self.after) or 0.0


class _Kept(NamedTuple):
    rounds: list[int]
    keys: list[Key]
    by_round: dict[int, dict[Key, Completion]]


def sample_columns(
    samples: Mapping[int, Sequence[Completion]],
    chosen: int | None,
    token: Callable[[int], str] | None,
    num_runs: int = 1,
) -> dict[str, Any] | None:
    """The responses of all rounds to the same prompts.

    Args:
        samples: by round.
        chosen: a round that is shown whatever is left out.
        token: the text of a token id; None shows ids alone.
        num_runs: that share the page's room.

    Returns:
        `prompts` and `rows` (in their data set), one each; `num_prompts` and `num_rounds` that there are; by scorer
        its name in `scorers`; `tokens` (text by id); and for each of `rounds` in `by_round` its columns, as long as
        `prompts`, with None where a round has no such response: `texts`, `finished`, `num_tokens`, `scores` by scorer,
        `ids`, and `logps` in hundredths of a nat. None where no round has any.
    """
    kept = _kept({number: rows for number, rows in samples.items() if rows}, chosen, num_runs)
    if not kept.keys:
        return None
    detailed = _detailed(kept, MOST_TOKENS // num_runs)
    responses = [one for number in kept.rounds for one in kept.by_round[number].values()]
    scorers = list(dict.fromkeys(name for one in responses for name in one.scores or {}))
    prompts = {key: one.prompt for found in kept.by_round.values() for key, one in found.items()}
    columns = [_columns(kept.by_round[number], kept.keys, scorers, detailed) for number in kept.rounds]
    used = sorted({one for column in columns for ids in column["ids"] for one in ids or ()})
    return {
        "num_prompts": len({_key(one) for rows in samples.values() for one in rows}),
        "num_rounds": len(samples),
        "prompts": [shown_text(prompts[key]) for key in kept.keys],
        "rows": [key[0] for key in kept.keys],
        "scorers": scorers,
        "tokens": {} if token is None else {str(one): token(one) for one in used},
        "rounds": kept.rounds,
        "by_round": columns,
    }


def answers_of(samples: Mapping[int, Sequence[Completion]]) -> list[Answers]:
    """The responses by prompt, in the order in which prompts were drawn."""
    found: dict[Key, Answers] = {}
    for number, rows in samples.items():
        for one in rows:
            found.setdefault(_key(one), Answers(one.prompt_index, one.prompt, {})).by_round[number] = one
    return list(found.values())


def chosen_answers(answers: Sequence[Answers], mode: str, search: str = "") -> list[Answers]:
    """Some of the prompts, by what became of their responses from the first round to the last.

    Args:
        answers: by prompt.
        mode: `all`; `changed` texts; `gain` and `loss` of the first scorer's score, the biggest first; `longest` first;
            `unfinished`.
        search: what a prompt or one of its responses must hold, in capitals or not.
    """
    found = [one for one in answers if search.lower() in _all_text(one).lower()]
    if mode in ("gain", "loss"):
        sign = 1 if mode == "gain" else -1
        return sorted((one for one in found if sign * one.gain > 0), key=lambda one: -sign * one.gain)
    if mode == "longest":
        return sorted(found, key=lambda one: -one.after.num_tokens)
    kept: dict[str, Callable[[Answers], bool]] = {
        "changed": lambda one: one.before.completion != one.after.completion,
        "unfinished": lambda one: one.after.finish_reason != "stop",
    }
    return [one for one in found if mode not in kept or kept[mode](one)]


def _all_text(answers: Answers) -> str:
    return "\n".join(map(shown_text, [answers.prompt, *(one.completion for one in answers.by_round.values())]))


def shown_text(text: Text) -> str:
    """A text as it is, a chat's messages under their roles; an answer of one message without."""
    if isinstance(text, str):
        return text
    parts = [(str(message.get("role", "")), _content(message)) for message in text]
    if len(parts) == 1 and parts[0][0] == "assistant":
        return parts[0][1]
    return "\n".join(f"{role}: {content}" for role, content in parts)


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    others = {name: value for name, value in message.items() if name not in ("role", "content") and value}
    said = content if isinstance(content, str) else "" if content is None else to_json(content)
    return said + (f" {to_json(others)}" if others else "")


def _key(sample: Completion) -> Key:
    return sample.prompt_index, sample.sample_index


def _kept(samples: Mapping[int, Sequence[Completion]], chosen: int | None, num_runs: int) -> _Kept:
    """The rounds and prompts that a page has room for."""
    rounds = _spread(sorted(samples), chosen)
    by_round = {number: {_key(one): one for one in samples[number]} for number in rounds}
    keys = list(dict.fromkeys(key for number in rounds for key in by_round[number]))
    if not keys:
        return _Kept([], [], {})
    chars = sum(len(shown_text(one.completion)) for found in by_round.values() for one in found.values())
    by_size = MOST_CHARS * len(keys) // max(chars * num_runs, 1)
    room = max(min(len(keys), MOST_SAMPLES // (len(rounds) * num_runs), by_size), 1)
    shown = set(_most_telling(keys, by_round[rounds[0]], by_round[_compared(rounds, chosen)], room))
    keys = [key for key in keys if key in shown]
    return _Kept(
        rounds, keys, {number: {key: found[key] for key in keys if key in found} for number, found in by_round.items()}
    )


def _compared(rounds: Sequence[int], chosen: int | None) -> int:
    return chosen if chosen in rounds and chosen is not None else rounds[-1]


def _spread(rounds: list[int], chosen: int | None) -> list[int]:
    """As many rounds as there is room for: the first, the last, the chosen one, and others evenly between."""
    if len(rounds) <= MOST_ROUNDS:
        return rounds
    places = {round(place * (len(rounds) - 1) / (MOST_ROUNDS - 2)) for place in range(MOST_ROUNDS - 1)}
    return [number for place, number in enumerate(rounds) if place in places or number == chosen]


def _most_telling(
    keys: list[Key], before: Mapping[Key, Completion], after: Mapping[Key, Completion], room: int
) -> list[Key]:
    """Of too many prompts a quarter that gained most, a quarter that lost most, and the first of the others."""
    if room >= len(keys):
        return keys
    gains = {key: gain for key in keys if (gain := _gain(before.get(key), after.get(key))) is not None}
    ranked = sorted(gains, key=lambda key: gains[key])
    extremes = [*ranked[: room // 4], *ranked[len(ranked) - room // 4 :]]
    return list(dict.fromkeys([*extremes, *keys]))[:room]


def _gain(before: Completion | None, after: Completion | None) -> float | None:
    if before is None or after is None or not before.scores or not after.scores:
        return None
    scorer = next(iter(after.scores))
    return after.scores[scorer] - before.scores[scorer] if scorer in before.scores else None


def _detailed(kept: _Kept, most_tokens: int) -> set[Key]:
    """The prompts whose responses are shown token by token: the first, up to what a page has room for."""
    found, total = set(), 0
    for key in kept.keys:
        total += sum(one[key].num_tokens for one in kept.by_round.values() if key in one)
        if total > most_tokens:
            break
        found.add(key)
    return found


def _columns(
    found: Mapping[Key, Completion], keys: Sequence[Key], scorers: Sequence[str], detailed: set[Key]
) -> dict[str, Any]:
    responses = [found.get(key) for key in keys]
    details = [one if one is not None and _key(one) in detailed else None for one in responses]
    return {
        "texts": [None if one is None else shown_text(one.completion) for one in responses],
        "finished": [None if one is None else int(one.finish_reason == "stop") for one in responses],
        "num_tokens": [None if one is None else one.num_tokens for one in responses],
        "scores": {
            name: [None if one is None else _rounded((one.scores or {}).get(name)) for one in responses]
            for name in scorers
        },
        "ids": [None if one is None else one.completion_ids for one in details],
        "logps": [None if one is None else [round(logp * UNITS_PER_NAT) for logp in one.logps] for one in details],
    }


def _rounded(score: float | None) -> float | None:
    return None if score is None else float(f"{score:.6g}")
