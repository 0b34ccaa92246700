"""Text to token ids and back: plain prompts and chats, always by the policy's own tokenizer.

A prompt is tokenised once, in the form in which the policy is sampled; a dataset's completion is tokenised behind that
very prompt. So training and sampling see the same prompt ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from align_cli.artifacts.records import Text
from align_cli.errors import AlignError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def plain_text(text: Text) -> str:
    """The words of a prompt or a completion: a chat's messages, one below the other, without their roles."""
    return text if isinstance(text, str) else "\n".join(str(message.get("content") or "") for message in text)


def prompt_token_ids(tokenizer: PreTrainedTokenizerBase, prompt: Text) -> list[int]:
    """The ids that the policy is sampled from: the text with the tokenizer's special tokens, or the chat template."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    return _chat_ids(tokenizer, prompt, add_generation_prompt=True)


def completion_token_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: Text, prompt_ids: list[int], completion: Text
) -> list[int]:
    """The ids of a dataset's completion behind a prompt, closed by the end-of-sequence token.

    Prompt and completion are tokenised together where that keeps the prompt's ids; where tokens would merge across the
    border, the completion is tokenised alone.

    Returns:
        At least one id.
    """
    is_plain = isinstance(prompt, str) and isinstance(completion, str)
    if isinstance(prompt, str) and isinstance(completion, str):
        together = list(tokenizer(prompt + completion)["input_ids"])
    else:
        together = _chat_ids(tokenizer, [*_messages(prompt), *_messages(completion)], add_generation_prompt=False)
    is_behind_prompt = together[: len(prompt_ids)] == prompt_ids
    if is_behind_prompt:
        ids = together[len(prompt_ids) :]
    else:
        ids = list(tokenizer(plain_text(completion), add_special_tokens=False)["input_ids"])
    # A chat template ends a turn in its own way, such as <|im_end|>\n; what it wrote stays as it is.
    is_closed = ids[-1:] == [tokenizer.eos_token_id] or (is_behind_prompt and not is_plain and bool(ids))
    return ids if is_closed else [*ids, tokenizer.eos_token_id]


def decode_completion(tokenizer: PreTrainedTokenizerBase, prompt: Text, completion_ids: list[int]) -> Text:
    """The text of sampled ids without special tokens; an assistant message where the prompt is a chat."""
    text = tokenizer.decode(completion_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def _chat_ids(tokenizer: Any, messages: list[dict[str, Any]], *, add_generation_prompt: bool) -> list[int]:
    if not tokenizer.chat_template:
        raise AlignError(
            "prompts or pairs are chats, and the policy's tokenizer has no chat template",
            where=str(tokenizer.name_or_path),
            hint="give plain text, or a policy whose tokenizer has a chat template",
        )
    return list(
        tokenizer.apply_chat_template(
            messages, add_generation_prompt=add_generation_prompt, tokenize=True, return_dict=True
        )["input_ids"]
    )


def _messages(text: Text) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}] if isinstance(text, str) else text
