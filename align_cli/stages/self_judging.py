"""The policy as judge of its own responses: what the label stage hands to labelers of kind `self_judge`.

What they ask and how answers are read is theirs (`labelers/self_judge.py`). Here a question becomes tokens of the
round's policy, as a chat by its template, or as plain text where it has none, and what it samples becomes text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from align_cli.artifacts.records import TemplateArguments, Text
from align_cli.engines import build_engine
from align_cli.engines.base import Request, Sample, SamplingSettings
from align_cli.errors import DataError, LabelerError
from align_cli.labelers import Labeler
from align_cli.labelers.self_judge import Conversation, SelfJudge, Written
from align_cli.models.load import Policy
from align_cli.models.text import PolicyText, decode_completion, plain_text, prompt_token_ids
from align_cli.recipe import Recipe
from align_cli.recipe.sections.engine_server import SERVER
from align_cli.recipe.sections.labelers import SelfJudgeLabelerSection
from align_cli.seeds import derive_seed
from align_cli.stages.base import Context, Loaded, asked_labelers

if TYPE_CHECKING:
    from align_cli.engines.base import Engine


def self_judges(recipe: Recipe, names: Iterable[str]) -> list[str]:
    """Of labelers, and those that they ask in their turn, the ones that are the policy itself."""
    return [
        name for name in asked_labelers(recipe, names) if isinstance(recipe.labelers[name], SelfJudgeLabelerSection)
    ]


def check_question(recipe: Recipe, name: str, loaded: Loaded) -> None:
    """Whether the policy can read what a self-judge asks, with room for a response and for an answer; loads no weights.

    Raises:
        LabelerError: if not.
        AlignError: if the policy's tokenizer cannot be had.
    """
    labeler, section = loaded.labeler(name), recipe.labelers[name]
    assert isinstance(labeler, SelfJudge) and isinstance(section, SelfJudgeLabelerSection)
    question, policy = labeler.question("", ""), loaded.inputs.policy
    num_tokens = len(_question_ids(policy, question, _arguments(recipe), name))
    response, answer = recipe.generate.max_new_tokens, section.max_new_tokens
    if policy.context_length is not None and num_tokens + response + answer > policy.context_length:
        raise LabelerError(
            f"the question takes {num_tokens} tokens, a response up to {response} (generate.max_new_tokens) and an "
            f"answer {answer}: more than the policy's context of {policy.context_length}",
            where=f"labelers.{name}.max_new_tokens",
            hint="lower one of the two, shorten the template, or take a model with a longer context",
        )


@contextmanager
def policy_handed_to(labeler: Labeler, context: Context) -> Iterator[None]:
    """While it lasts, those self-judges that a labeler is or asks have the policy whose responses the round labels."""
    judges = [one for one in (labeler, *labeler.members.values()) if isinstance(one, SelfJudge)]
    for judge in judges:
        judge.writer = PolicyWriter(context, judge.name)
    try:
        yield
    finally:
        for judge in judges:
            judge.writer = None


class PolicyWriter:
    """The round's policy, answering questions.

    Args:
        context: of the label stage.
        name: the labeler's, whose keys say how it is sampled.
    """

    def __init__(self, context: Context, name: str) -> None:
        recipe, section = context.recipe, context.recipe.labelers[name]
        assert isinstance(section, SelfJudgeLabelerSection)
        self.seed = derive_seed(recipe.seed, context.round, "label", name)
        self._name, self._arguments = name, _arguments(recipe)
        self._policy: Policy = context.loaded.policy_after(context.round - 1)
        self._settings = SamplingSettings(section.temperature, 0, section.top_p, section.max_new_tokens)
        generate = recipe.generate.model_copy(update={"batch_size": section.batch_size})
        own = recipe.model_copy(update={"generate": generate})
        is_served = generate.engine == SERVER  # by servers that are there once, whoever asks
        self._engine: Engine = context.loaded.engine if is_served else build_engine(own, context.note)

    def write(self, conversations: Sequence[Conversation], seeds: Sequence[int]) -> list[Written]:
        """An answer to each conversation.

        Raises:
            LabelerError: if the policy's template rejects one.
        """
        questions = [_question_ids(self._policy, one, self._arguments, self._name) for one in conversations]
        requests = [Request(ids, seed) for ids, seed in zip(questions, seeds, strict=True)]
        samples = self._samples({index: one for index, one in enumerate(requests) if self._has_room(one)})
        return [self._written(request, samples.get(index)) for index, request in enumerate(requests)]

    def _samples(self, requests: dict[int, Request]) -> dict[int, Sample]:
        places = list(requests)
        batches = self._engine.generate(self._policy, list(requests.values()), self._settings)
        return {places[position]: sample for batch in batches for position, sample in batch}

    def _has_room(self, request: Request) -> bool:
        context = self._policy.context_length
        return context is None or len(request.prompt_ids) + self._settings.max_new_tokens <= context

    def _written(self, request: Request, sample: Sample | None) -> Written:
        num_asked = len(request.prompt_ids)
        if sample is None:
            return Written("", num_asked, 0, "no room")
        text = decode_completion(self._policy.tokenizer, "", sample.token_ids, request.prompt_ids)
        return Written(plain_text(text), num_asked, len(sample.token_ids), sample.finish_reason)


def _question_ids(policy: PolicyText, conversation: Conversation, arguments: TemplateArguments, name: str) -> list[int]:
    prompt: Text = conversation if policy.tokenizer.chat_template else plain_text(conversation)
    try:
        return prompt_token_ids(policy.tokenizer, prompt, arguments)
    except DataError as error:
        fault = error.faults[0]
        what = f"the policy cannot read what it is asked: {fault.what}"
        raise LabelerError(what, where=f"labelers.{name}.template", hint=fault.hint) from error


def _arguments(recipe: Recipe) -> TemplateArguments:
    """What the chat template gets besides a question."""
    return TemplateArguments(None, recipe.policy.chat_template_kwargs)
