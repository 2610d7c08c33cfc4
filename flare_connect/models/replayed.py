"""Steps of a rollout, on a GPU as replays of a CUDA graph: to start the kernels of a step takes longer than they do."""

import itertools
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

# Steps before a graph is made: in them is made what is compiled, or kept, on first use.
EAGER = 3


_STREAMS = threading.local()


def stream_aside() -> torch.cuda.Stream:
    """The stream of the current device and thread on which graphs are recorded.

    Always the same: to a stream on which matrices were multiplied belongs a workspace that is never given back.
    """
    known: dict[int, torch.cuda.Stream] = _STREAMS.__dict__.setdefault("of_device", {})
    device = torch.cuda.current_device()
    if device not in known:
        known[device] = torch.cuda.Stream()
    return known[device]


def recorded(work: Callable[[], None]) -> Callable[[], None]:
    """A CUDA graph of the work, which is not done meanwhile; called, it does it."""
    graph, aside = torch.cuda.CUDAGraph(), stream_aside()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        # Another thread may do with the device what it likes meanwhile.
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            work()
        finally:
            graph.capture_end()
    torch.cuda.current_stream().wait_stream(aside)
    return graph.replay


def successive(
    step: Callable[[Tensor, Any], tuple[Tensor, Any]], frame: Tensor, state: Any, *, captured: bool | None = None,
    record: Callable[[Callable[[], None]], Callable[[], None]] = recorded,
) -> Iterator[Tensor]:  # fmt: skip
    """A frame and those that follow, one by one and without end.

    Args:
        step: from a frame and what is known of those before it to the next of both. It asks nothing of the host.
        frame: the first to come.
        state: what is known before it: tensors, None and tuples of them, of the same shapes after each step.
        captured: whether steps after the first few are one CUDA graph; None for where there is a GPU.
        record: makes it.

    Yields:
        Frames that are overwritten by nobody.
    """
    if captured is None:
        captured = frame.is_cuda
    frame, state = owned((frame, state))  # nothing else that they may be a part of stays in memory
    yield frame
    for count in itertools.count():
        if captured and count == EAGER:
            break
        with torch.no_grad():  # around the call and not around the caller
            frame, state = step(frame, state)
        yield frame
    held = owned((frame, state))
    del frame, state

    def work() -> None:
        with torch.no_grad():
            _overwrite(held, owned(step(*held)))

    try:
        with _on_its_device(held[0]):
            again = record(work)
    except RuntimeError as error:
        warnings.warn(f"this rollout goes on without a CUDA graph, more slowly: {error}", stacklevel=2)
        again = work
    while True:
        with _on_its_device(held[0]):
            again()
        yield held[0].clone()


def _on_its_device(frame: Tensor) -> AbstractContextManager[Any]:
    """Streams are those of the current device, and a graph holds what is done on one of them and nothing else."""
    return torch.cuda.device(frame.device) if frame.is_cuda else nullcontext()


def owned(held: Any) -> Any:
    """The same tensors, in memory of their own."""
    if isinstance(held, Tensor):
        return held.clone()
    if isinstance(held, tuple):
        parts = [owned(each) for each in held]
        return type(held)(*parts) if hasattr(held, "_fields") else tuple(parts)
    return held


def _overwrite(held: Any, new: Any) -> None:
    if isinstance(held, Tensor):
        held.copy_(new)
    elif isinstance(held, tuple):
        for old, each in zip(held, new, strict=True):
            _overwrite(old, each)
