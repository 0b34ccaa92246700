"""Reward models: how they read a prompt with its response, and how they are loaded, scored with and saved.

Two forms. A sequence classifier with one output, as transformers has it; and, for a head on a frozen encoder's mean
feature, which no class of transformers has, a folder in the form of sentence-transformers: the encoder, mean pooling, a
dense layer of one output.

Shapes: B texts, T tokens, H width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers.modeling_outputs import SequenceClassifierOutput

from align_cli.artifacts.records import Text
from align_cli.artifacts.store import write_json
from align_cli.errors import AlignError
from align_cli.models.devices import in_float64
from align_cli.models.memory import loading_a_model
from align_cli.models.refused import check_folder, check_no_adapter, check_whole, faults_of_a_model
from align_cli.models.text import plain_text

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

CLASSIFIER = "ForSequenceClassification"
ROLES = ("user", "assistant")
"""Whose a text prompt and its completion are, for a chat template."""
NO_LIMIT = 10**9
"""From here on a tokenizer's `model_max_length` says that it has none."""

MODULES, POOLING, DENSE = "modules.json", "1_Pooling", "2_Dense"
HEAD_WEIGHT = "linear.weight"
"""The names of sentence-transformers in its folders."""


class Origin(NamedTuple):
    """Which files a model is read from.

    Args:
        place: a Hub id or a folder.
        revision: branch, tag or commit of a Hub model.
        trust_remote_code: whether to run code that ships with it.
    """

    place: str
    revision: str | None = None
    trust_remote_code: bool = False

    @property
    def shared(self) -> dict[str, Any]:
        """What every `from_pretrained` gets."""
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}

    @property
    def is_pooled(self) -> bool:
        """Whether it is a folder of sentence-transformers."""
        return (Path(self.place) / MODULES).is_file()


class Encoded(NamedTuple):
    """A prompt with its response in a model's tokens.

    Args:
        inputs: `input_ids`, and `token_type_ids` where the model has them; lists of one length.
        num_tokens: how many there are, or would be without a limit.
    """

    inputs: dict[str, list[int]]
    num_tokens: int

    @property
    def was_cut(self) -> bool:
        """Whether some tokens were left out."""
        return len(self.inputs["input_ids"]) < self.num_tokens


