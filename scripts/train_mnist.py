#!/usr/bin/env python3
"""Trains an MLP on MNIST; `--help` lists the options. The work is done by gdext.training."""

import sys

from gdext.training.cli import main

if __name__ == "__main__":
    sys.exit(main())
