"""Code of answers against tests, and code that attacks what runs it: with namespaces, and where there are none."""

from __future__ import annotations

import json
import os
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from align_cli.errors import LabelerError
from align_cli.labelers.function import FunctionLabeler
from align_cli.recipe.sections.labelers import FunctionLabelerSection
from align_cli.rewards import PassedTests, sandbox
from align_cli.rewards.passed_tests import UNISOLATED, code_of
from align_cli.rewards.sandbox import Limits, Ran, has_namespaces, run_python

QUICK = Limits(seconds=1.0, memory_mb=256, file_mb=2, output_bytes=10_000)
SECRET = "ALIGN_TEST_SECRET"


@pytest.fixture(params=["namespaces", pytest.param("none", marks=pytest.mark.long)])
def isolation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With namespaces where the system gives them, and as on a system that does not."""
    if request.param == "none":
        monkeypatch.setattr(sandbox, "has_namespaces", lambda: False)
        monkeypatch.setattr("align_cli.rewards.passed_tests.has_namespaces", lambda: False)
    elif not has_namespaces():
        pytest.skip("this system gives its users no namespaces")
    return str(request.param)


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No folder, and no process that was not there before, however a test's code ends."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = set(psutil.pids())
    yield
    deadline = time.monotonic() + 10
    while (
        left := [pid for pid in set(psutil.pids()) - before if _is_of_a_sandbox(pid)]
    ) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == []
    assert list(tmp_path.glob("align-code-*")) == []


def _is_of_a_sandbox(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and "inside_sandbox" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def run(code: str, given: str = "", limits: Limits = QUICK) -> Ran:
    return run_python(textwrap.dedent(code), given, limits)


class TestPrograms:
    def test_a_program_reads_and_prints_and_ends(self, isolation: str) -> None:
        assert run("print(sum(map(int, input().split())))", "3 4\n") == Ran(True, b"7\n")
        assert run("import json, sys; json.dump(sys.stdin.read(), sys.stdout)", "é😀") == Ran(
            True, b'"\\u00e9\\ud83d\\ude00"'
        )

    @pytest.mark.parametrize(
        "code",
        ["1 / 0", "raise SystemExit(3)", "import sys; sys.exit('so')", "def f(:", "import os; os._exit(7)", "\0"],
    )
    def test_one_that_fails_has_not_succeeded(self, isolation: str, code: str) -> None:
        assert run(f"print(1, flush=True)\n{code}").succeeded is False

    @pytest.mark.parametrize("code", ["raise SystemExit", "import sys; sys.exit(0)", "import os; os._exit(0)", ""])
    def test_one_that_ends_early_has(self, isolation: str, code: str) -> None:
        assert run(code) == Ran(True, b"")

    def test_threads_end_before_it_does(self, isolation: str) -> None:
        code = "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()"
        assert run(code) == Ran(True, b"late\n")

    def test_it_is_the_main_module_of_its_own(self, isolation: str) -> None:
        code = """
            from __future__ import annotations
            import sys
            from dataclasses import dataclass
            @dataclass
            class Point:
                x: int
            print(__name__, Point(1), sys.argv, sorted(name for name in globals() if name[0] != '_'))
        """
        found = run(code)
        assert found.output == b"__main__ Point(x=1) ['code.py'] ['Point', 'annotations', 'dataclass', 'sys']\n"

    def test_it_may_write_into_its_folder_which_is_empty(self, isolation: str) -> None:
        code = "import os; print(os.listdir()); open('a', 'w').write('b'); print(open('a').read(), os.listdir())"
        assert run(code) == Ran(True, b"[]\nb ['a']\n")


class TestAttacks:
    def test_a_fork_bomb_makes_nothing(self, isolation: str) -> None:
        if os.uname().machine not in ("x86_64", "aarch64"):
            pytest.skip("system calls are not filtered on this processor")
        code = """
            import os, subprocess, threading
            def refused(way):
                try:
                    way()
                except OSError:
                    return True
            spawning = (lambda: subprocess.run(['true']), lambda: os.posix_spawn('/bin/true', ['true'], {}))
            threading.Thread(target=lambda: print(refused(os.fork))).start()
            print(refused(os.fork), *map(refused, spawning))
        """
        assert sorted(run(code).output.split()) == [b"True"] * 4

    def test_a_fork_bomb_that_may_make_some_is_ended_at_the_bound(self, isolation: str) -> None:
        if isolation == "none":
            pytest.skip("nobody counts processes there")
        code = """
            import os
            print('begun', flush=True)
            while True:
                try:
                    os.fork()
                except OSError:
                    pass
        """
        assert run(code, limits=Limits(seconds=5, processes=10)) == Ran(False, b"begun\n")

    def test_a_few_processes_are_allowed_where_they_are_asked_for(self, isolation: str) -> None:
        code = "import subprocess; print(subprocess.run(['echo', 'hi'], capture_output=True).stdout)"
        assert run(code, limits=Limits(processes=4)) == Ran(True, b"b'hi\\n'\n")

    @pytest.mark.parametrize("code", ["print('x' * 999, flush=True)", "import os; os.write(1, b'x' * 99999)"])
    def test_endless_output_is_cut_and_fails(self, isolation: str, code: str) -> None:
        found = run(f"while True:\n    {code}", limits=Limits(seconds=5, output_bytes=2000))
        assert (found.succeeded, len(found.output) <= 2000) == (False, True)

    @pytest.mark.parametrize("code", ["x = bytearray(1 << 30)", "x = []\nwhile True:\n    x.append(bytes(1 << 20))"])
    def test_a_hog_of_memory_fails(self, isolation: str, code: str) -> None:
        found = run(f"{code}\nprint('had it')", limits=Limits(seconds=20, memory_mb=256))
        assert found == Ran(False, b"")

    @pytest.mark.parametrize(
        "code",
        [
            "import time; time.sleep(99)",
            "while True: pass",
            "import signal, time\nfor n in {2, 15, 24}:\n    signal.signal(n, signal.SIG_IGN)\ntime.sleep(99)",
        ],
        ids=["asleep", "busy", "deaf"],
    )
    def test_whoever_does_not_end_is_ended(self, isolation: str, code: str) -> None:
        assert run(f"print(1, flush=True)\n{code}") == Ran(False, b"1\n")

    def test_killing_its_parent_and_its_group_kills_nobody_else(self, isolation: str) -> None:
        code = """
            import os, signal
            parent, group = lambda: os.kill(os.getppid(), signal.SIGKILL), lambda: os.killpg(0, signal.SIGTERM)
            for way in (parent, group, lambda: os.kill(-1, 9)):
                try:
                    way()
                except OSError:
                    pass
            print('alive')
        """
        if isolation == "none":  # where `kill(-1)` would reach everything of the user's
            code = code.replace(", lambda: os.kill(-1, 9)", "")
        run(code)
        assert run("print('the next one runs')") == Ran(True, b"the next one runs\n")

    def test_nobody_else_is_there_to_be_killed(self, isolation: str) -> None:
        if isolation == "none":
            pytest.skip("other processes of the user's can be reached there")
        sleeper = psutil.Popen(["sleep", "30"])
        code = f"import os\ntry:\n    os.kill({sleeper.pid}, 9)\nexcept ProcessLookupError:\n    print('nobody')"
        found = run(code)
        assert sleeper.poll() is None
        sleeper.kill()
        sleeper.wait()
        assert found.output == b"nobody\n"

    def test_nothing_outside_its_folder_can_be_written(self, isolation: str, tmp_path: Path) -> None:
        if isolation == "none":
            pytest.skip("it writes what the user can there")
        mine = tmp_path / "mine.txt"
        mine.write_text("mine")
        code = f"""
            import ctypes, os
            libc = ctypes.CDLL(None)
            libc.mount(None, b'/', None, 32 | 4096, None)
            libc.umount2(b'/', 2)
            mine = {str(mine)!r}
            changes = (lambda: open(mine, 'w'), lambda: os.unlink(mine), lambda: os.rename(mine, 'a'))
            for way in (*changes, lambda: open('../more', 'w'), lambda: os.mkdir(mine + '-more')):
                try:
                    way()
                    print('done')
                except OSError as error:
                    print(error.errno == 30 or error.errno)
        """
        assert set(run(code).output.split()) <= {b"True", b"18"}, "a read-only file system, or another device"
        assert mine.read_text() == "mine" and [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

    def test_files_are_bounded_in_size_and_number(self, isolation: str) -> None:
        assert run("open('a', 'wb').write(bytes(1 << 22))\nprint('written')").output == b""
        assert run("print(len([open(f'{n}', 'w') for n in range(500)]))").output == b""
        if isolation == "namespaces":
            many = "for n in range(9):\n    open(f'{n}', 'wb').write(bytes(1 << 20))\nprint('written')"
            assert run(many).output == b""

    def test_no_secret_is_in_its_environment(self, isolation: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(SECRET, "hunter2")
        monkeypatch.setenv("PYTHONPATH", "/nowhere")
        code = (
            "import os, sys; print(sorted(os.environ), '/nowhere' in sys.path, sys.flags.isolated, sys.flags.no_site)"
        )
        assert run(code).output == b"['HOME', 'LANG', 'PATH'] False 1 1\n"

    def test_nor_in_that_of_other_processes(self, isolation: str) -> None:
        if isolation == "none":
            pytest.skip("a user can read the environment of the user's own processes there")
        sleeper = psutil.Popen(["sleep", "30"], env={SECRET: "hunter2"})
        code = f"""
            import glob
            for path in ['/proc/{sleeper.pid}/environ', *glob.glob('/proc/[0-9]*/environ')]:
                try:
                    print('{SECRET}' in open(path).read())
                except OSError:
                    pass
        """
        found = run(code)
        sleeper.kill()
        sleeper.wait()
        assert b"True" not in found.output and found.succeeded

    def test_there_is_no_network(self, isolation: str) -> None:
        import socket

        if isolation == "none":
            pytest.skip("it reaches the network there")
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            connect = f"socket.create_connection(('127.0.0.1', {port}), 1)"
            code = f"import socket\ntry:\n    {connect}\nexcept OSError:\n    print('none')"
            assert run(code).output == b"none\n"

    def test_children_that_leave_it_end_with_it(self, isolation: str, tmp_path: Path) -> None:
        """A daemon, as it is made by the book: out of the session, and its parent gone."""
        code = """
            import os, time
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.closerange(0, 3)
                    time.sleep(30)
                os._exit(0)
            os.wait()
            print('gone', flush=True)
        """
        assert run(code, limits=Limits(seconds=5, processes=8)) == Ran(True, b"gone\n")

    def test_folders_that_it_has_locked_are_removed_too(self, isolation: str) -> None:
        assert run(
            "import os\nos.makedirs('a/b/c')\nos.symlink('/etc', 'a/l')\nos.chmod('a/b', 0)\nos.chmod('a', 0)"
        ).succeeded

    def test_it_gets_no_privilege_back(self, isolation: str) -> None:
        code = "print([line for line in open('/proc/self/status') if line[:6] in ('CapEff', 'CapPrm', 'NoNewP')])"
        if not Path("/proc/self/status").exists():
            pytest.skip("only Linux shows that")
        found = run(code).output.decode()
        assert found.count("0000000000000000") == 2 and "NoNewPrivs:\\t1" in found


PROMPT = "Write add(a, b)."
ADD = "Here:\n```python\ndef add(a, b):\n    return a + b\n```\nThat adds."
ROWS: list[dict[str, Any]] = [
    {"prompt": PROMPT, "tests": ["assert add(1, 2) == 3", "assert add('a', 'b') == 'ab'", "assert add(1, 1) == 3"]},
    {"prompt": "Sum a line.", "tests": [{"stdin": "1 2\n", "stdout": "3"}, {"stdin": "\n", "stdout": "0\n"}]},
]


def made(folder: Path, rows: list[dict[str, Any]] = ROWS, **arguments: Any) -> PassedTests:
    path = folder / "tests.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return PassedTests(str(path), **arguments)


def test_the_score_is_the_share_of_tests_that_pass(isolation: str, tmp_path: Path) -> None:
    summing = "```py\nprint(sum(map(int, input().split())), ' ')\nprint()\n```"
    reward = made(tmp_path)
    assert reward([PROMPT, "Sum a line."], [ADD, summing]) == [pytest.approx(2 / 3), 1.0]
    assert reward(prompts=[PROMPT] * 3, completions=["add(a, b)", "", "```python\n1 / 0\n```"]) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "cheat",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "raise SystemExit",
        "import os; os.write(1, b'ready\\n'); os._exit(0)",
        "print(open(__file__).read())",
        "import sys; print(sys.stdin.read())",
        "import builtins; del builtins.exec",
    ],
)
def test_an_answer_that_avoids_its_tests_passes_none(tmp_path: Path, cheat: str) -> None:
    assert made(tmp_path)([PROMPT], [f"```\n{cheat}\n```"]) == [0.0]


def test_a_program_of_its_own_in_an_answer_is_not_run_by_tests_of_its_functions(tmp_path: Path) -> None:
    code = "def add(a, b):\n    return a + b\nif __name__ == '__main__':\n    print(add(*map(int, input().split())))"
    assert made(tmp_path)([PROMPT], [f"```\n{code}\n```"]) == [pytest.approx(2 / 3)]


def test_a_labeler_of_a_recipe_runs_them_and_changes_nothing_of_the_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Code of answers runs in children of the process in which labelers are contained."""
    path = tmp_path / "tests.json"
    path.write_text(json.dumps(ROWS), encoding="utf-8")
    arguments = {"tests": str(path), "workers": 2}
    section = FunctionLabelerSection(kind="function", function="align_cli.rewards:PassedTests", arguments=arguments)
    notes: list[str] = []
    labeler = FunctionLabeler("passes", section, notes.append)
    assert labeler.score([PROMPT, PROMPT], [ADD, "no"]) == [pytest.approx(2 / 3), 0.0]
    assert notes == []
    assert capfd.readouterr().out == ""


