"""The stage that fits a reward model: what it writes, that a killed one ends in the same bytes, and what it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from at_work import AtWork, Folders, Held
from chat_models import make_chat_model
from transformers import AutoConfig, AutoModel, LlamaForSequenceClassification

from align_cli.artifacts.records import RewardReport
from align_cli.errors import AlignError, DataError, RecipeError
from align_cli.labelers import build_labeler
from align_cli.labelers.reward_model import RewardModelLabeler
from align_cli.recipe import Recipe
from align_cli.recipe.sections.labelers import RewardModelLabelerSection
from align_cli.recipe.sections.labelers.reward_model import REWARD_MODEL
from align_cli.run.folder.work import WorkInProgress
from align_cli.stages.base import REWARD, REWARD_TRAINING
from align_cli.stages.inputs import Inputs
from align_cli.stages.reward import Reward
from align_cli.stages.reward_figures import measure
from align_cli.stages.reward_pairs import RewardPair, pairs_of

TinyRecipe = Callable[..., Recipe]
Begin = Callable[..., AtWork]
GOOD, BAD = ["blue", "red", "green", "a colour"], ["four", "two plus two", "tools", "system"]


def questions() -> list[dict[str, Any]]:
    """Twelve prompts with two pairs each: colours are better than numbers."""
    return [
        {
            "prompt": f"Name {number}",
            "chosen": GOOD[(number + shift) % 4],
            "rejected": BAD[(number * 3 + shift) % 4],
        }
        for number in range(12)
        for shift in range(2)
    ]


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny causal model that chats, and a tiny encoder."""
    from chat_models import chat_tokenizer

    folder, tokenizer = tmp_path_factory.mktemp("models"), chat_tokenizer(None)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(4)
        config = AutoConfig.for_model("bert", vocab_size=len(tokenizer), pad_token_id=0, **sizes)
        AutoModel.from_config(config).save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    return {"decoder": make_chat_model(folder / "decoder"), "encoder": folder / "encoder"}


@pytest.fixture
def begin(one_thread: None, models: dict[str, Path], tiny_recipe: TinyRecipe, tmp_path: Path) -> Begin:
    """`begin("reward.head=frozen", of="encoder", name="killed", ...)`: a process that is about to fit one."""

    def made(*overrides: str, of: str = "decoder", name: str = "whole", rows: Any = None, **options: Any) -> AtWork:
        pairs = write(tmp_path / f"{'pairs' if rows is None else name}.jsonl", rows or questions())
        reward = {"model_name_or_path": str(models[of]), "preferences": pairs}
        head = {} if "reward.head=frozen" in overrides else {"max_steps": 4, "learning_rate": 0.02}
        recipe = tiny_recipe(
            tmp_path,
            "checkpoints.every_steps=1",
            *overrides,
            reward={**reward, **head, "per_device_train_batch_size": 4, "eval_share": 0.25},
            labelers__mine={"kind": "reward_model", "model_name_or_path": "run"},
        )
        folders = Folders({0: tmp_path / name})
        return AtWork(recipe, folders, Held(tmp_path / name), round_number=0, **options)

    return made


KINDS = {
    "all weights": ("decoder", ()),
    "adapters": ("decoder", ("reward.lora={rank: 2}",)),
    "encoder": ("encoder", ()),
    "frozen decoder": ("decoder", ("reward.head=frozen",)),
    "frozen encoder": ("encoder", ("reward.head=frozen",)),
}


def files_of(context: AtWork) -> dict[str, bytes]:
    folder = context.held.place(REWARD_MODEL)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[str, tuple[str, ...]]:
    found: tuple[str, tuple[str, ...]] = KINDS[request.param]
    return found


def test_it_writes_a_model_that_a_labeler_scores_with_as_it_was_measured(
    begin: Begin, kind: tuple[str, tuple[str, ...]]
) -> None:
    of, overrides = kind
    context = begin(*overrides, of=of)
    figures = Reward().carry_out(context).figures
    report = context.held.written[REWARD]
    assert isinstance(report, RewardReport)
    pairs = pairs_of(context.recipe, context.memory.inputs)
    place = str(context.held.place(REWARD_MODEL))
    section = RewardModelLabelerSection(kind="reward_model", model_name_or_path=place, batch_size=3)
    labeler = build_labeler("mine", section)
    assert isinstance(labeler, RewardModelLabeler)
    prompts = [pair.prompt for pair in pairs.held_out]
    chosen = labeler.score(prompts, [pair.chosen for pair in pairs.held_out])
    rejected = labeler.score(prompts, [pair.rejected for pair in pairs.held_out])
    margins = [one - other for one, other in zip(chosen, rejected, strict=True)]
    assert math.fsum(margins) / len(margins) == pytest.approx(report.held_out["margin"], abs=1e-5)
    measured = measure(margins, pairs.held_out, 0).figures
    assert measured["log_loss"] == pytest.approx(report.held_out["log_loss"], abs=1e-5)
    assert (report.num_pairs, report.held_out["num_pairs"], report.fitted["num_pairs"]) == (18, 6, 18)
    assert report.num_steps == figures["steps"] == (0 if "reward.head=frozen" in overrides else 4)
    assert (REWARD_TRAINING in context.held.written) == (report.num_steps > 0)
    assert figures["accuracy"] == report.held_out["accuracy"]


