"""Every row is rendered and measured once the tokenizer is there; all that the policy cannot read are named at once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from chat_models import CHATML, STRICT, TOOLS, make_chat_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from align_cli import stages
from align_cli.errors import DataError
from align_cli.models.of_recipe import load_recipe_tokenizer
from align_cli.recipe import Recipe
from align_cli.stages import rows_of_recipe
from align_cli.stages.inputs import Inputs
from align_cli.stages.rows import check_rows

USER, SYSTEM = {"role": "user", "content": "hi"}, {"role": "system", "content": "be brief"}
REPLY = {"role": "assistant", "content": "ho"}
GOOD, OTHER = [USER], [{"role": "user", "content": "hey"}]
LONG, REJECTED = [{"role": "user", "content": "a" * 200}], [SYSTEM, USER]

WriteRecipe = Callable[..., Path]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, rows: Sequence[Any]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def pair(prompt: Any, chosen: str = "ho", rejected: str = "hm") -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


@pytest.fixture
def check(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> Callable[..., list[str]]:
    """`check(template, **files)`: every stage's rows, with this template, and these files in place of good ones.

    What is said of rows, but where `tells_overlap`, that held-out ones are trained on, as those of most tests are.
    """

    def made(
        template: str | None = STRICT,
        *overrides: str,
        eos_token: str = "<|im_end|>",
        tells_overlap: bool = False,
        **files: Sequence[Any],
    ) -> list[str]:
        model = make_chat_model(tmp_path / "model", template=template, eos_token=eos_token)
        names = {
            "prompts": [{"prompt": GOOD}],
            "preferences": [pair(GOOD)],
            "eval_prompts": [{"prompt": OTHER}],
            "eval_preferences": [pair(OTHER)],
            **files,
        }
        data = {f"data__{key}": write(f"{key}.jsonl", rows) for key, rows in names.items()}
        recipe = tiny_recipe(tmp_path, *overrides, policy={"model_name_or_path": str(model)}, **data)
        said = check_rows(recipe, Inputs(recipe), stages.STAGES)
        return [text for text in said if tells_overlap or not text.endswith("what it was trained on")]

    return made


def faults_of(check: Callable[..., list[str]], *arguments: Any, **files: Any) -> dict[str, str]:
    with pytest.raises(DataError) as caught:
        check(*arguments, **files)
    return {fault.where: fault.what for fault in caught.value.faults}


def test_rows_that_all_can_be_read_raise_nothing(check: Callable[..., list[str]]) -> None:
    assert check() == []


def test_all_rows_of_all_files_are_named_at_once_with_their_lines(check: Callable[..., list[str]]) -> None:
    found = faults_of(
        check,
        prompts=[{"prompt": GOOD}, {"prompt": LONG}, {"prompt": GOOD}],
        preferences=[pair(GOOD), pair(GOOD, rejected="b" * 200), pair(GOOD), pair(LONG)],
        eval_prompts=[{"prompt": REJECTED}],
        eval_preferences=[pair(GOOD), pair(REJECTED)],
        demonstrations=[{"prompt": LONG, "completion": [REPLY]}],
    )
    assert set(found) == {"data.prompts", "data.preferences", "data.eval_prompts", "data.eval_preferences"}
    prompts, pairs = found["data.prompts"], found["data.preferences"]
    start = "1 of 3 prompts do not fit into the model's context of 128 tokens with generate.max_new_tokens 16: "
    assert prompts.startswith(start + "prompts.jsonl:2 (")
    assert pairs.startswith("2 of 4 pairs do not fit into the model's context of 128 tokens: preferences.jsonl:2 (")
    assert ", preferences.jsonl:4 (" in pairs
    rejected = "cannot be read: the chat template rejects it (no system here): "
    assert found["data.eval_prompts"] == f"1 of 1 prompts {rejected}eval_prompts.jsonl:1"
    assert found["data.eval_preferences"] == f"1 of 2 pairs {rejected}eval_preferences.jsonl:2"


def test_held_out_prompts_that_it_trains_on_are_said(check: Callable[..., list[str]]) -> None:
    ends = "too: on these the policy is measured on what it was trained on"
    alike = [{"role": "user", "content": " HI"}]
    assert check(tells_overlap=True, eval_prompts=[{"prompt": alike}, {"prompt": OTHER}], preferences=[pair(GOOD)]) == [
        f"note: 1 of 2 prompts of data.eval_prompts are prompts of {key} {ends}"
        for key in ("data.prompts", "data.preferences")
    ]
    assert check(
        tells_overlap=True, eval_preferences=[pair(GOOD)], prompts=[{"prompt": [{**USER, "content": "ho"}]}]
    ) == [f"note: 1 of 1 prompt of data.eval_preferences are prompts of data.preferences {ends}"]
    shown = [{"prompt": OTHER, "completion": [REPLY]}]
    sources = ("method.sources={dmd: {mixing: 1.0}}", "data.preferences=null", "data.eval_preferences=null")
    assert check(STRICT, *sources, tells_overlap=True, demonstrations=shown) == [
        f"note: 1 of 1 prompt of data.eval_prompts are prompts of data.demonstrations {ends}"
    ]


def test_offline_pairs_alone_need_no_prompts_and_those_that_lie_idle_are_not_compared(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    prompts = write("prompts.jsonl", [{"prompt": "one"}])
    offline = {"method__sources": {"offline": {"mixing": 1}}, "data__eval_prompts": prompts}
    for idle in (None, prompts):
        recipe = tiny_recipe(tmp_path, data__prompts=idle, **offline)
        due = [stage for stage in stages.STAGES if stage.is_due(recipe, 0) or stage.is_due(recipe, 1)]
        assert check_rows(recipe, Inputs(recipe), due) == []


def test_the_tokenizer_is_loaded_once_whoever_asks_for_it(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text and chats of four files, the checks of all stages, and what the stages themselves read."""
    asked: list[Any] = []

    def counted(*arguments: Any) -> Any:
        asked.append(arguments)
        return load_recipe_tokenizer(*arguments)

    monkeypatch.setattr(rows_of_recipe, "load_recipe_tokenizer", counted)
    model = make_chat_model(tmp_path / "model")
    names = ("prompts", "eval_prompts"), ("preferences", "eval_preferences")
    data = {f"data__{key}": write(f"{key}.jsonl", [{"prompt": "hi"}]) for key in names[0]}
    data |= {f"data__{key}": write(f"{key}.jsonl", [pair("hi")]) for key in names[1]}
    recipe = tiny_recipe(tmp_path, policy={"model_name_or_path": str(model)}, **data)
    inputs = Inputs(recipe)
    check_rows(recipe, inputs, stages.STAGES)
    assert inputs.prompts_to_sample.num_kept == len(inputs.offline_pairs.preferences) == 1
    assert len(asked) == 1


