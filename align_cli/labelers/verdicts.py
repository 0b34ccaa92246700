"""What people say of pairs: each verdict kept as it comes, by what was read and by who read it.

A pair is known by its content alone: the prompt and its two answers as they are read, in an order that does not depend
on which came first. So nobody is asked twice, whatever round or command the pair comes from, and several people may
judge it; their verdicts come to their mean. Which answer stands left, and in which order pairs come, derives from
content and reader too.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, get_args

from align_cli.artifacts.answers import Answers
from align_cli.artifacts.records import Text
from align_cli.seeds import derive_seed

if TYPE_CHECKING:
    from align_cli.metrics.agreement import Agreement

Said = Literal["first", "second", "tie", "skip"]
"""What somebody says of a pair: which answer is better, both are as good, or nothing."""

VERDICTS: dict[Said, float | None] = {"first": 1.0, "second": 0.0, "tie": 0.5, "skip": None}
"""The probability that the first answer is better."""

TAKEN_BACK = "taken back"
"""What is kept in the place of a verdict that its giver has taken back."""

SEED = 0
"""Of the sides and the order. Both derive from content, so that an exported file, another command and another day have
them again."""


class Pair(NamedTuple):
    """Two answers to a prompt, as they are read.

    Args:
        prompt: what was asked; of a conversation with several messages, each with its role.
        first: the answer that comes first by its characters.
        second: the other.
    """

    prompt: str
    first: str
    second: str

    @classmethod
    def of(cls, prompt: Text, one: Text, other: Text) -> Self:
        """The pair of two answers in either order."""
        return cls(as_read(prompt, "user"), *sorted((as_read(one, "assistant"), as_read(other, "assistant"))))

    @property
    def id(self) -> str:
        """Short, the same for the same content, and read as text by spreadsheets."""
        return f"pair-{hashlib.sha256(json.dumps(self).encode()).hexdigest()[:16]}"

    @property
    def is_alike(self) -> bool:
        """Whether both answers read the same, so that there is nothing to ask."""
        return self.first == self.second

    def sides(self, annotator: str) -> tuple[Said, Said]:
        """Which answer this person reads on the left, and which on the right."""
        is_turned = derive_seed(SEED, "person", "side", self.id, annotator) % 2
        return ("second", "first") if is_turned else ("first", "second")

    def answer(self, side: Said) -> str:
        """The `first` or the `second` answer."""
        return self.first if side == "first" else self.second


class Verdicts:
    """The verdicts of people on pairs.

    Args:
        answers: where they are kept.
    """

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._said: dict[str, dict[str, Said]] = {}
        self._left: dict[tuple[str, str], Said] = {}
        for row in answers.rows():
            self._take(row.get("answer"))

    def keep(self, pair: Pair, annotator: str, said: Said, left: Said) -> None:
        """Keep what somebody says; when this returns it is durable, and holds in the place of what they said before.

        Args:
            pair: of what.
            annotator: who.
            said: what.
            left: which answer they read on the left.
        """
        self._add(pair, annotator, said, left)

    def take_back(self, pair: Pair, annotator: str) -> None:
        """As if they had not said anything of the pair; this is durable too."""
        self._add(pair, annotator, TAKEN_BACK, None)

    def of(self, pair: Pair) -> dict[str, Said]:
        """What people say of a pair, by their names."""
        return dict(self._said.get(pair.id, {}))

    def mean(self, pair: Pair) -> float | None:
        """The mean of their verdicts: how likely the first answer is better; None where nobody gave one."""
        given = [verdict for said in self.of(pair).values() if (verdict := VERDICTS[said]) is not None]
        return statistics.fmean(given) if given else None

    def left_share(self, pairs: Sequence[Pair]) -> float | None:
        """Of all verdicts for one of the answers, the share for the one on the left: about one half, since sides are
        drawn, unless somebody likes a side; None where there is no such verdict."""
        sides = [
            said == self._left.get((pair.id, name))
            for pair in pairs
            for name, said in self.of(pair).items()
            if said in ("first", "second")
        ]
        return statistics.fmean(sides) if sides else None

    def waiting_for(self, annotator: str, pairs: Sequence[Pair], *, with_skipped: bool = False) -> list[Pair]:
        """The pairs that somebody has yet to judge, in a seeded order: those that nobody has judged come first.

        Args:
            annotator: who.
            pairs: all that are to be judged.
            with_skipped: whether those that they have skipped wait too.
        """
        done = ("skip",) if with_skipped else ()
        left = [pair for pair in pairs if self.of(pair).get(annotator) in (None, *done)]

        def place(pair: Pair) -> tuple[bool, int]:
            return bool(self.of(pair)), derive_seed(SEED, "person", "order", pair.id, annotator)

        return sorted(left, key=place)

    def agreements(self, pairs: Sequence[Pair]) -> dict[tuple[str, str], Agreement]:
        """How far people agree, for any two who both gave verdicts on some of these pairs."""
        from align_cli.metrics.agreement import agreement

        by_name: dict[str, dict[str, Said]] = {}
        for pair in pairs:
            for name, said in self.of(pair).items():
                if said != "skip":
                    by_name.setdefault(name, {})[pair.id] = said
        found = {}
        for one, other in combinations(sorted(by_name), 2):
            both = [pair_id for pair_id in by_name[one] if pair_id in by_name[other]]
            if both:
                columns = ([by_name[name][pair_id] for pair_id in both] for name in (one, other))
                found[one, other] = agreement(*columns, seed=SEED)
        return found

    def _add(self, pair: Pair, annotator: str, said: str, left: Said | None) -> None:
        asked = {"prompt": pair.prompt, "answers": [pair.first, pair.second], "annotator": annotator}
        answer = {"pair": pair.id, "annotator": annotator, "said": said, "left": left}
        self._answers.keep(asked, answer)
        self._take(answer)

    def _take(self, answer: Any) -> None:
        if not isinstance(answer, dict) or not {"pair", "annotator", "said", "left"} <= answer.keys():
            return
        self._left[answer["pair"], answer["annotator"]] = answer["left"]
        by_name = self._said.setdefault(answer["pair"], {})
        if answer["said"] in get_args(Said):
            by_name[answer["annotator"]] = answer["said"]
        else:
            by_name.pop(answer["annotator"], None)


def as_read(text: Text, role: str) -> str:
    """A prompt or an answer as somebody reads it: a single message of the usual role without it, others with theirs."""
    if isinstance(text, str):
        return text
    if len(text) == 1 and text[0].get("role") == role and text[0].keys() <= {"role", "content"}:
        return _content(text[0])
    return "\n\n".join(f"{message.get('role') or '?'}: {_content(message)}" for message in text)


def _content(message: dict[str, Any]) -> str:
    """What a message says; what else it holds, as calls of tools, below it as JSON."""
    content = message.get("content")
    said = [content if isinstance(content, str) else "" if content is None else _json(content)]
    return "\n".join([*said, *(_json({key: message[key]}) for key in message if key not in ("role", "content"))])


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
