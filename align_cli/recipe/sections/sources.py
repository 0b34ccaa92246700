"""`method.sources`: where the pairs of a batch come from.

A source is a section here, a line in `SourcesSection`, a file in `stages/pairing` if it samples the policy, and a test.

What the rest of align has to know of a source stands beside its keys; the fields are the table of sources, and their
order is that of the mixture everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from align_cli.recipe.checking.section import Section, section_models
from align_cli.recipe.checking.view import Rule, RuleFault, View, rule_fault
from align_cli.recipe.presets import preset_value
from align_cli.recipe.sections.labelers import kind_that_labels_nothing, labelers_defined, unknown_labeler
from align_cli.recipe.written.tree import shown

if TYPE_CHECKING:
    from align_cli.recipe.recipe import Recipe

_SHARE_TOLERANCE = 1e-9


class SourceSection(Section):
    """A source: its share of every batch, and what kind of pairs it has.

    Class attributes:
        policy_responses: whether the policy samples responses of its pairs.
        dataset_responses: whether a dataset gives responses of its pairs.
        policy_labels: whether its labels are the policy's own.
        needs: the key of `data` that it takes prompts or responses from.
        left_out_by: the keys of `label` that may leave out its pairs by what was sampled; empty where none may.
        pool: the source that is written on its pairs, where it shares another's; None for its own.
        pairing: `package.module:name` of what makes its pairs of completions; None where a dataset has them.
    """

    policy_responses: ClassVar[bool]
    dataset_responses: ClassVar[bool]
    policy_labels: ClassVar[bool]
    needs: ClassVar[Literal["preferences", "prompts", "demonstrations"]]
    left_out_by: ClassVar[tuple[str, ...]] = ()
    pool: ClassVar[str | None] = None
    pairing: ClassVar[str | None] = None

    mixing: float = Field(ge=0, le=1, description="share of every batch; a list: of each round's")


class OfflineSourceSection(SourceSection):
    """`method.sources.offline`: responses and label from the dataset."""

    policy_responses = False
    dataset_responses = True
    policy_labels = False
    needs = "preferences"

    labeler: str = Field("dataset", description="`dataset`, or the name of a labeler of kind `dataset`")


class DdpSourceSection(SourceSection):
    """`method.sources.ddp` (SAIL-DP): responses from the dataset, label from the policy itself."""

    policy_responses = False
    dataset_responses = True
    policy_labels = True
    needs = "preferences"
    pool = "offline"

    mixing: float = Field(ge=0, le=1, description="share of every batch (paper: 0.4); a list: of each round's")
    gradient: float = Field(
        0.0,
        ge=0,
        description="coefficient of the bilevel label term: 1 exact, 0 plain loss (paper: 0.2); a list: by round",
    )


class DppSourceSection(SourceSection):
    """`method.sources.dpp` (SAIL-PP): responses from the policy, label from the policy itself."""

    policy_responses = True
    dataset_responses = False
    policy_labels = True
    needs = "prompts"
    pairing = "align_cli.stages.pairing.dpp:Dpp"

    mixing: float = Field(ge=0, le=1, description="share of every batch (paper: 0.3); a list: of each round's")
    gradient: float = Field(
        0.0, ge=0, description="coefficient of both bilevel terms: 1 exact, 0 plain loss (paper: 0.2); a list: by round"
    )


class DprSourceSection(SourceSection):
    """`method.sources.dpr` (SAIL-PR): responses from the policy, label from a reward."""

    policy_responses = True
    dataset_responses = False
    policy_labels = False
    needs = "prompts"
    left_out_by = ("ties", "equal_texts", "empty_texts", "min_margin")
    pairing = "align_cli.stages.pairing.dpr:Dpr"

    mixing: float = Field(ge=0, le=1, description="share of every batch (paper: 0.3); a list: of each round's")
    gradient: float = Field(
        0.0,
        ge=0,
        description="coefficient of the bilevel response term: 1 exact, 0 plain loss (paper: 0.3); a list: by round",
    )
    labeler: str | None = Field(None, description="name of the labeler that scores the responses")


class DmdSourceSection(SourceSection):
    """`method.sources.dmd`: mixed pairs, a demonstration chosen over the policy's response to its prompt (SPIN)."""

    policy_responses = True
    dataset_responses = True
    policy_labels = False
    needs = "demonstrations"
    left_out_by = ("equal_texts", "empty_texts")
    pairing = "align_cli.stages.pairing.dmd:Dmd"

    gradient: float = Field(
        0.0,
        ge=0,
        description="coefficient of the bilevel term of the policy's response: 1 exact, 0 plain loss; a list: by round",
    )


