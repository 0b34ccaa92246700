"""A linear head on a model that stays as it is: the features of every text once, then the minimum of a convex loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from align_cli.artifacts.files import writing_folder
from align_cli.methods.linear_reward import fit_linear_reward
from align_cli.models.devices import in_float64
from align_cli.models.memory import out_of_memory_as_memory_error
from align_cli.models.reward_bases import RewardBase
from align_cli.models.reward_models import Encoded, PooledRewardModel
from align_cli.recipe.sections.reward import RewardSection
from align_cli.training.reward_rows import RewardRow

FEATURES = "features.safetensors"


def save_features(folder: Path, features_BH: torch.Tensor) -> None:
    """Keep the features of the texts that are done."""
    from safetensors.torch import save_file

    with writing_folder(folder) as temporary:
        save_file({"features": features_BH.contiguous()}, temporary / FEATURES)


def read_features(folder: Path | None) -> list[torch.Tensor]:
    """What `save_features` kept, as batches; none without a folder."""
    from safetensors.torch import load_file

    return [] if folder is None else [load_file(folder / FEATURES)["features"]]


def features_of(
    base: RewardBase,
    texts: Sequence[Encoded],
    batch_size: int,
    done: Sequence[torch.Tensor],
    on_batch: Callable[[list[torch.Tensor]], None],
) -> torch.Tensor:
    """The features of texts, batch by batch, those of a length together; what is done is not done again.

    Args:
        base: whose.
        texts: in tokens.
        batch_size: texts a forward pass.
        done: batches of features from before, in the order of this function.
        on_batch: called with all batches so far after each.

    Returns:
        [N, H], in the order of the texts.

    Raises:
        MemoryError: if a batch does not fit.
    """
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index].inputs["input_ids"]))
    batches = list(done)
    for start in range(sum(map(len, batches)), len(texts), batch_size):
        inputs = base.reader.pad([texts[index] for index in order[start : start + batch_size]])
        with torch.no_grad(), out_of_memory_as_memory_error():
            batches.append(base.features(dict(inputs.to(base.model.device))).float().cpu())
        on_batch(batches)
    features_NH = torch.cat(batches)
    return features_NH[torch.tensor(order).argsort()]


def fit_head(rows: Sequence[RewardRow], features_NH: torch.Tensor, section: RewardSection) -> torch.Tensor:
    """The weights of a head.

    Args:
        rows: the pairs.
        features_NH: of the chosen responses, then of the rejected ones.
        section: the penalties.

    Returns:
        A weight for each feature, [H], in double precision.
    """
    chosen_NH, rejected_NH = in_float64(features_NH).chunk(2)
    return fit_linear_reward(
        chosen_NH,
        rejected_NH,
        torch.tensor([row.label for row in rows], dtype=torch.float64),
        torch.tensor([row.margin for row in rows], dtype=torch.float64),
        ridge=section.ridge,
        centering=section.center_rewards_coefficient or 0.0,
    )


def with_head(base: RewardBase, weight_H: torch.Tensor) -> torch.nn.Module:
    """The base with this head: a decoder's classifier, or an encoder with a head on its mean state."""
    weight_1H = weight_H.float().unsqueeze(0)
    if base.is_decoder:
        score: torch.nn.Linear = base.model.score
        score.weight.data.copy_(weight_1H)
        return base.model
    return PooledRewardModel(base.model.base_model, weight_1H).to(base.model.device).eval()
