"""Which rows a recipe means: prompts, demonstrations and offline pairs, from a world or from files.

The one place where a built-in world is told from a file; behind it every row is like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from align_cli.artifacts import remembered
from align_cli.artifacts.json_text import to_json
from align_cli.data import rows as data_rows
from align_cli.data.chats import Form, in_form
from align_cli.data.formats.base import Choices
from align_cli.data.rows import Row, place_of
from align_cli.data.sources import content_of
from align_cli.errors import AlignError, DataError
from align_cli.labelers.code_files import code_files
from align_cli.models.of_recipe import load_recipe_tokenizer
from align_cli.playground import reviews, world
from align_cli.recipe import Recipe
from align_cli.recipe.data_names import PLAYGROUND, REVIEWS, DataName
from align_cli.recipe.sections.worlds import ReviewsSection

if TYPE_CHECKING:
    from align_cli.models.load import UnloadedPolicy

Rows = Sequence[Mapping[str, Any]]


class PairRows(NamedTuple):
    """Offline pairs, and how many rows the reader had to leave out, by reason."""

    rows: Rows
    dropped: dict[str, int]


class Reading:
    """How a recipe wants the rows of files; which form that is may depend on whether the policy chats.

    Args:
        recipe: the whole recipe.
        reader: the folder of the model that reads them; None is the initial policy.
    """

    def __init__(self, recipe: Recipe, reader: Path | None = None) -> None:
        self._recipe, self._reader = recipe, reader
        self.choices = Choices(recipe.data.criterion, recipe.data.pairs)

    def rows(self, name: str, key: str, read: Callable[..., data_rows.Rows]) -> data_rows.Rows:
        """The rows of a file, a folder or a Hub id as the recipe wants them, each with its arguments for the template
        of chats; those of a large file that was read before, as it is now and in the same way, are not read again.

        Args:
            name: what the recipe names.
            key: where it does.
            read: one of the readers of `data`.

        Raises:
            DataError: for rows that cannot be read, or cannot be what is wanted.
            AlignError: if the policy's tokenizer cannot be read.
        """
        content = content_of(name)
        known = None if content is None else self._key(name, content, read.__name__)
        if known is not None and (found := data_rows.Rows.recalled(known)) is not None:
            return found
        rows = self._in_form(read(name, choices=self.choices), key)
        if known is not None and content_of(name) == content:  # else it was written to while it was read
            rows.keep(known)
        return rows

    def _in_form(self, rows: data_rows.Rows, key: str) -> data_rows.Rows:
        asks = self._recipe.data.as_chat == "auto" and rows.facts.texts > 0
        return in_form(rows, self._form(policy_chats=asks and self._policy_chats), key)

    def _key(self, name: str, content: str, reader: str) -> str | None:
        """What stands for the rows of a source in their form; None where nothing says yet which form that is."""
        try:
            form = self._form(policy_chats=self._recipe.data.as_chat == "auto" and self._policy_chats)
        except AlignError:  # which is told when it is needed
            return None
        # A row's place begins with its source's name.
        return remembered.key_of("rows", name, content, reader, asdict(self.choices), asdict(form))

    def _form(self, *, policy_chats: bool) -> Form:
        data, shared = self._recipe.data, self._recipe.policy.chat_template_kwargs
        return Form(data.as_chat, policy_chats, data.system_prompt, data.thinking, dict(shared or {}))

    @property
    def _policy_chats(self) -> bool:
        return self.policy is not None and bool(self.policy.tokenizer.chat_template)

    @cached_property
    def policy(self) -> UnloadedPolicy | None:
        """What is known of the model that reads; None of an initial one that has to be made first: it never chats."""
        settings = self._recipe.policy
        is_made = settings.from_scratch is not None or settings.model_name_or_path == PLAYGROUND
        return None if is_made and self._reader is None else load_recipe_tokenizer(self._recipe, self._reader)


def training_prompts(recipe: Recipe, reading: Reading | None = None) -> Rows:
    """`data.prompts`; the prompts of `data.demonstrations` where a recipe leaves them out.

    Raises:
        DataError: if there are none.
    """
    if recipe.data.prompts is None and recipe.data.demonstrations is not None:
        return _prompts_shown(demonstrations(recipe, reading))
    return _prompts(recipe, reading, recipe.data.prompts, "data.prompts", world.prompts, reviews.prompts)


def _prompts_shown(shown: Rows) -> data_rows.Rows:
    """The prompts of demonstrations, each once, where it comes first."""
    identity = shown.identity if isinstance(shown, data_rows.Rows) else None
    if identity is None:
        return data_rows.Rows(_each_once(shown))
    key = remembered.key_of("prompts of", identity)
    prompts = data_rows.Rows.recalled(key)
    if prompts is None:
        prompts = data_rows.Rows(_each_once(shown))
        prompts.keep(key)
    return prompts


def _each_once(shown: Rows) -> Iterator[Row]:
    seen: set[bytes] = set()
    for index, row in enumerate(shown):
        fields = {key: value for key, value in row.items() if key != "completion"}
        digest = blake2b(to_json(fields).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest not in seen:  # of so many bits no two are met that are the same
            seen.add(digest)
            yield Row(fields, place_of(row, index), made_of=row.made_of if isinstance(row, Row) else "")


def evaluation_prompts(recipe: Recipe, reading: Reading | None = None) -> Rows:
    """`data.eval_prompts`.

    Raises:
        DataError: if there are none.
    """
    key, name = "data.eval_prompts", recipe.data.eval_prompts
    return _prompts(recipe, reading, name, key, world.eval_prompts, reviews.eval_prompts)


def offline_pairs(recipe: Recipe, reading: Reading | None = None) -> PairRows:
    """`data.preferences`."""
    key, name = "data.preferences", recipe.data.preferences
    of_playground = partial(world.preferences, num=recipe.playground.num_pairs)
    return _pairs(recipe, reading, name, key, of_playground, reviews.preferences)


def evaluation_pairs(recipe: Recipe, reading: Reading | None = None) -> PairRows:
    """`data.eval_preferences`: held-out offline pairs; none where the recipe names none."""
    key, name = "data.eval_preferences", recipe.data.eval_preferences
    return _pairs(recipe, reading, name, key, world.eval_preferences, reviews.eval_preferences)


def reward_pairs(recipe: Recipe, reading: Reading | None = None) -> PairRows:
    """`reward.preferences`: what a reward model is fitted on; none without one."""
    name = recipe.reward.preferences if recipe.reward else None
    return _pairs(recipe, reading, name, "reward.preferences", world.preferences, reviews.preferences)


def reward_evaluation_pairs(recipe: Recipe, reading: Reading | None = None) -> PairRows:
    """`reward.eval_preferences`: what it is measured on; none where a share of the other pairs is."""
    key, name = "reward.eval_preferences", recipe.reward.eval_preferences if recipe.reward else None
    return _pairs(recipe, reading, name, key, world.eval_preferences, reviews.eval_preferences)


def sft_demonstrations(recipe: Recipe, reading: Reading | None = None) -> Rows:
    """`policy.sft.dataset`; empty without a warm start."""
    if recipe.policy.sft is None:
        return []
    return _demonstrations(recipe, reading, recipe.policy.sft.dataset, "policy.sft.dataset")


def demonstrations(recipe: Recipe, reading: Reading | None = None) -> Rows:
    """`data.demonstrations`: prompts with the responses that mixed pairs choose; empty where the recipe names none."""
    if recipe.data.demonstrations is None:
        return []
    return _demonstrations(recipe, reading, recipe.data.demonstrations, "data.demonstrations")


def _demonstrations(recipe: Recipe, reading: Reading | None, name: str, key: str) -> Rows:
    if name == PLAYGROUND:
        return world.sft_corpus(recipe.seed)
    if name == REVIEWS:
        return reviews.sft_corpus(*_reviews_files(recipe.reviews))
    from align_cli.data.demonstrations import read_demonstrations

    reading = reading or Reading(recipe)
    return reading.rows(name, key, read_demonstrations)


def local_files(recipe: Recipe) -> dict[str, Path]:
    """The files and folders that a recipe reads, by key: their contents are a stage's inputs as much as the key is."""
    sources = {
        "data.prompts": recipe.data.prompts,
        "data.preferences": recipe.data.preferences,
        "data.demonstrations": recipe.data.demonstrations,
        "data.eval_prompts": recipe.data.eval_prompts,
        "data.eval_preferences": recipe.data.eval_preferences,
        "policy.sft.dataset": recipe.policy.sft.dataset if recipe.policy.sft else None,
        "reward.preferences": recipe.reward.preferences if recipe.reward else None,
        "reward.eval_preferences": recipe.reward.eval_preferences if recipe.reward else None,
    }
    named = {
        **{key: DataName.of(name).place for key, name in sources.items() if name is not None},
        "policy.lora.adapter": recipe.policy.lora.adapter if recipe.policy.lora else None,
        "reviews.liked": recipe.reviews.liked if recipe.reviews else None,
        "reviews.disliked": recipe.reviews.disliked if recipe.reviews else None,
    }
    if recipe.reward is not None:
        named |= {f"reward.{key}": folder for key, folder in recipe.reward.model_folder().items()}
    for name, labeler in recipe.labelers.items():
        named |= {f"labelers.{name}.{key}": file for key, file in labeler.files().items()}
        for key, place in labeler.code().items():
            for module, code in code_files(place).items():
                named[f"labelers.{name}.{key}" + (f" ({module})" if module else "")] = str(code)
    files = {key: Path(value).expanduser() for key, value in named.items() if value is not None}
    return {key: file for key, file in files.items() if file.exists()}


