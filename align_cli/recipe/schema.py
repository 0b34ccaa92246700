"""Every key of a recipe: its type, its range, its default and what it is for.

This file owns the shape of a recipe and nothing else: `reader` turns YAML into it, `rules` checks what spans several
keys. A field's description is the documentation that users see. Imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

LOSS_TYPE_ALIASES = {"dpo": "sigmoid", "slic": "hinge"}


def _canonical_loss_type(value: Any) -> Any:
    return LOSS_TYPE_ALIASES.get(value, value) if isinstance(value, str) else value


LossType = Annotated[Literal["sigmoid", "ipo", "hinge"], BeforeValidator(_canonical_loss_type)]
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


SourceSection = OfflineSourceSection | DdpSourceSection | DppSourceSection | DprSourceSection


class SourcesSection(Section):
    """`method.sources`: where the pairs of a batch come from, in exact shares that sum to 1."""

    offline: OfflineSourceSection | None = Field(None, description="dataset pairs, dataset labels")
    ddp: DdpSourceSection | None = Field(None, description="dataset pairs, the policy's own labels (SAIL-DP)")
    dpp: DppSourceSection | None = Field(None, description="policy pairs, the policy's own labels (SAIL-PP)")
    dpr: DprSourceSection | None = Field(None, description="policy pairs, reward labels (SAIL-PR)")

    def in_use(self) -> dict[str, SourceSection]:
        """The sources with a share, by name, in the schema's order: the order of the mixture everywhere."""
        sections: dict[str, SourceSection | None] = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: section for name, section in sections.items() if section is not None and section.mixing > 0}


class KlSection(Section):
    """`method.kl`: reverse KL to the reference as a loss (SAIL-RevKL, arXiv:2606.31524)."""

    coefficient: float = Field(0.0, ge=0, description="weight of the mean KL of a response, in nats")
    on: Literal["policy", "all"] = Field(
        "policy", description="responses that carry it: those of the policy's sources, or all of every batch"
    )
    gradient: Literal["pathwise", "full"] = Field(
        "full", description="the exact gradient of sequence KL, or its pathwise part alone, which is a regulariser"
    )


class MethodSection(Section):
    """`method`: the loss, the mixture of sources and the bilevel coefficients."""

    loss_type: LossType = Field("sigmoid", description="sigmoid (dpo), ipo or hinge (slic)")
    beta: float = Field(0.1, gt=0, description="inverse strength of the loss's tie to the reference (IPO: tau)")
    sources: SourcesSection = Field(description="the mixture")
    kl: KlSection = KlSection()
    importance_weight_cap: float | None = Field(
        None, gt=0, description="largest weight πθ/π_sampled of a pair of the policy's; unset trains as sampled"
    )


class GenerateSection(Section):
    """`generate`: how the policy is sampled."""

    engine: Literal["transformers"] = Field("transformers", description="what generates text")
    num_generations: int = Field(2, ge=1, description="completions a prompt (K)")
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
        None, description="pairs of equal score: keep (label one half) or drop; unset: keep where a gradient is set"
    )
    equal_texts: KeepOrDrop | None = Field(
        None, description="pairs of the same tokens: keep or drop; unset: keep where a gradient is set"
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

    @property
    def training_arguments(self) -> dict[str, Any]:
        """The keys that pass through to TrainingArguments."""
        return dict(self.model_extra or {})


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
    evaluate: EvaluateSection = EvaluateSection()

    @property
    def global_batch_size(self) -> int:
        """Pairs in one optimizer step of one process."""
        return self.train.per_device_train_batch_size * self.train.gradient_accumulation_steps

    @property
    def is_online(self) -> bool:
        """Whether rounds sample the policy at all."""
        return any(source.policy_responses for source in self.method.sources.in_use().values())
