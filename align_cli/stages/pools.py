"""From preferences to the pools that batches are drawn from, one a source; and whether they are what training needs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

from align_cli.artifacts.records import Preference
from align_cli.engines.base import sampling_settings
from align_cli.errors import DataError, counted
from align_cli.recipe import Recipe
from align_cli.recipe.sections.sources import SOURCES
from align_cli.training.batches import PromptPool, TrainingPair

OFFLINE = "offline"


def training_pools(
    recipe: Recipe, preferences: Sequence[Preference], rounds_before: int, offline: Sequence[Preference] = ()
) -> dict[str, Sequence[TrainingPair]]:
    """Each source's pairs as training sees them, in the order of the mixture.

    Args:
        recipe: the whole recipe.
        preferences: the round's own pairs and any others, tokenised; each goes to the pool of its source. Offline pairs
            are the pool of `ddp` too, whose labels are the policy's.
        rounds_before: rounds that the policy has been trained for.
        offline: the recipe's offline pairs, none of which is looked at before it is drawn: their labels are known to be
            what the loss can take.

    Raises:
        DataError: if a source with a share has no pairs, or has some that lack what the method needs of them.
    """
    sources = recipe.method.sources.in_use()
    pools: dict[str, Sequence[TrainingPair]] = {}
    for position, name in enumerate(sources):
        own = [pair for pair in preferences if pair.source == _pool_of(name)]
        if _pool_of(name) == OFFLINE and not own:
            pools[name] = OfflinePool(offline, position)
        else:
            own = [*offline, *own] if _pool_of(name) == OFFLINE else own
            pools[name] = _pool(own, position, recipe, name, rounds_before)
    _check_sources(preferences, [_pool_of(name) for name in sources])
    for name, section in sources.items():
        if not pools[name]:
            raise DataError(
                f"source {name!r} has a share of {section.mixing:g} but no pairs",
                where=f"method.sources.{name}",
                hint="label completions with this recipe (pairs of --preferences without a source are offline ones)"
                if section.policy_responses
                else "set data.preferences to a file with pairs, or give the share to another source",
            )
    _check_writers(recipe, preferences)
    _check_others(recipe, preferences)
    _check_labels(recipe, preferences)
    _check_scores(recipe, preferences)
    return pools


class OfflinePool(PromptPool):
    """The recipe's own offline pairs as training sees them, each made when it is drawn.

    Args:
        preferences: the pairs, no two of which are of one row, and so of one prompt.
        position: of their source in the mixture.
    """

    def __init__(self, preferences: Sequence[Preference], position: int) -> None:
        self._preferences, self._position = preferences, position

    def __len__(self) -> int:
        return len(self._preferences)

    def item(self, index: int) -> TrainingPair:
        pair = self._preferences[index]
        chosen, rejected = pair.chosen_ids or [], pair.rejected_ids or []
        return TrainingPair(
            prompt_ids=pair.prompt_ids or [],
            chosen_ids=chosen,
            rejected_ids=rejected,
            label=pair.label,
            source=self._position,
            pair_id=index,
            prompt_id=index,
            response_ids=(2 * index, 2 * index + (chosen != rejected)),
            of_policy=(False, False),
        )


class _Needed(NamedTuple):
    """What every step needs of some pair of its own.

    Args:
        key: of the recipe, that wants it.
        words: what such a pair has.
        without: what a step lacks that has no such pair.
        remedy: what to do about the key.
        is_such: whether a pair is one.
    """

    key: str
    words: str
    without: str
    remedy: str
    is_such: Callable[[TrainingPair], bool]


def check_carriers(recipe: Recipe, batches: Sequence[Sequence[TrainingPair]]) -> None:
    """Whether every step of a round has pairs that carry the KL, or measure it, and that carry the optimism.

    A recipe's shares see to it, where the pairs are those of its own label stage.

    Raises:
        DataError: if a step has none.
    """
    for needed in _needed(recipe):
        without = sum(not any(map(needed.is_such, batch)) for batch in batches)
        if without:
            raise DataError(
                f"in {without} of the round's {len(batches)} steps no pair {needed.words}: {needed.without}",
                where=needed.key,
                hint="label completions of the same round with this recipe; or make the global batch larger, or "
                + needed.remedy,
            )


def _needed(recipe: Recipe) -> Iterator[_Needed]:
    method, sources = recipe.method, list(recipe.method.sources.in_use().values())
    own = "has a response of the policy's own"

    def is_own(pair: TrainingPair) -> bool:
        return sources[pair.source].policy_responses and any(pair.of_policy)

    if method.kl.coefficient and method.kl.on == "policy":
        yield _Needed("method.kl", own, "none would carry method.kl", "set method.kl.coefficient to 0", is_own)
    elif method.kl.target is not None:
        yield _Needed("method.kl.target", own, "none would say how far the policy is from it", "leave it out", is_own)
    if method.optimism.coefficient:
        yield _Needed(
            "method.optimism",
            "has a response that the reference sampled",
            "none would carry method.optimism",
            "set method.optimism.coefficient to 0",
            lambda pair: any(pair.from_reference),
        )


def _check_others(recipe: Recipe, preferences: Sequence[Preference]) -> None:
    """The choice of best and worst of K depended on all K responses, and all of them have to carry the term."""
    sources = recipe.method.sources.in_use()
    unweighable = [
        pair
        for pair in preferences
        if (pair.chosen_by == "policy" and pair.chosen_logp is None)
        or (pair.rejected_by == "policy" and pair.rejected_logp is None)
    ]
    if recipe.method.importance_weight_cap is not None and unweighable:
        hold = counted(len(unweighable), "pair holds", "pairs hold")
        raise DataError(
            f"{hold} no log-probabilities of their sampling, which importance weights need",
            where="method.importance_weight_cap",
            hint="label completions of `align generate`, or set the key to null",
        )
    if (
        "dpr" not in sources
        or not needs_others(recipe, "dpr")
        or recipe.generate.num_generations + recipe.generate.num_reference_generations == 2
        or recipe.label.pairs == "all"
    ):
        return
    lacking = [pair for pair in preferences if pair.source == "dpr" and pair.other_ids is None]
    num_responses = recipe.generate.num_generations + recipe.generate.num_reference_generations
    if lacking:
        were = counted(len(lacking), "pair of source dpr was", "pairs of source dpr were")
        raise DataError(
            f"{were} chosen from {num_responses} responses, with none of the others, which the bilevel response term "
            "and importance weights need",
            where="method.sources.dpr.gradient",
            hint="label them with this recipe, or set method.sources.dpr.gradient to 0",
        )


def _check_writers(recipe: Recipe, preferences: Sequence[Preference]) -> None:
    """What a pair of the policy's carries goes by who wrote its responses, so they must say so."""
    sources = recipe.method.sources.in_use()
    unsigned = [
        pair
        for pair in preferences
        if pair.source in sources
        and sources[pair.source].policy_responses
        and pair.chosen_by == pair.rejected_by == "dataset"
    ]
    if unsigned:
        source = unsigned[0].source
        say = counted(len(unsigned), f"pair of source {source} says", f"pairs of source {source} say")
        raise DataError(
            f"{say} of neither response that the policy wrote it",
            where=f"method.sources.{source}",
            hint="label completions of `align generate`; or set chosen_by and rejected_by of each pair",
        )
    unplaced = [
        pair
        for pair in preferences
        if getattr(sources.get(pair.source), "gradient", 0.0)
        and sources[pair.source].policy_responses
        and (
            pair.prompt_index is None
            or (pair.chosen_by == "policy" and pair.chosen_index is None)
            or (pair.rejected_by == "policy" and pair.rejected_index is None)
        )
    ]
    if unplaced:
        source = unplaced[0].source
        do = counted(len(unplaced), f"pair of source {source} does", f"pairs of source {source} do")
        raise DataError(
            f"{do} not say which samples of which prompt they are, which the baseline of the bilevel term goes by",
            where=f"method.sources.{source}.gradient",
            hint="label completions of `align generate`; or set prompt_index, chosen_index and rejected_index",
        )


