"""Whatever a labeler does to its process, the command says and writes what it would have."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from forked import Stop
from run_fixtures import NO_EVALUATION, Align, MakeFolder, assert_refused, files_below
from warm_children import MAIN

LABELER = """
    from pathlib import Path
    from align_cli.playground import hidden_reward

    def score(prompts, completions, **_):
        exec(Path("side_effect.py").read_text(), {"__name__": "side_effect"})
        return hidden_reward(prompts=prompts, completions=completions)
"""
"""Its code stays the same whatever it does, and so do the checksums in manifests."""

NOISY = """
    import atexit, ctypes, os, sys, threading, time

    ended = threading.Event()

    def shout(where):
        print(f"NOISE {where} printed")
        print(f"NOISE {where} written to the first stream", file=sys.__stdout__)
        os.write(1, f"NOISE {where} written to the descriptor\\n".encode())
        os.system(f"echo NOISE {where} of a child")
        ctypes.CDLL(None).puts(f"NOISE {where} of C".encode())

    def later():
        while not ended.wait(0.005):
            shout("in a thread")
        shout("in a thread")  # once with nobody's words between its own

    shout("at import")
    atexit.register(shout, "at exit")
    thread = threading.Thread(target=later, daemon=True)
    thread.start()
    atexit.register(lambda: (ended.set(), thread.join()))

    def score(prompts, completions, **_):
        shout("in a call")
        return [float(len(text)) for text in completions]
"""
QUIET = "def score(prompts, completions, **_):\n    return [float(len(text)) for text in completions]\n"
PLACES = [f"{where} {how}" for where in ("at import", "in a call", "at exit") for how in
          ("printed", "written to the first stream", "written to the descriptor", "of a child", "of C")]  # fmt: skip

POOL = """
    import multiprocessing
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(len, ["a", "bb", "ccc"] * 9) == [1, 2, 3] * 9
"""
EXECUTOR = """
    import concurrent.futures, multiprocessing
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as executor:
        assert list(executor.map(len, ["a", "bb"] * 9)) == [1, 2] * 9
"""
CHILD_THAT_COMES_BACK = """
    import os
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0
"""
CHILD_THAT_IS_TERMINATED = """
    import os, signal, time
    for moment in (0, 0.05):
        child = os.fork()
        if not child:
            time.sleep(60)
        time.sleep(moment)
        os.kill(child, signal.SIGTERM)
        assert os.waitpid(child, 0)[1] == signal.SIGTERM, "it did not die of it"
"""
SURROUNDINGS = """
    import os, signal, sys, torch
    os.chdir("/")
    os.umask(0o077)
    sys.setrecursionlimit(10_000)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    torch.set_num_threads(3)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(True)
"""
RANDOM_STATE = """
    import random, time, numpy, torch
    seed = time.time_ns() % 2**31
    random.seed(seed), numpy.random.seed(seed), torch.manual_seed(seed)
"""
CLOSED_STREAMS = """
    import sys
    sys.stdout.close(), sys.stderr.close()
    sys.stdout = sys.stderr = None
"""
CLOSED_FILES = """
    import os, sys
    if hasattr(sys, "opened_before"):
        os.close(sys.opened_before)
    opened = os.open("labeler.py", os.O_RDONLY)
    os.closerange(0, 4096)
    for descriptor in range(256):
        for close in (os.close, lambda number: os.dup2(os.open("labeler.py", os.O_RDONLY), max(number, 3))):
            try:
                close(descriptor)
            except OSError:
                pass
    os.closerange(0, 4096)
    for descriptor in os.listdir("/dev/fd"):
        assert "labeler.py" not in os.path.realpath(f"/dev/fd/{descriptor}"), "what it opens itself it can close"
    sys.opened_before = os.open("labeler.py", os.O_RDONLY)
"""
NOTES = [
    f"labelers.ours: its code changed {name}; after every call it is put back"
    for name in (
        "the current folder", "the umask", "timers that signal", "handlers of signals", "the limit of recursion",
        "torch's number of threads", "torch's default dtype", "torch's gradient mode", "torch's float32 precision",
        "torch's deterministic mode", "torch's default device",
    )
]  # fmt: skip


def write_labeler(folder: Path, code: str) -> None:
    (folder / "labeler.py").write_text(textwrap.dedent(code))


def do(folder: Path, side_effect: str) -> None:
    (folder / "side_effect.py").write_text(textwrap.dedent(side_effect))


@pytest.fixture(scope="module")
def plain(make_folder: MakeFolder, align: Align, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, whose labeler has no side effects. Shared."""
    folder = make_folder(tmp_path_factory.mktemp("plain"), rounds=1)
    write_labeler(folder, LABELER)
    do(folder, "")
    done = align("train", "recipe.yaml", cwd=folder)
    assert done.code == 0, done.err
    return folder


