# Sourced by the other scripts, in the project's root: the environment of install.sh, and mpirun.
#
# MPIRUN   the launcher (default: mpirun)

venv=${NBODYKIT_SR_VENV:-$PWD/.venv}
export PATH="$venv/bin:$PATH" OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONUNBUFFERED=1
mpirun=${MPIRUN:-mpirun}

# more ranks than cores, under Open MPI 4 and 5
export OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export OMPI_MCA_mpi_yield_when_idle=1
export OMPI_MCA_hwloc_base_binding_policy=none PRTE_MCA_hwloc_default_binding_policy=none
if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

# ranks N COMMAND: run it under N ranks
ranks() {
    local n=$1
    shift
    $mpirun -n "$n" "$@" </dev/null
}

# The ecosystem's most common failure is a launcher of one MPI and a library of another: every rank
# then believes to be alone, and each of them does the whole job.
# One rank writes, in one piece: MPICH's launcher mixes what ranks write at once.
probe='from mpi4py import MPI; c = MPI.COMM_WORLD; c.rank or print(f"size {c.size}\n", end="")'
# the name of the MPI library
mpi_library() { python -c 'from mpi4py import MPI; print(MPI.Get_library_version())' | sed 's/,.*//;q'; }

check_mpi() {
    local sizes
    if ! sizes=$(ranks 2 python -c "$probe" 2>&1)
    then
        echo "$sizes" >&2
        echo "mpi: '$mpirun -n 2' does not run here (above is what it says): make mpirun of the MPI" \
            "that install.sh found work, or name another launcher in MPIRUN" >&2
        return 1
    fi
    grep -qx "size 2" <<<"$sizes" && return
    echo "mpi: '$mpirun -n 2' started ranks that do not see each other. The launcher is" \
        "$(command -v "${mpirun%% *}"), the library is" \
        "$(mpi_library)." \
        "Put mpicc and mpirun of one MPI first on PATH and run mpi_scripts/install.sh again" >&2
    return 1
}
