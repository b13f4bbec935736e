"""World lines of SR particles through a light cone, from a few LR snapshots of one simulation.

LR displacements and velocities are interpolated between snapshots, particle by particle, linearly in
the growth factor D; velocities in units of linear theory's, a H f, so that the growing mode is exact.
At nodes in time, which are the same for the whole cone, the network runs on these fields with one
noise, and between two nodes SR displacements are again linear in D. So a particle has one unbroken
world line, and crosses the light cone once (`cone.crossings`).

SR snapshots that lie far apart in time are not interpolated: between them particles of halos would
pass through the halos' centres. The nodes are so near to each other (`STEP`) that this is small.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, tee
from os import PathLike

import numpy as np
from mpi4py import MPI

from ..catalog import choose_grid, identity
from ..chunks import Chunk
from ..domain import LatticeDomain
from ..errors import InputError, agreement, require_same
from ..inference import host, side_by_side
from ..io.cones import COLUMNS, MOVING, joined
from ..io.snapshot import open_snapshot
from ..noise import check_seed
from ..particles import find_lattice
from ..physics.distance import Expansion, observed
from ..physics.matter import MASS, particle_mass
from ..physics.universe import Universe
from ..preparation import ModelOptions, prepare_model
from ..provenance import Provenance, versions
from ..selection import Selection
from ..zoom import MARGIN
from .cone import WorldLines, crossings
from .simulation import (
    GrownPhases,
    Interpolated,
    LatestPhases,
    Moment,
    bracketing,
    check_same,
    common_model,
)

logger = logging.getLogger(__name__)

# Nodes in time are at most so far apart in ln D. With twice that SR positions halfway between two nodes
# are within .04 SR cells rms (99% within .16) of those at their own time at z = 4 to 2, and within .11
# (.47) at z = 1 to 0; with this, a third of it. Measured on 16^3 in 25 Mpc/h
STEP = 0.05

# Particles that are given at a time, about, and that are looked at together
PIECE, BATCH = 2**20, 2**17
# Side of the blocks whose replicas are told apart [LR sites]
BLOCK = 4


class LightCone:
    """A light cone that is computed chunk by chunk, as `stream` is asked for it.

    Making one opens the snapshots, prepares the model and exchanges the LR fields. Collective.

    Parameters
    ----------
    sources : sequence of nbodykit CatalogSource, str or Path
        LR snapshots of one simulation, in any order; what `SRCatalog` takes.
    cone : Cone
    seed : int
        The realisation of the small scales.
    chunk : int, optional
        Side of a chunk [LR sites].
    options : ModelOptions, optional
        Without a model, the shipped one that fits all snapshots.

    Attributes
    ----------
    cone : Cone
    universe : Universe
        Without a time.
    chunks : list of Chunk
        This rank's.
    nodes : (n,) float64
        Scale factors at which the network runs.
    names : tuple of str
        The columns that can be had: those of `COLUMNS`, without velocities if the model has none.

    Raises
    ------
    InputError
        On every rank: snapshots of several simulations, a cone that reaches beyond their times, a
        model that does not fit, bad options.
    """

    def __init__(self, sources, cone, seed=0, chunk=None, options=None):
        options = options or ModelOptions()
        sources = [sources] if isinstance(sources, str | PathLike) else sources
        sources = [open_snapshot(s) if isinstance(s, str | PathLike) else s for s in sources]
        if not sources:
            raise InputError("0 snapshots: a cone lies between the times of two or more")
        self.comm, self.cone = sources[0].comm, cone
        with agreement(self.comm):
            self.seed = seed = check_seed(seed)
            for source in sources:
                Universe.of(source.attrs, "BoxSize", "a", "Omega0")
        given = dict(chunk=chunk, dtype=options.dtype, factor=options.factor, force=options.force)
        require_same(self.comm, seed=seed, cone=cone, **given)
        sources = sorted(sources, key=lambda source: Universe.of(source.attrs).a)
        with agreement(self.comm):
            sources = bracketing(sources, cone)
        particles = [find_lattice(source) for source in sources]
        moments = [Moment.of(*one) for one in zip(particles, map(_source_name, sources))]
        with agreement(self.comm):
            for early, late in pairwise(moments):
                check_same(early, late)
            if options.model is None:
                options = replace(options, model=common_model(moments))
        models = []
        for one in particles:
            models.append(prepare_model(one, options))
            if models[0].power is not None:  # that of the earliest, the most linear
                options = replace(options, sigma8=models[0].power.sigma8)
        model, lattice = models[0], particles[0].lattice
        self.model, self.lattice = model, lattice
        self.grid = choose_grid(self.comm, lattice, chunk, None, model.widest)
        self.domain = LatticeDomain(self.grid, self.comm, model.generator.padding)
        self.chunks, self.fine = self.domain.chunks, lattice.refine(model.card.factor)
        fields = [one.field(self.domain, model.card.channels == 6) for one in particles]
        self.universe = replace(particles[0].universe, a=None)
        earliest = min(cone.times[0], particles[0].universe.a)
        self.expansion = Expansion.of(self.universe, earliest)
        self.low = Interpolated.of(particles, fields, self.expansion.growth)
        self.nodes = self._nodes()
        far, near = self.expansion.distance(np.array(cone.times))
        light = self.expansion.distance(self.nodes)
        self._light = np.clip(light, near, far)  # where they are seen [Mpc/h]
        self._reach = {}
        base = model.inference(particles[0], self.grid, seed, options.phases)
        self._working_memory = base.working_memory(self.chunks[0].shape)
        if base.phases is not None:
            base = replace(base, phases=LatestPhases(base.phases))
        self._inferences = [self._inference(base, particles[0].universe, a) for a in self.nodes]
        self.names = tuple(n for n in COLUMNS if n not in MOVING or model.card.channels == 6)
        self._beyond = -np.inf  # [Mpc/h]
        self._warn_of_repeats()
        self.attrs = self._attributes(sources, options)

    def _nodes(self):
        """Scale factors of all nodes: the snapshots' and between these, so far as the cone reaches."""
        first, last = self.cone.times
        a = np.array(self.low.times)
        a[0], a[-1] = min(a[0], first), min(max(a[-1], last), 1.0)
        table = np.linspace(a[0], a[-1], 4096)
        growth = np.log(self.expansion.growth(table))
        nodes = []
        for early, late in pairwise(np.interp(a, table, growth)):
            steps = max(int(np.ceil((late - early) / STEP - 1e-9)), 1)
            nodes.append(np.interp(np.linspace(early, late, steps + 1)[1:-1], growth, table))
        nodes = np.sort(np.concatenate([a, *nodes]))
        # from the last before the cone begins to the first after it ends
        begin = np.searchsorted(nodes, first, side="right") - 1
        return nodes[max(begin, 0) : np.searchsorted(nodes, last) + 1]

    def _inference(self, base, universe, a):
        """What computes SR at a node."""
        units = self.model.card.units(replace(universe, a=float(a)), self.lattice.cell)
        phases = base.phases
        if phases is not None:
            growth = float(self.expansion.growth(a)) / universe.growth
            phases = GrownPhases(phases, growth)
        return replace(base, units=units, phases=phases)

    def _warn_of_repeats(self):
        depth = float(-np.diff(self.expansion.distance(np.array(self.cone.times)))[0])
        vector = self.cone.repeat(depth, self.lattice.BoxSize)
        if vector and self.comm.rank == 0:
            logger.warning(
                "structure repeats along a line of sight, every %.4g Mpc/h along (%d, %d, %d): the column "
                "Replica tells its copies; choose another axis, a smaller angle or a larger box",
                np.linalg.norm(vector) * self.lattice.BoxSize,
                *vector,
            )

    def _attributes(self, sources, options):
        """Cosmology, cone and provenance, but BoxSize and a time: a cone has neither."""
        cone, universe, card = self.cone, self.universe, self.model.card
        provenance = Provenance(
            seed=str(self.seed),
            model=card.name,
            model_hash=self.model.hash,
            card=card.entries,
            factor=card.factor,
            chunk=self.grid.side,
            offset=self.fine.offset,
            Nmesh=self.fine.Nmesh,
            dtype=self.model.dtype,
            power=self.model.power and self.model.power.source,
            initial=identity(options.phases),
            device=self.model.device.type,
            source=", ".join(map(_source_name, sources)),
            versions=versions(),
        )
        made = {**universe.attrs, **provenance.to_attrs()}
        made["ParticleMass"] = particle_mass(made, self.fine.size) / MASS
        del made["BoxSize"]
        return made | {
            "ConeObserver": np.array(cone.observer),
            "ConeSky": cone.sky or "cone",
            "ConeAxis": np.array(cone.axis),
            "ConeAngle": np.degrees(cone.opening),
            "ConeSolidAngle": cone.solid_angle,
            "ConeRedshifts": np.array([cone.zmin, cone.zmax]),
            "ConeBoxSize": self.lattice.BoxSize,
            "ConeTimes": np.array(self.low.times),
            "ConeNodes": self.nodes,
        }

    @property
    def expected(self) -> float:
        """Particles in the cone, at the mean density."""
        near, far = self.expansion.distance(np.array(self.cone.times))[::-1]
        density = self.fine.size / self.fine.BoxSize**3
        return float(self.cone.solid_angle / 3 * (far**3 - near**3) * density)

    @property
    def workers(self) -> int:
        """Chunks that the network runs on at a time."""
        return self._inferences[0].workers

    @property
    def memory(self) -> float:
        """Bytes of LR and of the network at work: an estimate."""
        return self._working_memory + sum(field.data.nbytes for field in self.low.fields)

    def runs(self, chunk) -> int:
        """How often the network runs on a chunk."""
        return len(self._reached(chunk))

    def timed(self, selection) -> tuple[float, float]:
        """Seconds of a run of the network, and of a particle that is found, from a few chunks. Not
        collective."""
        seen = [chunk for chunk in self.chunks if self.runs(chunk)] or self.chunks
        chunk = seen[len(seen) // 2]
        pairs = [
            (early, late) for early, late in pairwise(self._reached(chunk)) if late == early + 1
        ]
        shells = -np.diff(self._light**3)  # where most particles are, they are found fastest
        nodes = max(pairs or [(0, 1)], key=lambda pair: shells[pair[0]])
        self._fields((chunk, nodes[0]))  # the first takes longer
        begun = time.perf_counter()
        early, late = (self._fields((chunk, node)) for node in nodes)
        network = (time.perf_counter() - begun) / 2
        begun = time.perf_counter()
        pieces = self._between(chunk, nodes[0], early, late, selection)
        found = [len(columns["Position"]) for columns in pieces]
        return network, (time.perf_counter() - begun) / max(sum(found), 1)

    def check_margin(self) -> None:
        """Warn where SR particles lay outside of what was expected of their chunks. Collective."""
        beyond = self.comm.allreduce(self._beyond, MPI.MAX) / self.lattice.cell
        if beyond > 0 and self.comm.rank == 0:
            logger.warning(
                "particles lie up to %.3g LR cells outside of LR's, %g were expected: some may be missing "
                "at the edge of the cone",
                *(beyond + MARGIN, MARGIN),
            )

    def select(self, columns=None, subsample=1.0) -> Selection:
        """Which particles, by ID, and which of their columns are wanted. Raises InputError."""
        given = tuple(name for name in self.names if name != "Weight" or subsample < 1)
        return Selection.of(columns, subsample, given)

    def stream(self, chunks, selection) -> Iterator[tuple[Chunk, Iterator]]:
        """Compute the particles of some of this rank's chunks. Not collective.

        Parameters
        ----------
        chunks : iterable of Chunk
        selection : Selection
            Of `select`.

        Yields
        ------
        (Chunk, iterator of dict of arrays)
            The columns of about `PIECE` particles at a time, in an order that depends on nothing but
            the chunk; to be taken before the next chunk is.
        """
        reached = ((chunk, self._reached(chunk)) for chunk in chunks)
        ahead, now = tee(reached)
        jobs = ((chunk, node) for chunk, nodes in ahead for node in nodes)
        fields = side_by_side(self._fields, jobs, self.workers)
        for chunk, nodes in now:
            at_nodes = ((node, next(fields)[1]) for node in nodes)
            yield chunk, self._pieces(chunk, at_nodes, selection)

    def _pieces(self, chunk, at_nodes, selection):
        """What is seen of a chunk, from its fields at nodes."""
        before = early = None
        for node, late in at_nodes:
            if before == node - 1:
                yield from self._between(chunk, before, early, late, selection)
            before, early = node, late

    def _fields(self, job):
        """SR displacement, and velocity in linear theory's units, at a node: (C, nx, ny, nz) float32."""
        chunk, node = job
        a = float(self.nodes[node])
        padded = self.low.at(chunk, a)
        padded[3:] *= self.expansion.rate(a)
        fields = host(self._inferences[node].fields(chunk, padded))
        fields[3:] /= np.float32(self.expansion.rate(a))
        return fields

    def _bounds(self, chunk, a):
        """Corners of a cuboid in which SR particles of a chunk lie at a time, (2, 3) [Mpc/h]."""
        return self.low.bounds(chunk, a) + MARGIN * self.lattice.cell * np.array([[-1], [1]])

    def _reached(self, chunk):
        """The nodes at either end of the intervals in which some replica of a chunk may be seen."""
        if chunk.index in self._reach:
            return self._reach[chunk.index]
        nodes = set()
        bounds = [self._bounds(chunk, a) for a in self.nodes]
        for node, ((low, high), (low1, high1)) in enumerate(pairwise(bounds)):
            corners = np.minimum(low, low1), np.maximum(high, high1)
            shell = self._light[node + 1], self._light[node]
            if len(self.cone.replicas(*corners, *shell, self.lattice.BoxSize)):
                nodes |= {node, node + 1}
        self._reach[chunk.index] = sorted(nodes)
        return self._reach[chunk.index]

    def _between(self, chunk, node, early, late, selection):
        """Particles of a chunk that are seen between a node and the next, block by block."""
        factor, box = self.model.card.factor, self.lattice.BoxSize
        times = tuple(self.nodes[node : node + 2].tolist())
        near, far = self._light[node + 1], self._light[node]
        low, high = zip(*(self._bounds(chunk, a) for a in times))
        allowed = np.minimum(*low), np.maximum(*high)
        found, size = [], 0
        for part in chunk.blocks(BLOCK):
            where = [
                slice(factor * (first - start), factor * (first - start + n))
                for first, start, n in zip(part.start, chunk.start, part.shape)
            ]
            sites = part.sites(factor)
            ids = self.fine.id(sites)
            kept = selection.keeps(ids)
            if not kept.any():
                continue
            line = WorldLines(
                ids[kept],
                self.fine.site_position(sites[kept]),
                *(one[:, *where].reshape(len(one), -1).T[kept] for one in (early, late)),
            )
            low, high = line.bounds
            self._beyond = max(self._beyond, *(allowed[0] - low), *(high - allowed[1]))
            replicas = self.cone.replicas(low, high, near, far, box)
            together = max(BATCH // len(line.ids), 1)
            for first in range(0, len(replicas), together):
                some = replicas[first : first + together]
                found.append(self._seen(line, some, times, selection))
                size += len(found[-1]["Position"])
                if size > PIECE:
                    yield joined(found)
                    found, size = [], 0
        if size:
            yield joined(found)

    def _seen(self, line, replicas, times, selection):
        """Columns of the particles of some replicas that are seen in an interval."""
        shift = replicas[:, None] * self.lattice.BoxSize - self.cone.observer
        start, end = ((x + shift).reshape(-1, 3) for x in line.positions)
        which, a = crossings(start, end, times, self.expansion)
        growth = self.expansion.growth(np.array([*times]))
        part = ((self.expansion.growth(a) - growth[0]) / (growth[1] - growth[0]))[:, None]
        position = start[which] + part * (end[which] - start[which])
        distance = np.sqrt((position**2).sum(axis=1))
        first, last = self.cone.times
        inside = (a >= first) & (a < last) & self.cone.sees(position, distance)
        which, a, part = which[inside], a[inside], part[inside]
        position, distance = position[inside], distance[inside]
        replica, which = np.divmod(which, len(line.ids))
        columns = {"Position": position, "ID": line.ids[which], "Aemit": a}
        columns["Replica"] = replicas[replica]
        columns["Weight"] = np.full(len(a), 1 / selection.subsample)
        if "Velocity" in self.names:
            early, late = (one[which, 3:] for one in line.fields)
            rate = self.expansion.rate(a)[:, None]
            columns["Velocity"] = (early + part * (late - early)) * rate
        columns |= observed(position, a, columns.get("Velocity"))
        return {name: columns[name].astype(COLUMNS[name][0]) for name in selection.columns}


def _source_name(source):
    return str(source.attrs.get("source", type(source).__name__))
