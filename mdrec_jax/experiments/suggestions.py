"""What a field that does not exist may have meant."""

import difflib
from collections.abc import Iterable

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
