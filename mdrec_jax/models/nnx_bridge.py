"""The border between NNX modules and the rest of the project: plain nested dicts of arrays, and facts about them.

Modules own parameters, statistics and wiring. Outside `models/` they are plain nested dicts, so checkpoints, optimisers
and shardings do not depend on Flax.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from mdrec_jax.types import Group, ParameterFacts, Scope


class Statistic(nnx.Variable):
    """An array that is worked out in closed form and never trained (`Params.statistics`)."""


KINDS = (nnx.Param, Statistic)
"""Of what a module holds: `Params.dense`, `Params.statistics`."""


def parameter(value: jax.Array, *axes: str, scope: Scope = "shared", group: Group = "matrix") -> nnx.Param:
    """A parameter with its facts. `axes` names the dimensions of one block; stacking puts `layers` in front."""
    return nnx.Param(value, logical_axes=axes, scope=scope, group=group)


def statistic(value: jax.Array, *axes: str) -> Statistic:
    """A statistic with its facts: it is of one organisation's data, and stays there."""
    return Statistic(value, logical_axes=axes, scope="private", group="statistic")


def init_arrays(build: Callable[[jax.Array], nnx.Module], key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters and the statistics of the module that `build` makes, as plain nested dicts of arrays."""
    return arrays_of(build(key))


def arrays_of(module: nnx.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters and the statistics of a module, as plain nested dicts of arrays."""
    dense, statistics = nnx.state(module, *KINDS)
    return nnx.to_pure_dict(dense), nnx.to_pure_dict(statistics)


def abstract_module(build: Callable[[jax.Array], nnx.Module]) -> nnx.Module:
    """The module that `build` makes, with shapes in place of arrays: no parameter is made."""
    return jax.eval_shape(build, jax.random.key(0))


def with_arrays(abstract: nnx.Module, dense: dict[str, Any], statistics: dict[str, Any]) -> Any:
    """The module with the arrays of `dense` and `statistics` in it.

    Raises:
        ValueError: where one is missing or not known.
    """
    graph, *states = nnx.split(abstract, *KINDS)
    for name, state, given in zip(("parameters", "statistics"), states, (dense, statistics), strict=True):
        wanted, found = (jax.tree.structure(tree) for tree in (nnx.to_pure_dict(state), given))
        if wanted != found:
            raise ValueError(f"the model's {name} are {wanted}, found {found}")
        nnx.replace_by_pure_dict(state, given)
    return nnx.merge(graph, *states)


def array_facts(abstract: nnx.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Nested dicts like `init_arrays`'s with ParameterFacts as leaves."""

    def of(state: nnx.State) -> dict[str, Any]:
        return nnx.to_pure_dict(jax.tree.map(_facts, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)))

    dense, statistics = nnx.state(abstract, *KINDS)
    return of(dense), of(statistics)


def _facts(variable: nnx.Variable) -> ParameterFacts:
    metadata = variable.get_metadata()
    shape = tuple(variable.get_value().shape)
    axes = metadata["logical_axes"]
    if len(axes) == len(shape) - 1:
        axes = ("layers", *axes)
    if len(set(axes)) != len(axes):
        raise ValueError(f"logical axes {axes}: a name stands twice")
    if len(axes) != len(shape):
        raise ValueError(f"{len(axes)} logical axes {axes} for a parameter of shape {shape}")
    return ParameterFacts(axes, metadata["scope"], metadata["group"], shape)
