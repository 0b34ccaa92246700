"""Answers, and what was seen of the data, as a recipe's text, with why each value is what it is."""

from __future__ import annotations

import functools
import shlex
from pathlib import Path
from typing import Any

from align_cli.begin.answers import Answers
from align_cli.begin.labels import Labelers, labelers_for
from align_cli.begin.looked import Looked
from align_cli.begin.methods import Method, method_on
from align_cli.begin.sizes import Sizes, sizes_for
from align_cli.errors import counted
from align_cli.recipe.data_names import PLAYGROUND
from align_cli.recipe.json_schema import FILE_NAME, editor_line
from align_cli.recipe.presets import preset_text
from align_cli.recipe.resolve import value_text
from align_cli.recipe.sections.sources import SOURCES
from align_cli.recipe.shipped import about
from align_cli.recipe.written.tree import escaped

TEMPLATE = "recipe.yaml.jinja"
MARK = "\x1f"
"""Where a line's comment begins; no value holds it, since YAML is written with escapes."""
COLUMN = 42
"""Of comments, where a line leaves room."""


def recipe_text(answers: Answers, looked: Looked, path: Path) -> tuple[str, list[str]]:
    """A recipe as YAML, and what a user should know of it, a line each.

    Args:
        answers: all five.
        looked: what was seen of the data.
        path: where it will be written.

    Raises:
        RecipeError: if answers do not go together.
    """
    method = method_on(answers.method, looked)
    labelers, sizes = labelers_for(answers, method, looked), sizes_for(answers, looked, method)
    schema = editor_line(FILE_NAME) if (path.parent / FILE_NAME).is_file() else ""
    text = _template().render(
        answers=answers,
        looked=looked,
        method=method,
        labelers=labelers,
        sizes=sizes,
        schema=schema,
        path=escaped(shlex.quote(str(path))),
        output_dir=f"runs/{path.stem}",
        is_playground=answers.model == PLAYGROUND,
        is_world=answers.data == PLAYGROUND,
        needs_pairs="preferences" in method.needs,
        adds_kl=method.has_gradient and "kl" not in method.keys["method"],
        preset_why=about(preset_text(method.preset)).use,
        why=lambda words: f"{MARK}{words}" if words else "",
        **_reasons(answers, looked, method, sizes),
    )
    return "\n".join(map(_with_comment, text.splitlines())) + "\n", _notes(answers, method, labelers, sizes)


@functools.cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("align_cli.begin", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # YAML, whose values go through the filter
    )
    environment.filters |= {"yaml": value_text, "line": escaped}
    return environment.get_template(TEMPLATE)


def _reasons(answers: Answers, looked: Looked, method: Method, sizes: Sizes) -> dict[str, Any]:
    """Why the numbers are what they are."""
    counted_by = "" if looked.is_counted else ", reckoned by words" if looked.rows is not None else ", not looked at"
    share = "95% of the {} in the data have no more" + counted_by
    usual = "usual here" + counted_by
    batch = f"{sizes.pairs_a_step} pairs a step" + (
        f", which {answers.hardware.number} devices share" if answers.hardware.number > 1 else ""
    )
    return {
        "parameters": f"{(sizes.parameters or 0) / 1e9:.2g} billion parameters",
        "prompt_why": share.format("prompts") if looked.prompt_tokens else usual,
        "answer_why": share.format("answers") if looked.answer_tokens else usual,
        "new_why": "longest response, in tokens"
        + (": about as long as answers in the data" * bool(looked.answer_tokens)),
        "prompts_why": "one step's worth" if method.is_every_step else "of the next ones in a seeded order",
        "rate_why": "adapters take more than all weights" if sizes.lora_rank else "",
        "batch_why": batch,
        "steps_why": "a round is one step" if method.is_every_step else "no pair is used too often",
        "share_why": {
            name: "of every batch: the policy's own responses" if SOURCES[name].policy_responses else "of every batch"
            for name in method.shares
        },
    }


def _notes(answers: Answers, method: Method, labelers: Labelers, sizes: Sizes) -> list[str]:
    notes = []
    if method.left_out:
        notes.append(f"the data has no pairs: {' and '.join(method.left_out)} of {method.preset} is left out")
    if labelers.fits_reward:
        notes.append("the run fits a reward model on the pairs before its first round")
    if labelers.scorer is None:
        notes.append("nobody judges the result: name another labeler as evaluate.scorer for win rates")
    elif labelers.scores_itself:
        notes.append("who labels also judges: name another labeler as evaluate.scorer as soon as you have one")
    if answers.labels.kind == "judge" and (labelers.trains or labelers.scorer):
        notes.append("the judge's server has to be there: align doctor asks it")
    if answers.labels.kind == "person" and labelers.trains:
        pairs = counted(sizes.prompts_per_round, "pair")
        notes.append(f"you are asked about {pairs} a round: lower generate.prompts_per_round to what you can judge")
    if sizes.is_tight:
        notes.append("by its name the model is too large for this memory even in 4 bits: begin with --smoke")
    if sizes.parameters is None and answers.model != PLAYGROUND:
        notes.append("how large the model is is not known: numbers are those for a billion parameters")
    return notes


def _with_comment(line: str) -> str:
    value, mark, words = line.partition(MARK)
    return f"{value:{COLUMN}}# {words}" if mark and len(value) < COLUMN else f"{value}  # {words}" if mark else value
