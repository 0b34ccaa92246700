"""What is refused of a model, in words: folders that hold none, weights and tokenizers that do not belong together.

transformers puts random numbers in the place of tensors that are missing, and says the rest in its own words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align_cli.errors import AlignError, first_line, nearest
from align_cli.models.memory import memory_fault
from align_cli.recipe.sections.lora import ADAPTER_CONFIG

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from align_cli.models.load import UnloadedPolicy

WEIGHTS_PATTERN = "*model*.safetensors"


@contextmanager
def faults_of_a_model(place: str) -> Iterator[None]:
    """Whatever libraries say of a folder that holds something else, in our words.

    Raises:
        AlignError: for any exception but a lack of memory.
    """
    from safetensors import SafetensorError

    try:
        yield
    except AlignError:
        raise
    except Exception as error:
        if memory_fault(error) is not None:
            raise
        what = first_line(error)
        if not isinstance(error, OSError | ValueError | RuntimeError | SafetensorError) or not what:
            what = f"{type(error).__name__}: {what}"
        if "custom code" in what:
            raise AlignError(
                "the model comes with code of its own, which is not run unless it is trusted",
                where=place,
                hint="look at its .py files, and set policy.trust_remote_code to true where you trust them",
            ) from error
        is_lacking = isinstance(error, ImportError)
        remedy = "install what the model asks for, or take a model that needs none" if is_lacking else _remedy(place)
        raise AlignError(f"the model cannot be loaded: {what}", where=place, hint=remedy) from error


def check_no_adapter(place: str, revision: str | None) -> None:
    """Refuse an adapter: transformers puts it on the model beside it, or on another, or not, as peft is installed."""
    from transformers.utils.peft_utils import find_adapter_config_file

    if find_adapter_config_file(place, revision=revision) is not None:
        raise AlignError(
            f"there is an adapter here ({ADAPTER_CONFIG}), where a whole model is looked for",
            where=place,
            hint="name its base in policy.model_name_or_path, and this folder in policy.lora.adapter; or, to take the "
            f"weights beside it as they are, give a copy of the folder without {ADAPTER_CONFIG}",
        )


def check_whole(found: Mapping[str, Any], place: str, what: str = "model", base: str = "") -> None:
    """Refuse weights that are not those that the config asks for.

    Args:
        found: as transformers' loading info: `missing_keys`, `unexpected_keys`, `mismatched_keys`.
        place: the model.
        what: `model` or `adapter`.
        base: for an adapter, on which base, in words.
    """
    remedies = {
        "model": "fetch or save it again; or mend its config.json, whose architecture, layers and sizes have to be "
        "those of the weights",
        "adapter": "take an adapter that was made for this base, with all of its files; or the base of this one",
    }
    kinds = {
        "missing_keys": f"lacks tensors that its config asks for{base}",
        "mismatched_keys": f"has tensors of other shapes than its config asks for{base}",
        "unexpected_keys": f"has tensors that its config knows nothing of{base}",
    }
    for kind, words in kinds.items():
        names = sorted(name if isinstance(name, str) else name[0] for name in found.get(kind) or ())
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise AlignError(
                f"the {what} {words}: {', '.join(names[:3])}{more}",
                where=place,
                hint=remedies[what],
            )


def check_adapter(
    expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], place: str, base: str
) -> None:
    """Refuse an adapter whose tensors are not those that its config asks for on this base.

    Args:
        expected: the tensors that it would have.
        found: those that it has.
        place: where it lies.
        base: the base's name.
    """
    shared = expected.keys() & found.keys()
    kinds = {
        "missing_keys": expected.keys() - found.keys(),
        "mismatched_keys": {name for name in shared if expected[name].shape != found[name].shape},
        "unexpected_keys": found.keys() - expected.keys(),
    }
    check_whole(kinds, place, "adapter", f" on {base}")


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int, place: str) -> None:
    """Refuse a tokenizer that has ids without a row among the model's embeddings, of which there are so many."""
    beyond = sorted((number, token) for token, number in tokenizer.get_vocab().items() if number >= rows)
    if beyond:
        number, token = beyond[0]
        more = f", and {len(beyond) - 1} more" if len(beyond) > 1 else ""
        raise AlignError(
            f"the tokenizer has ids that the model's {rows} embeddings have no row for: {number} ({token!r}){more}",
            where=place,
            hint="take the tokenizer that belongs to the model; or call model.resize_token_embeddings(len(tokenizer)) "
            "and save both",
        )


