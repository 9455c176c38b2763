"""Pictures of shapes filled with textures, drawn by a seed: twelve classes, four shapes times three textures.

A picture is float32[3, 32, 32] in [0, 1] give or take its noise. With p the pixel's place moved, turned and
scaled into the shape's own frame, the shape is where its distance d(p) is negative,

    disk      |p| - 1
    square    max(|p_x|, |p_y|) - 0.9
    triangle  max over three directions n of n·p - 0.6
    cross     the lesser of two bars, max(|p_x| - 1.1, |p_y| - 0.4) and the same turned

and its edge is a logistic of d, one pixel wide. Inside, two colours are mixed by a texture with an angle,
a phase and a period of its own:

    stripes   sin(2π a / t)
    checks    sin(2π a / t) sin(2π b / t)
    speckle   values on a coarse grid, interpolated

Behind it lie a darker gradient of two colours and strokes of others, some of which cross the shape; noise
is added last, of another strength in each picture. Neither colour, place, size nor angle tells the class.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import interpolate

SIZE = 32
SHAPES = ("disk", "square", "triangle", "cross")
TEXTURES = ("stripes", "checks", "speckle")
CLASSES = tuple(f"{shape} of {texture}" for shape in SHAPES for texture in TEXTURES)
STROKES, IN_FRONT = 4, 1  # strokes of each picture, and how many of them cross the shape
NOISE = (0.05, 0.2)  # standard deviations
DARK, MIDDLE = 0.45, 0.7  # no colour of the gradient is lighter than the first, of a stroke than the second
CHUNK = 500  # pictures drawn at a time: what is random in one depends on its chunk alone

Tensor = torch.Tensor


def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return pictures float32[count, 3, 32, 32] and their classes int64[count]."""
    starts = range(0, count, CHUNK)
    parts = [_chunk(min(CHUNK, count - s), torch.Generator().manual_seed(seed * 1009 + s)) for s in starts]
    return torch.cat([p for p, _ in parts]), torch.cat([c for _, c in parts])


def _chunk(count: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    classes = torch.randint(len(CLASSES), (count,), generator=g)
    x, y = _grid(count)
    picture = _background(x, y, g)
    strokes = [_stroke(x, y, g) for _ in range(STROKES)]
    for mask, colour in strokes[IN_FRONT:]:
        picture = picture.lerp(colour, mask)
    shape = _shape(x, y, classes // len(TEXTURES), g)
    picture = picture.lerp(_filling(x, y, classes % len(TEXTURES), g), shape)
    for mask, colour in strokes[:IN_FRONT]:
        picture = picture.lerp(colour, mask)
    strength = _uniform(count, *NOISE, g)[:, None]
    return picture + strength * torch.randn(picture.shape, generator=g), classes


def _grid(count: int) -> tuple[Tensor, Tensor]:
    """Return the places of the pixels in pixels from the middle, each float32[count, 32, 32]."""
    line = torch.arange(SIZE) - (SIZE - 1) / 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x.expand(count, SIZE, SIZE), y.expand(count, SIZE, SIZE)


def _uniform(count: int, low: float, high: float, g: torch.Generator) -> Tensor:
    """Return one number a picture, shaped to stand beside its pixels."""
    return low + (high - low) * torch.rand(count, 1, 1, generator=g)


def _turned(x: Tensor, y: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    angle = _uniform(len(x), 0, 2 * math.pi, g)
    return x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()


def _colour(count: int, low: float, high: float, g: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, 3, 1, 1, generator=g)


def _background(x: Tensor, y: Tensor, g: torch.Generator) -> Tensor:
    along, _ = _turned(x, y, g)
    mix = (along / SIZE + 0.5).clamp(0, 1)[:, None]
    return _colour(len(x), 0, DARK, g).lerp(_colour(len(x), 0, DARK, g), mix)


def _stroke(x: Tensor, y: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return where a bar of random place, angle and size lies, and its colour."""
    count, reach = len(x), SIZE / 2
    u, v = _turned(x - _uniform(count, -reach, reach, g), y - _uniform(count, -reach, reach, g), g)
    length, width = _uniform(count, 2, 9, g), _uniform(count, 0.5, 1.5, g)
    inside = torch.sigmoid(-3 * torch.maximum(u.abs() - length, v.abs() - width))
    return inside[:, None], _colour(count, 0, MIDDLE, g)


def _shape(x: Tensor, y: Tensor, kinds: Tensor, g: torch.Generator) -> Tensor:
    """Return how far each pixel is inside the picture's shape, float32[count, 1, 32, 32] in [0, 1]."""
    count = len(x)
    u, v = _turned(x - _uniform(count, -4, 4, g), y - _uniform(count, -4, 4, g), g)
    radius = _uniform(count, 8, 12, g)
    u, v = u / radius, v / radius
    distances = torch.stack([_disk(u, v), _square(u, v), _triangle(u, v), _cross(u, v)])
    own = distances[kinds, torch.arange(count)]
    return torch.sigmoid(-3 * own * radius)[:, None]


def _disk(u: Tensor, v: Tensor) -> Tensor:
    return (u * u + v * v).sqrt() - 1


def _square(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) - 0.9


def _triangle(u: Tensor, v: Tensor) -> Tensor:
    sides = [u * math.cos(a) + v * math.sin(a) for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)]
    return torch.stack(sides).amax(0) - 0.6


def _cross(u: Tensor, v: Tensor) -> Tensor:
    bars = [torch.maximum(a.abs() - 1.1, b.abs() - 0.4) for a, b in ((u, v), (v, u))]
    return torch.minimum(*bars)


def _filling(x: Tensor, y: Tensor, kinds: Tensor, g: torch.Generator) -> Tensor:
    count = len(x)
    a, b = _turned(x, y, g)
    period = _uniform(count, 4, 6, g)
    waves = [torch.sin(2 * math.pi * (line / period + _uniform(count, 0, 1, g))) for line in (a, b)]
    speckle = torch.randn(count, 1, SIZE // 3, SIZE // 3, generator=g)
    speckle = interpolate(speckle, (SIZE, SIZE), mode="bilinear", align_corners=False)[:, 0]
    values = torch.stack([waves[0], 1.4 * waves[0] * waves[1], 1.4 * speckle])
    mix = torch.sigmoid(3 * values[kinds, torch.arange(count)])[:, None]
    dark, light = _colour(count, 0.35, 0.6, g), _colour(count, 0.75, 1, g)
    return dark.lerp(light, mix)
