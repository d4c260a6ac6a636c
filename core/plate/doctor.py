# SPDX-License-Identifier: GPL-3.0-or-later
"""The plate doctor: what is wrong with a plate, what that will do to the matte, and which button helps. No bpy.

It looks at a handful of frames at a reduced size, so that it answers in seconds, before a run of hours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from core.errors import FootageError
from core.plate.alignment import AlignedPlate, PlateAligner, even_out, lay_plate, small_grey
from core.plate.frames import Image, Mask, Matrix, Matte, Plane, as_srgb
from core.plate.photometric import PhotometricFit, match_plate, noise

Severity = Literal["amber", "red"]
Light = Literal["green", "amber", "red"]
Region = tuple[int, int, int, int]  # x, y, width, height in the footage's pixels, from the top left

LOOK_WIDTH = 960  # pixels of the longer side that the doctor looks at
SUBJECT = 0.1  # alpha from which a pixel may be the subject

# Below these a plate is good: the matte does not change by what an eye would see.
UNLIKE = 0.3  # correlation of local structure below which two pictures show different places
CERTAIN = 0.6  # correlation from which on one frame is enough to know the place
PART, SURELY = 0.025, 0.8  # share of the blocks, and their correlation, that no picture of another place has
PLAIN = 3.0  # deviation within a block, in codes of 255, up to which it may be noise
TELLING = 0.03  # share of the blocks that must show something in both pictures, else they may be of one place
SHIFT = 1.5  # pixels of the look
PARALLAX = 0.6  # pixels of the look
STOPS = 0.08
CAST_STOPS = 0.045
CORNER_STOPS = 0.15
DRIFT_STOPS = 0.06
NOISE_RATIO, NOISE_LEAST = 1.8, 0.012  # plate over frame; and sRGB-encoded units
NOISE_MOST = 0.035
BLUR_RATIO = 1.6  # of fine detail's energy
UNCOVERED = 0.015  # share of the frame
MOVED_DIFFERENCE = 0.07  # sRGB-encoded units
CLIPPED = 0.97  # sRGB-encoded value from which a picture no longer tells how bright a thing was
BLACK, LIT = 0.03, 0.1  # sRGB-encoded values up to which a pixel is black, and from which on it is not
BARS = 0.02  # share of the frame that is black in whole rows or columns and lit in the plate
ALL = 0.98  # share of a row, a column or a picture that is all of it, but for what glows in it
SOMEONE = 0.004  # share of a picture from which on a subject is found in it
SAME, OTHER = 2 / 255, 0.001  # difference in sRGB-encoded units that another take exceeds in a larger share of values
MOVED_LEAST = 0.0006  # share of the frame that one object must take
MOVED_MOST = 6  # findings of this kind


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: "misaligned", "parallax", "exposure", "exposure_drift", "white_balance", "vignetting", "noise", "blur",
            "moved_object", "uncovered", "wrong_place", "hidden_place", "black", "subject_in_plate", "size".
        severity: "amber" costs quality, "red" spoils the matte.
        message: what it is and what will happen, in a sentence or two.
        remedy: what to do.
        action: the button that does it: "align", "match", "plate_from_clip", "choose_plate", "garbage_mask".
        region: where, if it is somewhere.
        value: the measure behind it, in the message's unit.
    """

    kind: str
    severity: Severity
    message: str
    remedy: str
    action: str
    region: Region | None
    value: float


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor says; `dataclasses.asdict` gives plain JSON.

    Attributes:
        light: the worst finding's severity, "green" without findings.
        findings: the worst first.
        frame_numbers: the frames that were looked at.
    """

    light: Light
    findings: list[Finding]
    frame_numbers: list[int]


@dataclass(frozen=True)
class _Look:
    """One frame beside the plate that was laid under it, at the doctor's size."""

    src: Image  # (h, w, 3) float32, sRGB-encoded
    bgr: Image  # the plate under it, matched
    background: Mask  # no subject, no bars, and a plate
    aligned: AlignedPlate
    fit: PhotometricFit
    likeness: float  # correlation of local structure, -1 to 1

    @property
    def exposed(self) -> Mask:
        """The background but for what is clipped in one of the two: that ends elsewhere in the other exposure."""
        clipped = (np.maximum(self.src, self.aligned.bgr).max(axis=2) > CLIPPED).astype(np.uint8)
        return np.asarray(self.background & (cv2.dilate(clipped, np.ones((21, 21), np.uint8)) == 0))


