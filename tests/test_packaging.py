"""Source and wheel: made by ``python -m build``, installed where this tree is not, and used there."""

import ast
import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from nbodykit_sr.version import __version__
from nbodykit_sr.weights import shipped

ROOT = Path(__file__).parents[1]


def run(*command, cwd):
    outside = {"PYTHONPATH", "PYTHONHOME", "PIP_CONSTRAINT"}
    env = {name: value for name, value in os.environ.items() if name not in outside}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The (source, wheel) that ``python -m build`` makes, the wheel from the source."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return source, wheel


@pytest.mark.slow
def test_source_and_wheel_hold_what_they_need(built):
    source, wheel = built
    with tarfile.open(source) as file:
        inside = {name.partition("/")[2] for name in file.getnames()}
    for name in (
        "LICENSE",
        "README.md",
        "CITATION.cff",
        "constraints.txt",
        "mpi_scripts/install.sh",
    ):
        assert name in inside, name
    with zipfile.ZipFile(wheel) as file:
        inside = set(file.namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "nbodykit_sr").rglob("*.py")}
    weights = {str(path.relative_to(ROOT)) for path in shipped()}
    assert modules | weights | {"nbodykit_sr/diagnostics/report.html"} <= inside
    assert not any(name.startswith(("tests", "examples")) for name in inside)


@pytest.mark.slow
def test_wheel_works_in_an_environment_of_its_own(built, data, tmp_path):
    """Only its dependencies come from the environment of the tests."""
    run(sys.executable, "-m", "venv", "env", cwd=tmp_path)
    python, command = tmp_path / "env/bin/python", tmp_path / "env/bin/nbodykit-sr"
    run(python, "-m", "pip", "install", "-q", "--no-deps", built[1], cwd=tmp_path)
    site = Path(
        run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=tmp_path).strip()
    )
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    info = run(command, "info", cwd=tmp_path)
    assert f"{__version__}, {site}" in info and f"{site}/nbodykit_sr/weights" in info
    models = run(command, "models", cwd=tmp_path)
    assert all(path.stem in models for path in shipped())
    run(command, "generate", data / "lr8_12p5_z2", "SR", cwd=tmp_path)
    assert "is sound" in run(command, "verify", "SR", cwd=tmp_path)


def test_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == __version__ and citation["license"] == project["license"]
    readme = (ROOT / "README.md").read_text()
    assert all(reference["doi"] in readme for reference in citation["references"])


def test_every_import_is_declared():
    """Nothing is used that only happens to be installed with something else."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + extras["report"] + extras["train"] + extras["maps"]
    declared = {line.split(">")[0] for line in lines} | {"nbodykit", "nbodykit_sr"}
    declared |= {"pmesh", "kdcount", "classylss"}  # parts of nbodykit
    for path in (ROOT / "nbodykit_sr").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in names:
                top = name.partition(".")[0]
                assert top in declared | sys.stdlib_module_names, f"{path}: {name}"