def test_demonstrations_that_a_source_shows_are_read_too(check: Callable[..., list[str]]) -> None:
    shown = [{"prompt": GOOD, "completion": [REPLY]}, {"prompt": LONG, "completion": [REPLY]}]
    sources = ("method.sources={dmd: {mixing: 1.0}}", "data.preferences=null", "data.eval_preferences=null")
    assert "demonstrations.jsonl:2 (" in faults_of(check, STRICT, *sources, demonstrations=shown)["data.demonstrations"]


def test_a_warm_starts_demonstrations_are_read_too(check: Callable[..., list[str]]) -> None:
    shown = write("shown.jsonl", [{"prompt": GOOD, "completion": [{**REPLY, "content": "c" * 200}]}])
    found = faults_of(check, STRICT, f"policy.sft={{dataset: {shown}}}")
    assert found["policy.sft.dataset"].startswith("1 of 1 demonstrations do not fit into the model's context of 128 ")


def test_a_pair_that_is_left_out_may_be_too_long(check: Callable[..., list[str]]) -> None:
    rules = ("label.equal_texts=drop", "method.sources.dpr.gradient=0")
    assert check(STRICT, *rules, preferences=[pair(GOOD), pair(LONG, "same", "same")]) == []


def test_many_rows_are_counted_and_the_first_ten_named(check: Callable[..., list[str]]) -> None:
    what = faults_of(check, prompts=[{"prompt": GOOD}, *[{"prompt": REJECTED}] * 37])["data.prompts"]
    assert what.startswith("37 of 38 prompts cannot be read: ")
    assert what.endswith("prompts.jsonl:10, prompts.jsonl:11 and 27 more")