def test_several_tests_at_once_give_what_one_after_the_other_does(tmp_path: Path) -> None:
    prompts, answers = [PROMPT] * 3, [ADD, "no", ADD.replace("a + b", "3")]
    assert made(tmp_path, workers=3)(prompts, answers) == made(tmp_path)(prompts, answers)


def test_columns_can_be_named_and_setup_runs_before(tmp_path: Path) -> None:
    rows = [{"text": "Root?", "test_list": ["assert root(4) == 2"], "test_setup_code": "import math"}]
    names = {"prompt_column": "text", "tests_column": "test_list", "setup_column": "test_setup_code"}
    assert made(tmp_path, rows, **names)(["Root?"], ["```\ndef root(x):\n    return math.sqrt(x)\n```"]) == [1.0]
    bare = made(tmp_path, rows, **names, fenced=False)
    assert bare(["Root?"], ["def root(x):\n    return math.sqrt(x)\n"]) == [1.0]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (ADD, "def add(a, b):\n    return a + b\n"),
        ("```\na\n```\nand\n```python\nb\n```", "a\n\nb\n"),
        ("```bash\nls\n```\n```Python3 title=x\nb\n```", "b\n"),
        ("```python\ncut off", "cut off"),
        ("a ```b``` c", None),
        ("```js\n1\n```", None),
        ("nothing", None),
    ],
)
def test_the_code_of_an_answer_is_its_blocks_of_python(answer: str, code: str | None) -> None:
    assert code_of(answer) == code
    assert code_of("x = 1", fenced=False) == "x = 1"
    assert code_of(" \n", fenced=False) is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "p", "tests": []}], "the tests of the prompt 'p' are no list, or an empty one"),
        ([{"prompt": "p", "tests": "assert f()"}], "are no list"),
        ([{"prompt": "p", "tests": [{"stdin": "1"}]}], "a test of the prompt 'p' is \"{'stdin': '1'}\""),
        ([{"prompt": "p", "tests": [3]}], "a test of the prompt 'p' is '3'"),
        ([{"prompt": "p"}], "there is no column 'tests'; the row has 'prompt'"),
    ],
)
def test_what_are_no_tests_is_refused(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(LabelerError) as caught:
        made(tmp_path, rows)
    assert message in str(caught.value)


def test_a_prompt_without_tests_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabelerError, match=r"there is no list of tests for the prompt 'Another\?'"):
        made(tmp_path)(["Another?"], [ADD])


def test_where_there_are_no_namespaces_it_says_so_or_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("sandbox", "passed_tests"):
        monkeypatch.setattr(f"align_cli.rewards.{place}.has_namespaces", lambda: False)
    made(tmp_path)
    assert capsys.readouterr() == ("", UNISOLATED)
    with pytest.raises(LabelerError, match="no namespaces, so code cannot be kept from network and files"):
        made(tmp_path, isolation="required")


def test_namespaces_in_which_nothing_can_be_mounted_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a system lets its users make them, and takes every right away there."""
    monkeypatch.setattr(sandbox, "NAMESPACES", ("--user", "--fork"))
    assert sandbox.has_namespaces.__wrapped__() is False


def test_a_sandbox_that_does_not_come_up_is_no_wrong_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = made(tmp_path)
    monkeypatch.setattr(sandbox, "INSIDE", tmp_path / "not_there.py")
    with pytest.raises(LabelerError, match=r"the sandbox did not come up: .*not_there"):
        reward([PROMPT], [ADD])
    with pytest.raises(LabelerError, match="a small program does not run within 5 s and 1 MB"):
        monkeypatch.undo()
        made(tmp_path, memory_mb=1)
