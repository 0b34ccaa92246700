"""Single stages, for chains of commands: what a round does, between files and pipes instead of in a run's folder.

The run's folder serves as the home of the initial policy alone, which the first command makes and the others find.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from align_cli.artifacts.records import Completion, Evaluation, Preference
from align_cli.artifacts.store import read_records
from align_cli.errors import DataError, RunError
from align_cli.models.load import Policy, load_policy
from align_cli.models.text import completion_token_ids, plain_text, prompt_token_ids
from align_cli.recipe import Recipe
from align_cli.run.fingerprints import changes, step_inputs
from align_cli.run.folder import RunFolder
from align_cli.run.plan import Step
from align_cli.run.rounds import Reporter, make_initial_policy_once
from align_cli.run.session import Session
from align_cli.run.steps import load_round_policy, opponent_rounds, upstream
from align_cli.stages.label import LabelledPairs
from align_cli.stages.train import TrainOutcome
from align_cli.training.checkpoints import (
    STATE_NAME,
    TrainingState,
    read_optimizer_state,
    read_training_state,
    save_checkpoint,
)


def generate_once(recipe: Recipe, policy_path: Path | None, reporter: Reporter) -> list[Completion]:
    """The generate stage of the round that follows the policy's.

    Args:
        recipe: the whole recipe.
        policy_path: a checkpoint or any model; None is the initial policy.
        reporter: shown what happens.
    """
    session = Session(recipe)
    _ = session.prompts
    folder = make_initial_policy_once(recipe, reporter)
    policy, state = _given_policy(recipe, folder, policy_path)
    reference = _reference_of(recipe, folder, policy_path) if session.samples_reference else None
    with reporter.stage(state.round + 1, "generate") as session.progress:
        return session.generate(policy, reference, state.round + 1)


def label_once(
    recipe: Recipe, completions: Sequence[Completion], policy_path: Path | None, reporter: Reporter
) -> LabelledPairs:
    """The label stage on given completions.

    Args:
        recipe: the whole recipe.
        completions: what to pair.
        policy_path: the policy that labels its own responses, where a source asks for that; None is the initial one.
        reporter: shown what happens.

    Raises:
        RunError: if no source of the recipe labels completions.
    """
    if not recipe.is_online:
        raise RunError(
            "no source of this recipe labels completions",
            where="method.sources",
            hint="give source dpr a share and a labeler, or dpp or dmd a share",
        )
    session = Session(recipe)
    policy, reference = None, None
    if session.label_needs:
        folder = make_initial_policy_once(recipe, reporter)
        policy, _ = _given_policy(recipe, folder, policy_path)
        reference = _reference_of(recipe, folder, policy_path) if "reference" in session.label_needs else None
    with reporter.stage(completions[0].round, "label") as session.progress:
        return session.label(completions, policy, reference)


def train_once(
    recipe: Recipe, pairs: Sequence[Preference], policy_path: Path | None, output: Path, reporter: Reporter
) -> TrainOutcome:
    """The train stage on given pairs beside the recipe's offline share; writes a checkpoint.

    Args:
        recipe: the whole recipe.
        pairs: preferences; those that are plain text are tokenised.
        policy_path: a checkpoint or any model; None is the initial policy.
        output: becomes the checkpoint; an older checkpoint there is replaced, anything else refused.
        reporter: shown what happens.

    Raises:
        RunError: if `output` holds something that is no checkpoint, or lies in a run.
    """
    if output.exists() and not (output / STATE_NAME).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise RunError("the output is there and is no checkpoint", where=str(output), hint="choose a new folder")
    run = next((parent for parent in output.resolve().parents if (parent / "run.json").is_file()), None)
    if run is not None:
        raise RunError(f"the output lies in the run {run}", where=str(output), hint="choose a folder outside of runs")
    session = Session(recipe)
    folder = make_initial_policy_once(recipe, reporter)
    policy, state = _given_policy(recipe, folder, policy_path)
    optimizer_state = read_optimizer_state(policy_path, state) if policy_path is not None else None
    reference = _reference_of(recipe, folder, policy_path)
    parent = policy.version
    with reporter.stage(state.round + 1, "train") as session.progress:
        _check_texts(pairs)
        tokenised = [_tokenised(pair, policy) for pair in pairs]
        _check_vocabulary(tokenised, policy)
        outcome = session.train(policy, reference, tokenised, state, optimizer_state)
        save_checkpoint(output, policy, replace(outcome.state, parent=parent), session.optimizer())
    return outcome


def evaluate_once(recipe: Recipe, policy_path: Path | None, reporter: Reporter) -> Evaluation:
    """The evaluate stage of a policy, as at the end of its round.

    The opponents' responses are taken from the run's folder where they lie there, and sampled anew otherwise.

    Args:
        recipe: the whole recipe.
        policy_path: a checkpoint or any model; None is the initial policy.
        reporter: shown what happens.
    """
    session = Session(recipe)
    _ = session.eval_prompts, session.eval_rows, session.scorer(recipe.evaluate.scorer)
    folder = make_initial_policy_once(recipe, reporter)
    policy, state = _given_policy(recipe, folder, policy_path)
    reference_round = max(state.round - 1, 0) if recipe.policy.reference == "previous" else 0
    reference, _ = load_round_policy(recipe, folder, reference_round)
    with reporter.stage(state.round, "evaluate") as session.progress:
        opponents = {
            name: _opponent_samples(recipe, folder, session, number)
            for name, number in opponent_rounds(recipe, folder, state.round).items()
        }
        samples = session.evaluation_samples(policy)
        return session.evaluate(policy, reference, state.round, samples, opponents)


def _given_policy(recipe: Recipe, folder: RunFolder, path: Path | None) -> tuple[Policy, TrainingState]:
    if path is None:
        return load_round_policy(recipe, folder, 0)
    _check_checkpoint(path)
    policy = load_policy(path, dtype=recipe.policy.dtype, trust_remote_code=recipe.policy.trust_remote_code)
    return policy, read_training_state(path) or TrainingState(round=0, global_step=0, parent=None)


def _check_checkpoint(path: Path) -> None:
    """Refuse a run's checkpoint that is not what its manifest says; another model has nothing to compare it with.

    Raises:
        RunError: if files of it are damaged or missing.
    """
    place = path if len(path.parts) > 3 else path.resolve()
    round_folder, run = place.parent, RunFolder(place.parent.parent.parent)
    if not (run.exists and round_folder.parent.name == "rounds" and round_folder.name.isdecimal()):
        return
    if run.recorded_checksum(int(round_folder.name), place.name) is not None:
        run.verified(int(round_folder.name), place.name)


def _reference_of(recipe: Recipe, folder: RunFolder, path: Path | None) -> Policy:
    """The reference of the round that follows a policy's; always another object than the policy."""
    reference, _ = _given_policy(recipe, folder, path if recipe.policy.reference == "previous" else None)
    return reference


