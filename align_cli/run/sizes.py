"""How much disk a recipe's artifacts take, reckoned from its model's shape and its numbers: nothing is measured.

Weights and moments are known to within a header. Of lines of JSON it is known about how long they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from align_cli.playground.model import HIDDEN_SIZE, NUM_LAYERS
from align_cli.recipe import Recipe
from align_cli.recipe.data_names import PLAYGROUND
from align_cli.recipe.sections.policy import PolicySection
from align_cli.run.plan import Step
from align_cli.stages import stage_named
from align_cli.stages.base import (
    CHECKPOINT,
    COMPLETIONS,
    HELD_OUT_LOGPS,
    PREFERENCES,
    REFERENCE_LOGPS,
    SAMPLES,
    TRAINING,
    Amounts,
)
from align_cli.training.checkpoints import OPTIMIZER_NAME

if TYPE_CHECKING:
    from align_cli.stages.inputs import Inputs

BYTES_OF_A_ROW, BYTES_OF_A_TOKEN = 500, 30
"""Of a response in JSON: its prompt and its numbers; and its text, ids and log-probabilities for each of its tokens."""
BYTES_OF_A_STEP, BYTES_OF_LOGPS = 450, 170
MOST_MOMENTS = 2
"""Of an optimizer, for each number that is trained; Adam's."""


class ModelSize(NamedTuple):
    """What training keeps.

    Args:
        checkpoint: bytes of a round's weights.
        optimizer: bytes of the optimizer's state, at most.
    """

    checkpoint: int
    optimizer: int


def model_size(recipe: Recipe, inputs: Inputs) -> ModelSize:
    """Bytes of a checkpoint; no weights are loaded.

    Args:
        recipe: the whole recipe.
        inputs: whose tokenizer a new model has.
    """
    policy, is_half = recipe.policy, recipe.policy.dtype != "float32"
    if policy.lora is not None:
        from align_cli.models.lora import num_adapter_weights

        trained = num_adapter_weights(policy)
        return ModelSize(trained * 4, trained * _moment_bytes(recipe))
    trained = _num_weights(policy, len(inputs.policy.tokenizer))
    return ModelSize(trained * (2 if is_half else 4), trained * (_moment_bytes(recipe) + (4 if is_half else 0)))


def artifact_sizes(step: Step, amounts: Amounts, model: ModelSize) -> dict[str, int]:
    """About how many bytes a step writes, by artifact."""
    responses = amounts.responses * BYTES_OF_A_ROW + amounts.tokens * BYTES_OF_A_TOKEN
    sizes = {
        CHECKPOINT: model.checkpoint,
        COMPLETIONS: responses,
        SAMPLES: responses,
        PREFERENCES: amounts.pairs * 2 * BYTES_OF_A_ROW,
        TRAINING: amounts.steps * BYTES_OF_A_STEP,
        REFERENCE_LOGPS: amounts.asked * BYTES_OF_LOGPS,
        HELD_OUT_LOGPS: amounts.asked * BYTES_OF_LOGPS * (step.round == 1),
    }
    found = {name: sizes[name] for name in stage_named(step.stage).writes if name in sizes}
    if CHECKPOINT in found and step.round:
        found[OPTIMIZER_NAME] = model.optimizer
    return found


def _moment_bytes(recipe: Recipe) -> int:
    """Of each number that is trained, for its moments."""
    is_short = "8bit" in str(recipe.train.training_arguments.get("optim", ""))
    return MOST_MOMENTS * (1 if is_short else 4)


def _num_weights(policy: PolicySection, vocabulary: int) -> int:
    if policy.from_scratch is not None:
        width, layers, embeddings = policy.from_scratch.hidden_size, policy.from_scratch.num_hidden_layers, 1
    elif policy.model_name_or_path == PLAYGROUND:
        width, layers, embeddings = HIDDEN_SIZE, NUM_LAYERS, 2
    else:
        from align_cli.models.load import shape_of

        shape = shape_of(policy)
        return sum(parameter.numel() for parameter in shape.parameters())
    # Of each layer: the four matrices of its attention, and three of its own width by three times that.
    return layers * 13 * width**2 + embeddings * vocabulary * width
