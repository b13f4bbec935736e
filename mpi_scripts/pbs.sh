#!/usr/bin/env bash
# Super-resolve a snapshot on several nodes under PBS, one rank per GPU.
#
#     export SNAPSHOT=... OUTPUT=... MODEL=... OPTIONS="..."     # options of generate, or none
#     # a series in time: SNAPSHOT=PART_004:PART_006:PART_008
#     qsub -v SNAPSHOT,OUTPUT,MODEL,OPTIONS mpi_scripts/pbs.sh
#
# Submit from the project's root, after mpi_scripts/install.sh with the site's MPI module loaded.
# The memory and time to ask for in the lines below are worked out, without running, by
#
#     mpirun -n RANKS nbodykit-sr generate SNAPSHOT OUTPUT --model MODEL --plan
#
# Five minutes before its time is up the job warns its ranks and submits itself again, to go on where
# it was. Change walltime and SECONDS_ALLOWED together. It was tried with a stand-in for qsub, not
# yet on a PBS.
#PBS -N nbodykit_sr
#PBS -l select=2:ncpus=32:mpiprocs=4:ngpus=4:mem=64gb
#PBS -l walltime=04:00:00
#PBS -j oe
set -euo pipefail
SECONDS_ALLOWED=${SECONDS_ALLOWED:-$((4 * 3600 - 300))}
: "${SNAPSHOT:?give it by qsub -v}" "${OUTPUT:?give it by qsub -v}" "${MODEL:?give it by qsub -v}"

cd "${PBS_O_WORKDIR:-.}"
export OPTIONS=${OPTIONS:-} RESTARTS=${RESTARTS:-0} OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}
source mpi_scripts/job.sh
ranks=$(wc -l <"$PBS_NODEFILE")
choose_launcher "$ranks" "$mpirun -n $ranks" "mpiexec -n $ranks"
( # the warning, which PBS does not give
    sleep "$SECONDS_ALLOWED" &
    trap 'kill $!' TERM
    wait $! && kill -USR1 $$
) >/dev/null 2>&1 &
clock=$!
IFS=: read -ra snapshots <<<"$SNAPSHOT"
# shellcheck disable=SC2086  # OPTIONS is a list of words
run_job "$RESTARTS" "$OUTPUT" "${snapshots[@]}" "$OUTPUT" --model "$MODEL" $OPTIONS
kill "$clock" 2>/dev/null || true
[ "$again" = no ] && exit "$status"
RESTARTS=$((RESTARTS + 1))
exec qsub -v SNAPSHOT,OUTPUT,MODEL,OPTIONS,RESTARTS mpi_scripts/pbs.sh
