"""The training loop, common to all systems (see `system.System`)."""

import copy
import logging
import math
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path

import torch
from tqdm import tqdm

from ..errors import InputError, RankError, out_of_memory
from .checkpoint import CheckpointFolder
from .configuration import Stage, plain
from .losses import critic_loss, generator_loss, gradient_penalty
from .memory import ADVICE, device_memory, step_bytes
from .optimizers import make_optimizers
from .run_log import RunLog, check_log
from .samples import Samples
from .warm_start import start_from

log = logging.getLogger("nbodykit_sr.training")


class Schedule:
    """The stages of a run laid out in steps.

    Parameters
    ----------
    stages : sequence of Stage
    batch : int
    samples_per_epoch : float
    """

    def __init__(self, stages, batch, samples_per_epoch):
        self.stages, self.batch = stages, batch
        self.lengths = [
            stage.steps or max(1, math.ceil(stage.epochs * samples_per_epoch / batch))
            for stage in stages
        ]
        self.steps = sum(self.lengths)

    def at(self, step) -> tuple[Stage, int, int]:
        """(stage, step within it, its length) of a step counted from 0."""
        for stage, length in zip(self.stages, self.lengths, strict=True):
            if step < length:
                return stage, step, length
            step -= length
        raise IndexError(f"the schedule has {self.steps} steps")

    def batch_at(self, step) -> int:
        """Size of the global batch."""
        stage, within, _ = self.at(step)
        every = stage.batch_doubles_every
        return self.batch * 2 ** (within // every) if every else self.batch

    def rate(self, step) -> float:
        """The learning rate of generator and critic."""
        stage, within, length = self.at(step)
        cosine = (1 + math.cos(math.pi * within / length)) / 2
        return stage.learning_rate * (stage.decay + (1 - stage.decay) * cosine)

    def batches(self, first) -> Iterator[tuple[int, int, int]]:
        """(step, part, size) of every batch from step `first` on: one part for each update of the
        critic, the last of which also updates the generator."""
        for step in range(first, self.steps):
            stage = self.at(step)[0]
            parts = stage.critic_steps if stage.adversarial != "none" else 1
            for part in range(parts):
                yield step, part, self.batch_at(step)


class Trainer:
    """Trains a system as its configuration says.

    Parameters
    ----------
    system : System
    ranks : Ranks
    resume : bool
        Go on from the run's last sound checkpoint.

    Raises
    ------
    InputError
        If the run exists and is not to be resumed, or the batch cannot be shared by the ranks.
    """

    def __init__(self, system, ranks, resume=False):
        c = self.configuration = system.configuration
        self.system, self.ranks = system, ranks
        if c.batch % ranks.size:
            raise InputError(f"batch is {c.batch}: {ranks.size} ranks need a multiple of that")
        check_log(c.run)
        self.checkpoints = CheckpointFolder(Path(c.run) / "checkpoints", c.checkpoints.keep)
        found = self.checkpoints.latest()
        if found and not resume:
            raise InputError(
                f"{c.run} holds a run of {found[0]} steps: resume it or name another run"
            )
        if resume and not found:
            raise InputError(f"{c.run} holds no sound checkpoint to resume: start the run anew")
        # more than there is would get the process killed without a word
        needed, there = step_bytes(system, c.batch // ranks.size), device_memory(ranks.device)
        if needed > there:
            raise InputError(
                f"a step with batch = {c.batch} needs about {needed / 1e9:.1f} GB on each rank, "
                f"its device has {there / 1e9:.1f} GB: {ADVICE}"
            )
        torch.manual_seed(c.seed)
        networks = [network.to(ranks.device) for network in system.networks()]
        if ranks.device.type == "cuda" or c.precision == "bfloat16":
            networks = [n.to(memory_format=torch.channels_last_3d) for n in networks]
        self.generator, self.critic = networks
        card = system.card(self.generator)
        if not found:
            for path in c.start:
                start_from(path, self.generator, self.critic, card)
        self.average = copy.deepcopy(self.generator).requires_grad_(False) if c.average else None
        self.optimizers = [
            make_optimizers(kind, network, c.betas)
            for kind, network in zip((c.optimizer, "adam"), networks, strict=True)
        ]
        self.schedule = Schedule(c.stage, c.batch, system.samples_per_epoch)
        self.step = self.critic_updates = 0
        self.evaluation = {}
        self.card = card.entries
        if found:
            self._load(*found)

    @property
    def best_generator(self) -> torch.nn.Module:
        """What is evaluated and exported: the average if one is kept."""
        return self.generator if self.average is None else self.average

    def run(self, stopped=()) -> bool:
        """Train to the end of the schedule. Collective.

        Parameters
        ----------
        stopped : list, optional
            Becomes true when the run is to stop early, as `command.stop_requests` gives it.

        Returns
        -------
        bool
            Whether the schedule is done; if not, a checkpoint of the last step is there.
        """
        self.wrapped = [self.ranks.wrap(network) for network in (self.generator, self.critic)]
        c, main = self.configuration, self.ranks.rank == 0
        run_log = RunLog(c.run, self.step) if main else None
        samples = Samples(self.system.sample, c.seed, self.ranks, c.workers)
        batches = samples.batches(self.schedule.batches(self.step))
        bar = tqdm(total=self.schedule.steps, initial=self.step, disable=not main or None)
        stop = False
        try:
            while self.step < self.schedule.steps and not stop:
                losses = self._step(batches)
                bar.update()
                bar.set_postfix({k: f"{v:.3g}" for k, v in losses.items()}, refresh=False)
                stop = self.ranks.any(stopped)
                if main and self._due(c.log_every):
                    stage = self.schedule.at(self.step - 1)[0].name
                    run_log.write("train", self.step, stage=stage, **losses)
                    if bar.disable:
                        terms = ", ".join(f"{k} {v:.4g}" for k, v in losses.items())
                        log.info("step %d/%d: %s", self.step, self.schedule.steps, terms)
                if main and c.evaluation.every and self._due(c.evaluation.every):
                    self._evaluate(run_log)
                if stop or self._due(c.checkpoints.every):
                    self._save()
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            kind = InputError if self.ranks.size == 1 else RankError
            raise kind(
                f"out of memory at step {self.step} with batch = {c.batch}: {ADVICE}"
            ) from error
        finally:
            bar.close()
            samples.close()
            if run_log:
                run_log.close()
            self.wrapped = None  # must be gone before the ranks part: see `leave`
        return self.step == self.schedule.steps

    def _due(self, every):
        """Is this step a multiple of `every`, or the last of the schedule?"""
        return self.step % every == 0 or self.step == self.schedule.steps

    def _step(self, batches):
        """One step: updates of the critic, then one of the generator."""
        stage, within, _ = self.schedule.at(self.step)
        rate = self.schedule.rate(self.step)
        for optimizer in chain(*self.optimizers):
            for group in optimizer.param_groups:
                group["lr"] = rate
        losses, real, seen = {}, None, None
        members = self.system.objective.members(stage.weights)
        if stage.adversarial == "none":
            batch = self.system.prepare(next(batches))
            fake = self._generate(batch, members)
        else:
            for _ in range(stage.critic_steps - 1):
                batch = self.system.prepare(next(batches))
                with torch.no_grad():
                    seen = self.system.critic_fields(batch, self._generate(batch, 1))
                self._update_critic(stage, batch, self._real(batch), seen)
            batch = self.system.prepare(next(batches))
            real = self._real(batch)
            with torch.set_grad_enabled(within >= stage.warmup):
                fake = self._generate(batch, members)
                seen = self.system.critic_fields(batch, fake[: len(real)])  # the first members
            losses.update(self._update_critic(stage, batch, real, seen.detach()))
        if within >= stage.warmup:
            losses.update(self._update_generator(stage, batch, fake, real, seen))
        self.step += 1
        return losses

    def _generate(self, batch, members):
        with self._autocast():
            fake = self.system.generate(self.wrapped[0], batch, members)
        return fake.float()

    @torch.no_grad()
    def _real(self, batch):
        """What the critic sees of the true fields."""
        return self.system.critic_fields(batch, batch["hr"])

    def _update_critic(self, stage, batch, real, fake):
        """`real` and `fake`: what the critic sees of them."""
        critic, kind, terms = self.wrapped[1], stage.adversarial, {}
        self.critic.zero_grad(set_to_none=True)
        if self.critic_updates % stage.penalty_every == 0:
            # on its own and in float32: its graph is the largest, and is freed here
            mixing = batch["noise"].remainder(2**20).float() / 2**20
            with self.ranks.local_gradients(critic):
                terms["penalty"] = gradient_penalty(kind, critic, real, fake, mixing)
                (stage.penalty * terms["penalty"]).backward()
        with self._autocast():
            # real and fake in one pass
            outputs = critic(torch.cat([real, fake])).float()
        terms["critic"] = critic_loss(kind, *outputs.chunk(2))
        terms["critic"].backward()
        self.critic_updates += 1
        return self._descend(1, terms)

    def _update_generator(self, stage, batch, fake, real, seen):
        """`fake`: its fields; `real`, `seen`: what a critic sees of the true ones and of these."""
        weights = stage.weights
        terms = self.system.objective(batch, fake, weights)
        if seen is not None:
            wanted = (real if stage.adversarial == "relativistic" else None, seen)
            self.critic.requires_grad_(False)
            with self._autocast():
                outputs = [None if x is None else self.critic(x).float() for x in wanted]
            self.critic.requires_grad_(True)
            terms["generator"] = generator_loss(stage.adversarial, *outputs)
            weights["generator"] = stage.adversarial_weight
        loss = sum(weight * terms[name] for name, weight in weights.items())
        self.generator.zero_grad(set_to_none=True)
        loss.backward()
        values = self._descend(0, terms)
        if self.average is not None:
            decay = min(self.configuration.average, (self.step + 1) / (self.step + 10))
            with torch.no_grad():
                news = self.generator.parameters()
                for mean, new in zip(self.average.parameters(), news, strict=True):
                    mean.lerp_(new, 1 - decay)
        return values

    def _descend(self, which, terms):
        """Update a network by its gradients; the mean of its loss terms over the ranks."""
        values = self.ranks.mean(terms)
        if not all(math.isfinite(value) for value in values.values()):
            self._not_finite(", ".join(f"{k} = {v:g}" for k, v in values.items()))
        for optimizer in self.optimizers[which]:
            optimizer.step()
        return values

    def _not_finite(self, what):
        raise InputError(
            f"training turned not finite at step {self.step}: {what}; the last good checkpoint is "
            f"{self.checkpoints.describe()}: lower the learning rate or the adversarial weight and "
            "resume"
        )

    def _autocast(self):
        if self.configuration.precision == "float32":
            return nullcontext()
        return torch.autocast(self.ranks.device.type, torch.bfloat16)

    def _evaluate(self, run_log):
        generator = self.best_generator.eval()
        with torch.no_grad(), self._autocast():
            metrics, figure = self.system.evaluate(
                generator, self.configuration.evaluation, self.ranks.device
            )
        generator.train()
        if metrics:
            log.info(
                "step %d: %s", self.step, ", ".join(f"{k} {v:.3f}" for k, v in metrics.items())
            )
            self.evaluation = {"step": self.step, **metrics}
            run_log.write("evaluation", self.step, **metrics)
        if figure is not None:
            run_log.figure(self.step, figure)

    # checkpoints

    def _save(self):
        for name, network in (("generator", self.generator), ("critic", self.critic)):
            if not all(torch.isfinite(p).all() for p in network.parameters()):
                self._not_finite(f"weights of the {name}")
        if self.ranks.rank == 0:
            try:
                self.checkpoints.save(self.step, self._state())
            except OSError as error:
                raise RankError(
                    f"the checkpoint of step {self.step} cannot be written ({error.strerror}): free "
                    "the disk and resume"
                ) from error

    def _state(self):
        return {
            "configuration": plain(self.configuration),
            "step": self.step,
            "critic_updates": self.critic_updates,
            "generator": self.generator.state_dict(),
            "critic": self.critic.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizers": [[o.state_dict() for o in optimizers] for optimizers in self.optimizers],
            "random": torch.get_rng_state(),
            "card": self.card,
            "evaluation": self.evaluation,
        }

    def _load(self, step, state):
        self.step, self.critic_updates = step, state["critic_updates"]
        self.evaluation = state["evaluation"]
        now = plain(self.configuration)
        changed = sorted(key for key in now if now[key] != state["configuration"].get(key))
        if changed:
            log.warning("resumed with other settings than before: %s", ", ".join(changed))
        try:
            self.generator.load_state_dict(state["generator"])
            self.critic.load_state_dict(state["critic"])
            if self.average is not None:
                self.average.load_state_dict(state["average"] or state["generator"])
        except RuntimeError as error:
            raise InputError(
                f"the weights of {self.configuration.run} do not fit this configuration "
                f"({str(error).splitlines()[1].strip()}): keep the tables of the networks"
            ) from None
        try:
            for optimizers, states in zip(self.optimizers, state["optimizers"], strict=True):
                for optimizer, saved in zip(optimizers, states, strict=True):
                    optimizer.load_state_dict(saved)
        except ValueError:
            raise InputError(
                f"the checkpoint of {self.configuration.run} has not the state of this optimizer: "
                "keep the setting optimizer, or begin another run with its weights as start"
            ) from None
        torch.set_rng_state(state["random"])
