"""Leave with the model: a round's policy in a folder of its own, which transformers loads without align.

The folder appears in one step, or not at all. The run is only read: it may be at work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from align_cli import __version__
from align_cli.artifacts.files import copy_file, write_text, writing_folder
from align_cli.engines.base import SamplingSettings, sampling_settings
from align_cli.errors import RunError
from align_cli.models.load import UnloadedPolicy
from align_cli.models.of_recipe import load_recipe_policy, load_recipe_tokenizer
from align_cli.recipe import Recipe
from align_cli.report.card import CardFacts, Kind, model_card
from align_cli.run.chosen import Chosen, reading_checkpoint
from align_cli.run.folder.layout import run_around
from align_cli.run.origins import CARD, Origins
from align_cli.run.results import Results
from align_cli.training.checkpoints import OPTIMIZER_NAME, STATE_NAME

TRAINERS_OWN = (OPTIMIZER_NAME, STATE_NAME)
"""Files of a checkpoint that nobody needs but who goes on training."""
_KINDS = {"whole": "the model", "adapter": "the adapter, without its base,", "merged": "base and adapter in one model"}


class Exported(NamedTuple):
    """What was written.

    Args:
        path: the folder.
        round: whose policy it holds.
        kind: all weights, an adapter, or both in one.
        base: Hub id or folder of the model that the run began with; None for a new one.
    """

    path: Path
    round: int
    kind: Kind
    base: str | None


def check_target(target: Path) -> None:
    """Refuse a place where no new folder can be made.

    Raises:
        RunError: if something is there, or if it lies in a run.
    """
    place, where = target.resolve(), str(target)
    if place == Path.cwd():
        raise RunError("this is the folder that you are in", where=where, hint="name a new folder in it")
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        what = "is not empty" if place.is_dir() else "is a file"
        raise RunError(f"what is there {what}", where=where, hint="name a new folder; nothing is written over")
    if any(parent.is_file() for parent in place.parents):
        raise RunError("it lies below a file", where=where, hint="name a folder in a folder")
    if (run := run_around(place)) is not None:
        raise RunError(f"it lies in the run {run}", where=where, hint="name a folder outside of runs")


def check_pushable(recipe: Recipe, *, merge: bool) -> None:
    """Refuse to upload an adapter that nobody else has the base of.

    Raises:
        RunError: if it is one.
    """
    base = recipe.policy.model_name_or_path or ""
    if recipe.policy.lora is not None and not merge and Path(base).is_dir():
        raise RunError(
            "the adapter's base is a folder of this machine: nobody could load it from the Hub",
            where=base,
            hint="add --merge, which uploads a whole model",
        )


def export_round(
    results: Results,
    chosen: Chosen,
    target: Path,
    *,
    merge: bool,
    repository: str | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Exported:
    """Write a round's policy with its tokenizer, its way of sampling and its card.

    Args:
        results: of the run.
        chosen: the round.
        target: becomes the folder; `check_target` has looked at it.
        merge: whether an adapter becomes one with its base.
        repository: the Hub's id that the card names; None is the folder's name.
        note: told what a user should know.

    Raises:
        AlignError: if the base is not what it was, or cannot be loaded; if there is no adapter to merge.
    """
    recipe = results.recipe
    kind: Kind = "whole" if recipe.policy.lora is None else "merged" if merge else "adapter"
    if merge and kind == "whole":
        raise RunError(
            "the run trained all weights: there is no adapter to merge",
            where=str(results.folder.path),
            hint="leave --merge out; what is written is whole",
        )
    origins = Origins(results, chosen.round)
    if kind != "whole" or chosen.checkpoint is None:
        origins.check_base()
    with reading_checkpoint(results, chosen.round), writing_folder(target.resolve()) as folder:
        reader = load_recipe_tokenizer(recipe, chosen.checkpoint)
        _write_policy(folder, recipe, chosen.checkpoint, merge=merge)
        settings = sampling_settings(recipe.generate)
        _generation_config(reader, settings).save_pretrained(folder)
        facts = CardFacts(
            name=repository or target.resolve().name,
            kind=kind,
            base=origins.base(),
            recipe=recipe,
            round=chosen.round,
            why=chosen.why,
            evaluations=results.evaluations(),
            data=origins.data(),
            local_keys=origins.local_keys,
            versions={**results.folder.begun.versions(), "align, which wrote this": __version__},
            sampling=settings,
            chats=bool(reader.tokenizer.chat_template),
        )
        write_text(folder / CARD, model_card(facts))
    note(f"round {chosen.round}, {chosen.why}: {_KINDS[kind]} in {target}")
    return Exported(target, chosen.round, kind, recipe.policy.model_name_or_path)


def _write_policy(folder: Path, recipe: Recipe, checkpoint: Path | None, *, merge: bool) -> None:
    """Weights, configs and tokenizer."""
    from align_cli.models.portable import make_portable

    if checkpoint is None:
        policy = load_recipe_policy(recipe)
        policy.save_weights(folder)
        policy.tokenizer.save_pretrained(folder)
    else:
        _copy_but(checkpoint, folder, TRAINERS_OWN)
    make_portable(folder, recipe.policy, merge=merge)


def _copy_but(source: Path, folder: Path, names: Sequence[str]) -> None:
    """Copy what a folder holds, but for files of some names, into another."""
    for file in sorted(source.rglob("*")):
        place = folder / file.relative_to(source)
        if file.is_dir():
            place.mkdir()
        elif file.name not in names:
            copy_file(file, place)


def _generation_config(reader: UnloadedPolicy, settings: SamplingSettings) -> Any:
    """transformers' settings that stop and sample as the run did; every one is written, whatever the defaults are."""
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=True,
        **settings._asdict(),
        eos_token_id=reader.eos_token_ids,
        pad_token_id=reader.tokenizer.pad_token_id,
        bos_token_id=reader.tokenizer.bos_token_id,
    )
