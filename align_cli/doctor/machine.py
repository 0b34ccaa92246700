"""The machine: devices, threads, memory and disks, as torch and the system tell of them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from align_cli.artifacts.files import folder_there
from align_cli.doctor.finding import Finding
from align_cli.errors import counted
from align_cli.report.tables import size
from align_cli.run.threads import usable_cores

AREA = "machine"
CGROUP = Path("/sys/fs/cgroup")
LITTLE_MEMORY_BYTES, LITTLE_DISK_BYTES = 2 << 30, 5 << 30
"""Below these a run of any real model is likely to end early."""
OMP = "OMP_NUM_THREADS"


def examine_machine(output_dir: str | None = None) -> Iterator[Finding]:
    """Devices, threads, memory, disks and the Hub.

    Args:
        output_dir: the run's folder, whose disk counts; None for the current folder's.
    """
    yield from _devices()
    yield _threads()
    yield _memory()
    yield _disk("disk", Path(output_dir or "."))
    yield _disk("disk of temporary files", Path(tempfile.gettempdir()))
    yield from _hub()


def memory_limit_bytes(root: Path = CGROUP, process: Path = Path("/proc/self/cgroup")) -> int | None:
    """The least that the process's control groups allow; None where there is no limit, or nothing of the kind.

    Args:
        root: where control groups are mounted.
        process: the file that says which of them are the process's.
    """
    try:
        groups = [line.split(":", 2) for line in process.read_text().splitlines()]
    except OSError:
        return None
    limits = []
    for _, controllers, path in groups:
        is_old = "memory" in controllers.split(",")
        if controllers and not is_old:
            continue
        mount, name = (root / "memory", "memory.limit_in_bytes") if is_old else (root, "memory.max")
        place = mount / path.lstrip("/")
        for folder in (place, *place.parents):
            limits += _number_in(folder / name)
            if folder == mount:
                break
    return min(limits, default=None)


def _number_in(file: Path) -> list[int]:
    """A limit; none where the file is not there, or says max."""
    try:
        number = int(file.read_text())
    except (OSError, ValueError):
        return []
    return [number] if number < 1 << 60 else []  # which is how the older form says none


def _devices() -> Iterator[Finding]:
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        if shutil.which("nvidia-smi") and torch.version.cuda is None:
            what = f"torch {torch.__version__} was built without CUDA, and nvidia-smi is here"
            yield Finding(AREA, "devices", "warn", what, "pytorch.org has a torch that uses the GPU")
        else:
            yield Finding(AREA, "devices", "ok", "no accelerator: the CPU computes, bfloat16 too")
        return
    for number in range(torch.accelerator.device_count()):
        yield Finding(AREA, f"{accelerator.type}:{number}", "ok", _device_in_words(accelerator.type, number))


def _device_in_words(kind: str, number: int) -> str:
    import torch

    if kind != "cuda":
        return "bfloat16 as torch has it there"
    properties = torch.cuda.get_device_properties(number)
    with torch.cuda.device(number):
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        free = torch.cuda.mem_get_info()[0]
    bf16 = "bfloat16" if has_bf16 else "no bfloat16: leave train.bf16 out"
    return f"{properties.name}, {size(free)} of {size(properties.total_memory)} free, {bf16}"


def _threads() -> Finding:
    import torch

    cores, set_to = usable_cores(), os.environ.get(OMP, "")
    what = f"{counted(cores, 'core')}, torch takes {torch.get_num_threads()}" + (f" ({OMP}={set_to})" if set_to else "")
    if set_to and not set_to.isdecimal():
        return Finding(AREA, "threads", "warn", f"{OMP} is {set_to!r}, which is no number", f"unset {OMP}")
    if torch.get_num_threads() > cores:
        return Finding(AREA, "threads", "warn", f"{what}: they would wait for one another", f"export {OMP}={cores}")
    return Finding(AREA, "threads", "ok", what)


def _memory() -> Finding:
    import psutil

    memory, limit = psutil.virtual_memory(), memory_limit_bytes()
    what = f"{size(memory.available)} of {size(memory.total)} available"
    if limit is not None and limit < memory.total:
        what += f", of which this process may have {size(limit)}"
    if min(memory.available, limit or memory.available) < LITTLE_MEMORY_BYTES:
        return Finding(AREA, "memory", "warn", what, "end what else runs, or take a small model and policy.lora")
    return Finding(AREA, "memory", "ok", what)


def _disk(name: str, place: Path) -> Finding:
    folder = folder_there(place)
    if not os.access(folder, os.W_OK):
        return Finding(AREA, name, "fail", f"{folder} cannot be written to", "choose another folder (output_dir)")
    free = shutil.disk_usage(folder).free
    what = f"{size(free)} free at {folder}"
    if free < LITTLE_DISK_BYTES:
        hint = "free some; checkpoints.keep bounds what a run keeps"
        return Finding(AREA, name, "warn", what, hint)
    return Finding(AREA, name, "ok", what)


def _hub() -> Iterator[Finding]:
    from huggingface_hub import constants, get_token

    home = Path(constants.HF_HOME)
    how = "offline: only what is in its cache can be used" if constants.HF_HUB_OFFLINE else "models and data are kept"
    token = "a token is there" if get_token() else "no token, which gated models ask for"
    found = _disk("hub", home)
    yield found._replace(what=f"HF_HOME={home}, {how}; {token}; {found.what}")
