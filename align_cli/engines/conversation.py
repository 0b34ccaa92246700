"""A conversation with a policy: what was said so far, and an answer to what is said next, told as it is sampled.

A policy with a chat template has a history of turns. One without goes on with each text alone.
"""

from __future__ import annotations

from collections.abc import Callable
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

from align_cli.artifacts.records import NO_ARGUMENTS, TemplateArguments, Text
from align_cli.engines.base import Request, SamplingSettings
from align_cli.engines.in_process import stream
from align_cli.errors import DataError
from align_cli.models.text import decode_completion, plain_text, prompt_token_ids

if TYPE_CHECKING:
    from align_cli.models.load import Policy


UNFINISHED = "\ufffd"
"""What the bytes of a character are decoded to while some of them are still to come."""


class Conversation:
    """What was said to a policy, and what it answered.

    Args:
        policy: who answers.
        settings: how it is sampled.
        system: begins every conversation; None for nothing. A policy that does not chat has no use for it.
        arguments: what its chat template gets besides the messages.
    """

    def __init__(
        self,
        policy: Policy,
        settings: SamplingSettings,
        system: str | None = None,
        arguments: TemplateArguments = NO_ARGUMENTS,
    ) -> None:
        self._policy, self._settings, self._arguments = policy, settings, arguments
        self._opening = [{"role": "system", "content": system}] if system else []
        self.messages: list[dict[str, Any]] = list(self._opening)

    @property
    def chats(self) -> bool:
        """Whether the policy has a chat template, and so a history."""
        return bool(self._policy.tokenizer.chat_template)

    def reset(self) -> None:
        """Begin anew."""
        self.messages = list(self._opening)

    def answer(self, text: str, seed: int, heard: Callable[[str], None]) -> str:
        """The policy's answer.

        Args:
            text: what is said.
            seed: of the sampling.
            heard: called with each piece of the answer. An answer that Ctrl-C ends is kept as far as it was heard.

        Raises:
            DataError: if the template rejects the conversation, or it leaves no room for an answer.
        """
        asked = {"role": "user", "content": text}
        prompt: Text = [*self.messages, asked] if self.chats else text
        ids = prompt_token_ids(self._policy.tokenizer, prompt, self._arguments)
        told = ""

        def text_of(token_ids: list[int]) -> str:
            return plain_text(decode_completion(self._policy.tokenizer, prompt, token_ids, ids))

        def hear(token_ids: list[int]) -> None:
            nonlocal told
            so_far = text_of(token_ids).rstrip(UNFINISHED)
            if so_far.startswith(told) and so_far != told:
                heard(so_far[len(told) :])
                told = so_far

        try:
            sample = stream(self._policy, Request(ids, seed), self._with_room(len(ids)), hear)
        except KeyboardInterrupt:
            self._remember(asked, told)
            raise
        answer = text_of(sample.token_ids)
        if rest := answer[len(commonprefix([told, answer])) :]:  # noqa: RUF071 - characters are what is wanted
            heard(rest)
        self._remember(asked, answer)
        return answer

    def _remember(self, asked: dict[str, Any], answer: str) -> None:
        if self.chats and answer:
            self.messages += [asked, {"role": "assistant", "content": answer}]

    def _with_room(self, length: int) -> SamplingSettings:
        """The settings, with no more tokens than the policy can read behind a prompt of this length."""
        context = self._policy.context_length
        if context is None:
            return self._settings
        if length >= context:
            raise DataError(
                f"this is {length} tokens long with all that was said before, and the policy reads {context}",
                hint="begin anew, or say less",
            )
        return self._settings._replace(max_new_tokens=min(self._settings.max_new_tokens, context - length))
