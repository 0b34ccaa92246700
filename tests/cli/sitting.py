"""A sitting at a terminal without the rest of `align label`: reads `pairs.json`, writes `answers.jsonl`."""

from __future__ import annotations

import json
from pathlib import Path

from align_cli.artifacts.answers import Answers
from align_cli.cli.judging import Sitting, sit
from align_cli.cli.output import Output
from align_cli.cli.streams import prepare_streams
from align_cli.labelers.verdicts import Pair, Verdicts


def main() -> None:
    prepare_streams()
    pairs = [Pair(*texts) for texts in json.loads(Path("pairs.json").read_text(encoding="utf-8"))]
    verdicts, talk = Verdicts(Answers(Path("answers.jsonl"))), Output()
    waiting = [pair for pair in pairs if not verdicts.of(pair)]
    console = talk.terminal()
    assert console is not None
    is_over = sit(console, Sitting(waiting, len(pairs), verdicts, "ann"))
    talk.note("all were judged" if is_over else "somebody quit")


main()
