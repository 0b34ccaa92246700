"""What a stage is, and all that it is given: run/ and the single commands know stages through this file alone.

A stage turns artifacts into artifacts. It declares, beside what it does: when it is due, the recipe keys that its
results depend on, what it reads, writes and needs loaded, what can be wrong before anything is loaded, and what a fork
must not change. The same object serves a run, whose artifacts are files, and a chain of commands, whose artifacts are
pipes.

A new stage is one file with one object, and a line in the table of `stages/__init__.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeVar

from align_cli.artifacts.journal import Journal
from align_cli.artifacts.records import Record
from align_cli.engines.base import Engine
from align_cli.labelers import Labeler
from align_cli.models.load import Policy
from align_cli.recipe import Recipe
from align_cli.training.checkpoints import TrainingState

if TYPE_CHECKING:
    from align_cli.stages.inputs import Inputs
    from align_cli.stages.readable import RowsToRead
    from align_cli.stages.said_before import SaidBefore
    from align_cli.training.trainer import PreferenceTrainer

CHECKPOINT = "checkpoint"
"""The artifact that holds a round's policy, and where its training stands."""

COMPLETIONS, PREFERENCES, TRAINING = "completions.jsonl", "preferences.jsonl", "training.jsonl"
SAMPLES, EVALUATION = "samples.jsonl", "evaluation.json"
REFERENCE_LOGPS = "reference_logps.jsonl"
"""What the reference said of a round's pairs, those aside that it had been asked about in an earlier round."""
HELD_OUT_LOGPS = "held_out_logps.jsonl"
"""The same of held-out pairs."""

POLICY_KEYS = ("seed", "policy", "playground", "reviews")
"""Keys that every stage depends on: which model it is, and which random numbers."""

REWARD, REWARD_TRAINING = "reward.json", "reward_training.jsonl"
"""Beside the artifact `REWARD_MODEL`: what the reward model that a run fits is worth, and how its training went."""

FORM_KEYS = tuple(f"data.{name}" for name in ("criterion", "pairs", "as_chat", "system_prompt", "thinking"))
"""Keys that say what is made of a dataset's rows."""

_LENGTHS = ("max_prompt_tokens", "max_completion_tokens", "too_long")
READING_KEYS = (*FORM_KEYS, *(f"data.{name}" for name in _LENGTHS))
"""Keys that every stage which reads data depends on: what is made of its rows, and how long they may be."""


def asked_labelers(recipe: Recipe, names: Iterable[str]) -> list[str]:
    """Labelers, and those that they ask in their turn; none is named twice."""
    return list(dict.fromkeys(one for name in names for one in (name, *recipe.labelers[name].asks())))


def labeler_keys(recipe: Recipe, names: Iterable[str]) -> tuple[str, ...]:
    """The recipe keys of labelers, and of those that they ask in their turn."""
    return tuple(f"labelers.{name}" for name in asked_labelers(recipe, names))


def labeler_artifacts(recipe: Recipe, names: Iterable[str]) -> list[Artifact]:
    """The artifacts of round 0 that labelers, and those that they ask in their turn, are made from."""
    read = [artifact for name in asked_labelers(recipe, names) for artifact in recipe.labelers[name].artifacts()]
    return [Artifact(0, name) for name in dict.fromkeys(read)]


def questions_for(recipe: Recipe, name: str, completions: int, pairs: int) -> dict[str, int]:
    """How many questions a labeler and those that it asks in its turn are asked, by name.

    Args:
        recipe: the whole recipe.
        name: the labeler's.
        completions: those that whoever gives scores is asked about.
        pairs: those that whoever gives verdicts is asked about.
    """
    gives = {
        one: recipe.labelers[one].gives for one in asked_labelers(recipe, [name]) if not recipe.labelers[one].asks()
    }
    return {one: completions if kind == "scores" else pairs for one, kind in gives.items()}


RecordType = TypeVar("RecordType", bound=Record)


