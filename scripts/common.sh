# Sourced by train.sh and test.sh: chooses a Python and prepares it. Sets PYTHON and ROOT.
#
# The active environment is used if PyTorch is installed there; otherwise .venv beside this folder is made, with
# the versions of scripts/requirements/.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
  printf 'gdext: %s\n' "$*" >&2
  exit 1
}

# Whether Python $1 runs and the expression $2 is true there. From /, so that no module is found in the
# current folder.
python_has() {
  (cd / && "$1" -c "import sys, importlib.util as util; sys.exit(not ($2))") >/dev/null 2>&1
}

find_base_python() {
  local name
  for name in python3 python python3.14 python3.13 python3.12 python3.11 python3.10; do
    if python_has "$name" 'sys.version_info >= (3, 10)'; then
      command -v "$name"
      return
    fi
  done
  fail "Python 3.10 or newer is needed; found $(python3 --version 2>/dev/null || echo none)." \
    "Install it (Debian, Ubuntu: apt install python3 python3-venv)"
}

make_venv() {
  local base=$1 venv=$2
  rm -rf "$venv"
  echo "gdext: making $venv with $base"
  "$base" -m venv "$venv" >/dev/null 2>&1 && return
  # Some distributions leave ensurepip out of Python; pip itself can fill the new environment.
  rm -rf "$venv"
  "$base" -m venv --without-pip "$venv" >/dev/null 2>&1 &&
    "$base" -m pip --python "$venv/bin/python" install --quiet pip >/dev/null 2>&1 && return
  rm -rf "$venv"
  fail "$base can make no virtual environment with pip in it." \
    "Install the missing part (Debian, Ubuntu: apt install python3-venv python3-pip)"
}

# prepare train|test
prepare() {
  local job=$1 name
  for name in python3 python; do
    if python_has "$name" 'util.find_spec("torch")'; then
      PYTHON=$(command -v "$name")
      python_has "$PYTHON" 'sys.version_info >= (3, 10)' ||
        fail "gdext needs Python 3.10 or newer; $PYTHON, which has PyTorch, is $("$PYTHON" --version)"
      python_has "$PYTHON" 'util.find_spec("pip")' ||
        fail "$PYTHON has PyTorch but no pip. Install it: $PYTHON -m ensurepip"
      "$PYTHON" "$ROOT/scripts/prepare.py" "$job" || exit
      return
    fi
  done
  PYTHON=$ROOT/.venv/bin/python
  if ! python_has "$PYTHON" 'sys.version_info >= (3, 10) and util.find_spec("pip")'; then
    local base
    base=$(find_base_python) || exit
    make_venv "$base" "$ROOT/.venv"
  fi
  "$PYTHON" "$ROOT/scripts/prepare.py" "$job" --pinned || exit
}
