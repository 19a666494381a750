"""Sequential recommendation over many domains.

The names below are what a notebook needs; each is loaded when it is first used, so `import mdrec_jax` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdrec_jax.config import RunConfig, load_preset, replace
    from mdrec_jax.data.batching.batches import BatchingConfig, TrainBatches
    from mdrec_jax.data.dataset import Dataset, open_dataset
    from mdrec_jax.data.prepare.prepare import prepare
    from mdrec_jax.models.api import Model, make_model
    from mdrec_jax.models.bsarec import BsarecConfig
    from mdrec_jax.models.config import RecommenderConfig
    from mdrec_jax.models.encoded import Encoded
    from mdrec_jax.models.gru4rec import Gru4RecConfig
    from mdrec_jax.models.hstu import HstuConfig
    from mdrec_jax.models.streaming.step import Events, StreamState, initial_state, stream_recommend, stream_update
    from mdrec_jax.objectives.next_item import NextItemConfig, make_objective
    from mdrec_jax.train.fit import fit
    from mdrec_jax.train.runs.run_folder import RunFolder
    from mdrec_jax.train.setup import Setup
    from mdrec_jax.train.trained import load_run
    from mdrec_jax.types import Batch, DatasetSpec, Params, Rows

_HOMES = {
    "config": ("RunConfig", "load_preset", "replace"),
    "data.batching.batches": ("BatchingConfig", "TrainBatches"),
    "data.dataset": ("Dataset", "open_dataset"),
    "data.prepare.prepare": ("prepare",),
    "models.api": ("Model", "make_model"),
    "models.encoded": ("Encoded",),
    "models.bsarec": ("BsarecConfig",),
    "models.gru4rec": ("Gru4RecConfig",),
    "models.hstu": ("HstuConfig",),
    "models.config": ("RecommenderConfig",),
    "models.streaming.step": ("Events", "StreamState", "initial_state", "stream_recommend", "stream_update"),
    "objectives.next_item": ("NextItemConfig", "make_objective"),
    "train.fit": ("fit",),
    "train.runs.run_folder": ("RunFolder",),
    "train.setup": ("Setup",),
    "train.trained": ("load_run",),
    "types": ("Batch", "DatasetSpec", "Params", "Rows"),
}
_HOME_OF = {name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names}

__all__ = [
    "Batch",
    "BatchingConfig",
    "BsarecConfig",
    "Dataset",
    "DatasetSpec",
    "Encoded",
    "Events",
    "Gru4RecConfig",
    "HstuConfig",
    "Model",
    "NextItemConfig",
    "Params",
    "RecommenderConfig",
    "Rows",
    "RunConfig",
    "RunFolder",
    "Setup",
    "StreamState",
    "TrainBatches",
    "fit",
    "initial_state",
    "load_preset",
    "load_run",
    "make_model",
    "make_objective",
    "open_dataset",
    "prepare",
    "replace",
    "stream_recommend",
    "stream_update",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
