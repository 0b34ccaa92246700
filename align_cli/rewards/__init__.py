"""Rewards that can be verified, as ready functions for labelers of kind `function`; each file is an example of one.

    labelers:
      right: {kind: function, function: "align_cli.rewards:ExactAnswer", arguments: {gold: gsm8k/train.jsonl}}

A reward is made once of its `arguments`, and is called with aligned lists of text; it knows nothing of runs.
"""

from align_cli.rewards.answer_format import AnswerFormat
from align_cli.rewards.exact_answer import ExactAnswer
from align_cli.rewards.passed_tests import PassedTests
from align_cli.rewards.target_length import TargetLength

__all__ = ["AnswerFormat", "ExactAnswer", "PassedTests", "TargetLength"]
