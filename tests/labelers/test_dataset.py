from __future__ import annotations

from align_cli.labelers.dataset import label_pair

PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}


def test_pairs_keep_the_labels_that_they_came_with() -> None:
    rows = [PAIR, {**PAIR, "label": 0.7}, {**PAIR, "label": 0.5}, {**PAIR, "label": 0}]
    pairs = [label_pair(row, 0, "given") for row in rows]
    assert [pair.label for pair in pairs] == [1.0, 0.7, 0.5, 0.0]
    assert {type(pair.label) for pair in pairs} == {float}


def test_pairs_say_where_they_come_from() -> None:
    pairs = [label_pair(row, index, "given") for index, row in enumerate([PAIR, {**PAIR, "prompt": "q"}])]
    assert [(pair.prompt, pair.prompt_index) for pair in pairs] == [("p", 0), ("q", 1)]
    assert {(pair.source, pair.labeler, pair.round, pair.policy) for pair in pairs} == {("offline", "given", 0, None)}


def test_conversations_stay_conversations() -> None:
    chat, reply = [{"role": "user", "content": "why?"}], [{"role": "assistant", "content": "because"}]
    pair = label_pair({"prompt": chat, "chosen": reply, "rejected": reply}, 0, "given")
    assert (pair.prompt, pair.chosen, pair.rejected) == (chat, reply, reply)