def _prompts(
    recipe: Recipe, reading: Reading | None, name: str | None, key: str, of_playground: Any, of_reviews: Any
) -> Rows:
    if name == PLAYGROUND:
        rows = of_playground(recipe.seed)
    elif name == REVIEWS:
        rows = of_reviews(*_reviews_files(recipe.reviews))
    elif name is not None:
        from align_cli.data.prompts import read_prompts

        reading = reading or Reading(recipe)
        rows = reading.rows(name, key, read_prompts)
    else:
        rows = []
    if not rows:
        raise DataError("there are no prompts", where=key, hint=f"set {key} to a file with at least one prompt")
    return rows


def _pairs(
    recipe: Recipe, reading: Reading | None, name: str | None, key: str, of_playground: Any, of_reviews: Any
) -> PairRows:
    if name is None:
        return PairRows([], {})
    if name == PLAYGROUND:
        return PairRows(of_playground(recipe.playground.setting, recipe.seed), {})
    if name == REVIEWS:
        return PairRows(of_reviews(*_reviews_files(recipe.reviews)), {})
    from align_cli.data.preferences import read_preferences

    reading = reading or Reading(recipe)
    rows = reading.rows(name, key, read_preferences)
    return PairRows(rows, rows.dropped)


def _reviews_files(section: ReviewsSection | None) -> tuple[Path, Path, int]:
    assert section is not None  # a rule of the recipe's sees to it
    return Path(section.liked), Path(section.disliked), section.prompt_words
