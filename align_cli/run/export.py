"""Leave with the model: a round's policy in a folder of its own, which transformers loads without align.

The folder appears in one step, or not at all. The run is only read: it may be at work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from align_cli import __version__
from align_cli.artifacts.files import copy_file, write_text, writing_folder
from align_cli.engines.base import SamplingSettings, sampling_settings
from align_cli.errors import AlignError, RunError
from align_cli.models.load import UnloadedPolicy
from align_cli.models.of_recipe import load_recipe_policy, load_recipe_tokenizer
from align_cli.recipe import Recipe, resolved
from align_cli.recipe.sections.data import BUILT_IN_WORLDS
from align_cli.report.card import Base, CardFacts, DataFact, model_card
from align_cli.run.chosen import Chosen, reading_checkpoint
from align_cli.run.fingerprints import Fingerprints
from align_cli.run.folder.layout import run_around
from align_cli.run.results import Results
from align_cli.stages.inputs import Inputs
from align_cli.training.checkpoints import OPTIMIZER_NAME, STATE_NAME

CARD = "README.md"
TRAINERS_OWN = (OPTIMIZER_NAME, STATE_NAME)
"""Files of a checkpoint that nobody needs but who goes on training."""
BASE_KEY, ADAPTER_KEY = "policy.model_name_or_path", "policy.lora.adapter"


class Exported(NamedTuple):
    """What was written.

    Args:
        path: the folder.
        round: whose policy it holds.
        kind: `whole`, `adapter` or `merged`.
        base: Hub id or folder of the model that the run began with; None for a new one.
    """

    path: Path
    round: int
    kind: str
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
    kind = "whole" if recipe.policy.lora is None else "merged" if merge else "adapter"
    if merge and kind == "whole":
        raise RunError(
            "the run trained all weights: there is no adapter to merge",
            where=str(results.folder.path),
            hint="leave --merge out; what is written is whole",
        )
    recorded = _recorded_files(results, chosen.round)
    now = Fingerprints(recipe, results.folder.manifests).files(("policy", "data", "reviews", "labelers"))
    if kind != "whole" or chosen.checkpoint is None:
        _check_same_model(recipe, recorded, now)
    with reading_checkpoint(results, chosen.round), writing_folder(target.resolve()) as folder:
        reader = load_recipe_tokenizer(recipe, chosen.checkpoint)
        _write_policy(folder, recipe, chosen.checkpoint, merge=merge)
        settings = sampling_settings(recipe.generate)
        _generation_config(reader, settings).save_pretrained(folder)
        name = repository or target.resolve().name
        write_text(folder / CARD, model_card(_facts(results, chosen, name, kind, reader, recorded, now, settings)))
    note(f"round {chosen.round}, {chosen.why}: {_KINDS[kind]} in {target}")
    return Exported(target, chosen.round, kind, recipe.policy.model_name_or_path)


_KINDS = {"whole": "the model", "adapter": "the adapter, without its base,", "merged": "base and adapter in one model"}


def _write_policy(folder: Path, recipe: Recipe, checkpoint: Path | None, *, merge: bool) -> None:
    """Weights, configs and tokenizer."""
    from align_cli.models.portable import load_adapter, make_adapter_portable, make_tokenizer_portable, merged

    if checkpoint is None:
        policy = load_recipe_policy(recipe)
        policy.save_weights(folder)
        policy.tokenizer.save_pretrained(folder)
    else:
        _copy_but(checkpoint, folder, TRAINERS_OWN)
    make_tokenizer_portable(folder)
    if merge:
        adapter = load_adapter(folder, recipe.policy)
        for file in sorted(folder.glob("adapter_*")):
            file.unlink()
        merged(adapter).save_pretrained(folder)
    elif recipe.policy.lora is not None:
        make_adapter_portable(folder)


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


def _recorded_files(results: Results, round_number: int) -> dict[str, str]:
    """The checksums of the local files that the rounds up to this one were made from, by key."""
    found: dict[str, str] = {}
    for number in results.folder.manifests.rounds():
        if number <= round_number:
            for record in results.folder.manifests.of_round(number)["stages"].values():
                found |= record["inputs"]["files"]
    return found


def _check_same_model(recipe: Recipe, recorded: dict[str, str], now: dict[str, str]) -> None:
    """Refuse another base than the run's in its place.

    Raises:
        RunError: if the base's files have changed, or are not there.
    """
    if BASE_KEY not in recorded or recorded[BASE_KEY] == now.get(BASE_KEY):
        return
    base = str(recipe.policy.model_name_or_path)
    if BASE_KEY in now:
        raise RunError(
            f"the contents of {BASE_KEY} have changed: this is not the base that the run was made from",
            where=base,
            hint="put the base in its place again",
        )
    raise RunError(
        "the base that the run was made from is not there",
        where=base,
        hint="put it there again; a path that is not absolute starts at the folder that the run was begun in: go there",
    )


def _facts(
    results: Results,
    chosen: Chosen,
    name: str,
    kind: Any,
    reader: UnloadedPolicy,
    recorded: dict[str, str],
    now: dict[str, str],
    settings: SamplingSettings,
) -> CardFacts:
    return CardFacts(
        name=name,
        kind=kind,
        base=_base(results.recipe),
        recipe=results.recipe,
        round=chosen.round,
        why=chosen.why,
        evaluations=results.evaluations(),
        data=_data_facts(results.recipe, recorded, now),
        local_keys=recorded.keys() | now.keys(),
        versions={**results.folder.begun.versions(), "align, which wrote this": __version__},
        sampling=settings,
        chats=bool(reader.tokenizer.chat_template),
    )


def _base(recipe: Recipe) -> Base:
    place = recipe.policy.model_name_or_path
    if place is None or place in BUILT_IN_WORLDS:
        return Base(None)
    is_of_hub = not Path(place).is_dir()
    return Base(place if is_of_hub else Path(place).name, is_of_hub, recipe.policy.revision, _license_of(place))


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


def _data_facts(recipe: Recipe, recorded: dict[str, str], now: dict[str, str]) -> list[DataFact]:
    """Everything that a recipe names beside its model, with what is known of it."""
    inputs = Inputs(recipe)
    rows: dict[str, Callable[[], int]] = {
        "data.prompts": lambda: len(inputs.prompts),
        "data.preferences": lambda: len(inputs.offline_rows.rows),
        "data.demonstrations": lambda: len(inputs.demonstrations),
        "data.eval_prompts": lambda: len(inputs.eval_prompts),
        "data.eval_preferences": lambda: len(inputs.eval_rows.rows),
        "policy.sft.dataset": lambda: len(inputs.sft_demonstrations),
    }
    facts = []
    tree = resolved(recipe)
    for key, count in rows.items():
        if (name := _value(tree, key)) is not None:
            is_local, is_same = key in recorded or key in now, recorded.get(key) == now.get(key)
            number = None
            if is_same:
                with suppress(AlignError):  # what cannot be read again is not counted
                    number = count()
            is_of_hub = not is_local and name not in BUILT_IN_WORLDS
            facts.append(DataFact(key, Path(name).name if is_local else name, number, recorded.get(key), is_of_hub))
    others = [key for key in recorded if key not in rows and key != BASE_KEY]
    return [*facts, *(DataFact(key, _file_name(tree, key), None, recorded[key]) for key in others)]


def _file_name(tree: dict[str, Any], key: str) -> str:
    """A file's name without its path; of a module beside a labeler's code, the module's."""
    plain, _, module = key.partition(" (")
    return module.rstrip(")") if module else Path(str(_value(tree, plain))).name


def _value(tree: Any, key: str) -> Any:
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree
