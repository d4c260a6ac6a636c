# SPDX-License-Identifier: GPL-3.0-or-later
"""The plate doctor on defects that were put in by hand."""

from __future__ import annotations

import json
from dataclasses import asdict

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from core.errors import FootageError
from core.plate.doctor import Diagnosis, diagnose, find_black, find_wrong_place, is_blank, is_same_picture
from core.plate.frames import Image, Plane
from core.plate.photometric import PhotometricFit
from tests.plate_scenes import H, W, motion, relit, scene, shoot, with_subject

Picture = NDArray[np.uint8]
BLUE = np.array([30, 60, 230], np.uint8)


def with_actor(frame: Picture, x: int) -> Picture:
    """A blue actor, 70 pixels wide, at `x`."""
    frame = frame.copy()
    frame[90:, x : x + 70] = BLUE
    return frame


def find_actor(src: Image, bgr: Image | None) -> Plane:
    """A network that knows blue actors."""
    return np.asarray((np.abs(src - BLUE / np.float32(255)).max(axis=2) < 0.1), np.float32)


def takes(world: NDArray[np.float32], count: int = 3, light: PhotometricFit | None = None) -> list[tuple[int, Picture]]:
    frames = [shoot(world, motion(), 10 + i) for i in range(count)]
    frames = [frame if light is None else relit(frame, light) for frame in frames]
    return [(100 + i, with_actor(frame, 60 + 130 * i)) for i, frame in enumerate(frames)]


def kinds(diagnosis: Diagnosis) -> set[str]:
    return {finding.kind for finding in diagnosis.findings}


@pytest.fixture(scope="module")
def world() -> NDArray[np.float32]:
    return scene()


def test_good_plate_is_green(world: NDArray[np.float32]) -> None:
    for matte in (None, find_actor):
        diagnosis = diagnose(takes(world), shoot(world, motion(), 0), matte=matte)
        assert (diagnosis.light, diagnosis.findings, diagnosis.frame_numbers) == ("green", [], [100, 101, 102])


def test_shifted_plate_names_alignment(world: NDArray[np.float32]) -> None:
    diagnosis = diagnose(takes(world), shoot(world, motion(-14, 0), 0), matte=find_actor)
    finding = next(f for f in diagnosis.findings if f.kind == "misaligned")
    assert finding.action == "align" and finding.value == pytest.approx(14, abs=0.5)
    assert diagnosis.light == "amber" and kinds(diagnosis) <= {"misaligned", "uncovered"}


LIGHTS = [
    ("exposure", PhotometricFit(gain=(1.5, 1.5, 1.5)), 0.585),
    ("exposure", PhotometricFit(gain=(0.3, 0.3, 0.3)), -1.737),
    ("white_balance", PhotometricFit(gain=(1.12, 1.0, 0.88)), 0.17),
    ("vignetting", PhotometricFit(falloff=(-0.5, 0.0)), -0.72),
]


@pytest.mark.parametrize(("kind", "light", "value"), LIGHTS)
def test_other_light_names_matching(world: NDArray[np.float32], kind: str, light: PhotometricFit, value: float) -> None:
    diagnosis = diagnose(takes(world, light=light), shoot(world, motion(), 0), matte=find_actor)
    assert kinds(diagnosis) == {kind}
    assert diagnosis.findings[0].action == "match"
    assert diagnosis.findings[0].value == pytest.approx(value, abs=0.12)


def test_what_a_brighter_plate_clips_is_neither_parallax_nor_blur(world: NDArray[np.float32]) -> None:
    """Lamps that end elsewhere in it, and a bright wall that is one white."""
    y, x = np.mgrid[: world.shape[0], : world.shape[1]] % 100 - 50
    lamps = (scene(1) + np.exp(-(x**2 + y**2) / 1250)[..., None]) / 2
    for bright, gain in ((lamps, 4.0), (np.minimum(scene(3) + 0.2, 1), 2.8)):
        plate = relit(shoot(bright.astype(np.float32), motion(), 0), PhotometricFit(gain=(gain,) * 3))
        assert (plate > 250).mean() > 0.05
        assert kinds(diagnose(takes(bright.astype(np.float32)), plate, matte=find_actor)) == {"exposure"}


def test_noisy_and_soft_plates(world: NDArray[np.float32]) -> None:
    noisy = shoot(world, motion(), 0, noise=0.04)
    assert kinds(diagnose(takes(world), noisy, matte=find_actor)) == {"noise"}
    soft = cv2.GaussianBlur(shoot(world, motion(), 0), (0, 0), 1.6)
    assert kinds(diagnose(takes(world), np.asarray(soft, np.uint8), matte=find_actor)) == {"blur"}