class SourcesSection(Section):
    """`method.sources`: where the pairs of a batch come from, in exact shares that sum to 1."""

    offline: OfflineSourceSection | None = Field(None, description="dataset pairs, dataset labels")
    ddp: DdpSourceSection | None = Field(None, description="dataset pairs, the policy's own labels (SAIL-DP)")
    dpp: DppSourceSection | None = Field(None, description="policy pairs, the policy's own labels (SAIL-PP)")
    dpr: DprSourceSection | None = Field(None, description="policy pairs, reward labels (SAIL-PR)")
    dmd: DmdSourceSection | None = Field(None, description="a demonstration against the policy's response (SPIN)")

    def in_use(self) -> dict[str, SourceSection]:
        """The sources with a share, by name, in the order of the mixture."""
        sections: dict[str, SourceSection | None] = {name: getattr(self, name) for name in SOURCES}
        return {name: section for name, section in sections.items() if section is not None and section.mixing > 0}

    def shares(self) -> dict[str, float]:
        """The share of every source in use, in the order of the mixture."""
        return {name: section.mixing for name, section in self.in_use().items()}

    @property
    def has_gradient(self) -> bool:
        """Whether pairs that the label stage may leave out carry the bilevel response term."""
        return any(source.left_out_by and coefficient_of(source) > 0 for source in self.in_use().values())


SOURCES: dict[str, type[SourceSection]] = {
    name: model
    for name, field in SourcesSection.model_fields.items()
    for model in section_models(field.annotation)
    if issubclass(model, SourceSection)
}
"""Every source by name, in the order of the mixture."""


def coefficient_of(source: SourceSection) -> float:
    """The source's gradient coefficient; 0 where it takes none."""
    return getattr(source, "gradient", 0.0)


def _some_source(view: View) -> Iterator[RuleFault]:
    if not view.written("method.sources"):
        yield rule_fault("method.sources", "method.sources names no source", "add offline: {mixing: 1.0}, or dpr")


def _shares_sum_to_one(view: View) -> Iterator[RuleFault]:
    shares = {name: view.get(f"method.sources.{name}.mixing") for name in view.written("method.sources")}
    total = sum(shares.values())
    if not shares or abs(total - 1) <= _SHARE_TOLERANCE:
        return
    listed = " and ".join(f"{name} {share:g}" for name, share in shares.items())
    what = f"method.sources: the shares {listed} sum to {total:.10g}; they must sum to 1"
    yield rule_fault("method.sources", what, _share_remedy(shares))


def _share_remedy(shares: dict[str, float]) -> str:
    last = list(shares)[-1]
    rest = 1 - sum(shares.values()) + shares[last]
    if _SHARE_TOLERANCE < rest <= 1:
        return f"set method.sources.{last}.mixing to {rest:.10g}"
    return "set the mixing of one source to what the others leave of 1"


def _dpr_has_a_labeler(view: View) -> Iterator[RuleFault]:
    name = view.get("method.sources.dpr.labeler")
    if name is None:
        if view.get("method.sources.dpr.mixing"):
            what = "method.sources.dpr has no labeler; its responses come from the policy and need a score"
            yield rule_fault("method.sources.dpr", what, f"set method.sources.dpr.labeler; {labelers_defined(view)}")
        return
    key = "method.sources.dpr.labeler"
    yield from unknown_labeler(view, key, name)
    if (kind := kind_that_labels_nothing(view, name)) is not None:
        what = f"{key} is {shown(name)}, of kind {kind}; no {kind} labels the policy's responses"
        yield rule_fault(key, what, "name a labeler of kind function")


def _offline_labeler_is_the_dataset(view: View) -> Iterator[RuleFault]:
    name = view.get("method.sources.offline.labeler")
    if name in {None, "dataset"}:
        return
    yield from unknown_labeler(view, "method.sources.offline.labeler", name)
    if name in view.labeler_names() and (kind := view.labeler(name)["kind"]) != "dataset":
        what = f"method.sources.offline.labeler is {shown(name)}, of kind {kind}; offline pairs keep their own labels"
        yield rule_fault("method.sources.offline.labeler", what, "leave it out, or name a labeler of kind dataset")


