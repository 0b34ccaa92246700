"""Every command and every recipe that a page shows is sound: options exist, arguments fit, keys are a recipe's.

What a page shows that another test runs whole is looked at all the same.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from pages import PAGES, ROOT, Block, blocks, code_spans, named
from typer.main import get_command

from align_cli.cli.main import app
from align_cli.errors import RecipeError
from align_cli.recipe import load_recipe
from align_cli.run.fork import parse_origin
from align_cli.study.definition import combinations_of
from align_cli.study.values import parse_axes, parse_seeds

WriteRecipe = Any
PIPES = {"|", "&&", "||", ";", "&", ">", ">>", "2>", "("}
PLACEHOLDER = re.compile(r"\.\.\.|…|\||\[|<|^[A-Z][A-Z@_]*$|\bRUN\b|[A-Z]+=[A-Z]")
"""What stands for something else in a synopsis."""
OTHER_LANGUAGES = {"python", "toml", "json", "diff", "mermaid", "css"}
PLUGIN_KINDS = {"clearer"}
"""Kinds of labelers that a page writes itself; the page's own test runs them."""
MAKE = re.compile(r"^([\w-]+):", re.MULTILINE)


class Shown(NamedTuple):
    """A command as a page shows it.

    Args:
        place: where.
        words: of it, without `align`.
        is_whole: whether it is one to be typed; what stands in a sentence may be a part of one.
    """

    place: str
    words: list[str]
    is_whole: bool

    def __str__(self) -> str:
        return f"{self.place} {' '.join(self.words)}"


def shown_commands() -> Iterator[Shown]:
    """Every `align ...` of a page: in its blocks, each command of a pipe on its own, and within its sentences."""
    for page in PAGES:
        for block in blocks(page):
            if block.language not in {*OTHER_LANGUAGES, "yaml"}:
                yield from (Shown(str(block), words, True) for words in commands_of(block.text))
        for span in code_spans(page):
            yield from (Shown(named(page), words, False) for words in commands_of(span))


def commands_of(text: str) -> Iterator[list[str]]:
    """The words of each command of align's in a shell's lines."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        words: list[str] = []
        for word in [*_words(line.removeprefix("$ ")), "|"]:
            if word not in PIPES:
                words.append(word)
                continue
            while words and re.fullmatch(r"\w+=\S*", words[0]):  # variables before a command
                words.pop(0)
            if words[:1] and Path(words[0]).name == "align" and len(words) > 1:
                yield words[1:]
            words = []


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    try:
        return list(lexer)
    except ValueError:  # prose with a lone quote
        return []


def is_synopsis(words: list[str]) -> bool:
    return any(PLACEHOLDER.search(word) for word in words if not re.match(r"[\w.]+=|.*\.jsonl?", word))


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words name, through groups of them, and what is left of the words."""
    command, rest = get_command(app), list(words)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]  # type: ignore[attr-defined]
    return command, rest


BY_NAME = {str(one): one for one in shown_commands()}


def test_the_pages_show_commands_and_recipes() -> None:
    assert len(BY_NAME) > 50
    assert len(list(yaml_parts())) > 20


@pytest.mark.parametrize("name", BY_NAME)
def test_a_command_that_a_page_shows_exists_with_its_options(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_recipe: WriteRecipe
) -> None:
    monkeypatch.chdir(ROOT)
    words, is_whole = BY_NAME[name].words, BY_NAME[name].is_whole
    command, rest = command_of(words)
    if words[0] == "COMMAND" or words[0] in ("--help", "--install-completion"):
        return
    is_command = getattr(command, "invoke_without_command", not hasattr(command, "commands"))
    assert is_command, f"there is no such command: align {' '.join(words)}"
    options = [opt for one in command.params for opt in (*one.opts, *one.secondary_opts)] + ["--help"]
    assert [word for word in rest if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in options] == []
    if is_synopsis(rest) or rest == ["--help"] or not is_whole:
        return
    found = command.make_context(words[0], list(rest)).params
    recipe, overrides = found.get("recipe"), list(found.get("overrides") or [])
    if words[0] == "study":
        axes = parse_axes(found["over"])
        assert axes and parse_seeds(found["seeds"], for_tuning=found["for_tuning"])
        overrides += combinations_of(axes)[0].overrides
    if found.get("origin"):
        parse_origin(found["origin"])
    if recipe is not None and Path(recipe).parts[0] == "recipes":
        load_recipe(recipe, overrides, check_files=False)
    else:
        assert unknown_keys(write_recipe(tmp_path), overrides) == []


