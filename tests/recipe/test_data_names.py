"""`org/name[split]`, `file[:600]`: names of data in their parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from align_cli.errors import DataError, RecipeError
from align_cli.recipe import Recipe
from align_cli.recipe.data_names import DataName
from align_cli.stages.inputs import Inputs
from align_cli.stages.rows_of_recipe import local_files


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("pairs.jsonl", ("pairs.jsonl", None, "")),
        ("org/name[test_prefs]", ("org/name", "test_prefs", "")),
        ("org/name:main[train][:10%]", ("org/name:main", "train", ":10%")),
        ("pairs.jsonl[600:]", ("pairs.jsonl", None, "600:")),
        ("a[b]/pairs.jsonl", ("a[b]/pairs.jsonl", None, "")),
        ("pairs.jsonl[ : ]", ("pairs.jsonl", None, "")),
    ],
)
def test_a_name_has_a_place_a_split_and_a_part_of_the_rows(text: str, parts: tuple[str, str | None, str]) -> None:
    assert tuple(DataName.of(text)) == parts


@pytest.mark.parametrize(
    ("rows", "taken"),
    [
        ("", "0123456789"),
        ("[:3]", "012"),
        ("[3:]", "3456789"),
        ("[2:5]", "234"),
        ("[-2:]", "89"),
        ("[:-2]", "01234567"),
        ("[:25%]", "01"),
        ("[25%:]", "23456789"),
        ("[90%:100%]", "9"),
        ("[8:300]", "89"),
        ("[20:]", ""),
        ("[:999999999999999999]", "0123456789"),
        ("[-999999999999999999:]", "0123456789"),
        ("[999999999999999999%:]", ""),
    ],
)
def test_the_part_is_pythons(rows: str, taken: str) -> None:
    assert "".join(DataName.of(f"rows{rows}").part("0123456789")) == taken


@pytest.mark.parametrize("share", range(0, 101, 7))
def test_two_parts_that_meet_are_the_whole(share: int) -> None:
    first, rest = (list(DataName.of(f"rows[{part}]").part(range(37))) for part in (f":{share}%", f"{share}%:"))
    assert first + rest == list(range(37))


@pytest.mark.parametrize(
    "part", ["[1:2:3]", "[a:b]", "[0.5:]", "[:-10%]", f"[:{10**18}]", f"[:{10**18}%]", f"[:{'9' * 5000}]"]
)
def test_what_is_no_part_of_rows_is_refused(part: str) -> None:
    with pytest.raises(DataError, match="is no part of rows"):
        DataName.of(f"rows{part}")


def test_a_file_whose_own_name_ends_in_brackets_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "rows[:3]").write_text("", encoding="utf-8")
    assert DataName.of(str(tmp_path / "rows[:3]")) == (str(tmp_path / "rows[:3]"), None, "")


class TestInARecipe:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "prompts.txt"
        path.write_text("".join(f"prompt {number}\n" for number in range(10)), encoding="utf-8")
        return path

    def test_training_and_held_out_prompts_are_parts_of_one_file(self, file: Path, tmp_path: Path, tiny_recipe) -> None:
        recipe: Recipe = tiny_recipe(tmp_path, f"data.prompts={file}[:8]", f"data.eval_prompts={file}[8:]")
        inputs = Inputs(recipe)
        assert [row["prompt"] for row in inputs.prompts] == [f"prompt {number}" for number in range(8)]
        assert [row["prompt"] for row in inputs.eval_prompts] == ["prompt 8", "prompt 9"]

    def test_the_file_behind_a_part_is_an_input_whose_contents_count(
        self, file: Path, tmp_path: Path, tiny_recipe
    ) -> None:
        assert local_files(tiny_recipe(tmp_path, f"data.prompts={file}[:8]"))["data.prompts"] == file

    def test_a_file_of_the_users_own_home_is_found(
        self, file: Path, tmp_path: Path, tiny_recipe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(file.parent))
        recipe = tiny_recipe(tmp_path, f"data.prompts=~/{file.name}[:3]")
        assert len(Inputs(recipe).prompts) == 3
        assert local_files(recipe)["data.prompts"] == file

    def test_a_split_of_a_file_is_refused(self, file: Path, tmp_path: Path, tiny_recipe) -> None:
        with pytest.raises(DataError, match="a file is one split"):
            _ = Inputs(tiny_recipe(tmp_path, f"data.prompts={file}[test]")).prompts

    def test_a_split_of_a_folder_is_read(self, tmp_path: Path, tiny_recipe) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "held_out.txt").write_text("one\ntwo\n", encoding="utf-8")
        recipe = tiny_recipe(tmp_path, f"data.eval_prompts={tmp_path / 'data'}[held_out][1:]")
        assert [row["prompt"] for row in Inputs(recipe).eval_prompts] == ["two"]

    @pytest.mark.parametrize(
        ("part", "said"), [("[a:b]", "no part of rows"), ("x[:3]", "there is no such file or folder")]
    )
    def test_faults_are_told_with_the_recipe(
        self, file: Path, tmp_path: Path, tiny_recipe, part: str, said: str
    ) -> None:
        name = f"{file}{part}" if part.startswith("[") else f"{file.with_stem('prompt')}{part[1:]}"
        with pytest.raises(RecipeError, match=said):
            tiny_recipe(tmp_path, f"data.prompts={name}")

    @pytest.mark.parametrize("part", ["[:5]", "[train]"])
    def test_a_built_in_world_has_no_parts(self, tmp_path: Path, tiny_recipe, part: str) -> None:
        with pytest.raises(RecipeError, match="neither splits nor parts"):
            tiny_recipe(tmp_path, f"data.prompts=playground{part}")
