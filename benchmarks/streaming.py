"""Time of one more event beside encoding the whole history again, at growing lengths of the history.

    python benchmarks/streaming.py --out streaming.png [--lengths 100,300,1000,3000,10000] [--users 32] [--repeats 30]

The flagship at the sizes of the synthetic world (three domains) with two views, banks, written memory and a window of
100; float32; medians. A plot needs the extra `report`; without --out the table is printed alone.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdrec_jax.data.synthetic import SyntheticConfig
from mdrec_jax.models.api import Model, encode_batch, make_model
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.layers.learned_memory import LearnedMemoryConfig
from mdrec_jax.models.streaming.step import (
    Events,
    StreamState,
    initial_state,
    state_bytes,
    stream_queries,
    stream_update,
)
from mdrec_jax.models.views import ViewsConfig
from mdrec_jax.types import Batch, DatasetSpec, Params

WINDOW, BLOCK = 100, 25
WORLD = SyntheticConfig()
SPEC = DatasetSpec(num_items=WORLD.items + 2, num_domains=WORLD.domains, num_events=1, has_time=True)
CONFIG = RecommenderConfig(
    dim=64,
    layers=2,
    attention_window=WINDOW,
    positions="rotary",
    temperature=0.05,
    views=ViewsConfig(in_domain=True, path_rank=8),
    learned_memory=LearnedMemoryConfig(local=64, shared=32),
    user_memory=True,
)


@partial(jax.jit, static_argnames="model", donate_argnames="state")
def update(model: Model, params: Params, state: StreamState, events: Events) -> StreamState:
    return stream_update(model, params, state, events)


@partial(jax.jit, static_argnames="model", donate_argnames="state")
def serve(
    model: Model, params: Params, state: StreamState, events: Events, domain: jax.Array
) -> tuple[StreamState, jax.Array]:
    """One more event, and what the next items of a domain are scored with."""
    state = stream_update(model, params, state, events)
    return state, stream_queries(model, params, state, domain)


@partial(jax.jit, static_argnames="model")
def encode(model: Model, params: Params, batch: Batch) -> jax.Array:
    return encode_batch(model, params, batch).h[:, -1]


def events_of(item: np.ndarray) -> Events:
    ids = jnp.asarray(item, jnp.int32)
    return Events(ids, ids % SPEC.num_domains, jnp.zeros_like(ids), jnp.zeros_like(ids))


def history_batch(item: np.ndarray) -> Batch:
    """One history as one row; the last token is asked about its own domain."""
    domain, place = item % SPEC.num_domains, np.arange(item.shape[1], dtype=np.int32)[None]
    nothing = np.zeros_like(item)
    return Batch(
        item=item,
        domain=domain,
        event=nothing,
        time=nothing,
        segment=nothing + 1,
        position=place,
        domain_position=(np.cumsum(domain[..., None] == np.arange(SPEC.num_domains), axis=1, dtype=np.int32) - 1)[
            np.arange(1)[:, None], place, domain
        ],
        target=nothing,
        target_domain=domain,
        target_time=nothing,
        previous_in_target_domain=place,
        weight=nothing.astype(np.float32),
        segment_user=nothing[:, :1],
    )


def median_ms(call: Callable[[], Any], repeats: int) -> float:
    """The median of calls after the first two."""
    times = []
    for _ in range(repeats + 2):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times[2:])


def read(params: Params, model: Model, item: np.ndarray) -> tuple[StreamState, float]:
    """The states after histories, and milliseconds for an event of them, read in blocks of which the first two are
    not timed."""
    state, begin, done = initial_state(model, len(item)), 0.0, 0
    for at in range(0, item.shape[1], BLOCK):
        block = np.zeros((len(item), BLOCK), np.int32)
        part = item[:, at : at + BLOCK]
        block[:, : part.shape[1]] = part
        state = jax.block_until_ready(update(model, params, state, events_of(block)))
        if at == BLOCK:
            begin, done = time.perf_counter(), at + BLOCK
    return state, 1e3 * (time.perf_counter() - begin) / max(item.shape[1] - done, 1)


def one_more(params: Params, model: Model, state: StreamState, item: np.ndarray, repeats: int) -> float:
    """Milliseconds of an event more, with what the next items are scored with."""
    event, domain = events_of(item), jnp.asarray(item[:, 0] % SPEC.num_domains)

    def call() -> jax.Array:
        nonlocal state
        state, h = serve(model, params, state, event, domain)
        return h

    return median_ms(call, repeats)


def measure(lengths: list[int], users: int, repeats: int) -> list[tuple[int, float, float, float, float, float]]:
    """(length, ms of an event, of an event of many users at once, of an event of a block, of encoding all again, the
    largest difference between the two answers over the largest entry)."""
    model = make_model(CONFIG, SPEC)
    params = model.init(jax.random.key(0))
    rows = []
    for length in lengths:
        item = np.random.default_rng(length).integers(2, SPEC.num_items, (users, length)).astype(np.int32)
        batch = jax.device_put(history_batch(item[:1]))
        expected = encode(model, params, batch)
        again = median_ms(lambda batch=batch: encode(model, params, batch), repeats)
        state, block = read(params, model, item[:1])
        found = stream_queries(model, params, state, jnp.asarray(item[:1, -1] % SPEC.num_domains))
        difference = float(jnp.abs(found - expected).max() / jnp.abs(expected).max())
        one = one_more(params, model, state, item[:1, :1], repeats)
        many = one_more(params, model, read(params, model, item)[0], item[:, :1], repeats)
        rows.append((length, one, many, block, again, difference))
        print(f"{length:>7,} {one:>12.3f} {many:>14.3f} {block:>14.3f} {again:>14.3f} {difference:>14.1e}", flush=True)
    return rows


def plot(rows: list[tuple[int, float, float, float, float, float]], users: int, out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    length, one, many, _, again, _ = zip(*rows, strict=True)
    figure, axes = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
    lines = (
        ("encode the history again", again, "#b8863b"),
        (f"one more event, {users} users", many, "#7fa6b5"),
        ("one more event", one, "#1f6f8b"),
    )
    for name, values, colour in lines:
        axes.loglog(length, values, "o-", color=colour, label=name, markersize=4)
    axes.set_xlabel("events before", fontsize=9)
    axes.set_ylabel("milliseconds", fontsize=9)
    axes.set_ylim(bottom=min(one) / 3)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="100,300,1000,3000,10000")
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    parts = state_bytes(make_model(CONFIG, SPEC))
    print(f"{jax.devices()[0].device_kind}; a user's state: {sum(parts.values()):,} bytes {parts}")
    print(
        f"milliseconds\n{'before':>7} {'one event':>12} {f'{args.users} users':>16} {'in blocks':>14} {'all again':>14}"
    )
    rows = measure([int(length) for length in args.lengths.split(",")], args.users, args.repeats)
    if args.out is not None:
        plot(rows, args.users, args.out)
        print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
