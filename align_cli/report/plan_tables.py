"""What `align plan` shows: a row a stage with what is left for it to do and to take, and a row a labeler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from align_cli.report.tables import NOTHING, TextTable, size, span

COUNTS = ("steps", "pairs", "responses", "tokens")


def plan_table(plan: Mapping[str, Any]) -> TextTable:
    """One row a stage, over all rounds that are left; columns without any figure are left out.

    Args:
        plan: as `Prospect.to_dict` has it.
    """
    steps, measured, total = plan["steps"], plan["measured"], plan["total"]
    stages = list(dict.fromkeys(step["stage"] for step in steps))
    rows = [_row(stage, [step for step in steps if step["stage"] == stage], measured) for stage in stages]
    if measured is not None:
        memory = _memory([measured["startup_memory"]])
        rows.insert(0, ["start", "1", *[""] * len(COUNTS), span(measured["startup_seconds"]), memory, "", "", ""])
        rows.append(["report", "1", *[""] * len(COUNTS), span(measured["report_seconds"]), "", "", "", ""])
    sums = [_count(sum(step[name] for step in steps)) for name in COUNTS]
    time = NOTHING if total["seconds"] is None else span(total["seconds"])
    memories = [_memory([total["memory"]]), _memory([total["gpu_memory"]])]
    rows.append(["all", str(len(steps)), *sums, time, *memories, size(round(total["disk"])), ""])
    columns = ["stage", "times", *COUNTS, "time", "memory", "GPU memory", "disk", "measured"]
    shown = [place for place in range(len(columns)) if any(row[place] not in ("", NOTHING) for row in rows)]
    return TextTable([columns[place] for place in shown], [[row[place] for place in shown] for row in rows])


def labelers_table(plan: Mapping[str, Any]) -> TextTable:
    """One row a labeler: what it is asked at most, and what that costs."""
    rows = [
        [
            one["name"],
            one["kind"],
            _count(one["questions"]),
            _count(one["requests"]),
            NOTHING if one["tokens"] is None else _count(round(one["tokens"])),
            NOTHING if one["money"] is None else f"{one['money']:.2f}",
        ]
        for one in plan["labelers"]
    ]
    return TextTable(["labeler", "kind", "questions", "requests", "tokens", "cost"], rows)


def _row(stage: str, steps: Sequence[Mapping[str, Any]], measured: Mapping[str, Any] | None) -> list[str]:
    seconds = [step["seconds"] for step in steps]
    time = NOTHING if None in seconds else span(sum(seconds))
    disk = size(round(sum(sum(step["sizes"].values()) for step in steps)))
    memories = [_memory([step[name] for step in steps]) for name in ("memory", "gpu_memory")]
    counts = [_count(sum(step[name] for step in steps)) for name in COUNTS]
    return [stage, str(len(steps)), *counts, time, *memories, disk, _share(stage, steps, measured)]


def _share(stage: str, steps: Sequence[Mapping[str, Any]], measured: Mapping[str, Any] | None) -> str:
    """How much of the work was done to measure it."""
    if measured is None:
        return ""
    done = [step["amounts"] for step in measured["steps"] if step["stage"] == stage]
    for name in COUNTS:
        if there := sum(step[name] for step in steps):
            return f"{min(sum(one[name] for one in done) / there, 1):.0%}"
    return NOTHING


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _memory(found: Sequence[int | None]) -> str:
    known = [one for one in found if one is not None]
    return size(max(known)) if known else NOTHING
