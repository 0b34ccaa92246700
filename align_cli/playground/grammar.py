"""The playground's language: its words, its prompts and its writers of short reviews.

Owns every word that the playground knows and the two writers that put them together. Judges nothing (`reward` does)
and splits nothing into training and evaluation (`world` does). All randomness comes from the generator handed in.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

TOPICS: dict[str, tuple[str, ...]] = {
    "food": ("food", "soup", "bread", "fish", "sauce", "dessert"),
    "room": ("room", "bed", "window", "carpet", "lamp", "shower"),
    "service": ("service", "waiter", "greeting", "bill", "manager", "porter"),
    "music": ("music", "singer", "drummer", "melody", "chorus", "piano"),
    "garden": ("garden", "lawn", "fountain", "pond", "hedge", "orchard"),
    "museum": ("museum", "painting", "statue", "guide", "gallery", "exhibit"),
    "train": ("train", "seat", "carriage", "conductor", "timetable", "platform"),
    "book": ("book", "plot", "chapter", "author", "ending", "hero"),
    "film": ("film", "actor", "scene", "script", "camera", "villain"),
    "shop": ("shop", "price", "discount", "cashier", "shelf", "basket"),
}
"""Each topic with the words that are about it, its own name first. No word belongs to two topics."""

ADJECTIVES: dict[str, float] = {
    **dict.fromkeys(("superb", "wonderful", "lovely", "delightful", "excellent"), 1.0),
    **dict.fromkeys(("good", "nice", "pleasant", "fine"), 0.5),
    **dict.fromkeys(("ordinary", "average", "plain", "usual"), 0.0),
    **dict.fromkeys(("dull", "weak", "poor", "bland"), -0.5),
    **dict.fromkeys(("awful", "dreadful", "horrible", "terrible", "miserable"), -1.0),
}
VERBS: dict[str, float] = {
    **dict.fromkeys(("loved", "adored"), 1.0),
    **dict.fromkeys(("liked", "enjoyed"), 0.5),
    **dict.fromkeys(("noticed", "tried"), 0.0),
    **dict.fromkeys(("disliked", "regretted"), -0.5),
    **dict.fromkeys(("hated", "loathed"), -1.0),
}
OPINIONS: dict[str, float] = ADJECTIVES | VERBS
"""Every word that says how good something was, from -1 to 1."""

ADVERBS: dict[str, float] = {"very": 1.5, "truly": 1.5, "rather": 0.5, "somewhat": 0.5, "hardly": -0.5, "not": -1.0}
"""What a word just before an opinion multiplies it by."""

LEADS = ("review of", "notes on", "opinion on", "thoughts about", "verdict on")
PLACES = (
    "inn",
    "harbour",
    "station",
    "castle",
    "market",
    "village",
    "lakeside",
    "airport",
    "theatre",
    "campus",
    "hilltop",
    "abbey",
)
OCCASIONS = (
    "on monday",
    "on friday",
    "on sunday",
    "on holiday",
    "last spring",
    "last summer",
    "last night",
    "in winter",
    "in autumn",
    "after work",
    "before noon",
    "with friends",
    "with family",
    "with colleagues",
)

JOINERS = ("and", "but", ".")


@dataclass(frozen=True)
class Writer:
    """One way of writing reviews.

    Args:
        name: what the writer is called in seeds.
        frames: clauses about the topic, with `{noun}` and `{adjective}` or `{verb}` to fill in.
        digressions: clauses about another topic, filled in the same way.
        chatter: clauses that say nothing about anything.
        num_clauses: the number of clauses of a review, each entry equally likely.
        digression_rate: probability that a clause is about another topic, in [0, 1].
        chatter_rate: probability that a clause is chatter, in [0, 1].
        adverb_rate: probability that an adjective has an adverb, in [0, 1].
        mood_rate: probability that an opinion follows the review's mood rather than being drawn from all, in [0, 1].
    """

    name: str
    frames: tuple[str, ...]
    digressions: tuple[str, ...]
    chatter: tuple[str, ...]
    num_clauses: tuple[int, ...]
    digression_rate: float
    chatter_rate: float
    adverb_rate: float
    mood_rate: float


PLAIN_WRITER = Writer(
    name="plain",
    frames=(
        "the {noun} was {adjective}",
        "the {noun} seemed {adjective}",
        "we found the {noun} {adjective}",
        "i {verb} the {noun}",
        "we {verb} the {noun}",
    ),
    digressions=("by the way the {noun} was {adjective}", "we also saw the {noun}", "i also {verb} the {noun}"),
    chatter=("it rained all day", "we arrived late", "the weather changed"),
    num_clauses=(1, 2, 2, 3),
    digression_rate=0.2,
    chatter_rate=0.1,
    adverb_rate=0.25,
    mood_rate=0.4,
)
ORNATE_WRITER = Writer(
    name="ornate",
    frames=(
        "i must say that the {noun} was {adjective}",
        "one could call the {noun} {adjective}",
        "everybody agreed that the {noun} looked {adjective}",
        "to be honest my cousin {verb} the {noun}",
        "the {noun} was {adjective}",
    ),
    digressions=(
        "speaking of which the {noun} looked {adjective}",
        "on the way home my cousin {verb} the {noun}",
        "by the way the {noun} was {adjective}",
    ),
    chatter=("it had rained all day", "my cousin drove us home", "one never knows what to say"),
    num_clauses=(2, 3, 3, 4),
    digression_rate=0.35,
    chatter_rate=0.2,
    adverb_rate=0.5,
    mood_rate=0.4,
)
WRITERS: dict[str, Writer] = {writer.name: writer for writer in (PLAIN_WRITER, ORNATE_WRITER)}


def all_prompts() -> list[str]:
    """Every prompt there is, in a fixed order: lead x topic x place x occasion."""
    return [
        f"{lead} the {topic} at the {place} {occasion} :"
        for lead, topic, place, occasion in itertools.product(LEADS, TOPICS, PLACES, OCCASIONS)
    ]


def topic_of(prompt: str) -> str | None:
    """The first topic that a prompt names, or None where it names none."""
    return next((word for word in prompt.split() if word in TOPICS), None)


def write_review(prompt: str, writer: Writer, rng: random.Random) -> str:
    """One review of the prompt's topic, as the writer would put it.

    Returns:
        The completion: words with a space before each, the full stop last.

    Raises:
        ValueError: if the prompt names no topic.
    """
    topic = topic_of(prompt)
    if topic is None:
        raise ValueError(f"the prompt names no topic: {prompt!r}")
    mood = rng.choice((-1.0, 0.0, 1.0))
    num_clauses = rng.choice(writer.num_clauses)
    own_nouns = rng.sample(TOPICS[topic], num_clauses)
    clauses = [_write_clause(topic, noun, mood, writer, rng) for noun in own_nouns]
    text = clauses[0]
    for clause in clauses[1:]:
        text += f" {rng.choice(JOINERS)} {clause}"
    return f" {text} ."


def vocabulary() -> list[str]:
    """Every token of the playground in a fixed order: words with the space before them, and prompts' first words."""
    texts = [*(f" {prompt}" for prompt in all_prompts())]
    texts += [frame for writer in WRITERS.values() for frame in writer.frames + writer.digressions + writer.chatter]
    texts += [*JOINERS, *OPINIONS, *ADVERBS, *itertools.chain.from_iterable(TOPICS.values())]
    words = {word for text in texts for word in text.split() if not word.startswith("{")}
    return sorted({lead.split()[0] for lead in LEADS}) + [f" {word}" for word in sorted(words)]


def _write_clause(topic: str, noun: str, mood: float, writer: Writer, rng: random.Random) -> str:
    draw = rng.random()
    if draw < writer.chatter_rate:
        return rng.choice(writer.chatter)
    if draw < writer.chatter_rate + writer.digression_rate:
        other_topic = rng.choice([name for name in TOPICS if name != topic])
        frame, noun = rng.choice(writer.digressions), rng.choice(TOPICS[other_topic])
    else:
        frame = rng.choice(writer.frames)
    adjective = _choose_opinion(ADJECTIVES, mood, writer, rng)
    if rng.random() < writer.adverb_rate:
        adjective = f"{rng.choice(tuple(ADVERBS))} {adjective}"
    return frame.format(noun=noun, adjective=adjective, verb=_choose_opinion(VERBS, mood, writer, rng))


def _choose_opinion(opinions: dict[str, float], mood: float, writer: Writer, rng: random.Random) -> str:
    if rng.random() >= writer.mood_rate:
        return rng.choice(tuple(opinions))
    return rng.choice([word for word, value in opinions.items() if abs(value - mood) <= 0.5])
