"""Load a causal language model with its tokenizer, and name exactly which weights these are.

Called by the run for policies and references. A playground's model is a folder like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from align_cli.artifacts.checksums import checksum
from align_cli.errors import AlignError, first_line, nearest
from align_cli.models.memory import memory_fault
from align_cli.recipe import Recipe

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS_PATTERN = "*model*.safetensors"
GENERATION_CONFIG = "generation_config.json"


@dataclass
class Policy:
    """A model that can be sampled and scored, with its tokenizer.

    Args:
        model: in evaluation mode, on its device.
        tokenizer: pads on the left, and has a padding token.
        version: names these weights: the checksum of local weights, or a Hub id with its commit.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    version: str

    @property
    def eos_token_ids(self) -> list[int]:
        """The ids that end a response: the tokenizer's and those of the generation config."""
        return eos_token_ids(self.tokenizer, self.model.generation_config)

    @property
    def context_length(self) -> int | None:
        """The most tokens of prompt and response together; None where the architecture has no bound."""
        return context_length(self.model.config)


class UnloadedPolicy(NamedTuple):
    """What of a policy is known without its weights: how text becomes ids, and how many of them it can read.

    Args:
        tokenizer: the policy's.
        eos_token_ids: the ids that end a response.
        context_length: the most tokens of prompt and response together; None where the architecture has no bound.
    """

    tokenizer: PreTrainedTokenizerBase
    eos_token_ids: list[int]
    context_length: int | None


def eos_token_ids(tokenizer: PreTrainedTokenizerBase, config: GenerationConfig | None) -> list[int]:
    """The ids that end a response: the tokenizer's and those of the generation config."""
    configured = config.eos_token_id if config else None
    ids = configured if isinstance(configured, list) else [configured]
    return sorted({token_id for token_id in [*ids, tokenizer.eos_token_id] if token_id is not None})


def context_length(config: PreTrainedConfig) -> int | None:
    """The most tokens that a model can read; a model of several parts has the number in its text's config."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def uses_cache(model: PreTrainedModel) -> bool:
    """The model's own `use_cache`; a model of several parts, as of text and images, has it in its text's config."""
    return bool(getattr(model.config.get_text_config(), "use_cache", False))


def load_policy(
    name_or_path: str | Path,
    *,
    dtype: str = "float32",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Policy:
    """Load a model and its tokenizer from a folder or the Hub; weights from safetensors only.

    Args:
        name_or_path: a folder made by `save_pretrained`, or a Hub id.
        dtype: name of the torch type of the weights.
        revision: branch, tag or commit of a Hub model.
        trust_remote_code: whether to run code that ships with the model.

    Raises:
        AlignError: if there is no such model, if it cannot be read, if its weights are not those that its config asks
            for, or if its tokenizer has no end-of-sequence token, or ids that the model does not know.
    """
    import torch
    from transformers import AutoModelForCausalLM

    place = str(name_or_path)
    _check_folder(place)
    shared = {"revision": revision, "trust_remote_code": trust_remote_code}
    with _faults_of_a_model(place):
        tokenizer = _tokenizer(place, shared)
        model, found = AutoModelForCausalLM.from_pretrained(
            place, dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True, **shared
        )
        _generation_config(place, model.config, revision)  # transformers passes over a broken one
    _check_whole(found, place)
    _check_vocabulary(tokenizer, model, place)
    # It is saved with the tokenizer: a checkpoint must not depend on whether its policy was begun from the Hub or read
    # from another checkpoint.
    tokenizer.init_kwargs["is_local"] = True
    model.to(best_device())
    model.eval()
    return Policy(model, tokenizer, _version(place, revision))


def load_recipe_policy(recipe: Recipe, checkpoint: Path | None = None) -> Policy:
    """The model that `policy.model_name_or_path` names, as it is; or a checkpoint of it."""
    settings = recipe.policy
    return load_policy(
        checkpoint or settings.model_name_or_path or "",
        dtype=settings.dtype,
        revision=None if checkpoint else settings.revision,
        trust_remote_code=settings.trust_remote_code,
    )


def load_without_weights(recipe: Recipe, checkpoint: Path | None = None) -> UnloadedPolicy:
    """The tokenizer and the figures of the model that `load_recipe_policy` would load.

    Raises:
        AlignError: if there is no such model, or if its tokenizer or its configuration cannot be read.
    """
    settings = recipe.policy
    return load_text(
        checkpoint or settings.model_name_or_path or "",
        revision=None if checkpoint else settings.revision,
        trust_remote_code=settings.trust_remote_code,
    )


def load_text(
    name_or_path: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> UnloadedPolicy:
    """The tokenizer and the figures of a model in a folder or on the Hub.

    Raises:
        AlignError: if there is no such model, or if its tokenizer or its configuration cannot be read.
    """
    from transformers import AutoConfig

    place = str(name_or_path)
    _check_folder(place)
    shared = {"revision": revision, "trust_remote_code": trust_remote_code}
    with _faults_of_a_model(place):
        tokenizer = _tokenizer(place, shared)
        config = AutoConfig.from_pretrained(place, **shared)
        generation = _generation_config(place, config, revision)
    return UnloadedPolicy(tokenizer, eos_token_ids(tokenizer, generation), context_length(config))


def _generation_config(place: str, config: PreTrainedConfig, revision: str | None) -> GenerationConfig:
    """What says where a model's responses end: its generation_config.json, or its config where it has none.

    Raises:
        AlignError: if an id that stops generation is none.
        OSError: if the file cannot be read.
    """
    from transformers import GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(place, revision=revision)
    except OSError:
        if (Path(place) / GENERATION_CONFIG).is_file():
            raise
        generation = GenerationConfig.from_model_config(config)
    configured = generation.eos_token_id
    for token_id in configured if isinstance(configured, list) else [configured]:
        if token_id is not None and (not isinstance(token_id, int) or token_id < 0):
            raise AlignError(
                f"eos_token_id of its {GENERATION_CONFIG} holds {token_id!r}, which is no token's id",
                where=place,
                hint="write the number of the token that ends a response, or a list of such numbers",
            )
    return generation


def _tokenizer(place: str, shared: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """A model's tokenizer, ready to pad on the left.

    Raises:
        AlignError: if it has no end-of-sequence token.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place, padding_side="left", **shared)
    if tokenizer.eos_token_id is None:
        raise AlignError("the tokenizer has no end-of-sequence token", where=place, hint="set eos_token and save it")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@contextmanager
