"""What becomes of the rows of a large file: found out once, remembered while nothing changes, a few bytes a row."""

from __future__ import annotations

import gc
import json
import os
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from chat_models import CHATML, make_chat_model

from align_cli.data import exchanges, lines, sources
from align_cli.errors import DataError
from align_cli.models.identity import identity_of
from align_cli.models.load import Policy
from align_cli.models.text import PolicyText
from align_cli.recipe import Recipe
from align_cli.recipe.sections.label import LabelSection
from align_cli.stages import fates, readable
from align_cli.stages.fates import Places, kept_rows
from align_cli.stages.inputs import Inputs
from align_cli.stages.lengths import Limits
from align_cli.stages.pairing.offline import OfflinePairs, label_offline_pairs
from align_cli.stages.pools import training_pools
from align_cli.stages.readable import rows_within
from align_cli.training.batches import Mixture

TinyRecipe = Callable[..., Recipe]
OFFLINE = {"loss_type": "dpo", "sources": {"offline": {"mixing": 1.0}}}
WORDS = ("food", "staff", "room", "view")


@pytest.fixture(autouse=True)
def every_file_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(sources, "LARGE_BYTES", 1)


class Counted(list[str]):
    """What was done with rows, one word each: `read` from the source, `made` into tokens in the search for faults."""

    def taken(self) -> set[str]:
        found = set(self)
        self.clear()
        return found


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counted = Counted()
    read_rows, read_row = exchanges.read_rows, readable.read_row

    def reading(*arguments: Any) -> Iterator[Any]:
        for row in read_rows(*arguments):
            counted.append("read")
            yield row

    def making(*arguments: Any, **more: Any) -> Any:
        counted.append("made")
        return read_row(*arguments, **more)

    monkeypatch.setattr(exchanges, "read_rows", reading)
    monkeypatch.setattr(readable, "read_row", making)
    return counted


def pairs(number: int) -> Iterator[dict[str, Any]]:
    """Offline pairs, no two alike in their prompt; every seventh is a tie, every tenth has equal texts."""
    for place in range(number):
        better, worse = f" the {WORDS[place % 4]} was good .", " it was poor ."
        row: dict[str, Any] = {
            "prompt": f"review of the food {'the ' * (place % 5)}:",
            "chosen": better,
            "rejected": better if place % 10 == 9 else worse,
        }
        yield {**row, "label": 0.5} if place % 7 == 6 else row


