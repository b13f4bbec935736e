"""The version of nbodykit_sr, written into every output, and those of other packages."""

from importlib import metadata

__version__ = "0.1.0"


def versions(packages) -> dict[str, str]:
    """Versions by name: of this package, then of each of `packages` that is installed."""
    found = {"nbodykit_sr": __version__}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
