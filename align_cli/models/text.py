"""Text to token ids and back: plain prompts and chats, always by the policy's own tokenizer.

A prompt is tokenised once, in the form in which the policy is sampled; a dataset's completion is tokenised behind that
very prompt. So training and sampling see the same prompt ids.

A chat that ends with the assistant's words is one that the policy goes on with: its template is cut behind them, and a
completion is what follows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from os.path import commonprefix
from typing import TYPE_CHECKING, Any, Protocol

from align_cli.artifacts.records import NO_ARGUMENTS, TemplateArguments, Text
from align_cli.errors import AlignError, DataError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANCHORS = ("", "\n", ".", "a")
"""What a completion is tokenised behind where it does not join its prompt's last token: nothing, if that will do."""


class PolicyText(Protocol):
    """What of a policy says how text becomes ids, and how many of them it can read."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The policy's."""
        ...

    @property
    def eos_token_ids(self) -> list[int]:
        """The ids that end a response."""
        ...

    @property
    def context_length(self) -> int | None:
        """The most tokens of prompt and response together; None where the architecture has no bound."""
        ...


def plain_text(text: Text) -> str:
    """The words of a prompt or a completion: a chat's messages, one below the other, without their roles."""
    return text if isinstance(text, str) else "\n".join(str(message.get("content") or "") for message in text)


def prompt_token_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: Text, arguments: TemplateArguments = NO_ARGUMENTS
) -> list[int]:
    """The ids that the policy is sampled from: the text with the tokenizer's special tokens, or the chat template.

    Args:
        tokenizer: the policy's.
        prompt: text or messages; messages that end with the assistant's are gone on with.
        arguments: what the chat template gets besides the messages.

    Returns:
        At least one id.

    Raises:
        DataError: for a chat that the template rejects, a text that the tokenizer does, and a prompt of no tokens.
    """
    ids = (
        _text_ids(tokenizer, prompt)
        if isinstance(prompt, str)
        else _ids(tokenizer, _opened(tokenizer, prompt, arguments))
    )
    if not ids:
        raise DataError("the prompt has no tokens", hint="leave empty prompts out")
    return ids


def completion_token_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Text,
    prompt_ids: list[int],
    completion: Text,
    stop_ids: Collection[int] = (),
    arguments: TemplateArguments = NO_ARGUMENTS,
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
        arguments: what the chat template gets besides the messages.

    Returns:
        At least one id.

    Raises:
        DataError: for a chat that the template rejects, or a text that the tokenizer does.
    """
    is_plain = isinstance(prompt, str) and isinstance(completion, str)
    if isinstance(prompt, str) and isinstance(completion, str):
        together = _text_ids(tokenizer, prompt + completion)
        ids = _behind(tokenizer, prompt_ids, together, completion)
    else:
        whole = _rendered(tokenizer, _joined(_messages(prompt, "user"), _messages(completion, "assistant")), arguments)
        together = _ids(tokenizer, whole)
        written = None
        if together[: len(prompt_ids)] != prompt_ids:
            written = _written_behind(tokenizer, _messages(prompt, "user"), whole, arguments)
            is_plain = written is None
        ids = _behind(tokenizer, prompt_ids, together, plain_text(completion) if written is None else written)
    stops = {tokenizer.eos_token_id, *stop_ids}
    end = next((place for place, token_id in enumerate(ids) if token_id in stops), None)
    if end is not None:
        return ids[: end + 1]
    # A chat template ends a turn in its own way; where that stops nothing, what it wrote stays as it is.
    return [*ids, tokenizer.eos_token_id] if is_plain or not ids else ids


def text_before(tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int]) -> str | None:
    """The text that a tokenizer like the policy's, asked as for any text, makes these ids of; None if there is none."""
    whole = _decoded(tokenizer, prompt_ids, skip_special_tokens=False)
    begin = str(tokenizer.bos_token) if tokenizer.bos_token is not None else ""
    for text in dict.fromkeys((whole, whole.removeprefix(begin))):
        if _encoded(tokenizer, text, add_special_tokens=True) == prompt_ids:
            return text
    return None


def text_token_ids(tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int], text: str) -> list[int]:
    """The ids of a text that somebody sampled behind a prompt, of which nothing but the text is known."""
    before = _decoded(tokenizer, prompt_ids, skip_special_tokens=False)
    return _behind(tokenizer, prompt_ids, _ids(tokenizer, before + text), text)


