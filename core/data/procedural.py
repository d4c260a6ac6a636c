# SPDX-License-Identifier: GPL-3.0-or-later
"""Subjects that are drawn, not photographed, with exact alpha: solids, hair, plants, wires, transparent things.

Each function returns straight RGBA (H, W, 4), 8 bit, with colour everywhere. What a network learns from them is that
any shape and any texture can be subject, down to a fraction of a pixel and to a tenth of an alpha.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from ..color import to_float
from .augmentation import Floats, blur, smooth_noise
from .compositing import Layer, over
from .pool import Bytes

SUPERSAMPLING = 3  # thin things are drawn this many times larger and averaged, so that their alpha is their coverage
HAIR_COLORS = np.array([[25, 20, 18], [70, 45, 30], [150, 105, 60], [215, 180, 130], [140, 70, 35], [190, 190, 195]])


def _rgba(colors: NDArray[np.generic], alpha: Floats) -> Bytes:
    return np.dstack([colors, (255 * alpha).clip(0, 255).round()]).astype(np.uint8)


def _tint(shape: tuple[int, int], rng: np.random.Generator, contrast: float = 12.0) -> Floats:
    """A colour with smooth variation, (H, W, 3), 0 to 255."""
    base = rng.uniform(0, 255, 3) if rng.random() < 0.7 else np.full(3, rng.uniform(0, 255))
    return (base + contrast * smooth_noise(shape, max(shape) / 6, rng, 3)).clip(0, 255).astype(np.float32)


def _canvas(size: int) -> NDArray[np.uint8]:
    return np.zeros((SUPERSAMPLING * size, SUPERSAMPLING * size), np.uint8)


def _coverage(drawn: NDArray[np.uint8], size: int) -> Floats:
    return np.asarray(cv2.resize(drawn, (size, size), interpolation=cv2.INTER_AREA), np.float32) / np.float32(255)


def _curve(canvas: NDArray[np.uint8], points: NDArray[np.float64], thickness: int, value: int = 255) -> None:
    cv2.polylines(canvas, [(points * 16).astype(np.int32)], False, value, thickness, cv2.LINE_AA, shift=4)


def _outline(mask: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The longest outline of a mask, smoothed, (N, 2) x and y, and the directions outwards; both empty without any."""
    outlines = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    outline = max(outlines, key=len, default=np.zeros((0, 1, 2)))[:, 0].astype(np.float64)
    if len(outline) < 10:
        return outline[:0], outline[:0]
    smooth = np.stack([np.convolve(np.r_[c[-10:], c, c[:10]], np.full(21, 1 / 21), "valid") for c in outline.T], 1)
    normals = np.roll(smooth, -5, 0) - np.roll(smooth, 5, 0)
    normals = np.stack([normals[:, 1], -normals[:, 0]], 1) / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-6)
    normals *= np.sign(np.sum(normals * (smooth - smooth.mean(0))) or 1)  # outwards, whichever way it runs around
    return smooth, normals


def blob(texture: Bytes, rng: np.random.Generator) -> Bytes:
    """A random shape cut from a photograph, with an edge between hard and very soft."""
    size = texture.shape[0]
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    reach = np.hypot(x, y) + 0.25 * smooth_noise((size, size), size / rng.uniform(2, 7), rng)[..., 0]
    softness = size * rng.uniform(0.25, 0.5) * rng.choice([1.0, 0.3, 0.06], p=[0.6, 0.3, 0.1])
    edge = np.clip((0.75 - reach) * softness + 0.5, 0, 1) * np.clip((0.99 - np.maximum(abs(x), abs(y))) * 40, 0, 1)
    return _rgba(texture[..., :3], edge.astype(np.float32))


def strands(texture: Bytes, rng: np.random.Generator) -> Bytes:
    """A head of hair or a tuft: a core and hundreds of curved strands of a fraction of a pixel to a few pixels."""
    size = texture.shape[0]
    drawn = _canvas(size)
    full = SUPERSAMPLING * size
    centre = np.array([0.5, 0.5]) * full + rng.normal(0, 0.05 * full, 2)
    radius = rng.uniform(0.08, 0.3) * full
    cv2.ellipse(drawn, (centre.astype(int).tolist(), (2 * radius, 2.4 * radius), float(rng.uniform(0, 180))), 255, -1)
    droop, curl = rng.uniform(-0.2, 1.2), rng.uniform(0, 0.8)
    steps = np.linspace(0, 1, 9)[:, None]
    base_length = rng.uniform(0.15, 0.5) * full
    for angle in rng.uniform(0, 2 * np.pi, int(rng.integers(60, 420))):
        out = np.array([np.cos(angle), np.sin(angle)])
        side = np.array([-out[1], out[0]])
        length = base_length * rng.uniform(0.3, 1.2)
        bend = rng.normal(0, 0.3) * steps**2 + curl * 0.08 * np.sin(steps * rng.uniform(3, 12) + rng.uniform(0, 6))
        points = (
            centre
            + 0.85 * radius * out * [1, 1.15]
            + length * (steps * out + bend * side + droop * steps**2 * [0, 0.6])
        )
        _curve(drawn, points, int(rng.integers(1, 5)), int(rng.integers(90, 256)))
    if rng.random() < 0.5:
        colors = _tint((size, size), rng, 25)
    else:
        colors = texture[..., :3].astype(np.float32)
    return _rgba(colors, _coverage(drawn, size))


