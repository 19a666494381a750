"""The optimiser of a run: optax for the dense parameters, row-wise rules for the tables."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import optax
from jaxtyping import Float32, Int32
from mdrec_kernels import embedding_rows

from mdrec_jax.errors import ConfigError
from mdrec_jax.optim.schedule import ScheduleConfig, learning_rate_factor
from mdrec_jax.types import Group, Params

BETA1, EPSILON = 0.9, 1e-8
"""Adam's."""
DECAYED: tuple[Group, ...] = ("matrix", "embedding")
"""The groups (`ParameterFacts.group`) of dense parameters that weight decay reaches."""


@dataclass(frozen=True)
class DenseConfig:
    """
    Args:
        learning_rate: of everything that is not a table; the schedule multiplies it.
        clip_norm: the global norm that gradients of dense parameters are scaled down to; 0 never clips.
    """

    learning_rate: float = 1e-3
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        _check("optim.dense.learning_rate", self.learning_rate, self.learning_rate > 0, "> 0")
        _check("optim.dense.clip_norm", self.clip_norm, self.clip_norm >= 0, ">= 0")


@dataclass(frozen=True)
class TableConfig:
    """
    Args:
        rule: `adam` is lazy: the moments of a row move when the row is touched; `adagrad` keeps one sum a row; `sgd`.
        learning_rate: of table rows; the schedule multiplies it.
    """

    rule: Literal["adam", "adagrad", "sgd"] = "adam"
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        _check("optim.table.learning_rate", self.learning_rate, self.learning_rate > 0, "> 0")


@dataclass(frozen=True)
class OptimConfig:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), and a rule for table rows.

    Args:
        beta2: how much of the mean square of the gradients a step keeps.
        weight_decay: decoupled, times the learning rate, on matrices, on dense embeddings (positions, domains, dates,
            memory slots: a row that nothing reads goes to 0) and on touched table rows. Vectors (norms, biases, scales)
            are not decayed, stacked or not: their group says so (`types.ParameterFacts`).
        dense: of everything that is not a table.
        table: of the rows of tables.
        schedule: how the learning rates move.
    """

    beta2: float = 0.98
    weight_decay: float = 0.0
    dense: DenseConfig = field(default_factory=DenseConfig)
    table: TableConfig = field(default_factory=TableConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        _check("optim.beta2", self.beta2, 0 <= self.beta2 < 1, "0 to below 1")
        _check("optim.weight_decay", self.weight_decay, self.weight_decay >= 0, ">= 0")


def _check(name: str, value: float, holds: bool, expected: str) -> None:
    if not holds:
        raise ConfigError("out of range", column=name, found=value, expected=expected)


@dataclass(frozen=True)
class RowGradients:
    """The gradient of the rows that a step touched."""

    ids: Int32[jax.Array, " N"]
    """Their row numbers, as `embedding_rows.lookup` returns them."""
    values: Float32[jax.Array, "N D"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Slots:
    """What the optimiser remembers: optax's state of the dense parameters, and one record a table."""

    dense: Any
    tables: dict[str, Any]


def _dense_transform(config: OptimConfig, facts: Any) -> optax.GradientTransformation:
    # A stack of blocks makes a norm's scale two-dimensional: what a parameter is, its facts say and its shape does not.
    decays = jax.tree.map(lambda fact: fact.group in DECAYED, facts)
    return optax.chain(
        optax.clip_by_global_norm(config.dense.clip_norm) if config.dense.clip_norm else optax.identity(),
        optax.scale_by_adam(BETA1, config.beta2, EPSILON),
        optax.add_decayed_weights(config.weight_decay, decays) if config.weight_decay else optax.identity(),
    )


def init(config: OptimConfig, facts: Params, params: Params) -> Slots:
    """Slots for `params`; the same tree whatever the mode of the tables.

    Args:
        facts: of the model's parameters, in a tree like `params`.
        params: the parameters.
    """
    return Slots(
        _dense_transform(config, facts.dense).init(params.dense),
        {name: _init_table(config.table.rule, table) for name, table in params.tables.items()},
    )


def apply(
    config: OptimConfig,
    facts: Params,
    params: Params,
    slots: Slots,
    dense_gradients: Any,
    table_gradients: dict[str, RowGradients | jax.Array],
    step: jax.Array,
    total_steps: int,
) -> tuple[Params, Slots]:
    """One step; statistics stay as they are.

    Args:
        facts: of the model's parameters, in a tree like `params`.
        dense_gradients: a tree like `params.dense`.
        table_gradients: for each table its touched rows' gradients, or the whole table's, [V, D].
        step: the number of steps done before this one.
        total_steps: the steps of the whole run, for the schedule.
    """
    factor = learning_rate_factor(config.schedule, step, total_steps)
    updates, dense_slots = _dense_transform(config, facts.dense).update(dense_gradients, slots.dense, params.dense)
    rate = -config.dense.learning_rate * factor
    dense = jax.tree.map(lambda p, u: p + (rate * u).astype(p.dtype), params.dense, updates)
    tables, table_slots = {}, {}
    for name, gradient in table_gradients.items():
        tables[name], table_slots[name] = _apply_to_table(
            config, params.tables[name], slots.tables[name], gradient, config.table.learning_rate * factor
        )
    return Params(dense, tables, params.statistics), Slots(dense_slots, table_slots)


def _init_table(rule: str, table: jax.Array) -> Any:
    match rule:
        case "adam":
            return embedding_rows.init_adam(table)
        case "adagrad":
            return embedding_rows.init_adagrad(table)
        case _:
            return embedding_rows.SgdSlots()


def _apply_to_table(
    config: OptimConfig, table: jax.Array, slots: Any, gradient: RowGradients | jax.Array, rate: jax.Array
) -> tuple[jax.Array, Any]:
    """The rule on the touched rows, or on every row."""
    ids, values = (None, gradient) if isinstance(gradient, jax.Array) else (gradient.ids, gradient.values)
    settings = {"weight_decay": config.weight_decay}
    update: Callable[..., tuple[jax.Array, Any]]
    match config.table.rule:
        case "adam":
            settings |= {"b1": BETA1, "b2": config.beta2, "eps": EPSILON}
            update = embedding_rows.update_adam
        case "adagrad":
            settings |= {"eps": EPSILON}
            update = embedding_rows.update_adagrad
        case "sgd":
            update = embedding_rows.update_sgd
    return update(table, slots, ids, values, rate, **settings)