def _opponent_samples(recipe: Recipe, folder: RunFolder, session: Session, number: int) -> list[Completion]:
    step = Step(number, "evaluate")
    record = folder.finished(step)
    if record is not None and not changes(record["inputs"], step_inputs(recipe, step, upstream(folder, recipe, step))):
        return read_records(folder.verified(number, "samples.jsonl"), Completion)
    if number and folder.recorded_checksum(number, "checkpoint") is None:
        raise RunError(
            f"the previous policy, of round {number}, is not in the run's folder",
            where=str(folder.path),
            hint="evaluate against the initial policy alone: evaluate.against=[initial]",
        )
    opponent, _ = load_round_policy(recipe, folder, number)
    return session.evaluation_samples(opponent)


def _check_texts(pairs: Sequence[Preference]) -> None:
    for index, pair in enumerate(pairs):
        text = "".join(plain_text(part) for part in (pair.prompt, pair.chosen, pair.rejected))
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise DataError(
                f"pair {index} holds half a surrogate pair, which is no text", hint="replace it, or leave the pair out"
            )


def _check_vocabulary(pairs: Sequence[Preference], policy: Policy) -> None:
    size = policy.model.get_input_embeddings().num_embeddings
    for index, pair in enumerate(pairs):
        ids = [*(pair.prompt_ids or []), *(pair.chosen_ids or []), *(pair.rejected_ids or [])]
        if not all(0 <= token_id < size for token_id in ids):
            raise DataError(
                f"pair {index} holds token ids that the policy's vocabulary of {size} has not",
                hint="these pairs come from another model: leave their prompt_ids, chosen_ids and rejected_ids out",
            )


def _tokenised(pair: Preference, policy: Policy) -> Preference:
    """The pair with token ids; those that it came with are the ones that were sampled, and stay."""
    if pair.prompt_ids and pair.chosen_ids and pair.rejected_ids:
        return pair
    prompt_ids = prompt_token_ids(policy.tokenizer, pair.prompt)
    return replace(
        pair,
        prompt_ids=prompt_ids,
        chosen_ids=completion_token_ids(policy.tokenizer, pair.prompt, prompt_ids, pair.chosen),
        rejected_ids=completion_token_ids(policy.tokenizer, pair.prompt, prompt_ids, pair.rejected),
    )
