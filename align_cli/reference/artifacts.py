"""The page of artifacts: every file of a run and of a study, and every field of every record, from their docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass

from align_cli.artifacts import records
from align_cli.artifacts.records import Record
from align_cli.recipe.sections.labelers.reward_model import REWARD_MODEL
from align_cli.report.tables import TextTable, markdown
from align_cli.run.folder import layout
from align_cli.stages import base
from align_cli.study import folder as study

ROUND = f"{layout.ROUNDS}/NNN"
FILES = {
    layout.RECIPE: "the recipe as resolved, with every default: `align train` of it is the same run",
    layout.RUN: "what the run was begun with: versions, machine, seed; how many threads compute, and how many pairs a "
    "forward pass holds where the memory did not hold the recipe's",
    layout.LEDGER: "every stage's start and finish, with time, memory and figures ([figures.md](figures.md)); for "
    "people: nothing depends on it",
    layout.LINEAGE: "of a fork, the run and round that it was forked from",
    layout.REPORT: "everything at a glance ([report.md](report.md)); no artifact",
    layout.REPORT_DATA: "its data; no artifact",
    layout.LOCK: "who is at work on the run, and how far the step is",
    f"{layout.WORK}/*": "work in progress of a step: journals and checkpoints from within it; gone when it is finished",
    f"{layout.TRACKING}/*": "what the trackers of `train.report_to` write ([tracking.md](tracking.md)), and the id by "
    "which they know the run; no artifact",
    f"{layout.SERVERS}/*": "what servers print that generate text, and, while they do, the weights that they read; no "
    "artifact",
    f"{layout.ANSWERS}/*": "what judges and people answered, `LABELER.jsonl`, by content: nothing is asked for twice, "
    "and `--restart` keeps it",
    f"{ROUND}/{layout.MANIFEST}": "what of the round is finished: of each stage the recipe keys, files and artifacts "
    "that it was made from, the checksums of what it wrote, what guards saw, and what was let go since",
    f"{ROUND}/{base.COMPLETIONS}": "responses that the round sampled, a [Completion](#completion) a line",
    f"{ROUND}/{base.PREFERENCES}": "pairs that it made of them, a [Preference](#preference) a line",
    f"{ROUND}/{base.TRAINING}": "figures of every optimizer step ([figures.md](figures.md#trainingjsonl)); in round 0 "
    "those of the warm start",
    f"{ROUND}/{base.CHECKPOINT}/*": "the policy as `from_pretrained` loads it, an adapter alone where one is trained; "
    "`training_state.json` and, in the newest, `optimizer.safetensors`",
    f"{ROUND}/{base.SAMPLES}": "responses to held-out prompts with each scorer's score, a [Completion](#completion) a "
    "line",
    f"{ROUND}/{base.EVALUATION}": "how the policy does, one [Evaluation](#evaluation)",
    f"{ROUND}/{base.REFERENCE_LOGPS}": "what the reference says of the round's pairs, a [PairLogps](#pairlogps) a "
    "line; not of those that it was asked about before",
    f"{ROUND}/{base.HELD_OUT_LOGPS}": "the same of held-out pairs",
    f"{ROUND}/{REWARD_MODEL}/*": "in round 0: the reward model that the section `reward` fits",
    f"{ROUND}/{base.REWARD}": "what it is worth, one [RewardReport](#rewardreport)",
    f"{ROUND}/{base.REWARD_TRAINING}": "figures of its optimizer steps ([figures.md](figures.md#reward_trainingjsonl))",
}
"""Every file of a run's folder, as a pattern: NNN is a round's number, * everything below."""
STUDY_FILES = {
    study.STUDY: "what is studied: recipe, overrides, axes, seeds",
    f"{study.RUNS}/NAME/seed-N/": "a run's folder as any other",
    f"{study.LOGS}/NAME/seed-N.txt": "what its process said",
    study.RESULTS: "means, differences and frontiers with their intervals, and every evaluation",
    study.TABLE: "the same as numbers: one row a combination",
    study.EVALUATIONS: "one row an evaluation",
    study.COSTS: "time, sampled tokens and labeler calls by stage",
    study.PAGE: "the command that made it, and the tables of the terminal in Markdown",
    "*.svg, *.png": "pictures, each in both",
}
INTRODUCTION = """# Every file of a run

Made from the code by `make docs`. JSON Lines are in TRL's dataset formats, with more fields beside them: `datasets`
and TRL read them as they are. No artifact holds a time, a host or a duration; those live in the ledger. `NNN` is a
round's number, from `000`, the initial policy's.

## A run's folder
"""
_ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n        .*)*)", re.MULTILINE)


def artifacts_page() -> str:
    """The page `docs/artifacts.md`."""
    files = markdown(TextTable(["file", "what it holds"], _named(FILES)))
    of_study = markdown(TextTable(["file", "what it holds"], _named(STUDY_FILES)))
    return "\n".join(
        [
            INTRODUCTION,
            files,
            "\n## A study's folder\n",
            of_study,
            "\n## Every field of a record\n",
            *map(_section, kinds()),
        ]
    )


def kinds() -> list[type[Record]]:
    """Every kind of record that a run writes, in the order of the module."""
    found = [value for value in vars(records).values() if inspect.isclass(value) and is_dataclass(value)]
    return [kind for kind in found if issubclass(kind, Record) and fields(kind)]


def meanings(kind: type) -> dict[str, str]:
    """What each field of a dataclass is, by its docstring's words."""
    text = inspect.cleandoc(kind.__doc__ or "").partition("Args:\n")[2]
    return {name: " ".join(words.split()) for name, words in _ARGUMENT.findall(text)}


def _section(kind: type[Record]) -> str:
    first = inspect.cleandoc(kind.__doc__ or "").splitlines()[0]
    fields = TextTable(["field", "type", "default", "meaning"], list(_rows(kind)))
    return f"### {kind.__name__}\n\n{first}\n\n{markdown(fields)}\n"


def _rows(kind: type[Record]) -> Iterator[list[str]]:
    said = meanings(kind)
    for field in fields(kind):
        default = "" if field.default is MISSING else f"`{field.default}`"
        yield [f"`{field.name}`", f"`{field.type}`", default, said[field.name]]


def _named(files: dict[str, str]) -> list[list[str]]:
    return [[f"`{name}`", words] for name, words in files.items()]
