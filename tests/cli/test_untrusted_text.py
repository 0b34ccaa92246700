"""Text that models, data sets, recipes and file names bring along is shown and never obeyed; code is named first.

The texts below would recolour, retitle, overwrite, reverse or link what a terminal shows, or end its line.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process_runs import train
from rich.console import Console
from run_fixtures import LABELER, NO_EVALUATION, Align, MakeFolder, assert_refused, files_below

from align_cli.artifacts.records import Completion
from align_cli.cli.columns import Columns
from align_cli.cli.output import Output, guarded
from align_cli.cli.reporters import LiveReporter
from align_cli.cli.shown import visible, visible_json
from align_cli.errors import AlignError, Fault
from align_cli.models.load import load_policy
from align_cli.report.tables import TextTable, stages_table

HOSTILE = {
    "an ANSI colour": "\x1b[31mred\x1b[0m",
    "a cursor that moves up": "\x1b[2A\x1b[2Kgone",
    "a title": "\x1b]0;owned\x07",
    "a link": "\x1b]8;;https://example.org\x1b\\click\x1b]8;;\x1b\\",
    "an escape of one byte": "\x9b31m",
    "a carriage return": "harmless\rwarning: nothing",
    "backspaces": "abc\x08\x08\x08xyz",
    "right to left": "abc\u202etxt.exe",
    "isolates": "\u2066abc\u2069\u200f",
    "a line separator": "one\u2028two\u2029three\x85four",
    "nothing to see": "a\u200bb\u00adc\ufeffd",
    "tags": "a\U000e0041b",
    "half a pair": "a\ud800b",
    "markup": "[bold]x[/bold] [link=https://example.org]y[/link] [/]",
}
TOKEN = "hf_abcdefghijklmnopqrstuvwxyz0123456789"
OBEYED = [*(chr(code) for code in (*range(9), *range(11, 32), *range(127, 160))), *"\u202a\u202b\u202c\u202d\u202e"]
OBEYED += [*"\u2066\u2067\u2068\u2069\u200e\u200f\u061c\u2028\u2029\u200b\u200c\u200d\u00ad\ufeff\ud800\U000e0041"]


def harmless(shown: str) -> bool:
    """Whether nothing in what is shown would be obeyed."""
    return not any(character in shown for character in OBEYED)


@pytest.fixture(params=HOSTILE)
def hostile(request: pytest.FixtureRequest) -> str:
    return HOSTILE[request.param]


def test_answers_are_shown_and_not_obeyed_while_they_grow(hostile: str, capsys: pytest.CaptureFixture[str]) -> None:
    for character in hostile:  # as a model samples it
        Output().piece(character)
    assert harmless(capsys.readouterr().out)
    shown = io.StringIO()
    with Columns([hostile, "other"], Console(file=shown, width=140)) as columns:
        for character in hostile:
            columns.add(1, character)
    assert harmless(shown.getvalue())
    assert shown.getvalue().strip()


@pytest.mark.parametrize("character", OBEYED, ids=ascii)
def test_no_character_that_is_obeyed_is_printed_and_json_keeps_its_value(character: str) -> None:
    assert harmless(visible(f"a{character}b"))
    written = json.dumps({"text": f"a{character}b", character: 1}, ensure_ascii=False, indent=2)
    assert harmless(visible_json(written))
    assert json.loads(visible_json(written)) == json.loads(written)


def test_letters_of_every_script_are_shown_as_they_are() -> None:
    text = "naïve Ελληνικά русский עברית العربية हिन्दी 中文 日本語 한국어 🙂 π/√2 “quotes” — dash"
    assert visible(text) == visible_json(text) == text


def test_a_fault_is_shown_and_not_obeyed(hostile: str, capsys: pytest.CaptureFixture[str]) -> None:
    @guarded
    def command() -> None:
        raise AlignError.of([Fault(hostile, hostile, hostile, hostile)])

    with pytest.raises(SystemExit):
        command()
    shown = capsys.readouterr().err
    assert harmless(shown)
    assert shown.count(visible(hostile)) == 4


def test_whatever_is_printed_is_shown_and_not_obeyed(hostile: str, capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.note(hostile)
    output.warn(hostile)
    output.text(hostile)
    output.table(TextTable([hostile, "two"], [[hostile, f"{hostile}\n{hostile}"]]))
    Output(as_json=True).data({hostile: [hostile]})
    with output.reporter() as reporter:
        reporter.note(hostile)
    shown = capsys.readouterr()
    assert harmless(shown.out) and harmless(shown.err)
    assert shown.err.count(visible(hostile)) == 3
    assert f"{visible(hostile)}\\n{visible(hostile)}" in shown.out  # one row stays one row


def test_a_terminal_is_shown_the_same(hostile: str) -> None:
    terminal = Console(
        force_terminal=True, file=io.StringIO(), width=200, color_system="truecolor", legacy_windows=False
    )
    with LiveReporter.showing(terminal) as reporter:
        reporter.note(f"note {hostile} end")
        with reporter.stage(1, hostile):
            pass
    assert isinstance(terminal.file, io.StringIO)
    assert f"note {visible(hostile)} end" in terminal.file.getvalue()
    assert "\x1b]8" not in terminal.file.getvalue() and "\u202e" not in terminal.file.getvalue()


class Screen(io.StringIO):
    """Standard output that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_records_are_harmless_on_a_terminal_and_untouched_elsewhere(
    hostile: str, make_completion: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = make_completion(completion=hostile)
    Output().records([record], "-")
    piped = capsys.readouterr().out
    monkeypatch.setattr(sys, "stdout", Screen())
    Output().records([record], "-")
    shown = sys.stdout.getvalue()
    assert harmless(shown)
    assert json.loads(shown) == json.loads(piped) == record.to_dict()
    assert isinstance(record, Completion)


def test_what_a_ledger_holds_is_shown_and_not_obeyed(hostile: str, capsys: pytest.CaptureFixture[str]) -> None:
    event = {"event": "finish", "round": hostile, "stage": hostile, "seconds": 1.0, "figures": {}}
    Output().table(stages_table([event]))
    assert harmless(capsys.readouterr().out)


def test_a_recipe_is_shown_and_not_obeyed(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    for text in ("abc\u202etxt", "one\u2028two", "[bold]x"):
        name = f'labelers={{"{text}": {{kind: function, function: "{text}/a.py:score"}}}}'
        (folder / text).mkdir()
        (folder / text / "a.py").write_text(LABELER, encoding="utf-8")
        overrides = ("method.sources={offline: {mixing: 1}}", "data.prompts=null", "evaluate.scorer=null")
        for arguments in (("--json",), ()):
            shown = align("check", "recipe.yaml", name, *overrides, f'output_dir="{text}"', *arguments, cwd=folder)
            assert harmless(shown.out) and harmless(shown.err)
            assert visible(text) in shown.out + shown.err or arguments
        refused = align("check", "recipe.yaml", f'data.preferences="./{text}/none.jsonl"', cwd=folder)
        assert_refused(refused)
        assert harmless(refused.err)


def test_names_of_files_and_columns_are_shown_and_not_obeyed(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    for text in ("\x1b[31mred\x1b[0m", "abc\u202etxt", "a\rb", "one\u2028two"):
        (folder / "pairs.jsonl").write_text(
            json.dumps({text: "x", "prompt": 3, "chosen": text}) + "\n", encoding="utf-8"
        )
        refused = align("train", "recipe.yaml", cwd=folder)
        assert_refused(refused)
        assert harmless(refused.err)
        (folder / f"{text}.yaml").write_text("output_dir: [", encoding="utf-8")
        refused = align("check", f"{text}.yaml", cwd=folder)
        assert_refused(refused)
        assert harmless(refused.err)
        refused = align("status", text, cwd=folder)
        assert_refused(refused)
        assert harmless(refused.err)


def test_what_a_labelers_error_says_is_shown_without_secrets_of_the_environment(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    body = f"raise ValueError('401 for {TOKEN} \\x1b[31m')"
    folder = make_folder(tmp_path)
    (folder / "labeler.py").write_text(
        f"import os\nos.environ['HF_TOKEN'] = '{TOKEN}'\n\n\ndef score(prompts, completions):\n    {body}\n"
    )
    refused = align("train", "recipe.yaml", cwd=folder)
    assert_refused(refused)
    assert "401 for *** \\x1b[31m" in refused.err
    assert TOKEN not in refused.err and harmless(refused.err)


def test_a_token_of_the_environment_reaches_no_file_of_a_run_and_nothing_that_it_says(
    make_folder: MakeFolder, tiny_policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    small = {"policy": {"model_name_or_path": str(tiny_policy_folder)}, "rounds": 1, "train__steps_per_round": 1}
    folder = make_folder(tmp_path, **small, **NO_EVALUATION)
    with (folder / "labeler.py").open("a", encoding="utf-8") as stream:
        stream.write("\n\nimport os\n\nTOKEN = os.environ['HF_TOKEN']\n")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(folder)
    said = train()
    assert len(files_below(folder / "run")) > 10
    assert [name for name, content in files_below(folder).items() if TOKEN.encode() in content] == []
    assert TOKEN not in "".join([*said, *capfd.readouterr()])


def test_code_that_a_recipe_runs_is_named_before_anything_else(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(
        tmp_path,
        labelers__theirs={"kind": "function", "function": "package.module:score"},
        labelers__gone={"kind": "function", "function": "no_such_package.module:score"},
        policy={"model_name_or_path": "owner/name", "trust_remote_code": True},
    )
    (folder / "package").mkdir()
    for name in ("__init__", "module"):
        (folder / "package" / f"{name}.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    shown = align("check", "recipe.yaml", "--quick", cwd=folder)
    assert shown.code == 0, shown.err
    assert shown.out.splitlines()[:7] == [
        "code that this recipe runs:",
        "  labelers.hidden: align_cli.playground:hidden_reward",
        "  labelers.ours: labeler.py:score",
        f"  labelers.theirs: package.module:score, from {folder / 'package' / 'module.py'}",
        "  labelers.gone: no_such_package.module:score, which is not found here",
        "  policy.trust_remote_code: code that ships with owner/name",
        "",
    ]
    assert shown.out.splitlines()[7].startswith("output_dir: ")


def test_pickled_weights_are_refused_in_plain_words(tiny_policy_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_policy_folder, tmp_path / "pickled"))
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(AlignError) as caught:
        load_policy(folder)
    assert str(caught.value) == (
        f"{folder}: the model cannot be loaded: its weights are pickled (pytorch_model.bin), "
        "and a pickle can run code\n"
        "hint: where you trust it, load it with transformers and save it anew: save_pretrained writes safetensors"
    )


def test_pickled_weights_beside_safetensors_are_never_opened(tiny_policy_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_policy_folder, tmp_path / "both"))
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    assert load_policy(folder).version == load_policy(tiny_policy_folder).version
    assert not Path("owned").exists()
