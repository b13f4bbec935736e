"""Importer of public map2map and SRS-map2map checkpoints (.pt)."""

import io
import pickle
import re
import warnings
import zipfile

import torch

from ..errors import InputError, one_line
from .card import ModelCard, build

# The noise gain of the code that goes with a checkpoint
FLAVOURS = {"map2map": 1.0, "srs": 2.0}

# The public weights (Li et al. 2021, Ni et al. 2021) were made from 64^3 in 100 Mpc/h, with
# their displacements scaled by the growth of a flat universe of this matter density.
PUBLIC_CELL = 100 / 64
PUBLIC_OMEGA_M = 0.31

_KEYS = [
    (r"block0\.0\.(weight|bias)", r"stem.0.\1"),
    (r"blocks\.(\d+)\.conv\.0\.std", r"levels.\1.noise0.std"),
    (r"blocks\.(\d+)\.conv\.2\.(weight|bias)", r"levels.\1.conv0.\2"),
    (r"blocks\.(\d+)\.conv\.4\.std", r"levels.\1.noise1.std"),
    (r"blocks\.(\d+)\.conv\.5\.(weight|bias)", r"levels.\1.conv1.\2"),
    (r"blocks\.(\d+)\.proj\.0\.(weight|bias)", r"levels.\1.proj.\2"),
]


def import_checkpoint(path, flavour) -> tuple[torch.nn.Module, ModelCard]:
    """Read a public checkpoint, a dict with `epoch` and `model`.

    InputError if the flavour is not named, or the file is no such checkpoint. Nothing in the file is
    run: only tensors and plain containers are read from the pickle.
    """
    if flavour not in FLAVOURS:
        raise InputError(
            f"flavour is {flavour!r}: a .pt checkpoint needs --flavour map2map or --flavour srs "
            "(SRS-map2map adds its noise twice; the file cannot tell)"
        )
    state = _rename(_read(path), path)
    card = ModelCard(
        name=path.stem,
        network="displacement",
        arguments=_arguments(state, flavour, path),
        factor=2 ** len([name for name in state if name.endswith("proj.weight")]),
        channels=state["stem.0.weight"].shape[1],
        cell=PUBLIC_CELL,
        redshift=None,
        Omega_m=PUBLIC_OMEGA_M,
        licence="that of the checkpoint's author",
        notes=f"Imported from a public checkpoint, flavour {flavour}.",
    )
    return build(card, state, path), card


def _read(path):
    # One read of the bytes: the sizes are checked on the same bytes that are then unpickled.
    content = path.read_bytes()
    if zipfile.is_zipfile(io.BytesIO(content)):
        _check_archive(content, path)
    try:
        with warnings.catch_warnings():  # of pickle protocols: what matters is raised
            warnings.simplefilter("ignore")
            checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"model {path} is no plain checkpoint: it holds objects besides tensors, which could "
            "run code, and is not loaded"
        ) from None
    except Exception as error:  # torch raises most of Python's errors on damaged files
        line = one_line(error, 160)
        raise InputError(f"model {path} is unreadable: {line or type(error).__name__}") from None
    state = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(t, torch.Tensor) and t.layout == torch.strided
        for name, t in state.items()
    ):
        raise InputError(f"model {path} has no state dict under 'model': no map2map checkpoint")
    stored = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in state.values()}
    if sum(t.numel() * t.element_size() for t in state.values()) > sum(stored.values()):
        raise InputError(f"model {path} has tensors larger than their storage: it is damaged")
    return {name: t.float().contiguous() for name, t in state.items() if not t.is_complex()}


def _check_archive(content, path):
    """Sizes and checksums of an archive's parts, at which torch does not look."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > len(content) + 2**20:
                raise InputError(f"model {path} unpacks to more than its own size: it is damaged")
            damaged = archive.testzip()
    except InputError:
        raise
    except Exception as error:  # zipfile raises most of Python's errors on damaged files
        line = one_line(error, 160)
        raise InputError(f"model {path} is a damaged archive: {line}") from None
    if damaged is not None:
        raise InputError(
            f"model {path}: {damaged[:60]!r} does not match its checksum: it is damaged"
        )


def _rename(state, path):
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in _KEYS:
            if re.fullmatch(pattern, name):
                new = re.sub(pattern, replacement, name)
                renamed[new] = tensor.reshape(-1) if new.endswith("std") else tensor
                break
        else:
            raise InputError(f"model {path} has a weight {name[:60]!r} that the generator has not")
    return renamed


def _arguments(state, flavour, path):
    """Constructor arguments from the shapes of the weights."""
    levels = len([name for name in state if name.endswith("proj.weight")])
    names = ["stem.0.weight"] + [f"levels.{b}.conv1.weight" for b in range(levels)]
    if levels == 0 or any(name not in state or state[name].dim() != 5 for name in names):
        raise InputError(f"model {path} lacks weights of the generator: the file is damaged")
    widths = [state[name].shape[0] for name in names]
    # c(b) = clip(base >> b, min, max): the smallest base that gives the widths above the minimum
    smallest = min(widths)
    base = max((width << b for b, width in enumerate(widths) if width > smallest), default=smallest)
    return {
        "channels": state["stem.0.weight"].shape[1],
        "factor": 2**levels,
        "chan_base": base,
        "chan_min": smallest,
        "chan_max": max(widths),
        "noise_gain": FLAVOURS[flavour],
    }
