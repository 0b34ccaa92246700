"""What a run writes down: completions, preferences, evaluations, one frozen dataclass each.

On disk each is one JSON object a line, in TRL's dataset formats (`prompt`, `completion`; `prompt`, `chosen`,
`rejected`), with our fields beside them, so that `datasets.load_dataset("json", ...)` and TRL read them as they are.
None holds a time, a host or a duration: those live in the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

SCHEMA_VERSION = 1
"""Raised when the meaning of an artifact changes; an older run is then refused rather than misread."""

Text = str | list[dict[str, Any]]
"""A prompt or a completion: plain text, or chat messages with `role` and `content`."""


class TemplateArguments(NamedTuple):
    """What a conversation's chat template gets besides its messages, by TRL's names.

    Args:
        tools: JSON schemas; None for none.
        chat_template_kwargs: keyword arguments; None for none.
    """

    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """Those of a row in one of TRL's formats."""
        return cls(row.get("tools"), row.get("chat_template_kwargs"))


NO_ARGUMENTS = TemplateArguments()

UNION_BRANCHES = ("str", "list[dict[str,any]]")
"""What pydantic adds to the place of a fault to say which type of a union it tried."""

Probability = Annotated[float, Field(ge=0, le=1)]
Sampler = Literal["policy", "reference"]
Writer = Literal["dataset", "policy", "reference"]


class MalformedRecordError(ValueError):
    """A mapping that is not the record that it should be; the message names the key."""


@dataclass(frozen=True)
class Record:
    """What the records have in common: to and from a JSON object."""

    left_out: ClassVar[tuple[str, ...]] = ()
    """Fields that are left out of the JSON object where they are None."""

    def to_dict(self) -> dict[str, Any]:
        """The record as a JSON object, keys in the order of the fields."""
        return {key: value for key, value in asdict(self).items() if value is not None or key not in self.left_out}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """The record in a JSON object; keys that it does not know are left out.

        Raises:
            MalformedRecordError: for a missing key or a value of another type.
        """
        known = {field.name: row[field.name] for field in fields(cls) if field.name in row}
        for field in fields(cls):
            if field.default is MISSING and field.name not in known:
                raise MalformedRecordError(f"key {field.name!r} is missing")
        try:
            _validator(cls).validate_python(known, strict=True)  # type: ignore[arg-type]
            return cls(**known)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"] if part not in UNION_BRANCHES)
            wanted = f"{first['msg'][0].lower()}{first['msg'][1:]}"
            wanted += " or a list of messages" if len(first["loc"]) > 1 and first["loc"][1] == "str" else ""
            raise MalformedRecordError(f"key {place!r}: {wanted}") from None


@dataclass(frozen=True)
class OfPrompt(Record):
    """A record of a prompt, with what the prompt's chat template got."""

    left_out: ClassVar[tuple[str, ...]] = TemplateArguments._fields

    @property
    def template_arguments(self) -> TemplateArguments:
        """What the prompt's chat template got besides its messages."""
        return TemplateArguments.of_row(vars(self))


@dataclass(frozen=True)
class Completion(OfPrompt):
    """One sampled response.

    Args:
        prompt: as the dataset has it.
        completion: the sampled text without special tokens; one assistant message where the prompt is a chat.
        prompt_ids: the token ids that the policy was given.
        completion_ids: the token ids that it sampled, the end-of-sequence token included where there was one.
        logps: log-probability of each sampled token under the sampling distribution, in nats.
        finish_reason: `stop` (end of sequence) or `length` (cut at `max_new_tokens`).
        num_tokens: length of `completion_ids`.
        round: the round that sampled it, from 1; 0 in evaluations.
        prompt_index: row of the prompt in its dataset.
        sample_index: which of the prompt's samples, from 0.
        seed: what the sample was drawn with.
        policy: version of the model that sampled it.
        engine: what generated it.
        sampling: temperature, top_k, top_p, max_new_tokens.
        sampled_by: `policy` or `reference`: which model of the round that was.
        scores: of held-out responses, each scorer's score by its name; left out where there is none.
        from_text: true where the engine knew the response's text alone: its ids are what the policy's tokenizer makes
            of that; left out otherwise.
        tools: what the prompt's chat template got as tools; left out where there were none.
        chat_template_kwargs: what it got as keyword arguments; likewise.
    """

    left_out: ClassVar[tuple[str, ...]] = (*OfPrompt.left_out, "scores", "from_text")

    prompt: Text
    completion: Text
    prompt_ids: list[int]
    completion_ids: list[int]
    logps: list[float]
    finish_reason: str
    num_tokens: int
    round: int
    prompt_index: int
    sample_index: int
    seed: int
    policy: str
    engine: str
    sampling: dict[str, float | int]
    sampled_by: Sampler = "policy"
    scores: dict[str, float] | None = None
    from_text: bool | None = None
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


