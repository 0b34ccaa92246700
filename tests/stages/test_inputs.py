from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_models import CHATML, make_chat_model

from align_cli.data.rows import place_of
from align_cli.errors import DataError
from align_cli.playground import world
from align_cli.recipe import Recipe
from align_cli.recipe.sections.labelers import FunctionLabelerSection
from align_cli.stages.inputs import Inputs
from align_cli.stages.pairing.pairs import LabelledPairs
from align_cli.stages.rows_of_recipe import (
    demonstrations,
    evaluation_pairs,
    evaluation_prompts,
    local_files,
    offline_pairs,
    sft_demonstrations,
    training_prompts,
)

TinyRecipe = Callable[..., Recipe]
SENTENCES = {
    "liked.txt": [f"plot {n} is a joy to watch and to hear" for n in range(60)],
    "disliked.txt": [f"plot {n} is a bore to sit through at night" for n in range(60)],
}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_lines(name: str, *rows: dict[str, Any]) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def test_the_playground_is_read_with_the_recipes_seed_and_setting(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, "seed=3", "playground.setting=almost-none")
    assert training_prompts(recipe) == world.prompts(3)
    assert evaluation_prompts(recipe) == world.eval_prompts(3)
    assert sft_demonstrations(recipe) == world.sft_corpus(3)
    assert demonstrations(tiny_recipe(tmp_path, "seed=3", "data.demonstrations=playground")) == world.sft_corpus(3)
    assert offline_pairs(recipe) == (world.preferences("almost-none", 3), {})
    more = tiny_recipe(tmp_path, "seed=3", "playground.setting=almost-none", "playground.num_pairs=40")
    assert offline_pairs(more) == (world.preferences("almost-none", 3, num=40), {})
    assert offline_pairs(more).rows[:32] == offline_pairs(recipe).rows