def test_the_remedy_for_a_long_prompt_is_one_that_will_do(check: Callable[..., list[str]]) -> None:
    rows = [{"prompt": [{"role": "user", "content": "z" * 112}]}]
    with pytest.raises(DataError) as caught:
        check(prompts=rows)
    lower = re.match(r"set generate\.max_new_tokens to at most (\d+), or take", caught.value.faults[0].hint)
    assert lower
    check(STRICT, f"generate.max_new_tokens={lower[1]}", prompts=rows)
    with pytest.raises(DataError) as caught:
        check(prompts=[*rows, {"prompt": LONG}])
    assert caught.value.faults[0].hint.startswith("take a model"), "no smaller number lets both fit"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('roles must take turns') }}", "roles must take turns"),
        ("{{ messages[0]['content'] + 1 }}", 'can only concatenate str (not "int") to str'),
        ("{{ messages[9]['content'] }}", "list object has no element 9"),
        ("{{ 1 // 0 }}", "integer division or modulo by zero"),
        ("{{ nothing.there }}", "'nothing' is undefined"),
        ("{{ messages.append(1) }}", "access to attribute 'append' of 'list' object is unsafe."),
    ],
)
def test_whatever_goes_wrong_within_a_template_is_a_fault_of_the_row(
    check: Callable[..., list[str]], template: str, reason: str
) -> None:
    what = faults_of(check, template)["data.prompts"]
    assert what.startswith("1 of 1 prompts cannot be read: the chat template rejects it (")
    assert reason in what and what.endswith(": prompts.jsonl:1")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (
            "{% for m in messages %}\n{% if %}{% endfor %}",
            "line 2: Expected an expression, got 'end of statement block'",
        ),
        ("{{ messages | shouted }}", "line 1: No filter named 'shouted'."),
    ],
)
def test_a_template_that_does_not_compile_is_told_once_and_is_no_rows_fault(
    check: Callable[..., list[str]], template: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        check(template, "data.as_chat=never", preferences=[pair("hi"), pair("a" * 200)])
    of_template, of_pairs = caught.value.faults
    assert of_template.what == f"the policy's chat template does not compile: {reason}"
    assert of_template.where == str(tmp_path / "model") and "chat_template.jinja" in of_template.hint
    assert of_pairs.what.startswith("1 of 2 pairs do not fit into the model's context of 128 tokens")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('no ' + messages[0].role + ' here') }}", "no user here"),
        ("{{ raise_exception('of ' ~ messages|length ~ ': ' ~ messages[0].content[:20] ~ '!') }}", "of 2: q0: "),
        ("{{ raise_exception(messages[0] | tojson) }}", '{"role": "user", "content": "q0: '),
        ("{{ raise_exception(messages[0].content) }}", "q0: "),
    ],
)
def test_rows_of_which_the_same_is_said_in_words_of_their_own_are_one_fault(
    check: Callable[..., list[str]], template: str, said: str
) -> None:
    roles = ("user", "system", "tool")
    contents = [f'q{number}: "{"word " * (number % 9)}"\tand more' for number in range(60)]
    rows = [{"prompt": [{"role": roles[number % 3], "content": text}, USER]} for number, text in enumerate(contents)]
    found = faults_of(check, template, prompts=rows)["data.prompts"]
    rejected = f"the chat template rejects it ({said}"
    assert found.startswith(f"60 of 60 prompts cannot be read, each in words of its own; the first: {rejected}")
    assert "): prompts.jsonl:1, prompts.jsonl:2, " in found


