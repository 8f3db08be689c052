#!/bin/bash
# What needs a GPU, the most valuable first: benchmarks/gpu.sh [PART...], by default all parts.
# Results go to $TINYCLF_REPORTS, by default reports/. A run that was cut off goes on from its checkpoint.
#   DATASET=mini benchmarks/gpu.sh      tries the script on any machine
#   STAND_IN=FILE                       a state dict in place of torchvision's ImageNet weights
# Minutes on one H200, as far as runs tell: rows 7, imagenet 6; expected: tests 2, fast 1, bench 3,
# scratch 14, seeds 26.
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
DATASET=${DATASET:-tiny-imagenet}
WEIGHTS=(${STAND_IN:+--imagenet "$STAND_IN"})

train() { "$PYTHON" -m tinyclf train "$@" --dataset "$DATASET" "${WEIGHTS[@]}"; }

part() {
    case $1 in
    tests) "$PYTHON" -m pytest -q tests/test_gpu.py ;;
    fast) train fast-scratch --seeds 0 1 2 ;;
    rows) train preprocessing finetuning finetuning-small-stem ;;
    imagenet) train modern-imagenet ;;
    bench) "$PYTHON" -m tinyclf bench --dataset "$DATASET" --seconds "${BENCH_SECONDS:-20}" ;;
    scratch) train modern-scratch ;;
    seeds) train preprocessing finetuning finetuning-small-stem modern-imagenet --seeds 1 2 ;;
    *) echo "no part $1: expected tests, fast, rows, imagenet, bench, scratch or seeds" >&2; return 2 ;;
    esac
}

status=0
for name in "${@:-tests fast rows imagenet bench scratch seeds}"; do
    for each in $name; do
        SECONDS=0
        part "$each" || status=1
        echo "gpu.sh: $each took $SECONDS s"
    done
done
exit $status
