"""What a configuration costs: parameters, and FLOPs of a training step."""

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import jax

from mdrec_jax.codec import digest
from mdrec_jax.config import RunConfig
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.experiments.flops import step_flops
from mdrec_jax.files import write_json
from mdrec_jax.models.api import make_model

NO_COST = ("train", "hardware", "logging", "precision")
"""Fields that do not change what a step costs, as it is counted."""


@dataclass(frozen=True)
class Cost:
    """
    Args:
        dense: parameters outside of tables.
        table: parameters of the tables, rows that only fill them up included.
        flops: of a training step (`flops.step_flops`).
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
