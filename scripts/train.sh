#!/usr/bin/env bash
# Install what is missing, build gdext, train an MLP on MNIST. Arguments go to scripts/train_mnist.py.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
prepare train
exec "$PYTHON" "$ROOT/scripts/train_mnist.py" "$@"
