"""What the data holds: formats, rows, lengths, what it can be read for, and which part of it is held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from align_cli.data.files import KNOWN_SUFFIXES
from align_cli.data.formats.base import DEMONSTRATIONS, PAIRS, PROMPTS
from align_cli.data.sources import HUB_ID
from align_cli.errors import AlignError, DataError, RecipeError
from align_cli.recipe.data_names import PLAYGROUND, DataName, exists

MOST_READ = 1000
"""Rows whose lengths are measured: of more, as many at equal steps."""
FEWEST_ROWS, MOST_HELD_OUT, TENTH = 10, 2000, 10
HELD_OUT_SPLITS = ("test", "validation")
"""Of a folder of files."""
EVERY_USE = (PAIRS, DEMONSTRATIONS, PROMPTS)
TOKENS_PER_WORD = 1.5
"""As far as can be said where no tokenizer can be had."""


@dataclass(frozen=True)
class Looked:
    """What was seen of a source.

    Args:
        data: its name.
        train: the part to train on, as a recipe names it.
        held_out: the part that is held out.
        uses: what it can be read for.
        rows: how many there are; None where it was not read.
        held_out_rows: how many of these are held out; None where others are, or where that is not known.
        told: what a user should know of it, a line each.
        prompt_tokens: what 95% of the prompts do not exceed; None where that is not known.
        answer_tokens: likewise of the answers.
        is_counted: whether these are the model's own tokens, and no guess by words.
        context: the model's longest sequence; None where that is not known.
    """

    data: str
    train: str
    held_out: str
    uses: tuple[str, ...] = EVERY_USE
    rows: int | None = None
    held_out_rows: int | None = None
    told: tuple[str, ...] = ()
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    is_counted: bool = False
    context: int | None = None

    @property
    def has_pairs(self) -> bool:
        """Whether it can be read for pairs."""
        return PAIRS in self.uses


def look_at(data: str, model: str) -> Looked:
    """What a source holds, as the model reads it; one of the Hub's that cannot be reached is taken for pairs.

    Raises:
        AlignError: for what is wrong with it, or with a model that is a folder here.
    """
    if not data:
        raise RecipeError(
            "no data is named", where="--data", hint=f"name a file, a folder or a Hub id, or {PLAYGROUND}"
        )
    if data == PLAYGROUND:
        return Looked(data, PLAYGROUND, PLAYGROUND, told=(_PLAYGROUND_TOLD,), prompt_tokens=16, answer_tokens=24)
    if model == PLAYGROUND:
        what = "the playground's model knows the words of its own reviews, and no others"
        raise RecipeError(what, where=data, hint="name a model, or take the playground's data: --data playground")
    try:
        return _read(data, model)
    except DataError as error:
        if not _is_of_the_hub(data) or "did you mean" in error.faults[0].hint:
            raise
        told = f"{data} was not read ({error.faults[0].what}): it is taken for pairs, and lengths for the usual ones"
        return Looked(data, *_parts_of(data, None), told=(told,))


_PLAYGROUND_TOLD = "playground: short reviews of ten topics with prompts, pairs and held-out ones, made from the seed"


def _read(data: str, model: str) -> Looked:
    from align_cli.recipe.sections.data import DataSection
    from align_cli.report.survey.figures import survey_of
    from align_cli.report.survey.source import read_source

    section, policy = DataSection(), _reader(model)
    source = read_source(data, "train", section, policy)
    rows = source.rows
    some = [rows[place] for place in range(0, len(rows), max(1, len(rows) // MOST_READ))][:MOST_READ]
    found = survey_of(source._replace(rows=some), policy, num_examples=0, data=section)
    answers = [found.lengths[name] for name in found.lengths if name not in ("prompt", "all")]
    factor = 1.0 if policy is not None else TOKENS_PER_WORD
    train, held_out = _parts_of(data, len(rows))
    looked = Looked(
        data,
        train,
        held_out,
        uses=source.uses,
        rows=len(rows),
        held_out_rows=len(list(DataName.of(held_out).part(rows))) if _place(held_out) == data else None,
        prompt_tokens=round(found.lengths["prompt"].percentiles[95] * factor),
        answer_tokens=round(max(length.percentiles[95] for length in answers) * factor) if answers else None,
        is_counted=policy is not None,
        context=policy.context_length if policy is not None else None,
    )
    return replace(looked, told=tuple(_told(looked, source, found)))


def _told(looked: Looked, source: Any, found: Any) -> list[str]:
    formats = ", ".join(found.formats)
    unit = "tokens of the model" if looked.is_counted else "words"
    halves = [
        f"{name} {length.percentiles[50]}, 95% {length.percentiles[95]}"
        for name, length in found.lengths.items()
        if name != "all"
    ]
    lines = [
        f"{looked.data}: {len(source.rows)} {source.use} ({formats})",
        f"{looked.data}: half have at most so many {unit}: {'; '.join(halves)}",
    ]
    left_out = [f"{number} {reason}" for reason, number in source.dropped.items()]
    if left_out:
        lines.append(f"{looked.data}: left out: {', '.join(left_out)}")
    if found.unreadable:
        reasons = "; ".join(f"{number} of {found.rows}: {why}" for why, number in found.unreadable.items())
        lines.append(f"{looked.data}: rows that the model cannot read: {reasons}")
    if PAIRS not in source.uses:
        lines.append(f"{looked.data}: no pairs; it can be read for {' and '.join(source.uses)}")
    lines.append(f"held out, and never trained on: {looked.held_out}")
    return lines


def _place(name: str) -> str:
    """What a part is a part of."""
    return name[: name.rindex("[")] if name.endswith("]") else name


def _reader(model: str) -> Any:
    """The model's tokenizer; None where it is not here and cannot be had."""
    from align_cli.models.load import load_without_weights

    try:
        return load_without_weights(model)
    except AlignError:
        if exists(model):
            raise
        return None


def _parts_of(data: str, rows: int | None) -> tuple[str, str]:
    """The part of a source to train on, and the part that is held out."""
    name = DataName.of(data)
    if name.rows:
        begin, end = name.rows.split(":")
        whole = _place(data)
        if not begin or not end:
            return data, f"{whole}[{end}:]" if not begin else f"{whole}[:{begin}]"
        return data, f"{whole}[{end}:]"
    if rows is not None and rows < FEWEST_ROWS:
        hint = f"give at least {FEWEST_ROWS}, or write the recipe by hand"
        raise DataError(f"there are {rows} rows: too few to hold some out", where=data, hint=hint)
    if name.split is None and (split := _held_out_split(Path(name.place).expanduser())) is not None:
        return f"{data}[train]", f"{data}[{split}]"
    percent = 100 - max(1, min(TENTH, round(100 * MOST_HELD_OUT / (rows or MOST_HELD_OUT))))
    return f"{data}[:{percent}%]", f"{data}[{percent}%:]"


def _held_out_split(folder: Path) -> str | None:
    """The split of a folder that is called as held-out ones are."""
    names: Sequence[str] = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    for split in HELD_OUT_SPLITS:
        if any(name.startswith(f"{split}.") and name.endswith(KNOWN_SUFFIXES) for name in names):
            return split
    return None


def _is_of_the_hub(data: str) -> bool:
    """Whether a name is one of the Hub's, by its form: that of somebody's data set, which is no file here."""
    place = DataName.of(data).place
    is_id = "/" in place and HUB_ID.fullmatch(place) is not None
    return is_id and not place.endswith(KNOWN_SUFFIXES) and not exists(place)
