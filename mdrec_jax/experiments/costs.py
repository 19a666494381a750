"""What a configuration costs: parameters, and FLOPs of a training step, every loop counted as often as it runs.

XLA counts a compiled program's FLOPs (`compiled.cost_analysis()["flops"]`) with the body of a loop taken once, whatever
its number of passes (of the branches of a condition it takes the dearest). Nearly all the work of a step is in loops,
and most of them end where the data end. So the step's jaxpr is cut at its loops: XLA compiles and counts each piece by
itself, and a run of the step on real batches counts how often each piece is passed. A multiply-add is two FLOPs;
exponentials and the like are none; padding that a program computes counts.

The count is that of the CPU's form of every operation on one device in float32, wherever it is made: figures from
different machines may be compared.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, Literal, jaxpr_as_fun, jaxprs_in_params
from jax.sharding import AxisType, Mesh
from jaxtyping import Array, Int32
from mdrec_kernels.dispatch import compiling_for

from mdrec_jax.codec import digest
from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.files import write_json
from mdrec_jax.models.api import make_model
from mdrec_jax.parallel.mesh import DATA, MeshConfig, replicated
from mdrec_jax.train.config import PrecisionConfig
from mdrec_jax.train.setup import Setup
from mdrec_jax.train.step import seed_key

NO_COST = ("train", "hardware", "logging", "precision")
"""Fields that do not change what a step costs, as it is counted."""


@dataclass(frozen=True)
class Cost:
    """
    Args:
        dense: parameters outside of tables.
        table: parameters of the tables, rows that only fill them up included.
        flops: of a training step (`step_flops`).
    """

    dense: int
    table: int
    flops: float


def parameters(config: RunConfig, dataset: Dataset) -> tuple[int, int]:
    """The numbers of dense parameters and of the tables' parameters."""
    params = jax.eval_shape(make_model(config.model, dataset.spec).init, jax.random.key(0))
    dense, table = (sum(leaf.size for leaf in jax.tree.leaves(part)) for part in (params.dense, params.tables))
    return dense, table


@dataclass(frozen=True)
class Costs:
    """The costs of configurations on one data set. Counting takes seconds, so a file remembers what was counted."""

    dataset: Dataset
    file: Path

    def of(self, config: RunConfig) -> Cost:
        """The cost of a configuration."""
        known = self._known()
        key = digest(config.to_plain(), NO_COST)
        if key not in known["costs"]:
            cost = Cost(*parameters(config, self.dataset), step_flops(config, self.dataset))
            known["costs"][key] = asdict(cost)
            write_json(self.file, known)
        return Cost(**known["costs"][key])

    def _known(self) -> dict:
        """What the file knows, if it is about this data set and this version of the program."""
        about = {"dataset": self.dataset.hash, "versions": {name: version(name) for name in ("mdrec-jax", "jax")}}
        if self.file.exists():
            known = json.loads(self.file.read_text(encoding="utf-8"))
            if {name: known[name] for name in about} == about:
                return known
        return {**about, "costs": {}}


BATCHES = 4
"""Batches whose mean is taken: they differ in how full they are."""


def step_flops(config: RunConfig, dataset: Dataset, *, batches: int = BATCHES) -> float:
    """FLOPs of one training step, its rows taken at once, the mean over the run's first `batches`."""
    alone = replace(config, hardware=MeshConfig(1), precision=PrecisionConfig("float32"), train={"accumulate": 1})
    setup = Setup.of(alone, dataset)
    state, key = setup.initial_state(), seed_key(config.seed)
    first = list(itertools.islice(setup.batches_from(0), batches))
    with compiling_for("cpu"):
        count = counted(setup.step, state, first[0], setup.objectives, key)
        return float(np.mean([count(state, batch, setup.objectives, key) for batch in first]))


def counted(function: Callable[..., Any], *examples: Any) -> Callable[..., float]:
    """The FLOPs of `function` as a function of its arguments, which have the shapes of `examples`.

    `function` is traced once and never run itself; inside it, the axis `DATA` has one device.
    """
    whole = jax.make_jaxpr(function)(*examples)
    pieces = {str(piece): piece for piece in _pieces(whole)}  # Unrolled layers have equal loops.
    known = {text: _flops(piece) for text, piece in pieces.items()}
    once = [known[str(piece)] for piece in _pieces(whole)]
    passes = _compiled(lambda *leaves: _passes(whole, leaves)[1])

    def flops(*arguments: Any) -> float:
        leaves = jax.device_put(jax.tree.leaves(arguments), replicated(_mesh()))
        return float(np.dot(np.asarray(passes(*leaves), np.float64), once))

    return flops


def _mesh() -> Mesh:
    """The first CPU by itself."""
    return Mesh(np.asarray(jax.local_devices(backend="cpu")[:1]), (DATA,), axis_types=(AxisType.Explicit,))


def _compiled(function: Callable[..., Any]) -> Any:
    whole = jax.P()
    return jax.jit(jax.shard_map(function, mesh=_mesh(), in_specs=whole, out_specs=whole, check_vma=False))


def _inner(equation: Any) -> list[Jaxpr]:
    """The jaxprs that an equation runs, the test of a `while` left out."""
    if equation.primitive.name == "while":
        return [equation.params["body_jaxpr"]]
    return list(jaxprs_in_params(equation.params))


def _loops(equation: Any) -> bool:
    """Whether there is a loop in it."""
    inner = (e for jaxpr in _inner(equation) for e in jaxpr.eqns)
    return equation.primitive.name in ("scan", "while") or any(map(_loops, inner))


