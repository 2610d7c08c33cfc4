"""The settings of the data set of channels; needs neither gmsh nor torch."""

from __future__ import annotations

from dataclasses import dataclass

from flare_connect.errors import ConfigError
from flare_datasets.config import SplitConfig, check_integer, check_number, check_range


@dataclass(frozen=True, kw_only=True)
class HoledChannelConfig(SplitConfig):
    r"""What to draw: channels $[0, 2] \times [0, 1]$ with circular holes and slits, in unsteady flow.

    Units: the height of the channel and the mean speed at the inlet are 1, and so is the time to pass a height. Fluid
    comes in from the left at temperature 0, and sticks to walls and holes; a hole is held at a temperature of its own,
    walls are insulated. Eddies that are warm or cold are there at the start and are carried through.

    Args:
        num_train: series of the split "train". The samples of a split do not change when another split grows.
        num_val: series of the split "val", drawn as "train"; they choose the best epoch.
        num_test: series of the split "test", drawn as "train".
        num_more: series of the split "more": as "train" with `more_holes` holes.
        num_nodes: mesh vertices aimed at, met within 15 %; one number, or (least, most) to draw from evenly.
        num_frames: frames of a series.
        time_step: from frame to frame.
        spin_up: time before the first frame.
        num_holes: (least, most) holes in "train", "val" and "test".
        more_holes: (least, most) holes in "more".
        hole_radius: (least, most) radius of a circular hole, in channel heights.
        slit_probability: share of the holes that are slits, of any direction.
        slit_length: (least, most) length of a slit from end to end, in channel heights.
        slit_radius: half the width of a slit, in channel heights.
        min_gap: least width between two holes, and between a hole and a wall, in channel heights.
        max_blocked: largest share of the height that holes may take at any place along the channel.
        reynolds: (least, most) Reynolds number by height and mean speed, drawn evenly in its logarithm.
        prandtl: viscosity over diffusivity of heat.
        temperature: those of holes and eddies are drawn evenly from this much below to above 0.
        num_eddies: (least, most) eddies at the start.
        eddy_speed: (least, most) largest speed in an eddy, turning either way.
        eddy_width: (least, most) distance of this speed from the middle of the eddy, in channel heights.
        seed: same seed, same samples.
        geometry_nodes: as in `SlitPlateConfig`.
        log_nodes: as in `SlitPlateConfig`.

    Raises:
        ConfigError: a value is out of range.

    Good values: the defaults. By the diameter of a hole the Reynolds number is 20 to 100 then.
    """

    splits = ("train", "val", "test", "more")

    num_train: int = 120
    num_val: int = 12
    num_test: int = 16
    num_more: int = 16
    num_nodes: int | tuple[int, int] = 1_500
    num_frames: int = 41
    time_step: float = 0.05
    spin_up: float = 0.5
    num_holes: tuple[int, int] = (2, 4)
    more_holes: tuple[int, int] = (5, 7)
    hole_radius: tuple[float, float] = (0.06, 0.13)
    slit_probability: float = 0.4
    slit_length: tuple[float, float] = (0.3, 0.6)
    slit_radius: float = 0.025
    min_gap: float = 0.08
    max_blocked: float = 0.5
    reynolds: tuple[float, float] = (150.0, 400.0)
    prandtl: float = 1.0
    temperature: float = 1.0
    num_eddies: tuple[int, int] = (2, 5)
    eddy_speed: tuple[float, float] = (0.3, 1.0)
    eddy_width: tuple[float, float] = (0.08, 0.16)
    seed: int = 0
    geometry_nodes: int | tuple[int, int] | None = None
    log_nodes: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("num_frames", self.num_frames, 2, 10_000)
        check_number("time_step", self.time_step, 1e-4, 1.0)
        check_number("spin_up", self.spin_up, 0.0, 100.0)
        for name in ("num_holes", "more_holes"):
            check_range(name, getattr(self, name), 1, 12, integer=True)
        check_range("hole_radius", self.hole_radius, 0.02, 0.3)
        check_number("slit_probability", self.slit_probability, 0.0, 1.0)
        check_number("slit_radius", self.slit_radius, 0.01, 0.05)
        check_range("slit_length", self.slit_length, 4.0 * self.slit_radius, 0.9, low_name="four times `slit_radius`")
        check_number("min_gap", self.min_gap, 0.03, 0.3)
        check_number("max_blocked", self.max_blocked, 0.1, 0.8)
        check_range("reynolds", self.reynolds, 1.0, 2_000.0)
        check_number("prandtl", self.prandtl, 0.1, 10.0)
        check_number("temperature", self.temperature, 1e-6, 1e6)
        check_range("num_eddies", self.num_eddies, 0, 50, integer=True)
        check_range("eddy_speed", self.eddy_speed, 0.0, 2.0)
        check_range("eddy_width", self.eddy_width, 0.02, 0.5)
        widest = 2.0 * self.hole_radius[1]
        if widest > self.max_blocked or widest + 2.0 * self.min_gap > 1.0:
            raise ConfigError(
                f"holes as wide as {widest:g} do not fit: lower `hole_radius`, or raise `max_blocked` (now "
                f"{self.max_blocked:g}); to both walls `min_gap` must be left"
            )

    def holes_of(self, split: str) -> tuple[int, int]:
        """(least, most) holes of a channel of `split`."""
        return self.more_holes if split == "more" else self.num_holes