def write(name: str, rows: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


class TestTheSecondStart:
    """A fresh `Inputs` stands for another process: nothing but what lies on disk goes from one to the other."""

    @pytest.fixture
    def recipe(self, tiny_recipe: TinyRecipe, tmp_path: Path) -> Callable[..., Recipe]:
        write("pairs.jsonl", pairs(40))
        write("prompts.jsonl", [{"prompt": row["prompt"] + str(place)} for place, row in enumerate(pairs(40))])

        def load(*overrides: str) -> Recipe:
            data = {"preferences": "pairs.jsonl", "prompts": "prompts.jsonl"}
            return tiny_recipe(tmp_path, *overrides, method=OFFLINE, evaluate={"num_prompts": 1}, data=data)

        return load

    def both(self, recipe: Recipe) -> tuple[Any, ...]:
        inputs = Inputs(recipe)
        prompts = inputs.prompts_to_sample
        rows = (list(prompts.rows), set(prompts.left_out), prompts.counts)
        return rows, list(inputs.offline_pairs.preferences), inputs.offline_pairs.counts

    def test_reads_and_measures_nothing_again_and_finds_the_same(
        self, recipe: Callable[..., Recipe], done: Counted
    ) -> None:
        first = self.both(recipe())
        assert done.taken() == {"read", "made"}
        assert self.both(recipe()) == first
        assert done.taken() == set()

    @pytest.mark.parametrize(
        ("override", "again"),
        [
            ("data.system_prompt=null", set()),
            ("train.learning_rate=1.0e-5", set()),
            ("label.ties=keep", {"made"}),
            ("data.max_completion_tokens=30", {"made"}),
            ("data.too_long=cut", {"made"}),
            ("generate.max_new_tokens=7", {"made"}),
            ("data.thinking=strip", {"read", "made"}),
            ("data.as_chat=never", {"read", "made"}),
            ("data.pairs=all", {"read", "made"}),
        ],
    )
    def test_does_again_what_another_key_of_the_recipe_changes(
        self, recipe: Callable[..., Recipe], done: Counted, override: str, again: set[str]
    ) -> None:
        self.both(recipe())
        done.clear()
        self.both(recipe(override))
        assert done.taken() == again

    def test_reads_a_file_again_of_which_a_byte_has_changed_though_neither_its_length_nor_its_time(
        self, recipe: Callable[..., Recipe], done: Counted
    ) -> None:
        before = self.both(recipe())
        done.clear()
        path = Path("pairs.jsonl")
        stat = path.stat()
        path.write_text(path.read_text().replace("good", "fine", 1))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        after = self.both(recipe())
        assert done.taken() == {"read", "made"}
        assert after != before
        assert after[1][0].chosen == " the food was fine ."

    def test_asks_once_what_stands_for_the_policy_whatever_number_of_files_it_reads(
        self, recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[object] = []

        def counted(policy: PolicyText) -> str | None:
            asked.append(policy)
            return identity_of(policy)

        monkeypatch.setattr("align_cli.stages.inputs.identity_of", counted)
        self.both(recipe())
        assert len(asked) == 1

    def test_measures_again_with_another_template(
        self, recipe: Callable[..., Recipe], done: Counted, tmp_path: Path
    ) -> None:
        make_chat_model(tmp_path / "model")
        chats = ("policy.model_name_or_path=model", "policy.sft=null", "data.as_chat=always")
        self.both(recipe(*chats))
        assert done.taken() == {"read", "made"}
        self.both(recipe(*chats))
        assert done.taken() == set()
        (tmp_path / "model" / "chat_template.jinja").write_text(CHATML.replace("\n", " \n", 1))
        self.both(recipe(*chats))
        assert done.taken() == {"made"}

    def test_tells_faults_as_often_as_they_are_there(self, recipe: Callable[..., Recipe], done: Counted) -> None:
        for _ in range(2):
            with pytest.raises(DataError, match=r"31 of 40 pairs have more prompt tokens than .*: pairs\.jsonl:1 "):
                _ = Inputs(recipe("data.max_prompt_tokens=1")).offline_pairs
            assert "made" in done.taken()
        with Path("pairs.jsonl").open("a") as stream:
            stream.write('{"prompt": "p"}\n')
        for _ in range(2):
            with pytest.raises(DataError, match=r"pairs\.jsonl:41: no known format of pairs"):
                _ = Inputs(recipe()).offline_rows
            assert "read" in done.taken()

    def test_finds_out_again_what_was_damaged_in_between(
        self, recipe: Callable[..., Recipe], done: Counted, tmp_path: Path
    ) -> None:
        first = self.both(recipe())
        done.clear()
        for path in (tmp_path / "caches" / "align").iterdir():
            path.write_bytes(path.read_bytes()[:-1])
        assert self.both(recipe()) == first
        assert done.taken() == {"read", "made"}
        assert self.both(recipe()) == first
        assert done.taken() == set()

    def test_remembers_no_file_that_is_written_to_while_it_is_read(
        self, recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, done: Counted
    ) -> None:
        read_rows = exchanges.read_rows

        def growing(name: str, split: str) -> Iterator[Any]:
            with Path(name).open("a") as stream:
                stream.write(json.dumps(next(pairs(1))) + "\n")
            return read_rows(name, split)

        before = Path("pairs.jsonl").read_bytes()
        monkeypatch.setattr(exchanges, "read_rows", growing)
        assert len(Inputs(recipe()).offline_rows.rows) == 41
        monkeypatch.setattr(exchanges, "read_rows", read_rows)
        Path("pairs.jsonl").write_bytes(before)
        assert len(Inputs(recipe()).offline_rows.rows) == 40


@pytest.fixture
def limits(tiny_policy: Policy) -> Limits:
    return Limits("cut", 5, 4, tiny_policy.context_length)


def test_rows_that_are_read_when_they_are_asked_for_are_those_that_were_measured(
    tiny_policy: Policy, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fates, "TOKENS_IN_MEMORY", 60)
    rows, counts = list(pairs(30)), Counter[str]()
    arguments = ("data.preferences", rows, "pairs", ("chosen", "rejected"), tiny_policy, limits)
    kept = kept_rows(*arguments, counts)
    assert list(kept) == [read for _, read in rows_within(*arguments, Counter())]
    assert list(kept.lengths) == [read.num_tokens for read in kept]
    as_read = kept.as_they_are_read()
    assert [as_read[kept.number(place)] for place in range(len(kept))] == [read.row for read in kept]
    wanted = [read for read in kept if "the the" in read.row["prompt"]]
    assert list(kept.where(lambda row: "the the" in row["prompt"])) == wanted != []


def test_the_rows_that_are_left_out_are_a_set() -> None:
    places = Places(bytes([1, 0, 2, 0]))
    assert places == {1, 3} and {1, 3} == places
    assert len(places) == 2 and 3 in places and 2 not in places and 4 not in places and -1 not in places


@pytest.mark.parametrize("equal_texts", ["keep", "drop"])
@pytest.mark.parametrize("rounds_before", [0, 3])
def test_pairs_that_are_made_when_they_are_drawn_fill_the_batches_that_a_list_of_them_fills(
    tiny_recipe: TinyRecipe, tiny_policy: Policy, tmp_path: Path, equal_texts: str, rounds_before: int
) -> None:
    recipe = tiny_recipe(tmp_path, method=OFFLINE)
    section = LabelSection(ties="keep", equal_texts=equal_texts, empty_texts="keep")
    drawn = label_offline_pairs(list(pairs(23)), tiny_policy, section, "dataset").preferences
    assert isinstance(drawn, OfflinePairs)
    mixture = Mixture({"offline": 1.0}, 5, recipe.seed)
    one, other = (
        mixture.round_batches(pools, rounds_before + 1, 3)
        for pools in (
            training_pools(recipe, [], rounds_before, drawn),
            training_pools(recipe, list(drawn), rounds_before),
        )
    )
    for pair, its in zip(chain.from_iterable(one), chain.from_iterable(other), strict=True):
        assert vars(pair) | {"response_ids": 0} == vars(its) | {"response_ids": 0}
        assert len(set(pair.response_ids)) == len(set(its.response_ids))
    by_pair = {pair.pair_id: {*pair.response_ids} for batch in one for pair in batch}
    assert sum(map(len, by_pair.values())) == len(set().union(*by_pair.values()))


def peak(work: Callable[[], object]) -> int:
    """The most bytes that Python has had at once for something."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.long
def test_memory_does_not_grow_with_the_rows(
    tiny_recipe: TinyRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From reading to drawing, in both starts: a few numbers a row, where a row itself takes a kilobyte or two."""
    monkeypatch.setattr(lines, "IN_MEMORY_BYTES", 1 << 12)
    monkeypatch.setattr(fates, "TOKENS_IN_MEMORY", 1 << 10)
    few, many = 500, 5_000

    def start(number: int) -> Callable[[], object]:
        name = write(f"{number}.jsonl", pairs(number))
        data = {"preferences": name, "prompts": name}
        recipe = tiny_recipe(tmp_path, method=OFFLINE, evaluate={"num_prompts": 1}, data=data)

        def work() -> None:
            inputs = Inputs(recipe)
            pools = training_pools(recipe, [], 0, inputs.offline_pairs.preferences)
            drawn = Mixture({"offline": 1.0}, 8, 0).round_batches(pools, 1, 2)
            assert len(drawn) == 2
            assert inputs.prompts_to_sample.num_kept == number

        return work

    start(few)()  # what is loaded once is loaded now
    starts = {number: start(number) for number in (few, many)}
    for path in (tmp_path / "caches" / "align").iterdir():
        path.unlink()
    for _ in range(2):
        at_most = {number: peak(work) for number, work in starts.items()}
        assert at_most[many] - at_most[few] < 64 * (many - few)
