"""The border between NNX modules and the rest of the project: plain nested dicts of arrays, and facts about them.

Modules own parameters and wiring. Outside `models/` a model's parameters are plain nested dicts, so checkpoints,
optimisers and shardings do not depend on Flax.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
from flax import nnx

Scope = Literal["shared", "private"]
Group = Literal["matrix", "vector", "embedding", "table"]


@dataclass(frozen=True)
class ParameterFacts:
    """What is known about one parameter, stated once, where the parameter is made.

    Args:
        logical_axes: a name for each dimension: `layers` (stacked blocks), `embed` (D), `heads` (H*K), `mlp` (F),
            `position`, `domain`, `event`, `bucket`, `table` (V). The sharding rules map them to axes of the mesh.
        scope: whether the parameter leaves an organisation in federated training ("shared") or stays ("private").
        group: the optimiser's group: `matrix` (may be decayed), `vector` (norms, biases), `embedding` (small dense
            embeddings), `table` (looked up by row).
        shape: of the parameter.
    """

    logical_axes: tuple[str, ...]
    scope: Scope
    group: Group
    shape: tuple[int, ...]


def parameter(value: jax.Array, *axes: str, scope: Scope = "shared", group: Group = "matrix") -> nnx.Param:
    """A parameter with its facts. `axes` names the dimensions of one block; stacking puts `layers` in front."""
    return nnx.Param(value, logical_axes=axes, scope=scope, group=group)


def init_dense(build: Callable[[jax.Array], nnx.Module], key: jax.Array) -> dict[str, Any]:
    """The parameters of the module that `build` makes, as a plain nested dict of arrays."""
    return nnx.to_pure_dict(nnx.state(build(key)))


def abstract_module(build: Callable[[jax.Array], nnx.Module]) -> nnx.Module:
    """The module that `build` makes, with shapes in place of arrays: no parameter is made."""
    return jax.eval_shape(build, jax.random.key(0))


def with_parameters(abstract: nnx.Module, dense: dict[str, Any]) -> Any:
    """The module with the arrays of `dense` in it. Raises ValueError where a parameter is missing or not known."""
    graph, state = nnx.split(abstract)
    wanted, given = (jax.tree.structure(tree) for tree in (nnx.to_pure_dict(state), dense))
    if wanted != given:
        raise ValueError(f"the model's parameters are {wanted}, found {given}")
    nnx.replace_by_pure_dict(state, dense)
    return nnx.merge(graph, state)


def dense_facts(abstract: nnx.Module) -> dict[str, Any]:
    """A nested dict like `init_dense`'s with ParameterFacts as leaves."""
    state = nnx.state(abstract)
    facts = jax.tree.map(_facts, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    return nnx.to_pure_dict(facts)


def _facts(variable: nnx.Variable) -> ParameterFacts:
    metadata = variable.get_metadata()
    shape = tuple(variable.get_value().shape)
    axes = metadata["logical_axes"]
    if len(axes) == len(shape) - 1:
        axes = ("layers", *axes)
    if len(axes) != len(shape):
        raise ValueError(f"{len(axes)} logical axes {axes} for a parameter of shape {shape}")
    return ParameterFacts(axes, metadata["scope"], metadata["group"], shape)