def _pieces(jaxpr: Jaxpr) -> list[Jaxpr]:
    """The jaxpr itself, then those inside its equations with loops, in the order of `_passes`."""
    cut = [inner for equation in jaxpr.eqns if _loops(equation) for inner in _inner(equation)]
    return [jaxpr, *(piece for inner in cut for piece in _pieces(inner))]


def _evaluate(jaxpr: Jaxpr, arguments: Sequence[Any], with_loops: Callable[[Any, list], Sequence[Any]]) -> list:
    """The jaxpr's results; `with_loops(equation, inputs)` gives those of an equation with a loop in it."""
    values = dict(zip(jaxpr.constvars, jaxpr.consts, strict=True))
    values |= zip(jaxpr.invars, arguments, strict=True)

    def read(variables: Sequence[Any]) -> list:
        return [v.val if isinstance(v, Literal) else values[v] for v in variables]

    for equation in jaxpr.eqns:
        inputs = read(equation.invars)
        if _loops(equation):
            results = with_loops(equation, inputs)
        else:
            results = equation.primitive.bind(*inputs, **equation.primitive.get_bind_params(equation.params))
            results = results if equation.primitive.multiple_results else [results]
        values |= zip(equation.outvars, results, strict=True)
    return read(jaxpr.outvars)


def _flops(jaxpr: Jaxpr) -> float:
    """XLA's count of what stands outside of loops. What a loop gives is an argument here, what it takes a result."""
    cut = [equation for equation in jaxpr.eqns if _loops(equation)]
    if len(cut) == len(jaxpr.eqns):
        return 0.0

    def straight(arguments: Sequence[Any], given: Sequence[Sequence[Any]]) -> Any:
        taken, left = [], iter(given)

        def with_loops(equation: Any, inputs: list) -> Sequence[Any]:
            del equation
            taken.append(inputs)
            return next(left)

        return _evaluate(jaxpr, arguments, with_loops), taken

    shapes = [[_shape(v) for v in variables] for variables in (jaxpr.invars, *(e.outvars for e in cut))]
    program = _compiled(straight).lower(shapes[0], shapes[1:])
    # The count is of operations, whatever machine code they become.
    cost = program.compile(compiler_options={"xla_backend_optimization_level": 0}).cost_analysis()
    return float(cost.get("flops", 0.0))


def _shape(variable: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(variable.aval.shape, variable.aval.dtype)


def _passes(jaxpr: Jaxpr, arguments: Sequence[Any]) -> tuple[list, Int32[Array, " P"]]:
    """The jaxpr's results, and how often each of its P pieces ran."""
    counts = [jnp.ones((1,), jnp.int32)]

    def with_loops(equation: Any, inputs: list) -> Sequence[Any]:
        run = {"scan": _scan, "while": _while, "cond": _branches}.get(equation.primitive.name, _call)
        results, count = run(equation, _inner(equation), inputs)
        counts.append(count)
        return results

    results = _evaluate(jaxpr, arguments, with_loops)
    return results, jnp.concatenate(counts)


def _none(jaxpr: Jaxpr) -> Int32[Array, " P"]:
    return jnp.zeros((len(_pieces(jaxpr)),), jnp.int32)


def _scan(equation: Any, inner: list[Jaxpr], inputs: list) -> tuple[Sequence[Any], Array]:
    # What goes along the loop has an axis more outside than inside; of the rest, what comes out is carried.
    inside = inner[0]
    kept = [_axes(v) == _axes(w) for v, w in zip(equation.invars, inside.invars, strict=True)]
    moved = sum(_axes(v) == _axes(w) for v, w in zip(equation.outvars, inside.outvars, strict=True))
    constants, kept = sum(kept) - moved, sum(kept)
    fixed, start, xs = inputs[:constants], inputs[constants:kept], inputs[kept:]

    def body(state: tuple, x: Sequence[Any]) -> tuple:
        results, count = _passes(inside, [*fixed, *state[0], *x])
        return (results[:moved], state[1] + count), results[moved:]

    length, reverse = equation.params["length"], equation.params["reverse"]
    (end, count), ys = jax.lax.scan(body, (start, _none(inside)), xs, length=length, reverse=reverse)
    return [*end, *ys], count


def _axes(variable: Any) -> int:
    return variable.aval.ndim


def _while(equation: Any, inner: list[Jaxpr], inputs: list) -> tuple[Sequence[Any], Array]:
    params = equation.params
    first, second = params["cond_nconsts"], params["body_nconsts"]
    asked, fixed, start = inputs[:first], inputs[first : first + second], inputs[first + second :]

    def body(state: tuple) -> tuple:
        results, count = _passes(inner[0], [*fixed, *state[0]])
        return results, state[1] + count

    def goes_on(state: tuple) -> Any:
        return jaxpr_as_fun(params["cond_jaxpr"])(*asked, *state[0])[0]

    return jax.lax.while_loop(goes_on, body, (start, _none(inner[0])))


def _branches(equation: Any, inner: list[Jaxpr], inputs: list) -> tuple[Sequence[Any], Array]:
    del equation

    def branch(number: int) -> Callable[..., Any]:
        def run(*operands: Any) -> Any:
            results, count = _passes(inner[number], operands)
            counts = [count if other == number else _none(jaxpr) for other, jaxpr in enumerate(inner)]
            return results, jnp.concatenate(counts)

        return run

    return jax.lax.switch(inputs[0], [branch(number) for number in range(len(inner))], *inputs[1:])


def _call(equation: Any, inner: list[Jaxpr], inputs: list) -> tuple[Sequence[Any], Array]:
    if len(inner) != 1:
        raise NotImplementedError(f"loops inside of '{equation.primitive.name}', which has {len(inner)} jaxprs")
    return _passes(inner[0], inputs)
