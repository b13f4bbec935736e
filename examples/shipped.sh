#!/usr/bin/env bash
# From nothing to the shipped displacement models, and what they are worth; half a day on two cores.
#
#     bash examples/shipped.sh [RANKS [SHARE]]  # needs: pip install --no-deps --no-build-isolation fastpm
#
# Pairs of 16^3 and 128^3 particles in 25 Mpc/h. Where MP-Gadget's LR runs of the same seeds are at hand, name
# their snapshots LR_TREE/SEED_z2 and so on: they are trained on too.
#
# A SHARE below 1 rehearses all of it: every run has that share of its steps, boxes an eighth of the particles.
set -euo pipefail
ranks=${1:-2} share=${2:-1}
export OMP_NUM_THREADS=1
here=$(cd "$(dirname "$0")" && pwd)
nmesh=16 # LR particles on a side of 25 Mpc/h
[ "$share" = 1 ] || nmesh=8
mkdir -p recipes
for recipe in "$here"/recipes/shipped/*.toml; do
    awk -v share="$share" '/^steps = / { $3 = int($3 * share + 1 - 1e-9) } 1' "$recipe" >"recipes/${recipe##*/}"
done
run() { mpirun -n "$ranks" "$@"; }
learn() { run python -m nbodykit_sr.train "recipes/$1.toml"; }
model() { # NAME RUN [OTHER...]: of a run, or the mean of its weights with others
    python -m nbodykit_sr.train export "runs/$2" "$1.safetensors" ${3:+--mean-with "${@:3}"}
}
simulate() { run python "$here/make_pairs.py" sims --unitary --nmesh "$nmesh" "$@"; }
pair() { # LR HR NAME SOURCE SEED
    [ -e "pairs/$3" ] || run python -m nbodykit_sr.train pairs "$1" "$2" "pairs/$3" --source "$4" --seed "$5"
}
pairs() { # PREFIX REDSHIFT SEED...
    local prefix=$1 z=$2 seed
    for seed in "${@:3}"; do
        pair "sims/$seed/LR_z$z" "sims/$seed/HR_z$z" "$prefix-$seed-z$z" particle-mesh "$seed"
        if [ -e "LR_TREE/${seed}_z$z" ] && [ "$prefix" != test ]; then
            pair "LR_TREE/${seed}_z$z" "sims/$seed/HR_z$z" "$prefix-$seed-z$z-tree" \
                "TreePM LR, particle-mesh HR" "$seed"
        fi
    done
}
compare() { # MODEL REDSHIFT SEED...: on these held-out boxes, by validate on the last
    local out=out/$1-z$2 seed noise
    mkdir -p out
    for seed in "${@:3}"; do
        run python -m nbodykit_sr.generate "sims/$seed/LR_z$2" "$out-$seed-interpolated" --model interpolate
        for noise in 1 2; do
            run python -m nbodykit_sr.generate "sims/$seed/LR_z$2" "$out-$seed-$noise" \
                --model "$1.safetensors" --seed $noise
        done
        run python "$here/compare.py" "sims/$seed/HR_z$2" "$out-$seed-interpolated" "$out-$seed"-[12]
    done
    run python -m nbodykit_sr.validate --sr "$out-$seed"-[12] --hr "sims/$seed/HR_z$2" \
        --lr "sims/$seed/LR_z$2" --out "$out-report"
}

every_level() { # REDSHIFT MODEL: two runs on from zREDSHIFT_halos_mean, and the mean of all
    local name=z$1_halos
    learn "${name}_levels"
    model "${name}_both" "${name}_levels" "${name}_mean.safetensors"
    learn "${name}_slow"
    # weights 3, 2 and 1
    model "$2" "${name}_slow" "runs/${name}"_{slow,slow,levels,levels} "${name}_mean.safetensors"
}

several=($(seq 210001 210008) 220001 220002)    # to train on at z = 0 to 4
train=($(seq 210001 210012) $(seq 220001 220004)) # at z = 2
held_out=(181210 230001)
redshifts=(4 3 2 1 0)

simulate --seeds "${several[@]}" "${held_out[@]}" --redshifts "${redshifts[@]}"
simulate --seeds "${several[@]:0:4}" --redshifts 0.5
simulate --seeds "${train[@]}" --redshifts 2
# held out too
simulate --seeds 240001 240002 --redshifts 2
simulate --seeds 230005 --boxsize 50 --nmesh $((2 * nmesh)) --redshifts 2
pairs z2 2 "${train[@]}"
for z in "${redshifts[@]}"; do
    pairs styled "$z" "${several[@]}"
    pairs test "$z" "${held_out[@]}"
done
pairs late 0.5 "${several[@]:0:4}"

learn z2_coarse
learn z2
learn z2_tuned
model z2_mean z2_tuned runs/z2
learn z2_redshift
model z2 z2_redshift z2_mean.safetensors
compare z2 2 230005 240001 240002 "${held_out[@]}"
for name in z2_halos z2_halos_{longer,fair,patches} {z0,z1}_halos{,_patches} z3_halos z4_halos; do
    learn "$name"
done
model z2_halos_mean z2_halos_fair runs/z2_halos_patches runs/z2_halos_longer
every_level 2 z2_halos_third
learn z2_halos_more
# weights 2 and 1
model z2_halos_fourth z2_halos_more runs/z2_halos_more z2_halos_third.safetensors
learn z2_halos_last
model z2_halos_fifth z2_halos_last runs/z2_halos_more
learn z2_halos_gated
learn z2_halos_gated_more
model z2_halos z2_halos_gated_more runs/z2_halos_gated
model z1_halos_mean z1_halos_patches runs/z1_halos
every_level 1 z1_halos_fourth
learn z1_halos_gated
model z1_halos z1_halos_gated
# equal parts of the models for z = 0 and 1
model z0_halos_start z0_halos_patches runs/z0_halos z1_halos_fourth.safetensors z1_halos_fourth.safetensors
learn z0_halos_gated
learn z0_halos_gated_more
model z0_halos z0_halos_gated_more
for z in 3 4; do
    model "z${z}_halos" "z${z}_halos"
done
for z in "${redshifts[@]}"; do
    compare "z${z}_halos" "$z" "${held_out[@]}"
done
learn styled_coarse
learn styled
model styled styled
for range in z0to1 z3to4; do
    learn "$range"
    model "$range" "$range"
done
for z in "${redshifts[@]}"; do
    compare styled "$z" "${held_out[@]}"
done
for z in 0 1; do
    compare z0to1 "$z" "${held_out[@]}"
done
for z in 3 4; do
    compare z3to4 "$z" "${held_out[@]}"
done