@pytest.mark.parametrize("form", ["all weights", "adapters", "encoder", "frozen decoder"])
def test_plain_transformers_loads_it(begin: Begin, form: str) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    of, overrides = KINDS[form]
    context = begin(*overrides, of=of)
    Reward().carry_out(context)
    folder = context.held.place(REWARD_MODEL)
    model, found = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values()) and model.config.num_labels == 1
    assert AutoTokenizer.from_pretrained(folder).get_vocab()
    text = (folder / "config.json").read_text()
    assert str(folder.parent) not in text and "ForSequenceClassification" in text


@pytest.mark.parametrize(
    ("form", "killed_at"),
    [
        pytest.param("adapters", 1, marks=pytest.mark.long),
        ("adapters", 3),
        pytest.param("adapters", 4 + 8, id="adapters, amid scores"),
        pytest.param("all weights", 2, marks=pytest.mark.long),
        pytest.param("frozen encoder", 3 * 4, id="frozen encoder, amid features"),
        pytest.param("frozen encoder", 36 + 8, id="frozen encoder, amid scores"),
    ],
)
def test_killed_it_goes_on_and_ends_in_the_same_bytes(begin: Begin, tmp_path: Path, form: str, killed_at: int) -> None:
    of, overrides = KINDS[form]
    whole, work = begin(*overrides, of=of), WorkInProgress(tmp_path / "work", {"inputs": 1})
    Reward().carry_out(whole)
    with pytest.raises(KeyboardInterrupt):
        Reward().carry_out(begin(*overrides, of=of, name="killed", work=work, killed_at=killed_at))
    again = begin(*overrides, of=of, name="again", work=work)
    Reward().carry_out(again)
    assert again.held.written == whole.held.written
    assert files_of(again) == files_of(whole)
    told = [one for one in again.watched.told if isinstance(one, tuple) and one[0] == "found"]
    assert told[0][1] > 0 or killed_at == 1, "it did not begin anew"


def test_it_learns_what_pairs_say_and_a_head_on_features_finds_it_at_once(begin: Begin) -> None:
    for overrides in (("reward.max_steps=40",), ("reward.head=frozen", "reward.ridge=0.01")):
        context = begin(*overrides, name=overrides[0][-2:])
        Reward().carry_out(context)
        report = context.held.written[REWARD]
        assert report.held_out["accuracy"] == 1.0
        assert report.held_out["log_loss"] < 0.6 < math.log(2)


def test_soft_labels_and_margins_of_rows_are_learnt_from(begin: Begin, tmp_path: Path) -> None:
    rows = [{**row, "label": 0.6, "margin": 0.1} for row in questions()]
    plain, soft = begin("reward.head=frozen"), begin("reward.head=frozen", name="soft", rows=rows)
    for context in (plain, soft):
        Reward().carry_out(context)
    margins = [context.held.written[REWARD].held_out["margin"] for context in (plain, soft)]
    assert margins[0] > 2 * margins[1] > 0


