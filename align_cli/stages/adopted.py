"""Pairs from elsewhere, as of `align train --preferences`: whether the policy can read them, and their token ids."""

from __future__ import annotations

from collections.abc import Sequence

from align_cli.artifacts.records import Preference
from align_cli.errors import DataError
from align_cli.models.load import Policy
from align_cli.models.text import plain_text
from align_cli.stages.readable import RowFaults, num_tokens, tokenised_pair


def adopted_pairs(pairs: Sequence[Preference], policy: Policy) -> list[Preference]:
    """The pairs with token ids; those that they came with are the ones that were sampled, and stay.

    Raises:
        DataError: for text that is none, pairs that the policy cannot read, or ids that its vocabulary has not.
    """
    _check_texts(pairs)
    faults, tokenised = RowFaults("", [vars(pair) for pair in pairs], "pairs"), []
    for index, pair in enumerate(pairs):
        has_ids = pair.prompt_ids and pair.chosen_ids and pair.rejected_ids
        try:
            made = pair if has_ids else tokenised_pair(pair, policy)
        except DataError as error:
            faults.add(index, error)
        else:
            faults.measure(index, num_tokens(made), policy.context_length)
            tokenised.append(made)
    faults.raise_if_any(policy.context_length)
    _check_vocabulary(tokenised, policy)
    return tokenised


def _check_texts(pairs: Sequence[Preference]) -> None:
    for index, pair in enumerate(pairs):
        text = "".join(plain_text(part) for part in (pair.prompt, pair.chosen, pair.rejected))
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise DataError(
                f"pair {index} holds half a surrogate pair, which is no text", hint="replace it, or leave the pair out"
            )


def _check_vocabulary(pairs: Sequence[Preference], policy: Policy) -> None:
    size = policy.model.get_input_embeddings().num_embeddings
    for index, pair in enumerate(pairs):
        ids = [*(pair.prompt_ids or []), *(pair.chosen_ids or []), *(pair.rejected_ids or [])]
        if not all(0 <= token_id < size for token_id in ids):
            raise DataError(
                f"pair {index} holds token ids that the policy's vocabulary of {size} has not",
                hint="these pairs come from another model: leave their prompt_ids, chosen_ids and rejected_ids out",
            )
