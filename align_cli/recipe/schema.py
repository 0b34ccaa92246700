"""Every key of a recipe: its type, its range, its default and what it is for.

This file owns the shape of a recipe and nothing else: `reader` turns YAML into it, `rules` checks what spans several
keys. A field's description is the documentation that users see. Imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

LOSS_TYPE_ALIASES = {"dpo": "sigmoid", "slic": "hinge"}
BILEVEL_LOSSES = ("sigmoid", "ipo", "hinge")
OWN_LOSSES = (*BILEVEL_LOSSES, "simpo")


def _canonical_loss_type(value: Any) -> Any:
    return LOSS_TYPE_ALIASES.get(value, value) if isinstance(value, str) else value


def _one_or_many(value: Any) -> str:
    return "many" if isinstance(value, list) else "one"


LossType = Annotated[
    Literal[
        "sigmoid", "ipo", "hinge", "simpo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
        "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
    ],
    BeforeValidator(_canonical_loss_type),
]  # fmt: skip
LossTypes = Annotated[
    Annotated[LossType, Tag("one")] | Annotated[list[LossType], Field(min_length=1), Tag("many")],
    Discriminator(_one_or_many),
]
KeepOrDrop = Literal["keep", "drop"]


class Section(BaseModel):
    """A mapping of the recipe: unknown keys are faults, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=False)


class SftSection(Section):
    """`policy.sft`: a supervised warm start before the first round."""

    dataset: str = Field(description="demonstrations: `playground`, `reviews`, a file, a folder or a Hub id")
    max_steps: int = Field(600, ge=1, description="optimizer steps")
    learning_rate: float = Field(3.0e-3, gt=0, description="peak learning rate of AdamW")
    per_device_train_batch_size: int = Field(64, ge=1, description="sequences a step")
    warmup_steps: int = Field(20, ge=0, description="steps of linear warm-up; cosine decay to zero follows")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's weight decay")


class FromScratchSection(Section):
    """`policy.from_scratch`: a new tokenizer and a randomly initialised model, trained by `policy.sft`."""

    architecture: Literal["llama", "qwen2"] = Field("llama", description="model family in transformers")
    vocab_size: int = Field(4096, ge=300, description="byte-level BPE vocabulary, trained on the SFT texts")
    hidden_size: int = Field(192, ge=8, description="width")
    num_hidden_layers: int = Field(3, ge=1, description="depth")
    num_attention_heads: int = Field(6, ge=1, description="attention heads; must divide hidden_size")
    max_position_embeddings: int = Field(128, ge=8, description="longest sequence in tokens")


class PolicySection(Section):
    """`policy`: the model being trained, and what its KL anchor points to."""

    model_name_or_path: str | None = Field(
        None, description="Hub id, folder, or `playground`, whose model is made from the seed"
    )
    from_scratch: FromScratchSection | None = Field(None, description="in place of model_name_or_path: a new model")
    revision: str | None = Field(None, description="branch, tag or commit of a Hub model")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="type of the loaded weights")
    trust_remote_code: bool = Field(False, description="run code that ships with the model; off unless you read it")
    reference: Literal["initial", "previous"] = Field(
        "initial", description="the reference model: the initial policy, or the policy of the previous round"
    )
    sft: SftSection | None = Field(None, description="supervised warm start; none when left out")


class DataSection(Section):
    """`data`: where prompts and offline pairs come from; each value is a world's name, a file, a folder or a Hub id."""

    prompts: str | None = Field(None, description="training prompts; each round takes the next of a seeded order")
    preferences: str | None = Field(None, description="offline pairs for the `offline` source")
    demonstrations: str | None = Field(
        None, description="prompts with a response each, which the source `dmd` chooses over the policy's"
    )
    eval_prompts: str | None = Field(None, description="held-out prompts, never trained on")
    eval_preferences: str | None = Field(None, description="held-out offline pairs; a built-in world brings its own")


class PlaygroundSection(Section):
    """`playground`: the built-in world behind the name `playground`."""

    setting: Literal["plenty", "few", "other-writer", "almost-none"] = Field(
        "plenty", description="offline pairs: many, few and noisy, from another writer, or almost none"
    )
    architecture: Literal["llama", "qwen2"] = Field("llama", description="architecture of the tiny model")


