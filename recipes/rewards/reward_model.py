"""A reward model from the Hub or a folder: any sequence classifier with one output, a decoder or an encoder.

A class with `arguments` is made once and then called: the model is loaded at the first call, and stays in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any


class RewardModel:
    """A scalar reward of an answer to a prompt.

    Args:
        model: a Hub id or a folder.
        batch_size: answers in one forward pass.
        dtype: of the weights, such as `bfloat16`.
        sign: -1 where the model's output is high for what should be avoided, as a cost model's is.
        device: such as `cuda:0`; the accelerator that there is, else the CPU, when left out.
    """

    def __init__(
        self, model: str, batch_size: int = 16, dtype: str = "bfloat16", sign: float = 1.0, device: str | None = None
    ) -> None:
        self.place, self.batch_size, self.dtype, self.sign, self.device = model, batch_size, dtype, sign, device

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], **_: object) -> list[float]:
        pairs = list(zip(prompts, completions, strict=True))
        rewards = [0.0] * len(pairs)
        by_length = sorted(range(len(pairs)), key=lambda row: len(pairs[row][0]) + len(pairs[row][1]))
        for start in range(0, len(pairs), self.batch_size):
            rows = by_length[start : start + self.batch_size]
            for row, reward in zip(rows, self._rewards([pairs[row] for row in rows]), strict=True):
                rewards[row] = self.sign * reward
        return rewards

    def _rewards(self, pairs: list[tuple[str, str]]) -> list[float]:
        import torch

        model, tokenizer = self._loaded
        if tokenizer.chat_template:
            chats = [
                [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
                for prompt, answer in pairs
            ]
            texts = tokenizer.apply_chat_template(chats, tokenize=False)
            inputs = tokenizer(texts, padding=True, truncation=True, add_special_tokens=False, return_tensors="pt")
        else:  # an encoder, which was trained on question and answer side by side
            prompts, answers = ([pair[side] for pair in pairs] for side in (0, 1))
            inputs = tokenizer(prompts, answers, padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            rewards: list[float] = model(**inputs.to(model.device)).logits[:, 0].float().tolist()
        return rewards

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        model = AutoModelForSequenceClassification.from_pretrained(self.place, dtype=self.dtype)
        if model.config.num_labels != 1:
            raise ValueError(f"{self.place} has {model.config.num_labels} outputs; a reward model has one")
        tokenizer = AutoTokenizer.from_pretrained(self.place)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id  # else decoders take no batches
        here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        return model.to(self.device or here).eval(), tokenizer
