"""What processes that train together say to each other, and how memory that runs out in one is told to all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from several import in_processes

from align_cli.training.ranks import ALONE, Ranks, added


def test_one_process_hears_itself():
    assert ALONE.heard(3) == [3]
    assert ALONE.leaders(3) == 3
    (column,) = ALONE.gathered(torch.arange(2))
    assert column.tolist() == [0, 1]
    with ALONE.running_out_together():
        pass


def test_one_process_passes_on_what_goes_wrong():
    with pytest.raises(MemoryError, match="too much"), ALONE.running_out_together():
        raise MemoryError("too much")


def test_figures_of_all_ranks_are_added():
    assert added([{"a": (1.0, 2.0)}, {"a": (2.0, 1.0), "b": (1.0, 1.0)}]) == {"a": (3.0, 3.0), "b": (1.0, 1.0)}


def _columns(ranks: Ranks) -> list[list[Any]]:
    rows = torch.arange(ranks.rank + 1)  # one of the first, two of the second
    flags = torch.ones(ranks.rank + 1, 2, dtype=torch.bool)
    return [column.tolist() for column in ranks.gathered(rows, flags)]


def _gradients(ranks: Ranks) -> list[Any]:
    used, own, unused, frozen = (torch.nn.Parameter(torch.ones(2)) for _ in range(4))
    frozen.requires_grad_(False)
    used.grad = torch.full((2,), float(ranks.rank + 1))
    if ranks.rank == 1:
        own.grad = torch.tensor([5.0, 6.0])
    ranks.add_up([used, own, unused, frozen])
    return [parameter.grad if parameter.grad is None else parameter.grad.tolist() for parameter in (used, own, unused)]


def _running_out(ranks: Ranks) -> list[str]:
    """The second runs out: once when the first is through, once where it waits for a word within."""
    said = []
    for is_within in (False, True):
        try:
            with ranks.running_out_together():
                if ranks.rank == 1:
                    raise MemoryError("no more")
                if is_within:
                    ranks.heard("anything")
            ranks.heard("what comes next")
        except MemoryError as error:
            said.append(str(error))
        said.append("".join(ranks.heard("abc"[ranks.rank])))
    return said


def _bug(ranks: Ranks) -> str:
    """What is no lack of memory is no word to anybody."""
    try:
        with ranks.running_out_together():
            raise ValueError("a bug")
    except ValueError as error:
        return str(error)


def test_two_processes_tell_each_other(tmp_path: Path):
    def work(ranks: Ranks) -> list[Any]:
        told = [_running_out(ranks), _bug(ranks)]
        return [ranks.leaders(f"of {ranks.rank}"), _columns(ranks), _gradients(ranks), *told]

    one, other = in_processes(2, work, tmp_path)
    assert one == other
    leaders, columns, gradients, ran_out, bug = one
    assert leaders == "of 0"
    assert columns == [[0, 0, 1], [[True, True]] * 3]
    assert gradients == [[3.0, 3.0], [5.0, 6.0], None]
    assert ran_out == ["no more (rank 1)", "ab"] * 2
    assert bug == "a bug"