def fur(texture: Bytes, rng: np.random.Generator) -> Bytes:
    """A shape with a fringe of hair: thousands of strands in locks, combed one way, that grow sparse towards the tips.

    Where strands are dense, alpha is high but not 1, which neither solids nor single strands teach.
    """
    size = texture.shape[0]
    full = SUPERSAMPLING * size
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    bumps = smooth_noise((size, size), size / rng.uniform(2, 6), rng)[..., 0]
    shape = np.hypot(x * rng.uniform(1, 1.6), y) + 0.3 * bumps
    body = shape + 6 * np.clip(np.hypot(x, y) - 0.45, 0, None) ** 2 < rng.uniform(0.4, 0.6)
    outline, normals = _outline(body)
    if not len(outline):
        return strands(texture, rng)
    smooth = outline * SUPERSAMPLING

    comb, curl, droop = rng.normal(0, 0.7, 2), rng.uniform(0, 0.12) * rng.choice([0, 1]), rng.uniform(0, 0.6)
    longest = np.exp(rng.uniform(np.log(0.03), np.log(0.4))) * full
    tightness, spread = rng.uniform(0, 0.95), rng.uniform(0.005, 0.05) * full
    steps = np.linspace(0, 1, 8)[:, None]
    curves = []
    for _ in range(int(rng.integers(50, 350))):  # locks
        root = int(rng.integers(len(smooth)))
        inwards = rng.uniform(-0.1, 1.0) * longest
        way = normals[root] + comb + rng.normal(0, 0.15, 2)
        length = longest * rng.uniform(0.4, 1.1) + inwards
        lean = rng.normal(0, 0.2) * np.array([-way[1], way[0]])
        rate, phase = rng.uniform(4, 14), rng.uniform(0, 6)
        bow = steps * way + steps**2 * (lean + [0, droop])
        lock = smooth[root] - normals[root] * inwards + length * bow / max(np.linalg.norm(bow[-1]), 0.5)
        lock += curl * longest * steps * np.sin(rate * steps + phase) * normals[root][::-1]
        shade = rng.uniform(70, 190)
        for _ in range(int(rng.integers(4, 40))):
            stray = rng.random() < 0.06
            offset = rng.normal(0, spread, 2) * (1 - (tightness * (not stray)) * steps**1.5)
            bend = rng.normal(0, 0.3 if stray else 0.06) * length * steps**2 * normals[root][::-1]
            reach = rng.uniform(0.9, 1.5) if stray else rng.uniform(0.5, 1)
            points = lock[0] + offset + (lock - lock[0]) * reach + bend
            curves.append((int(rng.integers(90, 256)), points, int(np.clip(shade + rng.normal(0, 30), 0, 255)), stray))
    thickest = int(rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2]))
    hairs, solid, shades = _canvas(size), _canvas(size), np.full((full, full), 128, np.uint8)
    for value, points, tone, stray in sorted(curves, key=lambda curve: curve[0]):  # faint ones first: they cover none
        _curve(hairs, points, 1 if stray else int(rng.integers(1, thickest + 1)), value)
        cv2.polylines(shades, [(points * 16).astype(np.int32)], False, tone, 3, shift=4)
    cv2.fillPoly(solid, [(smooth * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    drawn = np.maximum(hairs, solid)
    light = 1 + rng.uniform(0, 0.3) * smooth_noise((size, size), size / 4, rng)
    light = light * cv2.resize(shades, (size, size), interpolation=cv2.INTER_AREA)[..., None] / np.float32(128)
    color = HAIR_COLORS[rng.integers(len(HAIR_COLORS))] * rng.uniform(0.6, 1.2)
    if rng.random() < 0.3:
        color = rng.uniform(0, 255, 3)
    inside = np.clip((0.985 - np.maximum(abs(x), abs(y))) * 20, 0, 1).astype(np.float32)
    return _rgba((color * light + rng.uniform(0, 30)).clip(0, 255), _coverage(drawn, size) * inside)


def wires(texture: Bytes, rng: np.random.Generator) -> Bytes:
    """A few wires, cables, sticks or stems, straight or curved, some with round things on them."""
    size = texture.shape[0]
    drawn = _canvas(size)
    full = SUPERSAMPLING * size
    for _ in range(int(rng.integers(1, 9))):
        ends = rng.uniform(0.02, 0.98, (2, 2)) * full
        steps = np.linspace(0, 1, 24)[:, None]
        sag = np.array([0, rng.normal(0, 0.15) * full]) + rng.normal(0, 0.05 * full, 2)
        points = ends[0] + (ends[1] - ends[0]) * steps + 4 * steps * (1 - steps) * sag
        thickness = int(np.exp(rng.uniform(0, np.log(6 * SUPERSAMPLING))))
        _curve(drawn, points, max(1, thickness))
        if rng.random() < 0.4:
            cv2.circle(
                drawn, points[-1].astype(int).tolist(), int(rng.uniform(0.01, 0.09) * full), 255, -1, cv2.LINE_AA
            )
    return _rgba(_tint((size, size), rng, 30), _coverage(drawn, size))


def mesh(texture: Bytes, rng: np.random.Generator) -> Bytes:
    """A fence, net, lattice or wheel with spokes, in a frame."""
    size = texture.shape[0]
    drawn = _canvas(size)
    full = SUPERSAMPLING * size
    thickness = int(rng.integers(1, 3 * SUPERSAMPLING))
    if rng.random() < 0.35:
        hub, radius = (full // 2, full // 2), int(rng.uniform(0.3, 0.48) * full)
        for angle in np.linspace(0, 2 * np.pi, int(rng.integers(8, 40)), endpoint=False):
            tip = (int(hub[0] + radius * np.cos(angle)), int(hub[1] + radius * np.sin(angle)))
            cv2.line(drawn, hub, tip, 255, thickness, cv2.LINE_AA)
        cv2.circle(drawn, hub, radius, 255, 4 * thickness, cv2.LINE_AA)
    else:
        pitch = rng.uniform(0.03, 0.14) * full
        slant = rng.choice([0.0, rng.uniform(-1, 1)])
        bend = rng.normal(0, 0.03) * full
        steps = np.linspace(0, 1, 12)[:, None]
        for offset in np.arange(-full, 2 * full, pitch):
            wave = bend * np.sin(3 * steps)
            _curve(drawn, np.hstack([offset + slant * full * steps + wave, full * steps]), thickness)
            if rng.random() < 0.97:
                _curve(drawn, np.hstack([full * steps, offset - slant * full * steps + wave]), thickness)
        inner = (rng.uniform(0.03, 0.2, 2) * full).astype(int)
        outside = np.full_like(drawn, 255)
        cv2.rectangle(outside, inner.tolist(), (full - inner).tolist(), 0, -1)
        drawn[outside > 0] = 0
        if rng.random() < 0.7:
            cv2.rectangle(drawn, inner.tolist(), (full - inner).tolist(), 255, 3 * thickness, cv2.LINE_AA)
    return _rgba(_tint((size, size), rng, 30), _coverage(drawn, size))


def grass(texture: Bytes, rng: np.random.Generator) -> Bytes:
    """Blades, leaves and stems growing from below, tapering to nothing."""
    size = texture.shape[0]
    drawn = _canvas(size)
    full = SUPERSAMPLING * size
    steps = np.linspace(0, 1, 10)[:, None]
    shades = np.zeros((full, full), np.uint8)
    spread = rng.uniform(0.05, 0.5)
    for _ in range(int(rng.integers(15, 160))):
        root = np.array([(0.5 + rng.uniform(-spread, spread)) * full, full * 0.98])
        height, lean = rng.uniform(0.2, 0.9) * full, rng.normal(0, 0.25) * full
        middle = root + np.hstack([lean * steps**2, -height * steps])
        width = rng.uniform(0.003, 0.02) * full * (1 - steps) ** 0.8
        outline = np.vstack([middle + np.hstack([width, 0 * width]), (middle - np.hstack([width, 0 * width]))[::-1]])
        polygon = [(outline * 16).astype(np.int32)]
        cv2.fillPoly(drawn, polygon, 255, cv2.LINE_AA, shift=4)
        cv2.fillPoly(shades, polygon, int(rng.integers(60, 256)), cv2.LINE_8, shift=4)
    shade = cv2.resize(shades, (size, size), interpolation=cv2.INTER_AREA)[..., None] / 255
    hue = rng.uniform([40, 70, 10], [160, 190, 90]) if rng.random() < 0.7 else rng.uniform(0, 255, 3)
    colors = (hue * (0.5 + shade)).clip(0, 255)
    return _rgba(colors, _coverage(drawn, size))


def foliage(texture: Bytes, rng: np.random.Generator) -> Bytes:
    """A tree, bare or in leaf, or a bush: branches that fork down to a hair's width, leaves in clusters.

    From far away leaves and the gaps between them are smaller than a pixel, and alpha is a density.
    """
    size = texture.shape[0]
    full = SUPERSAMPLING * size
    drawn, shades = _canvas(size), np.full((full, full), 128, np.uint8)
    forks, spread, droop = int(rng.integers(3, 6)), rng.uniform(0.25, 0.9), rng.normal(0.05, 0.15)
    crookedness, shrinking = rng.uniform(0.02, 0.2), rng.uniform(0.6, 0.85)
    steps = np.linspace(0, 1, 6)[:, None]
    thickness = full * np.exp(rng.uniform(np.log(0.003), np.log(0.03)))
    root = np.array([0.5 + rng.normal(0, 0.06), 0.98]) * full
    shoots = [(root, -np.pi / 2 + rng.normal(0, 0.4)) for _ in range(rng.choice([1, 1, 4, 8]))]
    length = full * rng.uniform(0.15, 0.35)
    for level in range(forks + 1):
        ends = []
        for root, angle in shoots[:1200]:
            reach = length * rng.uniform(0.5, 1.2)
            way = np.array([np.cos(angle), np.sin(angle)])
            bend = rng.normal(0, crookedness) * np.array([-way[1], way[0]]) + [0, droop]
            points = root + reach * (steps * way + steps**2 * bend)
            width = max(1, round(thickness * 0.6**level))
            _curve(drawn, points, width, 255 if width > 1 else int(rng.integers(110, 256)))
            cv2.polylines(
                shades, [(points * 16).astype(np.int32)], False, int(rng.integers(40, 110)), width + 2, shift=4
            )
            for _ in range(int(rng.integers(2, 5))):
                at = points[int(rng.integers(2, len(points)))]
                ends.append((at, angle + rng.normal(0, spread)))
        shoots, length = ends, length * shrinking
        rng.shuffle(shoots)
    if rng.random() < 0.8:
        leaf, slim = full * np.exp(rng.uniform(np.log(0.0015), np.log(0.02))), rng.uniform(0.2, 0.8)
        scatter, faint = leaf + length * rng.uniform(0, 0.6), rng.uniform(60, 250)
        for shoot in rng.integers(len(shoots), size=int(np.exp(rng.uniform(np.log(200), np.log(6000))))):
            root, angle = shoots[shoot]
            centre = root + rng.normal(0, scatter, 2)
            axes = leaf * rng.uniform(0.5, 1.3) * np.array([1, slim])
            turn = float(np.degrees(angle + rng.normal(0, 0.9)))
            ellipse = (tuple(map(float, centre)), (2 * float(axes[0]), 2 * float(axes[1])), turn)
            cv2.ellipse(drawn, ellipse, int(rng.uniform(faint, 255)), -1, cv2.LINE_AA)
            cv2.ellipse(shades, ellipse, int(rng.integers(60, 220)), -1)
    light = cv2.resize(shades, (size, size), interpolation=cv2.INTER_AREA)[..., None] / np.float32(128)
    color = rng.uniform([20, 40, 5], [120, 170, 70]) * rng.uniform(0.3, 1.2)
    if rng.random() < 0.4:
        color = rng.uniform(0, 255, 3) * rng.choice([0.15, 1.0])
    inside = np.zeros((size, size), np.float32)
    inside[2:-2, 2:-2] = 1
    return _rgba((color * light).clip(0, 255), _coverage(drawn, size) * inside)


def veil(texture: Bytes, rng: np.random.Generator) -> Bytes:
    """Thin cloth, smoke or plastic: alpha between a tenth and nine tenths that folds, with a soft or hemmed edge."""
    size = texture.shape[0]
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    stretched = cv2.resize(
        smooth_noise((size, size), size / rng.uniform(3, 10), rng), (size, int(size * rng.uniform(1, 5)))
    )[:size]
    folds = 1 / (1 + np.exp(-1.5 * stretched))
    level = rng.uniform(0.1, 0.6)
    alpha = level + (rng.uniform(0.2, 0.6)) * folds**2
    reach = np.maximum(abs(x) / rng.uniform(0.5, 0.95), abs(y) / rng.uniform(0.6, 0.95))
    reach = reach + 0.12 * smooth_noise((size, size), size / 4, rng)[..., 0]
    edge = np.clip((1 - reach) * size * rng.choice([0.3, 0.02]), 0, 1)
    inside = np.clip((0.985 - np.maximum(abs(x), abs(y))) * 60, 0, 1)
    colors = _tint((size, size), rng, 8) + 40 * (folds[..., None] - 0.5)
    if rng.random() < 0.3:
        colors = 0.5 * colors + 0.5 * texture[..., :3]
    return _rgba(colors.clip(0, 255), (alpha * edge * inside).astype(np.float32))


def glass(texture: Bytes, rng: np.random.Generator) -> Bytes:
    """A bottle, pane or lens without refraction: clear inside, a dense rim, highlights, perhaps filled in part."""
    size = texture.shape[0]
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    power = rng.choice([2.0, 4.0, 10.0])
    across, along = rng.uniform(0.25, 0.9), rng.uniform(0.4, 0.92)
    profile = across * (1 - rng.uniform(0, 0.6) * np.clip(-y / along, 0, 1) ** 2)
    reach = (abs(x / profile) ** power + abs(y / along) ** power) ** (1 / power)
    inside = np.clip((1 - reach) * size * 0.25, 0, 1)
    rim = np.exp(-(((1 - reach) / rng.uniform(0.02, 0.12)) ** 2))
    clear = rng.uniform(0.03, 0.35)
    alpha = clear + (1 - clear) * rng.uniform(0.3, 0.95) * rim
    colors = _tint((size, size), rng, 10)
    if rng.random() < 0.35:
        filled = y > rng.uniform(-0.5, 0.6)
        alpha = np.where(filled, np.maximum(alpha, rng.uniform(0.2, 0.95)), alpha)
        colors = np.where(filled[..., None], _tint((size, size), rng, 10), colors)
    for _ in range(int(rng.integers(1, 4))):
        place = rng.uniform(-0.6, 0.6, 2) * [across, along]
        light = np.exp(
            -(((x - place[0]) / rng.uniform(0.01, 0.08)) ** 2) - ((y - place[1]) / rng.uniform(0.05, 0.4)) ** 2
        )
        light = light * rng.uniform(0.3, 1)
        colors = colors * (1 - light[..., None]) + 255 * light[..., None]
        alpha = np.maximum(alpha, light)
    return _rgba(colors, (alpha * inside).astype(np.float32))


def sheet(texture: Bytes, rng: np.random.Generator) -> Bytes:
    """A flat sheet seen at an angle, with hard edges and hardly any texture: half are opaque, others smoked or tinted.

    A dark sheet darkens the background as a shadow does; only its outline, rim and reflections differ. An opaque sheet
    is just as flat; only the background's texture does not show through it.
    """
    size = texture.shape[0]
    full = SUPERSAMPLING * size
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    if rng.random() < 0.3:
        axes = tuple((rng.uniform(0.2, 0.48, 2) * full).astype(int).tolist())
        points = cv2.ellipse2Poly((full // 2, full // 2), axes, int(rng.integers(180)), 0, 360, 4)
        outline = 16 * np.array(points, np.int32)
    else:
        corners = np.array([[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]) + rng.normal(0, 0.08, (4, 2))
        outline = (corners.clip(0.02, 0.98) * full * 16).astype(np.int32)
    drawn, rim = _canvas(size), _canvas(size)
    cv2.fillPoly(drawn, [outline], 255, cv2.LINE_AA, shift=4)
    cv2.polylines(rim, [outline], True, 255, int(np.exp(rng.uniform(0, np.log(0.03 * full)))), cv2.LINE_AA, shift=4)
    uneven = rng.uniform(0, 0.08) * smooth_noise((size, size), size, rng)
    alpha = np.ones_like(uneven) if rng.random() < 0.5 else rng.uniform(0.12, 0.85) + uneven
    colors = _tint((size, size), rng, 5) * (rng.uniform(0, 0.4) if rng.random() < 0.5 else 1.0)
    if rng.random() < 0.6:  # a window's reflection, a band across
        across = x * np.cos(turn := rng.uniform(0, np.pi)) + y * np.sin(turn) - rng.uniform(-0.5, 0.5)
        band = np.clip((rng.uniform(0.03, 0.4) - abs(across)) * size * rng.uniform(0.02, 0.5), 0, 1)
        light = rng.uniform(0.1, 0.8) * band[..., None]
        colors = colors * (1 - light) + 255 * light
        alpha = alpha + (1 - alpha) * light * rng.uniform(0.3, 1)
    if rng.random() < 0.6:
        edge = _coverage(rim, size)[..., None] * rng.uniform(0.2, 1)
        colors = colors * (1 - edge) + _tint((size, size), rng, 5) * edge
        alpha = alpha + (1 - alpha) * edge
    return _rgba(colors.clip(0, 255), (alpha[..., 0].clip(0.05, 1) * _coverage(drawn, size)).astype(np.float32))


def loose_hairs(image: Bytes, rng: np.random.Generator) -> Bytes:
    """A subject with single hairs that stand off its outline, on a canvas that is larger by a fifth above and beside.

    Half of the time they are lit from behind: far brighter than the subject beside them.

    Args:
        image: (h, w, 4) straight RGBA with colour everywhere.
    """
    pad = max(image.shape[:2]) // 5
    image = np.pad(image, ((pad, 0), (pad, pad), (0, 0)), "edge")
    image[:pad, :, 3] = image[:, :pad, 3] = image[:, -pad:, 3] = 0
    height, width = image.shape[:2]
    outline, outwards = _outline(image[..., 3] > 127)
    if not len(outline):
        return image
    upper = np.flatnonzero(outline[:, 1] <= np.quantile(outline[:, 1], rng.uniform(0.3, 1)))
    steps = np.linspace(0, 1, 16)[:, None]
    longest = pad * rng.uniform(0.3, 1.1)
    comb, curl = rng.normal(0, 0.6, 2), rng.uniform(0, 0.1) * rng.choice([0, 1])
    thickest = float(np.exp(rng.uniform(np.log(0.8), np.log(4))))
    hairs = np.zeros((height, width), np.uint8)
    for _ in range(int(np.exp(rng.uniform(np.log(8), np.log(200))))):
        root = int(rng.choice(upper))
        way = outwards[root] + comb + rng.normal(0, 0.4, 2)
        side = np.array([-way[1], way[0]])
        length = longest * rng.uniform(0.2, 1)
        bow = steps * way + steps**2 * (rng.normal(0, 0.5) * side + [0, rng.uniform(0, 0.5)])
        bow = bow + curl * np.sin(rng.uniform(4, 14) * steps + rng.uniform(0, 6)) * steps * side
        points = outline[root] + length * bow / max(np.linalg.norm(way), 0.5)
        thickness = thickest * rng.uniform(0.5, 1)
        value = 255 * min(thickness, 1) * rng.uniform(0.5, 1)  # below a pixel's width, a hair covers it in part
        _curve(hairs, points, max(1, round(thickness)), int(value))
    color = image[..., :3].astype(np.float32)
    if rng.random() < 0.5:
        glow = rng.uniform(0.4, 1) * (1 + 0.4 * smooth_noise((height, width), max(height, width) / 5, rng)).clip(0, 1)
        color = color + glow * (255 * rng.uniform(0.7, 1, 3).astype(np.float32) - color)
    straight = to_float(image)
    layer = over(
        Layer(straight[..., :3], straight[..., 3:]), Layer(color / np.float32(255), to_float(hairs)[..., None])
    )
    return _rgba((255 * layer.fgr).round(), layer.pha)


def thin_out(image: Bytes, rng: np.random.Generator) -> Bytes:
    """A subject made partly transparent: its alpha times a smooth field, like frosted glass, smoke, motion or lace."""
    shape = image.shape[:2]
    field = 1 / (1 + np.exp(-rng.uniform(0.5, 3) * smooth_noise(shape, max(shape) / rng.uniform(1.5, 8), rng)[..., 0]))
    low, high = rng.uniform(0.05, 0.6), rng.uniform(0.5, 1.0)
    kept = low + (high - low) * field
    if rng.random() < 0.3:  # transparent by brightness, as glass with highlights is
        kept = kept * (0.25 + 0.75 * blur(image[..., :3].mean(2).astype(np.float32), 1.0) / 255)
    thinned = image.copy()
    thinned[..., 3] = (image[..., 3] * kept).round()
    return thinned


def pierce(image: Bytes, rng: np.random.Generator) -> Bytes:
    """A subject with small gaps all over, more of them towards its outline, like those between leaves or in lace."""
    shape, mask = image.shape[:2], (image[..., 3] > 127).astype(np.uint8)
    length = float(np.exp(rng.uniform(np.log(2), np.log(16))))
    field = smooth_noise(shape, length, rng) + rng.uniform(0, 0.7) * smooth_noise(shape, length / 2, rng)
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3)[..., None]
    field -= rng.uniform(0, 2) * (depth / (depth.max() + 1)) + rng.uniform(0, 1) * smooth_noise(shape, 8 * length, rng)
    gaps = field - np.quantile(field[mask > 0], 1 - rng.uniform(0.03, 0.4)) if mask.any() else field
    kept = (0.5 - gaps * length / rng.uniform(1, 3)).clip(0, 1)  # edges of about a pixel
    light = 1 + rng.uniform(0, 0.4) * smooth_noise(shape, rng.uniform(1, 3) * length, rng)
    return _rgba((image[..., :3] * light.clip(0.2, 2)).clip(0, 255), image[..., 3:] / np.float32(255) * kept)


DRAWN: dict[str, tuple[Callable[[Bytes, np.random.Generator], Bytes], float]] = {  # each with its share
    "blob": (blob, 0.36),
    "strands": (strands, 0.1),
    "fur": (fur, 0.16),
    "veil": (veil, 0.2),
    "glass": (glass, 0.2),
    "sheet": (sheet, 0.1),
    "wires": (wires, 0.08),
    "mesh": (mesh, 0.06),
    "grass": (grass, 0.06),
    "foliage": (foliage, 0.35),
}


def draw(texture: Bytes, rng: np.random.Generator) -> Bytes:
    """One of DRAWN, by its share.

    Args:
        texture: (S, S, 3) of a photograph; what is drawn has its size.
    """
    shares = np.array([share for _, share in DRAWN.values()])
    name = rng.choice(list(DRAWN), p=shares / shares.sum())
    return DRAWN[str(name)][0](texture, rng)
