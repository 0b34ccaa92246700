"""Text to token ids and back: plain prompts and chats, always by the policy's own tokenizer.

A prompt is tokenised once, in the form in which the policy is sampled; a dataset's completion is tokenised behind that
very prompt. So training and sampling see the same prompt ids.
"""

from __future__ import annotations

from collections.abc import Collection
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
        ids = list(tokenizer(prompt)["input_ids"])
        # Some tokenizers end every text; a prompt that says its end itself is left to say it once.
        is_ended = ids[-1:] == [tokenizer.eos_token_id] and not prompt.endswith(str(tokenizer.eos_token))
        return ids[:-1] if is_ended else ids
    return _chat_ids(tokenizer, prompt, add_generation_prompt=True)


def completion_token_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Text,
    prompt_ids: list[int],
    completion: Text,
    stop_ids: Collection[int] = (),
) -> list[int]:
    """The ids of a dataset's completion behind a prompt, up to the first that stops generation; closed by one.

    Prompt and completion are tokenised together where that keeps the prompt's ids; where tokens would merge across the
    border, the completion is tokenised alone. What stands behind the first id that stops generation, as the line break
    that ChatML writes behind <|im_end|>, is nothing that a sampled response could have: it is left out.

    Args:
        tokenizer: the policy's.
        prompt: text or messages.
        prompt_ids: its ids, as the policy is sampled from them.
        completion: text or messages.
        stop_ids: what stops generation besides the tokenizer's end-of-sequence token; see `Policy.eos_token_ids`.

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
    stops = {tokenizer.eos_token_id, *stop_ids}
    end = next((place for place, token_id in enumerate(ids) if token_id in stops), None)
    if end is not None:
        return ids[: end + 1]
    # A chat template ends a turn in its own way; where that stops nothing, what it wrote stays as it is.
    return ids if is_behind_prompt and not is_plain and ids else [*ids, tokenizer.eos_token_id]


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