class ReviewsSection(Section):
    """`reviews`: the world of real sentences behind the name `reviews`."""

    liked: str = Field(description="text file, one liked sentence a line (.txt or .txt.gz)")
    disliked: str = Field(description="text file, one disliked sentence a line (.txt or .txt.gz)")
    prompt_words: int = Field(2, ge=1, description="how many first words of a sentence make a prompt")


class DatasetLabelerSection(Section):
    """A labeler of kind `dataset`: the labels that offline pairs came with."""

    kind: Literal["dataset"] = Field(description="what gives the labels")


class FunctionLabelerSection(Section):
    """A labeler of kind `function`: Python that scores completions, called as TRL calls reward functions on text."""

    kind: Literal["function"] = Field(description="what gives the labels")
    function: str = Field(description="`package.module:name` or `path/to/file.py:name`")
    arguments: dict[str, Any] | None = Field(
        None, description="when given, `name(**arguments)` is called once and must return the scoring function"
    )
    batch_size: int = Field(64, ge=1, description="completions a call")


LabelerSection = Annotated[DatasetLabelerSection | FunctionLabelerSection, Field(discriminator="kind")]


class OfflineSourceSection(Section):
    """`method.sources.offline`: responses and label from the dataset."""

    policy_responses: ClassVar[bool] = False
    policy_labels: ClassVar[bool] = False

    mixing: float = Field(ge=0, le=1, description="share of every batch")
    labeler: str = Field("dataset", description="`dataset`, or the name of a labeler of kind `dataset`")


class DdpSourceSection(Section):
    """`method.sources.ddp` (SAIL-DP): responses from the dataset, label from the policy itself."""

    policy_responses: ClassVar[bool] = False
    policy_labels: ClassVar[bool] = True

    mixing: float = Field(ge=0, le=1, description="share of every batch (paper: 0.4)")
    gradient: float = Field(
        0.0, ge=0, description="coefficient of the bilevel label term: 1 exact, 0 plain loss (paper: 0.2)"
    )


class DppSourceSection(Section):
    """`method.sources.dpp` (SAIL-PP): responses from the policy, label from the policy itself."""

    policy_responses: ClassVar[bool] = True
    policy_labels: ClassVar[bool] = True

    mixing: float = Field(ge=0, le=1, description="share of every batch (paper: 0.3)")
    gradient: float = Field(
        0.0, ge=0, description="coefficient of both bilevel terms: 1 exact, 0 plain loss (paper: 0.2)"
    )


class DprSourceSection(Section):
    """`method.sources.dpr` (SAIL-PR): responses from the policy, label from a reward."""

    policy_responses: ClassVar[bool] = True
    policy_labels: ClassVar[bool] = False

    mixing: float = Field(ge=0, le=1, description="share of every batch (paper: 0.3)")
    gradient: float = Field(
        0.0, ge=0, description="coefficient of the bilevel response term: 1 exact, 0 plain loss (paper: 0.3)"
    )
    labeler: str | None = Field(None, description="name of the labeler that scores the responses")


class DmdSourceSection(Section):
    """`method.sources.dmd`: mixed pairs, a demonstration chosen over the policy's response to its prompt (SPIN)."""

    policy_responses: ClassVar[bool] = True
    policy_labels: ClassVar[bool] = False

    mixing: float = Field(ge=0, le=1, description="share of every batch")
    gradient: float = Field(
        0.0, ge=0, description="coefficient of the bilevel term of the policy's response: 1 exact, 0 plain loss"
    )


SourceSection = OfflineSourceSection | DdpSourceSection | DppSourceSection | DprSourceSection | DmdSourceSection


