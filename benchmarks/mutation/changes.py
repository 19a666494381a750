"""The changes that a mutation run makes to a source file, one at a time.

Left alone are annotations, decorators, docstrings, and wording (what a `raise` or a `_refuse` says, texts with a
space): a test that pins words says nothing about results. Assignments to plain names are not removed either, because a
NameError is no test.
"""

import ast
import builtins
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

COMPARISONS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
OPPOSITES = [
    ("min", "max"), ("minimum", "maximum"), ("any", "all"), ("logical_or", "logical_and"), ("zeros", "ones"),
    ("zeros_like", "ones_like"), ("floor", "ceil"), ("left", "right"), ("first", "last"), ("argmin", "argmax"),
    ("stable", "quicksort"),
]  # fmt: skip
OPPOSITE = {name: other for pair in OPPOSITES for name, other in (pair, pair[::-1])}
"""Built-in functions, attributes and texts that are mistaken for each other."""
WORDING = ("_refuse", "InputError", "ConfigError", "ValueError", "TypeError")


@dataclass(frozen=True)
class Change:
    """One change: the node by its place in `ast.walk`'s order, and which of its variants."""

    kind: str
    node: int
    variant: int
    line: int
    end: int
    """Last line of the statement's head: a test that runs one of the lines `line` to `end` may notice."""
    at_import: bool
    """Whether it is outside of every function, or a default of one."""
    before: str
    after: str


def changes_of(source: str) -> list[Change]:
    """Every change of a file, in the order of its nodes."""
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    left_alone = {id(inner) for node in _left_alone(tree) for inner in ast.walk(node)}
    changes = []
    for number, node in enumerate(ast.walk(tree)):
        if id(node) in left_alone or isinstance(parents.get(node), ast.JoinedStr | ast.FormattedValue):
            continue
        for variant, (kind, new) in enumerate(_variants(node)):
            first, last = _lines(node, parents)
            before, after = _text(node), _text(new)
            changes.append(Change(kind, number, variant, first, last, _at_import(node, parents), before, after))
    return changes


def mutated(source: str, change: Change) -> ast.Module:
    """The file's tree with one change made, ready to compile."""
    tree = ast.parse(source)
    old = list(ast.walk(tree))[change.node]
    new = list(_variants(old))[change.variant][1]
    for node in ast.walk(tree):
        for field, value in ast.iter_fields(node):
            if value is old:
                setattr(node, field, new)
            elif isinstance(value, list) and any(item is old for item in value):
                value[[item is old for item in value].index(True)] = new
    ast.copy_location(new, old)
    return ast.fix_missing_locations(tree)


def _left_alone(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        for field in ("annotation", "returns", "type_params", "decorator_list"):
            value = getattr(node, field, None)
            yield from value if isinstance(value, list) else [value] if isinstance(value, ast.AST) else []
        if isinstance(node, ast.Import | ast.ImportFrom | ast.TypeAlias):
            yield node
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node
        if isinstance(node, ast.Raise) and node.exc is not None:
            yield node.exc
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in WORDING:
            yield from [*node.args, *node.keywords]


def _variants(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What may stand in a node's place, with the kind of each change."""
    yield from _other_expressions(node)
    match node:
        case ast.IfExp():
            yield "branch", _with(node, body=node.orelse, orelse=node.body)
        case ast.If() | ast.While():
            yield "branch", _with(node, test=ast.UnaryOp(ast.Not(), node.test))
        case ast.comprehension() if node.ifs:
            yield "branch", _with(node, ifs=[])
        case ast.Return() if not (node.value is None or _is_none(node.value)):
            yield "return", _with(node, value=ast.Constant(None))
        case ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Expr():
            yield "statement", ast.Pass()
        case ast.Assign() if isinstance(node.targets[0], ast.Subscript | ast.Attribute):
            yield "statement", ast.Pass()
        case ast.Call():
            for place, keyword in enumerate(node.keywords):
                if keyword.arg is not None:
                    rest = node.keywords[:place] + node.keywords[place + 1 :]
                    yield "argument", _with(node, keywords=rest)


def _other_expressions(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.Compare():
            yield from (("comparison", new) for new in _compared(node))
        case ast.BinOp() | ast.AugAssign() if type(node.op) in ARITHMETIC:
            yield "arithmetic", _with(node, op=ARITHMETIC[type(node.op)]())
        case ast.BoolOp():
            yield "boolean", _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        case ast.UnaryOp():
            yield "boolean" if isinstance(node.op, ast.Not | ast.Invert) else "arithmetic", node.operand
        case ast.Constant():
            yield from (("constant", _with(node, value=value)) for value in _other_values(node.value))
        case ast.Name() if node.id in OPPOSITE and node.id in dir(builtins):
            yield "opposite", _with(node, id=OPPOSITE[node.id])
        case ast.Attribute() if node.attr in OPPOSITE:
            yield "opposite", _with(node, attr=OPPOSITE[node.attr])


def _compared(node: ast.Compare) -> Iterator[ast.Compare]:
    for place, operator in enumerate(node.ops):
        for other in COMPARISONS[type(operator)]:
            yield _with(node, ops=[*node.ops[:place], other(), *node.ops[place + 1 :]])


def _other_values(value: object) -> tuple[object, ...]:
    match value:
        case bool():
            return (not value,)
        case int():
            return (value + 1, value - 1)
        case float():
            return (2.0 * value if value else 1.0,)
        case str() if " " not in value:
            return (OPPOSITE.get(value, f"{value}X"),)
        case _:
            return ()


def _at_import(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    while node in parents:
        above = parents[node]
        if isinstance(above, ast.Lambda) and node is above.body:
            return False
        if isinstance(above, ast.FunctionDef) and node in above.body:
            return False
        node = above
    return True


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _with[Node: ast.AST](node: Node, **fields: Any) -> Node:
    """A copy of the node alone: its children are shared."""
    return type(node)(**{**dict(ast.iter_fields(node)), **fields})


def _lines(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> tuple[int, int]:
    """First line of the node, last line of its statement, without the bodies that the statement has."""
    first = getattr(node, "lineno", 0)
    while not isinstance(node, ast.stmt | ast.excepthandler | ast.match_case):
        node = parents[node]
        first = first or getattr(node, "lineno", 0)
    inner = [child for field in ("body", "orelse") for child in getattr(node, field, []) if hasattr(child, "lineno")]
    last = node.end_lineno if isinstance(node, ast.stmt) and node.end_lineno else first
    return first, max(first, min([last, *(child.lineno - 1 for child in inner)]))


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.comprehension):
        return ast.unparse(node).strip()
    if isinstance(node, ast.If | ast.While):
        return f"{type(node).__name__.lower()} {ast.unparse(node.test)}"
    return ast.unparse(node)
