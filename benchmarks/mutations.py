"""Small wrong changes of a module's source, one at a time: what `mutants.py` lets the tests look at.

Each change is made in the syntax tree, and the whole module is written out from it. What is changed:

- comparisons (`<` becomes `<=`, `==` becomes `!=`), arithmetic, `not` and signs, parts of `and` and `or`
- conditions that always or never hold; conditions of comprehensions that are left out
- numbers one larger, the other truth value, names and keys in strings
- calls of methods that are left out (`x.detach()` becomes `x`), keyword arguments that are left out, bounds of slices,
  `min` for `max`, `any` for `all`, unsorted for sorted
- statements that are left out: calls, writes to attributes and keys, `raise`; `break` for `continue`
- `with` blocks without their context (`torch.no_grad()`), `try` without its handlers or its `finally`, functions and
  classes without their decorators

Types, imports, docstrings, f-strings, `strict=` and what is said in errors and in sentences stay as they are: sentences
are compared as a whole in `tests/golden`.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift,
}
OTHER_FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any"}
LEFT_OUT_FUNCTIONS = ("sorted", "reversed", "set", "min", "max", "abs", "round")
SAID = ("TypeVar", "Fault", "cast")
"""Calls, beside those of errors, whose arguments change nothing or are sentences."""

NOT_LEFT_OUT = (None, "hint", "where", "strict")
"""Keyword arguments that stay: sentences, and the assertion that lists are of one length."""

SHOWN_AROUND = 36
"""Characters that are shown on each side of a change."""


class Mutant(NamedTuple):
    """A module with one change.

    Args:
        name: the function that it lies in, and the change: the same wherever the lines move to.
        lines: the lines that have to run for anybody to notice.
        source: the whole module.
    """

    name: str
    lines: range
    source: str


def mutants_of(source: str) -> list[Mutant]:
    """All mutants of a module, in its order."""
    tree = ast.parse(source)
    found: list[Mutant] = []
    seen = {ast.unparse(tree)}
    for place, statement, container, key, changed in _changes(tree, [], tree):
        node = _get(container, key)
        before = _written(statement)
        _set(container, key, changed)
        whole = ast.unparse(ast.fix_missing_locations(tree))
        after = _written(changed if statement is node else statement)
        _set(container, key, node)
        if whole not in seen:
            seen.add(whole)
            name = f"{place}: {_difference(before, after)}"
            number = 1 + sum(other.name.split(" #")[0] == name for other in found)
            found.append(Mutant(name if number == 1 else f"{name} #{number}", _lines(node), whole))
    return found


Change = tuple[str, ast.AST, Any, Any, ast.AST]
"""The function it lies in, its statement, where the node hangs, and the node that takes its place."""


def _changes(node: ast.AST, place: list[str], statement: ast.AST) -> Iterator[Change]:
    for container, key, child in _children(node):
        if _is_left_alone(child):
            continue
        its_statement = child if isinstance(child, ast.stmt) else statement
        is_decided = isinstance(node, ast.If | ast.IfExp) and key == "test" and _is_equality(child)
        for changed in () if is_decided else _replacements(child):
            yield ".".join(place) or "module", its_statement, container, key, changed
        below = [*place, child.name] if isinstance(child, ast.FunctionDef | ast.ClassDef) else place
        if not isinstance(child, ast.Raise):
            yield from _changes(child, below, its_statement)


def _children(node: ast.AST) -> Iterator[tuple[Any, Any, ast.AST]]:
    """What can be changed below a node: where it hangs, and what it is."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns") or (isinstance(node, ast.keyword) and node.arg == "strict"):
            continue
        if isinstance(value, list):
            yield from ((value, index, item) for index, item in enumerate(value) if isinstance(item, ast.AST))
        elif isinstance(value, ast.AST):
            yield node, field, value


def _is_left_alone(node: ast.AST) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom | ast.JoinedStr):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return True
    return isinstance(node, ast.Call) and (_called(node) in SAID or _called(node).endswith("Error"))