SIDE_EFFECTS = {
    "a pool": POOL,
    "an executor": EXECUTOR,
    "a child that comes back": CHILD_THAT_COMES_BACK,
    "a child that is terminated": CHILD_THAT_IS_TERMINATED,
    "surroundings": SURROUNDINGS,
    "random state": RANDOM_STATE,
    "closed streams": CLOSED_STREAMS,
    "closed files": CLOSED_FILES,
}


@pytest.mark.long
@pytest.mark.parametrize("side_effect", SIDE_EFFECTS.values(), ids=SIDE_EFFECTS)
def test_a_labelers_side_effects_change_no_byte_of_a_run(
    side_effect: str, plain: Path, make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, rounds=1)
    write_labeler(folder, LABELER)
    do(folder, side_effect)
    done = align("train", "recipe.yaml", cwd=folder)
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    ours, theirs = files_below(folder / "run" / "rounds"), files_below(plain / "run" / "rounds")
    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_what_a_labeler_changes_is_put_back_and_told_once(
    plain: Path, make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, rounds=1)
    write_labeler(folder, LABELER)
    do(folder, SURROUNDINGS)
    ended = align("train", "recipe.yaml", cwd=folder, stop=Stop("step", 2, signal.SIGTERM))
    assert ended.code == 143, ended.err
    assert [line for line in ended.err.splitlines() if "its code changed" in line] == NOTES
    assert modes_of(folder) == modes_of(plain)


def modes_of(folder: Path) -> list[int]:
    made = ("recipe.yaml", "rounds/001/completions.jsonl", "rounds/001/preferences.jsonl")
    return [stat.S_IMODE((folder / "run" / name).stat().st_mode) for name in made]


COMMAND = [sys.executable, "-c", MAIN]
LABEL = ["label", "recipe.yaml", "-i", "run/rounds/001/completions.jsonl"]


