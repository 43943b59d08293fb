#!/usr/bin/env bash
# Everything that wants a GPU, in one command of less than nine minutes, on a machine without a network: builds gdext
# for its GPU, runs the tests that concern CUDA, compute-sanitizer on a selection, the benchmark's rows that there are
# targets for, and more of the benchmark.
#
#   scripts/check_gpu.sh [--dry-run] [--no-build] [--python PYTHON] [--packages FOLDER]
#                        [--data FOLDER] [OUT]
#
#   OUT         where the results go: summary.json, log.txt, tests.xml, and of the benchmark targets.json, targets.md,
#               benchmark.json, benchmark.md (default: the environment's OUT, else runs/check_gpu)
#   --dry-run   say what would be run, and run nothing
#   --no-build  take gdext/_C.abi3.so as it is: built elsewhere, for this GPU's architecture
#   --python    one that has PyTorch (default: python3)
#   --packages  where more packages lie that PYTHON lacks, put there on a machine with a network by
#               pip install --target FOLDER pytest pytest-xdist hypothesis expecttest numpy
#   --data      the folder with MNIST/raw (default: GDEXT_DATA, else ../shared/data where there is one, else data);
#               without it, the time to 98% is not measured
#
# A stage that fails, or takes longer than its limit, keeps no later one from running. Exit code: 0 if all stages ran
# and passed, 1 if not, 2 where the arguments are wrong.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

TOTAL=530 # seconds, of which no stage gets more than are left
# name limit
STAGES=(
  "machine 20"
  "build 150"
  "tests 110"
  "memcheck 30"
  "racecheck 25"
  "initcheck 25"
  "synccheck 25"
  "targets 85"
  "benchmark 60"
)

usage() {
  printf 'check_gpu.sh: error: %s (see the top of this file)\n' "$*" >&2
  exit 2
}

python=python3 packages='' data='' dry_run='' build=yes out=''
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry_run=yes ;;
    --no-build) build='' ;;
    --python | --packages | --data)
      [ $# -ge 2 ] || usage "$1: wanted a value"
      declare "${1#--}=$2"
      shift
      ;;
    -*) usage "unrecognized argument: $1" ;;
    *)
      [ -z "$out" ] || usage "wanted one folder, got $out and $1"
      out=$1
      ;;
  esac
  shift
done
out=${out:-${OUT:-runs/check_gpu}}
[ -z "$packages" ] || [ -d "$packages" ] || usage "--packages: no such folder: $packages"
[ -z "$data" ] || [ -d "$data" ] || usage "--data: no such folder: $data"
data=${data:-${GDEXT_DATA:-}}
[ -n "$data" ] || [ ! -d ../shared/data ] || data=../shared/data
data=${data/#\~\//${HOME:-}/} # as gdext.data does
data=$(realpath -m "${data:-data}")
export GDEXT_DATA=$data
mnist=$data/MNIST/raw
[ -f "$mnist/train-images-idx3-ubyte" ] || mnist="not in $mnist: 98% is not measured, made-up pixels stand in"

export PYTHONPATH=$PWD${packages:+:$(cd "$packages" && pwd)}${PYTHONPATH:+:$PYTHONPATH}
# Whoever tries the network all the same fails at once, instead of waiting for it.
export PIP_NO_INDEX=1 HF_HUB_OFFLINE=1 {http,https,HTTP,HTTPS}_proxy=http://127.0.0.1:9
export GDEXT_CUDA=1

has_module() {
  timeout 10 "$python" -c "import $1" >/dev/null 2>&1
}

# The compute capability of the first GPU, "9.0"; its machine code alone is built.
architecture() {
  timeout 10 nvidia-smi --query-gpu=compute_cap --format=csv,noheader --id=0 2>/dev/null | head -n 1 | tr -d ' \r'
}

# Sets `command` to what the stage runs, or `missing` to why it cannot.
plan() {
  local name=$1 module
  command=() missing=''
  case $name in
    machine)
      command=(bash -c "nvidia-smi; nvcc --version; \"$python\" -c '
import platform, torch
print(platform.python_version(), torch.__version__, torch.version.cuda)
assert torch.cuda.is_available(), \"PyTorch finds no CUDA device\"
print(torch.cuda.get_device_properties(0))'")
      ;;
    build)
      local arch
      arch=$(architecture)
      if [ -z "$build" ]; then
        missing='told not to (--no-build)'
      elif ! [[ $arch =~ ^[0-9]+\.[0-9]$ ]]; then
        missing="nvidia-smi names no compute capability (it said: '$arch')"
      elif ! command -v nvcc >/dev/null; then
        missing='nvcc is not on PATH'
      fi
      command=(env "TORCH_CUDA_ARCH_LIST=$arch" "$python" scripts/build_in_place.py)
      ;;
    tests)
      local workers=()
      for module in pytest hypothesis expecttest numpy; do
        has_module "$module" || missing="$python has no $module: bring it along (--packages)"
      done
      has_module xdist && workers=(-n 8)
      command=(env GDEXT_REQUIRE_CUDA=1 "$python" -m pytest -q -p no:cacheprovider "${workers[@]}"
        --junitxml "$out/tests.xml" --durations 20 -rf
        -k 'cuda and not cuda_on_cpu and not cuda_resources' tests)
      ;;
    memcheck | racecheck | initcheck | synccheck)
      command -v compute-sanitizer >/dev/null || missing='compute-sanitizer is not on PATH'
      command=(env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$name" --error-exitcode 9
        "$python" tests/sanitizer_selection.py)
      ;;
    targets)
      command=("$python" scripts/benchmark.py --device cuda --quick --out "$out/benchmark/targets"
        --sections accuracy limits targets --seeds 1 --contestants fused eager graph compile)
      ;;
    benchmark)
      command=("$python" scripts/benchmark.py --device cuda --quick --out "$out/benchmark"
        --sections optimizer ops steps --batches 1 128 4096
        --networks 784-512-512-10 784-1024-1024-1024-1024-10
        --contestants fused layers layers-graph eager graph jax-scan)
      ;;
  esac
}

