"""Where the CPU time of a command goes: clocks about the functions that do the work."""

import importlib
import sys
import time
from collections import Counter

# Stages, and the functions whose time is theirs, less that of stages inside them
STAGES = {
    "read": ["nbodykit.base.catalog:CatalogSourceBase.compute", "io.checks:check_sums"],
    "write": ["io.writer:ChunkWriter._write", "io.groups:write_groups", "diagnostics.kept:keep"],
    "link": ["diagnostics.linking:link"],
    "centres": ["diagnostics.groups:find_groups"],
    "overdensity": ["diagnostics.overdensity:spheres"],
    "inside halos": ["diagnostics.halo_structure:halo_table"],
    "profiles": ["diagnostics.halo_profiles:density_profiles"],
    "matching": [f"diagnostics.halo_matching:{one}" for one in ("halo_sites", "partners")],
    "paint": ["diagnostics.fields:density_field"],
    "transforms": ["pmesh.pm:RealField.r2c", "pmesh.pm:BaseComplexField.c2r"],
    "power": [
        f"diagnostics.{one}"
        for one in (
            "power:power_spectrum",
            "power:comparison",
            "redshift_space:line_of_sight_power",
        )
    ],
    "bispectrum": ["diagnostics.bispectrum:bispectrum"],
    "voids": ["diagnostics.voids:find_voids"],
    "density PDF": ["diagnostics.pdf:density_pdf"],
    "pair counts": ["diagnostics.pairs:pair_statistics"],
    "halo bias": ["diagnostics.bias:halo_bias"],
    "seams": [f"diagnostics.seams:{one}" for one in ("axis_quadrupoles", "displacement_jumps")],
    "pictures": ["diagnostics.pictures:pictures", "diagnostics.report:write_report"],
}
REST = "the rest"


class Clock:
    """CPU seconds of this process by stage; what is in no stage is `REST`."""

    def __init__(self):
        self.seconds, self._stack, self._last = Counter(), [REST], time.process_time()

    def change(self, stage=None):
        """Enter a stage, or leave the one that is going on."""
        now = time.process_time()
        self.seconds[self._stack[-1]] += now - self._last
        self._last = now
        if stage is None:
            self._stack.pop()
        else:
            self._stack.append(stage)

    def __call__(self, stage, function):
        """The function, its time counted."""

        def timed(*words, **named):
            self.change(stage)
            try:
                return function(*words, **named)
            finally:
                self.change()

        return timed

    def watch(self):
        """Count the time of all `STAGES`, wherever their functions were imported to."""
        for stage, names in STAGES.items():
            for name in names:
                module, _, path = name.partition(":")
                ours = not module.startswith(("pmesh.", "nbodykit."))
                holder = importlib.import_module(f"nbodykit_sr.{module}" if ours else module)
                *owners, last = path.split(".")
                for owner in owners:
                    holder = getattr(holder, owner)
                function = getattr(holder, last)
                timed = self(stage, function)
                setattr(holder, last, timed)
                if not owners:
                    self._replace(function, timed)

    @staticmethod
    def _replace(function, timed):
        for name, module in list(sys.modules.items()):
            if name.startswith("nbodykit_sr"):
                for key, value in list(vars(module).items()):
                    if value is function:
                        setattr(module, key, timed)


def tables(analysis, table):
    """Text of `analysis.py`'s results: whole commands, then where their time goes.

    Parameters
    ----------
    analysis : dict
    table : callable
        Of a header and rows.
    """
    boxes = analysis["boxes"]
    ranks = f"{analysis['ranks']} rank" + "s" * (analysis["ranks"] > 1)
    commands = [name for name in boxes[0] if name != "particles"]
    sides = [f"{round(box['particles'] ** (1 / 3))}^3" for box in boxes]
    units = (("seconds", "s", 1, ".0f"), ("memory", "GB a rank", 1e9, ".2f"))
    rows = [
        [side]
        + [f"{box[name][key] / by:{form}}" for key, _, by, form in units for name in commands]
        for side, box in zip(sides, boxes)
    ]
    header = [f"{name} [{unit}]" for _, unit, _, _ in units for name in commands]
    text = [table([f"particles ({ranks})", *header], rows)]
    for name in commands:
        told = [box[name].get("stages", {}) for box in boxes]
        if not all(told):
            continue
        order = sorted(told[-1], key=lambda stage: (stage == REST, -told[-1][stage]))
        rows = [
            [stage]
            + [
                f"{one.get(stage, 0):.1f} ({100 * one.get(stage, 0) / sum(one.values()):.0f}%)"
                for one in told
            ]
            for stage in order
        ]
        rows.append(["all", *(f"{sum(one.values()):.1f}" for one in told)])
        text.append(table([f"`{name}`", *(f"{side} [CPU s]" for side in sides)], rows))
    return text
