#!/usr/bin/env bash
# Install, super-resolve a small real snapshot on 2 ranks, and compare the two by nbodykit.
#
#     bash mpi_scripts/quickstart.sh [SNAPSHOT [MODEL]]
#
# Leaves quickstart_output/: the catalogue SR and the figure density.png.
set -euo pipefail
cd "$(dirname "$0")/.."

snapshot=${1:-examples/data/lr16_25_z2}
model=(${2:+--model "$2"}) # by default the shipped model that fits the snapshot
output=quickstart_output

bash mpi_scripts/install.sh report
source mpi_scripts/environment.sh
check_mpi
mkdir -p "$output"
ranks 2 python -m nbodykit_sr.generate "$snapshot" "$output/SR" "${model[@]}" --seed 7 --overwrite
ranks 2 python examples/quickstart.py "$snapshot" "$output/SR" "$output/density.png"