class Artifact(NamedTuple):
    """Something that a stage writes in a round's folder."""

    round: int
    name: str


def policy_artifact(history: History, round_number: int) -> Artifact:
    """What stands for the policy that a round made: its checkpoint, or the figures of the training that made it.

    Rounds between checkpoints have none; their training is done again where their policy is needed.
    """
    checkpoint, training = Artifact(round_number, CHECKPOINT), Artifact(round_number, TRAINING)
    return training if history.holds(training) and not history.holds(checkpoint) else checkpoint


class Progress(Protocol):
    """Told by a stage how far it is; what becomes of that is the caller's business."""

    def start(self, total: int, unit: str) -> None:
        """Work begins: `total` units of it, such as 512 completions."""
        ...

    def advance(self, amount: int = 1) -> None:
        """`amount` more units are done."""
        ...

    def found(self, amount: int) -> None:
        """`amount` units were done already, by a process that was killed."""
        ...


class NoProgress:
    """Progress that nobody watches."""

    def start(self, total: int, unit: str) -> None:
        """Nothing happens."""

    def advance(self, amount: int = 1) -> None:
        """Nothing happens."""

    def found(self, amount: int) -> None:
        """Nothing happens."""


class Work(Protocol):
    """Work in progress of a step: what a killed process left of it, and where it is kept."""

    keeps_checkpoints: bool
    """Whether it takes in any."""

    def journal(self, name: str) -> Journal:
        """The journal of this name; what was done before an interruption is in it already."""
        ...

    def checkpoint(self) -> Path | None:
        """The newest checkpoint from within the step that is whole, or None."""
        ...

    def keep_checkpoint(self, number: int, save: Callable[[Path], object]) -> None:
        """Take in a checkpoint from within the step: its place in the order, and what writes it into a folder."""
        ...

    def keep_parts(self, number: int, save: Callable[[Path], Mapping[str, str]]) -> None:
        """As `keep_checkpoint`, for one that many processes write; gives the checksums of what they have written."""
        ...

    def drop_checkpoints(self) -> None:
        """The step begins again."""
        ...


class NoWork:
    """Work that nobody resumes."""

    keeps_checkpoints = False

    def journal(self, name: str) -> Journal:
        """A journal in memory."""
        return Journal()

    def checkpoint(self) -> Path | None:
        """None."""
        return None

    def keep_checkpoint(self, number: int, save: Callable[[Path], object]) -> None:
        """Nothing happens."""

    def keep_parts(self, number: int, save: Callable[[Path], Mapping[str, str]]) -> None:
        """Nothing happens."""

    def drop_checkpoints(self) -> None:
        """Nothing happens."""


class History(Protocol):
    """What is known of the rounds that are over."""

    def holds(self, artifact: Artifact) -> bool:
        """Whether a finished stage wrote this, though it may have been let go since."""
        ...

    def base(self, round_number: int) -> int:
        """The round whose policy the next one starts from: this one, unless a guard rolled it back."""
        ...


class Artifacts(History, Protocol):
    """Where the artifacts of a step lie: in a run's folder, or in pipes."""

    def read(self, artifact: Artifact, kind: type[RecordType]) -> list[RecordType] | None:
        """The records of an artifact, verified; None where pipes do not bring it.

        Raises:
            RunError: if it is missing from a run's folder, or is not what was written.
        """
        ...

    def write(self, name: str, rows: Sequence[Record] | Sequence[dict[str, float]]) -> None:
        """JSON Lines of the step's round."""
        ...

    def write_document(self, name: str, record: Record) -> None:
        """A record that is a document of its own."""
        ...

    def is_same(self, name: str, rows: Sequence[dict[str, float]]) -> bool:
        """Whether the JSON Lines of the step's round are these."""
        ...

    def place(self, name: str) -> Path:
        """Where a folder of the step's round goes."""
        ...

    @property
    def keeps_policy(self) -> bool:
        """Whether the step's round ends with a checkpoint."""
        ...


