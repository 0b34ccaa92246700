"""The labeler `function`: any Python that scores completions.

`package.module:name` or `path/to/file.py:name`. It is called as `name(prompts=[...], completions=[...])` with aligned
lists of text and returns one number a completion: as TRL calls reward functions on plain text. With `arguments`,
`name(**arguments)` is called once and returns the function.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any

from align_cli.artifacts.records import Text
from align_cli.errors import LabelerError, counted, nearest
from align_cli.labelers.base import Scorer
from align_cli.labelers.contained import UserCodeError, contained, is_aligns, own_traceback
from align_cli.models.text import plain_text
from align_cli.recipe.sections.labelers import FunctionLabelerSection
from align_cli.redaction import without_secrets

Scoring = Callable[..., Sequence[float]]

LARGEST_SCORE = 1e100
"""Of a score's size: beyond it, squares of differences between scores are no floats."""


class FunctionLabeler(Scorer):
    """Scores completions with a Python function, which sees the words of prompts and completions.

    Args:
        name: the labeler's name in the recipe.
        section: which function, its arguments and its batch size.
        note: told, once each, what of the run's surroundings the function changes.

    Raises:
        LabelerError: if there is no such function, or if making it raised.
    """

    def __init__(
        self, name: str, section: FunctionLabelerSection, note: Callable[[str], None] = lambda text: None
    ) -> None:
        self.name = name
        self.batch_size = section.batch_size
        self._place = f"labelers.{name}"
        self._note = note
        self._noted: set[str] = set()
        self._function = self._load(section)

    def score(
        self, prompts: Sequence[Text], completions: Sequence[Text], prompt_indices: Sequence[int] | None = None
    ) -> list[float]:
        """One finite score a completion; the function sees at most `batch_size` at a time."""
        asked, said = [plain_text(prompt) for prompt in prompts], [plain_text(text) for text in completions]
        places = list(prompt_indices if prompt_indices is not None else range(len(completions)))
        scores: list[float] = []
        for start in range(0, len(completions), self.batch_size):
            batch = slice(start, start + self.batch_size)
            scores += self._score_batch(asked[batch], said[batch], places[batch])
        return scores

    def _load(self, section: FunctionLabelerSection) -> Scoring:
        target = find_function(section.function, self._place, self._changed)
        if section.arguments is None:
            return target
        try:
            with contained(self._changed):
                check_names(target, section.arguments, section.function, f"{self._place}.arguments")
                made = target(**section.arguments)
        except UserCodeError as raised:
            raise LabelerError(
                f"{section.function} raised while it was made with its arguments",
                where=self._place,
                snippet=own_traceback(raised.error),
                hint="leave out `arguments` if the name is the scoring function itself",
            ) from None
        if not callable(made):
            raise LabelerError(
                f"{section.function} with its arguments returned {type(made).__name__}, not a function",
                where=self._place,
                hint="leave out `arguments` if the name is the scoring function itself",
            )
        return made

    def _score_batch(self, prompts: Sequence[str], completions: Sequence[str], places: list[int]) -> list[float]:
        try:
            return self._ask(prompts, completions, places)
        except UserCodeError as raised:
            error = raised.error
        index, culprit = self._find_culprit(prompts, completions)
        if culprit is None:
            what = f"the function raised on the batch of prompts {places[0]} to {places[-1]}, on none alone"
            raise self._fault(error, what)
        raise self._fault(culprit, f"the function raised on the prompt with index {places[index]}")

    def _ask(self, prompts: Sequence[str], completions: Sequence[str], places: list[int]) -> list[float]:
        with contained(self._changed):  # what the function returns may be of a class of its own
            return self._checked(self._function(prompts=list(prompts), completions=list(completions)), places)

    def _find_culprit(self, prompts: Sequence[str], completions: Sequence[str]) -> tuple[int, BaseException | None]:
        """Which completion of the batch it is that the function cannot score: the first that raises alone."""
        for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            try:
                self._ask([prompt], [completion], [0])
            except LabelerError:
                continue
            except UserCodeError as raised:
                return index, raised.error
        return 0, None

    def _changed(self, name: str) -> None:
        if name not in self._noted:
            self._noted.add(name)
            self._note(f"{self._place}: its code changed {name}; after every call it is put back")

    def _checked(self, scores: Any, places: list[int]) -> list[float]:
        values = scores.tolist() if hasattr(scores, "tolist") else scores
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise LabelerError(
                f"the function returned {type(scores).__name__}; it must return a list of numbers",
                where=self._place,
                hint="return one number a completion, in their order",
            )
        if len(values) != len(places):
            raise LabelerError(
                f"the function returned {counted(len(values), 'score')} for {counted(len(places), 'completion')} "
                f"(prompts {places[0]} to {places[-1]})",
                where=self._place,
                hint="return one number a completion, in their order",
            )
        numbers = []
        for place, value in zip(places, values, strict=True):
            number = _finite_number(value)
            if number is None:
                raise LabelerError(
                    f"the function returned {_shortened(value)} for the prompt with index {place}",
                    where=self._place,
                    hint=f"every score must be a finite number, of at most {LARGEST_SCORE:g} in size",
                )
            numbers.append(number)
        return numbers

    def _fault(self, error: BaseException, what: str) -> LabelerError:
        hint = _signature_hint(error) or _messages_hint(error)
        return LabelerError(what, where=self._place, snippet=own_traceback(error), hint=hint)