def rows_of(folder: Path, labeler: str) -> subprocess.CompletedProcess[str]:
    write_labeler(folder, labeler)
    return subprocess.run([*COMMAND, *LABEL], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.long
def test_nothing_that_a_labeler_prints_in_whatever_way_is_a_row(finished_copy: Path) -> None:
    expected, found = rows_of(finished_copy, QUIET), rows_of(finished_copy, NOISY)
    assert (expected.returncode, found.returncode) == (0, 0), found.stderr
    assert found.stdout == expected.stdout
    assert found.stdout.count("\n") > 0
    for place in [*PLACES, "in a thread printed"]:
        assert f"NOISE {place}\n" in found.stderr


RAISES = {
    "a class beside Exception": "class Mine(BaseException): pass\n    raise Mine(key)",
    "cancelled": "import asyncio; raise asyncio.CancelledError(key)",
    "generator exit": "raise GeneratorExit(key)",
    "stop iteration": "raise StopIteration(key)",
    "interrupt with words": "raise KeyboardInterrupt(key)",
    "exit with words": "import sys; sys.exit(key)",
    "exit as if all were well": "import sys; sys.exit(0)",
    "a group": "raise BaseExceptionGroup(key, [GeneratorExit(key)])",
    "a result that raises": "class Odd(list):\n        def __iter__(self): raise GeneratorExit(key)\n"
    "        __getitem__ = __len__ = __iter__\n    return Odd()",
    "exit of the process": "os._exit(0)",
    "another program": "os.execvp('true', ['true'])",
}


@pytest.mark.parametrize("body", RAISES.values(), ids=RAISES)
def test_whatever_a_labeler_raises_is_its_own_fault_and_shows_no_key(
    body: str, finished: Path, align: Align, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    code = f"import os\nos.environ['SOME_API_KEY'] = key = 'Zq9very' + 'secretvalue'\ndef score(**_):\n    {body}\n"
    (folder / "labeler.py").write_text(code)
    refused = align(*LABEL, cwd=folder)
    assert_refused(refused)
    first, second, *_ = refused.err.splitlines()
    assert first.startswith("labelers.ours: the function raised on the prompt with index ")
    assert second.lstrip(" +|").startswith(("Traceback", "Exception Group Traceback"))
    assert 'labeler.py", line' in refused.err
    assert "Zq9very" not in refused.err


def test_what_a_labeler_raises_at_exit_and_in_threads_shows_no_key(finished_copy: Path) -> None:
    done = rows_of(
        finished_copy,
        textwrap.dedent(
            """
            import atexit, os, threading

            os.environ["SOME_API_KEY"] = key = "Zq9very" + "secretvalue"

            def bad(where):
                raise ValueError(f"{where} {key}")

            atexit.register(bad, "at exit")
            thread = threading.Thread(target=bad, args=["in a thread"])
            atexit.register(lambda: (thread.start(), thread.join()))

            def score(prompts, completions, **_):
                return [float(len(text)) for text in completions]
            """
        ),
    )
    assert done.returncode == 0, done.stderr
    assert "ValueError: at exit ***" in done.stderr
    assert "ValueError: in a thread ***" in done.stderr
    assert "Zq9very" not in done.stderr


@pytest.mark.parametrize("body", ["os._exit(0)", "raise GeneratorExit", "import sys; sys.exit()"])
def test_a_labelers_module_that_would_end_the_process_is_refused_by_a_run(
    body: str, make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    (folder / "labeler.py").write_text(f"import os\n{body}\n")
    refused = align("train", "recipe.yaml", cwd=folder)
    assert_refused(refused)
    assert refused.err.startswith("labelers.ours: importing labeler.py raised\n")


@pytest.mark.long
def test_a_labeler_that_ends_the_process_later_leaves_a_run_that_goes_on(
    plain: Path, make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, rounds=1)
    write_labeler(folder, LABELER)
    do(folder, "import os\nif os.path.exists('run/rounds/001/completions.jsonl'): os._exit(0)\n")
    refused = align("train", "recipe.yaml", cwd=folder)
    assert (refused.code, refused.out) == (2, "")
    assert "SystemExit: os._exit was called, which would have ended the run" in refused.err
    do(folder, "")
    assert align("train", "recipe.yaml", cwd=folder).code == 0
    assert files_below(folder / "run" / "rounds") == files_below(plain / "run" / "rounds")


@pytest.mark.parametrize(("sent", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interruption_within_a_labeler_stays_one(
    sent: str, code: int, make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    wait = f"import os, signal, time; os.kill(os.getpid(), signal.{sent}); time.sleep(60)"
    (folder / "labeler.py").write_text(f"def score(prompts, completions):\n    {wait}\n")
    ended = align("train", "recipe.yaml", cwd=folder)
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err
    assert ended.err.splitlines()[-1].endswith("`align train` with the same recipe goes on where it stopped")


CHILD_THAT_STAYS = """
    import os, time
    if os.path.isdir("run/rounds/001") and not os.path.exists("child.pid"):
        child = os.fork()
        if child == 0:
            time.sleep(120)
        else:
            open("child.pid", "w").write(str(child))
"""


@pytest.mark.long
def test_a_child_that_outlives_a_killed_run_holds_nothing_of_it(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, rounds=1, **NO_EVALUATION)
    write_labeler(folder, LABELER)
    do(folder, CHILD_THAT_STAYS)
    killed = align("train", "recipe.yaml", cwd=folder, stop=Stop("step", 1))
    child = int((folder / "child.pid").read_text())
    try:
        assert killed.code == -signal.SIGKILL, killed.err
        os.kill(child, 0)  # it is alive
        again = align("train", "recipe.yaml", cwd=folder)
        assert again.code == 0, again.err
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.long
def test_whoever_reads_the_rows_does_not_wait_for_a_labelers_child(finished_copy: Path) -> None:
    do(finished_copy, CHILD_THAT_STAYS)
    write_labeler(finished_copy, LABELER)
    began = time.monotonic()
    with subprocess.Popen(
        [*COMMAND, *LABEL], cwd=finished_copy, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as labelling:
        assert labelling.stdout is not None
        assert labelling.stdout.read().count(b"\n") > 0
    os.kill(int((finished_copy / "child.pid").read_text()), signal.SIGKILL)
    assert labelling.returncode == 0
    assert time.monotonic() - began < 60
