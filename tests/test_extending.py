"""A network of one's own, added as CONTRIBUTING says: one module, one line in a table."""

import numpy as np
import pytest
import torch
from helpers import saved_model
from nbodykit.lab import FFTPower
from torch import nn

from nbodykit_sr import SRCatalog, open_snapshot
from nbodykit_sr.models import card as cards
from nbodykit_sr.models.card import load_model
from nbodykit_sr.models.generator import PADDING, InterpolatingGenerator


class Jittered(nn.Module):
    """Interpolated LR, and a part of the noise added to each displacement."""

    padding, octaves = PADDING, ()

    def __init__(self, channels=3, factor=2, size=0.1):
        super().__init__()
        self.channels, self.factor = channels, factor
        self.arguments = {"channels": channels, "factor": factor, "size": size}
        self.interpolation = InterpolatingGenerator(channels, factor)
        self.size = nn.Parameter(torch.tensor(size))
        # of the output, which has three sites more on each side than the chunk
        self.noise_layers = [(factor, 3)]

    def forward(self, x, noise, psi=()):
        return self.interpolation(x, ()) + self.size * noise[0]


@pytest.mark.mpi
def test_a_new_network(data, tmp_path, comm, monkeypatch):
    monkeypatch.setitem(cards.NETWORKS, "jittered", Jittered)
    model = saved_model(tmp_path / "jittered.safetensors", Jittered(), comm, name="mine")
    loaded, card = load_model(model)
    assert loaded.arguments == Jittered().arguments and card.name == "mine"
    low = open_snapshot(data / "lr8_12p5_z2", comm)
    sr = SRCatalog(low, model=str(model), seed=3)
    plain = SRCatalog(low, model="interpolate", factor=2)
    moved = (sr["Position"] - plain["Position"]).compute()
    moved -= 12.5 * np.rint(moved / 12.5)
    rms = np.sqrt(comm.allreduce((moved**2).sum()) / comm.allreduce(moved.size))
    assert rms == pytest.approx(0.1 * sr.inference.units[0], rel=0.03)
    assert FFTPower(sr, mode="1d", Nmesh=32).power["power"].real[1:].min() > 0
