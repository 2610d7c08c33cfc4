"""Rollouts of peers on grids: frames in, the change to the next frame out, as `FlareRollout` has it on meshes."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flare_connect.errors import ConfigError, InputError

from ..replayed import successive
from ..statistics import Standardiser
from .fno import FNO
from .matching import nearest_count
from .persistence import Persistence
from .unet import UNet

GRID_BASELINES: Mapping[str, type[nn.Module]] = {"fno": FNO, "unet": UNet, "persistence": Persistence}


class GridRollout(nn.Module):
    """`u_{t+1} = u_t + σ · f(u_t, …, u_{t−k+1}, conditions, coordinates)`, f being a network on a grid.

    The frames are standardised, σ is the usual change from frame to frame, and a condition is a channel of one number:
    what `FlareRollout` does, so that both are compared by their layers. Statistics are buffers and travel with the
    weights.

    ```python
    model = GridRollout("fno", dim=1, width=1, history=10)
    frames = model.rollout(first, 100)  # [B, 10, X, 1] → [B, 100, X, 1]
    ```

    Args:
        name: a key of `GRID_BASELINES`.
        dim: axes of the grid, 1 to 3.
        width: V, columns of a frame.
        history: k, frames that are read.
        conditions: G, numbers of a sample.
        options: further settings of the network's class.

    Raises:
        ConfigError: if the name or an option is unknown, or a number is out of range.

    Good values: `history` as many as are given, 10 in PDEBench.
    """

    def __init__(
        self, name: str, *, dim: int, width: int, history: int = 1, conditions: int = 0, **options: Any
    ) -> None:
        super().__init__()
        for what, value, least in (("width", width, 1), ("history", history, 1), ("conditions", conditions, 0)):
            if value < least:
                raise ConfigError(f"`{what}` must be at least {least}, got {value}")
        self.dim, self.width, self.history = dim, width, history
        self.frame_statistics = Standardiser(width)
        self.condition_statistics = Standardiser(conditions)
        self.change_scale: Tensor
        self.register_buffer("change_scale", torch.ones(width))
        self.net = _net(name, features=history * width + conditions + dim, outputs=width, dim=dim, **options)

    def forward(
        self, frames: Float[Tensor, "B T *X V"], condition: Float[Tensor, "B G"] | None = None
    ) -> Float[Tensor, "B *X V"]:
        """The frame after the last.

        Args:
            frames: at least k, in physical units; the last k are read.
            condition: numbers of each sample.

        Raises:
            InputError: if the shapes do not fit.
        """
        self._check(frames, condition)
        last = frames[:, -self.history :]
        size = last.shape[2:-1]
        seen = self.frame_statistics(last).movedim(-1, 2).flatten(1, 2)
        parts = [seen, _coordinates(size, seen).expand(len(seen), -1, *size)]
        if condition is not None:
            spread = self.condition_statistics(condition).to(seen.dtype)
            parts.append(spread.view(*spread.shape, *(1,) * self.dim).expand(-1, -1, *size))
        change = self.net(torch.cat(parts, dim=1)).to(frames.dtype).movedim(1, -1)
        return frames[:, -1] + self.change_scale * change

    def frames_after(
        self, given: Float[Tensor, "B T *X V"], condition: Float[Tensor, "B G"] | None = None
    ) -> Iterator[Float[Tensor, "B *X V"]]:
        """The next frames one by one, without end; memory does not grow."""
        known = given[:, -self.history :]
        with torch.no_grad():
            first = self(known, condition)

        def step(frame: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
            known = torch.cat([known[:, 1:], frame[:, None]], dim=1)
            return self(known, condition), known

        yield from successive(step, first, known)

    def rollout(
        self, given: Float[Tensor, "B T *X V"], steps: int, condition: Float[Tensor, "B G"] | None = None
    ) -> Float[Tensor, "B S *X V"]:
        """Frames that follow on those given, in physical units.

        Args:
            given: at least k frames.
            steps: S, frames to come.
            condition: numbers of each sample.

        Raises:
            InputError: if `steps` is not positive, or the shapes do not fit.
        """
        if steps < 1:
            raise InputError(f"`steps` must be at least 1, got {steps}")
        coming = self.frames_after(given, condition)
        return torch.stack([next(coming) for _ in range(steps)], dim=1)

    def fit_statistics(self, series: Iterable[Tensor], conditions: Float[Tensor, "B G"] | None = None) -> None:
        """Set the standardisation from series of the training split [B, T, *X, V], and of no other.

        Raises:
            InputError: if no series has two frames.
        """
        series = list(series)
        self.frame_statistics.fit(each.flatten(0, -2) for each in series)
        changes = Standardiser(self.width)
        moving = [each.diff(dim=1).flatten(0, -2) for each in series if each.shape[1] > 1]
        if not moving:
            raise InputError("the training split holds no two frames in a row: there is no change to learn")
        changes.fit(moving, scaled=range(self.width))
        self.change_scale.copy_(changes.std)
        if conditions is not None:
            self.condition_statistics.fit([conditions])

    @property
    def num_parameters(self) -> int:
        """Learned numbers."""
        return sum(p.numel() for p in self.parameters())

    def _check(self, frames: Tensor, condition: Tensor | None) -> None:
        if frames.dim() != 3 + self.dim or frames.shape[-1] != self.width or frames.shape[1] < self.history:
            raise InputError(
                f"frames must be [B, T, {', '.join('XYZ'[: self.dim])}, {self.width}] with T of at least "
                f"{self.history}, got {list(frames.shape)}"
            )
        wanted, got = len(self.condition_statistics.mean), 0 if condition is None else condition.shape[-1]
        if wanted != got:
            raise InputError(f"`condition` must have {wanted} numbers a sample, got {got}")


def matching_grid_channels(
    name: str, parameters: int, *, dim: int, width: int, tolerance: float = 0.1, **settings: Any
) -> int:
    """The width at which a peer on grids has the wanted number of parameters.

    Args:
        name: a key of `GRID_BASELINES` whose class has `channels`.
        parameters: wanted count.
        dim: axes of the grid.
        width: V.
        tolerance: largest relative deviation that is accepted.
        settings: what `GridRollout` takes, without `channels`.

    Raises:
        ConfigError: if no width comes within the tolerance.
    """

    def count(channels: int) -> int:
        # On the meta device nothing is allocated or drawn.
        with torch.device("meta"):
            return GridRollout(name, dim=dim, width=width, channels=channels, **settings).num_parameters

    return nearest_count(name, count, parameters, tolerance, step=1)


def _net(name: str, **settings: Any) -> nn.Module:
    if name not in GRID_BASELINES:
        raise ConfigError(f"unknown baseline on grids {name!r}; known: {', '.join(GRID_BASELINES)}")
    cls = GRID_BASELINES[name]
    known = set(inspect.signature(cls).parameters)
    for option in settings:
        if option not in known:
            own = sorted(known - {"features", "outputs", "dim"})
            raise ConfigError(f"{name!r} has no option {option!r}; its options: {', '.join(own)}")
    return cls(**settings)


def _coordinates(size: torch.Size, like: Tensor) -> Float[Tensor, "1 D *X"]:
    """Centres of equal cells of the unit interval along each axis."""
    axes = [(torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) / n for n in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