class SourcesSection(Section):
    """`method.sources`: where the pairs of a batch come from, in exact shares that sum to 1."""

    offline: OfflineSourceSection | None = Field(None, description="dataset pairs, dataset labels")
    ddp: DdpSourceSection | None = Field(None, description="dataset pairs, the policy's own labels (SAIL-DP)")
    dpp: DppSourceSection | None = Field(None, description="policy pairs, the policy's own labels (SAIL-PP)")
    dpr: DprSourceSection | None = Field(None, description="policy pairs, reward labels (SAIL-PR)")
    dmd: DmdSourceSection | None = Field(None, description="a demonstration against the policy's response (SPIN)")

    def in_use(self) -> dict[str, SourceSection]:
        """The sources with a share, by name, in the schema's order: the order of the mixture everywhere."""
        sections: dict[str, SourceSection | None] = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: section for name, section in sections.items() if section is not None and section.mixing > 0}


class KlSection(Section):
    """`method.kl`: reverse KL to the reference as a loss (SAIL-RevKL, arXiv:2606.31524)."""

    coefficient: float = Field(0.0, ge=0, description="weight of the mean KL of a response, in nats")
    on: Literal["policy", "all"] = Field(
        "policy", description="responses that carry it: those that the policy sampled, or all of every batch"
    )
    gradient: Literal["pathwise", "full"] = Field(
        "full", description="the exact gradient of sequence KL, or its pathwise part alone, which is a regulariser"
    )


class OptimismSection(Section):
    """`method.optimism`: makes likelier what the reference would not say (XPO arXiv:2405.21046, SELM 2405.19332)."""

    coefficient: float = Field(
        0.0,
        ge=0,
        description="weight of the mean log-ratio of responses that the reference sampled (SELM's αβ, XPO's α)",
    )
    on: Literal["reference", "policy"] = Field(
        "reference",
        description="responses that carry it: those of generate.num_reference_generations, or the round's own where "
        "policy.reference is previous, since that policy sampled them",
    )


class MethodSection(Section):
    """`method`: the loss, the mixture of sources and the bilevel coefficients."""

    TRL_OPTIONS: ClassVar[tuple[str, ...]] = (
        "label_smoothing", "f_divergence_type", "f_alpha_divergence_coef", "use_weighting", "discopop_tau", "ld_alpha",
    )  # fmt: skip

    loss_type: LossTypes = Field(
        "sigmoid",
        description="sigmoid (dpo), ipo, hinge (slic) or simpo; the others are TRL's own, one of them or a list, and "
        "take no coefficients",
    )
    beta: float = Field(
        0.1, gt=0, description="strength of the loss's tie to the reference (IPO: tau; SimPO: scale of its margin)"
    )
    sources: SourcesSection = Field(description="the mixture")
    kl: KlSection = KlSection()
    optimism: OptimismSection = OptimismSection()
    importance_weight_cap: float | None = Field(
        None, gt=0, description="largest weight πθ/π_sampled of a pair of the policy's; unset trains as sampled"
    )
    simpo_gamma: float = Field(0.5, ge=0, description="simpo: the margin to win by (γ); the paper takes 0.1β to 0.8β")
    loss_weights: list[Annotated[float, Field(ge=0)]] | None = Field(
        None, description="a weight, at least 0, for each of a list of losses; unset: 1 each"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="robust: share of labels that are flipped; exo_pair: its ε"
    )
    f_divergence_type: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = Field(
        "reverse_kl", description="f-DPO's divergence (arXiv:2309.16240)"
    )
    f_alpha_divergence_coef: float = Field(0.5, description="α of alpha_divergence")
    use_weighting: bool = Field(
        False, description="weigh pairs by their probability under the policy (WPO, 2406.11827)"
    )
    discopop_tau: float = Field(0.05, gt=0, description="temperature of discopop")
    ld_alpha: float | None = Field(
        None, ge=0, le=1, description="weight of the tokens beyond the shorter response's length (LD-DPO, 2409.06411)"
    )

    @property
    def loss_types(self) -> list[str]:
        """The losses, also where there is one."""
        return list(self.loss_type) if isinstance(self.loss_type, list) else [self.loss_type]

    @property
    def trl_keys(self) -> list[str]:
        """The keys that make the loss TRL's own: losses that align has not, several at once, or options of TRL's."""
        fields = type(self).model_fields
        options = [name for name in self.TRL_OPTIONS if getattr(self, name) != fields[name].default]
        is_other = len(self.loss_types) > 1 or self.loss_types[0] not in OWN_LOSSES
        return [*(["loss_type"] if is_other else []), *options]

    @property
    def uses_trl_loss(self) -> bool:
        """Whether TRL computes the loss, as it stands."""
        return bool(self.trl_keys)


