"""Two policies of the same identity make the same tokens of every text."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_models import CHATML, make_chat_model

from align_cli.models.identity import identity_of
from align_cli.models.load import UnloadedPolicy, load_without_weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_chat_model(tmp_path / "model")
    return tmp_path / "model"


def test_the_same_tokenizer_has_the_same_identity_also_after_it_was_used(folder: Path) -> None:
    policy = load_without_weights(folder)
    found = identity_of(policy)
    policy.tokenizer(["a b", "c"], padding=True, truncation=True, max_length=4)
    assert found is not None
    assert found == identity_of(policy) == identity_of(load_without_weights(folder))


def test_whatever_makes_other_tokens_is_another_identity(folder: Path) -> None:
    policy = load_without_weights(folder)
    found = {identity_of(policy)}
    for changed in (policy._replace(context_length=7), policy._replace(eos_token_ids=[0])):
        found.add(identity_of(changed))
    for change in (
        lambda tokenizer: setattr(tokenizer, "chat_template", CHATML + " "),
        lambda tokenizer: tokenizer.add_tokens(["anew"]),
        lambda tokenizer: setattr(tokenizer, "eos_token", "anew"),
    ):
        other = load_without_weights(folder)
        change(other.tokenizer)
        found.add(identity_of(other))
    assert len(found) == 6 and None not in found


def test_nothing_is_said_of_a_template_that_reads_the_clock_or_of_a_tokenizer_that_is_code(folder: Path) -> None:
    policy = load_without_weights(folder)
    policy.tokenizer.chat_template = CHATML + "{{ strftime_now('%Y') }}"
    assert identity_of(policy) is None
    own = load_without_weights(folder).tokenizer
    own.__class__ = type("Own", (type(own),), {"__module__": "somebody.elses"})
    assert identity_of(UnloadedPolicy(own, [0], 128)) is None
