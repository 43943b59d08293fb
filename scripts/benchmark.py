#!/usr/bin/env python3
"""Times gdext beside PyTorch and JAX; `--help` lists the options. The work is done by
gdext.benchmark."""

import sys

if __name__ == "__main__":
    try:
        from gdext.benchmark.cli import main
    except ImportError as error:
        print(f"benchmark.py: error: {error}; scripts/train.sh builds gdext", file=sys.stderr)
        sys.exit(2)
    sys.exit(main())
