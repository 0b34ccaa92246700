"""The evaluate stage: a policy's held-out responses in, one evaluation out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from align_cli.artifacts.records import Completion, Evaluation, PairLogps, Preference
from align_cli.engines.base import SamplingSettings, sampling_settings
from align_cli.errors import all_at_once
from align_cli.labelers import Labeler
from align_cli.metrics.estimates import estimate
from align_cli.metrics.text import distinct_n
from align_cli.models.load import Policy
from align_cli.models.measures import OneMeasure
from align_cli.recipe import Recipe
from align_cli.seeds import compact_order
from align_cli.stages.base import (
    EVALUATION,
    HELD_OUT_LOGPS,
    POLICY_KEYS,
    READING_KEYS,
    SAMPLES,
    Amounts,
    Artifact,
    Context,
    Done,
    ForkKeys,
    History,
    Loaded,
    Measure,
    Stage,
    labeler_artifacts,
    labeler_keys,
    policy_artifact,
    questions_for,
)
from align_cli.stages.generate import PromptDraw, generate_completions
from align_cli.stages.held_out import Reference, measure_pairs
from align_cli.stages.inputs import Inputs
from align_cli.stages.judged import Judged, judge_responses, with_scores
from align_cli.stages.opinions import (
    Asking,
    check_labelers,
    measured,
    num_sequence_tokens,
)
from align_cli.stages.readable import RowsToRead
from align_cli.stages.rows_of_recipe import Rows
from align_cli.stages.said_before import artifacts_that_asked, reference_digest, said_before

SEQUENCE_KLS = f"{__name__}:sequence_kls"

FREE_KEYS = (
    "policy.reference",
    "policy.lora.between_rounds",
    "label",
    "method.beta",
    "generate.batch_size",
    "generate.num_generations",
    "generate.num_reference_generations",
    "generate.prompts_per_round",
)
"""Keys that a fork may change, though an evaluation is recorded with them: no held-out response depends on them."""


NO_END = (
    "warning: round 0 evaluate: none of the initial policy's responses ended by itself, and what learns from them may "
    "never end: raise generate.max_new_tokens, give the policy a warm start (policy.sft), or, if its turns end in "
    "another token, set eos_token_id in its generation_config.json to that token's id"
)
"""Said before training: the guard of the EOS rate measures later rounds by this one."""


class Evaluate(Stage):
    """Measures a round's policy on held-out prompts and pairs."""

    name = "evaluate"
    writes = (SAMPLES, EVALUATION, HELD_OUT_LOGPS)
    memory_remedy = "lower generate.batch_size and the scorer's batch_size, or take a smaller model"

    def is_due(self, recipe: Recipe, round_number: int) -> bool:
        return recipe.data.eval_prompts is not None

    def keys(self, recipe: Recipe) -> tuple[str, ...]:
        labelers = labeler_keys(recipe, recipe.evaluate.all_scorers)
        held_out = ("data.eval_prompts", "data.eval_preferences")
        return (*POLICY_KEYS, *READING_KEYS, *held_out, "generate", "label", "method.beta", "evaluate", *labelers)

    def reads(self, recipe: Recipe, history: History, round_number: int) -> list[Artifact]:
        opponents = opponent_rounds(recipe, history, round_number).values()
        labelers = labeler_artifacts(recipe, recipe.evaluate.all_scorers)
        return [policy_artifact(history, round_number), *(Artifact(number, SAMPLES) for number in opponents), *labelers]

    def takes_over(self, recipe: Recipe, history: History, round_number: int) -> list[Artifact]:
        return artifacts_that_asked(recipe, history, round_number, HELD_OUT_LOGPS)

    def check(self, recipe: Recipe, loaded: Loaded) -> None:
        all_at_once(
            lambda: check_labelers(map(loaded.labeler, recipe.evaluate.all_scorers), loaded.inputs.eval_prompts),
            lambda: loaded.inputs.eval_prompts,
            lambda: loaded.inputs.eval_rows,
            loaded.engine.check,
        )

    def to_read(self, recipe: Recipe, inputs: Inputs) -> list[RowsToRead]:
        return [
            RowsToRead("data.eval_prompts", inputs.eval_prompts, lambda: inputs.eval_prompts_to_sample.counts),
            RowsToRead("data.eval_preferences", inputs.eval_rows.rows, lambda: inputs.eval_pairs.counts),
        ]

    def shortages(self, recipe: Recipe, inputs: Inputs) -> list[str]:
        wanted, there = recipe.evaluate.num_prompts, inputs.eval_prompts_to_sample.num_kept
        return [f"{there} held-out prompts, where evaluate.num_prompts asks for {wanted}"] * (wanted > there)

    def amounts(self, recipe: Recipe, inputs: Inputs, round_number: int) -> Amounts:
        prompts = min(recipe.evaluate.num_prompts, inputs.eval_prompts_to_sample.num_kept)
        settings = evaluation_settings(recipe)
        responses = prompts * (1 if settings == settings.of_policy() else 2)
        # In the first round the initial policy is the previous one too, and a scorer is asked about it once.
        opponents = 0 if round_number == 0 else len(set(recipe.evaluate.against[: 1 if round_number == 1 else None]))
        return Amounts(
            responses=responses,
            tokens=responses * recipe.generate.max_new_tokens,
            asked=len(inputs.eval_pairs.preferences),
            questions=evaluation_questions(recipe, prompts, opponents),
        )

    def fork_keys(self, recipe: Recipe) -> ForkKeys:
        """A fork keeps how policies are measured; `FREE_KEYS` change no held-out response."""
        return ForkKeys(self.keys(recipe), FREE_KEYS) if recipe.data.eval_prompts is not None else ForkKeys()

    def carry_out(self, context: Context) -> Done:
        loaded, number = context.loaded, context.round
        policy = loaded.policy_after(number)
        reference = loaded.reference_for(number)
        settings = evaluation_settings(context.recipe)
        samples = _held_out_responses(context, policy, settings)
        drawn = (
            samples if settings == settings.of_policy() else _held_out_responses(context, policy, settings.of_policy())
        )
        opponents = {
            name: _responses_of(context, opponent)
            for name, opponent in opponent_rounds(context.recipe, context.artifacts, number).items()
        }
        pairs, digest = loaded.inputs.eval_pairs.preferences, reference_digest(context.recipe, reference.version)
        measured = evaluate_policy(
            policy,
            reference,
            context.recipe,
            round_number=number,
            samples=samples,
            drawn=drawn,
            opponents=opponents,
            pairs=pairs,
            scorers=[loaded.labeler(name) for name in context.recipe.evaluate.all_scorers],
            asking=Asking(context.progress, context.work, context.recipe.label.thinking),
            measuring=loaded.measure,
            reference_digest=digest,
            said=said_before(context, HELD_OUT_LOGPS, digest) if pairs else {},
        )
        evaluation = measured.evaluation
        if number == 0 and evaluation.eos_rate == 0:
            context.note(NO_END)
        context.artifacts.write(SAMPLES, measured.samples)
        if measured.held_out_logps:
            context.artifacts.write(HELD_OUT_LOGPS, measured.held_out_logps)
        context.artifacts.write_document(EVALUATION, evaluation)
        return Done(evaluation.to_dict())


