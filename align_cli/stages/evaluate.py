"""The evaluate stage: a policy's held-out responses in, one evaluation out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from align_cli.artifacts.records import Completion, Evaluation, Preference
from align_cli.labelers import Scorer
from align_cli.metrics.estimates import estimate
from align_cli.metrics.preference import pair_accuracy, win_rate
from align_cli.metrics.text import distinct_n
from align_cli.models.load import Policy
from align_cli.recipe import Recipe
from align_cli.seeds import derive_seed, seeded_order
from align_cli.stages import Journals, Progress, no_journals
from align_cli.stages.generate import PromptDraw
from align_cli.stages.inputs import Rows
from align_cli.stages.label import score_completions


class Judged(NamedTuple):
    """A policy's responses to the evaluation prompts, by prompt."""

    completions: Sequence[Completion]
    scores: list[float]


def evaluation_draws(rows: Rows, count: int, run_seed: int) -> list[PromptDraw]:
    """The held-out prompts: the first of a seeded order, all of them where there are fewer."""
    order = seeded_order(len(rows), run_seed, "eval_prompts")[:count]
    return [PromptDraw(index, rows[index]["prompt"], 0) for index in order]


def evaluate_policy(
    policy: Policy,
    reference: Policy,
    recipe: Recipe,
    *,
    round_number: int,
    samples: Sequence[Completion],
    opponents: Mapping[str, Sequence[Completion]],
    pairs: Sequence[Preference],
    scorer: Scorer | None,
    progress: Progress,
    journals: Journals = no_journals,
) -> Evaluation:
    """Everything that is known of a policy at the end of a round.

    Args:
        policy: what is evaluated.
        reference: the KL's other side, and the margins'.
        recipe: β, batch size, seed.
        round_number: rounds that the policy has been trained for.
        samples: the policy's responses to the evaluation prompts, one each.
        opponents: the opponents' responses to the same prompts, by the name in `evaluate.against`.
        pairs: held-out offline pairs, tokenised.
        scorer: None leaves rewards and win rates out.
        progress: told of every response and pair.
        journals: where scores are kept as they come, by whose they are.
    """
    judged = _judge("own", samples, scorer, progress, journals)
    opposing = {name: _judge(name, responses, scorer, progress, journals) for name, responses in opponents.items()}
    progress.start(len(samples) + len(pairs), "sequences")
    kl = estimate(list(_sequence_kls(policy, reference, samples, recipe.generate.batch_size, progress)))
    lengths = estimate([float(sample.num_tokens) for sample in samples])
    return Evaluation(
        round=round_number,
        policy=policy.version,
        num_prompts=len(samples),
        scorer=scorer.name if scorer else None,
        reward=estimate(judged.scores)._asdict() if scorer else None,
        against={name: _compare(judged, opponent, recipe.seed) for name, opponent in opposing.items() if scorer},
        kl={**kl._asdict(), "reference": reference.version},
        length=lengths._asdict(),
        eos_rate=sum(sample.finish_reason == "stop" for sample in samples) / len(samples),
        distinct_2=distinct_n([sample.completion_ids for sample in samples], 2),
        preferences=_preference_metrics(policy, reference, pairs, recipe, progress),
        sampling=dict(samples[0].sampling),
    )


def _judge(
    name: str, samples: Sequence[Completion], scorer: Scorer | None, progress: Progress, journals: Journals
) -> Judged:
    if scorer is None:
        return Judged(samples, [])
    with journals(f"{name}-scores") as journal:
        return Judged(samples, score_completions(samples, scorer, progress, journal))


def _compare(judged: Judged, opponent: Judged, seed: int) -> dict[str, float | int | str]:
    result = win_rate(judged.scores, opponent.scores, seed=derive_seed(seed, "bootstrap") % 2**32)
    return {
        "win_rate": result.win_rate,
        "low": result.interval.low,
        "high": result.interval.high,
        "wins": result.wins,
        "ties": result.ties,
        "losses": result.losses,
        "policy": opponent.completions[0].policy,
    }


def _sequence_kls(
    policy: Policy, reference: Policy, samples: Sequence[Completion], batch_size: int, progress: Progress
) -> Iterator[float]:
    """KL(π ‖ π_ref) along each response: exact over the vocabulary at every token, summed over the response."""
    import torch

    from align_cli.methods.logprobs import token_kl
    from align_cli.models.scoring import pad_batch, response_logits

    for start in range(0, len(samples), batch_size):
        chunk = samples[start : start + batch_size]
        tokens = pad_batch(
            [sample.prompt_ids for sample in chunk],
            [sample.completion_ids for sample in chunk],
            policy.tokenizer.pad_token_id,
        ).to(policy.model.device)
        with torch.no_grad():
            ours = response_logits(policy.model, tokens)
            theirs = response_logits(reference.model, tokens)
            kl_B = (token_kl(ours.logits_BCV, theirs.logits_BCV) * ours.mask_BC).sum(-1)
        yield from kl_B.tolist()
        progress.advance(len(chunk))


def _preference_metrics(
    policy: Policy, reference: Policy, pairs: Sequence[Preference], recipe: Recipe, progress: Progress
) -> dict[str, float | int] | None:
    """Accuracy and margin β·h of the implicit reward on held-out pairs; those labelled one half say nothing."""
    pairs = [pair for pair in pairs if pair.label != 0.5]
    if not pairs:
        return None
    from align_cli.models.scoring import implicit_reward_margins

    margins: list[float] = []
    batches = implicit_reward_margins(policy, reference, pairs, recipe.method.beta, recipe.generate.batch_size)
    for found in batches:
        labels = [pair.label for pair in pairs[len(margins) : len(margins) + len(found)]]
        margins += [margin if label > 0.5 else -margin for margin, label in zip(found, labels, strict=True)]
        progress.advance(len(found))
    return pair_accuracy(margins)._asdict()
