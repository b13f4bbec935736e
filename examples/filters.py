"""Look inside the density emulator: its kernels and feature maps, as Kodi Ramanah et al. 2020 do.

    python examples/filters.py LR_SNAPSHOT INITIAL FOLDER [--model WEIGHTS]

draws ``FOLDER/kernels.png``, the central planes of the 7^3, 5^3 and 3^3 kernels of the first
layers (their Fig. 9), and ``FOLDER/features.png``, what those layers make of a piece of the LR
density and of the initial conditions (their Fig. 10).
"""

import argparse
import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch.nn import functional as F

from nbodykit_sr.commands.emulate import open_source
from nbodykit_sr.density.mesh import SRMesh
from nbodykit_sr.errors import InputError
from nbodykit_sr.io.atomic import save_figure
from nbodykit_sr.io.preflight import FIGURE, prepare_output
from nbodykit_sr.models.density import KERNELS, PADDING, PADDING_HR

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

LAYERS = {
    "evolved": "LR density",
    "initial": "initial conditions",
    "carried": "initial conditions, moved",
}
SIDE = 32  # LR cells of the piece that is shown


def effective_kernels(block):
    """Kernels of a first-level block with their 1x1x1 convolutions: {size: (filters, k, k, k)}."""
    weight = block.merged()[0].detach()[:, 0]
    kernels = {}
    for kernel, part in zip(KERNELS, weight.split(block.filters), strict=True):
        width = (KERNELS[0] - kernel) // 2
        inner = slice(width, KERNELS[0] - width)
        kernels[kernel] = part[:, inner, inner, inner].numpy()
    return kernels


def draw_kernels(network, path):
    """Central planes of the effective kernels of first fields, a row for each layer and size."""
    rows = [
        (f"{title}, {size}$^3$", kernels)
        for name, title in LAYERS.items()
        if hasattr(network, name)
        for size, kernels in effective_kernels(getattr(network, name)).items()
        if size > 1
    ]
    figure, axes = plt.subplots(
        len(rows), network.filters, figsize=(1.2 * network.filters, 1.3 * len(rows)),
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for row, (title, kernels) in zip(axes, rows, strict=True):
        for ax, kernel in zip(row, kernels, strict=True):
            limit = abs(kernel).max() or 1.0
            ax.imshow(
                kernel[len(kernel) // 2].T, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower"
            )
            ax.set(xticks=[], yticks=[])
        row[0].set_title(title, fontsize=8, loc="left")
    save_figure(figure, path)
    plt.close(figure)


@torch.inference_mode()
def draw_features(network, lr, initial, path):
    """A plane of the inputs and of each first layer's feature maps.

    Parameters
    ----------
    lr, initial : (1, n, n, n) and (1 + m, 2n, 2n, 2n) float32 arrays
        A padded piece of the fields.
    """
    initial = torch.from_numpy(initial)[None]
    fields = {
        "evolved": F.interpolate(torch.from_numpy(lr)[None], scale_factor=2),
        "initial": initial[:, :1],
    }
    if network.moved:
        fields["carried"] = initial[:, 1:]
    columns = len(KERNELS) * network.filters
    width = network.filters + 1
    figure, axes = plt.subplots(
        len(fields) * len(KERNELS), width,
        figsize=(1.3 * width, 1.35 * len(fields) * len(KERNELS)), layout="constrained",
    )  # fmt: skip
    for ax in axes.flat:
        ax.axis("off")
    for number, (name, field) in enumerate(fields.items()):
        maps = F.leaky_relu(getattr(network, name)(field), 0.1)[0].numpy()
        plane = maps.shape[-1] // 2
        first = number * len(KERNELS)
        shown = field[0, 0, :, :, plane + 3].numpy()
        axes[first, 0].imshow(np.arcsinh(shown).T, origin="lower", cmap="magma")
        axes[first, 0].set_title(LAYERS[name], fontsize=8, loc="left")
        for i in range(columns):
            ax = axes[first + i // network.filters, 1 + i % network.filters]
            ax.imshow(np.arcsinh(maps[i, :, :, plane]).T, origin="lower", cmap="magma")
            if i % network.filters == 0:
                ax.set_title(f"kernel {KERNELS[i // network.filters]}$^3$", fontsize=8, loc="left")
    save_figure(figure, path)
    plt.close(figure)


def main(argv=None):
    from mpi4py import MPI

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lr", help="LR snapshot or density")
    parser.add_argument("initial", help="mesh of the linear overdensity, or initial HR snapshot")
    parser.add_argument("folder", type=Path, help="for the figures")
    parser.add_argument("--model", help="weights (what ships)")
    args = parser.parse_args(argv)
    paths = {name: args.folder / f"{name}.png" for name in ("kernels", "features")}
    for path in paths.values():
        inputs = [name for name in (args.lr, args.initial, args.model) if name]
        prepare_output(path, None, FIGURE, overwrite=True, inputs=inputs, parents=True)
    sources = (open_source(path, MPI.COMM_SELF) for path in (args.lr, args.initial))
    way = SRMesh(*sources, model=args.model).way
    args.folder.mkdir(parents=True, exist_ok=True)
    draw_kernels(way.network, paths["kernels"])
    lr, initial = way.fields()
    pieces = []
    for fields, factor, padding in (([lr], 1, PADDING), (initial, 2, PADDING_HR)):
        values = np.stack([np.asarray(field.value, dtype="f4") for field in fields])
        cells = np.arange(-padding, factor * SIDE + padding) % values.shape[1]
        pieces.append(values[np.ix_(range(len(values)), cells, cells, cells)])
    draw_features(way.network, *pieces, paths["features"])


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"filters: {error}", file=sys.stderr)
        sys.exit(2)
