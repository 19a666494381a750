"""Speed and memory of `delta_memory_scan` beside a plain scan over the chunks.

    python benchmarks/kernels/delta_memory_scan.py [--shape ml1m ...] [--bfloat16] [--rounds 12] [--json FILE]

For each shape one table, as `mdrec_kernels.bench` describes it. "plain scan": the same chunks in a `jax.lax.scan`,
differentiated by JAX; the state and every chunk's weights go through memory.
"""

from mdrec_kernels.bench import main

if __name__ == "__main__":
    main("delta_memory_scan", __doc__, {"bfloat16": "tokens and outputs in bfloat16"})
