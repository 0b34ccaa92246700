from __future__ import annotations

from typing import Any

import pytest
from chat_models import CHATML, TOOLS, chat_tokenizer
from tokenizers import Tokenizer, decoders
from tokenizers import models as token_models
from tokenizers import pre_tokenizers as splitters
from transformers import PreTrainedTokenizerFast

from align_cli.artifacts.records import TemplateArguments
from align_cli.errors import DataError
from align_cli.models.load import Policy
from align_cli.models.text import completion_token_ids, decode_completion, plain_text, prompt_token_ids
from align_cli.playground import world

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHAT = [{"role": "user", "content": "ab"}]
REPLY = [{"role": "assistant", "content": "ba"}]


def letter_tokenizer(**settings: Any) -> PreTrainedTokenizerFast:
    """Letters, marks, and the one merge `ab`: text cut between a and b has other tokens than the whole."""
    special = ["<pad>", "<eos>", "<bos>", "<|user|>", "<|assistant|>"]
    vocabulary = {token: index for index, token in enumerate([*special, "a", "b", "c", " ", "ab", "\n"])}
    tokenizer = Tokenizer(token_models.BPE(vocabulary, [("a", "b")]))
    tokenizer.add_special_tokens(special)
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", bos_token="<bos>", **settings
    )


@pytest.fixture
def letters() -> PreTrainedTokenizerFast:
    return letter_tokenizer()


