"""The keeper inside a sandbox: sets up what only a process can for itself, runs the code in a child, and ends with it.

`sandbox.py` starts it as a program of its own (`python -I -S`); nothing of align is imported. With namespaces it is the
first process of its own: when it ends, the kernel kills all others there.
"""

# ruff: noqa: PTH108, PTH118, PTH208, SIM105 - it starts once a test, and pathlib and contextlib take their time
import ctypes
import errno
import os
import signal
import struct
import sys
import time
import types

MB = 1 << 20
POLL_SECONDS = 0.01
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
AT_RECURSIVE, MOUNT_ATTR_RDONLY, SYS_MOUNT_SETATTR = 0x8000, 1, 442
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 24, 36, 38
CAPABILITY_VERSION = 0x20080522
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
BPF_LOAD, BPF_EQUAL, BPF_AT_LEAST, BPF_ANY_SET, BPF_RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
NUMBER_OFFSET, ARCHITECTURE_OFFSET, FLAGS_OFFSET = 0, 4, 16
FOREIGN_NUMBERS = 0x40000000
"""From here on system calls of x32, an interface of x86-64 that has the same ones under other numbers."""
CLONE_THREAD = 0x10000
SYSTEM_CALLS = {
    "x86_64": {
        "architecture": 0xC000003E, "clone": 56, "fork": 57, "vfork": 58, "unshare": 272, "setns": 308, "clone3": 435
    },
    "aarch64": {"architecture": 0xC00000B7, "clone": 220, "unshare": 97, "setns": 268, "clone3": 435},
}  # fmt: skip
KILLED = 120


def main() -> int:
    folder, in_namespaces = sys.argv[1], sys.argv[2] == "1"
    seconds = float(sys.argv[3])
    memory_mb, file_mb, processes, open_files = map(int, sys.argv[4:8])
    with open(os.path.join(folder, "code.py"), "rb") as stream:
        code = stream.read()
    for name in ("code.py", "given"):  # which is open already; code has no business with them
        os.unlink(os.path.join(folder, name))
    work = os.path.join(folder, "work")
    if in_namespaces:
        make_read_only_but(work, file_mb)
    elif sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # whoever leaves its parent comes to this process
    os.chdir(work)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    keeper = os.getpid()
    child = os.fork()
    if child == 0:
        limit(seconds, memory_mb, file_mb, processes if in_namespaces else None, open_files)
        if sys.platform == "linux":
            give_up_privileges(keeper)
            if processes == 0:
                forbid_processes()
            elif os.getuid() == 0:
                os.nice(10)  # no limit counts root's processes: the keeper does, and has to come in between
        os.write(1, b"ready\n")
        return run(code)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    is_filtered = processes == 0 and os.uname().machine in SYSTEM_CALLS
    status = wait(child, time.monotonic() + seconds, processes if in_namespaces and not is_filtered else None)
    if not in_namespaces:
        kill_children()
    return status


def run(code: bytes) -> int:
    """The code as a program in this process; what it raises is Python's to show, and nobody's to see."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    sys.argv[:] = ["code.py"]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(code, "code.py", "exec"), module.__dict__)
    return 0


def wait(child: int, deadline: float, processes: "int | None") -> int:
    """The child's status; that of one that was killed if it takes too long, or makes too many processes."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) & 255
        if time.monotonic() > deadline or (processes is not None and num_made() > processes + 2):
            return KILLED
        signal.sigtimedwait([signal.SIGCHLD], POLL_SECONDS) if sys.platform == "linux" else time.sleep(POLL_SECONDS)


def num_made() -> int:
    """Processes that were ever made in this namespace: the number of the last one."""
    with open("/proc/loadavg", encoding="ascii") as stream:
        return int(stream.read().split()[-1])


def kill_children() -> None:
    """Everything that comes to this process when its parent ends, until nothing is left."""
    for _ in range(200):
        for child in children():
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def children() -> "list[int]":
    me, found = os.getpid(), []
    try:
        names = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
    for name in names:
        try:
            with open(f"/proc/{name}/stat", "rb") as stream:
                parent = int(stream.read().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        if parent == me:
            found.append(int(name))
    return found


def limit(seconds: float, memory_mb: int, file_mb: int, processes: "int | None", open_files: int) -> None:
    import resource  # which not every system has

    cpu = max(1, round(seconds + 0.5))
    bounds = {
        resource.RLIMIT_CPU: cpu,
        resource.RLIMIT_FSIZE: file_mb * MB,
        resource.RLIMIT_NOFILE: open_files,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_AS: memory_mb * MB,
    }
    if processes:  # none at all is not for this limit, which counts threads
        bounds[resource.RLIMIT_NPROC] = processes
    for name, bound in bounds.items():
        hard = resource.getrlimit(name)[1]
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        try:
            resource.setrlimit(name, (bound, bound))
        except (OSError, ValueError):
            if sys.platform == "linux":
                raise


def make_read_only_but(work: str, file_mb: int) -> None:
    """Every file system as it is now, read-only, and one in memory for the code's folder."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mount(b"proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, None)  # not where parts of it are hidden
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY, 0, 0, 0)
    changed = libc.syscall(SYS_MOUNT_SETATTR, -100, b"/", AT_RECURSIVE, ctypes.byref(attributes), 32)
    check(changed, "making file systems read-only (Linux 5.12 can)")
    options = f"size={file_mb}m,mode=0700".encode()
    check(libc.mount(b"tmpfs", os.fsencode(work), b"tmpfs", MS_NOSUID | MS_NODEV, options), "mounting its folder")


def give_up_privileges(keeper: int) -> None:
    """No capability is left, no program gives one back, and it ends when its keeper does."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != keeper:
        os._exit(KILLED)
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    check(libc.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())), "giving up capabilities")


def forbid_processes() -> None:
    """No call makes a process or a namespace from now on, in this one and in its threads; threads may be made.

    A filter of system calls, on the processors that it knows; elsewhere the keeper counts.
    """
    machine = os.uname().machine
    if machine not in SYSTEM_CALLS:
        return
    calls = SYSTEM_CALLS[machine]
    program = [
        *(instruction(BPF_LOAD, ARCHITECTURE_OFFSET), instruction(BPF_EQUAL, calls["architecture"], 1, 0)),
        *(instruction(BPF_RETURN, REFUSE | errno.EPERM), instruction(BPF_LOAD, NUMBER_OFFSET)),
        *(instruction(BPF_AT_LEAST, FOREIGN_NUMBERS, 0, 1), instruction(BPF_RETURN, REFUSE | errno.EPERM)),
        *refusing(calls["clone3"], errno.ENOSYS),  # libraries then take the older call, whose flags can be seen
    ]
    for name in ("fork", "vfork", "unshare", "setns"):
        if name in calls:
            program += refusing(calls[name], errno.EAGAIN)
    program += [
        *(instruction(BPF_EQUAL, calls["clone"], 0, 3), instruction(BPF_LOAD, FLAGS_OFFSET)),
        *(instruction(BPF_ANY_SET, CLONE_THREAD, 1, 0), instruction(BPF_RETURN, REFUSE | errno.EAGAIN)),
        instruction(BPF_RETURN, ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(program))
    packed = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    check(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, packed, 0, 0), "filtering system calls")


def refusing(number: int, error: int) -> "list[bytes]":
    return [instruction(BPF_EQUAL, number, 0, 1), instruction(BPF_RETURN, REFUSE | error)]


def instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, operand)


def check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    sys.exit(main())
