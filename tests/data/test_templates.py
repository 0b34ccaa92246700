from __future__ import annotations

import pytest

from align_cli.data.faults import RowError
from align_cli.data.templates import instruction_prompt


def test_an_instruction_with_and_without_input() -> None:
    short = instruction_prompt({"instruction": "Name {it}.", "input": " "})
    assert short == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nName {it}.\n\n### Response:\n"
    )
    assert instruction_prompt({"instruction": "Name {it}."}) == short
    assert instruction_prompt({"instruction": "Name {it}.", "input": "{0}"}) == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request."
        "\n\n### Instruction:\nName {it}.\n\n### Input:\n{0}\n\n### Response:\n"
    )


@pytest.mark.parametrize(
    "row", [{"input": ""}, {"instruction": 3}, {"instruction": "", "input": []}, {"instruction": "", "history": [[1]]}]
)
def test_what_is_no_instruction_is_refused(row: dict[str, object]) -> None:
    with pytest.raises(RowError):
        instruction_prompt(row)
