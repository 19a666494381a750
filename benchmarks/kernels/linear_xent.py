"""Speed and memory of `linear_xent` beside the formula as it stands.

    python benchmarks/kernels/linear_xent.py [--shape beauty ...] [--sweep] [--rounds 12] [--json FILE]

For each shape one table, as `mdrec_kernels.bench` describes it.
"""

from mdrec_kernels.bench import main

if __name__ == "__main__":
    main("linear_xent", __doc__, {"sweep": "also cut the scores into blocks of other sizes"})
