"""The labeler `reward_model`: a sequence classifier with one output, from the Hub or a folder.

It reads a conversation by its own tokenizer and chat template; without a template, as an encoder, prompt and completion
as two texts side by side. Its weights are loaded when it is first asked, and let go when the stage ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from align_cli.artifacts.records import Text
from align_cli.errors import AlignError, LabelerError
from align_cli.labelers.base import Scorer
from align_cli.models.devices import find_device, in_float64
from align_cli.models.memory import out_of_memory_as_memory_error
from align_cli.models.refused import check_folder, check_no_adapter, check_whole, faults_of_a_model
from align_cli.models.text import plain_text
from align_cli.recipe.sections.labelers import RewardModelLabelerSection

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

ROLES = ("user", "assistant")
"""Whose a text prompt and its completion are, for a chat template."""


class RewardModelLabeler(Scorer):
    """Scores completions by a reward model.

    Args:
        name: the labeler's name in the recipe.
        section: which model, and how it is asked.
        note: told, once, where texts are longer than the model can read.
    """

    by_length = True

    def __init__(
        self, name: str, section: RewardModelLabelerSection, note: Callable[[str], None] = lambda text: None
    ) -> None:
        self.name, self.batch_size = name, section.batch_size
        self._section, self._place, self._note = section, f"labelers.{name}", note
        self._has_noted = False
        self._model: PreTrainedModel | None = None

    def check(self, prompts: Sequence[Text]) -> None:
        """Looks at its config, reads a few texts by its tokenizer, and loads no weights."""
        find_device(self._section.device, f"{self._place}.device")
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
        import torch

        model = self._model = self._model or self._loaded()
        with torch.no_grad():
            outputs = model(**self._in_tokens(prompts, completions).to(model.device))
        rewards_B = in_float64(outputs.logits[:, 0])
        if not rewards_B.isfinite().all():
            what = "the reward model gave a score that is no finite number"
            raise LabelerError(what, where=self._place, hint="load it in another type (dtype: float32)")
        signed: list[float] = (-rewards_B if self._section.reverse else rewards_B).tolist()
        return signed

    def _in_tokens(self, prompts: Sequence[Text], completions: Sequence[Text]) -> BatchEncoding:
        config, tokenizer = self._config, self._tokenizer
        pairs = list(zip(prompts, completions, strict=True))
        with faults_of_a_model(self._section.model_name_or_path):
            if tokenizer.chat_template:
                texts = [tokenizer.apply_chat_template(_as_chat(*pair), tokenize=False) for pair in pairs]
                rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
            else:
                sides = ([plain_text(pair[side]) for pair in pairs] for side in (0, 1))
                return tokenizer(*sides, padding=True, truncation="only_first", return_tensors="pt")
        most = getattr(config.get_text_config(), "max_position_embeddings", None)
        return tokenizer.pad({"input_ids": self._ends(rows, most)}, padding_side="right", return_tensors="pt")

    def _ends(self, rows: list[list[int]], most: int | None) -> list[list[int]]:
        """The ends of those that are longer than the model can read: the completion stands there."""
        if most is None or all(len(row) <= most for row in rows):
            return rows
        if not self._has_noted:
            self._has_noted = True
            self._note(f"{self._place}: some texts are longer than the {most} tokens that it reads; it sees their ends")
        return [row[-most:] for row in rows]

    @cached_property
    def _config(self) -> PreTrainedConfig:
        """Its config, which is a reward model's.

        Raises:
            AlignError: if it is no reward model.
        """
        from transformers import AutoConfig

        place = self._section.model_name_or_path
        with faults_of_a_model(place):
            check_folder(place)
            check_no_adapter(place, self._section.revision)
            config = AutoConfig.from_pretrained(place, **self._shared)
        kinds = config.architectures or []
        if not any(kind.endswith("ForSequenceClassification") for kind in kinds):
            raise AlignError(
                f"this is a {', '.join(kinds) or 'model of no kind'}, whose head for rewards was never trained",
                where=place,
                hint="name a model of a kind that ends in ForSequenceClassification",
            )
        if config.num_labels != 1:
            raise AlignError(
                f"the classifier has {config.num_labels} outputs; a reward model has one",
                where=place,
                hint="a classifier of several classes can be called from a labeler of kind function",
            )
        return config

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        with faults_of_a_model(self._section.model_name_or_path):
            tokenizer = AutoTokenizer.from_pretrained(self._section.model_name_or_path, **self._shared)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def _loaded(self) -> PreTrainedModel:
        from transformers import AutoModelForSequenceClassification

        section, config = self._section, self._config
        config.pad_token_id = self._tokenizer.pad_token_id  # by which decoders find where a text ends
        with faults_of_a_model(section.model_name_or_path):
            model, found = AutoModelForSequenceClassification.from_pretrained(
                section.model_name_or_path, config=config, dtype=section.dtype, output_loading_info=True, **self._shared
            )
        check_whole(found, section.model_name_or_path)
        return model.to(find_device(section.device, f"{self._place}.device")).eval()

    @property
    def _shared(self) -> dict[str, Any]:
        return {"revision": self._section.revision, "trust_remote_code": self._section.trust_remote_code}


def _as_chat(prompt: Text, completion: Text) -> list[dict[str, Any]]:
    """A conversation: a text prompt is what the user says, a text completion what the assistant says."""
    turns = (prompt, completion)
    asked, said = (
        [{"role": role, "content": turn}] if isinstance(turn, str) else turn
        for role, turn in zip(ROLES, turns, strict=True)
    )
    return [*asked, *said]
