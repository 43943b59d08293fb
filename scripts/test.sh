#!/usr/bin/env bash
# Install what is missing, build gdext, run its tests. Arguments go to pytest; paths are relative to the
# repository's top.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
prepare test
cd "$ROOT"
exec "$PYTHON" -m pytest "$@"
