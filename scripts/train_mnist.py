#!/usr/bin/env python3
"""Trains an MLP on MNIST; `--help` lists the options. The work is done by gdext.training."""

import sys

if __name__ == "__main__":
    try:
        from gdext.training.cli import main
    except ImportError as error:
        print(f"train_mnist.py: error: {error}; scripts/train.sh builds gdext", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # importing torch takes seconds
        print("train_mnist.py: interrupted, nothing was done", file=sys.stderr)
        sys.exit(130)
    sys.exit(main())
