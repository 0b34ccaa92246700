"""The generate stage: prompts and a policy in, completions out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from align_cli.artifacts.journal import Journal
from align_cli.artifacts.records import NO_ARGUMENTS, Completion, Sampler, TemplateArguments, Text
from align_cli.engines.base import Engine, Request, Sample, SamplingSettings, sampling_settings
from align_cli.errors import EngineError, all_at_once, counted
from align_cli.models.load import Policy
from align_cli.models.text import decode_completion, prompt_token_ids
from align_cli.recipe import Recipe
from align_cli.seeds import derive_seed, seeded_cycle
from align_cli.stages.base import (
    CHECKPOINT,
    COMPLETIONS,
    POLICY_KEYS,
    READING_KEYS,
    Amounts,
    Artifact,
    Context,
    Done,
    History,
    Loaded,
    Progress,
    Stage,
    policy_artifact,
)
from align_cli.stages.inputs import Inputs
from align_cli.stages.readable import RowsToRead


class Generate(Stage):
    """Samples the policy, and the reference where the recipe asks for that, on the round's prompts."""

    name = "generate"
    writes = (COMPLETIONS,)
    memory_remedy = "lower generate.batch_size or generate.max_new_tokens, or take a smaller model"

    def is_due(self, recipe: Recipe, round_number: int) -> bool:
        return round_number > 0 and recipe.is_online

    def keys(self, recipe: Recipe) -> tuple[str, ...]:
        prompts_too = ("data.demonstrations",) if recipe.data.prompts is None else ()
        return (*POLICY_KEYS, *READING_KEYS, "data.prompts", *prompts_too, "generate")

    def reads(self, recipe: Recipe, history: History, round_number: int) -> list[Artifact]:
        initial = [Artifact(0, CHECKPOINT)] if recipe.generate.num_reference_generations else []
        return [policy_artifact(history, history.base(sampled_round(recipe, round_number))), *initial]

    def is_ahead(self, recipe: Recipe, round_number: int) -> bool:
        return sampled_round(recipe, round_number) < round_number - 1

    def needs(self, recipe: Recipe) -> tuple[str, ...]:
        return ("policy", "reference") if recipe.generate.num_reference_generations else ("policy",)

    def check(self, recipe: Recipe, loaded: Loaded) -> None:
        all_at_once(lambda: loaded.inputs.prompts, loaded.engine.check)

    def to_read(self, recipe: Recipe, inputs: Inputs) -> list[RowsToRead]:
        return [RowsToRead(inputs.prompts_key, inputs.prompts, lambda: inputs.prompts_to_sample.counts)]

    def shortages(self, recipe: Recipe, inputs: Inputs) -> list[str]:
        wanted, there = recipe.generate.prompts_per_round, inputs.prompts_to_sample.num_kept
        return [f"{counted(there, 'prompt')} for {wanted} a round: each is sampled several times in a round"] * (
            wanted > there
        )

    def amounts(self, recipe: Recipe, inputs: Inputs, round_number: int) -> Amounts:
        responses = num_responses(recipe)
        return Amounts(responses=responses, tokens=responses * recipe.generate.max_new_tokens)

    def carry_out(self, context: Context) -> Done:
        section, loaded, number = context.recipe.generate, context.loaded, context.round
        policy = loaded.policy_after(sampled_round(context.recipe, number))
        reference = loaded.reference_for(number) if section.num_reference_generations else None
        engine: dict[str, Any] = {}
        completions = _sampled(context, policy, "policy", section.num_generations, engine)
        if reference is not None:
            completions += _sampled(context, reference, "reference", section.num_reference_generations, engine)
        context.artifacts.write(COMPLETIONS, completions)
        figures = {"completions": len(completions), "tokens": sum(item.num_tokens for item in completions)}
        return Done({**figures, "engine": engine} if engine else figures)


def num_responses(recipe: Recipe) -> int:
    """How many a round samples, of the policy and of the reference."""
    section = recipe.generate
    return section.prompts_per_round * (section.num_generations + section.num_reference_generations)


def sampled_round(recipe: Recipe, round_number: int) -> int:
    """After how many rounds of training the policy is sampled for a round: one less where it is sampled ahead."""
    return max(round_number - 1 - recipe.generate.rounds_ahead, 0)


def rounds_behind(recipe: Recipe, history: History, round_number: int) -> int:
    """How many rounds of training lie between the policy that a round samples and the one that it starts from.

    Below 0 where a guard has rolled the round before back to one from before the sampled policy.
    """
    return history.base(round_number - 1) - history.base(sampled_round(recipe, round_number))


def _sampled(
    context: Context, model: Policy, sampled_by: Sampler, number: int, engine: dict[str, Any]
) -> list[Completion]:
    """One model's completions; what the engine says of them goes into `engine` by who was sampled."""
    recipe, prompts = context.recipe, context.loaded.inputs.prompts_to_sample
    with context.work.journal(f"{sampled_by}-samples") as journal:
        return generate_completions(
            model,
            draw_prompts(prompts.rows, context.round, recipe.generate.prompts_per_round, recipe.seed, prompts.left_out),
            context.loaded.engine,
            sampling_settings(recipe.generate),
            num_generations=number,
            round_number=context.round,
            stage="generate",
            run_seed=recipe.seed,
            progress=context.progress,
            sampled_by=sampled_by,
            journal=journal,
            tell=lambda figures: engine.update({sampled_by: figures}),
        )


