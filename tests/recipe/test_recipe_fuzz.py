"""Hostile bytes in a recipe: each of them is read or refused. `benchmarks/fuzz/recipe.py` tries far more of them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align_cli.errors import AlignError, RecipeError
from align_cli.recipe import load_recipe

NO_FIXTURE_RESET = [HealthCheck.function_scoped_fixture]
PIECES = [
    *(b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"\r\n", b"\t", b"\xe2\x80\xa8", b"\x1b[2J"),
    *(b"&a ", b"*a", b"<<: *a", b"<<: [*a, *a]", b"? ", b"- ", b": ", b"{", b"}", b"[", b"]", b"'", b'"', b"|\n", b"#"),
    *(b"!!int ", b"!!python/object:os.system ", b"%YAML 1.1\n", b"---\n", b"...\n", b'"\\ud800"', b'"\\UFFFFFFFF"'),
    *(b"9" * 500, b"9" * 5000, b"1e999", b".nan", b"-.inf", b"0x" + b"F" * 300, b"null", b"[" * 60, b"{a: " * 60),
]
CHANGES = st.lists(
    st.tuples(st.integers(0, 600), st.integers(0, 20), st.sampled_from(PIECES) | st.binary(max_size=8)), max_size=4
)


def changed(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for place, cut, piece in changes:
        data = data[:place] + piece + data[place + cut :]
    return data


def only_a_recipe_or_faults(path: Path, overrides: list[str]) -> None:
    try:
        load_recipe(path, overrides)
    except AlignError as error:
        for fault in error.faults:
            assert fault.what and fault.where
            assert all(text.isprintable() for text in (fault.what, fault.where, fault.hint))


@settings(max_examples=150, suppress_health_check=NO_FIXTURE_RESET)
@given(changes=CHANGES)
def test_a_recipe_with_any_bytes_changed_is_read_or_refused(tmp_path: Path, minimal: str, changes) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(changed(minimal.encode(), changes))
    only_a_recipe_or_faults(path, [])


@settings(max_examples=100, suppress_health_check=NO_FIXTURE_RESET)
@given(changes=CHANGES)
def test_an_override_of_any_bytes_is_applied_or_refused(tmp_path: Path, minimal: str, changes) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(minimal, encoding="utf-8")
    only_a_recipe_or_faults(path, [os.fsdecode(changed(b"method.sources.dpr={mixing: 0.3}", changes))])


@pytest.mark.parametrize(
    "text", ['"\\ud800": 1\n', 'policy: {"\\udc00\\ud800": 1}\n', '&a "\\ud800": 1\noutput_dir: *a\n']
)
def test_a_key_with_half_a_surrogate_pair_is_named(tmp_path: Path, text: str) -> None:
    """pydantic cannot take such a key: its error named no place, and wording it failed."""
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match="holds a control character"):
        load_recipe(tmp_path / "recipe.yaml")


def test_a_pipe_in_the_place_of_a_recipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "recipe.yaml")
    with pytest.raises(RecipeError, match="this is a pipe or a device"):
        load_recipe(tmp_path / "recipe.yaml")


def test_a_device_in_the_place_of_a_recipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").symlink_to("/dev/zero")
    with pytest.raises(RecipeError, match="this is a pipe or a device"):
        load_recipe(tmp_path / "recipe.yaml")


def test_a_recipe_from_a_pipe_that_the_shell_has_opened_is_read(minimal: str) -> None:
    reader, writer = os.pipe()
    os.write(writer, minimal.encode())
    os.close(writer)
    assert load_recipe(f"/dev/fd/{reader}", check_files=False).seed == 0
    os.close(reader)


def test_a_recipe_without_a_name_is_told_so() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("")
    assert caught.value.faults[0].where == "''"


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" if i else "a0: &a0 [x]\n" for i in range(30)),
        "a: &a {" + ", ".join(f"k{i}: 1" for i in range(1000)) + "}\nb: {<<: [" + "*a, " * 2000 + "*a]}\n",
        "".join(f"key_{i}: 1\n" for i in range(1000)),
        "train: {" + ", ".join(f"key_{i}: 1" for i in range(1000)) + "}\n",
        "a: '" + "\n" * 250_000 + "'",
    ],
    ids=["aliases of aliases", "merges", "unknown keys", "unknown training arguments", "line breaks"],
)
def test_a_recipe_that_is_large_by_design_is_refused_soon(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    begin = time.process_time()
    with pytest.raises(RecipeError):
        load_recipe(tmp_path / "recipe.yaml")
    assert time.process_time() - begin < 10