def opponent_rounds(recipe: Recipe, history: History, round_number: int) -> dict[str, int]:
    """The rounds whose policies a round is measured against; the initial policy has no opponents."""
    if round_number == 0:
        return {}
    rounds = {"initial": 0, "previous": history.base(round_number - 1)}
    return {name: rounds[name] for name in recipe.evaluate.against}


def evaluation_settings(recipe: Recipe) -> SamplingSettings:
    """How held-out responses are sampled: as the recipe's generate stage does, or at a temperature of their own."""
    settings, own = sampling_settings(recipe.generate), recipe.evaluate.temperature
    return settings if own is None else settings._replace(temperature=own)


def _responses_of(context: Context, opponent: int) -> list[Completion]:
    """What an opponent answered when it was evaluated itself; sampled anew where that does not lie there."""
    found = context.artifacts.read(Artifact(opponent, SAMPLES), Completion)
    if found is not None:
        return found
    policy = context.loaded.another_policy(opponent)
    return _held_out_responses(context, policy, evaluation_settings(context.recipe))


def _held_out_responses(context: Context, policy: Policy, settings: SamplingSettings) -> list[Completion]:
    """A policy's responses to the held-out prompts, drawn with the same random numbers for every policy."""
    recipe, prompts = context.recipe, context.loaded.inputs.eval_prompts_to_sample
    name = "evaluation-samples" if settings == evaluation_settings(recipe) else "kl-samples"
    with context.work.journal(name) as journal:
        return generate_completions(
            policy,
            evaluation_draws(prompts.rows, recipe.evaluate.num_prompts, recipe.seed, prompts.left_out),
            context.loaded.engine,
            settings,
            num_generations=1,
            round_number=0,
            stage="evaluate",
            run_seed=recipe.seed,
            progress=context.progress,
            journal=journal,
        )


def evaluation_questions(recipe: Recipe, num_prompts: int, num_opponents: int) -> dict[str, int]:
    """How many questions scorers are asked in an evaluation against so many other policies, by name."""
    questions: Counter[str] = Counter()
    for name in recipe.evaluate.all_scorers:
        scored, compared = num_prompts * (1 + num_opponents), num_prompts * num_opponents
        questions.update(questions_for(recipe, name, scored, compared))
    return questions