def diagnose(
    frames: Sequence[tuple[int, Image]],
    plate: Image | Sequence[Image],
    *,
    matte: Matte | None = None,
    known: Mask | None = None,
    starts: Sequence[Matrix] | None = None,
) -> Diagnosis:
    """Examine a plate against some frames of the shot, about six, spread over it.

    Args:
        frames: frame number and (H, W, 3) sRGB-encoded picture of each.
        plate: (Hp, Wp, 3), or one for each frame, of a second take with the same camera move.
        matte: a network that finds subjects without a plate; without it a subject that never moves is taken for an
            object that was moved.
        known: (Hp, Wp), False where the plate's pixels are guessed.
        starts: for each frame, frame pixel -> plate pixel, where the plate is larger than a frame (made from a pan).

    Raises:
        FootageError: no frames.
    """
    if not frames:
        raise FootageError("at least one frame to look at", "none", "Check the footage's frame range")
    numbers = [number for number, _ in frames]
    plates = [plate] if isinstance(plate, np.ndarray) else list(plate)
    H, W = frames[0][1].shape[:2]
    look_size = _look_size(W, H)
    scale = W / look_size[0]
    Hp, Wp = plates[0].shape[:2]
    shape_finding = None if starts else _of_size(plates[0], (W, H))
    if shape_finding is not None and shape_finding.severity == "red":
        return _conclude([shape_finding], numbers)

    plate_size = _look_size(Wp, Hp)
    if starts:
        plate_size = round(Wp / scale), round(Hp / scale)
    small_plates = [_reduce(each, plate_size) for each in plates]
    if isinstance(plate, np.ndarray):
        plates, small_plates = plates * len(frames), small_plates * len(frames)
    to_small = np.diag([plate_size[0] / Wp, plate_size[1] / Hp, 1.0])
    to_full = np.diag([W / look_size[0], H / look_size[1], 1.0])
    small_starts = [to_small @ start @ to_full for start in starts] if starts else [None] * len(frames)
    small_known = None
    if known is not None and not known.all():
        small_known = cv2.resize(known.astype(np.float32), plate_size, interpolation=cv2.INTER_AREA) > 0.99
    looks = [
        _look(_reduce(src, look_size), small_plate, small_known, start, matte)
        for (_, src), small_plate, start in zip(frames, small_plates, small_starts, strict=True)
    ]
    likenesses = [look.likeness for look in looks]
    if float(np.median(likenesses)) < UNLIKE and max(likenesses) < CERTAIN:
        return _conclude([_of_wrong_place(looks)], numbers)

    findings = [shape_finding] if shape_finding is not None else []
    hidden = [number for number, look in zip(numbers, looks, strict=True) if look.likeness < UNLIKE]
    if hidden:  # the others tell of light, noise and what was moved
        findings.append(_of_hidden_place(hidden, len(hidden) / len(numbers)))
        frames = [frame for frame in frames if frame[0] not in hidden]
        plates, small_plates = (
            [each for each, look in zip(of_all, looks, strict=True) if look.likeness >= UNLIKE]
            for of_all in (plates, small_plates)
        )
        looks = [look for look in looks if look.likeness >= UNLIKE]
    findings += _of_position(looks, scale, follows=starts is not None)
    findings += _of_light(looks)
    middle = len(looks) // 2  # the first frame may be black
    findings += _of_noise([src for _, src in frames], plates[middle], looks)
    findings += _of_blur(frames[middle][1], plates[middle], looks[middle])
    findings += _of_coverage(looks, scale)
    black = (
        find_black(number, look.src, look.bgr, look.aligned.valid)
        for (number, _), look in zip(frames, looks, strict=True)
    )
    findings += next(([finding] for finding in black if finding), [])
    comparison = _compare_over_time(looks)
    in_plate = _of_subject_in_plate(small_plates[middle], small_known, matte, comparison, scale)
    findings += in_plate
    # One frame does not tell what was moved from the subject, and before a camera that moves it stays nowhere
    if not in_plate and len(looks) > 1 and isinstance(plate, np.ndarray):
        findings += _of_moved_objects(comparison, scale)
    return _conclude(findings, numbers)