class RewardReader:
    """Reads prompts and responses as a reward model does.

    A tokenizer with a chat template renders them as a conversation; without one they are two texts side by side. What
    is too long loses its beginning: of two texts the longer one does first.

    Args:
        tokenizer: the model's; it gets a padding token if it has none.
        config: the model's.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.truncation_side = "left"
        self.tokenizer = tokenizer
        limits = [getattr(config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length]
        self.most: int | None = min((limit for limit in limits if limit and limit < NO_LIMIT), default=None)
        """The most tokens that the model can read; None for no bound."""

    def encode(self, prompts: Sequence[Text], completions: Sequence[Text], most: int | None) -> list[Encoded]:
        """Prompts with their responses in tokens, each no longer than `most`; None for no limit."""
        pairs = list(zip(prompts, completions, strict=True))
        whole = self._rows(pairs, None)
        lengths = [len(row["input_ids"]) for row in whole]
        too_long = [index for index, length in enumerate(lengths) if most is not None and length > most]
        for index, row in zip(too_long, self._rows([pairs[index] for index in too_long], most), strict=True):
            whole[index] = row
        return [Encoded(row, length) for row, length in zip(whole, lengths, strict=True)]

    def pad(self, rows: Sequence[Encoded]) -> BatchEncoding:
        """A batch, padded on the right."""
        columns = {name: [row.inputs[name] for row in rows] for name in rows[0].inputs}
        return self.tokenizer.pad(columns, padding_side="right", return_tensors="pt")

    def _rows(self, pairs: Sequence[tuple[Text, Text]], most: int | None) -> list[dict[str, list[int]]]:
        if not pairs:
            return []
        tokenizer = self.tokenizer
        if tokenizer.chat_template:
            texts = [tokenizer.apply_chat_template(_as_chat(*pair), tokenize=False) for pair in pairs]
            rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
            return [{"input_ids": row if most is None else row[-most:]} for row in rows]
        sides = ([plain_text(pair[side]) for pair in pairs] for side in (0, 1))
        limit: dict[str, Any] = {} if most is None else {"truncation": "longest_first", "max_length": most}
        found = tokenizer(*sides, return_attention_mask=False, **limit)
        return [{name: found[name][index] for name in found} for index in range(len(pairs))]


def _as_chat(prompt: Text, completion: Text) -> list[dict[str, Any]]:
    """A conversation: a text prompt is what the user says, a text completion what the assistant says."""
    turns = (prompt, completion)
    asked, said = (
        [{"role": role, "content": turn}] if isinstance(turn, str) else turn
        for role, turn in zip(ROLES, turns, strict=True)
    )
    return [*asked, *said]


class PooledRewardModel(torch.nn.Module):
    """An encoder with a linear head on the mean of its last states: r = w · Σ_t m_t h_t / Σ_t m_t.

    Args:
        encoder: as `AutoModel` loads it.
        weight_1H: w.
    """

    def __init__(self, encoder: PreTrainedModel, weight_1H: torch.Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.linear = torch.nn.Linear(weight_1H.shape[1], 1, bias=False)
        self.linear.weight = torch.nn.Parameter(weight_1H.to(encoder.dtype))

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.encoder.device

    def forward(self, **inputs: torch.Tensor) -> SequenceClassifierOutput:
        """Rewards as the `logits` of a classifier with one output, [B, 1]."""
        return SequenceClassifierOutput(logits=self.linear(mean_states(self.encoder, inputs)))

    def save(self, folder: Path, max_length: int | None) -> None:
        """Write it in the form of sentence-transformers, but for its tokenizer.

        Args:
            folder: an empty one.
            max_length: the longest text in tokens; None for the model's own.
        """
        from safetensors.torch import save_file

        self.encoder.save_pretrained(folder)
        width, package = self.linear.in_features, "sentence_transformers.models"
        kinds = {"": "Transformer", POOLING: "Pooling", DENSE: "Dense"}
        modules = [
            {"idx": index, "name": str(index), "path": path, "type": f"{package}.{kind}"}
            for index, (path, kind) in enumerate(kinds.items())
        ]
        identity = "torch.nn.modules.linear.Identity"
        dense = {"in_features": width, "out_features": 1, "bias": False, "activation_function": identity}
        for path in (POOLING, DENSE):
            (folder / path).mkdir()
        write_json(folder / MODULES, modules)
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
        write_json(
            folder / POOLING / "config.json", {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
        )
        write_json(folder / DENSE / "config.json", dense)
        save_file({HEAD_WEIGHT: self.linear.weight.detach().contiguous()}, folder / DENSE / "model.safetensors")


def mean_states(encoder: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mean of an encoder's last states over each text's tokens, [B, H]."""
    states_BTH = encoder(**inputs).last_hidden_state
    mask_BT1 = inputs["attention_mask"].unsqueeze(-1).to(states_BTH.dtype)
    return (states_BTH * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)


def last_states(decoder: PreTrainedModel, inputs: dict[str, torch.Tensor], pad_token_id: int) -> torch.Tensor:
    """A decoder's last state at each text's last token that is no padding, as its classifier reads it, [B, H]."""
    states_BTH = decoder(**inputs).last_hidden_state
    places_T = torch.arange(states_BTH.shape[1], device=states_BTH.device)
    last_B = (places_T * (inputs["input_ids"] != pad_token_id)).argmax(-1)
    return states_BTH[torch.arange(len(last_B), device=last_B.device), last_B]


def rewards_of(model: torch.nn.Module, inputs: BatchEncoding) -> torch.Tensor:
    """A reward model's scores of a batch, in double precision, [B]."""
    with torch.no_grad():
        return in_float64(model(**inputs.to(model.device)).logits[:, 0])