def evaluation_draws(
    rows: Rows, count: int, run_seed: int, left_out: Collection[int] = frozenset()
) -> list[PromptDraw]:
    """The held-out prompts: the first of a seeded order that are not left out, all of them where there are fewer."""
    order = (index for index in compact_order(len(rows), run_seed, "eval_prompts") if index not in left_out)
    return [PromptDraw.of_row(rows, index) for index in islice(order, count)]


class Measured(NamedTuple):
    """An evaluation, its responses, each with its scores, and what the reference was asked about held-out pairs."""

    evaluation: Evaluation
    samples: list[Completion]
    held_out_logps: Sequence[PairLogps]


def evaluate_policy(
    policy: Policy,
    reference: Policy,
    recipe: Recipe,
    *,
    round_number: int,
    samples: Sequence[Completion],
    drawn: Sequence[Completion],
    opponents: Mapping[str, Sequence[Completion]],
    pairs: Sequence[Preference],
    scorers: Sequence[Labeler],
    asking: Asking,
    measuring: Callable[..., Measure] = OneMeasure,
    reference_digest: str = "",
    said: Mapping[str, float] | None = None,
) -> Measured:
    """Everything that is known of a policy at the end of a round.

    Args:
        policy: what is evaluated.
        reference: the KL's other side, and the margins'.
        recipe: β, batch size, seed.
        round_number: rounds that the policy has been trained for.
        samples: the policy's responses to the evaluation prompts, one each.
        drawn: draws from the policy itself, for what is an expectation over them: the same, or, where those were
            sampled at another temperature than 1 or from a part of the distribution, others.
        opponents: the opponents' responses to the same prompts, by the name in `evaluate.against`.
        pairs: held-out offline pairs, tokenised.
        scorers: who judges, the first above all; none leaves rewards and win rates out.
        asking: how they are asked; where scores, KL and margins are kept as they come.
        measuring: gives the measure of a function's name and both models; see `Loaded.measure`.
        reference_digest: names the reference among those of other rounds.
        said: what it said of held-out pairs in rounds that are over, by digest.
    """
    progress, work = asking.progress, asking.work
    judged = {scorer.name: judge_responses(scorer, samples, opponents, asking, recipe.seed) for scorer in scorers}
    first, *others = judged.values() if judged else [Judged({}, {})]
    progress.start(len(drawn), "responses")
    if policy.version == reference.version:  # nobody has to be asked
        kls = [0.0] * len(drawn)
        progress.advance(len(drawn))
    else:
        with work.journal("kl") as journal:
            measure = measuring(SEQUENCE_KLS, policy, reference)
            kls = measured(drawn, recipe.generate.batch_size, measure, progress, journal, num_sequence_tokens)
    kl = estimate(kls)
    progress.start(len(pairs), "pairs")
    held_out = measure_pairs(policy, Reference(reference, reference_digest, said or {}), pairs, recipe, asking)
    lengths = estimate([float(sample.num_tokens) for sample in samples])
    evaluation = Evaluation(
        round=round_number,
        policy=policy.version,
        num_prompts=len(samples),
        scorer=scorers[0].name if scorers else None,
        reward=first.reward,
        against=first.against,
        kl={**kl._asdict(), "reference": reference.version},
        length=lengths._asdict(),
        eos_rate=sum(sample.finish_reason == "stop" for sample in samples) / len(samples),
        distinct_2=distinct_n([sample.completion_ids for sample in samples], 2),
        preferences=held_out.figures,
        sampling=dict(samples[0].sampling),
        other_scorers={
            scorer.name: {"reward": one.reward, "against": one.against}
            for scorer, one in zip(scorers[1:], others, strict=True)
        }
        or None,
        labelers={name: figures for one in judged.values() for name, figures in one.figures.items()} or None,
    )
    scored = [with_scores(sample, place, judged) for place, sample in enumerate(samples)]
    return Measured(evaluation, scored, held_out.asked)


def sequence_kls(policy: Policy, reference: Policy, samples: Sequence[Completion]) -> list[float]:
    """KL(π ‖ π_ref) along each response: exact over the vocabulary at every token, summed over the response."""
    import torch

    from align_cli.models.scoring import pad_batch, reference_scores, score_responses

    tokens = pad_batch(
        [sample.prompt_ids for sample in samples],
        [sample.completion_ids for sample in samples],
        policy.tokenizer.pad_token_id,
    ).to(policy.model.device)
    with torch.no_grad():
        scores = score_responses(policy.model, tokens, reference_scores(reference.model, tokens))
    kls: list[float] = scores.kl_BC.sum(-1).tolist()
    return kls
