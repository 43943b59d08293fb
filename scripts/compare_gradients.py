#!/usr/bin/env python3
"""Measures the cost of one update by each way to a gradient; `--help` lists the options. The work
is done by gdext.instruments."""

import sys

if __name__ == "__main__":
    try:
        from gdext.instruments.compare_gradients import main
    except ImportError as error:
        print(
            f"compare_gradients.py: error: {error}; scripts/train.sh builds gdext", file=sys.stderr
        )
        sys.exit(2)
    except KeyboardInterrupt:  # importing torch takes seconds
        print("compare_gradients.py: interrupted, nothing was done", file=sys.stderr)
        sys.exit(130)
    sys.exit(main())
