"""Draw explanation/convex.png: one halo of a real pair of runs, level by level, in both upsamplings.

    python benchmarks/convex.py  # in the environment with matplotlib; half a minute

No network: the weights of the convex combinations are those that bring each fine particle nearest
to where it is in HR, so the figure shows what such weights can represent, and the counts printed
are of all halos made in this way.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from nbodykit.lab import ArrayCatalog

from nbodykit_sr import LagrangianLattice, open_snapshot
from nbodykit_sr.diagnostics import find_halos
from nbodykit_sr.models.blocks import trim, upsample
from nbodykit_sr.models.upsampling import combine

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data"
LEVELS = 3
LEAST = (32, 100, 300)


def displacements(name):
    """The lattice of a snapshot and its displacements, (3, N, N, N) [Mpc/h]."""
    snapshot = open_snapshot(DATA / name)
    lattice = LagrangianLattice(round(snapshot.csize ** (1 / 3)), snapshot.attrs["BoxSize"][0])
    ids, position = snapshot["ID"].compute(), snapshot["Position"].compute()
    order = np.argsort(ids)
    field = lattice.displacement(lattice.site(ids[order]), position[order])
    return lattice, torch.from_numpy(field.T.reshape(3, *3 * [lattice.Nmesh]).astype("f4"))


def interior(upsampled, padding=3):
    """What a periodic field padded by 3 becomes, less its padding."""
    return trim(upsampled[0], padding)


def padded(field):
    return torch.from_numpy(np.pad(field.numpy(), [(0, 0), *3 * [(3, 3)]], mode="wrap"))[None]


def trilinear(coarse, spacing, target):
    return interior(trim(upsample(padded(coarse)), 2))


def best_convex(coarse, spacing, target):
    """The convex combinations nearest to a target, by descent on the logits."""
    y, wanted = trim(padded(coarse), 1), padded(target)
    logits = torch.zeros(1, 8, *wanted.shape[2:], requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.5)
    for _ in range(40):
        optimizer.zero_grad()
        ((combine(y, logits, spacing) - wanted) / spacing).square().sum(1).mean().backward()
        optimizer.step()
    return interior(combine(y, logits.detach(), spacing))


def levels(upsampling, lr, hr, BoxSize):
    """LR, and what it becomes level by level."""
    fields = [lr]
    for _ in range(LEVELS):
        size = 2 * fields[-1].shape[1]
        block = hr.shape[1] // size
        target = hr.reshape(3, *3 * [size, block]).mean((2, 4, 6))
        fields.append(upsampling(fields[-1], BoxSize / fields[-1].shape[1], target))
    return fields


def positions(field, BoxSize):
    lattice = LagrangianLattice(field.shape[1], BoxSize)
    site = np.stack(np.unravel_index(np.arange(lattice.size), 3 * (lattice.Nmesh,)), -1)
    return lattice.position(site, field.reshape(3, -1).T.numpy())


def halos(field, lattice):
    """Halos of the particles of a field, as `find_halos` gives them."""
    catalogue = ArrayCatalog({"Position": positions(field, lattice.BoxSize)})
    catalogue["Velocity"] = 0 * catalogue["Position"]
    catalogue.attrs.update(open_snapshot(DATA / "hr64_12p5_z2").attrs)
    return find_halos(catalogue, nmin=LEAST[0])


def main():
    lattice, lr = displacements("lr8_12p5_z2")
    fine, hr = displacements("hr64_12p5_z2")
    made = {
        "trilinear": levels(trilinear, lr, hr, lattice.BoxSize),
        "convex": levels(best_convex, lr, hr, lattice.BoxSize),
    }
    for name, field in {"HR": hr, **{name: fields[-1] for name, fields in made.items()}}.items():
        length = halos(field, fine).length
        print(name, "halos of at least", LEAST, [int((length >= least).sum()) for least in LEAST])
    draw(made, hr, lattice.BoxSize)


def draw(made, hr, BoxSize):
    truth = positions(hr, BoxSize)
    # the sites around the densest place
    mesh, edges = np.histogramdd(truth, bins=40, range=3 * [(0, BoxSize)])
    centre = (np.array(np.unravel_index(mesh.argmax(), mesh.shape)) + 0.5) * BoxSize / 40

    def about(position):
        return (position - centre + BoxSize / 2) % BoxSize - BoxSize / 2

    inside = np.linalg.norm(about(truth), axis=1) < 0.4
    site = np.stack(np.unravel_index(np.flatnonzero(inside), hr.shape[1:]), -1)
    figure, axes = plt.subplots(2, 5, figsize=(12.5, 5.2), sharex=True, sharey=True)
    for row, (name, fields) in zip(axes, made.items()):
        row[0].set_ylabel(name)
        for panel, field in zip(row, fields):
            coarse = np.unique(site // (hr.shape[1] // field.shape[1]), axis=0)
            flat = np.ravel_multi_index(coarse.T, field.shape[1:])
            panel.plot(*about(positions(field, BoxSize)[flat])[:, :2].T, ".", ms=3, color="C0")
            panel.set_title(f"{field.shape[1]}$^3$", fontsize=10)
        row[-1].plot(*about(truth[inside])[:, :2].T, ".", ms=3, color="C3")
        row[-1].set_title("HR", fontsize=10)
    axes[0, 0].set(xlim=(-2.5, 2.5), ylim=(-2.5, 2.5))
    for panel in axes[1]:
        panel.set_xlabel("x [Mpc/h]")
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "explanation" / "convex.png", dpi=90)


if __name__ == "__main__":
    main()