def test_what_is_said_alike_of_rows_is_one_fault_though_it_holds_words_of_some(
    check: Callable[..., list[str]],
) -> None:
    rows = [{"prompt": [{"role": role, "content": "hi"}]} for role in ("system", "user", "tool", "user")]
    found = faults_of(check, "{{ raise_exception('ask the user') }}", prompts=rows)["data.prompts"]
    assert found.startswith("4 of 4 prompts cannot be read: the chat template rejects it (ask the user): prompts")


def test_whatever_goes_wrong_within_a_tokenizer_is_a_fault_of_the_row(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """As of one that has a token for some words, and none for what it does not know."""
    model = make_chat_model(tmp_path / "model")
    words = Tokenizer(models.WordLevel({"</s>": 0, "known": 1}))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>").save_pretrained(model)
    prompts = write("prompts.jsonl", [{"prompt": "known"}, {"prompt": "unknown"}])
    recipe = tiny_recipe(
        tmp_path,
        policy={"model_name_or_path": str(model)},
        data={
            "prompts": prompts,
            "preferences": write("pairs.jsonl", [pair("known", " unknown", " known")]),
            "eval_prompts": write("eval.jsonl", [{"prompt": "known"}]),
            "as_chat": "never",
        },
    )
    with pytest.raises(DataError) as caught:
        check_rows(recipe, Inputs(recipe), stages.STAGES)
    first, second = (fault.what for fault in caught.value.faults)
    assert first.startswith("1 of 2 prompts cannot be read: the policy's tokenizer rejects it (")
    assert first.endswith(": prompts.jsonl:2")
    assert second.endswith(": pairs.jsonl:1")


def test_a_chat_that_a_template_makes_nothing_of_is_a_fault(check: Callable[..., list[str]]) -> None:
    what = faults_of(check, "{% for m in messages if m.role == 'user' and m.content != 'hi' %}x{% endfor %}")
    assert what["data.prompts"] == "1 of 1 prompts cannot be read: the prompt has no tokens: prompts.jsonl:1"


def test_a_chat_for_a_policy_without_a_template_is_a_fault(check: Callable[..., list[str]]) -> None:
    found = faults_of(check, None)
    assert set(found) == {"data.prompts", "data.preferences", "data.eval_prompts", "data.eval_preferences"}
    assert "this is a chat, and the policy's tokenizer has no chat template" in found["data.prompts"]


def test_rows_of_a_built_in_world_are_read_before_its_model_is_made(tiny_recipe: Callable[..., Recipe]) -> None:
    recipe = tiny_recipe(Path(), "generate.max_new_tokens=127")
    with pytest.raises(DataError) as caught:
        check_rows(recipe, Inputs(recipe), stages.STAGES)
    assert [fault.where for fault in caught.value.faults] == ["data.prompts", "data.eval_prompts"]
    assert ": row 0 (" in caught.value.faults[0].what


def test_rows_for_a_new_model_are_read_with_the_tokenizer_that_it_will_get(tiny_recipe: Callable[..., Recipe]) -> None:
    new = {"vocab_size": 300, "max_position_embeddings": 24, "hidden_size": 8, "num_attention_heads": 2}
    recipe = tiny_recipe(Path(), policy={"from_scratch": new, "sft": {"dataset": "playground", "max_steps": 1}})
    with pytest.raises(
        DataError, match=r"policy\.sft\.dataset: .* demonstrations do not fit into the model's context of"
    ):
        check_rows(recipe, Inputs(recipe), stages.STAGES)


def test_a_given_policys_own_context_is_what_counts(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = tiny_recipe(
        tmp_path,
        policy={"model_name_or_path": str(make_chat_model(tmp_path / "model", template=CHATML))},
        data={"prompts": write("prompts.jsonl", [{"prompt": GOOD}]), "preferences": write("p.jsonl", [pair(GOOD)])},
        evaluate=None,
    )
    due = [stages.stage_named("generate")]
    check_rows(recipe, Inputs(recipe), due)
    short = make_chat_model(tmp_path / "short", context_length=20, template=CHATML)
    with pytest.raises(DataError, match="the model's context of 20 tokens"):
        check_rows(recipe, Inputs(recipe, short), due)


TEXT_ROWS: dict[str, Any] = {
    "prompts": [{"prompt": "hi"}],
    "preferences": [pair("hi")],
    "eval_prompts": [{"prompt": "hi"}],
    "eval_preferences": [pair("hi")],
}


def test_a_template_that_ends_a_turn_with_what_stops_nothing_is_told_with_the_remedy(
    check: Callable[..., list[str]],
) -> None:
    (said,) = check(CHATML, eos_token="</s>")
    assert said.startswith("warning: the chat template ends the assistant's turn with ")
    assert "<|im_end|>\\n', and what stops generation is </s>: " in said
    assert said.endswith("set eos_token_id in the model's generation_config.json to 4, the id of <|im_end|>")


def test_that_remedy_is_one(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    model = make_chat_model(tmp_path / "model", template=CHATML, eos_token="</s>")
    data = {"prompts": write("prompts.jsonl", [{"prompt": GOOD}]), "preferences": write("p.jsonl", [pair(GOOD)])}
    recipe = tiny_recipe(tmp_path, policy={"model_name_or_path": str(model)}, data=data, evaluate=None)
    due = [stages.stage_named("generate")]
    assert len(check_rows(recipe, Inputs(recipe), due)) == 1
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 4]}), encoding="utf-8")
    assert check_rows(recipe, Inputs(recipe), due) == []


