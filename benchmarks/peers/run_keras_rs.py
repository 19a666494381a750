"""keras-rs on JAX: SASRec of KerasHub's decoder blocks, as the library's sequential retrieval models are put together.

keras-rs has no loss over the catalogue, and its retrieval layer has no filter for seen items, so both stand here, in
Keras ops and on its side: the negatives of a sampled loss are drawn once a batch, and the scores of seen items are
overwritten before the best ten are taken, all inside the compiled step.
"""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# ruff: noqa: ARG002 (the libraries name the arguments of what they call)

import os
import time
import warnings
from typing import Any

import numpy as np
from common import Clock, Log, Task, evaluation, hit_rate, main, padded, peak_bytes, rank_targets, versions

EVALUATION_BATCH = 256


def run(task: Task, log: Log) -> dict[str, Any]:
    os.environ["KERAS_BACKEND"] = "jax"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras

    warnings.filterwarnings("ignore")
    keras.utils.set_random_seed(task.seed)
    start = time.perf_counter()
    rows = padded((log.train(i) for i in range(log.num_sequences)), task.length + 1, left=False, fill=-1) + 1
    rows = rows[(rows[:, 1:] > 0).any(1)].astype(np.int32)
    if task.steps:
        rows = rows[np.random.default_rng(task.seed).permutation(len(rows))[: task.steps * task.batch]]
    inputs, targets = rows[:, :-1], rows[:, 1:]
    network = _network(task, log)
    network.compile(optimizer=keras.optimizers.Adam(task.learning_rate, beta_2=0.98))
    prepared = time.perf_counter() - start
    clock = Clock()
    timer = _timer(clock, targets, task.batch)
    data = {"item": inputs, "target": targets}
    network.fit(data, np.zeros(len(rows)), batch_size=task.batch, epochs=1 + task.epochs, verbose=0, callbacks=[timer])
    result = {
        "training": clock.summary(),
        "prepare_seconds": prepared,
        "input_seconds": _input_seconds(data, task.batch),
        "parameters": int(network.count_params()),
        "train_peak_bytes": peak_bytes(),
    }
    history = padded((log.history(q) for q in range(len(log.target))), task.length, left=False, fill=-1) + 1
    if task.evaluate:
        result["evaluation"] = _evaluate(log, network, history)
    if task.quality:
        predictor = _states_model(network)
        vectors = np.asarray(network.items.embeddings)[1:]

        def states(queries: np.ndarray) -> np.ndarray:
            return np.asarray(predictor.predict_on_batch(history[queries].astype(np.int32)))

        result["quality"] = rank_targets(log, states, vectors, np.ones(log.num_items, bool))
    return {
        **result,
        "peak_bytes": peak_bytes(),
        "versions": versions("keras-rs", "keras-hub", "keras", "jax", "numpy"),
    }


def _network(task: Task, log: Log) -> Any:
    """The model; item 0 is padding, item i + 1 the log's item i."""
    import keras
    import keras_hub
    from keras import ops

    class SasRec(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.items = keras_hub.layers.ReversibleEmbedding(
                log.num_items + 1, task.dim, embeddings_initializer="glorot_uniform"
            )
            self.positions = keras_hub.layers.PositionEmbedding(task.length, initializer="glorot_uniform")
            self.dropout = keras.layers.Dropout(task.dropout)
            self.blocks = [
                keras_hub.layers.TransformerDecoder(
                    intermediate_dim=task.dim,
                    num_heads=task.heads,
                    dropout=task.dropout,
                    activation="relu",
                    kernel_initializer="glorot_uniform",
                    normalize_first=True,
                )
                for _ in range(task.blocks)
            ]
            self.norm = keras.layers.LayerNormalization()
            self.draws = keras.random.SeedGenerator(task.seed)

        def encode(self, item: Any, training: bool = False) -> Any:
            h = self.items(item)
            h = self.dropout(h + self.positions(h), training=training)
            for block in self.blocks:
                h = block(h, decoder_padding_mask=item != 0, training=training)
            return self.norm(h)

        def call(self, data: Any, training: bool = False) -> Any:
            """The mean loss of the batch's targets."""
            h, target = self.encode(data["item"], training), data["target"]
            if task.loss == "softmax":
                logits, wanted = self.items(h, reverse=True)[..., 1:], ops.maximum(target - 1, 0)
                loss = keras.losses.sparse_categorical_crossentropy(wanted, logits, from_logits=True)
            else:
                loss = self.sampled(h, target)
            real = ops.cast(target != 0, "float32")
            return ops.sum(loss * real) / ops.maximum(ops.sum(real), 1.0)

        def sampled(self, h: Any, target: Any) -> Any:
            drawn = keras.random.randint((task.negatives,), 1, log.num_items + 1, seed=self.draws)
            mine = ops.sum(h * self.items(target), -1, keepdims=True)
            others = ops.matmul(h, ops.transpose(self.items(drawn)))
            others = ops.where(drawn == target[..., None], -1e9, others)
            return ops.logsumexp(ops.concatenate([mine, others], -1), -1) - mine[..., 0]

        def compute_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None, training: bool = True) -> Any:
            return y_pred

    network = SasRec()
    sample = np.zeros((1, task.length), np.int32)
    network({"item": sample, "target": sample})
    return network


