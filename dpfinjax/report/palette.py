"""The colours of a report, light and dark, by what they stand for.

Blue, orange, green and grey stay apart for every kind of colour blindness, since they differ in
lightness too; whatever has a colour also has a marker, a dash or a name of its own.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dpfinjax.report.record import Model

COLORS = {
    "paper": ("#ffffff", "#11151c"),
    "raised": ("#f5f7fa", "#1a212c"),
    "ink": ("#1a202c", "#edf2f7"),
    "muted": ("#4a5568", "#a9b4c4"),
    "grid": ("#dfe5ec", "#2f3947"),
    "edge": ("#718096", "#8592a6"),
    "link": ("#2b6cb0", "#7cbcf0"),
    "alarm": ("#c53030", "#fc8181"),
    "baseline": ("#1a202c", "#edf2f7"),
    "dpsgd": ("#2b6cb0", "#63b3ed"),
    "pretrained": ("#dd6b20", "#f6ad55"),
    "pate": ("#1f5c3f", "#2f9460"),
    "published": ("#718096", "#a0aec0"),
}
"""By name, the colour on a light page and on a dark one."""

MARKERS = {"dpsgd": "o", "pretrained": "D", "pate": "s", "published": "X", "baseline": "_"}
"""Matplotlib's marker of each family."""

SYMBOLS = {
    "dpsgd": "circle",
    "pretrained": "diamond",
    "pate": "square",
    "published": "x",
    "baseline": "line-ew",
}
"""Plotly's symbol of each family."""

# How far the first and the last model of a family are from its colour, towards the ink.
_DARKEST, _LIGHTEST = 0.5, -0.3


def of_models(models: Sequence[Model]) -> dict[str, tuple[str, str]]:
    """Gives every model a shade of its family's colour, the darker the earlier.

    Args:
      models: in the order in which they are shown.

    Returns:
      Colours as in `COLORS`, under `name_of(place)`.
    """
    shades = {}
    for place, model in enumerate(models):
        family = [other.name for other in models if other.family == model.family]
        rank = family.index(model.name) / max(1, len(family) - 1)
        share = _DARKEST + rank * (_LIGHTEST - _DARKEST) if len(family) > 1 else 0.0
        light, dark = (
            _shade(color, share, side) for side, color in enumerate(COLORS[model.family])
        )
        shades[name_of(place)] = (light, dark)
    return shades


def name_of(place: int) -> str:
    """Returns the name of the colour of the model in this place."""
    return f"model-{place}"


def css(colors: Mapping[str, tuple[str, str]]) -> str:
    """Returns style rules that define colours as custom properties, light and dark."""
    light, dark = (
        " ".join(f"--{name}: {pair[side]};" for name, pair in colors.items()) for side in (0, 1)
    )
    return (
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    )


def placeholder(name: str) -> str:
    """Returns a colour for Matplotlib that `to_properties` turns into the custom property."""
    place = int(name.removeprefix("model-")) if name.startswith("model-") else None
    code = 0x100 + place if place is not None else list(COLORS).index(name)
    return f"#fe{code:04x}"


def to_properties(svg: str) -> str:
    """Replaces placeholders in an SVG's styles by custom properties."""
    names = list(COLORS)

    def named(match: re.Match[str]) -> str:
        code = int(match[1], 16)
        return f"var(--{name_of(code - 0x100) if code >= 0x100 else names[code]})"

    return re.sub(r"#fe([0-9a-f]{4})\b", named, svg)


def resolved(spec: Any, colors: Mapping[str, tuple[str, str]], side: int = 0) -> Any:
    """Replaces "@name" by the colour, wherever a key of a Plotly figure ends in "color".

    The page's script does the same when it draws.

    Args:
      spec: dicts, lists and values.
      colors: as in `COLORS`.
      side: 0 for light, 1 for dark.

    Returns:
      A copy.
    """
    if isinstance(spec, list | tuple):
        return [resolved(value, colors, side) for value in spec]
    if not isinstance(spec, Mapping):
        return spec
    return {
        key: colors[value[1:]][side]
        if key.endswith("color") and isinstance(value, str) and value.startswith("@")
        else resolved(value, colors, side)
        for key, value in spec.items()
    }


def _shade(color: str, share: float, side: int) -> str:
    """A colour moved towards the ink of its side, or towards the paper for negative shares."""
    other = COLORS["ink" if share > 0 else "paper"][side]
    mixed = (
        round((1 - abs(share)) * own + abs(share) * aim)
        for own, aim in zip(_channels(color), _channels(other), strict=True)
    )
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def _channels(color: str) -> list[int]:
    """Red, green and blue of a hexadecimal colour."""
    return [int(color[place : place + 2], 16) for place in (1, 3, 5)]
