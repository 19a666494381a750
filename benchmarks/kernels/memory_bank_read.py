"""Speed and memory of `memory_bank_read` beside the formula, which holds every score of tokens against slots.

    python benchmarks/kernels/memory_bank_read.py [--shape paper-8k ...] [--bfloat16] [--rounds 12] [--json FILE]

For each shape one table, as `mdrec_kernels.bench` describes it. On a GPU the XLA form and cuDNN stand beside the form
that runs by default.
"""

from mdrec_kernels.bench import main

if __name__ == "__main__":
    main("memory_bank_read", __doc__, {"bfloat16": "queries and products in bfloat16"})
