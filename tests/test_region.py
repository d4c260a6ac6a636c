# SPDX-License-Identifier: GPL-3.0-or-later
"""Which part of a frame the network looks at."""

import cv2
import numpy as np
import pytest
import torch

from core.checkpoints import load_model
from core.matting import LOOKS, LOOKS_ANEW, Matter, coarse_ratio
from core.region import GRID, Box, ReducedPlate, bounds, choose_box, is_cut, moved

HEIGHT, WIDTH = 360, 640
FRAME = Box(0, HEIGHT, 0, WIDTH)


@pytest.fixture(scope="module")
def plate():
    """A wall with texture from a few pixels on."""
    random = np.random.default_rng(3)
    coarse, fine = (cv2.resize(random.random((n, 2 * n, 3)), (WIDTH, HEIGHT)) for n in (9, 60))
    return (60 + 90 * coarse + 30 * fine).astype(np.uint8)


def shot(plate, *boxes, colour=(200, 60, 40)):
    """The plate with opaque, speckled things before it, and a camera's noise."""
    src = plate.copy()
    for box in boxes:
        speckle = np.random.default_rng(5).integers(-40, 40, (*box.size, 1))
        src[box.top : box.bottom, box.left : box.right] = speckle + colour
    noise = np.random.default_rng(4).normal(0, 3, src.shape)
    return np.clip(src + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_what_differs_is_found_and_noise_is_not(plate, dtype):
    scale = {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[dtype]
    thing = Box(100, 200, 300, 360)

    def as_type(picture):
        return (picture * np.float64(scale)).astype(dtype)

    seen = ReducedPlate(as_type(plate), 1.0)
    assert seen.differing(as_type(shot(plate))) is None
    found = seen.differing(as_type(shot(plate, thing)))
    assert found.contains(thing) and found.area < 1.1 * thing.area
    half = ReducedPlate(as_type(plate), 0.5).differing(as_type(shot(plate, thing)))
    assert half.contains(thing) and half.area < 1.3 * thing.area


def test_a_wire_is_found_and_a_plate_that_is_off_by_less_than_a_pixel_is_not(plate):
    wire = Box(20, 340, 500, 502)
    assert ReducedPlate(plate, 0.5).differing(shot(plate, wire)).contains(Box(24, 336, 500, 502))
    off = cv2.warpAffine(plate, np.float32([[1, 0, 0.7], [0, 1, 0.5]]), (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
    assert ReducedPlate(off, 1.0).differing(shot(plate)) is None


def test_a_frame_in_another_box_than_the_one_before_is_looked_at_twice(plate, monkeypatch):
    matter, counted = Matter(load_model()), []
    look = matter.model.look
    monkeypatch.setattr(matter.model, "look", lambda *given: counted.append(given[-1]) or look(*given))
    for box in (Box(100, 200, 100, 160), Box(100, 200, 104, 164), Box(100, 200, 420, 480)):
        matter.matte(shot(plate, box), plate)
    assert counted == [LOOKS, 1, LOOKS_ANEW]


@pytest.mark.parametrize("period", [4, 6, 10])
def test_what_has_the_mean_colour_of_a_striped_plate_is_found(period):
    stripes = np.where(np.arange(WIDTH) % period < period // 2, 50, 200).astype(np.uint8)
    blinds = np.repeat(np.tile(stripes, (HEIGHT, 1))[..., None], 3, axis=2)
    thing = Box(100, 220, 280, 400)
    src = blinds.copy()
    src[thing.top : thing.bottom, thing.left : thing.right] = 125
    assert ReducedPlate(blinds, 1.0).differing(src).contains(Box(104, 216, 284, 396))
    assert Matter(load_model()).matte(src, blinds).pha[120:200, 300:380].mean() > 0.5


def test_what_is_beside_the_plate_is_not_judged(plate):
    valid = np.ones((HEIGHT, WIDTH), bool)
    valid[:, 600:] = False
    src = shot(plate, Box(0, HEIGHT, 600, WIDTH), Box(100, 200, 100, 200))
    assert ReducedPlate(plate, 1.0).differing(src, valid).right <= 202


def test_a_box_is_kept_while_it_has_room_and_is_not_far_too_large():
    thing = Box(100, 200, 300, 360)
    first = choose_box(thing, None, HEIGHT, WIDTH)
    assert first.contains(Box(80, 220, 280, 380)) and FRAME.contains(first)
    assert choose_box(Box(104, 204, 306, 366), first, HEIGHT, WIDTH) == first
    assert choose_box(Box(100, 200, 330, 390), first, HEIGHT, WIDTH) == choose_box(
        Box(100, 200, 330, 390), None, HEIGHT, WIDTH
    )
    assert choose_box(thing, FRAME, HEIGHT, WIDTH) == first
    assert choose_box(Box(0, 90, 600, 640), None, HEIGHT, WIDTH).right == WIDTH


def test_bounds_of_a_smaller_mask_cover_the_frames_pixels():
    mask = np.zeros((36, 64), np.uint8)
    assert bounds(mask, FRAME) is None
    mask[3:5, 10] = 1
    assert bounds(mask, FRAME) == Box(30, 50, 100, 110)
    assert bounds(mask, Box(8, 44, 16, 80)) == Box(11, 13, 26, 27)


def test_a_subject_at_the_frames_edge_is_not_cut():
    pha = torch.zeros(1, 1, 100, 60)
    pha[..., :50, 20:40] = 1
    assert not is_cut(pha, Box(0, 100, 8, 68), FRAME)
    assert is_cut(pha, Box(8, 108, 8, 68), FRAME)


def test_memory_moves_with_the_box():
    """Smooth memory of one box, seen from another at another scale, is what that one would have had."""

    def look(box, step):
        y, x = np.mgrid[box.top + step / 2 : box.bottom : step, box.left + step / 2 : box.right : step]
        return torch.from_numpy(np.sin(y / 40) + np.cos(x / 50)).float()[None, None]

    before, now = Box(40, 240, 80, 400), Box(80, 200, 120, 360)
    expected = look(now, 5)
    found = moved(look(before, 8).to(torch.bfloat16), before, now, expected.shape[-2:])
    assert found.dtype == torch.bfloat16 and (found.float() - expected).abs().max() < 0.05
    beyond = moved(torch.ones(1, 1, 25, 40), before, Box(40, 240, 400, 480), (25, 10))
    assert beyond[..., 1:].abs().max() == 0


# through the network -------------------------------------------------------------------------------------------------


def test_a_frame_that_is_its_plate_has_no_matte_and_costs_no_network(plate):
    matter = Matter(load_model())
    matter.model.look = None
    src = shot(plate)
    matte = matter.matte(src, plate)
    assert matte.pha.max() == matte.err.max() == 0 and np.abs(matte.fgr - src / 255).max() < 1e-6


def test_a_box_is_seen_as_if_it_were_the_frame(plate):
    thing = Box(100, 220, 280, 400)
    src = shot(plate, thing)
    matter = Matter(load_model(), precision="fp32")
    whole = matter.matte(src, plate)
    box = matter._box
    assert box.area < 0.4 * FRAME.area
    assert np.abs(whole.pha[thing.top : thing.bottom, thing.left : thing.right] - 1).mean() < 0.02
    outside = np.ones((HEIGHT, WIDTH), bool)
    outside[box.top : box.bottom, box.left : box.right] = False
    assert whole.pha[outside].max() == 0
    assert np.abs(whole.fgr - src / 255)[outside].max() < 1e-6


def test_a_subject_that_reaches_beyond_the_box_is_seen_whole(plate, monkeypatch):
    """The search for differences sees half of it here, then nothing."""
    thing = Box(100, 220, 200, 440)
    valid = np.ones((HEIGHT, WIDTH), bool)
    src = shot(plate, thing)
    expected = Matter(load_model()).matte(src, plate).pha
    monkeypatch.setattr(ReducedPlate, "differing", lambda self, src, valid: Box(100, 220, 200, 300))
    matter = Matter(load_model())
    pha = matter.matte(src, plate, valid).pha
    assert matter._box == FRAME
    assert np.abs(pha - expected).mean() < 0.005
    monkeypatch.setattr(ReducedPlate, "differing", lambda self, src, valid: None)
    assert matter.matte(src, plate, valid).pha[150, 400] > 0.9


def test_a_box_that_grows_a_little_is_looked_at_as_closely_as_before():
    """Elsewhere the reduced pixels would lie anew, and what stands still in the box would flicker."""
    matter = Matter(load_model())
    box = Box(240, 720, 480, 960)
    first = matter._ratio = matter._choose_ratio(box, 1080, 1920)
    assert (first * GRID) % 1 == 0 and first > 2 * coarse_ratio(1080, 1920)
    assert matter._choose_ratio(Box(240, 744, 456, 960), 1080, 1920) == first
    assert matter._choose_ratio(Box(0, 1080, 0, 1440), 1080, 1920) < first
    matter.detail = 0.01
    assert matter._choose_ratio(Box(0, 48, 0, 96), 1080, 1920) * 48 >= 16


def test_a_moving_box_takes_its_memory_along_and_stored_memory_its_box(plate):
    boxes = [Box(100, 220, left, left + 100) for left in range(40, 480, 40)]
    frames = [shot(plate, box) for box in boxes]
    matter = Matter(load_model())
    seen = []
    for index, src in enumerate(frames):
        if index == 6:
            stored = matter.memory()
        matte = matter.matte(src, plate)
        seen.append(matter._box)
        box = boxes[index]
        truth = np.zeros((HEIGHT, WIDTH))
        truth[box.top : box.bottom, box.left : box.right] = 1
        assert np.abs(matte.pha - truth).mean() < 0.01
    assert len(set(seen)) > 3
    assert all(edge % GRID == 0 or edge in (HEIGHT, WIDTH) for box in seen for edge in box)
    other = Matter(load_model())
    other.remember(stored)
    for src in frames[6:]:
        again = other.matte(src, plate)
    assert np.array_equal(again.pha, matte.pha) and np.array_equal(again.fgr, matte.fgr)