def test_no_held_out_prompt_is_a_training_prompt(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    held_out = {row["prompt"] for row in evaluation_prompts(recipe)}
    assert held_out
    assert not held_out & {row["prompt"] for row in training_prompts(recipe)}
    assert not held_out & {row["prompt"] for row in offline_pairs(recipe).rows}
    assert not held_out & {row["prompt"] for row in sft_demonstrations(recipe)}


def test_a_built_in_world_brings_its_own_held_out_pairs(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    assert evaluation_pairs(tiny_recipe(tmp_path)).rows == world.eval_preferences("few", 0)


def test_the_reviews_are_read_from_their_two_files(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    for name, lines in SENTENCES.items():
        Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = dict.fromkeys(("prompts", "preferences", "demonstrations", "eval_prompts"), "reviews")
    recipe = tiny_recipe(
        tmp_path,
        "policy.sft.dataset=reviews",
        data=names,
        reviews={"liked": "liked.txt", "disliked": "disliked.txt", "prompt_words": 2},
    )
    prompts = training_prompts(recipe)
    assert prompts and all(len(row["prompt"].split()) == 2 for row in prompts)
    assert evaluation_prompts(recipe) and offline_pairs(recipe).rows
    assert demonstrations(recipe) == sft_demonstrations(recipe)
    assert {tuple(row) for row in demonstrations(recipe)} == {("prompt", "completion")}
    assert set(offline_pairs(recipe).rows[0]) >= {"prompt", "chosen", "rejected"}


def test_files_are_read_like_a_world(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    pair = {"prompt": "p", "chosen": " a", "rejected": " b"}
    recipe = tiny_recipe(
        tmp_path,
        policy__sft__dataset=write_lines("sft.jsonl", {"prompt": "p", "completion": " c"}),
        data={
            "prompts": write_lines("prompts.jsonl", {"prompt": "p"}, {"prompt": "q"}),
            "preferences": write_lines("pairs.jsonl", {**pair, "label": 0.75}, pair),
            "demonstrations": write_lines("shown.jsonl", {"prompt": "p", "completion": " d"}),
            "eval_prompts": write_lines("held-out.jsonl", {"prompt": "r"}),
            "eval_preferences": write_lines("held-out-pairs.jsonl", pair),
        },
    )
    assert training_prompts(recipe) == [{"prompt": "p"}, {"prompt": "q"}]
    assert evaluation_prompts(recipe) == [{"prompt": "r"}]
    assert sft_demonstrations(recipe) == [{"prompt": "p", "completion": " c"}]
    assert demonstrations(recipe) == [{"prompt": "p", "completion": " d"}]
    assert offline_pairs(recipe) == ([{**pair, "label": 0.75}, pair], {})
    assert evaluation_pairs(recipe) == ([pair], {})


def test_pairs_that_the_reader_leaves_out_are_counted(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    def chat(question: str, answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    name = write_lines(
        "pairs.jsonl",
        {"chosen": chat("why?", "because"), "rejected": chat("why?", "so")},
        {"chosen": chat("why?", "because"), "rejected": chat("how?", "so")},
    )
    found = offline_pairs(tiny_recipe(tmp_path, data__preferences=name))
    assert len(found.rows) == 1
    assert found.dropped == {"prompts of chosen and rejected differ": 1}


def test_what_the_recipe_does_not_name_is_empty(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    recipe = tiny_recipe(
        tmp_path,
        policy__sft=None,
        data={"prompts": write_lines("prompts.jsonl", {"prompt": "p"})},
        method={"sources": {"dpr": {"mixing": 1.0, "labeler": "hidden"}}},
        evaluate={"against": []},
    )
    assert demonstrations(recipe) == sft_demonstrations(recipe) == []
    assert offline_pairs(recipe) == evaluation_pairs(recipe) == ([], {})
    offline = tiny_recipe(
        tmp_path, "method.sources={offline: {mixing: 1}}", data={"preferences": "playground"}, evaluate=None
    )
    with pytest.raises(DataError, match=r"^data\.prompts: there are no prompts\nhint: set data\.prompts to"):
        training_prompts(offline)
    with pytest.raises(DataError, match=r"^data\.eval_prompts: there are no prompts\nhint: set data\.eval_prompts to"):
        evaluation_prompts(recipe)


def test_a_file_without_rows_is_a_user_error(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, data__prompts=write_lines("prompts.jsonl"))
    with pytest.raises(DataError, match=r"prompts\.jsonl: "):
        training_prompts(recipe)


def test_local_files_are_the_files_that_the_recipe_reads(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    Path("judge.py").write_text("def score(prompts, completions):\n    return [0.0] * len(completions)\n")
    recipe = tiny_recipe(
        tmp_path,
        policy__sft__dataset=write_lines("sft.jsonl", {"text": "a"}),
        data__prompts=write_lines("prompts.jsonl", {"prompt": "p"}),
        data__demonstrations=write_lines("shown.jsonl", {"prompt": "p", "completion": "c"}),
        labelers={
            "hidden": {"kind": "function", "function": "judge.py:score"},
            "other": {"kind": "function", "function": "align_cli.playground:hidden_reward"},
            "given": {"kind": "dataset"},
        },
    )
    assert local_files(recipe) == {
        "data.prompts": Path("prompts.jsonl"),
        "data.demonstrations": Path("shown.jsonl"),
        "policy.sft.dataset": Path("sft.jsonl"),
        "labelers.hidden.function": Path("judge.py"),
    }


def test_a_recipe_of_built_in_worlds_reads_no_files(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    assert local_files(tiny_recipe(tmp_path)) == {}


def test_a_folder_of_data_is_one_of_the_files_that_the_recipe_reads(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    write_lines("mine/train.jsonl", {"prompt": "p"})
    recipe = tiny_recipe(tmp_path, data__prompts="./mine")
    assert training_prompts(recipe) == [{"prompt": "p"}]
    assert local_files(recipe) == {"data.prompts": Path("mine")}


def question(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def test_the_prompts_of_demonstrations_are_sampled_once_each_where_there_are_no_others(
    tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    shown = write_lines(
        "shown.jsonl",
        {"prompt": "q", "completion": " 1"},
        {"prompt": "p", "completion": " 2"},
        {"prompt": "q", "completion": " 3"},
        {"prompt": "p ", "completion": " 2"},
    )
    recipe = tiny_recipe(tmp_path, data__prompts=None, data__demonstrations=shown)
    assert training_prompts(recipe) == [{"prompt": "q"}, {"prompt": "p"}, {"prompt": "p "}]
    own = tiny_recipe(
        tmp_path, data__prompts=write_lines("prompts.jsonl", {"prompt": "own"}), data__demonstrations=shown
    )
    assert training_prompts(own) == [{"prompt": "own"}]


def test_chat_prompts_of_demonstrations_are_told_apart_by_what_they_say(
    tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    shown = write_lines(
        "shown.jsonl",
        {"messages": question("why?") + answer("because")},
        {"messages": question("how?") + answer("so")},
        {"messages": question("why?") + answer("it is so")},
    )
    recipe = tiny_recipe(tmp_path, data__prompts=None, data__demonstrations=shown)
    assert training_prompts(recipe) == [{"prompt": question("why?")}, {"prompt": question("how?")}]


def test_prompts_of_demonstrations_keep_their_places_and_what_their_template_gets(
    tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    tools = [{"name": "adder"}]
    shown = write_lines(
        "shown.jsonl",
        {"prompt": question("why?"), "completion": answer("so"), "tools": tools},
        {"prompt": question("why?"), "completion": answer("so")},
    )
    prompts = training_prompts(tiny_recipe(tmp_path, data__prompts=None, data__demonstrations=shown))
    assert prompts == [{"prompt": question("why?"), "tools": tools}, {"prompt": question("why?")}]
    assert [place_of(row, 7) for row in prompts] == ["shown.jsonl:1", "shown.jsonl:2"]


def test_the_recipes_template_arguments_go_to_every_chat_and_a_rows_own_win(
    tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    chat, own = {"prompt": question("why?")}, {"tone": "soft", "more": 1}
    reply = {"chosen": answer("so"), "rejected": answer("no")}
    recipe = tiny_recipe(
        tmp_path,
        "policy.chat_template_kwargs={tone: loud, brief: true}",
        "data.as_chat=never",
        policy__sft__dataset=write_lines("sft.jsonl", {**chat, "completion": answer("so")}),
        data={
            "prompts": write_lines("p.jsonl", chat, {**chat, "chat_template_kwargs": own}, {"prompt": "text"}),
            "preferences": write_lines("pairs.jsonl", {**chat, **reply}),
            "eval_prompts": write_lines("held-out.jsonl", chat),
        },
    )
    shared = {"tone": "loud", "brief": True}
    prompts = training_prompts(recipe)
    assert [row.get("chat_template_kwargs") for row in prompts] == [shared, {**shared, **own}, None]
    assert [place_of(row, 7) for row in prompts] == ["p.jsonl:1", "p.jsonl:2", "p.jsonl:3"]
    for rows in (sft_demonstrations(recipe), offline_pairs(recipe).rows, evaluation_prompts(recipe)):
        assert [row["chat_template_kwargs"] for row in rows] == [shared]


def test_every_file_that_a_recipe_names_and_that_is_there_is_one_that_it_reads(
    tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    for name, lines in SENTENCES.items():
        Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    Path("words.py").write_text("", encoding="utf-8")
    Path("judge.py").write_text("import words\ndef score(prompts, completions):\n    return []\n", encoding="utf-8")
    pair = write_lines("pairs.jsonl", {"prompt": "p", "chosen": "a", "rejected": "b"})
    recipe = tiny_recipe(
        tmp_path,
        data={
            "prompts": "reviews",
            "preferences": pair,
            "eval_prompts": write_lines("held-out.jsonl", {"prompt": "r"}),
            "eval_preferences": pair,
        },
        reviews={"liked": "liked.txt", "disliked": "disliked.txt"},
        labelers={"hidden": {"kind": "function", "function": "judge.py:score"}},
    )
    assert local_files(recipe) == {
        "data.preferences": Path("pairs.jsonl"),
        "data.eval_prompts": Path("held-out.jsonl"),
        "data.eval_preferences": Path("pairs.jsonl"),
        "reviews.liked": Path("liked.txt"),
        "reviews.disliked": Path("disliked.txt"),
        "labelers.hidden.function": Path("judge.py"),
        "labelers.hidden.function (words)": Path("words.py").resolve(),
    }


def test_a_kind_of_labeler_may_read_files_beside_its_code(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    class WithWords(FunctionLabelerSection):
        def files(self) -> dict[str, str]:
            return {**super().files(), "words": "words.txt"}

    Path("words.txt").write_text("good\n", encoding="utf-8")
    kept = WithWords(kind="function", function="align_cli.playground:hidden_reward")
    recipe = tiny_recipe(tmp_path, policy__sft=None).model_copy(update={"labelers": {"hidden": kept}})
    assert local_files(recipe) == {"labelers.hidden.words": Path("words.txt")}


MIXED_IN = "method.sources={dmd: {mixing: 0.5}, dpr: {mixing: 0.5, labeler: hidden}}"


def test_demonstrations_are_read_where_a_source_shows_them(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    shown = write_lines("shown.jsonl", {"prompt": "p", "completion": " d"})
    named = {"data__demonstrations": shown}
    assert Inputs(tiny_recipe(tmp_path, **named)).demonstration_rows == []
    shown_to_it = Inputs(tiny_recipe(tmp_path, MIXED_IN, **named)).demonstration_rows
    assert shown_to_it == [{"prompt": "p", "completion": " d"}]


PAIRS = (
    {"prompt": "p", "chosen": " good", "rejected": " was"},
    {"prompt": "p", "chosen": " food", "rejected": " the", "label": 0.5},
    {"prompt": "p", "chosen": " the", "rejected": " the"},
    {"prompt": "p", "chosen": " ", "rejected": " food"},
)


def test_offline_pairs_are_tokenised_once_for_the_sources_that_take_them(
    tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    named = {"data__preferences": write_lines("pairs.jsonl", *PAIRS)}
    rules = "label={ties: drop, equal_texts: keep, empty_texts: keep}"
    inputs = Inputs(tiny_recipe(tmp_path, rules, "method.sources={offline: {mixing: 1}}", **named))
    found = inputs.offline_pairs
    assert inputs.uses_offline_pairs
    assert [pair.chosen for pair in found.preferences] == [" good", " the", " "]
    assert {pair.labeler for pair in found.preferences} == {"dataset"}
    assert inputs.offline_pairs is found
    assert inputs.offline_rows.rows == list(PAIRS)
    online = Inputs(tiny_recipe(tmp_path, "method.sources={dpr: {mixing: 1, labeler: hidden}}", **named))
    assert not online.uses_offline_pairs
    assert online.offline_pairs == LabelledPairs([], {})
    own = Inputs(tiny_recipe(tmp_path, rules, "method.sources={ddp: {mixing: 1}}", **named))
    assert own.offline_pairs == found


def test_offline_pairs_bear_the_name_of_their_labeler(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    recipe = tiny_recipe(
        tmp_path,
        "method.sources={offline: {mixing: 1, labeler: people}}",
        data__preferences=write_lines("pairs.jsonl", *PAIRS),
        labelers={"people": {"kind": "dataset"}, "hidden": {"kind": "dataset"}},
        evaluate=None,
    )
    assert {pair.labeler for pair in Inputs(recipe).offline_pairs.preferences} == {"people"}


def test_pairs_that_the_reader_left_out_are_counted_with_those_that_are_left_out_by_rule(
    tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    unlike = {"chosen": question("why?") + answer("so"), "rejected": question("how?") + answer("so")}
    named = write_lines("pairs.jsonl", *PAIRS, unlike)
    recipe = tiny_recipe(tmp_path, "label.ties=drop", "method.sources={offline: {mixing: 1}}", data__preferences=named)
    assert Inputs(recipe).offline_pairs.counts == {
        "pairs": 2,
        "ties_dropped": 1,
        "equal_texts_dropped": 1,
        "empty_texts_kept": 1,
        "prompts of chosen and rejected differ": 1,
    }


@pytest.mark.parametrize("rule", ["keep", "drop"])
def test_a_policy_is_measured_on_the_same_held_out_pairs_whatever_training_leaves_out(
    tiny_recipe: TinyRecipe, tmp_path: Path, rule: str
) -> None:
    recipe = tiny_recipe(
        tmp_path,
        f"label={{ties: {rule}, equal_texts: {rule}, empty_texts: {rule}}}",
        "method.sources.dpr.gradient=0",
        data__eval_preferences=write_lines("held-out.jsonl", *PAIRS),
    )
    inputs = Inputs(recipe)
    held_out = inputs.eval_pairs.preferences
    assert [pair.chosen for pair in held_out] == [" good", " "]
    assert {pair.labeler for pair in held_out} == {"dataset"}
    assert inputs.eval_pairs.preferences is held_out
    assert inputs.eval_rows.rows == list(PAIRS)


def test_rows_are_read_as_the_recipe_says(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    judged = {"prompt": "p", "response_0": "<think>a</think>b", "response_1": "c"}
    row = {**judged, "better_response_id": 0, "safer_response_id": 1}
    name = write_lines("pairs.jsonl", row)
    scored = {"prompt": "p", "responses": ["a", "b", "c"], "scores": [1, 2, 3]}
    files = {"data__prompts": name, "data__preferences": name}
    recipe = tiny_recipe(tmp_path, **files, data__criterion="helpful")
    assert offline_pairs(recipe).rows == [{"prompt": "p", "chosen": "<think>a</think>b", "rejected": "c"}]
    chats = ("data.criterion=safer", "data.as_chat=always", "data.system_prompt=be kind", "data.thinking=strip")
    recipe = tiny_recipe(tmp_path, *chats, **files)
    prompt = [{"role": "system", "content": "be kind"}, *question("p")]
    assert offline_pairs(recipe).rows == [{"prompt": prompt, "chosen": answer("c"), "rejected": answer("b")}]
    assert training_prompts(recipe) == [{"prompt": prompt}]
    every = write_lines("scored.jsonl", scored)
    recipe = tiny_recipe(tmp_path, data__preferences=every, data__pairs="all")
    assert len(offline_pairs(recipe).rows) == 3


def test_the_policys_template_decides_whether_text_becomes_chats(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    name = write_lines("prompts.jsonl", {"prompt": "p"})
    for template, prompt in ((CHATML, question("p")), (None, "p")):
        model = make_chat_model(tmp_path / "model", template=template)
        recipe = tiny_recipe(tmp_path, policy={"model_name_or_path": str(model)}, data__prompts=name)
        assert training_prompts(recipe) == [{"prompt": prompt}]


def test_prompts_of_demonstrations_that_were_text_say_so(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    shown = write_lines("shown.jsonl", {"prompt": "q", "completion": " 1"})
    recipe = tiny_recipe(tmp_path, data__prompts=None, data__demonstrations=shown, data__as_chat="always")
    (row,) = training_prompts(recipe)
    assert (row, row.made_of) == ({"prompt": question("q")}, "plain texts")


def test_another_reader_than_the_initial_policy_decides_for_itself(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    """As a checkpoint that `--policy` names, where the recipe's own model is out of reach."""
    reader = make_chat_model(tmp_path / "reader", template=CHATML)
    name = write_lines("prompts.jsonl", {"prompt": "p"})
    recipe = tiny_recipe(tmp_path, policy={"model_name_or_path": "out-of/reach"}, data__prompts=name)
    assert Inputs(recipe, reader).prompts == [{"prompt": question("p")}]
