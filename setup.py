"""Packaging of nbodykit_sr; tools are configured in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = {}
exec((here / "nbodykit_sr" / "version.py").read_text(), version)

setup(
    name="nbodykit_sr",
    version=version["__version__"],
    description="AI-assisted super-resolution of cosmological simulations for nbodykit",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="GPL-3.0-or-later",
    python_requires=">=3.11",
    packages=find_packages(include=["nbodykit_sr", "nbodykit_sr.*"]),
    package_data={"nbodykit_sr": ["weights/*.safetensors", "diagnostics/*.html"]},
    entry_points={"console_scripts": ["nbodykit-sr = nbodykit_sr.__main__:run"]},
    # nbodykit>=0.3.16 is needed too, but not named here: its parts (Corrfunc, classylss, pfft-python)
    # do not build everywhere, and pip would try again those it was installed without.
    # mpi_scripts/install.sh installs it.
    install_requires=[
        "bigfile>=0.1.50",
        "h5py>=3.5",
        "mpi4py>=3.1",
        "torch>=2.4",
        "numpy>=2",
        "dask>=2024.1",
        "safetensors>=0.4",
        "tqdm",
    ],
    extras_require={
        "report": ["matplotlib", "jinja2"],
        "train": ["matplotlib", "tensorboard"],
        "docs": [
            "sphinx",
            "myst-nb",
            "furo",
            "numpydoc",
            "sphinx-copybutton",
            "matplotlib",
            "jinja2",
        ],
        "test": [
            "pytest",
            "hypothesis",
            "ruff",
            "import-linter",
            "matplotlib",
            "jinja2",
            "tensorboard",
        ],
    },
)