@pytest.fixture
def chatty() -> PreTrainedTokenizerFast:
    tokenizer = letter_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tokens(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[str]:
    return tokenizer.convert_ids_to_tokens(ids)


def completion_tokens(tokenizer: PreTrainedTokenizerFast, prompt: Any, completion: Any) -> list[str]:
    ids = completion_token_ids(tokenizer, prompt, prompt_token_ids(tokenizer, prompt), completion)
    return tokens(tokenizer, ids)


def test_a_completion_goes_on_behind_the_prompts_tokens_and_ends(letters: PreTrainedTokenizerFast) -> None:
    assert tokens(letters, prompt_token_ids(letters, "ca")) == ["c", "a"]
    assert completion_tokens(letters, "ca", " ab") == [" ", "ab", "<eos>"]


def test_where_tokens_merge_across_the_border_the_prompt_stays_as_it_is_sampled(
    letters: PreTrainedTokenizerFast,
) -> None:
    assert tokens(letters, letters("cabc")["input_ids"]) == ["c", "ab", "c"], "the two do merge"
    assert completion_tokens(letters, "ca", "bc") == ["b", "c", "<eos>"]


def test_a_completion_that_says_its_end_is_not_ended_twice(letters: PreTrainedTokenizerFast) -> None:
    assert completion_tokens(letters, "ca", " ab<eos>") == [" ", "ab", "<eos>"]


def test_a_completion_with_an_end_inside_it_ends_there(letters: PreTrainedTokenizerFast) -> None:
    assert completion_tokens(letters, "c", " a<eos>b") == [" ", "a", "<eos>"]


def test_an_empty_completion_is_the_end_alone(letters: PreTrainedTokenizerFast) -> None:
    assert completion_tokens(letters, "ca", "") == ["<eos>"]


def test_a_prompt_begins_as_the_tokenizer_begins_a_text_and_a_completion_does_not() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = letter_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    assert tokens(tokenizer, prompt_token_ids(tokenizer, "ca")) == ["<bos>", "c", "a"]
    assert completion_tokens(tokenizer, "ca", " b") == [" ", "b", "<eos>"]
    assert completion_tokens(tokenizer, "ca", "bc") == ["b", "c", "<eos>"], "alone, where the two would merge"


def test_a_tokenizer_that_ends_every_text_does_not_end_a_prompt() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = letter_tokenizer()
    end = tokenizer.eos_token_id
    ends = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", end)])
    tokenizer.backend_tokenizer.post_processor = ends
    assert tokens(tokenizer, tokenizer("ca")["input_ids"])[-1] == "<eos>"
    assert tokens(tokenizer, prompt_token_ids(tokenizer, "ca")) == ["c", "a"]
    assert completion_tokens(tokenizer, "ca", " b") == [" ", "b", "<eos>"]


def test_a_prompt_that_says_an_end_itself_keeps_it(letters: PreTrainedTokenizerFast) -> None:
    assert tokens(letters, prompt_token_ids(letters, "ca<eos>")) == ["c", "a", "<eos>"]


def test_a_chat_is_sampled_behind_the_templates_generation_prompt(chatty: PreTrainedTokenizerFast) -> None:
    ids = prompt_token_ids(chatty, CHAT)
    assert tokens(chatty, ids) == ["<|user|>", "ab", "<eos>", "<|assistant|>"]
    assert completion_tokens(chatty, CHAT, REPLY) == ["b", "a", "<eos>"]


def test_a_text_completion_of_a_chat_is_the_assistants_message(chatty: PreTrainedTokenizerFast) -> None:
    assert completion_tokens(chatty, CHAT, "ba") == ["b", "a", "<eos>"]


def test_a_plain_prompt_does_not_go_through_the_chat_template(chatty: PreTrainedTokenizerFast) -> None:
    assert tokens(chatty, prompt_token_ids(chatty, "ca")) == ["c", "a"]
    assert completion_tokens(chatty, "ca", " b") == [" ", "b", "<eos>"]


def test_nothing_behind_the_first_id_that_stops_generation_is_trained_on(chatty: PreTrainedTokenizerFast) -> None:
    """ChatML writes a line break behind a turn's end; a sampled response has none."""
    chatty.chat_template = CHAT_TEMPLATE.replace("{{ eos_token }}", "{{ eos_token }}\n")
    assert completion_tokens(chatty, CHAT, REPLY) == ["b", "a", "<eos>"]


def test_what_stops_generation_besides_the_tokenizers_end_ends_a_completion_too(
    chatty: PreTrainedTokenizerFast,
) -> None:
    """As `<|eot_id|>`, which the generation config of some models names and their tokenizer does not."""
    chatty.chat_template = CHAT_TEMPLATE.replace("{{ eos_token }}", "<bos>\n")
    prompt_ids = prompt_token_ids(chatty, CHAT)
    stop = chatty.convert_tokens_to_ids("<bos>")
    ids = completion_token_ids(chatty, CHAT, prompt_ids, REPLY, [stop])
    assert tokens(chatty, ids) == ["b", "a", "<bos>"]
    untold = completion_token_ids(chatty, CHAT, prompt_ids, REPLY)
    assert tokens(chatty, untold) == ["b", "a", "<bos>", "\n"], "a turn that stops nothing stays as it was written"


def test_a_chat_reply_ends_where_the_template_begins_it_in_another_way_than_the_generation_prompt(
    chatty: PreTrainedTokenizerFast,
) -> None:
    chatty.chat_template = CHAT_TEMPLATE.replace("<|assistant|>{% endif %}", "<|assistant|>\n{% endif %}")
    assert completion_tokens(chatty, CHAT, REPLY) == ["b", "a", "<eos>"]


def test_an_empty_chat_reply_has_at_least_an_end(chatty: PreTrainedTokenizerFast) -> None:
    chatty.chat_template = CHAT_TEMPLATE.replace("<|assistant|>{% endif %}", "<|assistant|>\n{% endif %}")
    assert completion_tokens(chatty, CHAT, [{"role": "assistant", "content": ""}]) == ["<eos>"]


def test_sampled_text_comes_without_special_tokens_in_the_prompts_form(letters: PreTrainedTokenizerFast) -> None:
    ids = letters.convert_tokens_to_ids(["b", "<bos>", "a", " ", "<eos>"])
    assert decode_completion(letters, "ca", ids) == "ba "
    assert decode_completion(letters, CHAT, ids) == [{"role": "assistant", "content": "ba "}]
    assert decode_completion(letters, "ca", []) == ""


def test_every_completion_of_the_playground_survives_ids_and_back(tiny_policy: Policy) -> None:
    tokenizer = tiny_policy.tokenizer
    for row in world.sft_corpus(0)[:200]:
        prompt_ids = prompt_token_ids(tokenizer, row["prompt"])
        ids = completion_token_ids(tokenizer, row["prompt"], prompt_ids, row["completion"])
        assert ids[-1] == tokenizer.eos_token_id and ids.count(tokenizer.eos_token_id) == 1
        assert tokenizer(row["prompt"] + row["completion"])["input_ids"] == [*prompt_ids, *ids[:-1]]
        assert decode_completion(tokenizer, row["prompt"], ids) == row["completion"]


def test_spaces_before_marks_are_kept() -> None:
    tokenizer = letter_tokenizer(clean_up_tokenization_spaces=True)
    tokenizer.backend_tokenizer.pre_tokenizer = splitters.Split(" ", "isolated")
    ids = tokenizer("a b")["input_ids"]
    assert decode_completion(tokenizer, "", ids) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("as it is ", "as it is "),
        ("", ""),
        ([], ""),
        ([{"role": "system", "content": "one"}, {"role": "user", "content": "two"}], "one\ntwo"),
        ([{"role": "assistant", "content": None}, {"role": "tool"}], "\n"),
    ],
)
def test_the_words_of_a_text_or_a_chat(text: Any, expected: str) -> None:
    assert plain_text(text) == expected