def decode_completion(
    tokenizer: PreTrainedTokenizerBase, prompt: Text, completion_ids: list[int], prompt_ids: Sequence[int] = ()
) -> Text:
    """The text of sampled ids without special tokens; an assistant message where the prompt is a chat.

    Args:
        tokenizer: the policy's.
        prompt: text or messages.
        completion_ids: what was sampled.
        prompt_ids: what it was sampled from: some tokenizers leave out the space that a text begins with, and keep it
            within a text.
    """
    before = _decoded(tokenizer, list(prompt_ids))
    whole = _decoded(tokenizer, [*prompt_ids, *completion_ids])
    is_behind = whole.startswith(before)
    text = whole.removeprefix(before) if is_behind else _decoded(tokenizer, completion_ids)
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int], *, skip_special_tokens: bool = True) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a text that says its special tokens itself."""
    return _encoded(tokenizer, text, add_special_tokens=False)


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str, *, add_special_tokens: bool) -> list[int]:
    """The tokenizer's ids.

    Raises:
        DataError: for whatever it raises, as one does that has no token for a text and none for what it does not know.
    """
    try:
        return list(tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])
    except Exception as error:  # the library that tokenises raises nothing more exact
        if isinstance(error, MemoryError):
            raise
        raise DataError(
            f"the policy's tokenizer rejects it ({first_line(error) or type(error).__name__})",
            hint="leave it out, or give the tokenizer an unknown token",
        ) from error


def _text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a plain text as a model reads it: begun once, by the tokenizer or by the text, and left open."""
    ids = _encoded(tokenizer, text, add_special_tokens=True)
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    if begin is not None and ids[:2] == [begin, begin] and text.startswith(str(tokenizer.bos_token)):
        ids = ids[1:]
    # Some tokenizers end every text; a text that says its end itself is left to say it once.
    is_ended = ids[-1:] == [end] and not text.endswith(str(tokenizer.eos_token))
    return ids[:-1] if is_ended else ids


def _behind(tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int], together: list[int], text: str) -> list[int]:
    """The ids of a text behind those of a prompt: out of both together where that keeps the prompt's, else alone.

    Alone a text may gain a space at its front, or lose one: it is then tokenised behind something else, and cut.
    """
    if together[: len(prompt_ids)] == prompt_ids:
        return together[len(prompt_ids) :]
    wanted = _decoded(tokenizer, prompt_ids, skip_special_tokens=False) + text
    alone = _ids(tokenizer, text)
    for anchor in ANCHORS:
        before, both = _ids(tokenizer, anchor), _ids(tokenizer, anchor + text)
        ids = both[len(before) :]
        if both[: len(before)] == before and wanted == _decoded(
            tokenizer, [*prompt_ids, *ids], skip_special_tokens=False
        ):
            return ids
    return alone


def _opened(tokenizer: PreTrainedTokenizerBase, prompt: list[dict[str, Any]], arguments: TemplateArguments) -> str:
    """A chat as the policy is sampled from it: with a new turn of the assistant's, or within the one at its end."""
    is_begun = bool(prompt) and prompt[-1].get("role") == "assistant"
    how = {"continue_final_message": True} if is_begun else {"add_generation_prompt": True}
    return _rendered(tokenizer, prompt, arguments, **how)


def _joined(prompt: list[dict[str, Any]], completion: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A prompt with its completion; an assistant's message at the prompt's end goes on with the completion's first."""
    if not prompt or not completion or prompt[-1].get("role") != "assistant":
        return [*prompt, *completion]
    begun, first = prompt[-1], completion[0]
    content = str(begun.get("content") or "") + str(first.get("content") or "")
    return [*prompt[:-1], {**begun, **first, "content": content}, *completion[1:]]


def _written_behind(
    tokenizer: PreTrainedTokenizerBase, prompt: list[dict[str, Any]], whole: str, arguments: TemplateArguments
) -> str | None:
    """What a template writes behind a prompt where it opens the assistant's turn in two ways, as with <think>.

    None where the two have less in common than the prompt without that opening: then nothing says where it begins.
    """
    opened = _opened(tokenizer, prompt, arguments)
    shared = len(commonprefix([opened, whole]))  # noqa: RUF071 - characters are what is wanted
    if shared < len(opened) and shared < len(_rendered(tokenizer, prompt, arguments)):
        return None
    return whole[shared:]


def _rendered(tokenizer: Any, messages: list[dict[str, Any]], arguments: TemplateArguments, **how: bool) -> str:
    """A chat by the tokenizer's template.

    Raises:
        DataError: if there is no template, or for whatever it raises: templates are code that others wrote.
        AlignError: if the template does not compile, which is no row's fault.
    """
    from jinja2 import TemplateSyntaxError

    if not tokenizer.chat_template:
        raise DataError(
            "this is a chat, and the policy's tokenizer has no chat template",
            hint="give plain text, or a policy whose tokenizer has a chat template",
        )
    try:
        text: str = tokenizer.apply_chat_template(
            messages,
            tools=arguments.tools,
            tokenize=False,
            **(arguments.chat_template_kwargs or {}),
            **how,
        )
    except TemplateSyntaxError as error:
        raise AlignError(
            f"the policy's chat template does not compile: line {error.lineno}: {first_line(error)}",
            where=tokenizer.name_or_path,
            hint="mend its chat_template.jinja, or the chat_template of its tokenizer_config.json; or take a newer "
            "transformers, where the template is meant for one",
        ) from error
    except Exception as error:
        raise DataError(
            f"the chat template rejects it ({first_line(error) or type(error).__name__})",
            hint="change its roles, the order of its turns or what its messages hold, as the template wants them; or "
            "leave it out",
        ) from error
    return text


def _messages(text: Text, role: str) -> list[dict[str, Any]]:
    return [{"role": role, "content": text}] if isinstance(text, str) else text
