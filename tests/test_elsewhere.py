"""What a system without POSIX lacks: align loads without it, and what needs no such thing works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import builtins, importlib, os, pkgutil, signal, sys
from pathlib import Path

# Libraries have branches of their own for such systems, which they choose by other signs.
import torch, transformers, trl, typer, filelock, psutil, pydantic, rich.live, rich.progress, datasets, accelerate
import transformers.trainer, trl.trainer.dpo_trainer, multiprocessing.forkserver, tempfile, subprocess, pickletools

MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "syslog", "readline"}
ATTRIBUTES = {
    os: ("register_at_fork", "fork", "geteuid", "getuid", "getgid", "pread", "pwrite", "statvfs", "mkfifo",
         "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "sched_getaffinity", "killpg", "getpgid", "setsid",
         "wait", "uname", "chown", "lchown", "fchmod", "WNOHANG", "openpty", "forkpty", "sysconf"),
    signal: ("pthread_sigmask", "SIGKILL", "SIGHUP", "SIGQUIT", "SIGSTOP", "SIGCONT", "SIGUSR1", "SIGUSR2", "SIGPIPE",
             "SIGALRM", "alarm", "setitimer", "SIG_BLOCK", "SIG_SETMASK", "SIGCHLD"),
}
whole = builtins.__import__

def without(name, globals=None, *args, **kwargs):
    if name in MODULES and (globals or {}).get("__name__", "").startswith("align_cli"):
        raise ImportError(f"no module named {name} here")
    return whole(name, globals, *args, **kwargs)

builtins.__import__ = without
for module, names in ATTRIBUTES.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
sys.platform = "win32"
import align_cli
for module in pkgutil.walk_packages(align_cli.__path__, "align_cli."):
    importlib.import_module(module.name)
"""
PURE_PARTS = """
from align_cli.artifacts.files import append_line, copy_tree, write_text
from align_cli.artifacts.journal import Journal
from align_cli.artifacts.scratch import ScratchFolder
from align_cli.run.folder.lock import Lock

folder = Path("files")
write_text(folder / "a", "text")
append_line(folder / "b", "one"), append_line(folder / "b", "two")
copy_tree(folder, Path("copy"))
assert Path("copy/b").read_text() == "one\\ntwo\\n"
with Journal(Path("journal"), "key") as journal:
    journal.append([{"row": 1}])
assert Journal(Path("journal"), "key").rows == [{"row": 1}]
with ScratchFolder() as scratch:
    assert scratch.is_dir()
with Lock(folder, folder / ".lock").held():
    assert Lock(folder, folder / ".lock").holder.pid == os.getpid()
sys.argv = ["align", "check", "recipe.yaml", "--quick"]
from align_cli.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def place(write_recipe: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elsewhere")
    write_recipe(folder)
    return folder


@pytest.mark.long
def test_every_module_loads_and_files_locks_and_recipes_work_without_what_posix_alone_has(place: Path) -> None:
    command = [sys.executable, "-c", PROGRAM + PURE_PARTS]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "plan:" in done.stdout