def _is_equality(node: ast.AST) -> bool:
    """Whether its opposite notices no more than a condition that always holds, and one that never does."""
    return isinstance(node, ast.Compare) and isinstance(
        node.ops[0], ast.Eq | ast.NotEq | ast.Is | ast.IsNot | ast.In | ast.NotIn
    )


def _called(node: ast.Call) -> str:
    """The last name of what is called."""
    return getattr(node.func, "id", getattr(node.func, "attr", ""))


def _replacements(node: Any) -> Iterator[ast.AST]:
    """What may stand in a node's place."""
    yield from REPLACEMENTS.get(type(node), lambda _: iter(()))(node)


def _with(node: ast.AST, **fields: Any) -> Any:
    """The node, with other fields."""
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _without(items: list[Any], index: int) -> list[Any]:
    return items[:index] + items[index + 1 :]


def _comparison(node: ast.Compare) -> Iterator[ast.AST]:
    for index, operator in enumerate(node.ops):
        yield _with(node, ops=[*node.ops[:index], COMPARISONS[type(operator)](), *node.ops[index + 1 :]])


def _arithmetic(node: ast.BinOp) -> Iterator[ast.AST]:
    if type(node.op) in ARITHMETIC:
        yield _with(node, op=ARITHMETIC[type(node.op)]())


def _parts_of_condition(node: ast.BoolOp) -> Iterator[ast.AST]:
    for index in range(len(node.values)):
        kept = _without(node.values, index)
        yield kept[0] if len(kept) == 1 else _with(node, values=kept)


def _sign(node: ast.UnaryOp) -> Iterator[ast.AST]:
    yield node.operand


def _constant(node: ast.Constant) -> Iterator[ast.AST]:
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int | float):
        yield ast.Constant(value + 1)
    elif isinstance(value, str) and " " not in value:
        yield ast.Constant(f"XX{value}")
    elif isinstance(value, bytes):
        yield ast.Constant(b"XX" + value)


def _condition(node: ast.If | ast.IfExp | ast.While) -> Iterator[ast.AST]:
    for value in (True, False):
        if not (isinstance(node, ast.While) and value):
            yield _with(node, test=ast.Constant(value))


def _comprehension(node: Any) -> Iterator[ast.AST]:
    for number, generator in enumerate(node.generators):
        for index in range(len(generator.ifs)):
            kept = _with(generator, ifs=_without(generator.ifs, index))
            yield _with(node, generators=[*node.generators[:number], kept, *node.generators[number + 1 :]])


def _call(node: ast.Call) -> Iterator[ast.AST]:
    if isinstance(node.func, ast.Attribute) and not _is_namespace(node.func.value):
        yield node.func.value
    name = getattr(node.func, "id", "")
    if name in OTHER_FUNCTIONS:
        yield _with(node, func=ast.Name(OTHER_FUNCTIONS[name]))
    if name in LEFT_OUT_FUNCTIONS and node.args:
        yield node.args[0]
    for index, keyword in enumerate(node.keywords):
        if keyword.arg not in NOT_LEFT_OUT:
            yield _with(node, keywords=_without(node.keywords, index))


def _slice(node: ast.Slice) -> Iterator[ast.AST]:
    for bound in ("lower", "upper"):
        if getattr(node, bound) is not None:
            yield _with(node, **{bound: None})


def _assignment(node: ast.Assign | ast.AnnAssign) -> Iterator[ast.AST]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    if node.value is not None and all(isinstance(target, ast.Attribute | ast.Subscript) for target in targets):
        yield ast.Pass()


def _addition(node: ast.AugAssign) -> Iterator[ast.AST]:
    yield ast.Pass()
    yield ast.Assign(targets=[node.target], value=node.value)


def _statement(node: ast.Expr | ast.Raise) -> Iterator[ast.AST]:
    if isinstance(node, ast.Raise) or isinstance(node.value, ast.Call):
        yield ast.Pass()


