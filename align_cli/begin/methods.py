"""What a preset needs, read off its own keys, and which of its sources the data can feed."""

from __future__ import annotations

from typing import Any, NamedTuple

from align_cli.begin.looked import Looked
from align_cli.data.formats.base import DEMONSTRATIONS, PAIRS, PROMPTS
from align_cli.errors import RecipeError
from align_cli.recipe.presets import preset_keys, preset_names
from align_cli.recipe.sections.sources import SOURCES

USES = {"preferences": PAIRS, "prompts": PROMPTS, "demonstrations": DEMONSTRATIONS}
"""What data has to be read for, by the key of `data` that a source takes its rows from."""


class Method(NamedTuple):
    """A preset on some data.

    Args:
        preset: its name.
        keys: what it sets.
        shares: of the sources that the data feeds, summing to 1.
        left_out: sources of the preset that the data has nothing for.
    """

    preset: str
    keys: dict[str, Any]
    shares: dict[str, float]
    left_out: tuple[str, ...] = ()

    @property
    def needs(self) -> set[str]:
        """The keys of `data` that its sources take their rows from."""
        return {SOURCES[name].needs for name in self.shares}

    @property
    def is_online(self) -> bool:
        """Whether it samples the policy."""
        return any(SOURCES[name].policy_responses for name in self.shares)

    @property
    def needs_labeler(self) -> bool:
        """Whether responses have to be labelled, and the preset does not say by whom."""
        return "dpr" in self.shares and "labeler" not in self.keys["method"]["sources"]["dpr"]

    @property
    def judges_itself(self) -> bool:
        """Whether the preset brings the policy as judge."""
        return "dpr" in self.shares and not self.needs_labeler

    @property
    def is_every_step(self) -> bool:
        """Whether a round is one optimizer step."""
        return self.keys.get("train", {}).get("steps_per_round") == 1

    @property
    def needs_scores(self) -> bool:
        """Whether its loss regresses on the difference of two scores, and who gives verdicts has none."""
        return bool(self.keys["method"]["loss_type"] == "rebel")

    @property
    def is_trls_own(self) -> bool:
        """Whether TRL computes its loss, in batches of a fixed number of pairs."""
        return bool(self.keys["method"].get("use_weighting"))

    @property
    def has_gradient(self) -> bool:
        """Whether it brings bilevel terms, for which a KL term is an anchor."""
        return any(source.get("gradient") for source in self.keys["method"]["sources"].values())

    @property
    def has_reference(self) -> bool:
        """Whether its loss is tied to a reference, which a KL term is measured to."""
        return str(self.keys["method"]["loss_type"]) != "simpo"


def method_on(preset: str, looked: Looked) -> Method:
    """A preset with the sources that the data can feed.

    Raises:
        RecipeError: if it can feed none of them.
    """
    keys = preset_keys(preset)
    mixing = {name: source["mixing"] for name, source in keys["method"]["sources"].items()}
    fed = {name: share for name, share in mixing.items() if _feeds(looked, name)}
    if not fed:
        wanted = " and ".join(sorted({USES[SOURCES[name].needs] for name in mixing}))
        what = f"{preset} trains on {wanted}, and {looked.data} can be read for {' and '.join(looked.uses)} alone"
        raise RecipeError(what, where="--method", hint=f"take one of {', '.join(methods_for(looked))}")
    left_out = tuple(name for name in mixing if name not in fed)
    return Method(preset, keys, _scaled(fed), left_out)


def methods_for(looked: Looked) -> list[str]:
    """The presets that the data can feed, in part at least."""
    return [
        preset
        for preset in preset_names()
        if any(_feeds(looked, name) for name in preset_keys(preset)["method"]["sources"])
    ]


def _feeds(looked: Looked, source: str) -> bool:
    return USES[SOURCES[source].needs] in looked.uses


def _scaled(shares: dict[str, float]) -> dict[str, float]:
    """Shares that sum to 1, in the proportions of these."""
    total = sum(shares.values())
    scaled = {name: round(share / total, 3) for name, share in shares.items()}
    last = list(scaled)[-1]
    return {**scaled, last: round(1 - sum(scaled.values()) + scaled[last], 3)}
