"""The stages of a round, in their order: each turns artifacts into artifacts.

None knows anything of run folders or terminals.

A new stage is one file with one object (see `base`), a line in the table, and a test.
"""

from __future__ import annotations

from align_cli.stages.base import Stage
from align_cli.stages.evaluate import Evaluate
from align_cli.stages.generate import Generate
from align_cli.stages.label import Label
from align_cli.stages.reward import Reward
from align_cli.stages.sft import WarmStart
from align_cli.stages.train import Train

STAGES: list[Stage] = [WarmStart(), Reward(), Generate(), Label(), Train(), Evaluate()]
"""In the order of a round."""


def stage_named(name: str) -> Stage:
    """The stage with this name."""
    return next(stage for stage in STAGES if stage.name == name)
