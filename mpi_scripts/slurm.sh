#!/usr/bin/env bash
# Super-resolve a snapshot on several nodes under Slurm, one rank per GPU.
#
#     sbatch mpi_scripts/slurm.sh SNAPSHOT [SNAPSHOT ...] OUTPUT MODEL [OPTION OF generate ...]
#
# Submit from the project's root, after mpi_scripts/install.sh with the site's MPI module loaded.
# The memory and time to ask for in the lines below are worked out, without running, by
#
#     mpirun -n RANKS nbodykit-sr generate SNAPSHOT OUTPUT --model MODEL --plan
#
# Five minutes before its time is up the job is warned, goes back to the queue, and will go on where
# it was.
#SBATCH --job-name=nbodykit_sr
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=nbodykit_sr-%j.log
set -euo pipefail
names=()
while [[ $# -gt 0 && $1 != -* ]]; do
    names+=("$1")
    shift
done
n=${#names[@]}
[ "$n" -ge 3 ] || { echo "usage: sbatch $0 SNAPSHOT ... OUTPUT MODEL [OPTION ...]" >&2; exit 2; }
snapshots=("${names[@]:0:n-2}") output=${names[n-2]} model=${names[n-1]}

cd "${SLURM_SUBMIT_DIR:-.}"
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
export SRUN_CPUS_PER_TASK=$OMP_NUM_THREADS # which srun no longer takes from the job by itself
source mpi_scripts/job.sh
srun="srun --kill-on-bad-exit=1"
choose_launcher "$SLURM_NTASKS" "$srun" "$srun --mpi=pmix" "$srun --mpi=pmi2" \
    "$mpirun -n $SLURM_NTASKS"
run_job "${SLURM_RESTART_COUNT:-0}" "$output" "${snapshots[@]}" "$output" --model "$model" "$@"
[ "$again" = no ] || exec scontrol requeue "$SLURM_JOB_ID"
exit "$status"