ADDER = [{"type": "function", "function": {"name": "adder"}}]
BEGUN = [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "It is"}]


def read(tokenizer: PreTrainedTokenizerFast, prompt: Any, completion: Any, **arguments: Any) -> tuple[str, str]:
    """What a policy is given, and what it learns, as text with every mark."""
    given = TemplateArguments(**arguments)
    prompt_ids = prompt_token_ids(tokenizer, prompt, given)
    ids = completion_token_ids(tokenizer, prompt, prompt_ids, completion, (), given)
    return tokenizer.decode(prompt_ids), tokenizer.decode(ids)


def test_a_template_gets_tools_and_keyword_arguments() -> None:
    prompt, completion = read(
        chat_tokenizer(TOOLS), CHAT, REPLY, tools=ADDER, chat_template_kwargs={"tone": "Be brief."}
    )
    assert prompt == (
        '<|im_start|>system\ntools [{"type": "function", "function": {"name": "adder"}}]<|im_end|>\n'
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n"
    )
    assert completion == "ba<|im_end|>"


def test_reasoning_is_learnt_as_the_template_writes_it() -> None:
    reply = [{**REPLY[0], "reasoning_content": "a, then b"}]
    assert read(chat_tokenizer(TOOLS), CHAT, reply)[1] == "(a, then b)ba<|im_end|>"


def test_a_chat_that_ends_with_the_assistants_words_is_gone_on_with() -> None:
    prompt, completion = read(chat_tokenizer(), BEGUN, [{"role": "assistant", "content": " blue"}])
    assert prompt == "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\nIt is"
    assert completion == " blue<|im_end|>"
    assert read(chat_tokenizer(), BEGUN, " blue") == (prompt, completion)


def test_a_template_that_takes_spaces_off_goes_on_with_the_words_too() -> None:
    trimming = chat_tokenizer(CHATML.replace("m['content']", "m['content'] | trim"))
    begun = [BEGUN[0], {"role": "assistant", "content": "It is "}]
    assert read(trimming, begun, "blue ")[0].endswith("assistant\nIt is")
    assert read(trimming, begun, "blue ")[1] == " blue<|im_end|>"


def test_a_template_that_leaves_the_last_words_out_cannot_go_on_with_them() -> None:
    short = chat_tokenizer("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")
    with pytest.raises(DataError, match=r"the chat template rejects it .*the final message does not appear"):
        prompt_token_ids(short, BEGUN)


OPENING = "<|im_start|>assistant\n<think>\n{% endif %}"
THINKING = CHATML.replace("<|im_start|>assistant\n{% endif %}", OPENING)
WITH_THOUGHT = THINKING.replace(
    "{{ m['content'] }}", "{% if m.thinking %}<think>{{ m.thinking }}</think>{% endif %}{{ m['content'] }}"
)


def test_a_turn_that_opens_with_a_thought_is_learnt_behind_that_opening() -> None:
    thoughtful = [{**REPLY[0], "thinking": "a, b"}]
    prompt, completion = read(chat_tokenizer(WITH_THOUGHT), CHAT, thoughtful)
    assert prompt.endswith("<|im_start|>assistant\n<think>\n")
    assert completion == "a, b</think>ba<|im_end|>"
    assert read(chat_tokenizer(THINKING), CHAT, REPLY)[1] == "ba<|im_end|>"


