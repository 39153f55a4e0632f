"""Expressions over a device's metrics, such as `temperature > 80 and flow < 0.5 * max_flow`. Pure.

The text is parsed by Python's `ast` and turned into functions over numpy columns: nothing is ever given
to `eval`, and what is not in the tables below is refused with its column. A metric whose name is no
identifier is written `value("power-active")`. Numbers are float64; division by zero gives inf or NaN, and a
comparison with NaN is false.
"""

import ast
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from greenlang_iot.model.batches import F64

Bools: TypeAlias = npt.NDArray[np.bool_]
Columns: TypeAlias = Mapping[str, F64]
_Function: TypeAlias = Callable[[Columns], Any]

LONGEST: Final = 1_000
"""Characters of an expression."""
DEEPEST: Final = 50
_ARITHMETIC: Final[dict[type[ast.operator], Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
}
_COMPARED: Final[dict[type[ast.cmpop], Any]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}
_CALLED: Final[dict[str, tuple[Any, int]]] = {
    "abs": (np.abs, 1),
    "sqrt": (np.sqrt, 1),
    "log10": (np.log10, 1),
    "min": (np.minimum, 2),
    "max": (np.maximum, 2),
}


class ExpressionError(ValueError):
    """What is wrong with an expression, and at which column: the end of a sentence."""


@dataclass(slots=True, frozen=True)
class Expression:
    """metrics: names it reads, sorted."""

    text: str
    metrics: tuple[str, ...]
    _holds: _Function

    def holds(self, columns: Columns) -> Bools:
        """Row by row; every metric's column has the same length."""
        with np.errstate(all="ignore"):
            found: Bools = np.asarray(self._holds(columns), np.bool_)
        return found


def compiled(text: str) -> Expression:
    """Raises ExpressionError."""
    if len(text) > LONGEST:
        raise ExpressionError(f"an expression has at most {LONGEST} characters")
    try:
        with warnings.catch_warnings():  # they would speak of Python, to somebody who writes rules
            warnings.simplefilter("ignore")
            tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        where = f" at column {error.offset}" if isinstance(error, SyntaxError) else ""
        raise ExpressionError(f"it cannot be read{where}") from None
    metrics: set[str] = set()
    function, is_condition = _compile(tree.body, metrics, 0)
    if not is_condition:
        raise ExpressionError("it is a number, not a condition: compare it with something")
    if not metrics:
        raise ExpressionError("it names no metric")
    return Expression(text, tuple(sorted(metrics)), function)


def _compile(node: ast.expr, metrics: set[str], depth: int) -> tuple[_Function, bool]:
    """(function of the columns, whether it is a condition)"""
    if depth > DEEPEST:
        raise ExpressionError("it is nested too deeply")
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            try:
                constant = np.float64(number)
            except OverflowError:
                raise _wrong(node, "the number is too large") from None
            return lambda columns: constant, False
        case ast.Name(id=name):
            metrics.add(name)
            return lambda columns: columns[name], False
        case ast.Call(
            func=ast.Name(id="value"), args=[ast.Constant(value=str() as name)], keywords=[]
        ):
            metrics.add(name)
            return lambda columns: columns[name], False
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _CALLED:
            call, count = _CALLED[name]
            if len(args) != count:
                raise _wrong(node, f"{name} takes {count} number{'s' if count > 1 else ''}")
            given = [_number(arg, metrics, depth) for arg in args]
            return lambda columns: call(*(g(columns) for g in given)), False
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            combine = _ARITHMETIC[type(op)]
            one, two = _number(left, metrics, depth), _number(right, metrics, depth)
            return lambda columns: combine(one(columns), two(columns)), False
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _number(operand, metrics, depth)
            return lambda columns: np.negative(inner(columns)), False
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            condition = _condition(operand, metrics, depth)
            return lambda columns: np.logical_not(condition(columns)), True
        case ast.BoolOp(op=op, values=values):
            parts = [_condition(value, metrics, depth) for value in values]
            join = np.logical_and if isinstance(op, ast.And) else np.logical_or
            return lambda columns: reduce(join, [part(columns) for part in parts]), True
        case ast.Compare(left=left, ops=ops, comparators=rights) if all(
            type(op) in _COMPARED for op in ops
        ):
            terms = [_number(term, metrics, depth) for term in (left, *rights)]
            tests = [_COMPARED[type(op)] for op in ops]
            return lambda columns: _chain(tests, [term(columns) for term in terms]), True
    raise _wrong(
        node,
        f"there is only + - * / **, comparisons, and, or, not, {', '.join(_CALLED)} and value(…)",
    )


def _chain(tests: list[Any], terms: list[Any]) -> Any:
    pairs = zip(tests, terms[:-1], terms[1:], strict=True)
    return reduce(np.logical_and, [test(left, right) for test, left, right in pairs])


def _number(node: ast.expr, metrics: set[str], depth: int) -> _Function:
    function, is_condition = _compile(node, metrics, depth + 1)
    if is_condition:
        raise _wrong(node, "a number belongs there, not a condition")
    return function


def _condition(node: ast.expr, metrics: set[str], depth: int) -> _Function:
    function, is_condition = _compile(node, metrics, depth + 1)
    if not is_condition:
        raise _wrong(node, "a condition belongs there, not a number")
    return function


def _wrong(node: ast.expr, message: str) -> ExpressionError:
    return ExpressionError(f"column {node.col_offset + 1}: {message}")
