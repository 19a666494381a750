"""What leaves a silo and what stays: nothing but the `scope` that every parameter carries.

The shared part is a plain dict of named arrays, the form in which it travels. Item rows, domain paths and local banks
are private, statistics are no parameters: neither is an entry of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mdrec_jax.errors import InputError
from mdrec_jax.types import ParameterFacts, Params

type SharedPart = dict[str, jax.Array]
"""Path of a parameter -> its value."""


def shared_part(params: Params, facts: Params) -> SharedPart:
    """The parameters whose scope is `shared`.

    Args:
        params: a model's parameters.
        facts: of the same model (`models.api.parameter_facts`).
    """

    def leaves(fact: ParameterFacts) -> bool:
        return fact.scope == "shared" and fact.group != "statistic"

    return {name: value for name, (value, fact) in _named(params, facts).items() if leaves(fact)}


def with_shared_part(params: Params, facts: Params, shared: Mapping[str, jax.Array]) -> Params:
    """`params` with its shared part replaced; private parameters are the very same arrays.

    Raises:
        InputError: `shared` has other names or shapes than the model's shared part.
    """
    expected = {name: value.shape for name, value in shared_part(params, facts).items()}
    found = {name: value.shape for name, value in shared.items()}
    if found != expected:
        wrong = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        raise InputError(
            "not this model's shared part",
            column=wrong[0],
            found=found.get(wrong[0], "nothing"),
            expected=str(expected.get(wrong[0], "no such parameter")),
        )
    return jax.tree_util.tree_map_with_path(lambda path, leaf: shared.get(_name(path), leaf), params)


def average(parts: Sequence[Mapping[str, jax.Array]], weights: Sequence[float]) -> SharedPart:
    """The weighted mean of the silos' shared parts (FedAvg; McMahan et al. 2017, algorithm 1).

    Args:
        parts: one a silo, of the same names and shapes.
        weights: one a silo, such as its number of training targets; they are divided by their sum.
    """
    total = sum(weights)
    share = [weight / total for weight in weights]
    return {
        name: sum((jnp.asarray(s, part[name].dtype) * part[name] for s, part in zip(share, parts, strict=True)),
                  jnp.zeros_like(parts[0][name]))
        for name in parts[0]
    }  # fmt: skip


def _named(params: Params, facts: Params) -> dict[str, tuple[jax.Array, ParameterFacts]]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    known = jax.tree.leaves(facts, is_leaf=lambda leaf: isinstance(leaf, ParameterFacts))
    return {_name(path): (leaf, fact) for (path, leaf), fact in zip(leaves, known, strict=True)}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