def find_function(place: str, where: str, tell: Callable[[str], None] = lambda name: None) -> Callable[..., Any]:
    """The object behind `package.module:name` or `path/to/file.py:name`.

    Args:
        place: where it stands.
        where: the key that names it, for errors.
        tell: told the name of each surrounding that importing it changes (`contained.SURROUNDINGS`).

    Raises:
        LabelerError: if the module or the name is not there, or if importing it raised (its traceback is shown).
    """
    module_name, _, name = place.rpartition(":")
    is_file = module_name.endswith(".py")
    if is_file and not Path(module_name).is_file():
        raise LabelerError(f"there is no file {module_name}", where=where, hint="check the path")
    if "" not in sys.path:
        sys.path.append("")  # a module in the current folder, where an installed command would not look
    try:
        with contained(tell):
            module = _import_file(Path(module_name)) if is_file else importlib.import_module(module_name)
            return _function_of(module, name, module_name, where)
    except UserCodeError as raised:
        error = raised.error
    if not isinstance(error, ModuleNotFoundError):
        raise LabelerError(f"importing {module_name} raised", where=where, snippet=own_traceback(error))
    if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
        raise LabelerError(
            f"{module_name} needs a module that is missing: {error.name}",
            where=where,
            hint="install it where align is installed, or correct its name",
        )
    raise LabelerError(
        f"there is no module {module_name!r}", where=where, hint="give package.module:name or path/to/file.py:name"
    )


def check_names(target: Callable[..., Any], arguments: Mapping[str, Any], place: str, where: str) -> None:
    """Whether something that is called once has its arguments by the names that it takes.

    Args:
        target: a function or a class of the user's; one that does not say what it takes may take anything.
        arguments: by name.
        place: where it stands, as it is named.
        where: their key, for errors.

    Raises:
        LabelerError: if it does not take one of them, or needs another one.
    """
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # of classes written in C, and signatures that are none
        return
    named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    names, takes_any = [one.name for one in named], any(one.kind is one.VAR_KEYWORD for one in parameters)
    takes = f"it takes {', '.join(names)}" if names else "it takes none"
    unknown = [] if takes_any else [name for name in arguments if name not in names]
    if unknown:
        near = nearest(unknown[0], [name for name in names if name not in arguments])
        hint = f"did you mean {near}? {takes}" if near else takes
        raise LabelerError(f"{place} has no argument {_shortened(unknown[0])}", where=where, hint=hint)
    lacking = [one.name for one in named if one.default is one.empty and one.name not in arguments]
    if lacking:
        scores = {"completions", "prompts"} & set(lacking)
        hint = "leave out `arguments`: it is the scoring function itself" if scores else f"add what is lacking: {takes}"
        raise LabelerError(f"{place} needs {' and '.join(lacking)}", where=where, hint=hint)


def _function_of(module: Any, name: str, module_name: str, where: str) -> Callable[..., Any]:
    """What a module has under a name; a module may look names up in code of its own."""
    function = module
    for part in name.split("."):
        function = getattr(function, part, None)
    if not callable(function):
        known = nearest(name, [key for key, value in vars(module).items() if callable(value)])
        raise LabelerError(
            f"{module_name} has no function {name!r}",
            where=where,
            hint=f"did you mean {known!r}?" if known else "define it there, or name another one",
        )
    return function


def _import_file(path: Path) -> Any:
    name = f"{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # its name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _finite_number(value: Any) -> float | None:
    """The value as a float that can be reckoned with, also out of a tensor of one number; None for anything else."""
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    try:
        number = float(value) if isinstance(value, Real | Decimal) else math.nan
    except (OverflowError, ValueError):  # a signalling NaN of Decimal's is a ValueError
        return None
    return number if abs(number) <= LARGEST_SCORE else None


def _shortened(value: Any) -> str:
    try:
        text = without_secrets(repr(value))
    except ValueError:
        return f"an integer of {value.bit_length()} bits"
    return text if len(text) <= 80 else f"{text[:79]}…"


def _signature_hint(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and is_aligns(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    if isinstance(error, TypeError) and trace is None:
        takes = "it is called with prompts= and completions=; let it take these two, and **kwargs"
        return f"{takes}; a class needs `arguments`, if only {{}}"
    return ""


def _messages_hint(error: BaseException) -> str:
    """What to do about a function that takes a text for a conversation, as TRL passes those of conversational data."""
    is_index = isinstance(error, TypeError) and str(error).startswith("string indices must be integers")
    is_field = isinstance(error, AttributeError) and isinstance(error.obj, str) and hasattr(dict, str(error.name))
    if is_index or is_field:
        takes = "prompts and completions come as text, also of conversations: their words, one message below the other"
        return f"{takes}; take `completion` where the function takes `completion[0]['content']`"
    return ""
