"""What a round was made from: its base, its data and its code, and whether the files are still what the run read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from align_cli.errors import AlignError, RunError
from align_cli.recipe import resolved
from align_cli.recipe.data_names import BUILT_IN_WORLDS
from align_cli.report.card import Base, DataFact
from align_cli.run.fingerprints import Fingerprints
from align_cli.run.results import Results
from align_cli.stages.inputs import Inputs

BASE_KEY = "policy.model_name_or_path"
CARD = "README.md"


class Origins:
    """What a round and those before it were made from.

    Args:
        results: of the run.
        round_number: the round.
    """

    def __init__(self, results: Results, round_number: int) -> None:
        self._recipe = results.recipe
        self._tree = resolved(results.recipe)
        manifests = results.folder.manifests
        self._now = Fingerprints(results.recipe, manifests).files(("policy", "data", "reviews", "reward", "labelers"))
        self._recorded: dict[str, str] = {}
        for number in manifests.rounds():
            if number <= round_number:
                for record in manifests.of_round(number)["stages"].values():
                    self._recorded |= record["inputs"]["files"]

    @property
    def local_keys(self) -> set[str]:
        """The recipe's keys that name files or folders of the machine."""
        return {*self._recorded, *self._now}

    def check_base(self) -> None:
        """Refuse another base than the run's in its place.

        Raises:
            RunError: if the base's files have changed, or are not there.
        """
        if BASE_KEY not in self._recorded or self._recorded[BASE_KEY] == self._now.get(BASE_KEY):
            return
        base = str(self._recipe.policy.model_name_or_path)
        if BASE_KEY in self._now:
            raise RunError(
                f"the contents of {BASE_KEY} have changed: this is not the base that the run was made from",
                where=base,
                hint="put the base in its place again",
            )
        raise RunError(
            "the base that the run was made from is not there",
            where=base,
            hint="put it there again; a path that is not absolute starts at the folder that the run was begun in: go "
            "there",
        )

    def base(self) -> Base:
        """The model that the run began with."""
        place = self._recipe.policy.model_name_or_path
        if place is None or place in BUILT_IN_WORLDS:
            return Base(None)
        is_of_hub = BASE_KEY not in self.local_keys
        name = place if is_of_hub else Path(place).name
        return Base(name, is_of_hub, self._recipe.policy.revision, _license_of(place))

    def data(self) -> list[DataFact]:
        """Everything that the recipe names beside its model, with what is known of it."""
        inputs = Inputs(self._recipe)
        counts: dict[str, Callable[[], int]] = {
            "data.prompts": lambda: len(inputs.prompts),
            "data.preferences": lambda: len(inputs.offline_rows.rows),
            "data.demonstrations": lambda: len(inputs.demonstration_rows),
            "data.eval_prompts": lambda: len(inputs.eval_prompts),
            "data.eval_preferences": lambda: len(inputs.eval_rows.rows),
            "policy.sft.dataset": lambda: len(inputs.sft_rows),
            "reward.preferences": lambda: len(inputs.reward_rows.rows),
            "reward.eval_preferences": lambda: len(inputs.reward_eval_rows.rows),
        }
        rows = [self._rows(key, count) for key, count in counts.items() if _value(self._tree, key) is not None]
        others = [key for key in self._recorded if key not in counts and key != BASE_KEY]
        return [*rows, *(DataFact(key, self._file_name(key), None, self._recorded[key]) for key in others)]

    def _rows(self, key: str, count: Callable[[], int]) -> DataFact:
        name, number = str(_value(self._tree, key)), None
        if self._recorded.get(key) == self._now.get(key):
            with suppress(AlignError):  # what cannot be read again is not counted
                number = count()
        if key in self.local_keys:
            return DataFact(key, Path(name).name, number, self._recorded.get(key))
        return DataFact(key, name, number, None, is_of_hub=name not in BUILT_IN_WORLDS)

    def _file_name(self, key: str) -> str:
        """A file's name without its path; of a module beside a labeler's code, the module's."""
        plain, _, module = key.partition(" (")
        return module.rstrip(")") if module else Path(str(_value(self._tree, plain))).name


def _value(tree: Any, key: str) -> Any:
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def _license_of(model: str) -> str | None:
    """What a model's own card says, where that is on this machine."""
    from huggingface_hub import ModelCard, try_to_load_from_cache

    card = Path(model) / CARD
    if not Path(model).is_dir():
        cached = try_to_load_from_cache(model, CARD)
        card = Path(cached) if isinstance(cached, str) else Path()
    if not card.is_file():
        return None
    with suppress(Exception):  # others write cards in any way they like
        found = ModelCard.load(card).data.get("license")
        return found if isinstance(found, str) else None
    return None