def check_reward_model(origin: Origin) -> PreTrainedConfig:
    """The config of what is a reward model, by the files beside its weights.

    Raises:
        AlignError: if it is none.
    """
    config = read_config(origin)
    kinds = config.architectures or []
    if origin.is_pooled:
        check_one_output(origin, _dense_config(origin).get("out_features"))
    elif not any(kind.endswith(CLASSIFIER) for kind in kinds):
        raise _untrained(origin, ", ".join(kinds) or "model of no kind")
    else:
        check_one_output(origin, config.num_labels)
    return config


def read_config(origin: Origin) -> PreTrainedConfig:
    """A model's config.

    Raises:
        AlignError: if there is no such model, or if it is or holds an adapter.
    """
    from transformers import AutoConfig

    with faults_of_a_model(origin.place):
        check_folder(origin.place)
        check_no_adapter(origin.place, origin.revision)
        return AutoConfig.from_pretrained(origin.place, **origin.shared)


def check_one_output(origin: Origin, num_outputs: int | None) -> None:
    """Refuse a classifier of several classes.

    Raises:
        AlignError: unless it has one output.
    """
    if num_outputs != 1:
        raise AlignError(
            f"the classifier has {num_outputs} outputs; a reward model has one",
            where=origin.place,
            hint="a classifier of several classes can be called from a labeler of kind function",
        )


def load_tokenizer_of(origin: Origin) -> PreTrainedTokenizerBase:
    """A model's tokenizer.

    Raises:
        AlignError: if it cannot be read.
    """
    from transformers import AutoTokenizer

    with faults_of_a_model(origin.place):
        return AutoTokenizer.from_pretrained(origin.place, **origin.shared)


def load_reward_model(origin: Origin, config: PreTrainedConfig, dtype: str, device: torch.device) -> torch.nn.Module:
    """A reward model with its weights, in evaluation mode.

    Args:
        origin: where it is.
        config: its own; a decoder's says by which token it is padded.
        dtype: name of the torch type of the weights, or `auto`.
        device: where to put it.

    Raises:
        AlignError: if it cannot be read, or if its weights are not those that its config asks for.
    """
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoModelForSequenceClassification

    loading_a_model()
    kind = AutoModel if origin.is_pooled else AutoModelForSequenceClassification
    with faults_of_a_model(origin.place):
        model, found = kind.from_pretrained(
            origin.place, config=config, dtype=dtype, output_loading_info=True, **origin.shared
        )
        head = load_file(Path(origin.place) / DENSE / "model.safetensors")[HEAD_WEIGHT] if origin.is_pooled else None
    check_whole(found, origin.place)
    whole = model if head is None else PooledRewardModel(model, head)
    return whole.to(device).eval()


def _dense_config(origin: Origin) -> dict[str, Any]:
    """The settings of the head of a folder of sentence-transformers.

    Raises:
        AlignError: if it has none, or pools its states in another way.
    """
    folder = Path(origin.place)
    with faults_of_a_model(origin.place):
        kinds = [module["type"].rpartition(".")[2] for module in json.loads((folder / MODULES).read_text("utf-8"))]
        if kinds != ["Transformer", "Pooling", "Dense"]:
            raise _untrained(origin, f"sentence encoder ({', '.join(kinds)})")
        pooling, dense = (json.loads((folder / path / "config.json").read_text("utf-8")) for path in (POOLING, DENSE))
    if pooling.get("pooling_mode", "mean") != "mean" or not pooling.get("pooling_mode_mean_tokens", True):
        raise AlignError("its states are pooled in another way than by their mean", where=origin.place)
    if dense.get("bias") or not str(dense.get("activation_function")).endswith("Identity"):
        raise AlignError("its head is more than a weight for each feature", where=origin.place)
    return dict(dense)


def _untrained(origin: Origin, kind: str) -> AlignError:
    return AlignError(
        f"this is a {kind}, whose head for rewards was never trained",
        where=origin.place,
        hint=f"name a model of a kind that ends in {CLASSIFIER}, or fit one on pairs (section reward)",
    )
