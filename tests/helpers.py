"""What tests of several parts share: models as files, and columns gathered from all ranks."""

import numpy as np

from nbodykit_sr.models.card import NETWORKS, ModelCard, save_model


def saved_model(path, network, comm=None, **card):
    """Write a network, with a card of these entries, for all ranks; gives the path."""
    [kind] = [name for name, kind in NETWORKS.items() if type(network) is kind]
    entries = {"name": "untrained", "network": kind, "arguments": network.arguments}
    entries |= {"factor": network.factor, "channels": network.channels, **card}
    if comm is None or comm.rank == 0:
        save_model(path, network, ModelCard(**entries))
    if comm is not None:
        comm.Barrier()
    return path


def gathered(catalog, *names):
    """Columns of a catalogue with the rows of all ranks: one array, or a list of several."""
    columns = [
        np.concatenate(catalog.comm.allgather(catalog.compute(catalog[name]))) for name in names
    ]
    return columns if len(names) > 1 else columns[0]
