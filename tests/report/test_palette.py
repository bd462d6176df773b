"""Colours: told apart by everybody, and readable on their page."""

import itertools

import numpy as np
import pytest

from dpfinjax.report import palette
from tests.report import made

SIDES = {"light": 0, "dark": 1}
FAMILIES = ("baseline", "dpsgd", "pretrained", "pate", "published")

# Machado, Oliveira and Fernandes (2009), full severity, on linear RGB.
SIGHT = {
    "trichromacy": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def linear(color):
    """Linear RGB of a hexadecimal colour."""
    srgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIELAB of linear RGB, white D65."""
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / (TO_XYZ @ np.ones(3))
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one, other):
    """Contrast ratio of WCAG 2."""
    lights = sorted(TO_XYZ[1] @ linear(color) for color in (one, other))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("sight", SIGHT)
def test_families_are_told_apart_by_every_eye(sight, side):
    seen = [lab(SIGHT[sight] @ linear(palette.COLORS[f][SIDES[side]])) for f in FAMILIES]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 16


@pytest.mark.parametrize("side", SIDES)
def test_text_and_marks_stand_out_from_their_page(side):
    colors = {name: pair[SIDES[side]] for name, pair in palette.COLORS.items()}
    for paper in (colors["paper"], colors["raised"]):
        for text in ("ink", "muted", "link", "alarm"):
            assert contrast(colors[text], paper) >= 4.5
    assert all(contrast(colors[family], colors["paper"]) >= 3 for family in FAMILIES)


@pytest.mark.parametrize("side", SIDES)
def test_text_on_the_darkest_heat_is_readable(side):
    paper, ink, heat = (palette.COLORS[name][SIDES[side]] for name in ("paper", "ink", "dpsgd"))
    mixed = [
        round(0.45 * int(paper[i : i + 2], 16) + 0.55 * int(heat[i : i + 2], 16)) for i in (1, 3, 5)
    ]
    assert contrast(ink, "#" + "".join(f"{channel:02x}" for channel in mixed)) >= 4.5


def test_every_model_has_a_shade_of_its_own_on_both_sides():
    models = made.whole().models
    shades = palette.of_models(models)
    assert list(shades) == [palette.name_of(place) for place in range(len(models))]
    for side in (0, 1):
        for family in FAMILIES:
            own = [
                shades[palette.name_of(place)][side]
                for place, model in enumerate(models)
                if model.family == family
            ]
            assert len(set(own)) == len(own)


def test_a_family_of_one_has_the_familys_colour():
    shades = palette.of_models([made.baseline()])
    assert shades[palette.name_of(0)] == palette.COLORS["baseline"]


def test_placeholders_become_custom_properties():
    svg = f"fill: {palette.placeholder('ink')}; stroke: {palette.placeholder('model-12')}"
    assert palette.to_properties(svg) == "fill: var(--ink); stroke: var(--model-12)"


def test_only_colours_are_resolved():
    spec = {"color": "@ink", "text": "@ink", "line": [{"color": "@paper"}], "size": 3}
    light = {"color": "#1a202c", "text": "@ink", "line": [{"color": "#ffffff"}], "size": 3}
    assert palette.resolved(spec, palette.COLORS) == light
    assert palette.resolved(spec, palette.COLORS, 1)["line"] == [{"color": "#11151c"}]
