"""Speed and memory of `packed_attention` beside dense attention of packed rows, and of padded ones.

    python benchmarks/kernels/packed_attention.py [--shape beauty ...] [--biases] [--rounds 12] [--json FILE]

For each shape one table of forward and backward passes over the same users, as `mdrec_kernels.bench` describes it.
"padded", which counts as naive: one user a row, as long as the longest may be. "packed, dense": several users a row,
the whole T x T matrix of scores, masked. The last column: entries of score matrices that a form computes for each one
that a causal segment has.
"""

from mdrec_kernels.bench import main

if __name__ == "__main__":
    main("packed_attention", __doc__, {"biases": "with position and time bias"})