class GenerateSection(Section):
    """`generate`: how the policy is sampled."""

    engine: Literal["transformers"] = Field("transformers", description="what generates text")
    num_generations: int = Field(2, ge=1, description="completions a prompt (K)")
    num_reference_generations: int = Field(
        0, ge=0, description="completions a prompt that the reference samples besides, for the source dpr"
    )
    temperature: float = Field(1.0, gt=0, description="sampling temperature")
    top_k: int = Field(0, ge=0, description="keep the k likeliest tokens; 0 keeps all")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus mass; 1 keeps all")
    max_new_tokens: int = Field(64, ge=1, description="longest completion, in tokens")
    prompts_per_round: int = Field(512, ge=1, description="prompts sampled each round")
    batch_size: int = Field(128, ge=1, description="sequences generated together; changes no sampled token")


class LabelSection(Section):
    """`label`: how scored completions become pairs. Every pair that is left out is counted."""

    pairs: Literal["best_worst", "best_random", "all"] = Field(
        "best_worst", description="of K completions: best against worst, best against a random other, or all pairs"
    )
    labels: Literal["hard", "sampled", "soft"] = Field(
        "hard", description="higher score wins; drawn by Bradley-Terry; or the Bradley-Terry probability itself"
    )
    temperature: float = Field(1.0, gt=0, description="Bradley-Terry temperature of sampled and soft labels")
    min_margin: float = Field(0.0, ge=0, description="smallest score difference; closer pairs are dropped")
    ties: KeepOrDrop | None = Field(
        None,
        description="pairs of equal score: keep (label one half) or drop; unset: keep with gradient, full KL, optimism",
    )
    equal_texts: KeepOrDrop | None = Field(
        None, description="pairs of the same tokens: keep or drop; unset: keep with gradient, full KL, optimism"
    )
    empty_texts: KeepOrDrop = Field("keep", description="pairs with an empty completion: keep or drop")


class TrainSection(BaseModel):
    """`train`: the train stage. Any other key of transformers' TrainingArguments passes through."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    learning_rate: float = Field(1.0e-6, gt=0, description="peak learning rate (TRL's default for DPO)")
    per_device_train_batch_size: int = Field(8, ge=1, description="pairs a forward pass")
    gradient_accumulation_steps: int = Field(1, ge=1, description="forward passes an optimizer step")
    steps_per_round: int = Field(ge=1, description="optimizer steps a round")
    schedule: Literal["run", "round"] = Field(
        "run", description="the learning-rate schedule spans the whole run, or starts anew each round"
    )
    reset_optimizer_each_round: bool = Field(False, description="drop Adam's moments at the start of each round")
    replay_rounds: int = Field(0, ge=0, description="earlier rounds whose pairs join the round's own")
    source_grad_norms: Literal["round", "step", "never"] = Field(
        "round",
        description="when the gradient norm of each source is measured, for the price of a step: at each round's first "
        "step, at every step, or never",
    )

    @property
    def training_arguments(self) -> dict[str, Any]:
        """The keys that pass through to TrainingArguments."""
        return dict(self.model_extra or {})


class CheckpointsSection(Section):
    """`checkpoints`: how much work a kill can cost, and how many rounds' checkpoints stay."""

    every_steps: int | None = Field(
        None, ge=1, description="optimizer steps between checkpoints within a round; unset: none but at its end"
    )
    keep: int | None = Field(
        None, ge=1, description="latest rounds whose checkpoints stay, besides the initial and the best one; unset: all"
    )


GuardAction = Literal["stop", "rollback", "warn"]
_ACTION = "what to do: stop the run, roll back to the best round's policy, or warn"


class NonFiniteGuardSection(Section):
    """`guards.non_finite`: a loss or a gradient of a step is infinite or no number."""

    action: Literal["stop", "rollback"] = Field(
        "stop", description="stop the run, or give the round up and go on from the best round's policy"
    )


