"""Diversity of what a policy writes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def distinct_n(token_sequences: Sequence[Sequence[Hashable]], n: int) -> float:
    """Share of a corpus' n-grams that are distinct; falls towards 0 as a policy repeats itself.

        distinct-n = #{distinct n-grams} / #{n-grams}

    N-grams never span two sequences. The value falls as a corpus grows: compare only corpora of similar size.

    Args:
        token_sequences: one sequence of tokens (ids or words) a completion.
        n: tokens an n-gram, at least 1.

    Returns:
        A number in (0, 1]; 0.0 where no sequence holds n tokens.

    Raises:
        ValueError: if `n` is below 1.

    Source: Li et al., arXiv:1510.03055, section 5 (distinct-1 and distinct-2), over the whole corpus.
    """
    if n < 1:
        raise ValueError(f"n is {n}; it must be at least 1")
    num_ngrams = 0
    distinct: set[tuple[Hashable, ...]] = set()
    for tokens in token_sequences:
        starts = range(len(tokens) - n + 1)
        num_ngrams += len(starts)
        distinct.update(tuple(tokens[start : start + n]) for start in starts)
    return len(distinct) / num_ngrams if num_ngrams else 0.0
