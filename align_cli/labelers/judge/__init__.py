"""The labeler `judge`: a language model behind an endpoint like OpenAI's says which of two is better, or scores one.

    template.py   what it is told and how its answer is read, one text file; those of align in templates/
    texts.py      prompts and completions as it reads them
    questions.py  what is asked, and what came back
    inquiry.py    answers: from the file of those that are kept, else from the server, each kept as it comes
    spending.py   what it cost so far, and the budget
    tally.py      counts of a stage, and the figures that they come to
    labeler.py    the labelers that put this together

How a server is asked, with retries and at a pace, is in `servers`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from align_cli.recipe.sections.labelers.judge import JudgeLabelerSection

if TYPE_CHECKING:
    from align_cli.labelers.judge.labeler import ComparingJudge, ScoringJudge


def judge_labeler(
    name: str, section: JudgeLabelerSection, note: Callable[[str], None] = lambda text: None
) -> ComparingJudge | ScoringJudge:
    """The judge that a section of a recipe describes.

    Args:
        name: the labeler's name in the recipe.
        section: its section.
        note: told what a user should know.
    """
    from align_cli.labelers.judge.labeler import ComparingJudge, ScoringJudge

    kind = ComparingJudge if section.gives == "verdicts" else ScoringJudge
    return kind(name, section, note)
