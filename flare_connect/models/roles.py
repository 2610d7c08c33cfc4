"""What the named sets of a mesh are to a model, as plain text: `{"left": "fixed", "right": "traction:pull"}`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from flare_connect.errors import ConfigError

REST = "*"
"""The name of the boundary that is in no other set."""

HARMONIC_OF_BOUNDARY = "boundary"
"""The value of `harmonic` that asks for the values and loads of `boundary`."""

ESSENTIAL, NATURAL = ("fixed", "value"), ("flux", "traction")
KINDS = ("free", *ESSENTIAL, *NATURAL)
_FORM = re.compile(r"(?P<kind>\w+)(:(?P<condition>[^\[\]]+)(\[(?P<component>\d+)\])?)?")


@dataclass(frozen=True, kw_only=True)
class Role:
    """What one set is to a model.

    Attributes:
        name: of the set, or `REST`.
        kind: "free"; "fixed", held at zero; "value", held at given values; "flux" or "traction", what passes or pulls.
        condition: the per-mesh numbers that are given there.
        component: which of them; None for all.
    """

    name: str
    kind: str
    condition: str | None = None
    component: int | None = None

    def width(self, conditions: Mapping[str, int]) -> int:
        """How many numbers are given."""
        if self.condition is None:
            return 0
        return conditions[self.condition] if self.component is None else 1


def read_roles(boundary: Mapping[str, str], conditions: Mapping[str, int]) -> tuple[Role, ...]:
    """The entries of `FlareConnectConfig.boundary`, checked.

    Args:
        boundary: set → "free", "fixed", "value:NAME", "flux:NAME" or "traction:NAME", where NAME is a condition, or one
            of its numbers, as in "value:temperatures[0]".
        conditions: the model's conditions and their widths.

    Raises:
        ConfigError: an entry has another form, or names a condition that there is not.
    """
    roles = []
    for name, text in boundary.items():
        found = _FORM.fullmatch(text)
        kind = found["kind"] if found else ""
        if found is None or kind not in KINDS:
            raise ConfigError(
                f"`boundary`: {name!r} is {text!r}; it must be free, fixed, value:NAME, flux:NAME or traction:NAME, "
                "NAME being a condition, or one of its numbers as in value:temperatures[0]"
            )
        condition, component = found["condition"], found["component"]
        if (condition is None) != (kind in ("free", "fixed")):
            mend = "leave out what follows the colon" if condition else f"write {kind}:NAME, NAME being a condition"
            raise ConfigError(f"`boundary`: {name!r} is {text!r}: {mend}")
        if name == REST and kind != "free":
            raise ConfigError(f"`boundary`: {REST!r}, what is in no other set, must be free, got {text!r}")
        if condition is not None:
            known = ", ".join(map(repr, conditions)) or "none"
            if condition not in conditions:
                raise ConfigError(
                    f"`boundary`: {name!r} names {condition!r}, which is no condition; there are: {known}"
                )
            if component is not None and int(component) >= conditions[condition]:
                raise ConfigError(
                    f"`boundary`: {name!r} names number {component} of {condition!r}, which has "
                    f"{conditions[condition]}, counted from 0"
                )
        number = None if component is None else int(component)
        roles.append(Role(name=name, kind=kind, condition=condition, component=number))
    _check_widths(roles, conditions)
    return tuple(roles)


def _check_widths(roles: list[Role], conditions: Mapping[str, int]) -> None:
    widths = {role.name: role.width(conditions) for role in roles if role.condition is not None}
    wide = {width for width in widths.values() if width > 1}
    if len(wide) > 1:
        raise ConfigError(f"`boundary`: all given values must have as many numbers, or one; got {widths}")
