"""What the fuzzers share: arguments, the loop and its limits, the mutator, and what counts as a finding.

A reader may read its input or raise an `AlignError` that says what is wrong and where. Everything else is a finding:
any other exception, a fault without words or place, an input that takes more than TIME_LIMIT_SECONDS of processor time
or HANG_SECONDS in all, or more memory than MEMORY_LIMIT_MB, and the end of the process. An exception is written down
once for each place that it comes from, and the fuzzing goes on; after a hang or a crash a new process goes on with the
same corpus. Instrumented code is about ten times as slow as it is otherwise: see how long a slow input takes without.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import atheris

from align_cli.errors import AlignError

TIME_LIMIT_SECONDS = 5
HANG_SECONDS = 30
MEMORY_LIMIT_MB = 3000
SEPARATOR = b"\x1e"
NASTY = (
    *(b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"1e-400", b"-0", b"-1", b"0.5", b"1", b".nan", b".inf"),
    *(b"0x1F", b"0b1", b"2026-01-01", b"~", b"yes", b"<<"),
    *(b"9223372036854775807", b"9223372036854775808", b"9" * 5000, b"1." + b"0" * 500, b"0o17", b"1_000", b"1:30"),
    *(b'""', b'"\\ud800"', b'"\\u0000"', b'"\\udc00\\ud800"', b"[]", b"{}", b"[[]]", b"[null]", b'{"": null}'),
    *(b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\xc3", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xc2\x85", b"\x1b[2J", b"\r"),
    *(b"\r\n", b"\t", b'"', b"'", b",", b":", b": ", b"- ", b"&a ", b"*a", b"<<: *a", b"? ", b"!", b"%", b"@", b"`"),
    *(b"!!int ", b"!!python/none ", b"#", b"\\", b"---\n", b"...\n", b"|\n", b">-\n", b"PAR1", b"\x1f\x8b\x08"),
    *(b"[" * 60, b'{"a":' * 60, b"[" * 60 + b"]" * 60, b"[" * 900 + b"]" * 900, b'{"a":' * 900 + b"1" + b"}" * 900),
)

NASTY_KEYS = ("", "\x1b[2J\n", "\ud800", "k" * 5000, "__class__", "a.b", "0") * 3


@dataclass(frozen=True)
class Target:
    """One reader to be tried.

    Args:
        name: what the last line calls it.
        read: takes an input and reads it.
        seeds: realistic inputs to begin with.
        words: keys and values that the reader knows.
        max_bytes: longest input.
        num_kinds: how many kinds of input the first byte tells apart; 0 where it is part of the input.
    """

    name: str
    read: Callable[[bytes], None]
    seeds: Sequence[bytes]
    words: Sequence[str]
    max_bytes: int
    num_kinds: int = 0


def fuzz(target: Target) -> None:
    """Fuzz for the time that the command line says, and say at the end what came of it."""
    parser = argparse.ArgumentParser(description=f"Feed hostile bytes to {target.name}.")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, required=True, help="inputs to begin with; interesting ones join them")
    parser.add_argument("--findings", type=Path, required=True, help="where inputs that break the promise are written")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for folder in (options.corpus, options.findings):
        folder.mkdir(parents=True, exist_ok=True)
    if options.worker:
        _work(target, options.seconds, options.corpus, options.findings)
        return
    for seed in target.seeds:
        (options.corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    before = {path.name for path in options.findings.iterdir()}
    begin, executions = time.monotonic(), 0
    while (left := options.seconds - int(time.monotonic() - begin)) > 0:
        executions += _run_worker(left, options.corpus.resolve(), options.findings.resolve())
    found = sorted(path.name for path in options.findings.iterdir() if path.name not in before)
    inputs = [name for name in found if not name.endswith(".txt")]
    seconds = time.monotonic() - begin
    sys.stdout.write("".join(f"finding: {name}\n" for name in inputs))
    sys.stdout.write(
        f"{target.name}: {executions} executions in {seconds:.0f} seconds, corpus of "
        f"{sum(1 for _ in options.corpus.iterdir())} inputs, {len(inputs)} findings\n"
    )
    sys.exit(1 if inputs else 0)


def _run_worker(seconds: int, corpus: Path, findings: Path) -> int:
    """Fuzz in a process of its own until the time is up or an input ends it; the number of executions."""
    command = [sys.executable, str(Path(sys.argv[0]).resolve()), "--worker", "--seconds", str(seconds)]
    command += ["--corpus", str(corpus), "--findings", str(findings)]
    num_inputs = len(list(findings.iterdir()))
    done = subprocess.run(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, check=False)
    text = done.stderr.decode("utf-8", "replace")
    counts = re.findall(r"stat::number_of_executed_units: (\d+)", text)
    if done.returncode or not counts:
        # What libFuzzer has to say; a finding of its own where it left no input behind.
        suffix = ".txt" if len(list(findings.iterdir())) > num_inputs else ""
        (findings / f"worker-ended-{time.time_ns()}{suffix}").write_text(text[-20_000:], encoding="utf-8")
        sys.stderr.write(text[-2_000:])
    if not counts and "INITED" not in text:
        sys.exit("the fuzzer did not begin")
    return int(counts[-1]) if counts else 0


def _work(target: Target, seconds: int, corpus: Path, findings: Path) -> None:
    def one_input(data: bytes) -> None:
        begin = time.process_time()
        try:
            target.read(data)
        except AlignError as error:
            if flaw := flaw_of(error):
                _write_finding(findings, data, f"flaw-{flaw}", repr(error.faults[:20]))
        except Exception as error:
            _write_finding(findings, data, _signature(error), traceback.format_exc(limit=-40))
        if (seconds := time.process_time() - begin) > TIME_LIMIT_SECONDS:
            _write_finding(findings, data, f"slow-{hashlib.sha1(data).hexdigest()}", f"{seconds:.1f} seconds")

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        way = chance.random()
        if target.num_kinds and chance.random() < 0.15:
            data = bytes([chance.randrange(target.num_kinds)]) + data[1:]
        if way < 0.3:
            return atheris.Mutate(data, max_size)
        if way < 0.6:
            data = with_changed_value(data, target.words, chance)
        return (mutated(data, target.words, chance) if way > 0.5 else data)[:max_size]

    arguments = [
        sys.argv[0],
        str(corpus),
        f"-max_total_time={seconds}",
        f"-timeout={HANG_SECONDS}",
        f"-rss_limit_mb={MEMORY_LIMIT_MB}",
        f"-max_len={target.max_bytes}",
        f"-artifact_prefix={findings}{os.sep}",
        f"-report_slow_units={HANG_SECONDS}",
        "-print_final_stats=1",
        "-len_control=20",
    ]
    atheris.Setup(arguments, one_input, custom_mutator=mutate)
    atheris.Fuzz()


def flaw_of(error: AlignError) -> str:
    """What an error lacks to be of use: a word for it, or nothing."""
    for fault in error.faults:
        if not fault.what:
            return "no-what"
        if not fault.where:
            return "no-where"
        if not (fault.what.isprintable() and fault.hint.isprintable() and fault.where.isprintable()):
            return "not-printable"
        if len(fault.what) + len(fault.hint) > 3000:
            return "too-long"
    str(error).encode("utf-8")
    return ""


def mutated(data: bytes, words: Sequence[str], chance: random.Random) -> bytes:
    """The input with one to four changes: pieces put in, cut out, doubled, exchanged or overwritten."""
    for _ in range(chance.choice((1, 1, 2, 4))):
        pieces = re.split(rb"(\n|[,:\[\]{}\"]|\x1e)", data)
        place = chance.randrange(len(pieces))
        piece = chance.choice(NASTY) if chance.random() < 0.5 else chance.choice(words).encode()
        match chance.randrange(6):
            case 0:
                pieces[place] = piece
            case 1:
                pieces.insert(place, piece)
            case 2:
                del pieces[place : place + chance.randint(1, 8)]
            case 3:
                end = place + chance.randint(1, 20)
                pieces[place:place] = pieces[place:end] * chance.choice((1, 1, 1, 30))
            case 4:
                other = chance.randrange(len(pieces))
                pieces[place], pieces[other] = pieces[other], pieces[place]
            case _:
                pieces[place] = pieces[place][: len(pieces[place]) // 2] + piece
        data = b"".join(pieces)
    return data


def with_changed_value(data: bytes, words: Sequence[str], chance: random.Random) -> bytes:
    """The input with one value of one of its lines of JSON replaced, wrapped, renamed, doubled or removed."""
    lines = data.split(b"\n")
    place = chance.randrange(len(lines))
    head, start, rest = re.match(rb"([^{\[]*)([{\[]?)(.*)", lines[place], re.DOTALL).groups()  # type: ignore[union-attr]
    try:
        holder = {"": json.loads(start + rest)}
    except (ValueError, RecursionError):
        return data
    node: Any = holder
    key: str | int = ""
    while isinstance(node[key], dict | list) and node[key] and (node is holder or chance.random() < 0.8):
        node = node[key]
        key = chance.choice(list(node)) if isinstance(node, dict) else chance.randrange(len(node))
    match chance.randrange(6):
        case 0 | 1 | 2:
            node[key] = "REPLACED"
        case 3:
            node[key] = chance.choice(([node[key]], {chance.choice(words): node[key]}, [node[key]] * 3, str(node[key])))
        case 4 if isinstance(node, dict) and node is not holder:
            node[chance.choice((*words, *NASTY_KEYS))] = node.pop(key)
        case _ if node is not holder:
            del node[key]
    nasty = chance.choice((*NASTY, json.dumps(chance.choice(words)).encode()))
    lines[place] = head + json.dumps(holder[""]).encode().replace(b'"REPLACED"', nasty)
    return b"\n".join(lines)


def _signature(error: BaseException) -> str:
    """The exception and the last place of our own that it came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "align_cli" in frame.filename]
    last = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}-{Path(last.filename).stem}-{last.name}-{last.lineno}"


def _write_finding(findings: Path, data: bytes, name: str, words: str) -> None:
    path = findings / re.sub(r"[^\w.-]", "_", name)
    if not path.exists():
        path.write_bytes(data)
        path.with_name(path.name + ".txt").write_text(words, encoding="utf-8", errors="backslashreplace")