def _check_labels(recipe: Recipe, preferences: Sequence[Preference]) -> None:
    """TRL's own losses know that one response won, and no probability of it."""
    uncertain = [pair for pair in preferences if pair.label != 1]
    if recipe.method.uses_trl_loss and uncertain:
        have = counted(len(uncertain), "pair has", "pairs have")
        raise DataError(
            f"{have} a label below 1, the first {uncertain[0].label:g}; TRL's own losses take hard labels alone",
            where="method.loss_type",
            hint="leave these pairs out, set label.ties to drop, or set method.loss_type to sigmoid, ipo, hinge or "
            "simpo",
        )


def _check_scores(recipe: Recipe, preferences: Sequence[Preference]) -> None:
    """REBEL regresses on the difference of two scores."""
    if recipe.method.loss_types != ["rebel"]:
        return
    unscored = [pair for pair in preferences if pair.chosen_score is None or pair.rejected_score is None]
    if unscored:
        have = counted(len(unscored), "pair has", "pairs have")
        raise DataError(
            f"{have} no scores, on whose difference rebel regresses",
            where="method.loss_type",
            hint="label the completions with a labeler that gives scores, or take another loss",
        )


def _check_sources(preferences: Sequence[Preference], known: Sequence[str]) -> None:
    strange = [pair.source for pair in preferences if pair.source not in known]
    if strange:
        have = counted(len(strange), "pair has", "pairs have")
        raise DataError(
            f"{have} source {strange[0]!r}, which has no share in the recipe's mixture",
            where="method.sources",
            hint=f"give it a share, or leave these pairs out; pairs of {' and '.join(dict.fromkeys(known))} are used",
        )


