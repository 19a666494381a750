"""A shared and a specific code that are kept apart: the shared one learns from what users did in other domains than the
target's and has one mean and covariance in all domains, and the specific one has the shared one's directions taken from
it. For the world of

mdrec synthetic --domains 2 --items 150 --repeats --cold 0 --users 1500 --mean-length 100 --preference 2
    --shared-factors 2 --specific-factors 2 --out data/factors

mdrec train disentangled --data data/factors --run runs/codes
mdrec evaluate runs/codes --probes
"""

from mdrec_jax.config import RunConfig, load_preset, replace
from mdrec_jax.data.batching import BatchingConfig
from mdrec_jax.models.disentangle import DisentangleConfig

LONGEST = 200
"""Events of a history."""
RATE = 5e-3
DROPOUT = 0.25


def config() -> RunConfig:
    # The two factors that the domains have in common, and one more: what is wider lets specific factors through.
    codes = DisentangleConfig(
        codes=True, specific_domain=0.1, across=1.0, shared_learns="own", shared_rank=3, standardise=True, erase=True,
        sample=256,
    )  # fmt: skip
    encoder = {
        "dim": 32,
        "layers": 1,
        "max_length": LONGEST,
        "embedding_dropout": DROPOUT,
        "residual_dropout": DROPOUT,
    }
    return replace(
        load_preset("mdrec"),
        batching=BatchingConfig(rows=8, row_length=256, max_length=LONGEST),
        model={"encoder": encoder, "disentangle": codes},
        loss={"softmax_over": "target_domain"},
        optim={"dense": {"learning_rate": RATE}, "table": {"learning_rate": RATE}},
        train={"epochs": 10.0, "evaluate_every": 10.0},
    )


def smoke() -> RunConfig:
    return replace(config(), model={"encoder": {"dim": 16}}, train={"epochs": 0.5, "evaluate_every": 0.5})
