"""The labeler `reward_model`: a sequence classifier with one output, from the Hub, a folder or the run itself.

How it reads a prompt with its response is `models.reward_models`'. Its weights are loaded when it is first asked, and
let go when the stage ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from align_cli.artifacts.records import Text
from align_cli.errors import LabelerError
from align_cli.labelers.base import Scorer
from align_cli.models.devices import find_device
from align_cli.models.memory import out_of_memory_as_memory_error
from align_cli.models.refused import faults_of_a_model
from align_cli.recipe.sections.labelers import RewardModelLabelerSection

if TYPE_CHECKING:
    import torch
    from transformers import BatchEncoding, PreTrainedConfig

    from align_cli.models.reward_models import Origin, RewardReader


class RewardModelLabeler(Scorer):
    """Scores completions by a reward model.

    Args:
        name: the labeler's name in the recipe.
        section: which model, and how it is asked.
        note: told, once, where texts are longer than the model can read.
    """

    by_length = True
    scores_once = True

    def __init__(
        self, name: str, section: RewardModelLabelerSection, note: Callable[[str], None] = lambda text: None
    ) -> None:
        self.name, self.batch_size = name, section.batch_size
        self._section, self._place, self._note = section, f"labelers.{name}", note
        self._has_noted = False
        self._model: torch.nn.Module | None = None

    def check(self, prompts: Sequence[Text]) -> None:
        """Looks at its config, reads a few texts by its tokenizer, and loads no weights.

        A model that the run has yet to fit is not looked at.
        """
        find_device(self._section.device, f"{self._place}.device")
        if not self._section.artifacts() or self._of_run() is not None:
            self._in_tokens(prompts, prompts)

    def score(
        self, prompts: Sequence[Text], completions: Sequence[Text], prompt_indices: Sequence[int] | None = None
    ) -> list[float]:
        """One score a completion; the model reads at most `batch_size` at a time.

        Raises:
            LabelerError: if a score is no finite number.
            AlignError: if the model cannot be had.
            MemoryError: if one batch is too much for the memory.
        """
        scores: list[float] = []
        for start in range(0, len(completions), self.batch_size):
            batch = slice(start, start + self.batch_size)
            with out_of_memory_as_memory_error():
                scores += self._score_batch(prompts[batch], completions[batch])
        return scores

    def release(self) -> None:
        """Lets the weights go."""
        self._model = None

    def _score_batch(self, prompts: Sequence[Text], completions: Sequence[Text]) -> list[float]:
        from align_cli.models.reward_models import rewards_of

        self._model = self._model or self._loaded()
        rewards_B = rewards_of(self._model, self._in_tokens(prompts, completions))
        if not rewards_B.isfinite().all():
            what = "the reward model gave a score that is no finite number"
            raise LabelerError(what, where=self._place, hint="load it in another type (dtype: float32)")
        signed: list[float] = (-rewards_B if self._section.reverse else rewards_B).tolist()
        return signed

    def _in_tokens(self, prompts: Sequence[Text], completions: Sequence[Text]) -> BatchEncoding:
        reader = self._reader
        with faults_of_a_model(self._origin.place):
            rows = reader.encode(prompts, completions, reader.most)
            if any(row.was_cut for row in rows) and not self._has_noted:
                self._has_noted = True
                what = f"some texts are longer than the {reader.most} tokens that it reads; it sees their ends"
                self._note(f"{self._place}: {what}")
            return reader.pad(rows)

    @cached_property
    def _origin(self) -> Origin:
        """Where its model is.

        Raises:
            LabelerError: if it is the run's, which has fitted none.
        """
        from align_cli.models.reward_models import Origin

        place = self._of_run() if self._section.artifacts() else self._section.model_name_or_path
        if place is None:
            what = "the run has not fitted its reward model"
            raise LabelerError(what, where=self._place, hint="`align reward` with the recipe fits it")
        return Origin(str(place), self._section.revision, self._section.trust_remote_code)

    def _of_run(self) -> str | None:
        """The place of the run's own model; None before it is there."""
        found = [self.artifact(name) for name in self._section.artifacts()]
        return str(found[0]) if found and found[0] is not None else None

    @cached_property
    def _config(self) -> PreTrainedConfig:
        """Its config, which is a reward model's.

        Raises:
            AlignError: if it is no reward model.
        """
        from align_cli.models.reward_models import check_reward_model

        return check_reward_model(self._origin)

    @cached_property
    def _reader(self) -> RewardReader:
        from align_cli.models.reward_models import RewardReader, load_tokenizer_of

        config = self._config
        reader = RewardReader(load_tokenizer_of(self._origin), config)
        config.pad_token_id = reader.tokenizer.pad_token_id  # by which decoders find where a text ends
        return reader

    def _loaded(self) -> torch.nn.Module:
        from align_cli.models.reward_models import load_reward_model

        assert self._reader is not None  # it has set what the config says of padding
        device = find_device(self._section.device, f"{self._place}.device")
        return load_reward_model(self._origin, self._config, self._section.dtype, device)
