"""One step of training: what learns, and how a batch moves it.

A step of B pairs over several processes, each with its share of n, computed ``chunk`` at a time:

1. features of the own pairs (without gradients, if they do not fit at once)
2. features of all B pairs are gathered, once
3. the loss of the own rows, and its gradients for all features; these are summed, once
4. each chunk again, with the gradients of its features (gradient caching, Gao et al. 2021)
5. gradients of the weights are summed over the processes; clip; step

Whatever is random in a chunk (dropout, patches left out) is drawn from (seed, step, first row), so
that both passes draw the same, and so does a training that was resumed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from wentu.training import layers, losses
from wentu.training.average import Average
from wentu.training.config import Config
from wentu.training.data import Batch, Inputs
from wentu.training.devices import precision_of
from wentu.training.feed import Fed, Feed, Teacher, unit
from wentu.training.optimizer import make_optimizer, parameter_groups
from wentu.training.parallel import Group
from wentu.training.validation import Features

if TYPE_CHECKING:
    import torch

MAX_LOGIT_SCALE = math.log(100)
"""As in Radford et al. 2021: a larger scale makes training unstable."""


class Diverged(Exception):
    """Something is no number any more."""

    def __init__(self, what: str, value: float, step: int) -> None:
        """what: ``loss``, ``gradient`` (its norm), or ``embeddings``."""
        super().__init__(what, value, step)
        self.what, self.value, self.step = what, value, step


class Learner:
    """A model on its device with all that moves it."""

    def __init__(
        self,
        student: Fed,
        config: Config,
        *,
        device: torch.device,
        group: Group,
        scratch: bool = False,
        teacher: Fed | None = None,
    ) -> None:
        """scratch: from random weights, where statistics of BatchNorm are still to be found."""
        import torch

        self.config, self.device, self.group, self.scratch = config, device, group, scratch
        self.model, self._width = student.model.to(device), student.dimension
        layers.prepare(self.model, config, device.type)
        self._dropping = config.patch_dropout > 0
        self.feed = Feed(student.processor, device)
        self.precision, self._autocast, self._scaler = precision_of(config.precision, device)
        self.teacher = Teacher(teacher, device, self._autocast) if teacher else None
        self.bias = torch.nn.Parameter(torch.zeros((), device=device))
        groups = parameter_groups(self.model, config.weight_decay, config.layer_decay)
        if config.loss == "sigmoid" and self._logit_bias is self.bias:
            groups.append({"params": [self.bias], "weight_decay": 0.0, "scale": 1.0})
        self.optimizer = make_optimizer(groups)
        self._moved = [each for every in groups for each in every["params"]]
        self._used: list[torch.nn.Parameter] | None = None
        self._average = Average(self.model, config.ema) if config.ema else None

    @property
    def _logit_bias(self) -> torch.nn.Parameter:
        """SigLIP's: the model's own, or one that only training has (the order needs none)."""
        own: torch.nn.Parameter | None = getattr(self.model, "logit_bias", None)
        return self.bias if own is None else own

    # --- a step --------------------------------------------------------------------------------

    def step(
        self, batch: Batch, number: int, rate: float, told: Sequence[float] = ()
    ) -> tuple[dict[str, float], list[float]]:
        """Learn from a batch: the step's figures, and ``told`` summed over the processes.

        Args:
            number: of the step, from 0. rate: its learning rate.
        Raises Diverged before anything has moved.
        """
        for each in self.optimizer.param_groups:
            each["lr"] = rate * each["scale"]
        self.optimizer.zero_grad(set_to_none=True)
        loss, hits = self.gradients(batch, number)
        loss, pictures, texts, *answers = self.group.total([loss, *hits, *told])
        norm = self._sum_and_clip()
        if not math.isfinite(loss):
            raise Diverged("loss", loss, number + 1)
        # With float16 an infinite gradient is usual now and then: the scaler skips that step.
        if not (math.isfinite(norm) or self._scaler.is_enabled()):
            raise Diverged("gradient", norm, number + 1)
        self._move(number)
        figures = {
            "loss": loss,
            "learning_rate": rate,
            "in_batch_accuracy": (pictures + texts) / (2 * len(batch.image_ids)),
            "gradient_norm": norm if math.isfinite(norm) else 0.0,
        }
        return figures, answers

    def gradients(self, batch: Batch, number: int) -> tuple[float, tuple[int, int]]:
        """Fill ``.grad`` with this process's part; its part of the loss, and its hits."""
        import torch

        parts = list(self.parts(batch, number))
        whole = len(parts) == 1
        with nullcontext() if whole else torch.no_grad():
            features = [self.encode(*part) for part in parts]
        leaves = self._gather(features, len(batch.image_ids))
        rows = self._rows(batch, leaves)
        loss = self._loss(rows, batch, number)
        self._scaler.scale(loss).backward()
        gradients = [each.grad for each in leaves if each.grad is not None]
        self.group.add(gradients)
        first = batch.own.start
        for place, part in enumerate(parts):
            live = features[place] if whole else self.encode(*part)
            here = slice(first, first + len(live[0]))
            first = here.stop
            pairs = [
                (feature, gradient[here])
                for feature, gradient in zip(live, gradients, strict=True)
                if feature.requires_grad
            ]
            if pairs:
                torch.autograd.backward([pair[0] for pair in pairs], [pair[1] for pair in pairs])
        return float(loss.detach()), losses.hits(rows)

    def parts(self, batch: Batch, number: int) -> Iterator[tuple[Inputs, list[int]]]:
        """The own share in chunks, each with what its random numbers are drawn from."""
        own, inputs = batch.own.stop - batch.own.start, batch.inputs[0]
        size = self.config.chunk or own
        for first in range(0, own, max(1, size)):
            here = slice(first, first + size)
            key = [self.config.seed, number, batch.own.start + first]
            yield Inputs(pictures=inputs.pictures[here], tokens=inputs.tokens[here]), key

    def encode(self, inputs: Inputs, key: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """(pictures, texts) [n, D] each, L2-normalised; what is random is drawn from ``key``."""
        import torch

        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
        with self._autocast():
            image = self.model.encode_image(self.feed.pictures(inputs.pictures))
            text = self.model.encode_text(self.feed.move(inputs.tokens))
        return unit(image), unit(text)

    def _gather(self, features: list[Any], total: int) -> list[torch.Tensor]:
        """Pictures and texts of all pairs [B, D], as leaves that gradients arrive at."""
        import torch

        leaves = []
        for side in range(2):
            own = [each[side].detach() for each in features]
            mine = torch.cat(own) if own else torch.zeros((0, self._width), device=self.device)
            leaves.append(self.group.gather(mine, total).requires_grad_(True))
        return leaves

    def _rows(self, batch: Batch, leaves: list[torch.Tensor]) -> losses.Rows:
        size, own = len(batch.image_ids), batch.own.stop - batch.own.start
        texts, pictures = (self.feed.cells(each, own, size) for each in batch.belongs)
        return losses.Rows(
            image=leaves[0], text=leaves[1], own=batch.own, belongs=(texts, pictures)
        )

    def _loss(self, rows: losses.Rows, batch: Batch, number: int) -> torch.Tensor:
        import torch

        config, scale = self.config, self.model.logit_scale.exp()
        if config.loss == "sigmoid":
            if number == 0 and self._logit_bias is self.bias:
                with torch.no_grad():
                    self.bias.copy_(losses.first_bias(rows, scale))
            loss = losses.sigmoid_loss(rows, scale, self._logit_bias)
        else:
            loss = losses.softmax_loss(rows, scale, config.positives)
        if self.teacher is None:
            return loss
        theirs = [
            self.group.gather(each, len(batch.image_ids))
            for each in self.teacher.encode(batch.inputs[1], config.chunk or len(batch.image_ids))
        ]
        taught = losses.Rows(image=theirs[0], text=theirs[1], own=rows.own, belongs=rows.belongs)
        learned = losses.distillation_loss(rows, scale, taught, self.teacher.scale)
        return (1 - config.distill) * loss + config.distill * learned

    def _sum_and_clip(self) -> float:
        """Gradients over all processes; their norm before it was clipped."""
        import torch

        self.group.add(self._used_gradients())
        self._scaler.unscale_(self.optimizer)
        return float(torch.nn.utils.clip_grad_norm_(self._moved, self.config.clip_norm))

    def _used_gradients(self) -> list[torch.Tensor]:
        """Gradients to sum: the same list in every process, also where one had no row."""
        import torch

        if self.group.size == 1:
            return []
        if self._used is None:
            flags = self.group.total([float(each.grad is not None) for each in self._moved])
            self._used = [each for each, flag in zip(self._moved, flags, strict=True) if flag]
        for each in self._used:
            if each.grad is None:
                each.grad = torch.zeros_like(each)
        return [each.grad for each in self._used if each.grad is not None]

    def _move(self, number: int) -> None:
        import torch

        self._scaler.step(self.optimizer)
        self._scaler.update()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        if self._average:
            self._average.follow(self.model, number)

    # --- training and serving ------------------------------------------------------------------

    def train_mode(self) -> None:
        """Dropout on; BatchNorm as it came, but from random weights."""
        self.model.train()
        if not self.scratch:
            layers.keep_statistics(self.model)

    def drop_patches(self, wanted: bool) -> None:
        """Leave out patches from now on, or none."""
        wanted = wanted and self.config.patch_dropout > 0
        if wanted != self._dropping:
            layers.drop_patches(self.model, self.config.patch_dropout if wanted else 0.0)
            self._dropping = wanted

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The weights that come out: their moving average, if there is one."""
        with self._average.swapped(self.model) if self._average else nullcontext():
            yield

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """No gradients, no dropout, every patch, float32: as it will be served."""
        import torch

        self.drop_patches(False)
        self.model.eval()
        with torch.no_grad():
            yield

    def encode_pictures(self, files: list[bytes]) -> Features:
        """Files' bytes -> L2-normalised [n, D]."""
        features = unit(self.model.encode_image(self.feed.pictures(self.feed.decoded(files))))
        return np.asarray(features.cpu().numpy(), np.float32)

    def encode_texts(self, texts: list[str]) -> Features:
        """Texts -> L2-normalised [n, D]."""
        tokens = self.feed.processor.tokens(texts)
        features = unit(self.model.encode_text(self.feed.move(tokens)))
        return np.asarray(features.cpu().numpy(), np.float32)

    # --- state ---------------------------------------------------------------------------------

    def release(self) -> None:
        """Training is over: let go of gradients and the optimizer's moments."""
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.state.clear()

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights under the model's own names."""
        return layers.plain_state(self.model.state_dict())

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, but for where the training stands."""
        return {
            "model": self.model.state_dict(),
            "bias": self.bias.detach(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "average": dict(self._average.state()) if self._average else {},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """What ``state`` was."""
        import torch

        self.model.load_state_dict(state["model"])
        with torch.no_grad():
            self.bias.copy_(state["bias"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] and self._scaler.is_enabled():  # begun on a device that needs none
            self._scaler.load_state_dict(state["scaler"])
        if self._average:
            self._average.load(state["average"])
