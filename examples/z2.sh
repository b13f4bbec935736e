#!/usr/bin/env bash
# From nothing to the shipped model for z = 2, and what it is worth; hours on two cores.
#
#     bash examples/z2.sh [RANKS]       # needs: pip install --no-deps --no-build-isolation fastpm
#
# Pairs of 16^3 and 128^3 particles in 25 Mpc/h: sixteen boxes to train on, two held out. Where MP-Gadget's
# LR runs of the same seeds are at hand, name their folders LR_TREE/SEED: they are trained on too.
set -euo pipefail
ranks=${1:-2}
export OMP_NUM_THREADS=1
run() { mpirun -n "$ranks" "$@"; }
pair() { # LR HR NAME SOURCE SEED
    [ -e "pairs/$3" ] || run python -m nbodykit_sr.train pairs "$1" "$2" "pairs/$3" --source "$4" --seed "$5"
}

here=$(cd "$(dirname "$0")" && pwd)
train=($(seq 210001 210012) $(seq 220001 220004))
held_out=(181210 230001)

run python "$here/make_pairs.py" sims --seeds "${train[@]}" "${held_out[@]}" --unitary
for seed in "${train[@]}"; do
    pair "sims/$seed/LR_z2" "sims/$seed/HR_z2" "train-$seed" particle-mesh "$seed"
    if [ -e "LR_TREE/$seed" ]; then
        pair "LR_TREE/$seed" "sims/$seed/HR_z2" "train-$seed-tree" "TreePM LR, particle-mesh HR" "$seed"
    fi
done
for seed in "${held_out[@]}"; do
    pair "sims/$seed/LR_z2" "sims/$seed/HR_z2" "test-$seed" particle-mesh "$seed"
done
run python -m nbodykit_sr.train "$here/train_z2_coarse.toml"
run python -m nbodykit_sr.train "$here/train_z2.toml"
python -m nbodykit_sr.train export runs/z2 z2.safetensors
for seed in "${held_out[@]}"; do
    run python -m nbodykit_sr.generate "sims/$seed/LR_z2" "interpolated-$seed" --model interpolate
    for noise in 1 2; do
        run python -m nbodykit_sr.generate "sims/$seed/LR_z2" "SR-$seed-$noise" --model z2.safetensors --seed $noise
    done
    run python "$here/compare.py" "sims/$seed/HR_z2" "interpolated-$seed" "SR-$seed-1" "SR-$seed-2"
done
run python -m nbodykit_sr.validate --sr "SR-$seed-1" "SR-$seed-2" --hr "sims/$seed/HR_z2" \
    --lr "sims/$seed/LR_z2" --out z2_report