def check_same_vocabulary(policy: UnloadedPolicy, initial: UnloadedPolicy, place: str) -> None:
    """Refuse a policy whose tokens or embeddings are not those of the initial one, beside which it reads the same ids.

    Args:
        policy: what is refused.
        initial: the initial policy.
        place: where the policy lies.
    """
    hint = "give a checkpoint of this recipe's policy, or name the model's own base in policy.model_name_or_path"
    if words := differing_tokens(policy.tokenizer, initial.tokenizer):
        raise AlignError(f"its vocabulary is not the initial policy's: {words}", where=place, hint=hint)
    ours, theirs = policy.num_embeddings, initial.num_embeddings
    if ours != theirs:
        raise AlignError(f"it has {ours} embeddings, and the initial policy {theirs}", where=place, hint=hint)


def differing_tokens(tokenizer: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> str:
    """Which tokens have other ids for two tokenizers, in words; empty where none has."""
    ours, theirs = tokenizer.get_vocab(), other.get_vocab()
    differing = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
    if not differing:
        return ""
    first, more = differing[0], f", and {len(differing) - 1} more" if len(differing) > 1 else ""
    here, there = (str(vocabulary.get(first, "none")) for vocabulary in (ours, theirs))
    return f"{first!r} has id {here} here and {there} there{more}"


def holds_model(folder: Path) -> bool:
    """Whether a folder is a model's or an adapter's, by its config."""
    return any((folder / name).is_file() for name in ("config.json", ADAPTER_CONFIG))


def check_folder(place: str) -> None:
    """Refuse what is plainly a path, and no model's, before it is taken for a Hub id."""
    folder = Path(place)
    if folder.is_file():
        raise AlignError("this is a file; a model is a folder", where=place, hint="give one made by save_pretrained")
    looks_like_path = place.startswith((".", "/", "~")) or place.count("/") > 1 or Path(place.split("/")[0]).is_dir()
    if looks_like_path and not folder.is_dir():
        siblings = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        near = nearest(folder.name, siblings)
        hint = f"did you mean {folder.parent / near}?" if near else "give a folder made by save_pretrained, or a Hub id"
        raise AlignError("there is no such model folder", where=place, hint=hint)
    if folder.is_dir() and not holds_model(folder):
        is_run = (folder / "run.json").is_file()
        hint = "a run's models are in its rounds/NNN/checkpoint" if is_run else "give a folder made by save_pretrained"
        raise AlignError("this folder holds no model", where=place, hint=hint)
    pickled = sorted(file.name for file in folder.glob("pytorch_model*.bin")) if folder.is_dir() else []
    if pickled and not any(folder.glob(WEIGHTS_PATTERN)):
        raise AlignError(
            f"the model cannot be loaded: its weights are pickled ({pickled[0]}), and a pickle can run code",
            where=place,
            hint="where you trust it, load it with transformers and save it anew: save_pretrained writes safetensors",
        )


def _remedy(place: str) -> str:
    """What to do about a model that does not load: a folder is damaged, any other name may be a slip of the pen."""
    if Path(place).is_dir():
        return "the folder is damaged or incomplete: restore it, or save it again with save_pretrained (safetensors)"
    hint = "give a folder made by save_pretrained (safetensors), or a Hub id that this machine can reach"
    near = None if "/" in place else nearest(place, [entry.name for entry in Path().iterdir() if entry.is_dir()])
    return f"no folder has this name, so it was taken for a Hub id; did you mean {near}? Or {hint}" if near else hint
