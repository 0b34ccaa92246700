"""Conversations: turns, histories, and answers that are told as they are sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import STRICT, TOOLS, make_chat_model

from align_cli.artifacts.records import TemplateArguments
from align_cli.engines.base import Request, SamplingSettings
from align_cli.engines.conversation import Conversation
from align_cli.engines.in_process import TransformersEngine
from align_cli.errors import DataError
from align_cli.models.load import Policy, load_policy
from align_cli.models.text import decode_completion, prompt_token_ids

SETTINGS = SamplingSettings(1.0, 0, 1.0, 12)


def chat_policy(folder: Path, **tokenizer: Any) -> Policy:
    """A policy with a chat template, which reads 256 tokens, and speaks in bytes that depend on what was said."""
    policy = load_policy(make_chat_model(folder, context_length=256, **tokenizer))
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter *= 8
    return policy


@pytest.fixture(scope="module")
def chatting(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return chat_policy(tmp_path_factory.mktemp("chat") / "model")


def nothing(piece: str) -> None:
    """Nobody listens."""


@pytest.mark.parametrize("seed", range(8))
def test_the_pieces_of_an_answer_are_the_answer_that_the_engine_gives(chatting: Policy, seed: int) -> None:
    pieces: list[str] = []
    conversation = Conversation(chatting, SETTINGS)
    answer = conversation.answer("Name a colour.", seed, pieces.append)
    assert "".join(pieces) == answer
    prompt = [{"role": "user", "content": "Name a colour."}]
    ids = prompt_token_ids(chatting.tokenizer, prompt)
    ((_, sample),) = next(TransformersEngine(1).generate(chatting, [Request(ids, seed)], SETTINGS))
    assert decode_completion(chatting.tokenizer, prompt, sample.token_ids, ids) == [
        {"role": "assistant", "content": answer}
    ]


def test_an_answer_comes_in_pieces_and_no_character_is_told_by_halves(chatting: Policy) -> None:
    told: list[list[str]] = [[] for _ in range(8)]
    for seed, pieces in enumerate(told):
        Conversation(chatting, SETTINGS).answer("Hello", seed, pieces.append)
    assert max(map(len, told)) > 5
    assert not [piece for pieces in told for piece in pieces[:-1] if piece.endswith("\ufffd")]


def test_a_conversation_remembers_and_begins_anew(chatting: Policy) -> None:
    conversation = Conversation(chatting, SETTINGS, system="Be kind.")
    opening = [{"role": "system", "content": "Be kind."}]
    assert conversation.messages == opening
    first = conversation.answer("One?", 0, nothing)
    second = conversation.answer("Two?", 1, nothing)
    said = [("user", "One?"), ("assistant", first), ("user", "Two?"), ("assistant", second)]
    assert conversation.messages == [*opening, *({"role": role, "content": text} for role, text in said)]
    conversation.reset()
    assert conversation.messages == opening
    assert conversation.answer("One?", 0, nothing) == first


def test_what_was_said_before_counts(chatting: Policy) -> None:
    talked = Conversation(chatting, SETTINGS)
    talked.answer("One?", 0, nothing)
    assert talked.answer("Two?", 1, nothing) != Conversation(chatting, SETTINGS).answer("Two?", 1, nothing)


def test_an_answer_that_is_stopped_is_kept_as_far_as_it_was_heard(chatting: Policy) -> None:
    conversation = Conversation(chatting, SETTINGS)
    heard: list[str] = []

    def stop_at_the_third(piece: str) -> None:
        if len(heard) == 2:
            raise KeyboardInterrupt
        heard.append(piece)

    with pytest.raises(KeyboardInterrupt):
        conversation.answer("Hello", 1, stop_at_the_third)
    assert conversation.messages == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "".join(heard)},
    ]
    assert conversation.answer("Again?", 2, nothing)


def test_a_policy_without_a_template_goes_on_with_each_text_alone(tiny_policy: Policy) -> None:
    conversation = Conversation(tiny_policy, SETTINGS, system="Be kind.")
    assert not conversation.chats
    first = conversation.answer("the hotel", 0, nothing)
    assert conversation.answer("the hotel", 0, nothing) == first


def test_arguments_reach_the_template(one_thread: None, tmp_path: Path) -> None:
    policy = chat_policy(tmp_path / "model", template=TOOLS)
    plain = Conversation(policy, SETTINGS).answer("Hello", 0, nothing)
    arguments = TemplateArguments(None, {"tone": "solemn"})
    assert Conversation(policy, SETTINGS, None, arguments).answer("Hello", 0, nothing) != plain


def test_an_answer_has_the_room_that_is_left_and_a_conversation_without_room_is_told(chatting: Policy) -> None:
    conversation = Conversation(chatting, SETTINGS._replace(max_new_tokens=1000))
    conversation.answer("a" * 150, 0, nothing)
    with pytest.raises(DataError, match="tokens long with all that was said before, and the policy reads 256"):
        for seed in range(20):
            conversation.answer("a" * 150, seed, nothing)
    before = list(conversation.messages)
    with pytest.raises(DataError):
        conversation.answer("a" * 300, 0, nothing)
    assert conversation.messages == before


def test_a_template_that_rejects_a_conversation_is_told(one_thread: None, tmp_path: Path) -> None:
    policy = load_policy(make_chat_model(tmp_path / "model", template=STRICT))
    with pytest.raises(DataError, match="no system here"):
        Conversation(policy, SETTINGS, system="Be kind.").answer("Hello", 0, nothing)
