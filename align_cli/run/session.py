"""A recipe at work: what it reads, its labelers and its engine, and each stage as one call.

`align train` and the single commands go through the same calls, so a chain of commands equals a round. A session
neither reads nor writes a run's folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align_cli.artifacts.records import Completion, Evaluation, Preference
from align_cli.engines.base import Engine
from align_cli.labelers import Scorer, build_scorer
from align_cli.labelers.policy import PolicyLabeler
from align_cli.models.load import Policy
from align_cli.models.text import plain_text
from align_cli.recipe import Recipe
from align_cli.recipe.schema import LabelSection
from align_cli.stages import NoProgress, Progress, inputs
from align_cli.stages.evaluate import evaluate_policy, evaluation_draws
from align_cli.stages.generate import draw_prompts, generate_completions, sampling_settings
from align_cli.stages.label import LabelledPairs, label_completions, label_offline_pairs, self_label
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
    """

    recipe: Recipe
    progress: Progress = field(default_factory=NoProgress)

    def __post_init__(self) -> None:
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
        if self._uses_offline_pairs:
            _ = self.offline_rows
        if self.recipe.data.eval_prompts is not None:
            self._probe(self.recipe.evaluate.scorer, self.eval_prompts)
            _ = self.eval_rows
        inputs.demonstrations(self.recipe)
        from align_cli.training.arguments import dpo_config

        dpo_config(self.recipe, Path(self._scratch.name), use_cache=True)

    @cached_property
    def prompts(self) -> inputs.Rows:
        """Training prompts."""
        return inputs.training_prompts(self.recipe)

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

        return TransformersEngine(self.recipe.generate.batch_size)

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

    def generate(self, policy: Policy, round_number: int) -> list[Completion]:
        """The generate stage of a round."""
        recipe = self.recipe
        return generate_completions(
            policy,
            draw_prompts(self.prompts, round_number, recipe.generate.prompts_per_round, recipe.seed),
            self.engine,
            sampling_settings(recipe.generate),
            num_generations=recipe.generate.num_generations,
            round_number=round_number,
            stage="generate",
            run_seed=recipe.seed,
            progress=self.progress,
        )

    def label(
        self, completions: Sequence[Completion], policy: Policy | None, reference: Policy | None
    ) -> LabelledPairs:
        """The label stage of a round.

        Args:
            completions: what to pair.
            policy: needed where `labels_itself` says so.
            reference: likewise.
        """
        recipe, scorer = self.recipe, self.scorer(self._reward_labeler)
        labelled = LabelledPairs([], {})
        if scorer is not None:
            labelled = label_completions(
                completions,
                scorer,
                recipe.label,
                num_generations=recipe.generate.num_generations,
                keep_others=needs_others(recipe, "dpr"),
                run_seed=recipe.seed,
                progress=self.progress,
            )
        if policy is not None and reference is not None:
            labeler = PolicyLabeler(policy, reference, recipe.method.beta, recipe.generate.batch_size)
            pairs = self_label(completions, labeler, recipe.generate.num_generations)
            counts = {**labelled.counts, "self_labelled_pairs": len(pairs)}
            labelled = LabelledPairs([*labelled.preferences, *pairs], counts)
        return labelled

    @property
    def labels_itself(self) -> bool:
        """Whether the label stage needs the policy: source `dpp` is in use."""
        return "dpp" in self.recipe.method.sources.in_use()

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
    ) -> TrainOutcome:
        """The train stage of a round: these pairs beside the recipe's offline share.

        The first call makes the trainer; later calls must bring the same policy and reference objects.
        """
        if self._trainer is None:
            from align_cli.training.trainer import make_trainer

            scratch = Path(self._scratch.name)
            self._trainer = make_trainer(policy, reference.model, self.recipe, scratch, self._advance)
        self.progress.start(self.recipe.train.steps_per_round, "steps")
        pairs = [*self.offline_pairs(policy).preferences, *preferences]
        return train_policy(self._trainer, self.recipe, pairs, start, optimizer_state)

    def optimizer(self) -> Any:
        """The optimizer of the last train stage."""
        return self._trainer.optimizer if self._trainer is not None else None

    def evaluation_samples(self, policy: Policy) -> list[Completion]:
        """A policy's responses to the held-out prompts, drawn with the same random numbers for every policy."""
        recipe = self.recipe
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