@dataclass(frozen=True)
class PromptDraw:
    """A prompt to sample.

    Args:
        index: its row in the dataset.
        prompt: text or messages.
        lap: how often it was drawn before in the same round; its samples are numbered on from there.
        arguments: what its chat template gets besides the messages.
    """

    index: int
    prompt: Text
    lap: int
    arguments: TemplateArguments = NO_ARGUMENTS

    @classmethod
    def of_row(cls, rows: Sequence[Mapping[str, Any]], index: int, lap: int = 0) -> PromptDraw:
        """The prompt of one row."""
        return cls(index, rows[index]["prompt"], lap, TemplateArguments.of_row(rows[index]))


def draw_prompts(
    rows: Sequence[Mapping[str, Any]],
    round_number: int,
    count: int,
    run_seed: int,
    left_out: Collection[int] = frozenset(),
) -> list[PromptDraw]:
    """The prompts of a round: the next ones of a seeded order; none repeats before all were seen.

    Args:
        rows: the dataset, each with `prompt`.
        round_number: from 1.
        count: prompts a round.
        run_seed: the run's seed.
        left_out: rows that are passed over.
    """
    start = (round_number - 1) * count
    indices = seeded_cycle(len(rows), start, count, run_seed, "prompts", left_out=left_out)
    drawn: dict[int, int] = {}
    draws = []
    for index in indices:
        lap = drawn.get(index, 0)
        drawn[index] = lap + 1
        draws.append(PromptDraw.of_row(rows, index, lap))
    return draws


def generate_completions(
    policy: Policy,
    draws: Sequence[PromptDraw],
    engine: Engine,
    settings: SamplingSettings,
    *,
    num_generations: int,
    round_number: int,
    stage: str,
    run_seed: int,
    progress: Progress,
    sampled_by: Sampler = "policy",
    journal: Journal | None = None,
    tell: Callable[[dict[str, Any]], None] = lambda figures: None,
) -> list[Completion]:
    """Sample each prompt, each sample with a seed of its own from (round, stage, prompt, sample).

    Args:
        policy: the model that is sampled.
        draws: the prompts.
        engine: what samples.
        settings: how.
        num_generations: samples a prompt.
        round_number: from 1; 0 in evaluations, whose policies are compared on common random numbers.
        stage: `generate` or `evaluate`; keeps their random numbers apart.
        run_seed: the run's seed.
        progress: told of every completion.
        sampled_by: whether the model is the round's policy or its reference; keeps their random numbers apart too.
        journal: what was sampled before an interruption, and where each batch is kept; None keeps none.
        tell: told what the engine has to say of the samples, where there is anything.

    Raises:
        EngineError: if the engine cannot generate, or its samples are not what was asked for; these are not kept.

    Returns:
        `len(draws) * num_generations` completions, by prompt, then by sample.
    """
    prompt_ids = [prompt_token_ids(policy.tokenizer, draw.prompt, draw.arguments) for draw in draws]
    wanted = [
        (draw, ids, draw.lap * num_generations + sample)
        for draw, ids in zip(draws, prompt_ids, strict=True)
        for sample in range(num_generations)
    ]
    lane = stage if sampled_by == "policy" else f"{stage} {sampled_by}"
    seeds = [derive_seed(run_seed, round_number, lane, draw.index, sample) for draw, _, sample in wanted]
    requests = [Request(ids, seed) for (_, ids, _), seed in zip(wanted, seeds, strict=True)]
    progress.start(len(requests), "completions")
    journal = journal or Journal()
    samples = _sample(policy, engine, requests, settings, progress, journal)
    try:
        settled = engine.settle(policy, requests, samples, settings)
    except EngineError:
        journal.clear()
        raise
    if settled.figures:
        tell(settled.figures)
    return [
        Completion(
            prompt=draw.prompt,
            completion=decode_completion(policy.tokenizer, draw.prompt, sample.token_ids, ids),
            prompt_ids=ids,
            completion_ids=sample.token_ids,
            logps=sample.logps,
            finish_reason=sample.finish_reason,
            num_tokens=len(sample.token_ids),
            round=round_number,
            prompt_index=draw.index,
            sample_index=sample_index,
            seed=request.seed if sample.seed is None else sample.seed,
            policy=policy.version,
            engine=engine.name,
            sampling=settings._asdict(),
            sampled_by=sampled_by,
            from_text=sample.from_text or None,
            **draw.arguments._asdict(),
        )
        for (draw, ids, sample_index), request, sample in zip(wanted, requests, settled.samples, strict=True)
    ]


def _sample(
    policy: Policy,
    engine: Engine,
    requests: Sequence[Request],
    settings: SamplingSettings,
    progress: Progress,
    journal: Journal,
) -> list[Sample]:
    """A sample for each request: those of the journal, and the others, which go into it batch by batch."""
    samples = {row["position"]: Sample(**row["sample"]) for row in journal.rows}
    progress.found(len(samples))
    for batch in engine.generate(policy, requests, settings, done=samples):
        journal.append({"position": position, "sample": sample._asdict()} for position, sample in batch)
        progress.advance(sum(position not in samples for position, _ in batch))
        samples.update(batch)
    return [samples[position] for position in range(len(requests))]
