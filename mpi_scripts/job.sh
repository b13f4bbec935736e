# Sourced by slurm.sh and pbs.sh, in the project's root: how their jobs start, are warned and go on.
#
# NBODYKIT_SR_RESTARTS   how often a job may be queued again (default: 20)

source mpi_scripts/environment.sh
say() { echo "job: $*"; }

# a warning is counted from the first moment, and passed on to the ranks once there are any
warned=0 ranks_pid=
trap 'warned=$((warned + 1)); ${ranks_pid:+kill -USR1 $ranks_pid}' USR1

# choose_launcher N LAUNCHER ...: `launcher` becomes the first whose N ranks see each other
choose_launcher() {
    local n=$1 said
    shift
    for launcher in "$@"; do
        said=$(timeout 300 $launcher python -c "$probe" 2>&1 </dev/null) || true
        if grep -qx "size $n" <<<"$said"; then
            say "$n ranks, started by '$launcher'"
            return
        fi
        say "not by '$launcher', which says: $(head -c 300 <<<"$said" | tr '\n' ' ')"
    done
    say "no launcher starts $n ranks that see each other: load the MPI module that install.sh" \
        "was run with, or run install.sh again with this one" >&2
    exit 2
}

# chunks OUTPUT: how many an unfinished run has recorded; of a series, all its catalogues together
chunks() {
    local output=${1%"${1##*[!/]}"} # without the slashes at its end
    { cat "$output".partial/journal.* "$output"/*.partial/journal.* "$output"/*/checksums \
        2>/dev/null || true; } | wc -l
}

# run_job RESTARTS OUTPUT ARGUMENT ...: run generate, or go on with it, and pass a warning
# (SIGUSR1 to this shell) on to its ranks. Afterwards `status` is its status, and `again` is yes if
# the job should be queued again: it was warned, has added chunks and was not too often queued.
run_job() {
    local restarts=$1 output=$2 most=${NBODYKIT_SR_RESTARTS:-20} resume=(--resume) before added seen
    shift 2
    again=no status=2
    if [ "$warned" -gt 0 ]; then
        say "time is nearly up before the ranks could begin: ask for more time" >&2
        return
    fi
    # who asks to overwrite begins anew, but only the first time
    [[ $restarts -gt 0 || " $* " != *" --overwrite "* ]] || resume=()
    before=$(chunks "$output")
    # every rank picks its GPU by its number on the node
    $launcher python -m nbodykit_sr.generate "$@" "${resume[@]}" </dev/null &
    ranks_pid=$!
    while :; do
        seen=$warned status=0
        wait $ranks_pid || status=$?
        [ "$seen" != "$warned" ] || break # otherwise it is the warning that ended the waiting
    done
    [ "$status" = 75 ] && [ "$warned" -gt 0 ] || return 0
    added=$(($(chunks "$output") - before))
    if [ "$added" -le 0 ]; then
        say "time is nearly up and no chunk was added: not queued again; ask for more time" >&2
    elif [ "$restarts" -ge "$most" ]; then
        say "time is nearly up, for the $((restarts + 1))th time: not queued again" >&2
    else
        again=yes
        say "time is nearly up: queued again, to go on from the chunks written ($added more)"
    fi
}
