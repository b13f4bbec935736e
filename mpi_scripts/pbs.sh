#!/usr/bin/env bash
# Super-resolve a snapshot on several nodes under PBS, one rank per GPU.
#
#     export SNAPSHOT=... OUTPUT=... MODEL=... OPTIONS="..."     # options of generate, or none
#     qsub -v SNAPSHOT,OUTPUT,MODEL,OPTIONS mpi_scripts/pbs.sh
#
# Submit from the project's root, after mpi_scripts/install.sh with the site's MPI module loaded.
# The memory and time to ask for in the lines below are worked out, without running, by
#
#     mpirun -n RANKS python -m nbodykit_sr.generate SNAPSHOT OUTPUT --model MODEL --plan
#
# Five minutes before its time is up the job warns its ranks and submits itself again, to go on where
# it was. Change walltime and SECONDS_ALLOWED together.
#PBS -N nbodykit_sr
#PBS -l select=2:ncpus=32:mpiprocs=4:ngpus=4:mem=64gb
#PBS -l walltime=04:00:00
#PBS -j oe
set -euo pipefail
SECONDS_ALLOWED=$((4 * 3600 - 300))
: "${SNAPSHOT:?give it by qsub -v}" "${OUTPUT:?give it by qsub -v}" "${MODEL:?give it by qsub -v}"

cd "${PBS_O_WORKDIR:-.}"
export PATH="${NBODYKIT_SR_VENV:-$PWD/.venv}/bin:$PATH"
export OPTIONS=${OPTIONS:-} OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}
resume=()
[ ! -d "$OUTPUT.partial" ] || resume=(--resume)

# every rank picks its GPU by its number on the node
status=0
# shellcheck disable=SC2086  # OPTIONS is a list of words
timeout -s USR1 -k 240 --preserve-status "$SECONDS_ALLOWED" \
    mpirun -n "$(wc -l <"$PBS_NODEFILE")" \
    python -m nbodykit_sr.generate "$SNAPSHOT" "$OUTPUT" --model "$MODEL" "${resume[@]}" \
    $OPTIONS || status=$?
if [ "$status" = 75 ]; then # warned: the chunks in flight were finished and recorded
    echo "pbs.sh: time is nearly up: submitting again, to go on from the chunks written"
    exec qsub -v SNAPSHOT,OUTPUT,MODEL,OPTIONS mpi_scripts/pbs.sh
fi
exit "$status"
