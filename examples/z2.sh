#!/usr/bin/env bash
# From nothing to a trained model for z = 2 and what it is worth: the chain behind the shipped one.
#
#     bash examples/z2.sh [RANKS]       # needs: pip install --no-deps --no-build-isolation fastpm
#
# Pairs of 16^3 and 128^3 particles in 25 Mpc/h: four boxes to train on, one held out. By the cost of
# a step, the two training runs take about 40 minutes of one core together.
set -euo pipefail
ranks=${1:-2}
export OMP_NUM_THREADS=1
run() { mpirun -n "$ranks" "$@"; }

here=$(cd "$(dirname "$0")" && pwd)
train=(210001 210002 210003 210004)
held_out=181210

run python "$here/make_pairs.py" sims --seeds "${train[@]}" $held_out --unitary
for seed in "${train[@]}" $held_out; do
    kind=train
    [ "$seed" = $held_out ] && kind=test
    [ -e "pairs/$kind-$seed" ] || run python -m nbodykit_sr.train pairs \
        "sims/$seed/LR_z2" "sims/$seed/HR_z2" "pairs/$kind-$seed" --source particle-mesh --seed "$seed"
done
run python -m nbodykit_sr.train "$here/train_z2_coarse.toml"
run python -m nbodykit_sr.train "$here/train_z2.toml"
python -m nbodykit_sr.train export runs/z2 z2.safetensors
run python -m nbodykit_sr.generate "sims/$held_out/LR_z2" z2_SR --model z2.safetensors --seed 1
run python -m nbodykit_sr.generate "sims/$held_out/LR_z2" z2_interpolated --model interpolate
run python -m nbodykit_sr.validate --sr z2_SR --hr "sims/$held_out/HR_z2" --lr "sims/$held_out/LR_z2" \
    --out z2_report
