"""`python -m mdrec_jax` is `mdrec`."""

import sys

from mdrec_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
