"""Speed and memory of `grouped_ffn` beside the masked formula, `jax.lax.ragged_dot`, and one expert for all rows.

    python benchmarks/kernels/grouped_ffn.py [--shape sixteen ...] [--bfloat16] [--rounds 12] [--json FILE]

For each shape one table, as `mdrec_kernels.bench` describes it.
"""

from mdrec_kernels.bench import main

if __name__ == "__main__":
    main("grouped_ffn", __doc__, {"bfloat16": "rows and products in bfloat16"})
