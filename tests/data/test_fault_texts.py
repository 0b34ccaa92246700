"""Golden texts: what a user reads when a file is bad, to the letter."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from align_cli.data import read_demonstrations, read_preferences, read_prompts
from align_cli.errors import DataError

GOOD = b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
GOLDEN: list[tuple[str, Callable[..., Any], bytes | None, list[str]]] = [
    (
        "othr.jsonl",
        read_prompts,
        None,
        [
            "DIR/othr.jsonl: there is no such file",
            "hint: did you mean DIR/other.jsonl?",
        ],
    ),
    (
        "none/p.jsonl",
        read_prompts,
        None,
        [
            "DIR/none/p.jsonl: there is no such file",
            "hint: there is no folder DIR/none either; check the path",
        ],
    ),
    (
        "p.yaml",
        read_prompts,
        b"prompt: a",
        [
            "DIR/p.yaml: the name ends in '.yaml', which is no known format",
            "hint: use one of .jsonl, .json, .csv, .txt, .jsonl.gz, .json.gz, .csv.gz, .txt.gz, .parquet",
        ],
    ),
    (
        "p.jsonl",
        read_prompts,
        b"",
        [
            "DIR/p.jsonl: there are no rows",
            "hint: give a source with at least one row",
        ],
    ),
    (
        "p.jsonl",
        read_prompts,
        b"\n\n",
        [
            "DIR/p.jsonl: there are no rows",
            "hint: give a source with at least one row",
        ],
    ),
    (
        "p.jsonl",
        read_preferences,
        GOOD + b'{"prompt": "a", "chosen": \n' + GOOD,
        [
            'DIR/p.jsonl:2: not valid JSON at character 26 (Expecting value): \'{"prompt": "a", "chosen":\'',
            "hint: every line must hold one JSON object",
        ],
    ),
    (
        "p.jsonl",
        read_preferences,
        b'{"prompt": "a"} {"prompt": "b"}\n',
        [
            'DIR/p.jsonl:1: not valid JSON at character 16 (Extra data): \'{"prompt": "a"} {"prompt": "b"}\'',
            "hint: every line must hold one JSON object",
        ],
    ),
    (
        "p.jsonl",
        read_prompts,
        b'"a"\n[1]\n3\n',
        [
            "DIR/p.jsonl:1: 'a' is not an object",
            'hint: a row looks like {"prompt": "..."}',
            "DIR/p.jsonl:2: a list of 1 is not an object",
            'hint: a row looks like {"prompt": "..."}',
            "DIR/p.jsonl:3: 3 is not an object",
            'hint: a row looks like {"prompt": "..."}',
        ],
    ),
    (
        "p.jsonl",
        read_prompts,
        b'[\n{"prompt": "a"}\n]',
        [
            "DIR/p.jsonl:1: this is a list, not one object a line: '['",
            "hint: a JSON list belongs in a file whose name ends in .json",
        ],
    ),
    (
        "p.jsonl",
        read_prompts,
        b'{"prompt": "a"}\n{"prompt": "\xff\x1b"}\n',
        [
            'DIR/p.jsonl:2: byte 0xff is not UTF-8: \'{"prompt": "\\\\xff\\x1b"}\'',
            "hint: save the file again as UTF-8",
        ],
    ),
    (
        "p.jsonl",
        read_preferences,
        GOOD + b'{"prompt": "a", "chosen": "b", "rejcted": "c"}\n',
        [
            "DIR/p.jsonl:2: there is no key 'rejected'; found 'prompt', 'chosen', 'rejcted'",
            "hint: rename 'rejcted' to 'rejected'",
        ],
    ),
    (
        "p.jsonl",
        read_preferences,
        b'{"prompt": "a", "chosen": 3, "rejected": "c"}\n',
        [
            "DIR/p.jsonl:1: 'chosen' is 3; it must be text",
        ],
    ),
    (
        "p.jsonl",
        read_preferences,
        b'{"prompt": "a", "chosen": "b", "rejected": "c", "label": 1.5}\n',
        [
            "DIR/p.jsonl:1: 'label' is 1.5; it must be from 0 to 1",
            "hint: it is the probability that 'chosen' is the better response",
        ],
    ),
    (
        "p.jsonl",
        read_preferences,
        b'{"prompt": "a", "chosen": "b", "rejected": "c", "label": NaN}\n',
        [
            "DIR/p.jsonl:1: NaN is no JSON number",
            "hint: leave the key out, or write a finite number",
        ],
    ),
    (
        "p.jsonl",
        read_preferences,
        b'{"prompt": "a", "prompt": "b", "chosen": "b", "rejected": "c"}\n',
        [
            "DIR/p.jsonl:1: the key 'prompt' is given twice",
            "hint: keep one of the two",
        ],
    ),
    (
        "p.jsonl",
        read_preferences,
        b'{"prompt": "a", "chosen": [{"role": "asistant"}], "rejected": "c"}\n',
        [
            "DIR/p.jsonl:1: 'chosen[0]': there is no key 'content'; found 'role'",
        ],
    ),
    (
        "p.jsonl",
        read_prompts,
        b'{"prompt": "\\ud83d"}\n{"prompt": ""}\n',
        [
            "DIR/p.jsonl:1: 'prompt' holds \\ud83d, half of a surrogate pair, at character 0",
            "hint: write the whole pair, or the character itself",
            "DIR/p.jsonl:2: the prompt is ''; it cannot be blank",
            "hint: remove the row",
        ],
    ),
    (
        "p.jsonl",
        read_prompts,
        b'{"query": "a"}\n' * 22,
        [
            "DIR/p.jsonl:1: no known format of prompts: looked for 'messages', 'conversations', 'prompt', "
            "'instruction', 'question', 'turns', 'text', and for the fields of 18 more formats; found 'query'; "
            "and so in 21 more rows: 2-22",
            "hint: docs/data.md shows the fields of every format; rename the row's to those of one",
        ],
    ),
    (
        "p.json",
        read_prompts,
        b'{"data": []}',
        [
            "DIR/p.json: the file must hold a list of objects; it begins with '{\"data\": []}'",
            "hint: put the objects in [ ], or let the name end in .jsonl if every line is an object",
        ],
    ),
    (
        "p.json",
        read_prompts,
        b"[]",
        [
            "DIR/p.json: there are no rows",
            "hint: give a source with at least one row",
        ],
    ),
    (
        "p.json",
        read_prompts,
        b'[\n{"prompt": "a"},\n{"prompt": 3},\n{"prompt": "b"\n',
        [
            "DIR/p.json[1]: 'prompt' is 3; it must be text",
            "DIR/p.json:5: not valid JSON (Expecting ',' delimiter) at the end of the file",
            "hint: look at element [2] of the list; nothing from there on was read",
        ],
    ),
    (
        "p.csv",
        read_preferences,
        b"prompt,chosen,rejected\na,b\n",
        [
            "DIR/p.csv:2: 2 fields where the header has 3: 'a,b'",
            "hint: put a field that holds a comma or a line break in double quotes",
        ],
    ),
    (
        "p.csv",
        read_prompts,
        b"prompt,prompt\na,b\n",
        [
            "DIR/p.csv:1: two columns are named 'prompt'",
            "hint: rename one of the two",
        ],
    ),
    (
        "p.csv",
        read_prompts,
        b'prompt\n"a\n',
        [
            "DIR/p.csv:2: not valid CSV (unexpected end of data)",
            "hint: check the double quotes from this line on",
        ],
    ),
    (
        "p.csv",
        read_preferences,
        b"prompt,chosen,rejected,label\na,b,c,high\n",
        [
            "DIR/p.csv:2: 'label' is 'high'; it must be a number from 0 to 1",
            "hint: it is the probability that 'chosen' is the better response",
        ],
    ),
    (
        "p.txt",
        read_preferences,
        b"a\n",
        [
            "DIR/p.txt: a text file holds no pairs",
            "hint: use .jsonl with prompt, chosen and rejected",
        ],
    ),
    (
        "p.txt",
        read_prompts,
        b"\xff\xfea\x00",
        [
            "DIR/p.txt: the file is UTF-16, not UTF-8",
            "hint: save it again as UTF-8",
        ],
    ),
    (
        "p.jsonl.gz",
        read_prompts,
        b'{"prompt": "a"}',
        [
            "DIR/p.jsonl.gz: the gzip stream is damaged (Not a gzipped file (b'{\"'))",
            "hint: download or compress the file again",
        ],
    ),
    (
        "p.jsonl.gz",
        read_prompts,
        gzip.compress(GOOD, mtime=0)[:-8] + bytes(8),
        [
            "DIR/p.jsonl.gz: the gzip stream is damaged (CRC check failed 0x0 != 0x284ce9a7)",
            "hint: download or compress the file again",
        ],
    ),
    (
        "p.jsonl",
        read_demonstrations,
        b'{"text": ["a"]}\n',
        [
            "DIR/p.jsonl:1: 'text' is a list of 1; it must be text",
        ],
    ),
    (
        "p.jsonl",
        read_preferences,
        b'{"chosen": "yes", "rejected": "no"}\n',
        [
            "DIR/p.jsonl: no row is a pair (chosen and rejected share no prompt: 1)",
            "hint: give the prompt as a key 'prompt'",
        ],
    ),
]


@pytest.mark.parametrize(("name", "read", "data", "lines"), GOLDEN, ids=[f"{i}-{g[0]}" for i, g in enumerate(GOLDEN)])
def test_a_bad_file_says_what_where_and_what_to_do(
    tmp_path: Path, name: str, read: Callable[..., Any], data: bytes | None, lines: list[str]
) -> None:
    (tmp_path / "other.jsonl").write_bytes(GOOD)
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError) as caught:
        read(str(tmp_path / name))
    assert str(caught.value).replace(str(tmp_path), "DIR").split("\n") == lines
