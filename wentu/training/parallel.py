"""Several processes that train one model: what they tell each other.

torchrun starts them, on one machine or several, and says in the environment who is who. One
process alone is a group of one, for which everything here is nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

BUCKET = 2**24
"""Numbers that are summed over the processes in one message."""


class Group:
    """The processes of a training, seen from one of them."""

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.size = rank, size
        self._device = device

    @classmethod
    def join(cls, device: torch.device, backend: str = "auto") -> Group:
        """The group that torchrun's environment names; one alone where there is none."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(device=device)
        import torch.distributed as distributed

        if backend == "auto":
            backend = distributed.get_default_backend_for_device(device)
        distributed.init_process_group(backend)
        return cls(distributed.get_rank(), distributed.get_world_size(), device)

    @property
    def first(self) -> bool:
        """Is this the one that writes files and reports?"""
        return self.rank == 0

    def share(self, total: int, rank: int | None = None) -> slice:
        """Which of ``total`` rows are one process's: runs that differ by at most one row."""
        rank = self.rank if rank is None else rank
        return slice(total * rank // self.size, total * (rank + 1) // self.size)

    def gather(self, rows: torch.Tensor, total: int) -> torch.Tensor:
        """[share, …] of each process -> [total, …] on all of them."""
        if self.size == 1:
            return rows
        import torch
        import torch.distributed as distributed

        most = -(-total // self.size)
        padded = rows.new_zeros((most, *rows.shape[1:]))
        padded[: len(rows)] = rows
        found = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(found, padded)
        shares = [self.share(total, rank) for rank in range(self.size)]
        return torch.cat(
            [part[: each.stop - each.start] for part, each in zip(found, shares, strict=True)]
        )

    def gather_array(
        self, rows: npt.NDArray[np.float32] | None, total: int
    ) -> npt.NDArray[np.float32]:
        """``gather`` for arrays; a process without a row does not know how long rows are."""
        if self.size == 1:
            assert rows is not None
            return rows
        import torch

        (width,) = {
            each for each in self.all_told(rows.shape[1] if rows is not None else 0) if each
        }
        tensor = torch.zeros((0, width)) if rows is None else torch.from_numpy(rows)
        gathered: npt.NDArray[np.float32] = (
            self.gather(tensor.to(self._device), total).cpu().numpy()
        )
        return gathered

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over the processes."""
        if self.size == 1:
            return
        import torch
        import torch.distributed as distributed

        bucket: list[torch.Tensor] = []

        def send() -> None:
            flat = torch.cat([each.reshape(-1) for each in bucket])
            distributed.all_reduce(flat)
            first = 0
            for each in bucket:
                each.copy_(flat[first : first + each.numel()].view_as(each))
                first += each.numel()
            bucket.clear()

        for tensor in tensors:
            bucket.append(tensor)
            if sum(each.numel() for each in bucket) >= BUCKET:
                send()
        if bucket:
            send()

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums of some numbers over the processes."""
        if self.size == 1:
            return list(values)
        import torch

        # float32 reaches every device; what is summed here needs no more.
        tensor = torch.tensor(values, dtype=torch.float32, device=self._device)
        self.add([tensor])
        return [float(value) for value in tensor.tolist()]

    def told(self, value: Any) -> Any:
        """What the first process passes, on all of them."""
        if self.size == 1:
            return value
        import torch.distributed as distributed

        box = [value]
        distributed.broadcast_object_list(box, device=self._device)
        return box[0]

    def all_told(self, value: Any) -> list[Any]:
        """What each process passes, on all of them."""
        if self.size == 1:
            return [value]
        import torch.distributed as distributed

        box = [None] * self.size
        distributed.all_gather_object(box, value)
        return box

    def leave(self) -> None:
        """Take leave of the others."""
        if self.size > 1:
            import torch.distributed as distributed

            distributed.destroy_process_group()