def test_a_shot_that_fades_in_is_not_out_of_focus(world: NDArray[np.float32]) -> None:
    dark, *lit = takes(world, 5)
    frames = [(99, np.zeros_like(dark[1])), (dark[0], dark[1] // np.uint8(5)), *lit]
    assert "blur" not in kinds(diagnose(frames, shoot(world, motion(), 0), matte=find_actor))


def test_moved_object_and_where_it_is(world: NDArray[np.float32]) -> None:
    plate = shoot(world, motion(), 0)
    plate[20:70, 380:430] = (250, 240, 60)
    (finding,) = diagnose(takes(world), plate, matte=find_actor).findings
    assert finding.kind == "moved_object" and finding.region is not None
    np.testing.assert_allclose(finding.region, (380, 20, 50, 50), atol=8)


def test_the_subject_of_a_single_frame_is_no_moved_object(world: NDArray[np.float32]) -> None:
    """The network knows people; before a plate, a still is often of something else."""
    assert "moved_object" not in kinds(diagnose(takes(world, 1), shoot(world, motion(), 0)))


def test_actor_in_the_plate(world: NDArray[np.float32]) -> None:
    plate = with_actor(shoot(world, motion(), 0), 300)
    assert kinds(diagnose(takes(world), plate, matte=find_actor)) == {"subject_in_plate"}
    plate[:, 60:] = BLUE  # smooth as he is, most of the plate is not out of focus
    diagnosis = diagnose(takes(world), plate, matte=find_actor)
    assert kinds(diagnosis) == {"subject_in_plate"} and diagnosis.light == "red"


def test_plate_that_ends_too_early(world: NDArray[np.float32]) -> None:
    known = np.ones((H, W), np.bool_)
    known[:, 400:] = False
    (finding,) = diagnose(takes(world), shoot(world, motion(), 0), matte=find_actor, known=known).findings
    assert finding.kind == "uncovered" and finding.value == pytest.approx(80 / W, abs=0.02)


def test_what_a_plate_guesses_is_nobody(world: NDArray[np.float32]) -> None:
    """Where a plate from the clip was never seen, it is continued, which may look like somebody."""
    known = np.ones((H, W), np.bool_)
    known[80:, 290:380] = False
    plate = with_actor(shoot(world, motion(), 0), 300)
    assert kinds(diagnose(takes(world), plate, matte=find_actor, known=known)) == {"uncovered"}


def test_another_place_and_another_shape(world: NDArray[np.float32]) -> None:
    (finding,) = diagnose(takes(world), shoot(scene(5), motion(), 0), matte=find_actor).findings
    assert (finding.kind, finding.severity, finding.action) == ("wrong_place", "red", "choose_plate")
    (finding,) = diagnose(takes(world), np.zeros((H, H, 3), np.uint8)).findings
    assert (finding.kind, finding.severity) == ("size", "red")
    half = cv2.resize(shoot(world, motion(), 0), (W // 2, H // 2), interpolation=cv2.INTER_AREA)
    assert "size" in kinds(diagnose(takes(world), np.asarray(half, np.uint8), matte=find_actor))


def test_frames_that_show_nothing_of_the_plate(world: NDArray[np.float32]) -> None:
    """A cut, or somebody before the lens: told, by number, and light and noise are judged by the other frames."""
    elsewhere = [(number + 3, frame // np.uint8(3)) for number, frame in takes(scene(5), 5)]
    diagnosis = diagnose(takes(world) + elsewhere, shoot(world, motion(), 0), matte=find_actor)
    (finding,) = diagnosis.findings
    assert (finding.kind, finding.severity, finding.value) == ("hidden_place", "amber", 5 / 8)
    assert "The frames 103, 104, 105, 106, 107 show nothing" in finding.message


def test_bars_are_told_once(world: NDArray[np.float32]) -> None:
    plate = shoot(world, motion(), 0)
    noise = np.random.default_rng(2).integers(0, 4, plate.shape, np.uint8)
    for where, share in ((np.s_[:30], 1 / 9), (np.s_[:, -48:], 0.1)):
        src = shoot(world, motion(), 1)
        src[where] = noise[where]
        finding = find_black(7, src, plate)
        assert finding and finding.value == pytest.approx(share, abs=0.01) and "Frame 7 is black" in finding.message
        assert find_black(7, src, np.asarray(np.where(src > 3, plate, noise), np.uint8)) is None  # the plate is, too
    coat = shoot(world, motion(), 1)
    coat[100:, 40:440] = noise[100:, 40:440]
    assert find_black(7, coat, plate) is None
    barred = takes(world)
    for _, frame in barred:
        frame[:30] = noise[:30]
    assert [finding.kind for finding in diagnose(barred, plate, matte=find_actor).findings] == ["black"]


def test_a_blank_frame_is_no_bar(world: NDArray[np.float32]) -> None:
    """The end of a fade, to black or to white, but for a lamp; not a coat, nor what its plate shows, too."""
    plate = shoot(world, motion(), 0)
    noise = np.random.default_rng(2).integers(0, 4, plate.shape, np.uint8)
    for src in (noise, 255 - noise):
        src[:20, :20] = 128
        assert is_blank(src, plate) and not is_blank(src, src) and find_black(7, src, plate) is None
        coat = shoot(world, motion(), 1)
        coat[100:, 40:440] = src[100:, 40:440]
        assert not is_blank(coat, plate)
    assert "black" not in kinds(diagnose([(7, noise), *takes(world)], plate, matte=find_actor))


def test_a_frame_is_its_plate_only_where_it_is_the_same_take(world: NDArray[np.float32]) -> None:
    frame, plate, clean = (shoot(world, motion(), i, noise) for i, noise in ((1, 0.003), (2, 0.003), (3, 0.0)))
    assert is_same_picture(frame, frame) and is_same_picture(frame, frame.astype(np.uint16) * np.uint16(257))
    far = clean.copy()
    far[200:, :9] = np.clip(clean[200:, :9] * 1.2, 0, 255)  # someone small, before a rendered plate
    assert not is_same_picture(frame, plate) and not is_same_picture(far, clean)


@pytest.mark.parametrize("share", [0, 0.3, 0.8])  # of the picture that is somebody
@pytest.mark.parametrize("dark", [1, 4])
def test_the_right_place(world: NDArray[np.float32], share: float, dark: int) -> None:
    src, subject = with_subject(shoot(world, motion(3, 0)), share)
    bgr = shoot(world, motion(), 5) // np.uint8(dark)
    assert find_wrong_place(src, bgr, None, lambda src, bgr: knows(subject, src)) is None


def test_the_right_place_beside_somebody_large_whom_the_network_misses(world: NDArray[np.float32]) -> None:
    src, _ = with_subject(shoot(world, motion(3, 0)), 0.85)
    assert find_wrong_place(src, shoot(world, motion(), 5), None, None) is None
    assert find_wrong_place(src, shoot(scene(5), motion(), 5), None, None)


def knows(subject: NDArray[np.bool_], src: Image) -> Plane:
    return np.asarray(cv2.resize(subject.astype(np.float32), src.shape[1::-1]), np.float32)


def test_a_blank_wall_may_be_the_same_place() -> None:
    """Its noise is never that of its plate."""
    frame, bgr = (np.random.default_rng(i).normal(150, 4, (H, W, 3)).astype(np.uint8) for i in range(2))
    assert find_wrong_place(frame, bgr, None, None) is None
    assert "wrong_place" not in kinds(diagnose([(1, frame)], bgr, matte=find_actor))


@pytest.mark.parametrize("level", [0, 252])
def test_a_plate_that_shows_nothing_is_of_no_place(level: int) -> None:
    """As the black before a movie's first picture; but a drape may be as black, behind somebody and things."""
    world = scene()
    bgr = np.random.default_rng(2).integers(level, level + 4, (H, W, 3), np.uint8)
    (finding,) = diagnose(takes(world), bgr, matte=find_actor).findings
    assert finding.kind == "wrong_place" and find_wrong_place(takes(world)[0][1], bgr, None, find_actor)
    drape = bgr.copy()
    drape[:, : W // 5] = shoot(world, motion(), 1)[:, : W // 5]
    drape[:, W * 3 // 5 :] = BLUE
    assert find_wrong_place(drape, bgr, None, find_actor) is None


def test_it_travels_as_json(world: NDArray[np.float32]) -> None:
    diagnosis = diagnose(takes(world), shoot(world, motion(-14, 0), 0), matte=find_actor)
    assert json.loads(json.dumps(asdict(diagnosis)))["findings"][0]["kind"] == "misaligned"


def test_no_frames_are_refused() -> None:
    with pytest.raises(FootageError, match="at least one frame"):
        diagnose([], np.zeros((H, W, 3), np.uint8))
