"""Rows of a large table: looked up once each, updated in place, at a cost that the table's length does not enter."""

from mdrec_kernels.embedding_rows.api import (
    AdagradSlots,
    AdamSlots,
    SgdSlots,
    init_adagrad,
    init_adam,
    init_sgd,
    lookup,
    update_adagrad,
    update_adam,
    update_sgd,
)

__all__ = [
    "AdagradSlots",
    "AdamSlots",
    "SgdSlots",
    "init_adagrad",
    "init_adam",
    "init_sgd",
    "lookup",
    "update_adagrad",
    "update_adam",
    "update_sgd",
]
