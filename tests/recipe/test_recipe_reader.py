"""YAML to a recipe: numbers, aliases, and files that are no recipe."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from align_cli.errors import RecipeError
from align_cli.recipe import load_recipe
from align_cli.recipe.written.scalars import read_scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1e5", 1e5),
        ("5.0e-4", 5e-4),
        (".5", 0.5),
        ("5.", 5.0),
        ("-2", -2),
        ("0o17", 15),
        ("0x1F", 31),
        ("010", 10),
        ("on", "on"),
        ("no", "no"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        ("true", True),
        ("~", None),
        ("", None),
        (".inf", float("inf")),
        ("e5", "e5"),
    ],
)
def test_plain_words_mean_what_yaml_1_2_says(text, value):
    read = read_scalar(text, quoted=False, tag=None)
    assert read == value
    assert type(read) is type(value)


def test_a_learning_rate_without_a_dot_is_a_number(load):
    assert load("train.learning_rate=3e-4").train.learning_rate == 3e-4


def test_a_whole_number_serves_as_a_number(load):
    assert load("method.beta=1").method.beta == 1.0


def test_aliases_and_merges_are_expanded(load, minimal):
    text = minimal.replace("output_dir:", "output_dir: &dir").replace(
        "model_name_or_path: playground", "model_name_or_path: *dir\n  sft: &warm {dataset: playground, max_steps: 5}"
    )
    recipe = load(text=text)
    assert recipe.policy.model_name_or_path == recipe.output_dir == "runs/first"
    merged = load(text=text.replace("sft: &warm {", "sft: {<<: {max_steps: 7, weight_decay: 0.5}, "))
    assert (merged.policy.sft.max_steps, merged.policy.sft.weight_decay) == (5, 0.5)


def test_a_fault_behind_an_alias_points_to_its_use(faults_of, minimal):
    text = minimal.replace("output_dir:", "output_dir: &dir").replace("steps_per_round: 50", "steps_per_round: *dir")
    (fault,) = faults_of(text=text)
    assert fault.where == "recipe.yaml:16:20"


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("", "recipe.yaml:1:1", "the recipe is empty"),
        ("# nothing\n", "recipe.yaml:1:1", "the recipe is empty"),
        ("- a\n", "recipe.yaml:1:1", "the recipe is a list; it must be keys with values"),
        ("hello\n", "recipe.yaml:1:1", "the recipe is 'hello'; it must be keys with values"),
        ("a: 1\n\tb: 2\n", "recipe.yaml:2:1", "a tab stands where YAML wants spaces"),
        ("a: b: c\n", "recipe.yaml:1:5", "this is not valid YAML: mapping values are not allowed here"),
        ("a: [1\n", "recipe.yaml:2:1", "this is not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: *b\n", "recipe.yaml:1:4", "*b names no anchor above it"),
        ("a: &a [*a]\n", "recipe.yaml:1:8", "*a stands inside its own anchor"),
        ("a: &a {b: *a}\n", "recipe.yaml:1:11", "*a stands inside its own anchor"),
        ("a: 1\n---\nb: 2\n", "recipe.yaml:2:1", "a second YAML document starts here"),
        ("[a]: 1\n", "recipe.yaml:1:1", "a key must be plain text"),
        ("a: b\x07\n", "recipe.yaml:1:5", "U+0007 may not stand in YAML"),
        ("a: " + "[" * 2000, "recipe.yaml:1:44", "values are nested more than 40 deep here"),
        ("a: [" + "1," * 20_000 + "]", "recipe.yaml:1:19999", "the recipe holds more than 10000 values"),
    ],
)
def test_what_is_no_recipe_ends_in_one_clear_fault(faults_of, text, where, what):
    (fault,) = faults_of(text=text)
    assert (fault.where, fault.what) == (where, what)


def test_a_syntax_fault_shows_the_line_and_a_caret(faults_of):
    (fault,) = faults_of(text="output_dir: runs/a\nmethod: {beta: 0.1: 2}\n")
    line, caret = fault.snippet.splitlines()
    assert line == "  method: {beta: 0.1: 2}"
    assert len(caret) == int(fault.where.split(":")[2]) + 2


def test_a_key_that_stands_twice_is_a_fault(faults_of, minimal):
    (fault,) = faults_of(text=minimal + "output_dir: runs/second\n")
    assert fault.where == "recipe.yaml:17:1"
    assert fault.what == "the key 'output_dir' stands here a second time"
    assert fault.hint == "it stands in line 1 too; keep one"


@pytest.mark.parametrize("tag", ["!!python/object:os.system", "!!python/name:os.system", "!mine", "!!binary"])
def test_tags_are_refused(faults_of, minimal, tag):
    (fault,) = faults_of(text=minimal.replace("output_dir:", f"output_dir: {tag}"))
    assert "refused" in fault.what
    (fault,) = faults_of(text=minimal.replace("train:", f"train: {tag}"))
    assert "refused" in fault.what


def test_yamls_own_tags_are_honoured(load, minimal):
    assert load(text=minimal.replace("runs/first", "!!str 3")).output_dir == "3"


def test_aliases_that_multiply_are_refused_at_once(faults_of):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    start = time.perf_counter()
    (fault,) = faults_of(text="\n".join(lines))
    assert "aliases expand" in fault.what
    assert time.perf_counter() - start < 2


def test_aliases_that_nest_are_refused(faults_of):
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 500))]
    (fault,) = faults_of(text="\n".join(lines))
    assert "aliases expand" in fault.what


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("1" * 30, "is a whole number of more than 64 bits"),
        ("1" * 5000, "it must be text"),
        (".nan", "is no number"),
        ('"a\\0b"', "holds a control character"),
        ('"a\\uD800b"', "holds a control character"),
        ('"\\UFFFFFFFF"', "this is not valid YAML"),
    ],
)
def test_values_that_no_key_could_hold_are_refused(faults_of, minimal, value, what):
    if len(value) > 1000:
        assert "it must be a whole number" in faults_of(f"seed={value}")[0].what
        return
    (fault,) = faults_of(text=minimal.replace("runs/first", value))
    assert what in fault.what


def test_a_missing_recipe_names_the_nearest_one(tmp_path):
    (tmp_path / "reviews.yaml").touch()
    with pytest.raises(RecipeError, match=r"there is no such recipe\nhint: did you mean .*reviews\.yaml"):
        load_recipe(tmp_path / "review.yaml")


def test_a_folder_is_no_recipe(tmp_path):
    (tmp_path / "reviews.yaml").touch()
    with pytest.raises(RecipeError, match=r"this is a folder.*\nhint: recipes in it: reviews\.yaml"):
        load_recipe(tmp_path)


def test_bytes_that_are_not_utf_8_are_located(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"a: 1\nb: caf\xe9\n")
    with pytest.raises(RecipeError, match=r"latin.yaml:2:7: byte 0xe9 is not UTF-8"):
        load_recipe(path)


def test_a_file_too_large_is_refused(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_bytes(b"#" * 300_000)
    with pytest.raises(RecipeError, match="larger than 256 KiB"):
        load_recipe(path)


def test_a_path_that_no_file_could_have_is_a_fault():
    with pytest.raises(RecipeError):
        load_recipe("a\0b.yaml")
    with pytest.raises(RecipeError):
        load_recipe("a" * 5000 + ".yaml")


def test_line_ends_and_byte_order_marks_of_other_systems_are_read(tmp_path, minimal):
    path = Path(tmp_path / "windows.yaml")
    path.write_bytes(b"\xef\xbb\xbf" + minimal.replace("\n", "\r\n").encode())
    assert load_recipe(path).output_dir == "runs/first"


def test_a_recipe_in_a_folder_that_is_not_there_is_answered_with_the_one_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text("rounds: 1\n")
    monkeypatch.chdir(tmp_path)
    for typed, hint in {
        "recipe/mine.yaml": "there is no folder recipe; did you mean recipes/mine.yaml?",
        "recipe/other.yaml": "there is no folder recipe",
    }.items():
        with pytest.raises(RecipeError) as refused:
            load_recipe(typed)
        assert refused.value.faults[0].hint == hint