@dataclass(frozen=True)
class Preference(OfPrompt):
    """One pair with its label.

    Args:
        prompt: as the dataset has it.
        chosen: the response that won, or is likelier to be better.
        rejected: the other.
        label: probability that `chosen` is the better one, in [0, 1]; 1 is a hard label, 0.5 a tie.
        source: `offline`, `dpp`, `dpr` or `dmd`.
        labeler: name of the labeler in the recipe; `dataset` for labels that came with the data.
        prompt_ids: token ids of the prompt.
        chosen_ids: token ids of `chosen`; for a policy's responses exactly those that it sampled.
        rejected_ids: likewise.
        chosen_score: the labeler's score, where it gave one.
        rejected_score: likewise.
        chosen_scores: where several labelers were put together, the score of each, by name; else left out.
        rejected_scores: likewise.
        chosen_win_rate: how often it is expected to win against all of its prompt's responses of the policy, itself
            included, in [0, 1]; left out where labels were not made of that.
        rejected_win_rate: likewise.
        verdicts: the probability that `chosen` is better by the labeler, and by each that it put together, by name;
            left out where it gives scores.
        chosen_logp: log-probability of the whole response when it was sampled, in nats.
        rejected_logp: likewise.
        round: the round that made the pair; 0 for offline pairs.
        prompt_index: row of the prompt in its dataset.
        chosen_index: which of the prompt's samples.
        rejected_index: likewise.
        policy: version of the policy whose responses these are.
        rounds_behind: of responses that were sampled ahead, how many rounds of training lie between that policy and the
            one that the pair's round starts training from; left out where there is none.
        chosen_by: who wrote the chosen response: `dataset`, `policy` or `reference`.
        rejected_by: likewise.
        other_ids: token ids of the policy's other responses to the prompt where the choice of these two depended on
            them and a bilevel coefficient is set; None otherwise.
        other_logps: log-probability of each of those when it was sampled, in nats.
        tools: what the prompt's chat template got as tools; left out where there were none.
        chat_template_kwargs: what it got as keyword arguments; likewise.
    """

    left_out: ClassVar[tuple[str, ...]] = (
        *OfPrompt.left_out, "chosen_scores", "rejected_scores", "verdicts", "chosen_win_rate", "rejected_win_rate",
        "rounds_behind",
    )  # fmt: skip

    prompt: Text
    chosen: Text
    rejected: Text
    label: Probability = 1.0
    source: str = "offline"
    labeler: str = "dataset"
    prompt_ids: list[int] | None = None
    chosen_ids: list[int] | None = None
    rejected_ids: list[int] | None = None
    chosen_score: float | None = None
    rejected_score: float | None = None
    chosen_scores: dict[str, float] | None = None
    rejected_scores: dict[str, float] | None = None
    verdicts: dict[str, float] | None = None
    chosen_win_rate: Probability | None = None
    rejected_win_rate: Probability | None = None
    chosen_logp: float | None = None
    rejected_logp: float | None = None
    round: int = 0
    prompt_index: int | None = None
    chosen_index: int | None = None
    rejected_index: int | None = None
    policy: str | None = None
    chosen_by: Writer = "dataset"
    rejected_by: Writer = "dataset"
    other_ids: list[list[int]] | None = None
    other_logps: list[float] | None = None
    rounds_behind: int | None = None
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


