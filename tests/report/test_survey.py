"""What a source of data holds, in figures and in tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_models import CHATML, STRICT, chat_tokenizer

from align_cli.data.overlap import Overlap, overlaps_of
from align_cli.models.load import UnloadedPolicy
from align_cli.recipe.sections.data import DataSection
from align_cli.report.survey.figures import Survey, survey_of
from align_cli.report.survey.source import read_source
from align_cli.report.survey.tables import example_lines, figures_table, histogram_lines, lengths_table, limits_table


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def bot(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def pair(prompt: Any, chosen: Any, rejected: Any, **fields: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **fields}


def policy(template: str | None = CHATML, context_length: int | None = 64) -> UnloadedPolicy:
    tokenizer = chat_tokenizer(template)
    return UnloadedPolicy(tokenizer, [tokenizer.eos_token_id], context_length)


PAIRS = [
    pair("one", "a b c", "d"),
    pair("one", "a", "b c", label=0.5),
    pair("two words", "same", "same"),
    pair("three", "", "x"),
    pair("one", "a b c", "d"),
]


def surveyed(folder: Path, rows: list[Any], *, reader: Any = None, held_out: Any = None, **data: Any) -> Survey:
    def source(name: str, rows: list[Any], use: Any = None) -> Any:
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return read_source(str(path), "train", DataSection(**data), reader, use)

    evaluation = held_out and source("held_out", held_out, "prompts")
    return survey_of(source("rows", rows), reader, evaluation, data=DataSection(**data))


def test_what_is_told_of_pairs_is_counted(tmp_path: Path) -> None:
    found = surveyed(tmp_path, PAIRS)
    assert (found.use, found.uses) == ("pairs", ("pairs", "demonstrations", "prompts"))
    assert (found.rows, found.prompts, found.repeated) == (5, 3, 1)
    assert (found.ties, found.equal, found.empty) == (1, 1, 1)
    assert (found.formats, found.chats, found.dropped) == ({"pairs": 5}, 0, {})
    assert found.longer_chosen == 0.5, "of four pairs with answers of two lengths, two"


def test_lengths_are_words_without_a_policy(tmp_path: Path) -> None:
    found = surveyed(tmp_path, PAIRS)
    assert found.unit == "words"
    chosen = found.lengths["chosen"]
    assert (chosen.mean, chosen.longest) == (8 / 5, 3)
    assert chosen.percentiles == {5: 0, 25: 1, 50: 1, 75: 3, 95: 3, 99: 3}
    assert found.lengths["all"].percentiles[50] == 3
    assert found.lengths["all"].histogram == {2: 1, 4: 4}


def test_lengths_are_the_policys_tokens_where_one_is_named(tmp_path: Path) -> None:
    reader = policy(None)
    found = surveyed(tmp_path, [pair("one", " two", " three four")], reader=reader)
    ids = reader.tokenizer("one", add_special_tokens=True)["input_ids"]
    assert (found.unit, found.lengths["prompt"].longest) == ("tokens", len(ids))
    assert (found.too_long, found.context_length, found.chats) == (0, 64, 0)
    assert survey_of(read_source(found.source, "train", DataSection(), None), policy(None, None)).too_long is None


def test_for_a_policy_that_chats_text_is_counted_as_what_it_becomes(tmp_path: Path) -> None:
    rows = [pair("hi", "yes", "no"), pair("hi " * 40, "yes", "no")]
    found = surveyed(tmp_path, rows, reader=policy())
    assert (found.chats, found.made_of, found.too_long) == (2, {"plain texts": 2}, 1)
    kept = surveyed(tmp_path, rows, reader=policy(), as_chat="never")
    assert (kept.chats, kept.made_of) == (0, {})
    assert kept.lengths["prompt"].longest < found.lengths["prompt"].longest


def test_rows_that_the_policy_cannot_read_are_counted_by_reason(tmp_path: Path) -> None:
    system = [{"role": "system", "content": "be kind"}, user("hi")]
    rows = [pair([user("hi")], [bot("a")], [bot("b")]), pair(system, [bot("a")], [bot("b")])]
    found = surveyed(tmp_path, rows, reader=policy(STRICT))
    assert found.unreadable == {"the chat template rejects it (no system here)": 1}
    assert (found.rows, len(found.examples)) == (2, 1)


def test_an_example_shows_where_tokens_end_and_where_the_loss_lies(tmp_path: Path) -> None:
    found = surveyed(tmp_path, [pair([user("hi")], [bot("yes")], [bot("no\nno")])], reader=policy())
    (example,) = found.examples
    assert [(part.name, part.has_loss) for part in example.parts] == [
        ("prompt", False),
        ("chosen", True),
        ("rejected", True),
    ]
    assert "".join(example.parts[0].tokens) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert "".join(example.parts[1].tokens) == "yes<|im_end|>"
    head, *lines = example_lines(example, 1, found.unit)
    assert head.startswith("example 1: ") and head.endswith(
        f"rows.jsonl:1, the shortest, {found.lengths['all'].longest} in all"
    )
    assert lines[2].startswith("  chosen (") and lines[2].endswith(" tokens, loss on all of it)")
    assert lines[5].startswith("    │n│o│\\n│n│o│") and lines[5].endswith("│<|im_end|>│")


def test_examples_go_from_the_shortest_row_to_the_longest(tmp_path: Path) -> None:
    found = surveyed(tmp_path, [pair("p", "x " * number, "") for number in (5, 1, 3, 2, 4)])
    assert [example.where[-1] for example in found.examples] == ["2", "3", "1"]
    assert [example.why for example in found.examples] == [
        "the shortest, 2 in all",
        "longer than 50% of the rows, 4 in all",
        "the longest, 6 in all",
    ]


def test_a_long_example_is_cut_in_its_middle(tmp_path: Path) -> None:
    words = surveyed(tmp_path, [pair("p", "x" * 500 + "y" * 500, "")])
    assert example_lines(words.examples[0], 1, "words")[4] == (
        f"    {'x' * 500}{'y' * 100} [... 200 characters ...] {'y' * 200}"
    )
    tokens = surveyed(tmp_path, [pair("p", "x" * 100, "")], reader=policy(None))
    assert "│[... 29 tokens ...]│" in example_lines(tokens.examples[0], 1, "tokens")[4]


def test_evaluation_prompts_that_are_trained_on_are_found(tmp_path: Path) -> None:
    held_out = [{"prompt": "one"}, {"prompt": "TWO  words"}, {"prompt": "nine"}, {"prompt": "one"}]
    assert surveyed(tmp_path, PAIRS, held_out=held_out).overlap == Overlap(prompts=3, same=1, alike=2)
    assert overlaps_of([{"prompt": [user("one")]}], [[{"prompt": "one"}]]) == [(1, 0, 1)]


def test_demonstrations_and_prompts_have_their_own_figures(tmp_path: Path) -> None:
    shown = surveyed(tmp_path, [{"prompt": "a", "completion": " "}, {"prompt": "a", "completion": "b"}])
    assert (shown.use, shown.empty, list(shown.lengths)) == ("demonstrations", 1, ["prompt", "completion", "all"])
    prompts = surveyed(tmp_path, [{"prompt": "a"}, {"prompt": "a"}, {"prompt": "b c"}])
    assert (prompts.use, prompts.prompts, list(prompts.lengths)) == ("prompts", 2, ["prompt"])
    assert [example.parts[0].has_loss for example in prompts.examples] == [False, False, False]


def test_the_tables_hold_every_figure(tmp_path: Path) -> None:
    found = surveyed(tmp_path, PAIRS, held_out=[{"prompt": "one"}], reader=policy())
    figures = dict(figures_table(found).rows)
    assert figures.pop("the longer answer is chosen") == f"{found.longer_chosen:.0%}"
    assert figures == {
        "read as": "pairs",
        "can be read as": "pairs, demonstrations, prompts",
        "format": "5 pairs",
        "pairs": "5",
        "left out": "–",
        "conversations": "5, made of 5 plain texts",
        "different prompts": "3",
        "the same as a row before": "1",
        "ties": "1",
        "equal answers": "1",
        "empty answers": "1",
        "longer than the context of 64 tokens": "0",
        "of 1 evaluation prompts here": "1, but for case and white space 1",
    }
    table = lengths_table(found)
    assert table.columns == ["tokens", "mean", "5%", "25%", "50%", "75%", "95%", "99%", "longest"]
    assert [row[0] for row in table.rows] == ["prompt", "chosen", "rejected", "all"]
    lines = histogram_lines(found)
    assert sum(int(line.split()[-1]) for line in lines) == 5
    assert max(line.count("#") for line in lines) == 40


def test_the_figures_are_a_json_document(tmp_path: Path) -> None:
    found = json.loads(json.dumps(surveyed(tmp_path, PAIRS).to_dict()))
    assert found["lengths"]["chosen"]["longest"] == 3
    assert found["examples"][0]["parts"][0] == {"name": "prompt", "has_loss": False, "tokens": ["three"]}


def test_what_the_reader_left_out_is_told(tmp_path: Path) -> None:
    lists = [{"prompt": "p", "responses": ["a", "b"], "scores": scores} for scores in ([1, 2], [1, 1])]
    found = surveyed(tmp_path, lists)
    assert dict(figures_table(found).rows)["left out"] == "1 answers of the same score"


@pytest.mark.parametrize("use", ["pairs", "demonstrations", "prompts"])
def test_a_source_is_read_for_what_is_asked(tmp_path: Path, use: Any) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(PAIRS[0]) + "\n")
    assert read_source(str(path), "train", DataSection(), None, use).use == use


def test_limits_to_choose_from_say_how_many_rows_they_would_leave(tmp_path: Path) -> None:
    rows = [pair("p" * (1 + place), "a" * (1 + (place * 7) % 20), "") for place in range(20)]
    found = surveyed(tmp_path, rows, reader=policy(None, 999))
    sizes = [(1 + place, 2 + (place * 7) % 20) for place in range(20)]  # with the token that ends an answer
    assert [within.percent for within in found.within] == [90, 95, 99]
    for within in found.within:
        left = [p + a for p, a in sizes if p <= within.max_prompt_tokens and a <= within.max_completion_tokens]
        assert (within.rows, within.longest) == (len(left), max(left))
    assert (found.within[0].max_prompt_tokens, found.within[0].max_completion_tokens) == (18, 19)
    assert found.within[-1].rows == 20, "limits that all are within are told once"
    table = limits_table(found)
    assert table.columns == ["limits", "max_prompt_tokens", "max_completion_tokens", "rows within", "longest of them"]
    assert table.rows[-1][:4] == ["99%", "20", "21", "20 (100.0%)"]
    assert surveyed(tmp_path, rows).within == (), "words are no limits"
    prompts = limits_table(surveyed(tmp_path, [{"prompt": "p"}], reader=policy(None)))
    assert (len(prompts.columns), prompts.rows) == (4, [["90%", "1", "1 (100.0%)", "1"]])


@pytest.mark.parametrize(
    ("how", "kept"), [("refuse", {}), ("drop", {"left out": 3}), ("cut", {"cut": 2, "left out": 1})]
)
def test_what_becomes_of_rows_beyond_the_limits_is_counted(tmp_path: Path, how: Any, kept: dict[str, int]) -> None:
    last_turn_alone = [user("x" * 50)]
    turns = [user("y" * 30), bot("a"), user("b")]
    rows = [
        pair([user("a")], [bot("b")], [bot("c")]),
        pair(last_turn_alone, [bot("b")], [bot("c")]),
        pair(turns, [bot("b")], [bot("c")]),
        pair([user("a")], [bot("d" * 20)], [bot("c")]),
    ]
    limits = {"max_prompt_tokens": 30, "max_completion_tokens": 10, "too_long": how}
    found = surveyed(tmp_path, rows, reader=policy(context_length=999), **limits)
    assert found.beyond == {"data.max_prompt_tokens": 2, "data.max_completion_tokens": 1}
    assert found.kept == kept
    assert found.lengths["chosen"].longest == 21, "lengths are those of the source"
    figures = dict(figures_table(found).rows)
    assert figures["longer than data.max_prompt_tokens"] == "2"
    assert {name for name in figures if "by data.too_long" in name} == {f"{what} by data.too_long" for what in kept}