class KlGuardSection(Section):
    """`guards.kl`: the evaluation's KL to the reference is too large."""

    above: float = Field(50.0, gt=0, description="nats a response")
    action: GuardAction = Field("warn", description=_ACTION)


class LengthGuardSection(Section):
    """`guards.length`: responses collapse or explode, measured by the initial policy's mean length."""

    shrunk_to: float = Field(0.25, ge=0, lt=1, description="share of the initial length below which they collapse")
    grown_to: float = Field(4.0, gt=1, description="multiple of the initial length above which they explode")
    action: GuardAction = Field("warn", description=_ACTION)


class EosGuardSection(Section):
    """`guards.eos_rate`: responses no longer end by themselves, measured by the initial policy's EOS rate."""

    fallen_to: float = Field(0.5, gt=0, lt=1, description="share of the initial EOS rate")
    action: GuardAction = Field("warn", description=_ACTION)


class StuckLossGuardSection(Section):
    """`guards.stuck_loss`: DPO's loss stays at ln 2, as if the pairs said nothing."""

    steps: int = Field(50, ge=1, description="last steps of a round that have to stay there")
    within: float = Field(
        1.0e-3,
        gt=0,
        description="distance from ln 2 that counts as there; for losses that are elsewhere at a margin of 0, a share "
        "of it",
    )
    action: GuardAction = Field("warn", description=_ACTION)


class WinRateGuardSection(Section):
    """`guards.win_rate`: the win rate against the initial policy falls round after round."""

    rounds: int = Field(2, ge=1, description="rounds in a row")
    action: GuardAction = Field("warn", description=_ACTION)


class RewardGapGuardSection(Section):
    """`guards.reward_gap`: the training labeler's reward rises while the evaluation scorer's falls."""

    rounds: int = Field(2, ge=1, description="rounds in a row")
    action: GuardAction = Field("warn", description=_ACTION)


class GuardsSection(Section):
    """`guards`: what tells that training goes wrong, and what to do about it; null switches one off."""

    non_finite: NonFiniteGuardSection = NonFiniteGuardSection()
    kl: KlGuardSection | None = KlGuardSection()
    length: LengthGuardSection | None = LengthGuardSection()
    eos_rate: EosGuardSection | None = EosGuardSection()
    stuck_loss: StuckLossGuardSection | None = StuckLossGuardSection()
    win_rate: WinRateGuardSection | None = WinRateGuardSection()
    reward_gap: RewardGapGuardSection | None = RewardGapGuardSection()


class EvaluateSection(Section):
    """`evaluate`: held-out prompts, each policy against named opponents, by a scorer of its own."""

    num_prompts: int = Field(512, ge=1, description="held-out prompts used, the first of a seeded order")
    against: list[Literal["initial", "previous"]] = Field(
        default=["initial", "previous"], description="opponents of the win rate"
    )
    scorer: str | None = Field(None, description="name of the labeler that scores; should not be the training labeler")


class Recipe(Section):
    """A whole recipe, checked: what `align train` does."""

    output_dir: str = Field(description="the run's folder")
    preset: str | None = Field(None, description="a prior method, whose keys fill in what the recipe leaves out")
    seed: int = Field(0, ge=0, description="every random choice derives from it")
    rounds: int = Field(3, ge=1, description="how many rounds; may be raised on a finished run")
    policy: PolicySection
    data: DataSection
    playground: PlaygroundSection = PlaygroundSection()
    reviews: ReviewsSection | None = None
    labelers: dict[str, LabelerSection] = Field(default={}, description="labelers by name")
    method: MethodSection
    generate: GenerateSection = GenerateSection()
    label: LabelSection = LabelSection()
    train: TrainSection
    checkpoints: CheckpointsSection = CheckpointsSection()
    evaluate: EvaluateSection = EvaluateSection()
    guards: GuardsSection = GuardsSection()

    @property
    def global_batch_size(self) -> int:
        """Pairs in one optimizer step of one process."""
        return self.train.per_device_train_batch_size * self.train.gradient_accumulation_steps

    @property
    def is_online(self) -> bool:
        """Whether rounds sample the policy at all."""
        return any(source.policy_responses for source in self.method.sources.in_use().values())
