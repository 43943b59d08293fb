#!/usr/bin/env python3
"""Compares gradient descent, mini-batch and one-sample SGD; `--help` lists the options. The work
is done by gdext.instruments."""

import sys

if __name__ == "__main__":
    try:
        from gdext.instruments.compare_descent import main
    except ImportError as error:
        print(f"compare_descent.py: error: {error}; scripts/train.sh builds gdext", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # importing torch takes seconds
        print("compare_descent.py: interrupted, nothing was done", file=sys.stderr)
        sys.exit(130)
    sys.exit(main())
