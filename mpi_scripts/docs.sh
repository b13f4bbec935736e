#!/usr/bin/env bash
# Build the site into docs/_build/html; it opens from there without a server.
#
#     bash mpi_scripts/docs.sh [--no-notebooks]
#
# Warnings are errors. The tutorials run in the build (some minutes; what did not change is kept);
# --no-notebooks shows them as text.
set -euo pipefail
cd "$(dirname "$0")/.."

extras=(docs analysis report train)
execution=cache
if [ "${1:-}" = --no-notebooks ]; then
    extras=(docs)
    execution=off
fi
bash mpi_scripts/install.sh "${extras[@]}"
source mpi_scripts/environment.sh
python -m sphinx -W --keep-going -q -a -b html -D nb_execution_mode=$execution docs docs/_build/html
echo "docs: $PWD/docs/_build/html/index.html"