def _decorators(node: ast.FunctionDef | ast.ClassDef) -> Iterator[ast.AST]:
    for index in range(len(node.decorator_list)):
        yield _with(node, decorator_list=_without(node.decorator_list, index))


def _contexts(node: ast.With) -> Iterator[ast.AST]:
    for index, item in enumerate(node.items):
        if item.optional_vars is None:
            kept = _without(node.items, index)
            yield _with(node, items=kept) if kept else _block(node.body)


def _handlers(node: ast.Try) -> Iterator[ast.AST]:
    for index in range(len(node.handlers)):
        kept = _without(node.handlers, index)
        yield _with(node, handlers=kept) if kept or node.finalbody else _block([*node.body, *node.orelse])
    if node.finalbody:
        yield _with(node, finalbody=[ast.Pass()])


def _block(statements: list[ast.stmt]) -> ast.If:
    return ast.If(test=ast.Constant(True), body=statements, orelse=[])


REPLACEMENTS: dict[type[ast.AST], Callable[[Any], Iterator[ast.AST]]] = {
    ast.Compare: _comparison,
    ast.BinOp: _arithmetic,
    ast.BoolOp: _parts_of_condition,
    ast.UnaryOp: _sign,
    ast.Constant: _constant,
    **dict.fromkeys((ast.If, ast.IfExp, ast.While), _condition),
    **dict.fromkeys((ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp), _comprehension),
    ast.Call: _call,
    ast.Slice: _slice,
    **dict.fromkeys((ast.Assign, ast.AnnAssign), _assignment),
    ast.AugAssign: _addition,
    **dict.fromkeys((ast.Expr, ast.Raise), _statement),
    ast.Break: lambda _: iter([ast.Continue()]),
    ast.Continue: lambda _: iter([ast.Break()]),
    **dict.fromkeys((ast.FunctionDef, ast.ClassDef), _decorators),
    ast.With: _contexts,
    ast.Try: _handlers,
}
"""By the kind of a node: what may stand in its place, one change each."""


def _is_namespace(node: ast.AST) -> bool:
    """Whether what stands before the dot is a module, a class or the object itself, as far as names tell."""
    modules = ("torch", "os", "math", "json", "np", "sys", "fcntl", "shutil", "stat", "hashlib", "zlib", "tempfile")
    return isinstance(node, ast.Name) and (node.id in (*modules, "self", "cls", "re") or node.id[:1].isupper())


def _get(container: Any, key: Any) -> Any:
    return container[key] if isinstance(container, list) else getattr(container, key)


def _set(container: Any, key: Any, value: Any) -> None:
    if isinstance(container, list):
        container[key] = value
    else:
        setattr(container, key, value)


def _lines(node: Any) -> range:
    """The lines of a node; of a statement with a body, those of its head."""
    if not hasattr(node, "lineno"):
        return range(0)
    body = getattr(node, "body", None)
    if isinstance(body, list) and not isinstance(node, ast.Try):
        return range(node.lineno, max(body[0].lineno, node.lineno + 1))
    return range(node.lineno, node.end_lineno + 1)


def _written(node: ast.AST) -> str:
    return " ".join(ast.unparse(ast.fix_missing_locations(node)).split())


def _difference(before: str, after: str) -> str:
    """Both in one line: `mean = [-max-]{+min+}(values)`, with no more around it than is needed to find it."""
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    while start and (before[start - 1].isalnum() or before[start - 1] == "_"):
        start -= 1
    end = 0
    while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
        end += 1
    while end and (before[len(before) - end].isalnum() or before[len(before) - end] == "_"):
        end -= 1
    left, right = before[:start], before[len(before) - end :]
    left = left if len(left) <= SHOWN_AROUND else "…" + left[-SHOWN_AROUND:]
    right = right if len(right) <= SHOWN_AROUND else right[:SHOWN_AROUND] + "…"
    gone, come = before[start : len(before) - end], after[start : len(after) - end]
    return left + "".join(f"[-{gone}-]" if gone else "") + (f"{{+{come}+}}" if come else "") + right