class Measure(Protocol):
    """A measure of items, of which several processes take a batch each."""

    ways: int
    """How many batches are best measured at once."""

    def __call__(self, items: Sequence[Any], batch_size: int) -> list[float]:
        """A number for each item; those of a batch are measured together."""
        ...


class Loaded(Protocol):
    """What is in memory: each thing loaded once, when it is first needed, and kept from step to step."""

    inputs: Inputs
    state: TrainingState
    """Where the training of the policy stands."""
    said_before: Mapping[str, SaidBefore]
    """What the reference said in rounds that are over, by the artifact's name."""

    @property
    def engine(self) -> Engine:
        """What generates text."""
        ...

    def labeler(self, name: str) -> Labeler:
        """The recipe's labeler with this name."""
        ...

    def made(self, policy: Policy) -> None:
        """This is the initial policy."""
        ...

    def policy_after(self, round_number: int) -> Policy:
        """The policy after this many rounds."""
        ...

    def another_policy(self, round_number: int) -> Policy:
        """The policy after this many rounds, beside the one that is trained."""
        ...

    def reference_for(self, round_number: int, *, in_name: bool = False) -> Policy:
        """The reference of a round's training and evaluation: always the same object, since the trainer holds it.

        To be asked for after the policy. With `in_name`, its version is enough, and its weights may be away.
        """
        ...

    def let_go_of_reference(self) -> None:
        """The reference's weights may leave the memory until it is asked for again."""
        ...

    def trainer(self, round_number: int) -> PreferenceTrainer:
        """The trainer of the policy and the reference in memory."""
        ...

    def measure(self, function: str, policy: Policy, reference: Policy, *rest: Any) -> Measure:
        """A measure of items by what both models say of them, taken in all processes that there are.

        Args:
            function: `package.module:name` of it; called with policy, reference, items and the rest.
            policy: the one.
            reference: the other.
            rest: what else it takes.
        """
        ...

    def go_on_within(self, round_number: int, checkpoint: Path) -> bool:
        """Take policy and state from a checkpoint within a round's training; False if it holds no such state."""
        ...

    def optimizer_state(self, round_number: int) -> dict[str, Any] | None:
        """What the optimizer begins a round with; None where the one in memory, or a new one, is right."""
        ...

    def begin_again(self, round_number: int) -> None:
        """Put policy, reference and state back to where the round's training began."""
        ...

    def trained(self, round_number: int, state: TrainingState) -> None:
        """The policy in memory is now the one after this round, and its training stands there."""
        ...

    def halved(self, round_number: int, micro_batch: int) -> None:
        """From this round on a forward pass holds so many pairs, also in the processes that come after this one."""
        ...

    def fall_back(self, round_number: int) -> int | None:
        """Give up a round whose training diverged: put back the best round's policy, and say which round that is.

        None, and nothing is changed, where the recipe or the evaluations do not say so.
        """
        ...


@dataclass
class Context:
    """A step's surroundings.

    Args:
        recipe: the whole recipe.
        round: 0 is the initial policy's.
        artifacts: what it reads and writes.
        loaded: models, inputs and labelers.
        work: what is kept in case of a kill.
        progress: told how far it is.
        note: told what a user should know.
        on_record: told the figures of each optimizer step of a round's training, and which it is, from 1.
    """

    recipe: Recipe
    round: int
    artifacts: Artifacts
    loaded: Loaded
    work: Work
    progress: Progress
    note: Callable[[str], None]
    on_record: Callable[[int, Mapping[str, float]], None] = lambda step, record: None


class Done(NamedTuple):
    """What a step has done.

    Args:
        figures: for the ledger.
        continues_from: the round whose policy the next round starts from, where it is not this one.
        planned_rounds: how many rounds were planned, where a replay has to know.
    """

    figures: dict[str, Any]
    continues_from: int | None = None
    planned_rounds: int | None = None


