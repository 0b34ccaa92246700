"""The printer: what is shown on a terminal, what elsewhere, and how text that somebody else wrote is made harmless."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from align_cli.artifacts.records import Evaluation
from align_cli.cli.output import Output, guarded
from align_cli.cli.reporters import LiveReporter, PlainReporter, RunReporter
from align_cli.cli.shown import drawn as in_width
from align_cli.cli.shown import visible
from align_cli.errors import AlignError, Fault
from align_cli.report.tables import TextTable, span


def evaluation(round_number: int, policy: str = "abc") -> Evaluation:
    win = {"win_rate": 0.625, "low": 0.5, "high": 0.75, "wins": 10, "ties": 0, "losses": 6, "policy": "abc"}
    return Evaluation(
        round=round_number,
        policy=policy,
        num_prompts=16,
        scorer="hidden",
        reward={"mean": -3.0, "standard_error": 0.25},
        against={} if round_number == 0 else {"initial": dict(win)},
        kl={"mean": 0.5, "standard_error": 0.125, "reference": "abc"},
        length={"mean": 14.8, "standard_error": 0.1},
        eos_rate=0.25,
        distinct_2=0.5,
        preferences=None,
        sampling={"temperature": 1.0},
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, é 日本 🙂", "plain text, é 日本 🙂"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("over\rwritten\x08", "over\\rwritten\\x08"),
        ("null\x00delete\x7f", "null\\x00delete\\x7f"),
        ("\x9b31m one-byte escape", "\\x9b31m one-byte escape"),
        ("right \u202eto left", "right \\u202eto left"),
        ("zero\u200bwidth, line\u2028break", "zero\\u200bwidth, line\\u2028break"),
        ("half \ud800", "half \\ud800"),
        ("[bold]not markup[/bold]", "[bold]not markup[/bold]"),
    ],
)
def test_control_characters_are_shown_and_not_obeyed(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_fault_ends_a_command_with_two_and_its_words_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    @guarded
    def command() -> None:
        raise AlignError("beta is \x1b[31m-1", where="r.yaml:3:4", hint="0.1 is usual", snippet="beta: -1\n      ^")

    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "r.yaml:3:4: beta is \\x1b[31m-1\nbeta: -1\n      ^\nhint: 0.1 is usual\n"


def test_several_faults_are_all_shown_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    @guarded
    def command() -> None:
        raise AlignError.of([Fault("one"), Fault("two", "here")])

    with pytest.raises(SystemExit):
        command()
    assert capsys.readouterr().err == "one\nhere: two\n2 faults\n"


def test_a_remedy_that_many_faults_have_is_told_once_and_what_is_not_shown_is_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @guarded
    def command() -> None:
        error = AlignError.of([Fault(f"bad {number}", hint="mend it") for number in range(60)] + [Fault("other")])
        error.not_shown = "7 more rows of a.jsonl that cannot be used"
        raise error

    with pytest.raises(SystemExit):
        command()
    lines = capsys.readouterr().err.splitlines()
    assert lines[:60] == [f"bad {number}" for number in range(60)]
    assert lines[60:] == ["hint: mend it", "other", "61 faults, and 7 more rows of a.jsonl that cannot be used"]


def test_a_bug_keeps_its_traceback() -> None:
    @guarded
    def command() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command()


def use(reporter: RunReporter) -> None:
    """What a short run tells its reporter."""
    reporter.note("run: begins with round 0 evaluate")
    reporter.evaluated(evaluation(0))
    with reporter.stage(1, "generate") as progress:
        progress.start(4, "completions")
        for _ in range(4):
            progress.advance()
    reporter.evaluated(evaluation(1))


def test_plain_lines_one_a_stage_and_one_an_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    with Output().reporter() as reporter:
        assert isinstance(reporter, PlainReporter)
        use(reporter)
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert lines[0] == "run: begins with round 0 evaluate"
    figures = "reward -3.00 ± 0.25, KL 0.50 ± 0.12, length 14.8, EOS 25%, distinct-2 0.50, pair acc. –"
    assert lines[1] == f"round 0: {figures}"
    assert lines[2].startswith("round 1 generate: 0.") and ", 4 completions, " in lines[2]
    assert lines[2].endswith(" completions/s")
    assert lines[3] == f"round 1: win vs initial 0.62 [0.50, 0.75], {figures}"
    assert len(lines) == 4


def test_a_stage_at_work_says_now_and_then_how_far_it_is_and_how_long_it_will_take() -> None:
    said: list[str] = []
    with PlainReporter(said.append, seconds_between=0.01).stage(1, "generate") as progress:
        progress.start(512, "completions")
        progress.found(400)
        for _ in range(2):
            time.sleep(0.02)
            progress.advance(8)
        time.sleep(0.05)
        progress.advance(96)
    line = r"round 1 generate: (\d+) of 512 completions, (\d+) completions/s, \ds left"
    found = [match for match in (re.fullmatch(line, text) for text in said[:-1]) if match]
    assert sorted({int(match[1]) for match in found}) == [408, 416]
    assert all(int(match[2]) <= 8 / 0.02 for match in found)  # what was there before says nothing of the rate
    assert said[-1].startswith("round 1 generate: ") and ", 512 completions, " in said[-1]


def test_a_stage_that_has_done_nothing_yet_is_heard_of_too() -> None:
    said: list[str] = []
    with PlainReporter(said.append, seconds_between=0.01).stage(1, "train") as progress:
        time.sleep(0.05)
        progress.start(10, "steps")
        before = len(said)
        time.sleep(0.05)
    assert said[0] == "round 1 train: after 0s"
    assert said[before + 1] == "round 1 train: 0 of 10 steps after 0s"
    over = len(said)
    time.sleep(0.05)
    assert len(said) == over


def test_lines_about_a_stage_at_work_are_half_a_minute_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with Output().reporter() as reporter, reporter.stage(1, "train") as progress:
        progress.start(3, "steps")
        progress.advance()
        progress.began -= 100
        progress._last -= 29
        progress.advance()
        assert capsys.readouterr().err == ""
        progress._last -= 1
        progress.total = 12
        progress.advance()
    assert capsys.readouterr().err.splitlines()[0] == "round 1 train: 3 of 12 steps, 33.3 s a step, 5m00s left"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0s"), (-5, "0s"), (59.4, "59s"), (95, "1m35s"), (3599.7, "1h00m"), (7500, "2h05m"), (273_600, "3d04h")],
)
def test_a_stretch_of_time_is_said_as_people_say_it(seconds: float, words: str) -> None:
    assert span(seconds) == words


def test_quiet_says_nothing_but_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(quiet=True)
    with output.reporter() as reporter:
        use(reporter)
    output.note("talk")
    output.warn("heed \x07this")
    assert capsys.readouterr() == ("", "warning: heed \\x07this\n")


@pytest.fixture
def terminal() -> Console:
    yield Console(
        force_terminal=True, file=io.StringIO(), width=140, height=40, color_system=None, legacy_windows=False
    )


def drawn(terminal: Console) -> str:
    assert isinstance(terminal.file, io.StringIO)
    return terminal.file.getvalue()


def test_a_terminal_shows_a_table_of_rounds_above_a_bar(terminal: Console) -> None:
    with LiveReporter.showing(terminal) as reporter:
        assert isinstance(reporter, LiveReporter)
        reporter.note("run: begins \x1b[31mwith [red]round 0[/red]")
        reporter.evaluated(evaluation(0))
        reporter.evaluated(evaluation(1))
        with reporter.stage(2, "generate") as progress:
            progress.start(4, "completions")
            progress.advance(3)
            screen = Console(file=io.StringIO(), width=140)
            screen.print(reporter._display())
            shown = drawn(screen)
        assert reporter.bars.tasks == []
    assert "run: begins \\x1b[31mwith [red]round 0[/red]" in drawn(terminal)
    lines = [line.strip() for line in shown.splitlines() if line.strip()]
    assert [heading in lines[0] for heading in ("round", "win vs initial", "reward", "KL", "length")] == [True] * 5
    assert [line.split()[0] for line in lines[2:4]] == ["0", "1"]
    assert "0.62 [0.50, 0.75]" in lines[3]
    assert lines[4].startswith("round 2 generate")
    assert "3/4" in lines[4]
    assert "completions/s" in lines[4]


def test_on_a_narrow_terminal_a_table_of_rounds_is_cut_between_columns() -> None:
    narrow = Console(file=io.StringIO(), width=60)
    rows = [["0", "r" * 24, "k" * 30], ["1", "s" * 24, "l" * 30]]
    table = TextTable(["round", "reward", "KL"], rows)
    narrow.print(in_width(table, narrow))
    lines = [line.split() for line in drawn(narrow).splitlines() if line.strip() and "─" not in line]
    assert lines == [
        ["round", "reward"],
        *(row[:2] for row in rows),
        ["round", "KL"],
        *([row[0], row[2]] for row in rows),
    ]


def test_a_live_display_leaves_the_terminal_as_it_was(terminal: Console) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        LiveReporter.showing(terminal) as reporter,
        reporter.stage(1, "train") as progress,
    ):
        progress.start(10, "steps")
        raise KeyboardInterrupt
    shown = drawn(terminal)
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor is hidden, and shown again


def test_a_stage_may_start_its_count_anew(terminal: Console) -> None:
    with LiveReporter.showing(terminal) as reporter, reporter.stage(0, "evaluate") as progress:
        assert isinstance(reporter, LiveReporter)
        progress.start(16, "completions")
        progress.advance(16)
        progress.start(400, "sequences")
        progress.advance(100)
        (task,) = reporter.bars.tasks
        assert (task.completed, task.total) == (100, 400)


def test_cells_of_a_table_are_text_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(TextTable(["[bold]name[/bold]"], [["\x1b[31m[red]x[/red]"]]))
    shown = capsys.readouterr().out
    assert "[bold]name[/bold]" in shown
    assert "\\x1b[31m[red]x[/red]" in shown
    assert "\x1b" not in shown


def test_a_wide_table_is_whole_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(TextTable(["first", "last"], [["a" * 90, "z" * 90]]))
    assert "a" * 90 + "   " + "z" * 90 in capsys.readouterr().out
