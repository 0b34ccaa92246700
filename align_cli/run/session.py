"""A recipe at work: what it reads, its labelers and its engine, and each stage as one call.

`align train` and the single commands go through the same calls, so a chain of commands equals a round. A session
neither reads nor writes a run's folder.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align_cli.artifacts.records import Completion, Evaluation, Preference, Sampler
from align_cli.engines.base import Engine
from align_cli.errors import AlignError, DataError, RunError
from align_cli.labelers import Scorer, build_scorer
from align_cli.labelers.policy import PolicyLabeler
from align_cli.models.load import Policy
from align_cli.models.text import plain_text
from align_cli.recipe import Recipe
from align_cli.recipe.sections.label import LabelSection
from align_cli.stages import Journals, NoProgress, Progress, inputs, no_journals
from align_cli.stages.evaluate import evaluate_policy, evaluation_draws
from align_cli.stages.generate import draw_prompts, generate_completions, sampling_settings
from align_cli.stages.label import (
    LabelledPairs,
    label_completions,
    label_offline_pairs,
    pair_with_demonstrations,
    self_label,
)
from align_cli.stages.train import TrainOutcome, needs_others, train_policy
from align_cli.training.checkpoints import TrainingState

if TYPE_CHECKING:
    from align_cli.training.trainer import PreferenceTrainer

EVALUATION_RULES = LabelSection(ties="drop", equal_texts="drop", empty_texts="keep")
NUM_PROBES = 2
"""Texts that a labeler has to score before anything is made or written."""


@dataclass
class Session:
    """A recipe's inputs and tools, each loaded once, when it is first needed.

    Args:
        recipe: what to do.
        progress: told how far the stage at hand is.
        journals: where the stage at hand keeps its work in progress.
        note: told what a user should know.
    """

    recipe: Recipe
    progress: Progress = field(default_factory=NoProgress)
    journals: Journals = no_journals
    note: Callable[[str], None] = lambda text: None

    def __post_init__(self) -> None:
        if int(os.environ.get("WORLD_SIZE") or 1) > 1:
            raise RunError(
                f"align runs in one process, and WORLD_SIZE is {os.environ['WORLD_SIZE']}",
                where="WORLD_SIZE",
                hint="start it without torchrun or accelerate launch; several processes are not served yet",
            )
        self._scorers: dict[str, Scorer] = {}
        self._trainer: PreferenceTrainer | None = None
        self._offline: LabelledPairs | None = None
        self._eval_pairs: list[Preference] | None = None
        self._scratch = tempfile.TemporaryDirectory(prefix="align-")

    def check_inputs(self) -> None:
        """Load everything that can be wrong before the first model is: so that a fault changes nothing on disk.

        Raises:
            AlignError: for the first input that cannot be used.
        """
        if self.recipe.is_online:
            self._probe(self._reward_labeler, self.prompts)
            _ = self.demonstrations
        if self._uses_offline_pairs:
            self._check_offline_labels()
        if self.recipe.data.eval_prompts is not None:
            self._probe(self.recipe.evaluate.scorer, self.eval_prompts)
            _ = self.eval_rows
        inputs.sft_demonstrations(self.recipe)
        from align_cli.training.arguments import dpo_config

        dpo_config(self.recipe, Path(self._scratch.name), use_cache=True)

    def _check_offline_labels(self) -> None:
        uncertain = sum(float(row.get("label", 1.0)) != 1 for row in self.offline_rows.rows)
        if self.recipe.method.uses_trl_loss and uncertain:
            raise DataError(
                f"{uncertain} pairs have a label below 1, and TRL's own losses take hard labels alone",
                where="data.preferences",
                hint="leave these pairs out, or set method.loss_type to sigmoid, ipo, hinge or simpo",
            )

    @cached_property
    def prompts(self) -> inputs.Rows:
        """Training prompts."""
        return inputs.training_prompts(self.recipe)

    @cached_property
    def demonstrations(self) -> inputs.Rows:
        """What mixed pairs choose; none where no source asks for it."""
        return inputs.demonstrations(self.recipe) if "dmd" in self.recipe.method.sources.in_use() else []

    @cached_property
    def eval_prompts(self) -> inputs.Rows:
        """Held-out prompts."""
        return inputs.evaluation_prompts(self.recipe)

    @cached_property
    def offline_rows(self) -> inputs.PairRows:
        """Offline pairs, as read."""
        return inputs.offline_pairs(self.recipe)

    @cached_property
    def eval_rows(self) -> inputs.PairRows:
        """Held-out offline pairs, as read."""
        return inputs.evaluation_pairs(self.recipe)

    @cached_property
    def engine(self) -> Engine:
        """What generates text."""
        from align_cli.engines.in_process import TransformersEngine

        return TransformersEngine(self.recipe.generate.batch_size, lambda text: self.note(text))

    def shortages(self) -> list[str]:
        """Where there are fewer rows than the recipe asks for, one sentence each."""
        found, recipe = [], self.recipe
        if recipe.is_online and recipe.generate.prompts_per_round > len(self.prompts):
            found.append(
                f"{len(self.prompts)} prompts for {recipe.generate.prompts_per_round} a round: each is sampled several "
                "times in a round"
            )
        if recipe.data.eval_prompts is not None and recipe.evaluate.num_prompts > len(self.eval_prompts):
            found.append(f"{len(self.eval_prompts)} held-out prompts, where evaluate.num_prompts asks for "
                         f"{recipe.evaluate.num_prompts}")  # fmt: skip
        return found

    def scorer(self, name: str | None) -> Scorer | None:
        """The labeler with this name, made once; None for None."""
        if name is None:
            return None
        if name not in self._scorers:
            self._scorers[name] = build_scorer(name, self.recipe.labelers[name])
        return self._scorers[name]

    def generate(self, policy: Policy, reference: Policy | None, round_number: int) -> list[Completion]:
        """The generate stage of a round: the policy's completions, then the reference's.

        Args:
            policy: the round's policy.
            reference: needed where `samples_reference` says so.
            round_number: from 1.
        """
        section = self.recipe.generate
        completions = self._sampled(policy, round_number, "policy", section.num_generations)
        if reference is not None and self.samples_reference:
            completions += self._sampled(reference, round_number, "reference", section.num_reference_generations)
        return completions

    def _sampled(self, model: Policy, round_number: int, sampled_by: Sampler, number: int) -> list[Completion]:
        recipe = self.recipe
        with self.journals(f"{sampled_by}-samples") as journal:
            return generate_completions(
                model,
                draw_prompts(self.prompts, round_number, recipe.generate.prompts_per_round, recipe.seed),
                self.engine,
                sampling_settings(recipe.generate),
                num_generations=number,
                round_number=round_number,
                stage="generate",
                run_seed=recipe.seed,
                progress=self.progress,
                sampled_by=sampled_by,
                journal=journal,
            )

    @property
    def samples_reference(self) -> bool:
        """Whether the generate stage needs the reference."""
        return self.recipe.generate.num_reference_generations > 0

    def label(
        self, completions: Sequence[Completion], policy: Policy | None, reference: Policy | None
    ) -> LabelledPairs:
        """The label stage of a round.

        Args:
            completions: what to pair.
            policy: needed where `label_needs` names it.
            reference: likewise.
        """
        recipe, scorer = self.recipe, self.scorer(self._reward_labeler)
        labelled = LabelledPairs([], {})
        if scorer is not None:
            with self.journals("scores") as journal:
                labelled = label_completions(
                    completions,
                    scorer,
                    recipe.label,
                    num_generations=recipe.generate.num_generations,
                    num_reference_generations=recipe.generate.num_reference_generations,
                    keep_others=needs_others(recipe, "dpr"),
                    run_seed=recipe.seed,
                    progress=self.progress,
                    journal=journal,
                )
        if policy is not None and reference is not None:
            labeler = PolicyLabeler(policy, reference, recipe.method.beta, recipe.generate.batch_size)
            pairs = self_label(completions, labeler, recipe.generate.num_generations)
            counts = {**labelled.counts, "self_labelled_pairs": len(pairs)}
            labelled = LabelledPairs([*labelled.preferences, *pairs], counts)
        if policy is not None and "dmd" in recipe.method.sources.in_use():
            mixed = pair_with_demonstrations(
                completions, self.demonstrations, policy.tokenizer, recipe.label, recipe.seed
            )
            labelled = LabelledPairs([*labelled.preferences, *mixed.preferences], _added(labelled.counts, mixed.counts))
        return labelled

    @property
    def label_needs(self) -> tuple[str, ...]:
        """What the label stage needs besides completions: `policy` for its tokenizer, `reference` for its labels."""
        sources = self.recipe.method.sources.in_use()
        return ("policy", "reference") if "dpp" in sources else ("policy",) if "dmd" in sources else ()

    def offline_pairs(self, policy: Policy) -> LabelledPairs:
        """Offline pairs, tokenised by the policy's tokenizer; none where no source takes them."""
        if not self._uses_offline_pairs:
            return LabelledPairs([], {})
        if self._offline is None:
            rows, source = self.offline_rows, self.recipe.method.sources.offline
            labeler = source.labeler if source is not None else "dataset"
            pairs = label_offline_pairs(rows.rows, policy.tokenizer, self.recipe.label, labeler)
            self._offline = LabelledPairs(pairs.preferences, {**pairs.counts, **rows.dropped})
        return self._offline

    def train(
        self,
        policy: Policy,
        reference: Policy,
        preferences: Sequence[Preference],
        start: TrainingState,
        optimizer_state: dict[str, Any] | None,
        keep: Callable[[TrainingState], None] = lambda state: None,
    ) -> TrainOutcome:
        """The train stage of a round: these pairs beside the recipe's offline share.

        The first call makes the trainer; later calls must bring the same policy and reference objects.
        """
        if self._trainer is None:
            from align_cli.training.trainer import make_trainer

            scratch = Path(self._scratch.name)
            self._trainer = make_trainer(policy, reference.model, self.recipe, scratch, self._advance)
        train = self.recipe.train
        if train.schedule == "run":
            # Rounds that were taken over from another run may have had another number of steps.
            steps_before = start.global_step - len(start.steps or ())
            self._trainer.args.max_steps = steps_before + (self.recipe.rounds - start.round) * train.steps_per_round
        self.progress.start(train.steps_per_round, "steps")
        self.progress.advance(len(start.steps or ()))
        pairs = [*self.offline_pairs(policy).preferences, *preferences]
        return train_policy(self._trainer, self.recipe, pairs, start, optimizer_state, keep)

    def optimizer(self) -> Any:
        """The optimizer of the last train stage."""
        return self._trainer.optimizer if self._trainer is not None else None

    def training_state(self) -> TrainingState:
        """Where the train stage at hand stands within its round, and the figures of the steps that it has done."""
        assert self._trainer is not None
        return replace(self._trainer.state_now(), steps=list(self._trainer.step_records))

    def forget_optimizer(self) -> None:
        """Let the next train stage begin with a new optimizer, unless it is given a state."""
        if self._trainer is not None:
            self._trainer.optimizer = None

    def halve_micro_batch(self, error: MemoryError) -> str:
        """Cut each forward pass of training in half, at the same global batch; says so in words.

        Raises:
            AlignError: if there is nothing left to cut.
        """
        if self._trainer is None or not self._trainer.halve_micro_batch():
            raise AlignError(
                f"out of memory: {error}",
                where="train",
                hint="one pair a forward pass is too much: lower generate.max_new_tokens, set "
                "train.gradient_checkpointing to true, or take a smaller model",
            ) from None
        args = self._trainer.args
        return (
            f"out of memory; the round begins again with {args.per_device_train_batch_size} pairs a forward pass and "
            f"{args.gradient_accumulation_steps} passes a step, which is the same global batch. Set "
            "train.per_device_train_batch_size and train.gradient_accumulation_steps so next time"
        )

    def evaluation_samples(self, policy: Policy) -> list[Completion]:
        """A policy's responses to the held-out prompts, drawn with the same random numbers for every policy."""
        recipe = self.recipe
        with self.journals("evaluation-samples") as journal:
            return generate_completions(
                policy,
                evaluation_draws(self.eval_prompts, recipe.evaluate.num_prompts, recipe.seed),
                self.engine,
                sampling_settings(recipe.generate),
                num_generations=1,
                round_number=0,
                stage="evaluate",
                run_seed=recipe.seed,
                progress=self.progress,
                journal=journal,
            )

    def evaluate(
        self,
        policy: Policy,
        reference: Policy,
        round_number: int,
        samples: Sequence[Completion],
        opponents: Mapping[str, Sequence[Completion]],
    ) -> Evaluation:
        """The evaluate stage of a round, given everybody's responses."""
        if self._eval_pairs is None:
            rows = self.eval_rows.rows
            # One rule for every recipe: what a method drops in training must not change what it is measured on.
            self._eval_pairs = label_offline_pairs(rows, policy.tokenizer, EVALUATION_RULES, "dataset").preferences
        return evaluate_policy(
            policy,
            reference,
            self.recipe,
            round_number=round_number,
            samples=samples,
            opponents=opponents,
            pairs=self._eval_pairs,
            scorer=self.scorer(self.recipe.evaluate.scorer),
            progress=self.progress,
            journals=self.journals,
        )

    @property
    def _reward_labeler(self) -> str | None:
        source = self.recipe.method.sources.in_use().get("dpr")
        return getattr(source, "labeler", None)

    @property
    def _uses_offline_pairs(self) -> bool:
        return any(not source.policy_responses for source in self.recipe.method.sources.in_use().values())

    def _advance(self) -> None:
        self.progress.advance()

    def _probe(self, name: str | None, rows: inputs.Rows) -> None:
        """Let a labeler score a few texts, so that a broken one is known before hours of sampling."""
        scorer = self.scorer(name)
        if scorer is not None:
            texts = [plain_text(row["prompt"]) for row in rows[:NUM_PROBES]]
            scorer.score(texts, texts)


def _added(counts: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted((Counter(counts) + Counter(more)).items()))