def test_a_template_that_writes_no_end_at_all_is_told(check: Callable[..., list[str]]) -> None:
    (said,) = check("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    assert said.endswith("let the template write <|im_end|> behind a turn of the assistant's")


HOLDING = {
    "prompts": [{"prompt": GOOD, "tools": [{"name": "adder"}], "chat_template_kwargs": {"tone": "loud"}}],
    "preferences": [{"prompt": GOOD, "chosen": [{**REPLY, "reasoning_content": "so"}], "rejected": [REPLY]}],
}


def test_what_the_template_does_not_look_at_is_told(check: Callable[..., list[str]]) -> None:
    (said,) = check(CHATML, **HOLDING)
    assert said == (
        "note: data.prompts, data.preferences: the policy's chat template does not look at tools, tone, "
        "reasoning_content: the policy sees nothing of that"
    )
    assert check(TOOLS, **HOLDING) == []
    assert check(TOOLS.replace("reasoning_content", "reasoning"), **HOLDING) == []


def test_thoughts_under_another_name_count_as_theirs(check: Callable[..., list[str]]) -> None:
    thinking = [{"prompt": GOOD, "chosen": [{**REPLY, "thinking": "so"}], "rejected": [REPLY]}]
    (said,) = check(CHATML, preferences=thinking)
    assert said.startswith("note: data.preferences: the policy's chat template does not look at thinking: ")
    assert check(TOOLS, preferences=thinking) == []


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_thoughts_of_any_response_count(check: Callable[..., list[str]], side: str) -> None:
    thinking = {"prompt": GOOD, "chosen": [REPLY], "rejected": [REPLY], side: [{**REPLY, "thinking": "so"}]}
    assert len(check(CHATML, preferences=[thinking])) == 1
    shown = write("shown.jsonl", [{"prompt": GOOD, "completion": thinking[side]}])
    (said,) = check(CHATML, f"policy.sft={{dataset: {shown}}}")
    assert said.startswith("note: policy.sft.dataset: ")


def test_a_template_for_tools_beside_the_usual_one_is_looked_at_too(check: Callable[..., list[str]]) -> None:
    assert check({"default": CHATML, "tool_use": TOOLS}, **HOLDING) == []


ENDLESS = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"


def test_where_a_turn_ends_is_seen_in_the_first_chat_and_its_own_response(check: Callable[..., list[str]]) -> None:
    ending = [{**REPLY, "content": "a qz"}]
    pairs = [
        {"prompt": "text", "chosen": "a", "rejected": "b"},
        {"prompt": GOOD, "chosen": ending, "rejected": [REPLY]},
    ]
    (said, _) = check(ENDLESS, "data.as_chat=never", **{**TEXT_ROWS, "preferences": pairs})
    assert "ends the assistant's turn with ' qz', " in said
    shown = write("shown.jsonl", [{"prompt": GOOD, "completion": ending}])
    (said,) = check(ENDLESS, f"policy.sft={{dataset: {shown}}}")
    assert "ends the assistant's turn with ' qz', " in said
    (said,) = check(ENDLESS)
    assert "ends the assistant's turn with 'es.', " in said


def test_plain_text_for_a_policy_that_chats_is_told_once(check: Callable[..., list[str]]) -> None:
    (said,) = check(STRICT, "data.as_chat=never", **TEXT_ROWS)
    keys = "data.prompts, data.preferences, data.eval_prompts, data.eval_preferences"
    assert said.startswith(f"note: {keys}: plain text, to which the policy's chat template is not applied; data.as_")
    assert check(None, **TEXT_ROWS) == []


def test_text_that_became_conversations_is_told_by_its_kinds(check: Callable[..., list[str]]) -> None:
    transcript = "\n\nHuman: hi\n\nAssistant:"
    alpaca = {"instruction": "Say hi.", "output": "hi"}
    prompts = [{"prompt": "hi"}, {"prompt": transcript}, alpaca, {"prompt": transcript}]
    of_prompts, *others = check(**{**TEXT_ROWS, "prompts": prompts})
    assert of_prompts == (
        "note: data.prompts: 1 plain texts and 2 transcripts and 1 Alpaca rows are read as conversations; "
        "data.as_chat: never leaves them as they are"
    )
    assert len(others) == 3


def test_the_recipes_template_arguments_count_and_a_rows_own_win(check: Callable[..., list[str]]) -> None:
    template = TOOLS.replace("{{ tone }}", "{{ raise_exception('loud' if tone == 'loud' else 'not loud') }}")
    own = [{"prompt": GOOD, "chat_template_kwargs": {"tone": tone}} for tone in ("", "soft")]
    with pytest.raises(DataError) as caught:
        check(
            template,
            "policy.chat_template_kwargs={tone: loud}",
            "data.as_chat=never",
            prompts=[{"prompt": GOOD}, *own, {"prompt": "text"}],
        )
    of_prompts = [fault.what for fault in caught.value.faults if fault.where == "data.prompts"]
    rejected = "1 of 4 prompts cannot be read: the chat template rejects it"
    assert of_prompts == [f"{rejected} (loud): prompts.jsonl:1", f"{rejected} (not loud): prompts.jsonl:3"]


DATED = "{% set day = date_string if date_string is defined else strftime_now('%d %b %Y') %}{{ day }}" + CHATML


def test_a_template_that_reads_the_clock_is_told_once_with_what_it_means(check: Callable[..., list[str]]) -> None:
    prompts = [{"prompt": "text"}, {"prompt": GOOD}]
    (said,) = check(DATED, "data.as_chat=never", prompts=prompts, eval_prompts=[{"prompt": GOOD}])[1:]
    assert said.startswith("warning: the policy's chat template reads the clock (strftime_now): a run that is resumed")
    assert "policy.chat_template_kwargs" in said


def test_a_clock_that_no_chat_makes_the_template_read_is_none(check: Callable[..., list[str]]) -> None:
    assert check(DATED, "policy.chat_template_kwargs={date_string: 1 May 2026}") == []
    assert not [said for said in check(DATED, "data.as_chat=never", **TEXT_ROWS) if "clock" in said]
    only_with_tools = "{% if tools %}{{ strftime_now('%Y') }}{% endif %}" + TOOLS
    assert check(only_with_tools) == []
    assert len(check(only_with_tools, prompts=[{"prompt": GOOD}, {"prompt": GOOD, "tools": [{"name": "adder"}]}])) == 1


def test_a_template_that_draws_at_random_is_refused(check: Callable[..., list[str]], tmp_path: Path) -> None:
    found = faults_of(check, "{{ ['be brief', 'be kind'] | random }}" + CHATML)
    assert set(found) == {str(tmp_path / "model")}
    assert "makes something else of the same chat each time" in found[str(tmp_path / "model")]
    assert check(None, **TEXT_ROWS) == []