def _timer(clock: Clock, targets: np.ndarray, batch: int) -> Any:
    import keras

    total = int((targets > 0).sum())
    steps = -(-len(targets) // batch)

    class Timer(keras.callbacks.Callback):
        """The order of rows is Keras's own, so an epoch's targets are shared out evenly over its steps."""

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            clock.begin_epoch()
            clock.begin_step()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            done, left = total * batch // steps, total * (batch + 1) // steps
            clock.end_step(left - done)
            clock.begin_step()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            clock.end_epoch((logs or {}).get("loss"))

    return Timer()


def _input_seconds(data: dict[str, np.ndarray], batch: int) -> float:
    """An epoch's batches taken from the arrays in random order, as Keras's own loader does."""
    start = time.perf_counter()
    order = np.random.default_rng(0).permutation(len(data["item"]))
    for first in range(0, len(order), batch):
        for array in data.values():
            array[order[first : first + batch]]
    return time.perf_counter() - start


def _last(network: Any, item: Any) -> Any:
    from keras import ops

    end = ops.maximum(ops.sum(ops.cast(item != 0, "int32"), axis=1) - 1, 0)
    return ops.take_along_axis(network.encode(item), end[:, None, None], axis=1)[:, 0]


def _states_model(network: Any) -> Any:
    import keras

    class States(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def call(self, item: Any) -> Any:
            return _last(self.network, item)

    return States()


def _recommender(network: Any) -> Any:
    import keras
    import keras_rs
    from keras import ops

    class Unseen(keras_rs.layers.BruteForceRetrieval):
        def call(self, inputs: Any) -> Any:
            """The best items for states [Q, D] that are not among seen [Q, N] (0 = none, and never a candidate)."""
            states, seen = inputs
            scores = self.compute_score(states, self.candidate_embeddings)
            rows = ops.broadcast_to(ops.arange(ops.shape(scores)[0])[:, None], ops.shape(seen))
            where = ops.reshape(ops.stack([rows, seen], -1), (-1, 2))
            low = ops.scatter_update(scores, where, ops.full((ops.shape(where)[0],), -1e9))
            return ops.top_k(low, self.k)[1]

    class Recommend(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.retrieval = Unseen(np.array(network.items.embeddings), k=10, return_scores=False)

        def call(self, data: Any) -> Any:
            return self.retrieval((_last(self.network, data["item"]), data["seen"]))

    return Recommend()


def _evaluate(log: Log, network: Any, history: np.ndarray) -> dict[str, float]:
    """Recommends twice; the first time compiles, and is kept apart."""
    recommend = _recommender(network)
    start = time.perf_counter()
    _recommend_all(log, recommend, history)
    first = time.perf_counter() - start
    start = time.perf_counter()
    top = _recommend_all(log, recommend, history)
    return {**evaluation(len(top), start), "first_seconds": first, "hr@10": hit_rate(log, top)}


def _recommend_all(log: Log, recommend: Any, history: np.ndarray) -> np.ndarray:
    """The best ten unseen items of every query; in the order of lengths, so that little of the seen is padding."""
    lengths = np.diff(log.history_offsets) + 1  # 0 is always among the seen: it is padding, and must not win
    order = np.argsort(lengths, kind="stable")
    top = np.zeros((len(order), 10), np.int64)
    for first in range(0, len(order), EVALUATION_BATCH):
        queries = order[first : first + EVALUATION_BATCH]
        width = 1 << int(lengths[queries].max()).bit_length()  # few widths, so few programs
        seen = padded((log.history(q) for q in queries), width, left=False, fill=-1) + 1
        items = history[queries].astype(np.int32)
        if len(queries) < EVALUATION_BATCH:
            more = EVALUATION_BATCH - len(queries)
            seen, items = np.pad(seen, ((0, more), (0, 0))), np.pad(items, ((0, more), (0, 0)))
        found = recommend.predict_on_batch({"item": items, "seen": seen.astype(np.int32)})
        top[queries] = np.asarray(found)[: len(queries)] - 1
    return top


if __name__ == "__main__":
    main(run)