def some_step_without(view: View, names: Sequence[str], key: str) -> Iterator[RuleFault]:
    """Pairs of some sources carry a term, whose weight is exact in a step that has one of them: each step has to.

    A source whose share of the batch is at least one pair has one in every step (`training.batches.batch_counts`); of
    several with less, a step may have none.
    """
    shares = {name: view.get(f"method.sources.{name}.mixing") for name in names}
    micro_batch = view.get("train.per_device_train_batch_size")
    batch = micro_batch * view.get("train.gradient_accumulation_steps")
    if not shares or max(shares.values()) * batch >= 1 - _LEAST_PAIR_TOLERANCE:
        return
    name = max(shares, key=lambda name: shares[name])
    listed = " and ".join(f"{name} {share:g}" for name, share in shares.items())
    passes = math.ceil((1 - _LEAST_PAIR_TOLERANCE) / (shares[name] * micro_batch))
    what = (
        f"{key}: the pairs that carry it have a share of {listed} in batches of {batch}; steps with none of them would "
        "go without"
    )
    least = math.ceil(1e4 / batch) / 1e4
    hint = f"set train.gradient_accumulation_steps to {passes}, or method.sources.{name}.mixing to {least:g} or more"
    yield rule_fault(key, what, hint)


_LEAST_PAIR_TOLERANCE = 1e-6

RULES: tuple[Rule, ...] = (
    _some_source,
    _shares_sum_to_one,
    _dpr_has_a_labeler,
    _offline_labeler_is_the_dataset,
)


def _coefficients(recipe: Recipe) -> list[str]:
    warnings = []
    for name, source in recipe.method.sources.in_use().items():
        coefficient = coefficient_of(source)
        teaches_nothing = coefficient == 0 and source.policy_labels and recipe.method.loss_types == ["sigmoid"]
        if teaches_nothing and preset_value(recipe.preset, "method", "sources", name, "gradient") != 0:
            warnings.append(
                f"method.sources.{name}.gradient is 0: with DPO the policy's own labels then teach nothing, and "
                "these pairs only carry the KL"
            )
        if coefficient > 1:
            warnings.append(f"method.sources.{name}.gradient is {coefficient:g}: 1 is the exact bilevel gradient")
        elif coefficient == 1 and source.policy_labels:
            warnings.append(f"method.sources.{name}.gradient is 1: self-labelled sources were seen to diverge at 1")
    return warnings


def _self_labels(recipe: Recipe) -> list[str]:
    names = [name for name, source in recipe.method.sources.in_use().items() if source.policy_labels]
    warnings = []
    if names and recipe.policy.reference == "previous":
        warnings.append(
            f"policy.reference is previous: at a round's start policy and reference are equal, and every label of "
            f"{' and '.join(names)} is one half"
        )
    carries = recipe.method.kl.on == "all" or recipe.is_online
    if names and not (recipe.method.kl.coefficient and carries):
        warnings.append(f"{' and '.join(names)} without method.kl: the policy's own labels hold it to nothing")
    return warnings


def _terms_of_many(recipe: Recipe) -> list[str]:
    """The response term of more than two responses a prompt and no KL: two seeds of four ran away."""
    dpr, number = recipe.method.sources.in_use().get("dpr"), recipe.generate.num_generations
    if dpr is None or number <= 2 or not coefficient_of(dpr) or recipe.method.kl.coefficient:
        return []
    return [
        f"method.sources.dpr.gradient is {coefficient_of(dpr):g} on {number} responses a prompt without method.kl: "
        "the term was seen to run away so; set method.kl.coefficient to 0.02 or more"
    ]


MOST_USES = 10
"""Uses of a pair of the policy's from which on a recipe is warned: docs/method.md, section 4."""


def num_pairs(recipe: Recipe, name: str) -> int:
    """How many pairs a source makes of a round's responses, where none is left out; 0 where it makes none."""
    generate = recipe.generate
    together = generate.num_generations + generate.num_reference_generations
    of_a_prompt = {
        "dpp": math.comb(generate.num_generations, 2),
        "dpr": math.comb(together, 2) if recipe.label.pairs == "all" else 1,
        "dmd": generate.num_generations,
    }
    return generate.prompts_per_round * of_a_prompt.get(name, 0)


def _uses(recipe: Recipe) -> list[str]:
    """How often a round's steps use each pair of the policy's, those of replayed rounds included."""
    train, warnings = recipe.train, []
    rounds = min(train.replay_rounds + 1, recipe.rounds)
    for name, source in recipe.method.sources.in_use().items():
        if not source.policy_responses:
            continue
        pairs = num_pairs(recipe, name) * rounds
        uses = train.steps_per_round * recipe.global_batch_size * source.mixing / pairs
        if uses > MOST_USES:
            warnings.append(
                f"a round of {train.steps_per_round} steps uses each of its {pairs} pairs of {name} {uses:.0f} times: "
                f"above {MOST_USES} rewards were seen to fall; raise generate.prompts_per_round, or lower "
                "train.steps_per_round and raise rounds"
            )
    return warnings


WARNINGS = (_coefficients, _self_labels, _terms_of_many, _uses)