class Amounts(NamedTuple):
    """How much a step has to do, at most.

    Args:
        steps: of an optimizer.
        pairs: that are made, or that the steps train on, every use counted.
        responses: that are sampled.
        tokens: of those, or of what the steps train on.
        asked: pairs whose log-probabilities a model is asked for: the reference before the first step, or the policy
            where they are held out.
        questions: completions or pairs that each labeler is asked about, by its name.
    """

    steps: int = 0
    pairs: int = 0
    responses: int = 0
    tokens: int = 0
    asked: int = 0
    questions: Mapping[str, int] = MappingProxyType({})

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**self._asdict(), "questions": dict(self.questions)}


class ForkKeys(NamedTuple):
    """Keys that a fork has to leave as they were, and those below them that it may change all the same."""

    fixed: tuple[str, ...] = ()
    free: tuple[str, ...] = ()


class Stage(ABC):
    """One stage of a round."""

    name: ClassVar[str]
    writes: ClassVar[tuple[str, ...]]
    """Its artifacts, by name in the round's folder; a checkpoint may be left out."""
    memory_remedy: ClassVar[str] = "take a smaller model"
    """What makes it take less memory."""

    @abstractmethod
    def is_due(self, recipe: Recipe, round_number: int) -> bool:
        """Whether a recipe has this stage in a round; round 0 is the initial policy's."""

    @abstractmethod
    def keys(self, recipe: Recipe) -> tuple[str, ...]:
        """The recipe keys that its results depend on; a name stands for everything below it."""

    @abstractmethod
    def reads(self, recipe: Recipe, history: History, round_number: int) -> list[Artifact]:
        """The artifacts that it is made from; those that a round does not hold are left out."""

    def takes_over(self, recipe: Recipe, history: History, round_number: int) -> list[Artifact]:
        """What it wrote in earlier rounds and need not find out again.

        It is verified when it is read, like all else, and stands in no record of what a result depends on: whatever
        made it anew would make the policy anew that the round starts from. So a record does not grow with the rounds.
        """
        return []

    @abstractmethod
    def carry_out(self, context: Context) -> Done:
        """Do the work, from wherever a killed process left it."""

    def replay(self, context: Context) -> None:  # noqa: B027 - most stages leave all that they made on disk
        """Make again what a finished step left in memory alone; nothing is written.

        Raises:
            RunError: if it is not what it was.
        """

    def is_ahead(self, recipe: Recipe, round_number: int) -> bool:
        """Whether a round has it done before the training of the round before, or beside that."""
        return False

    def needs(self, recipe: Recipe) -> tuple[str, ...]:
        """What it needs loaded: of `policy` and `reference`."""
        return ("policy", "reference")

    def check(self, recipe: Recipe, loaded: Loaded) -> None:  # noqa: B027 - most stages have nothing to check
        """Look at what can be wrong before any model is loaded or anything is written.

        Raises:
            AlignError: for the first input that cannot be used.
        """

    def to_read(self, recipe: Recipe, inputs: Inputs) -> list[RowsToRead]:
        """The rows that the policy has to read: all are read once its tokenizer is there, before its weights are."""
        return []

    def too_long(self, recipe: Recipe, inputs: Inputs) -> dict[str, dict[str, int]]:
        """Of the rows that it reads, how many were left out or cut for their length, by key; keys without any aside."""
        return {rows.key: found for rows in self.to_read(recipe, inputs) if (found := rows.too_long())}

    def shortages(self, recipe: Recipe, inputs: Inputs) -> list[str]:
        """Where there are fewer rows than the recipe asks for, one sentence each."""
        return []

    def amounts(self, recipe: Recipe, inputs: Inputs, round_number: int) -> Amounts:
        """How much it has to do in a round, at most, by the recipe and the rows that it reads; loads no weights."""
        return Amounts()

    def fork_keys(self, recipe: Recipe) -> ForkKeys:
        """What the rounds of a fork have to have in common with those that it took over."""
        return ForkKeys()