def _faults_of_a_model(place: str) -> Iterator[None]:
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
        raise AlignError(f"the model cannot be loaded: {what}", where=place, hint=_remedy(place)) from error


def _check_whole(found: Mapping[str, Any], place: str) -> None:
    """Refuse weights that are not those that the config asks for: transformers puts random numbers in their place.

    Args:
        found: transformers' loading info: `missing_keys`, `unexpected_keys`, `mismatched_keys`.
        place: the model.
    """
    kinds = {
        "missing_keys": "lacks tensors that its config asks for",
        "mismatched_keys": "has tensors of other shapes than its config asks for",
        "unexpected_keys": "has tensors that its config knows nothing of",
    }
    for kind, what in kinds.items():
        names = sorted(name if isinstance(name, str) else name[0] for name in found.get(kind) or ())
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise AlignError(
                f"the model {what}: {', '.join(names[:3])}{more}",
                where=place,
                hint="fetch or save it again; or mend its config.json, whose architecture, layers and sizes have to be "
                "those of the weights",
            )


def _check_vocabulary(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, place: str) -> None:
    """Refuse a tokenizer that has ids without a row among the model's embeddings."""
    rows = model.get_input_embeddings().num_embeddings
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


def _remedy(place: str) -> str:
    """What to do about a model that does not load: a folder is damaged, any other name may be a slip of the pen."""
    if Path(place).is_dir():
        return "the folder is damaged or incomplete: restore it, or save it again with save_pretrained (safetensors)"
    hint = "give a folder made by save_pretrained (safetensors), or a Hub id that this machine can reach"
    near = None if "/" in place else nearest(place, [entry.name for entry in Path().iterdir() if entry.is_dir()])
    return f"no folder has this name, so it was taken for a Hub id; did you mean {near}? Or {hint}" if near else hint


def _check_folder(place: str) -> None:
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
    if folder.is_dir() and not (folder / "config.json").is_file():
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


def best_device() -> str:
    """The device that models run on: the first CUDA device, else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def weights_version(folder: Path) -> str:
    """Sixteen hexadecimal digits that stand for the weights in a folder, and for nothing else in it."""
    import hashlib

    parts = [f"{file.name} {checksum(file)}" for file in sorted(folder.glob(WEIGHTS_PATTERN))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _version(place: str, revision: str | None) -> str:
    folder = Path(place)
    return weights_version(folder) if folder.is_dir() else f"{place}@{_hub_commit(place, revision)}"


def _hub_commit(repository: str, revision: str | None) -> str:
    """The commit of a Hub model that was loaded just now: the name of its folder in the cache."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(repository, "config.json", revision=revision)
    return Path(cached).parent.name if isinstance(cached, str) else revision or "main"
