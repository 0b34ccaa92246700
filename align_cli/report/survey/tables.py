"""A survey of data as tables and lines: figures, lengths, a histogram, and examples with their token borders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from align_cli.report.survey.examples import Example
from align_cli.report.survey.figures import Survey
from align_cli.report.survey.lengths import PERCENTILES, Lengths
from align_cli.report.tables import NOTHING, TextTable

BAR_WIDTH = 40
FIRST_TOKENS, LAST_TOKENS = 48, 24
FIRST_CHARS, LAST_CHARS = 600, 200
BORDER = "│"
ESCAPES = str.maketrans({"\n": "\\n", "\t": "\\t", "\r": "\\r"})


def figures_table(survey: Survey) -> TextTable:
    """One figure a row, in words; those that are 0 and say nothing are left out."""
    pairs_of = {"ties": survey.ties, "equal answers": survey.equal}
    rows = [
        ["read as", survey.use],
        ["can be read as", ", ".join(survey.uses)],
        ["format", counted(survey.formats)],
        [survey.use, str(survey.rows)],
        ["left out", counted(survey.dropped)],
        ["conversations", str(survey.chats) + (f", made of {counted(survey.made_of)}" if survey.made_of else "")],
        ["different prompts", str(survey.prompts)],
        ["the same as a row before", str(survey.repeated)],
        *([name, str(count)] for name, count in pairs_of.items() if survey.use == "pairs"),
        *([["empty answers", str(survey.empty)]] if survey.use != "prompts" else []),
        *_share("the longer answer is chosen", survey.longer_chosen),
        *_too_long(survey),
        *([f"unreadable: {reason}", str(count)] for reason, count in survey.unreadable.items()),
        *_overlap(survey),
    ]
    return TextTable(["", survey.source], rows)


def lengths_table(survey: Survey) -> TextTable:
    """One row for prompts, one for each answer, one for both together."""
    columns = [survey.unit, "mean", *(f"{percent}%" for percent in PERCENTILES), "longest"]
    return TextTable(columns, [[name, *_length_cells(length)] for name, length in survey.lengths.items()])


def limits_table(survey: Survey) -> TextTable:
    """Limits to choose from, and how many rows they would leave: one row for each of some percentiles."""
    has_answers = survey.use != "prompts"
    keys = ["max_prompt_tokens", *["max_completion_tokens"] * has_answers]
    rows = [
        [
            f"{found.percent}%",
            str(found.max_prompt_tokens),
            *[str(found.max_completion_tokens)] * has_answers,
            f"{found.rows} ({found.rows / survey.rows:.1%})",
            str(found.longest),
        ]
        for found in survey.within
    ]
    return TextTable(["limits", *keys, "rows within", "longest of them"], rows)


def histogram_lines(survey: Survey) -> list[str]:
    """How long the rows are, prompt and longer answer together, in bins of powers of two."""
    lengths = survey.lengths.get("all") or survey.lengths["prompt"]
    most = max(lengths.histogram.values(), default=0) or 1
    width = len(f"{max(lengths.histogram, default=1)}")
    return [
        f"  up to {edge:>{width}} {survey.unit} {'#' * round(BAR_WIDTH * count / most):<{BAR_WIDTH}} {count}"
        for edge, count in lengths.histogram.items()
    ]


def example_lines(example: Example, number: int, unit: str) -> list[str]:
    """An example: for each part whether it carries the loss, and its text, cut where tokens end."""
    lines = [f"example {number}: {example.where}, {example.why}"]
    for part in example.parts:
        loss = "loss on all of it" if part.has_loss else "no loss"
        size = f"{len(part.tokens)} tokens, " if unit == "tokens" else ""
        lines += [f"  {part.name} ({size}{loss})", f"    {_shown(part.tokens, unit)}"]
    return lines


def counted(counts: Mapping[str, int]) -> str:
    """Counts with what they are of; a dash for none."""
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or NOTHING


def _shown(tokens: Sequence[str], unit: str) -> str:
    if unit != "tokens":
        text = "".join(tokens)
        hidden = len(text) - FIRST_CHARS - LAST_CHARS
        if hidden > 0:
            text = f"{text[:FIRST_CHARS]} [... {hidden} characters ...] {text[-LAST_CHARS:]}"
        return text.translate(ESCAPES)
    hidden = len(tokens) - FIRST_TOKENS - LAST_TOKENS
    shown = list(tokens)
    if hidden > 0:
        shown = [*tokens[:FIRST_TOKENS], f"[... {hidden} tokens ...]", *tokens[-LAST_TOKENS:]]
    return BORDER + BORDER.join(token.translate(ESCAPES) for token in shown) + BORDER


def _length_cells(lengths: Lengths) -> list[str]:
    return [f"{lengths.mean:.1f}", *map(str, lengths.percentiles.values()), str(lengths.longest)]


def _share(name: str, share: float | None) -> Iterator[list[str]]:
    if share is not None:
        yield [name, f"{share:.0%}"]


def _too_long(survey: Survey) -> Iterator[list[str]]:
    if survey.too_long is not None:
        yield [f"longer than the context of {survey.context_length} tokens", str(survey.too_long)]
    yield from ([f"longer than {key}", str(count)] for key, count in survey.beyond.items())
    yield from ([f"{what} by data.too_long", str(count)] for what, count in survey.kept.items())


def _overlap(survey: Survey) -> Iterator[list[str]]:
    if survey.overlap is not None:
        prompts, same, alike = survey.overlap
        yield [f"of {prompts} evaluation prompts here", f"{same}, but for case and white space {alike}"]
