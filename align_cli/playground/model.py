"""Small models made from scratch: the playground's policy, and any other from a list of texts.

What is written loads with `AutoModelForCausalLM` and `AutoTokenizer` like any downloaded model. Weights are random and
depend on the seed alone: the caller's random state is neither read nor moved. Trains no model, only tokenizers.

For a qwen2 model `AutoTokenizer` insists on `Qwen2Tokenizer`, which keeps a tokenizer's vocabulary and merges and puts
its own rules around them. So a qwen2 model gets a tokenizer of that class from the start, the playground's too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align_cli.errors import RecipeError, nearest
from align_cli.playground.grammar import vocabulary
from align_cli.seeds import derive_seed

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

PAD_TOKEN = "<pad>"
EOS_TOKEN = "<eos>"
UNKNOWN_TOKEN = "<unk>"
NUM_BYTES = 256
ENOUGH_TO_MERGE_ALL_WORDS = 10_000

CONTEXT_LENGTH = 128
"""Tokens that the playground's policy can read."""

ARCHITECTURES = ("llama", "qwen2")
HIDDEN_SIZE, NUM_LAYERS = 64, 2
"""Of the playground's policy."""


def make_policy(folder: Path, seed: int, architecture: str = "llama") -> None:
    """The playground's untrained policy: 0.13M random weights (qwen2: 0.2M) and a tokenizer of whole words.

    With llama the tokens are the words and `<unk>`; with qwen2 they are the words, their pieces and all bytes.

    Args:
        folder: where to; made if missing.
        seed: of the weights.
        architecture: one of `ARCHITECTURES`.

    Raises:
        RecipeError: if the architecture is not known.
    """
    _write_model(
        folder,
        policy_tokenizer(architecture),
        seed=seed,
        architecture=architecture,
        hidden_size=HIDDEN_SIZE,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=False,
    )


def policy_tokenizer(architecture: str = "llama") -> PreTrainedTokenizerFast:
    """The tokenizer of the playground's policy.

    Raises:
        RecipeError: if the architecture is not known.
    """
    _check_architecture(architecture)
    if architecture == "qwen2":
        return train_tokenizer(vocabulary(), ENOUGH_TO_MERGE_ALL_WORDS, architecture)
    return make_word_tokenizer(vocabulary())


def make_model_from_scratch(
    folder: Path,
    texts: Iterable[str],
    *,
    seed: int,
    architecture: str,
    vocab_size: int,
    hidden_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    max_position_embeddings: int,
) -> None:
    """A causal language model with random weights, and a byte-level tokenizer trained on the texts.

    Args:
        folder: where to; made if missing.
        texts: what the tokenizer learns from.
        seed: of the weights.
        architecture: one of `ARCHITECTURES`.
        vocab_size: of the tokenizer, at least 258; fewer tokens where the texts have no more to merge.
        hidden_size: a multiple of `num_attention_heads`, with an even quotient.
        num_hidden_layers: at least 1.
        num_attention_heads: at least 1; as many key-value heads.
        max_position_embeddings: the longest prompt and completion together, in tokens.

    Raises:
        RecipeError: if a size cannot be, or the architecture is not known.
    """
    _check_architecture(architecture)
    unit = 2 * num_attention_heads
    if hidden_size % unit:
        raise RecipeError(f"hidden_size is {hidden_size}; it must be a multiple of twice num_attention_heads, {unit}")
    _write_model(
        folder,
        train_tokenizer(texts, vocab_size, architecture),
        seed=seed,
        architecture=architecture,
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        max_position_embeddings=max_position_embeddings,
        tie_word_embeddings=True,
    )


def train_tokenizer(texts: Iterable[str], vocab_size: int, architecture: str = "llama") -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; the same texts give the same tokenizer.

    Where a prompt ends with a word and its completion starts with a space, the ids of both together are the prompt's
    ids and then the completion's.

    Args:
        texts: what to learn merges from.
        vocab_size: at least 258: 256 bytes, `<pad>` and `<eos>`.
        architecture: which model's tokenizer class it has to be, one of `ARCHITECTURES`.

    Raises:
        RecipeError: if `vocab_size` is too small, or the architecture is not known.
    """
    _check_architecture(architecture)
    special_tokens = [PAD_TOKEN, EOS_TOKEN]
    smallest = NUM_BYTES + len(special_tokens)
    if vocab_size < smallest:
        raise RecipeError(f"vocab_size is {vocab_size}; a byte-level tokenizer needs at least {smallest}")

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.ByteLevel()
    if architecture == "qwen2":
        rules = Qwen2Tokenizer().backend_tokenizer
        tokenizer.normalizer, tokenizer.pre_tokenizer = rules.normalizer, rules.pre_tokenizer
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special_tokens,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if architecture == "qwen2":
        learned = json.loads(tokenizer.to_str())["model"]
        merges: Any = [tuple(merge) for merge in learned["merges"]]
        return Qwen2Tokenizer(vocab=learned["vocab"], merges=merges, unk_token=EOS_TOKEN, **_conventions())
    return _wrap(tokenizer)


def make_word_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the given words, each with the space before it where it has one.

    Decoding joins the tokens as they are; a word that is not listed becomes `<unk>`.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    tokens = [PAD_TOKEN, EOS_TOKEN, UNKNOWN_TOKEN, *words]
    ids = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN_TOKEN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[^ ]+"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return _wrap(tokenizer, unk_token=UNKNOWN_TOKEN)


def _check_architecture(architecture: str) -> None:
    if architecture not in ARCHITECTURES:
        close = nearest(architecture, ARCHITECTURES)
        raise RecipeError(
            f"no architecture is called {architecture!r}; there are {' and '.join(ARCHITECTURES)}",
            hint=f"did you mean {close}?" if close else "",
        )


def _wrap(tokenizer: Tokenizer, **special_tokens: str) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_conventions(), **special_tokens)


def _conventions() -> dict[str, Any]:
    return {
        "pad_token": PAD_TOKEN,
        "eos_token": EOS_TOKEN,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }


def _write_model(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    architecture: str,
    hidden_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    max_position_embeddings: int,
    tie_word_embeddings: bool,
) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        num_key_value_heads=num_attention_heads,
        max_position_embeddings=max_position_embeddings,
        tie_word_embeddings=tie_word_embeddings,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(derive_seed(seed, "playground", "weights"))
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.model_max_length = max_position_embeddings
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
