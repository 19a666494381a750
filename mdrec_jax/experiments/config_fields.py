"""Fields of a run's configuration by their dotted names (`model.dim`), and what one that does not exist may mean."""

import difflib
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any

from mdrec_jax.codec import CLASS, flatten
from mdrec_jax.config import RunConfig
from mdrec_jax.errors import ConfigError


def with_fields(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """`config` with other values of the named fields, set all at once.

    Raises:
        ConfigError: a name that is no field or is a group of fields, or a value of another type or out of its range.
    """
    plain = config.to_plain()
    fields = [name for name in flatten(plain) if name.rpartition(".")[2] != CLASS]
    for name, value in values.items():
        *groups, last = name.split(".")
        place = plain
        for depth, part in enumerate(groups):
            _check_name(place, part, groups[:depth], fields, name)
            place = place[part]
        _check_name(place, last, groups, fields, name)
        if isinstance(place[last], dict):
            inside = ", ".join(f"{name}.{field}" for field in place[last] if field != CLASS)
            raise ConfigError("a group of fields", column=name, found=value, expected=f"one of {inside}")
        place[last] = value
    return RunConfig.from_plain(plain)


def _check_name(place: Any, part: str, above: list[str], fields: list[str], wanted: str) -> None:
    names = [name for name in place if name != CLASS] if isinstance(place, dict) else []
    if part not in names:
        expected = "one of: " + ", ".join(sorted(names)) if names else f"nothing, {'.'.join(above)} has no fields"
        meant = suggest(wanted, fields)
        raise ConfigError(
            "no such field",
            column=".".join((*above, part)),
            found=part,
            expected=expected,
            hint=f"perhaps {' or '.join(meant)}" if meant else None,
        )


def value_of(config: RunConfig, name: str) -> Any:
    """The value of a field."""
    return reduce(getattr, name.split("."), config)


ELSEWHERE = {
    "lr": "learning_rate",
    "rate": "learning_rate",
    "wd": "weight_decay",
    "l2": "weight_decay",
    "batch_size": "rows",
    "batch": "rows",
    "hidden_size": "dim",
    "hidden_dim": "dim",
    "hidden_units": "dim",
    "embedding_dim": "dim",
    "embedding_size": "dim",
    "d_model": "dim",
    "num_layers": "layers",
    "n_layers": "layers",
    "num_blocks": "layers",
    "depth": "layers",
    "num_heads": "heads",
    "n_heads": "heads",
    "num_epochs": "epochs",
    "n_epochs": "epochs",
    "max_epochs": "epochs",
    "max_steps": "steps",
    "num_steps": "steps",
    "max_len": "max_length",
    "maxlen": "max_length",
    "seq_len": "max_length",
    "max_seq_len": "max_length",
    "max_seq_length": "max_length",
    "window": "attention_window",
    "dropout": "residual_dropout",
    "attention_dropout": "inner_dropout",
    "num_negatives": "negatives",
    "n_negatives": "negatives",
    "negative_samples": "negatives",
    "temp": "temperature",
    "tau": "temperature",
    "warmup": "warmup_steps",
    "early_stopping": "patience",
    "random_seed": "seed",
    "clip": "clip_norm",
    "grad_clip": "clip_norm",
    "dtype": "compute",
    "optimizer": "rule",
}
"""Names of other programs -> the last part of ours."""
MOST = 3


def suggest(wanted: str, names: Iterable[str]) -> list[str]:
    """At most three of the names, the likeliest first: by what other programs call them, then by spelling."""
    wanted, names = wanted.replace("-", "_").lower(), list(names)
    last, group = wanted.rpartition(".")[2], wanted.split(".")[0]
    meant = {last, ELSEWHERE.get(last, last)}
    same = [name for name in names if name.rpartition(".")[2] in meant]
    same.sort(key=lambda name: (name.split(".")[0] != group, name.count("."), names.index(name)))
    if same:
        return same[:MOST]
    spelled = difflib.get_close_matches(wanted, names, MOST, 0.75)
    if spelled:
        return spelled
    lasts = {name.rpartition(".")[2] for name in names}
    near = difflib.get_close_matches(last, lasts, MOST, 0.7)
    return [name for one in near for name in names if name.rpartition(".")[2] == one][:MOST]
