"""A planted world of many domains whose truth is known: what a model should find is written beside the data."""

from pathlib import Path

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.prepare.prepare import PrepareOptions, write_log
from mdrec_jax.data.synthetic.config import SyntheticConfig, long_history
from mdrec_jax.data.synthetic.events import draw_events
from mdrec_jax.data.synthetic.factors import make_factors
from mdrec_jax.data.synthetic.plan import make_plan
from mdrec_jax.data.synthetic.rawlog import make_raw_log
from mdrec_jax.data.synthetic.truth import Truth, load_truth, oracle_scores, truth_history, write_truth

__all__ = [
    "SyntheticConfig",
    "Truth",
    "load_truth",
    "long_history",
    "oracle_scores",
    "truth_history",
    "write_world",
]


def write_world(config: SyntheticConfig, out: Path) -> Dataset:
    """Draws a world and writes it as the prepared dataset `out`, with its truth in `out`/truth.

    The same config gives the same bytes. About 2 s for the default on one core; the time grows with events times items
    of a domain.

    Raises:
        InputError: `out` holds something that is not a prepared dataset.
        ConfigError: a field of the config is out of range (raised when the config is made).
    """
    factors = make_factors(config)
    events = draw_events(config, factors, make_plan(config, factors))
    return write_log(
        make_raw_log(config, factors, events),
        "synthetic",
        out,
        PrepareOptions(seed=config.seed),
        extra=lambda folder: write_truth(folder, config, factors, events),
    )