def find_wrong_place(src: Image, bgr: Image, known: Mask | None, matte: Matte | None) -> Finding | None:
    """Whether one frame shows another place than the plate that was laid under it.

    Args:
        src: (H, W, 3), sRGB-encoded.
        bgr: the same of the plate.
        known: (H, W), where the plate has pixels; None: everywhere.
        matte: as for `diagnose`; called only where a look of some ms without it leaves doubts.
    """
    size = _look_size(src.shape[1], src.shape[0])
    src, bgr = (cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in (src, bgr))
    where = np.ones(size[::-1], np.bool_)
    if known is not None:
        where = cv2.resize(known.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    if likeness(src, bgr, where) >= UNLIKE:
        return None
    look = _look(as_srgb(src), as_srgb(bgr), where, None, matte)
    return _of_wrong_place([look]) if look.likeness < UNLIKE else None


def find_hidden_place(number: int, src: Image, bgr: Image, known: Mask) -> Finding | None:
    """Whether a later frame shows nothing of its plate any more; `known` is where there is a plate and no subject.

    The rest as for `find_wrong_place`.
    """
    return _of_hidden_place([number], 1.0) if find_wrong_place(src, bgr, known, None) else None


def find_black(number: int, src: Image, bgr: Image, known: Mask | None = None) -> Finding | None:
    """Whether a frame has bars: is black where its plate is not, over whole rows or columns, but not all over.

    Arguments as for `find_wrong_place`. It takes a millisecond.
    """
    share = float(_bars(src, bgr, known).mean())
    if share < BARS or is_blank(src, bgr):
        return None
    return Finding(
        "black",
        "amber",
        f"Frame {number} is black where the plate is not, on {100 * share:.0f} % of the picture: bars. They would be "
        "taken for the subject.",
        "Crop them away or cover them with a garbage mask",
        "garbage_mask",
        None,
        round(share, 3),
    )


def is_blank(src: Image, bgr: Image) -> bool:
    """Whether a frame is black or white all over and its plate is not: the end of a fade, which shows no subject.

    It takes a millisecond.
    """
    blank = _blank(_thinned(src))
    return bool(blank.mean() > ALL and (blank & _lit(_thinned(bgr))).mean() >= BARS)


def _bars(src: Image, bgr: Image, known: Mask | None) -> Mask:
    """Where whole rows or columns of a frame are black and its plate is lit; reduced."""
    black, lit = _within(_thinned(src), 0, BLACK), ~_within(_thinned(bgr), 0, LIT)
    if known is not None:
        lit &= _thinned(known)
    bars = (black.mean(axis=1, keepdims=True) > ALL) | (black.mean(axis=0, keepdims=True) > ALL)
    return np.asarray(bars & lit)


def _blank(image: Image) -> Mask:
    """Where it is black or white."""
    return _within(image, 0, BLACK) | _within(image, 1 - BLACK, 1)


def _lit(image: Image) -> Mask:
    """Where it is neither, nor nearly."""
    return ~_within(image, 0, LIT) & ~_within(image, 1 - LIT, 1)


def _within(image: Image, least: float, most: float) -> Mask:
    """Where all channels are."""
    return np.asarray(cv2.inRange(image, (least,) * 3, (most,) * 3) > 0)


def _thinned(image: Image) -> Image:
    """Every n-th pixel, so that about 128 rows or columns are left; colours as sRGB from 0 to 1."""
    step = max(1, min(image.shape[:2]) // 128)
    thinned = image[::step, ::step]
    return thinned if image.ndim == 2 else as_srgb(thinned)


def is_same_picture(src: Image, bgr: Image) -> bool:
    """Whether a frame is its plate, noise and all; not another take of it. It takes a millisecond."""
    a, b = _thinned(src), _thinned(bgr)
    return bool(np.count_nonzero(np.abs(a - b) > SAME) < OTHER * a.size)


def find_subject_of_shot(number: int, src: Image, matte: Matte) -> Finding | None:
    """Whether someone is in a frame that is the plate as well."""
    size = _look_size(src.shape[1], src.shape[0])
    share = float(_someone(_reduce(src, size), size, matte).mean())
    if share < SOMEONE:
        return None
    return Finding(
        "subject_in_plate",
        "red",
        f"The plate is frame {number} of the shot, and someone seems to be in it ({100 * share:.0f} % of it). There "
        "the shot would be cut away or the background kept.",
        "Choose an empty frame, or make a plate from the clip; a statue may stay",
        "plate_from_clip",
        None,
        round(share, 4),
    )


def _conclude(findings: list[Finding], numbers: list[int]) -> Diagnosis:
    findings = sorted(findings, key=lambda finding: finding.severity != "red")
    light: Light = findings[0].severity if findings else "green"
    return Diagnosis(light, findings, numbers)


def _look(src: Image, plate: Image, known: Mask | None, start: Matrix | None, matte: Matte | None) -> _Look:
    h, w = src.shape[:2]
    pha = np.zeros((h, w), np.float32) if matte is None else _matte_at(matte, src)
    aligned = PlateAligner(plate, known=known, start=start).align(src, pha if matte is not None else None)
    bars = cv2.resize(_bars(src, aligned.bgr, None).view(np.uint8), (w, h), interpolation=cv2.INTER_NEAREST)
    hidden = cv2.dilate(np.maximum(bars, pha > SUBJECT), np.ones((9, 9), np.uint8)) > 0
    background = aligned.valid & ~hidden
    fit = match_plate(aligned.bgr, src, background)
    bgr = fit.apply(aligned.bgr)
    return _Look(src, bgr, background, aligned, fit, likeness(src, bgr, background))


def _matte_at(matte: Matte, src: Image) -> Plane:
    """The subject at half the doctor's size, which is enough to leave it out."""
    h, w = src.shape[:2]
    half = cv2.resize(src, (max(64, w // 2 // 4 * 4), max(64, h // 2 // 4 * 4)), interpolation=cv2.INTER_AREA)
    return cv2.resize(np.asarray(matte(half, None), np.float32), (w, h), interpolation=cv2.INTER_LINEAR)


def likeness(src: Image, bgr: Image, background: Mask) -> float:
    """Correlation of local structure over the background, its most different half left out: what stands in front of
    the plate unmasked is no evidence of another place, and at least UNLIKE where a part surely shows this one. 1 where
    too little is to be seen, 0 where that is the plate's fault, which is black or white all over."""
    if _shows_nothing(src, bgr, background):
        return 0.0
    size = (max(1, src.shape[1] // 2), max(1, src.shape[0] // 2))
    weight = (cv2.resize(background.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.9).astype(np.uint8)
    greys = np.dstack([small_grey(image, size) for image in (src, bgr)])
    a, b = (even_out(greys[..., i], weight) - 128 for i in (0, 1))
    block = (max(1, size[0] // 24), max(1, size[1] // 24))
    mean, square = (cv2.resize(values, block, interpolation=cv2.INTER_AREA) for values in (greys, greys**2))
    shows = (square - mean**2 > PLAIN**2).all(axis=2)
    products = [cv2.resize(x * weight, block, interpolation=cv2.INTER_AREA) for x in (a * b, a * a, b * b)]
    structure = np.sqrt(products[1] * products[2])
    correlation = products[0] / (structure + 1e-3)
    telling = shows & (structure > 0.3 * np.quantile(structure, 0.9))
    if np.count_nonzero(telling) < TELLING * telling.size:
        return 1.0
    kept = np.sort(correlation[telling])
    value = float(np.median(kept[len(kept) // 2 :]))
    return max(value, UNLIKE) if np.count_nonzero(kept > SURELY) >= PART * telling.size else value


def _shows_nothing(src: Image, bgr: Image, background: Mask) -> bool:
    """Whether a plate is black or white all over and most of the background is not."""
    where = _thinned(background)
    return bool(where.any() and _blank(_thinned(bgr))[where].mean() > ALL and _lit(_thinned(src))[where].mean() > 0.5)


def _of_wrong_place(looks: list[_Look]) -> Finding:
    value = float(np.median([look.likeness for look in looks]))
    return Finding(
        "wrong_place",
        "red",
        f"The plate does not seem to show this place: only {max(0, round(100 * value))} % of its structure is found "
        "in the frames. The matte would take most of the picture for the subject.",
        "Choose the plate that was shot for this take, or make one from the clip",
        "choose_plate",
        None,
        round(value, 3),
    )


def _of_hidden_place(numbers: list[int], share: float) -> Finding:
    """Of frames, this share of those looked at."""
    which = f"Frame {numbers[0]} shows" if len(numbers) == 1 else f"The frames {', '.join(map(str, numbers))} show"
    return Finding(
        "hidden_place",
        "amber",
        f"{which} nothing of the plate: the footage is cut there, or something fills the picture. Another place would "
        "be taken for the subject.",
        "If it is cut, give each shot a job of its own, with its frames and its plate",
        "",
        None,
        round(share, 3),
    )


def _of_size(plate: Image, size: tuple[int, int]) -> Finding | None:
    """Wrong proportions, or fewer pixels than the footage has."""
    W, H = size
    Hp, Wp = plate.shape[:2]
    if abs((Wp / Hp) / (W / H) - 1) > 0.01:
        return Finding(
            "size",
            "red",
            f"The plate is {Wp} x {Hp}, the footage {W} x {H}: their proportions differ, and nothing would line up.",
            "Crop the plate to the footage's frame, or choose the right plate",
            "choose_plate",
            None,
            round((Wp / Hp) / (W / H), 4),
        )
    if Wp < 0.9 * W:
        return Finding(
            "size",
            "amber",
            f"The plate is {Wp} x {Hp}, the footage {W} x {H}: fine detail of the background may shine into the matte.",
            "Use the plate at the camera's full resolution, or make one from the clip",
            "plate_from_clip",
            None,
            round(Wp / W, 3),
        )
    return None


def _of_position(looks: list[_Look], scale: float, follows: bool) -> list[Finding]:
    """`follows`: the plate is known to lie elsewhere under each frame, which is no finding."""
    findings = []
    h, w = looks[0].src.shape[:2]
    grid = np.stack(np.meshgrid(np.linspace(0, w - 1, 9), np.linspace(0, h - 1, 9)), -1).reshape(-1, 1, 2)
    shifts = []
    for look in looks:
        # where the plate lies if left alone: it fills the frame
        plate_w, plate_h = look.aligned.plate_size
        alone = (grid + 0.5) * (plate_w / w, plate_h / h) - 0.5
        moved = cv2.perspectiveTransform(grid, look.aligned.homography) - alone
        shifts.append(float(np.linalg.norm(moved, axis=2).mean()) * w / plate_w)
    worst = int(np.argmax(shifts))
    if shifts[worst] > SHIFT and not follows:
        matrix = looks[worst].aligned.homography
        degrees = math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))
        zoom = math.sqrt(abs(np.linalg.det(matrix[:2, :2]))) * w / looks[worst].aligned.plate_size[0]
        detail = f"turned by {abs(degrees):.1f} degrees, scaled by {abs(zoom - 1) * 100:.1f} %"
        moving = max(shifts) - min(shifts) > SHIFT
        what = "The camera moves against the plate, by up to" if moving else "The plate is off by"
        findings.append(
            Finding(
                "misaligned",
                "amber",
                f"{what} {shifts[worst] * scale:.0f} pixels ({detail}). Left alone, edges of the background would "
                "show in the matte.",
                "Turn alignment on: it follows the plate frame by frame",
                "align",
                None,
                round(shifts[worst] * scale, 2),
            )
        )
    flows = [look for look in looks if look.aligned.flow is not None]
    if flows:
        strengths = [_flow_strength(look) for look in flows]
        value = max(float(np.quantile(s, 0.95)) for s in strengths)
        if value > PARALLAX:
            strongest = max(strengths, key=lambda s: float(np.quantile(s, 0.95)))
            strongest = cv2.resize(strongest, (w, h), interpolation=cv2.INTER_LINEAR)
            findings.append(
                Finding(
                    "parallax",
                    "amber",
                    f"Near and far parts of the background shift against each other by up to {value * scale:.1f} "
                    "pixels: the plate was shot from a slightly different place, or the lens breathes. Alignment "
                    "follows a few pixels of that; what is left shows at edges.",
                    "Turn alignment on, or make a plate from the clip itself",
                    "align",
                    _bounds(strongest > 0.5 * value, scale),
                    round(value * scale, 2),
                )
            )
    return findings


def _flow_strength(look: _Look) -> Plane:
    """Length of the local flow where the background is seen, pixels of the look."""
    flow = look.aligned.flow
    assert flow is not None
    seen = cv2.resize(look.exposed.astype(np.float32), flow.shape[1::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(np.linalg.norm(flow, axis=2) * seen, np.float32)


def _of_light(looks: list[_Look]) -> list[Finding]:
    findings = []
    stops = [look.fit.stops for look in looks]
    middle = float(np.median(stops))
    if abs(middle) > STOPS:
        severity: Severity = "red" if abs(middle) > 1.5 else "amber"
        findings.append(
            Finding(
                "exposure",
                severity,
                f"The plate is {abs(middle):.2f} stops too {'dark' if middle > 0 else 'bright'}. Left alone, the whole "
                "background looks changed, and a veil of it stays in the matte.",
                "Turn matching on: it brings the plate to each frame's light",
                "match",
                None,
                round(middle, 3),
            )
        )
    drift = max(stops) - min(stops)
    if drift > DRIFT_STOPS:
        findings.append(
            Finding(
                "exposure_drift",
                "amber",
                f"The shot's exposure changes by {drift:.2f} stops; the plate's does not. Left alone, the matte "
                "would pulse with it.",
                "Turn matching on: it follows the light frame by frame",
                "match",
                None,
                round(drift, 3),
            )
        )
    gains = np.median([np.log2(look.fit.gain) for look in looks], axis=0)
    cast = gains - gains.mean()
    if np.abs(cast).max() > CAST_STOPS:
        warmth = "warmer" if cast[0] > cast[2] else "cooler"
        findings.append(
            Finding(
                "white_balance",
                "amber",
                f"The frames are {warmth} than the plate, by {np.abs(cast).max():.2f} stops in one channel. Left "
                "alone, grey and white surfaces turn half transparent.",
                "Turn matching on: it brings the plate to each frame's white balance",
                "match",
                None,
                round(float(np.abs(cast).max()), 3),
            )
        )
    corner = float(np.median([look.fit.corner_stops for look in looks]))
    if abs(corner) > CORNER_STOPS:
        findings.append(
            Finding(
                "vignetting",
                "amber",
                f"Towards the corners the plate is {abs(corner):.2f} stops too {'dark' if corner > 0 else 'bright'}: "
                "another aperture or lens. Left alone, the corners turn grey in the matte.",
                "Turn matching on: it fits the falloff",
                "match",
                None,
                round(corner, 3),
            )
        )
    return findings


def _of_noise(frames: list[Image], plate: Image, looks: list[_Look]) -> list[Finding]:
    frame_sigma = float(np.median([noise(src, look.background) for src, look in zip(frames, looks, strict=True)]))
    plate_sigma = noise(plate)
    if plate_sigma > NOISE_RATIO * frame_sigma and plate_sigma > NOISE_LEAST:
        return [
            Finding(
                "noise",
                "amber",
                f"The plate is noisier than the footage ({plate_sigma * 255:.1f} against {frame_sigma * 255:.1f} of "
                "255). Its grain would show in the matte.",
                "Average several frames of the empty set into the plate, or make one from the clip",
                "plate_from_clip",
                None,
                round(plate_sigma, 4),
            )
        ]
    if frame_sigma > NOISE_MOST:
        return [
            Finding(
                "noise",
                "amber",
                f"The footage is very noisy ({frame_sigma * 255:.1f} of 255). Fine hair will be lost in it, and flat "
                "parts of the matte may crawl.",
                "Denoise footage and plate in the same way before matting",
                "",
                None,
                round(frame_sigma, 4),
            )
        ]
    return []


def _of_blur(src: Image, plate: Image, look: _Look) -> list[Finding]:
    """Compare fine detail of the plate, in the frame's light, and the frame, block by block, at full size."""
    h, w = look.src.shape[:2]
    H, W = src.shape[:2]
    plate_w, plate_h = look.aligned.plate_size
    up = np.diag([W / w, H / h, 1.0])
    up_plate = np.diag([plate.shape[1] / plate_w, plate.shape[0] / plate_h, 1.0])
    homography = up_plate @ look.aligned.homography @ np.linalg.inv(up)
    laid = look.fit.apply(lay_plate(plate, None, homography, None, (H, W))[0])
    background = cv2.resize(look.exposed.astype(np.uint8), (W, H), interpolation=cv2.INTER_NEAREST)
    energies, floors, means = [], [], []
    blocks = (max(1, W // 32), max(1, H // 32))
    for image in (src, laid):
        grey = cv2.cvtColor(as_srgb(image), cv2.COLOR_RGB2GRAY)
        energies.append(cv2.resize(_fine_detail(grey) ** 2, blocks, interpolation=cv2.INTER_AREA))
        floors.append(_NOISE_IN_DETAIL * noise(image, look.background) ** 2)
        means.append(as_srgb(cv2.resize(image, blocks, interpolation=cv2.INTER_AREA)))
    whole = cv2.resize(background.astype(np.float32), blocks, interpolation=cv2.INTER_AREA) > 0.99
    whole &= np.abs(means[0] - means[1]).max(axis=2) < MOVED_DIFFERENCE  # else they show other things
    sharper = np.maximum(*energies)
    telling = whole & (sharper > 3 * max(floors)) & (sharper > np.quantile(sharper, 0.5))
    if np.count_nonzero(telling) < 20:
        return []
    ratio = np.median(
        np.log((energies[0][telling] - floors[0]).clip(1e-9) / (energies[1][telling] - floors[1]).clip(1e-9))
    )
    value = float(np.exp(ratio))
    if 1 / BLUR_RATIO < value < BLUR_RATIO:
        return []
    return [
        Finding(
            "blur",
            "amber",
            f"The {'plate' if value > 1 else 'footage'} is softer (out of focus, or focused elsewhere): it "
            f"holds {100 * min(value, 1 / value):.0f} % of the other's fine detail. Edges of the background show in "
            "the matte.",
            "Shoot the plate with the shot's focus and aperture, or make one from the clip",
            "plate_from_clip",
            None,
            round(value, 3),
        )
    ]


def _fine_detail(grey: Plane) -> Plane:
    """What is finer than about three pixels and coarser than one."""
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), 0.7) - cv2.GaussianBlur(grey, (0, 0), 1.6))


# Energy that noise of deviation 1 in each channel leaves in `_fine_detail` of the grey picture.
_IMPULSE = np.zeros((33, 33), np.float32)
_IMPULSE[16, 16] = 1
_NOISE_IN_DETAIL = float(np.sum(_fine_detail(_IMPULSE) ** 2)) * (0.299**2 + 0.587**2 + 0.114**2)


def _of_coverage(looks: list[_Look], scale: float) -> list[Finding]:
    missing = np.any([~look.aligned.valid for look in looks], axis=0)
    missing = cv2.morphologyEx(missing.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)) > 0
    share = float(missing.mean())
    if share < UNCOVERED:
        return []
    return [
        Finding(
            "uncovered",
            "red" if share > 0.25 else "amber",
            f"{100 * share:.0f} % of the picture has no plate in some frame. There the network does without one: it "
            "finds people, but hardly the things that they hold.",
            "Shoot a wider plate, make one from the clip, or mask what is surely background",
            "plate_from_clip",
            _bounds(missing, scale),
            round(share, 4),
        )
    ]


@dataclass(frozen=True)
class _Comparison:
    """Frames and plate over time, all (h, w), laid out as the plate is."""

    often: Mask  # differs in nearly every frame in which the background is seen
    most: Mask  # differs in most frames, subject or not
    still: Mask  # looks the same in all frames


def _compare_over_time(looks: list[_Look]) -> _Comparison:
    size = (looks[0].src.shape[1], looks[0].src.shape[0])
    differs, seen, shots = [], [], []
    for look in looks:
        a, b = (cv2.GaussianBlur(image, (0, 0), 1.5) for image in (look.src, look.bgr))
        far = _least_difference(a, b, look.aligned.bgr > CLIPPED) > MOVED_DIFFERENCE + 2 * max(look.fit.sigma, 0.004)
        changed = cv2.morphologyEx(far.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
        to_size = np.diag([size[0] / look.aligned.plate_size[0], size[1] / look.aligned.plate_size[1], 1.0])
        back = to_size @ look.aligned.homography
        differs.append(cv2.warpPerspective(changed, back, size, flags=cv2.INTER_NEAREST))
        seen.append(cv2.warpPerspective(look.background.astype(np.uint8), back, size, flags=cv2.INTER_NEAREST))
        shots.append(cv2.warpPerspective(a, back, size))
    seen_count = np.sum(seen, axis=0)
    changed_count = np.sum(np.asarray(differs) & np.asarray(seen), axis=0)
    often = (changed_count >= 0.8 * np.maximum(seen_count, 1)) & (seen_count >= min(2, len(looks)))
    return _Comparison(often, np.mean(differs, axis=0) > 0.5, _spread(shots, seen) < 0.04)


def _of_subject_in_plate(
    plate: Image, known: Mask | None, matte: Matte | None, comparison: _Comparison, scale: float
) -> list[Finding]:
    """A person in the plate who is not in the frames; a statue that stands in both is part of the set, and what is
    guessed is nobody."""
    if matte is None:
        return []
    h, w = comparison.most.shape
    found = _someone(plate, (w, h), matte)
    if known is not None:
        found &= cv2.resize(known.astype(np.uint8), (w, h), interpolation=cv2.INTER_NEAREST) > 0
    if found.mean() < SOMEONE or comparison.most[found].mean() < 0.3:
        return []
    return [
        Finding(
            "subject_in_plate",
            "red",
            f"Someone stands in the plate ({100 * found.mean():.0f} % of it). There the shot would be cut away or the "
            "background kept.",
            "Choose an empty frame, or make a plate from the clip",
            "plate_from_clip",
            _bounds(found, scale),
            round(float(found.mean()), 4),
        )
    ]


def _someone(picture: Image, size: tuple[int, int], matte: Matte) -> Mask:
    """Where a subject is in a picture of the doctor's size, laid out at `size` (w, h)."""
    pha = cv2.resize(_matte_at(matte, picture), size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.morphologyEx((pha > 0.6).astype(np.uint8), cv2.MORPH_OPEN, np.ones((7, 7), np.uint8)) > 0)


def _of_moved_objects(comparison: _Comparison, scale: float) -> list[Finding]:
    """What differs from the plate in the same place and the same way in nearly every frame: it did not come to act."""
    moved = cv2.morphologyEx(
        (comparison.often & comparison.still).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8)
    )
    count, _, stats, _ = cv2.connectedComponentsWithStats(moved)
    least = max(40, MOVED_LEAST * moved.size)
    boxes = sorted((stats[i] for i in range(1, count) if stats[i][4] >= least), key=lambda box: -int(box[4]))
    findings = []
    for x, y, w, h, area in boxes[:MOVED_MOST]:
        region = (round(int(x) * scale), round(int(y) * scale), round(int(w) * scale), round(int(h) * scale))
        share = float(area) / moved.size
        findings.append(
            Finding(
                "moved_object",
                "red" if share > 0.02 else "amber",
                f"Something at ({region[0]}, {region[1]}), {region[2]} x {region[3]} pixels, differs from the plate in "
                "every frame: it was moved, added or taken away. It would be matted as part of the subject.",
                "Mask it out with a garbage mask, or make a plate from the clip",
                "garbage_mask",
                region,
                round(share, 5),
            )
        )
    return findings


def _least_difference(src: Image, bgr: Image, clipped: Mask) -> Plane:
    """Difference to the most alike of the neighbours within two pixels: edges that do not quite meet are no objects.

    Where the plate (`clipped`) or the frame is clipped, the other one may be brighter without being different.
    """
    kernel = np.ones((5, 5), np.uint8)
    darker = np.where(src > CLIPPED, 0, cv2.erode(bgr, kernel) - src)
    brighter = np.where(clipped, 0, src - cv2.dilate(bgr, kernel))
    return np.asarray(np.maximum(np.maximum(darker, brighter), 0).max(axis=2))


def _spread(shots: list[Image], seen: list[Mask]) -> Plane:
    """Mean absolute deviation over time of what is seen, the largest of the channels."""
    weight = np.asarray(seen, np.float32)[..., None]
    total = np.maximum(weight.sum(axis=0), 1)
    stack = np.asarray(shots)
    mean = (stack * weight).sum(axis=0) / total
    return np.asarray(((np.abs(stack - mean) * weight).sum(axis=0) / total).max(axis=2))


def _bounds(where: Mask, scale: float) -> Region:
    x, y, w, h = cv2.boundingRect(where.astype(np.uint8))
    return round(x * scale), round(y * scale), round(w * scale), round(h * scale)


def _look_size(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, LOOK_WIDTH / max(width, height))
    return max(8, round(width * scale)), max(8, round(height * scale))


def _reduce(image: Image, size: tuple[int, int]) -> Image:
    return as_srgb(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
