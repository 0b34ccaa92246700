"""A reward model as a labeler: its own numbers, whatever the batch, and nothing of it in memory when it is let go."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import CHATML, chat_tokenizer

from align_cli.artifacts.records import Completion, Text
from align_cli.errors import AlignError, LabelerError
from align_cli.labelers import build_labeler
from align_cli.labelers.reward_model import RewardModelLabeler
from align_cli.recipe.sections.labelers import RewardModelLabelerSection
from align_cli.stages.base import NoProgress
from align_cli.stages.opinions import Asking

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
}
FAMILIES = {"decoder that chats": ("llama", CHATML), "encoder of two texts": ("bert", None)}
CHAT: Text = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Name a colour."}]
PROMPTS: list[Text] = ["What is two?", CHAT, "Who?", "Why is it red today?"]
COMPLETIONS: list[Text] = ["a number", [{"role": "assistant", "content": "blue"}], "", "it is late, and the sun sets"]

Make = Callable[..., RewardModelLabeler]


def make_folder(folder: Path, family: str = "llama", template: str | None = CHATML, **changes: Any) -> Path:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    tokenizer = chat_tokenizer(template)
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "eos_token_id": None}
    config = AutoConfig.for_model(family, **{"vocab_size": len(tokenizer), "num_labels": 1, **SIZES, **ids, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():  # fresh weights tell texts hardly apart
        for parameter in model.parameters():
            parameter.mul_(4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_folder(tmp_path / "model", *FAMILIES[request.param])


def made(folder: Path, note: Callable[[str], None] = print, **settings: Any) -> RewardModelLabeler:
    section = RewardModelLabelerSection.model_validate(
        {"kind": "reward_model", "model_name_or_path": str(folder), **settings}
    )
    scorer = build_labeler("mine", section, note)
    assert isinstance(scorer, RewardModelLabeler)
    return scorer


def by_hand(folder: Path, prompt: Text, completion: Text) -> float:
    """One conversation alone, with nothing of align's."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    if tokenizer.chat_template:
        asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        said = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
        text = tokenizer.apply_chat_template([*asked, *said], tokenize=False)
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    else:
        words = [
            "\n".join(m["content"] for m in text) if isinstance(text, list) else text for text in (prompt, completion)
        ]
        inputs = tokenizer(*words, return_tensors="pt")
    with torch.no_grad():
        return float(model(**inputs).logits[0, 0])


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_a_score_is_the_models_own_whatever_the_batch(folder: Path, batch_size: int) -> None:
    expected = [by_hand(folder, *pair) for pair in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert len({round(score, 4) for score in expected}) == len(expected)
    assert made(folder, batch_size=batch_size).score(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=1e-5)


def test_the_sign_can_be_turned(folder: Path) -> None:
    scores = made(folder).score(PROMPTS, COMPLETIONS)
    assert made(folder, reverse=True).score(PROMPTS, COMPLETIONS) == pytest.approx([-score for score in scores])


def test_half_precision_is_near(folder: Path) -> None:
    halved = made(folder, dtype="bfloat16").score(PROMPTS, COMPLETIONS)
    scores = made(folder).score(PROMPTS, COMPLETIONS)
    assert halved != scores and halved == pytest.approx(scores, abs=0.05)


def test_weights_are_loaded_when_it_is_asked_and_go_when_it_is_released(folder: Path) -> None:
    scorer = made(folder)
    scorer.check(PROMPTS)
    assert scorer._model is None
    scores = scorer.score(PROMPTS, COMPLETIONS)
    gone = weakref.ref(scorer._model)
    scorer.release()
    gc.collect()
    assert gone() is None
    assert scorer.score(PROMPTS, COMPLETIONS) == scores


def completion(index: int, prompt: Text, said: Text, num_tokens: int) -> Completion:
    return Completion(
        prompt=prompt,
        completion=said,
        prompt_ids=[1],
        completion_ids=[1] * num_tokens,
        logps=[0.0] * num_tokens,
        finish_reason="stop",
        num_tokens=num_tokens,
        round=1,
        prompt_index=index,
        sample_index=0,
        seed=0,
        policy="p",
        engine="e",
        sampling={},
    )


def test_completions_of_a_length_go_together_and_scores_come_in_their_order(folder: Path) -> None:
    scorer, seen = made(folder, batch_size=2), []
    plain = scorer._score_batch
    scorer._score_batch = lambda prompts, texts: seen.append(list(texts)) or plain(prompts, texts)
    rows = zip(PROMPTS, COMPLETIONS, (2, 9, 1, 8), strict=True)
    asked = [completion(index, *row) for index, row in enumerate(rows)]
    scores = Asking(NoProgress()).scores(scorer, asked, "scores").values
    assert seen == [[COMPLETIONS[1], COMPLETIONS[3]], [COMPLETIONS[0], COMPLETIONS[2]]]
    assert scores == pytest.approx(made(folder).score(PROMPTS, COMPLETIONS), abs=1e-5)


def test_what_reads_the_same_is_scored_once_and_ties_whatever_else_its_batch_holds(folder: Path) -> None:
    scorer, seen = made(folder, batch_size=2), []
    plain = scorer._score_batch

    def score_batch(prompts: list[Text], texts: list[Text]) -> list[float]:
        seen.extend(zip(prompts, texts, strict=True))
        return [score + 1e-7 * len(seen) for score in plain(prompts, texts)]  # as other kernels for other shapes do

    scorer._score_batch = score_batch
    blue = COMPLETIONS[1]
    rows = [
        ("Who?", "me", 3),
        (CHAT, blue, 9),
        ("Who?", "me", 4),
        ("Why?", "me", 2),
        (CHAT, blue, 1),
        ("Who?", "you", 2),
    ]
    asked = [completion(index, *row) for index, row in enumerate(rows)]
    scores = Asking(NoProgress()).scores(scorer, asked, "scores").values
    assert scores[0] == scores[2] and scores[1] == scores[4]
    assert len({scores[place] for place in (0, 1, 3, 5)}) == 4, "another prompt or answer has a score of its own"
    assert len(seen) == 4 and all(row[:2] in seen for row in rows)


def test_what_reads_the_same_without_its_thinking_is_scored_once_too(folder: Path) -> None:
    thought = [completion(index, "Who?", f"<think>{said}</think>me", 5) for index, said in enumerate(("a", "b"))]
    for thinking, num_scores in (("strip", 1), ("keep", 2)):
        scorer, seen = made(folder, batch_size=1), []
        plain = scorer._score_batch
        scorer._score_batch = lambda prompts, texts: seen.extend(texts) or plain(prompts, texts)  # noqa: B023
        Asking(NoProgress(), thinking=thinking).scores(scorer, thought, "scores")
        assert len(seen) == num_scores


def test_of_a_text_that_is_too_long_it_sees_the_end_and_says_so_once(tmp_path: Path) -> None:
    folder, notes = make_folder(tmp_path / "model"), []
    scorer = made(folder, notes.append, batch_size=1)
    long, longer = "long " * 200, "longer " * 200
    said = "and so it ends " * 12
    first, second = scorer.score([long, longer], [said, said])
    assert first == pytest.approx(second, abs=1e-6)
    assert notes == ["labelers.mine: some texts are longer than the 128 tokens that it reads; it sees their ends"]


def test_scores_that_are_no_numbers_are_refused(folder: Path) -> None:
    scorer = made(folder)
    scorer.score(PROMPTS[:1], COMPLETIONS[:1])
    with torch.no_grad():
        for parameter in scorer._model.parameters():
            parameter.fill_(torch.inf)
    with pytest.raises(LabelerError, match=r"labelers\.mine: the reward model gave a score that is no finite number"):
        scorer.score(PROMPTS, COMPLETIONS)


class TestWhatIsNone:
    """Known before anything is sampled: `check` tells, and loads no weights."""

    def said(self, folder: Path) -> str:
        with pytest.raises(AlignError) as caught:
            made(folder).check(PROMPTS)
        return str(caught.value)

    def test_a_classifier_of_two_classes(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path / "model", num_labels=2)
        assert "the classifier has 2 outputs; a reward model has one" in self.said(folder)

    def test_a_language_model_whose_head_was_never_trained(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path / "model")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))
        assert "this is a LlamaForCausalLM, whose head for rewards was never trained" in self.said(folder)

    def test_a_folder_without_a_model(self, tmp_path: Path) -> None:
        (tmp_path / "model").mkdir()
        assert str(tmp_path / "model") in self.said(tmp_path / "model")

    def test_a_device_that_is_not_there(self, folder: Path) -> None:
        with pytest.raises(AlignError, match=r"labelers\.mine\.device is xpu:7"):
            made(folder, device="xpu:7").check(PROMPTS)

    def test_weights_without_the_head(self, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        folder = make_folder(tmp_path / "model")
        tensors = load_file(folder / "model.safetensors")
        del tensors["score.weight"]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(AlignError, match=r"lacks tensors that its config asks for: score\.weight"):
            made(folder).score(PROMPTS, COMPLETIONS)
