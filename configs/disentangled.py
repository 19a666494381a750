"""A shared and a specific code that are kept apart: the shared one learns from what users did in other domains than the
target's, and the specific one has the shared one's directions taken from it. For the world of

mdrec synthetic --domains 2 --items 150 --repeats --cold 0 --users 1500 --mean-length 60 --preference 2
    --shared-factors 2 --specific-factors 2 --out data/factors

mdrec train disentangled --data data/factors --run runs/codes
mdrec evaluate runs/codes --probes
"""

from mdrec_jax.config import RunConfig, load_preset, replace
from mdrec_jax.data.batching import BatchingConfig
from mdrec_jax.models.disentangle import DisentangleConfig

LONGEST = 200
"""Events of a history."""
RATE = 4e-3


def config() -> RunConfig:
    # As wide as there are factors that domains have in common, and the last item's: what is wider lets others through.
    codes = DisentangleConfig(codes=True, across=1.0, shared_learns="own", shared_rank=4, erase=True, sample=128)
    return replace(
        load_preset("mdrec"),
        batching=BatchingConfig(rows=4, row_length=256, max_length=LONGEST),
        model={"encoder": {"dim": 32, "layers": 1, "max_length": LONGEST}, "disentangle": codes},
        loss={"softmax_over": "target_domain"},
        optim={"dense": {"learning_rate": RATE}, "table": {"learning_rate": RATE}},
        train={"epochs": 6.0, "evaluate_every": 3.0},
    )


def smoke() -> RunConfig:
    return replace(config(), model={"encoder": {"dim": 16}}, train={"epochs": 0.5, "evaluate_every": 0.5})
