"""What is trained on: any device that torch knows or a plug-in brings; none is named but the CPU.

Everything device-specific goes through ``torch.accelerator`` (which is whole since torch 2.7) and
``torch.get_device_module``, so that a card with a torch plug-in (npu, xpu, sdaa, …) works as CUDA
does.
"""

from __future__ import annotations

import importlib
import re
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from wentu.errors import InputError, StageError

if TYPE_CHECKING:
    import torch


def pick_device(name: str = "auto", plugin: str = "", index: int = 0) -> torch.device:
    """The device to train on.

    Args:
        name: ``auto`` or a device type of torch's.
        plugin: a package to import first, which makes its device known to torch.
        index: which of several, as torchrun's LOCAL_RANK.

    Raises InputError where it is not there.
    """
    import torch

    if plugin:
        try:
            importlib.import_module(plugin)
        except ImportError as error:
            raise InputError(
                f"--plugin {plugin}: it cannot be imported ({error}); install it first.",
                f"--plugin {plugin}：无法导入({error})；请先安装。",
            ) from None
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    here = found.type if found else "cpu"
    if name == "auto":
        name = here
    if name not in ("cpu", here):
        raise InputError(
            f"--device {name}: torch finds no such device here, only {here}; a card of another "
            "maker needs its package named with --plugin.",
            f"--device {name}：torch 在本机找不到该设备，只有 {here}；"
            "其他厂商的卡需用 --plugin 指定其软件包。",
        )
    if name == "cpu":
        return torch.device("cpu")
    count = torch.accelerator.device_count()
    if index >= count:
        raise InputError(
            f"--nproc: process {index + 1} has no device of its own; this machine has {count}.",
            f"--nproc：第 {index + 1} 个进程没有可用设备；本机共有 {count} 个。",
        )
    torch.accelerator.set_device_index(index)
    return torch.device(name, index)


def processes(name: str = "auto", plugin: str = "") -> int:
    """How many processes use this machine well: one for each accelerator, one on the CPU."""
    import torch

    if pick_device(name, plugin).type == "cpu":
        return 1
    return torch.accelerator.device_count()


def precision_of(name: str, device: torch.device) -> tuple[str, Callable[[], Any], Any]:
    """(its name, maker of autocast contexts, gradient scaler) for auto, bf16, fp16 or fp32."""
    import torch

    if name == "auto":
        if device.type == "cpu":
            name = "fp32"
        else:
            name = "bf16" if has_bf16(torch.get_device_module(device)) else "fp16"
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name)
    scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16" and device.type != "cpu")
    return (
        name,
        lambda: torch.autocast(device.type, dtype=dtype, enabled=dtype is not None),
        scaler,
    )


def _kinds() -> tuple[type[BaseException], ...]:
    import torch

    found = getattr(torch, "AcceleratorError", None)  # since 2.8; before, a bare RuntimeError
    return (found,) if found else ()


@contextmanager
def explained() -> Iterator[None]:
    """Say in a sentence what became of a device that failed; StageError."""
    import torch

    gone = _kinds()
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise StageError(
            f"not enough memory for a step ({_first_line(error)}). Halve --chunk, or take "
            "--checkpointing, and run the same command again; `wentu plan` says what is needed.",
            f"内存不足以完成一步({_first_line(error)})。请将 --chunk 减半或加 --checkpointing，"
            "再次运行同一命令；wentu plan 会给出所需内存。",
        ) from error
    except gone as error:
        raise StageError(
            f"the device failed or is gone ({_first_line(error)}). The last state that was saved "
            "is there: once the device is back, the same command goes on from it; or go on "
            "without it, with --device cpu.",
            f"设备出错或已丢失({_first_line(error)})。最近保存的状态仍在：设备恢复后运行同一命令"
            "即可继续；也可用 --device cpu 在 CPU 上继续。",
        ) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):  # how torch says it on a CPU
            raise
        with explained():
            raise MemoryError(_first_line(error)) from error


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__


def has_bf16(module: Any) -> bool:
    """Does a device compute in bf16 itself? CUDA also says yes where it only imitates it."""
    ask = getattr(module, "is_bf16_supported", None)
    if ask is None:
        return False
    try:
        return bool(ask(including_emulation=False))
    except TypeError:
        return bool(ask())


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that was in use, on the device, or by this process on the CPU."""
    import torch

    if device.type == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak  # bytes there, KiB on Linux
    measure = getattr(torch.get_device_module(device), "max_memory_allocated", None)
    return int(measure(device)) if measure else 0


PEAK_RATES = {
    "B200": 2250e12,  # HGX B200
    "H200": 989e12,
    "H100": 989e12,  # SXM
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "GH200": 989e12,
    "H800": 989e12,  # SXM
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "A40": 149.7e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L20": 119.5e12,
    "L4": 121e12,
    "A10G": 70e12,  # Amazon's form of the A10, from its sheet for G5
    "A10": 125e12,
    "RTX 5090": 209.5e12,  # of consumer cards: with sums in float32, NVIDIA's architecture papers
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
    "T4": 65e12,
}
"""Operations per second of dense bf16 (fp16 for V100, T4) products by words of the card's name;
from NVIDIA's data sheets, where a figure "with sparsity" is twice that."""


def peak_rate_of(device: torch.device, precision: str) -> float:
    """Operations per second that the device could do at most; 0 where that is not known."""
    import torch

    if device.type == "cpu" or precision == "fp32":
        return 0.0
    name = str(getattr(torch.get_device_module(device), "get_device_name", lambda _: "")(device))
    return rate_of_card(name)


def rate_of_card(name: str) -> float:
    """Operations per second by a card's name as torch has it, ``NVIDIA L40S``; 0: not known.

    Whole words count, so that an L40S is no L40 and a GB200 no B200; of several rows the longest.
    What is called Laptop is another, smaller card.
    """
    words = f" {' '.join(re.split(r'[^0-9A-Za-z]+', name))} "
    found = [key for key in PEAK_RATES if f" {key} " in words and " Laptop " not in words]
    return PEAK_RATES[max(found, key=len)] if found else 0.0