def _pool_of(name: str) -> str:
    """The source that is written on a source's pairs: `ddp` takes the offline ones."""
    return SOURCES[name].pool or name


def needs_others(recipe: Recipe, name: str) -> bool:
    """Whether a source's pairs need the responses that they were chosen from: for the bilevel term, or for weights."""
    section = recipe.method.sources.in_use()[name]
    weighs = recipe.method.importance_weight_cap is not None
    return section.policy_responses and (getattr(section, "gradient", 0.0) > 0 or weighs)


def _pool(
    preferences: Sequence[Preference], position: int, recipe: Recipe, name: str, rounds_before: int
) -> list[TrainingPair]:
    """A source's pairs as training sees them: which are of one prompt, which share responses, and whose those are."""
    section, with_others = recipe.method.sources.in_use()[name], needs_others(recipe, name)
    prompts: dict[Hashable, int] = {}
    responses: dict[Hashable, int] = {}
    pairs = []
    for index, pair in enumerate(preferences):
        others = tuple(pair.other_ids or ()) if with_others else ()
        # Where no index says which prompt or sample it was, the tokens do.
        prompt = (pair.round, pair.prompt_index if pair.prompt_index is not None else tuple(pair.prompt_ids or ()))
        places: list[Hashable] = [
            (
                prompt,
                pair.chosen_by,
                pair.chosen_index if pair.chosen_index is not None else tuple(pair.chosen_ids or ()),
            ),
            (
                prompt,
                pair.rejected_by,
                pair.rejected_index if pair.rejected_index is not None else tuple(pair.rejected_ids or ()),
            ),
            *((index, "other", number) for number in range(len(others))),
        ]
        pairs.append(
            TrainingPair(
                prompt_ids=pair.prompt_ids or [],
                chosen_ids=pair.chosen_ids or [],
                rejected_ids=pair.rejected_ids or [],
                label=pair.label,
                source=position,
                pair_id=index,
                prompt_id=prompts.setdefault(prompt, len(prompts)),
                other_ids=others,
                sampled_logp=_sampled_logp(pair, with_others) if section.policy_responses else 0.0,
                response_ids=tuple(responses.setdefault(place, len(responses)) for place in places),
                of_policy=(pair.chosen_by == "policy", pair.rejected_by == "policy"),
                policy_logps=_policy_logps(pair, recipe),
                from_reference=_from_reference(pair, recipe, rounds_before) if name == "dpr" else (False, False),
                targets=_targets(pair, recipe),
            )
        )
    return pairs


def _from_reference(pair: Preference, recipe: Recipe, rounds_before: int) -> tuple[bool, bool]:
    """Whether the reference as it is now sampled the responses: by name, or because it was the round's policy."""
    if recipe.method.optimism.on == "reference":
        return pair.chosen_by == "reference", pair.rejected_by == "reference"
    is_present = pair.round == rounds_before + 1
    return is_present and pair.chosen_by == "policy", is_present and pair.rejected_by == "policy"


def _policy_logps(pair: Preference, recipe: Recipe) -> tuple[float, float] | None:
    """What the policy said of its two responses, where it was sampled as it is."""
    if pair.chosen_logp is None or pair.rejected_logp is None or not pair.chosen_by == pair.rejected_by == "policy":
        return None
    settings = sampling_settings(recipe.generate)
    return (pair.chosen_logp, pair.rejected_logp) if settings == settings.of_policy() else None


def _targets(pair: Preference, recipe: Recipe) -> tuple[float, float] | None:
    """What a labeler gave the two responses, where the loss regresses on that: none of it may be half known."""
    both = {
        "sppo": (pair.chosen_win_rate, pair.rejected_win_rate),
        "rebel": (pair.chosen_score, pair.rejected_score),
    }.get(recipe.method.loss_types[0])
    if both is None or both[0] is None or both[1] is None:
        return None
    return both[0], both[1]


def _sampled_logp(pair: Preference, with_others: bool) -> float:
    others = sum(pair.other_logps or ()) if with_others else 0.0
    chosen = (pair.chosen_logp or 0.0) if pair.chosen_by == "policy" else 0.0
    rejected = (pair.rejected_logp or 0.0) if pair.rejected_by == "policy" else 0.0
    return chosen + rejected + others