def test_a_template_that_writes_a_prompt_otherwise_once_it_is_answered_leaves_the_answer_alone() -> None:
    """As one that shows tools beside the last message of the user's only."""
    last_only = "{% for m in messages %}{{ m.role }}{% if loop.last %}(tools){% endif %}: {{ m.content }}\n{% endfor %}"
    assert read(chat_tokenizer(last_only), CHAT, REPLY) == ("user(tools): ab\n", "ba<|im_end|>")


def test_whatever_a_template_raises_is_words_for_the_user() -> None:
    with pytest.raises(DataError) as caught:
        prompt_token_ids(chat_tokenizer("{{ messages[0].content + 1 }}"), CHAT)
    assert caught.value.faults[0].what == ('the chat template rejects it (can only concatenate str (not "int") to str)')
    with pytest.raises(DataError, match="the chat template rejects it"):
        prompt_token_ids(chat_tokenizer(), CHAT, TemplateArguments(chat_template_kwargs={"conversation": "mine"}))


def test_a_prompt_of_no_tokens_is_a_fault(letters: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="the prompt has no tokens"):
        prompt_token_ids(letters, "")


def beginning(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return tokenizer


def test_a_text_that_was_rendered_already_begins_once() -> None:
    tokenizer = beginning(letter_tokenizer())
    assert tokens(tokenizer, tokenizer("<bos>ca")["input_ids"]) == ["<bos>", "<bos>", "c", "a"], "it would not"
    assert tokens(tokenizer, prompt_token_ids(tokenizer, "<bos>ca")) == ["<bos>", "c", "a"]
    assert completion_tokens(tokenizer, "<bos>ca", " b") == [" ", "b", "<eos>"]


def test_a_template_that_begins_a_chat_itself_begins_it_once() -> None:
    tokenizer = beginning(letter_tokenizer())
    tokenizer.chat_template = "{{ bos_token }}" + CHAT_TEMPLATE
    assert tokens(tokenizer, prompt_token_ids(tokenizer, CHAT))[:2] == ["<bos>", "<|user|>"]
    assert completion_tokens(tokenizer, CHAT, REPLY) == ["b", "a", "<eos>"]


def space_keeping_tokenizer() -> PreTrainedTokenizerFast:
    """As SentencePiece has it: a text begins with a space of its own, spaces are written as ▁, other bytes by name."""
    bytes_by_name = [f"<0x{number:02X}>" for number in range(256)]
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<eos>", "<unk>", *bytes_by_name, *"▁abc."])}
    merges = [("▁", "a"), ("▁", "b"), ("a", "b"), ("▁a", "b")]
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    tokenizer = Tokenizer(token_models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = splitters.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [("ca", "bc"), ("ca", " bc"), ("ca ", "bc"), ("ca", "\nb"), ("a", "b"), ("ca", "é"), ("ca ", " b"), ("ca", "")],
)
def test_no_space_is_gained_or_lost_between_prompt_and_completion(prompt: str, completion: str) -> None:
    for tokenizer in (space_keeping_tokenizer(), chat_tokenizer(None)):
        prompt_ids = prompt_token_ids(tokenizer, prompt)
        ids = completion_token_ids(tokenizer, prompt, prompt_ids, completion)
        assert tokenizer.decode([*prompt_ids, *ids[:-1]], clean_up_tokenization_spaces=False) == prompt + completion


@pytest.mark.parametrize("text", [" bc", "bc", "é 🦊", "\n\nb"])
def test_the_text_of_sampled_ids_keeps_its_first_space_and_every_byte(text: str) -> None:
    for tokenizer in (space_keeping_tokenizer(), chat_tokenizer(None)):
        prompt_ids = prompt_token_ids(tokenizer, "ca")
        ids = completion_token_ids(tokenizer, "ca", prompt_ids, text)
        assert decode_completion(tokenizer, "ca", ids, prompt_ids) == text


def test_half_a_character_is_shown_as_such_and_loses_nothing_around_it() -> None:
    for tokenizer in (space_keeping_tokenizer(), chat_tokenizer(None)):
        prompt_ids = prompt_token_ids(tokenizer, "ca")
        whole = completion_token_ids(tokenizer, "ca", prompt_ids, " b🦊")[:-1]
        assert decode_completion(tokenizer, "ca", whole[:-1], prompt_ids).rstrip("\ufffd") == " b"
        assert decode_completion(tokenizer, "ca", whole[-2:], prompt_ids).strip("\ufffd") == ""