json_string() {
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"}
  printf '"%s"' "${text//[[:cntrl:]]/ }"
}

rows=()
write_summary() {
  local IFS=,
  printf '{"seconds": %d, "passed": %s, "mnist": %s, "stages": [\n%s\n]}\n' \
    "$SECONDS" "$1" "$(json_string "$mnist")" "${rows[*]}" >"$out/summary.json"
}

# name limit: runs the stage, and keeps what became of it.
run_stage() {
  local name=$1 limit=$2 left=$((TOTAL - SECONDS)) start=$SECONDS code=0 status note=''
  [ "$limit" -le "$left" ] || limit=$left
  plan "$name"
  if [ -n "$missing" ]; then
    status='not run' note=$missing
  elif [ "$limit" -le 0 ]; then
    status='not run' note="the $TOTAL s for all stages are over"
  else
    printf '\n== %s (%d s at most): %s\n' "$name" "$limit" "${command[*]}" >>"$out/log.txt"
    # As by Ctrl-C, so that pytest still writes what it knows.
    timeout --signal=INT --kill-after=9 "$limit" "${command[@]}" >>"$out/log.txt" 2>&1
    code=$?
    case $code in
      0) status=passed ;;
      124 | 137) status='timed out' ;;
      *) status=failed note="exit code $code" ;;
    esac
  fi
  [ "$status" = passed ] || [[ $name = build && -z $build ]] || all_passed=false
  # What came out so far stays even if this script is killed.
  cp "$out"/benchmark/benchmark.{json,md} "$out" 2>/dev/null
  for kind in json md; do cp "$out/benchmark/targets/benchmark.$kind" "$out/targets.$kind" 2>/dev/null; done
  rows+=("$(printf '{"name": "%s", "status": "%s", "seconds": %d, "limit": %d, "exit_code": %d, "note": %s}' \
    "$name" "$status" $((SECONDS - start)) "$limit" "$code" "$(json_string "$note")")")
  write_summary false
  printf '%-10s %-9s %4d s  %s\n' "$name" "$status" $((SECONDS - start)) "$note"
}

if [ -n "$dry_run" ]; then
  for stage in "${STAGES[@]}"; do
    read -r name limit <<<"$stage"
    plan "$name"
    printf '%s, at most %d s: %s\n' "$name" "$limit" "${missing:+not run, $missing: }${command[*]}"
  done
  exit 0
fi

mkdir -p "$out" || usage "$out cannot be made"
out=$(cd "$out" && pwd)
rm -rf "$out/benchmark" "$out"/{benchmark,targets}.{json,md} "$out/tests.xml"
: >"$out/log.txt"
all_passed=true SECONDS=0
for stage in "${STAGES[@]}"; do
  read -r name limit <<<"$stage"
  run_stage "$name" "$limit"
done
rm -rf "$out/benchmark"
write_summary "$all_passed"
echo "MNIST: $mnist"
# As far as they were saved, and what else went wrong; the log ends early where the stage was stopped.
if [ -f "$out/targets.md" ]; then
  awk '/^## / { shown = /^## (Targets|Notes)$/ } shown && NF' "$out/targets.md"
else
  echo "targets: not measured, nothing was saved (see log.txt)"
fi
echo "$SECONDS s; summary.json and log.txt are in $out"
[ "$all_passed" = true ]