@dataclass(frozen=True)
class PairLogps(Record):
    """What a reference says of a pair's two responses.

    Args:
        reference: digest of the reference's version, and of how it is run: types, attention, kernel.
        chosen: digest of the token ids of the chosen response and its prompt.
        rejected: likewise.
        chosen_logp: log-probability of the whole response, in nats.
        rejected_logp: likewise.
    """

    reference: str
    chosen: str
    rejected: str
    chosen_logp: float
    rejected_logp: float


@dataclass(frozen=True)
class Evaluation(Record):
    """How a policy does on held-out prompts and pairs.

    Args:
        round: rounds that the policy has been trained for.
        policy: its version.
        num_prompts: held-out prompts, one response each.
        scorer: name of the labeler that judges, by which the best round is chosen; None without one.
        reward: mean score with its standard error; None without a scorer, or where it gives verdicts.
        against: per opponent `win_rate` (ties count one half), `low` and `high` (bootstrap 95% interval), `wins`,
            `ties`, `losses` and the opponent's version; empty without a scorer. What it would be at equal lengths is
            `length_controlled_win_rate`, `length_controlled_low`, `length_controlled_high`, and `length_slope` is above
            0 where longer responses win (`metrics.length_control`). `unanswered` counts prompts without a verdict,
            which are in none of these.
        kl: KL(policy ‖ reference) of whole responses in nats, mean and standard error, and the reference's version;
            over responses drawn from the policy itself, whatever `sampling` says.
        length: mean response length in tokens with its standard error.
        eos_rate: share of responses that ended by themselves.
        distinct_2: distinct bigrams over all bigrams of the responses.
        preferences: on held-out offline pairs `accuracy`, `margin` (β · h) and `num_pairs`; None without any.
        sampling: how the responses were sampled.
        other_scorers: `reward` and `against` by each other scorer, by its name; left out where there is none.
        labelers: what scorers have to say of their work, by name, such as calls; likewise.
    """

    left_out: ClassVar[tuple[str, ...]] = ("other_scorers", "labelers")

    round: int
    policy: str
    num_prompts: int
    scorer: str | None
    reward: dict[str, float] | None
    against: dict[str, dict[str, float | int | str]]
    kl: dict[str, float | str]
    length: dict[str, float]
    eos_rate: float
    distinct_2: float
    preferences: dict[str, float | int] | None
    sampling: dict[str, float | int]
    other_scorers: dict[str, dict[str, Any]] | None = None
    labelers: dict[str, dict[str, float]] | None = None


@dataclass(frozen=True)
class RewardReport(Record):
    """What a reward model that a run has fitted is worth.

    Args:
        model: the version of its weights.
        base: the model that it was made of, as the recipe names it.
        num_pairs: pairs that it was fitted on.
        num_steps: optimizer steps; 0 for a head on frozen features.
        not_fitted: pairs that were left out of what it was fitted on, or cut, by reason.
        num_shared_prompts: held-out pairs whose prompt it was fitted on.
        held_out: on pairs that it was not fitted on: `accuracy` with `low` and `high` (bootstrap over prompts, 95%),
            `length_accuracy` of taking the longer response with its own `length_low` and `length_high`,
            `length_agreement`: how often it takes the longer one; `log_loss` in nats a pair and `calibration_error` of
            σ(margin), the mean `margin`, and `num_pairs`.
        fitted: the same figures on pairs that it was fitted on, a part of them where there are many.
        reliability: by confidence from one half to 1: `low`, `high`, `num_pairs`, mean `confidence`, `accuracy`.
    """

    model: str
    base: str
    num_pairs: int
    num_steps: int
    not_fitted: dict[str, int]
    num_shared_prompts: int
    held_out: dict[str, float | int]
    fitted: dict[str, float | int]
    reliability: list[dict[str, float | int]]


@cache
def _validator(cls: type[Record]) -> TypeAdapter[Any]:
    """Checks the record's fields as those of a TypedDict, which spares a second class by hand."""
    from typing_extensions import TypedDict

    hints = {field.name: get_type_hints(cls, include_extras=True)[field.name] for field in fields(cls)}
    return TypeAdapter(TypedDict(cls.__name__, hints, total=False))  # type: ignore[operator]
