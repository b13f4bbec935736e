#!/usr/bin/env bash
# From nothing to a small model of your own, and what it is worth: ten minutes on two cores.
#
#     bash examples/small.sh [RANKS]    # needs: pip install --no-deps --no-build-isolation fastpm
#
# Pairs of 16^3 and 128^3 particles in 25 Mpc/h at z = 2: two boxes to train on, one held out.
set -euo pipefail
ranks=${1:-2}
export OMP_NUM_THREADS=1
run() { mpirun -n "$ranks" "$@"; }

here=$(cd "$(dirname "$0")" && pwd)
train=(210001 210002)
test=181210

run python "$here/make_pairs.py" sims --seeds "${train[@]}" $test --unitary
for seed in "${train[@]}" $test; do
    kind=train
    [ "$seed" = $test ] && kind=test
    [ -e "pairs/$kind-$seed" ] || run nbodykit-sr pairs \
        "sims/$seed/LR_z2" "sims/$seed/HR_z2" "pairs/$kind-$seed" --source particle-mesh --seed "$seed"
done
run nbodykit-sr train "$here/recipes/train_small.toml"
nbodykit-sr export runs/small small.safetensors
run python -m nbodykit_sr.generate "sims/$test/LR_z2" SR --model small.safetensors --seed 1
run python -m nbodykit_sr.generate "sims/$test/LR_z2" interpolated --model interpolate
run python "$here/compare.py" "sims/$test/HR_z2" interpolated SR
