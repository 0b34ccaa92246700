"""Pairs from elsewhere, as of `align train --preferences`: whether the policy can read them, and their token ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from align_cli.artifacts.records import Preference
from align_cli.errors import DataError
from align_cli.models.load import Policy
from align_cli.models.text import plain_text
from align_cli.stages.lengths import Limits, ReadRow, read_row
from align_cli.stages.pairing.pairs import RESPONSES, LabelledPairs, as_pair
from align_cli.stages.readable import CUT, DROPPED, RowFaults


def adopted_pairs(pairs: Sequence[Preference], policy: Policy, limits: Limits) -> LabelledPairs:
    """The pairs with token ids, and how many were too long; ids that they came with were sampled, and stay.

    Args:
        pairs: with token ids, or without.
        policy: who reads those without.
        limits: how long those may be. What was sampled is of any length that the policy's context holds.

    Raises:
        DataError: for text that is none, pairs that the policy cannot read, or ids that its vocabulary has not.
    """
    _check_texts(pairs)
    rows, of_sampled = [vars(pair) for pair in pairs], Limits(context_length=policy.context_length)
    faults, counts, adopted = RowFaults("", rows, "pairs", limits), Counter[str](), []
    for index, pair in enumerate(pairs):
        was_sampled = bool(pair.prompt_ids and pair.chosen_ids and pair.rejected_ids)
        try:
            read = _as_sampled(pair) if was_sampled else read_row(rows[index], RESPONSES, policy, limits)
        except DataError as error:
            faults.add(index, error)
            continue
        exceeded = (of_sampled if was_sampled else limits).exceeded_by(read)
        if exceeded and (was_sampled or limits.too_long == "refuse"):
            faults.add_too_long(index, exceeded)
        elif exceeded:
            counts[DROPPED] += 1
        else:
            counts.update({CUT: 1} if read.was_cut else {})
            adopted.append(as_pair(pair, read))
    faults.raise_if_any()
    _check_vocabulary(adopted, policy)
    return LabelledPairs(adopted, dict(counts))


def _as_sampled(pair: Preference) -> ReadRow:
    return ReadRow(vars(pair), pair.prompt_ids or [], {name: getattr(pair, f"{name}_ids") for name in RESPONSES})


def _check_texts(pairs: Sequence[Preference]) -> None:
    for index, pair in enumerate(pairs):
        text = "".join(plain_text(part) for part in (pair.prompt, pair.chosen, pair.rejected))
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise DataError(
                f"pair {index} holds half a surrogate pair, which is no text", hint="replace it, or leave the pair out"
            )


def _check_vocabulary(pairs: Sequence[Preference], policy: Policy) -> None:
    size = policy.model.get_input_embeddings().weight.shape[0]
    for index, pair in enumerate(pairs):
        ids = [*(pair.prompt_ids or []), *(pair.chosen_ids or []), *(pair.rejected_ids or [])]
        if not all(0 <= token_id < size for token_id in ids):
            raise DataError(
                f"pair {index} holds token ids that the policy's vocabulary of {size} has not",
                hint="these pairs come from another model: leave their prompt_ids, chosen_ids and rejected_ids out",
            )