class TestPairs:
    def pairs(self, begin: Begin, rows: Any, *overrides: str) -> Any:
        recipe = begin(*overrides, rows=rows).recipe
        return pairs_of(recipe, Inputs(recipe))

    def test_a_share_of_the_prompts_is_held_out_and_no_prompt_is_on_both_sides(self, begin: Begin) -> None:
        pairs = self.pairs(begin, questions())
        fit, held_out = ({pair.group for pair in side} for side in (pairs.fit, pairs.held_out))
        assert (len(fit), len(held_out)) == (9, 3) and not fit & held_out
        assert (len(pairs.fit), len(pairs.held_out)) == (18, 6)
        other = self.pairs(begin, questions(), "seed=1")
        assert {pair.group for pair in other.held_out} != held_out

    def test_what_says_nothing_is_left_out_and_counted(self, begin: Begin) -> None:
        rows = [*questions(), {**questions()[0], "label": 0.5}, {"prompt": "Name", "chosen": "x", "rejected": "x"}]
        assert self.pairs(begin, rows).left_out == {"ties_dropped": 1, "equal_texts_dropped": 1}

    def test_the_better_response_stands_first(self, begin: Begin) -> None:
        rows = [{**row, "label": 0.2, "margin": -1.0} for row in questions()]
        first = self.pairs(begin, rows).fit[0]
        assert first.chosen in BAD and first.rejected in GOOD
        assert (first.label, first.margin) == (0.8, 1.0)

    def test_thinking_is_hidden_where_labelers_do_not_see_it(self, begin: Begin) -> None:
        rows = [{**row, "chosen": f"<think>hm</think>{row['chosen']}"} for row in questions()]
        assert self.pairs(begin, rows).fit[0].chosen.startswith("<think>")
        assert self.pairs(begin, rows, "label.thinking=strip").fit[0].chosen in GOOD

    def test_named_pairs_are_held_out_and_shared_prompts_are_told(self, begin: Begin, tmp_path: Path) -> None:
        held_out = write(
            tmp_path / "held_out.jsonl", [*questions()[:3], {"prompt": "New", "chosen": "a", "rejected": "b"}]
        )
        context = begin(f"reward.eval_preferences={held_out}")
        pairs = pairs_of(context.recipe, context.memory.inputs)
        assert (len(pairs.fit), len(pairs.held_out), pairs.num_shared) == (24, 4, 3)
        assert Reward().shortages(context.recipe, context.memory.inputs) == [
            "3 of 4 pairs of reward.eval_preferences have a prompt of reward.preferences: on these the reward model is "
            "measured on what it was fitted on"
        ]
        assert Reward().shortages(begin().recipe, begin().memory.inputs) == []

    @pytest.mark.parametrize(
        ("rows", "what"),
        [
            ([{**row, "label": 0.5} for row in questions()], "of 24 pairs none says which response is better: 24 ties"),
            ([{**row, "prompt": "One"} for row in questions()], "all pairs have the same prompt"),
        ],
    )
    def test_pairs_that_nothing_can_be_learnt_from_are_refused_beforehand(
        self, begin: Begin, rows: Any, what: str
    ) -> None:
        context = begin(rows=rows)
        with pytest.raises(DataError, match=what):
            Reward().check(context.recipe, context.memory)

    @pytest.mark.parametrize(("too_long", "count"), [("drop", 17), ("cut", 18)])
    def test_what_is_too_long_is_left_out_or_cut_and_counted(self, begin: Begin, too_long: str, count: int) -> None:
        rows = questions()
        context = begin(rows=rows)
        first = pairs_of(context.recipe, context.memory.inputs).fit[0]
        found = [(row["prompt"], row["chosen"]) for row in rows]
        place = found.index((first.prompt, first.chosen))
        rows[place]["chosen"] += " and so on" * 20
        longer = begin("reward.max_length=100", f"reward.too_long={too_long}", name="longer", rows=rows)
        figures = Reward().carry_out(longer).figures
        key = "too_long_dropped" if too_long == "drop" else "too_long_cut"
        assert (figures["pairs"], figures[key]) == (count, 1)

    def test_where_all_are_too_long_that_is_said(self, begin: Begin) -> None:
        with pytest.raises(DataError, match="all 18 pairs are longer than the 5 tokens"):
            Reward().carry_out(begin("reward.max_length=5"))


class TestRefusedBeforehand:
    def refused(self, context: AtWork) -> str:
        with pytest.raises(AlignError) as caught:
            Reward().check(context.recipe, context.memory)
        return str(caught.value)

    def test_a_classifier_of_two_classes(self, begin: Begin, tmp_path: Path) -> None:
        config = AutoConfig.for_model("llama", vocab_size=20, num_labels=2, hidden_size=16, num_attention_heads=2)
        LlamaForSequenceClassification(config).save_pretrained(tmp_path / "two")
        said = self.refused(begin(f"reward.model_name_or_path={tmp_path / 'two'}"))
        assert "the classifier has 2 outputs; a reward model has one" in said

    def test_a_model_that_is_not_there(self, begin: Begin, tmp_path: Path) -> None:
        assert "holds no model" in self.refused(begin(f"reward.model_name_or_path={tmp_path}"))

    def test_a_key_that_transformers_cannot_take(self, begin: Begin) -> None:
        context = begin("reward.lr_scheduler_type=cosin")
        with pytest.raises(RecipeError, match=r"reward\.lr_scheduler_type is 'cosin'; training cannot be set up"):
            Reward().check(context.recipe, context.memory)
        Reward().check(begin("reward.lr_scheduler_type=cosine").recipe, context.memory)


def test_a_loss_that_is_no_number_ends_the_stage(begin: Begin) -> None:
    with pytest.raises(AlignError, match=r"reward\.learning_rate: the loss of the reward model is no finite number"):
        Reward().carry_out(begin("reward.learning_rate=1.0e+20", "reward.max_grad_norm=1.0e+20"))


def test_figures_by_hand() -> None:
    """Three pairs: right and longer, wrong and longer, right and shorter."""
    texts = [("long one", "short"), ("long one", "short"), ("short", "long one")]
    pairs = [RewardPair("p", chosen, rejected, 1.0, 0.0, str(place)) for place, (chosen, rejected) in enumerate(texts)]
    figures = measure([1.0, -1.0, 0.5], pairs, 0).figures
    assert figures["accuracy"] == pytest.approx(2 / 3) == figures["length_accuracy"]
    assert figures["length_agreement"] == pytest.approx(1 / 3), "it takes the longer one in the first pair alone"
    assert figures["margin"] == pytest.approx(0.5 / 3)
    assert figures["low"] == 0 and figures["high"] == 1
