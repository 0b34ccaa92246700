"""Which model a recipe means: its own, or a checkpoint of it, whole or an adapter on it."""

from __future__ import annotations

from pathlib import Path

from align_cli.models.load import Policy, UnloadedPolicy, load_as, load_without_weights, shape_of
from align_cli.models.quantized import check_quantization
from align_cli.recipe import Recipe


def load_recipe_policy(recipe: Recipe, checkpoint: Path | None = None, beside: Policy | None = None) -> Policy:
    """The model that the recipe starts from, or a checkpoint of it.

    Args:
        recipe: the whole recipe.
        checkpoint: a folder of a run; None for what `policy` names.
        beside: the policy that is trained, if it is in memory; an adapter then shares its base, and is frozen.

    Raises:
        AlignError: if it cannot be had.
    """
    settings = recipe.policy
    if settings.lora is not None:
        from align_cli.models.adapters import AdaptedModel, AdapterPolicy

        if isinstance(beside, AdapterPolicy):
            return beside.adapted.frozen(checkpoint)
        return AdaptedModel(settings, recipe.seed).policy(checkpoint)
    return load_as(settings, checkpoint or settings.model_name_or_path or "", None if checkpoint else settings.revision)


def load_recipe_tokenizer(recipe: Recipe, checkpoint: Path | None = None) -> UnloadedPolicy:
    """The tokenizer and the figures of the model that `load_recipe_policy` would load.

    Raises:
        AlignError: if there is no such model, if its tokenizer or its configuration cannot be read, or if its attention
            or its bits cannot be had as the recipe says.
    """
    settings = recipe.policy
    if settings.lora is not None:
        checkpoint = None  # whose tokenizer is its base's
    unloaded = load_without_weights(
        checkpoint or settings.model_name_or_path or "",
        revision=None if checkpoint else settings.revision,
        trust_remote_code=settings.trust_remote_code,
    )
    if checkpoint is None:
        check_quantization(settings)
    if settings.attn_implementation is not None:
        shape_of(settings)
    return unloaded