def unknown_keys(recipe: Path, overrides: list[str]) -> list[str]:
    """What is wrong with overrides themselves, whatever they do to this recipe."""
    try:
        load_recipe(recipe, overrides, check_files=False)
    except RecipeError as error:
        return [fault.what for fault in error.faults if "unknown key" in fault.what or "it must be" in fault.what]
    return []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_targets_of_make_and_scripts_that_a_page_shows_are_there(page: Path) -> None:
    targets = set(MAKE.findall((ROOT / "Makefile").read_text(encoding="utf-8")))
    lines = [line for block in blocks(page) if block.language == "bash" for line in block.text.splitlines()]
    made = [words[1] for line in lines if (words := line.split())[:1] == ["make"]]
    assert [target for target in made if target not in targets] == []
    scripts = [name for line in lines for name in re.findall(r"\bpython ((?:recipes|benchmarks)/[\w/]+\.py)", line)]
    assert [script for script in scripts if not (ROOT / script).is_file()] == []


class _Loader(yaml.SafeLoader):
    """Reads YAML as recipes are read, in which `on` is a word."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if not (tag.endswith(":bool") and first in "oOyYnN")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _loaded(text: str) -> Any:
    return yaml.load(text, _Loader)


class Part(NamedTuple):
    """What a block of YAML says: a recipe, or keys of one."""

    block: Block
    keys: dict[str, Any]


def yaml_parts() -> Iterator[Part]:
    """The blocks of YAML; one that says a key several times shows alternatives, each a part of its own."""
    for page in PAGES:
        for block in blocks(page):
            if block.language == "yaml":
                yield from (Part(block, keys) for keys in _alternatives(block.text))


def _alternatives(text: str) -> Iterator[dict[str, Any]]:
    place = re.match(r"# ([\w.]+) of recipe\.yaml\n", text)
    if place and not re.search(rf"^{place[1]}:", text, re.MULTILINE):
        keys = _loaded(text)
        for name in reversed(place[1].split(".")):
            keys = {name: keys}
        yield keys
        return
    pieces = re.split(r"^(?=\w+:)", text, flags=re.MULTILINE)
    group: list[str] = []
    for piece in pieces:
        key = piece.partition(":")[0]
        if any(each.partition(":")[0] == key for each in group):
            yield _loaded("".join(group))
            group = []
        group.append(piece)
    yield _loaded("".join(group))


PARTS = list(yaml_parts())


@pytest.mark.parametrize("part", PARTS, ids=lambda part: str(part.block))
def test_a_recipe_that_a_page_shows_loads_and_so_does_one_with_the_keys_that_it_shows(
    part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_recipe: WriteRecipe
) -> None:
    monkeypatch.chdir(ROOT)
    keys = part.keys
    if any(isinstance(one, Mapping) and one.get("kind") in PLUGIN_KINDS for one in keys.get("labelers", {}).values()):
        return
    recipe = keys if "output_dir" in keys else _with(_loaded(write_recipe(tmp_path).read_text()), keys)
    path = tmp_path / "shown.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    assert load_recipe(path, check_files=False).output_dir == recipe["output_dir"]


def _with(recipe: dict[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """A sound recipe with a page's keys; labelers that these name and do not define are some function."""
    sources = (keys.get("method") or {}).get("sources")
    if sources:
        recipe["method"].pop("sources")
    merged = _merged(recipe, keys)
    asked = [one.get("labeler") for one in (sources or {}).values() if isinstance(one, Mapping)]
    asked += [keys.get("evaluate", {}).get("scorer"), *keys.get("evaluate", {}).get("scorers", ())]
    for section in keys.get("labelers", {}).values():
        asked += list(section.get("of", ())) if isinstance(section, Mapping) else []
    for name in filter(None, asked):
        merged["labelers"].setdefault(name, {"kind": "function", "function": "align_cli.playground:hidden_reward"})
    if any(one.get("model_name_or_path") == "run" for one in merged["labelers"].values()):
        merged.setdefault("reward", {"model_name_or_path": "playground"})
    return merged


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = _merged(found[key], value) if both else value
    return found
