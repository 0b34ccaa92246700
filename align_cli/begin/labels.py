"""The labelers of a recipe: who labels the policy's responses, and who judges the result, which should be another."""

from __future__ import annotations

from typing import Any, NamedTuple

from align_cli.begin.answers import DEFAULT_REWARD_MODEL, HIDDEN_REWARD, Answers, Labels
from align_cli.begin.looked import Looked
from align_cli.begin.methods import Method
from align_cli.errors import RecipeError
from align_cli.models.hub import is_cached
from align_cli.recipe.data_names import PLAYGROUND
from align_cli.recipe.sections.labelers.reward_model import OF_RUN

TRAINS, JUDGES = "trains", "judges"
OF_VERDICTS = ("judge", "person")
"""Who is asked which of two is better."""
DEFAULT_SCORER = "OpenAssistant/reward-model-deberta-v3-large-v2"
"""Another model than those that label: rewards can be gamed."""


class Labelers(NamedTuple):
    """Who labels and who judges.

    Args:
        sections: each labeler's keys, by its name.
        why: what each is for, by its name.
        trains: the name of the one that labels responses; None where the preset needs none, or brings its own.
        scorer: the name of the one that judges the result; None where there is none.
        fits_reward: whether the run fits a reward model on its pairs.
        are_drawn: whether labels are drawn by scores, as those of the playground's pairs were.
    """

    sections: dict[str, dict[str, Any]]
    why: dict[str, str]
    trains: str | None
    scorer: str | None
    fits_reward: bool = False
    are_drawn: bool = False

    @property
    def scores_itself(self) -> bool:
        """Whether who labels also judges."""
        return self.scorer is not None and self.scorer == self.trains


def labelers_for(answers: Answers, method: Method, looked: Looked) -> Labelers:
    """The labelers that these answers mean.

    Raises:
        RecipeError: if the labels that are asked for cannot be had.
    """
    sections, why = {}, {}
    if method.judges_itself:
        _check_judges_itself(answers, "--method")
    if method.needs_labeler:
        _check_gives_scores(answers, method)
        sections[TRAINS], why[TRAINS] = _trains(answers, looked)
    scorer, words = _scorer(answers, method, looked)
    if scorer is not None:
        sections[JUDGES], why[JUDGES] = scorer, words
    name = JUDGES if scorer is not None else None
    if scorer is None and method.needs_labeler and answers.labels.kind == "function":
        name = TRAINS
    return Labelers(
        sections,
        why,
        TRAINS if method.needs_labeler else None,
        name,
        fits_reward=any(section.get("model_name_or_path") == OF_RUN for section in sections.values()),
        are_drawn=answers.data == PLAYGROUND and TRAINS in sections and sections[TRAINS]["kind"] == "function",
    )


def _trains(answers: Answers, looked: Looked) -> tuple[dict[str, Any], str]:
    labels = answers.labels
    if labels.kind == "dataset":
        if answers.data == PLAYGROUND:
            return _section(Labels("function", HIDDEN_REWARD), answers, looked), "who labelled the pairs, too"
        if not looked.has_pairs:
            what = f"{answers.method} labels the policy's own responses, and {answers.data} has no labels to learn from"
            hint = "say who labels them: --labels function=..., reward_model, judge, policy or person"
            raise RecipeError(what, where="--labels", hint=hint)
        return _section(Labels("reward_model", OF_RUN), answers, looked), "labels responses as the pairs are labelled"
    why = "labels responses: you are asked each round" if labels.kind == "person" else "labels the policy's responses"
    return _section(labels, answers, looked), why


def _scorer(answers: Answers, method: Method, looked: Looked) -> tuple[dict[str, Any] | None, str]:
    """Who judges the result, and why; None where it is whoever labels, or nobody."""
    labels, why = answers.labels, "judges the result"
    if answers.data == PLAYGROUND:
        return _section(Labels("function", HIDDEN_REWARD), answers, looked), "the truth, which labels are drawn from"
    if labels.kind in ("function", "reward_model", "judge") and not method.needs_labeler:
        return _section(labels, answers, looked), why
    if labels.kind == "function":
        return None, ""
    name = DEFAULT_REWARD_MODEL if labels.name == DEFAULT_SCORER else DEFAULT_SCORER
    if not _can_be_had(name):
        return None, ""
    return {"kind": "reward_model", "model_name_or_path": name}, f"{why}: another one than labels, as rewards are gamed"


def _section(labels: Labels, answers: Answers, looked: Looked) -> dict[str, Any]:
    """A labeler's keys."""
    if labels.kind == "function":
        return {"kind": "function", "function": labels.name}
    if labels.kind == "judge":
        model, _, url = labels.name.partition("@")
        return {"kind": "judge", "base_url": url, "model": model}
    if labels.kind == "policy":
        _check_judges_itself(answers, "--labels")
        return {"kind": "self_judge", "votes": 1, "max_new_tokens": 256}
    if labels.kind == "person":
        return {"kind": "person"}
    if labels.name == OF_RUN:
        _check_can_be_fitted(answers, looked)
    return {"kind": "reward_model", "model_name_or_path": labels.name}


def _check_gives_scores(answers: Answers, method: Method) -> None:
    if method.needs_scores and answers.labels.kind in OF_VERDICTS:
        what = f"{method.preset} regresses on a difference of scores, and {answers.labels.kind} gives verdicts on pairs"
        hint = "take labels that are scores: function, reward_model or policy; or another method, such as sppo"
        raise RecipeError(what, where="--labels", hint=hint)


def _check_judges_itself(answers: Answers, where: str) -> None:
    if answers.model == PLAYGROUND:
        what = "the playground's model cannot judge: it knows the words of its reviews, and reads no question"
        raise RecipeError(what, where=where, hint="take labels and a method by which another one judges")


def _check_can_be_fitted(answers: Answers, looked: Looked) -> None:
    if answers.model == PLAYGROUND:
        what = "a reward model is fitted on a model that is there already, and the playground's is made by the run"
        raise RecipeError(what, where="--labels", hint="take --labels function, which asks the playground's own reward")
    if not looked.has_pairs:
        what = f"reward_model={OF_RUN} is fitted on pairs, and {looked.data} has none"
        raise RecipeError(what, where="--labels", hint="name a reward model: --labels reward_model=org/name")


def _can_be_had(model: str) -> bool:
    """Whether the Hub can be asked for a model, or its cache has it."""
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE or is_cached(model)
