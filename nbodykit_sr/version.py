"""The version of nbodykit_sr, written into every output, and those of other packages."""

from importlib import metadata

__version__ = "0.1.0"


def versions(packages) -> dict[str, str]:
    """Installed version of each of these packages that is there, by name."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
