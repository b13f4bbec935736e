#!/usr/bin/env bash
# Lint, then the site, then the whole test suite, in one process and under 2, 3 and 4 ranks.
#
#     bash mpi_scripts/test.sh [--all] [PYTEST ARGUMENT ...]
#
# --all runs the tests marked slow and the tutorials as well. Installs what is missing.
set -uo pipefail
cd "$(dirname "$0")/.."

selection=(-m "not slow")
extras=(test)
notebooks=--no-notebooks
limit=1800 # s, of one run of pytest: one that hangs is ended, the others still tell their part
if [ "${1:-}" = --all ]; then
    selection=(-m "")
    extras+=(clients)
    notebooks=
    limit=14400
    shift
fi
chosen=$#
[ "$chosen" -gt 0 ] || extras+=(docs) # at once: docs.sh finds them there
begin=$SECONDS
bash mpi_scripts/install.sh "${extras[@]}" || exit
source mpi_scripts/environment.sh
check_mpi || exit

log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=()
step() {
    local name=$1 start=$SECONDS
    shift
    echo "---- $name"
    "$@" 2>&1 | tee -a "$log"
    local status=${PIPESTATUS[0]}
    case $status in
        0) ;;
        5) [ "$chosen" -gt 0 ] || failed+=("$name") ;; # none of the chosen tests is for many ranks
        124) echo "$name: did not end in $((SECONDS - start)) s" ;;&
        *) failed+=("$name") ;;
    esac
}
pytest="python -m pytest -q --color=no --durations=15 --durations-min=5"
test_ranks() { timeout -k 10 $limit $mpirun -n "$1" $pytest "${@:2}" </dev/null; }

step "ruff check" ruff check .
step "ruff format" ruff format --check .
step "import-linter" lint-imports --no-logo
step "mypy" mypy
# tests of one process side by side, file by file
aside=()
[ "$chosen" -gt 0 ] || aside=(--numprocesses=auto --dist=loadfile)
step "1 process" timeout -k 10 $limit $pytest "${aside[@]}" "${selection[@]}" "$@"
[ "$chosen" -gt 0 ] || step "docs" bash mpi_scripts/docs.sh $notebooks
for n in 2 3 4; do
    step "$n ranks" test_ranks "$n" "${selection[@]}" "$@"
done

count() { grep -aE ' in [0-9.]+s' "$log" | grep -aoE "[0-9]+ $1" | awk '{ sum += $1 } END { print sum + 0 }'; }
summary="$(count passed) passed, $(count failed) failed, $(count 'errors?') errors"
summary+=", $(count skipped) skipped in $((SECONDS - begin)) s"
if [ ${#failed[@]} -gt 0 ]; then
    echo "==== $summary; not clean: $(IFS=,; echo "${failed[*]}") ===="
    exit 1
fi
echo "==== $summary ===="
