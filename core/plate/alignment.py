# SPDX-License-Identifier: GPL-3.0-or-later
"""Lay a plate under a frame: a homography per frame, then a smooth local flow of a few pixels. No bpy.

Everything is estimated on small grey images whose brightness and contrast are evened out locally, so that exposure,
white balance and vignetting do not matter here; the plate is resampled once, at full size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from core.errors import PlateError
from core.plate.frames import FrameReader, Image, Mask, Matrix, Plane, as_srgb

WORK_WIDTH = 640  # pixels of the longer side that alignment looks at (a third of the frame's, if that is more)
EVEN_WINDOW = 31  # pixels over which brightness and contrast are evened out
EVEN_GAIN = 40.0  # grey levels that one local standard deviation becomes
EVEN_FLOOR = 5.0  # grey levels of contrast that count as nothing: blank walls stay blank
DIFFERENCE_CAP = 50.0  # evened grey levels beyond which a pixel is simply different
UNCOVERED_COST = 0.6  # what a pixel without plate counts in a score, 0 to 1
FLOW_LIMIT = 6.0  # working pixels the local flow may reach
FLOW_SIGMA = 10.0  # working pixels over which the local flow is smoothed
DENOISE_SIGMA = 0.8  # working pixels; noise must not favour the copy that interpolation has softened
SURE_INLIERS, SURE_SCORE = 120, 0.25  # a first frame that fits like this needs no search
RIM = 2  # plate pixels that its border may be continued by and still count as plate
STILL_FRAMES = 3  # frames without motion after which a shot counts as locked off

Small = NDArray[Any]  # (h, w) float32 grey, 0 to 255, at working size
Weight = NDArray[Any]  # (h, w) uint8, 1 where a pixel counts
Flow = NDArray[Any]  # (h, w, 2) float32
Points = NDArray[Any]  # (N, 2) float32


@dataclass(frozen=True)
class AlignedPlate:
    """A plate laid under one frame.

    Attributes:
        bgr: (H, W, 3), the plate's dtype; continued by its border where there is no plate.
        valid: (H, W), False where the plate has no pixels or only guessed ones.
        homography: (3, 3), frame pixel -> plate pixel (pixel centres at whole numbers).
        flow: (h, w, 2) float32 at working size, displacement in frame pixels added before the homography; None if nil.
        residual: structural difference left outside the subject, 0 (same) to about 0.7 (unrelated).
        residual_before: the same when the plate is left alone.
        inliers: points that agree with the homography.
        plate_size: the plate's width and height.
        still: the plate was reused from the frame before, unchanged.
    """

    bgr: Image
    valid: Mask
    homography: Matrix
    flow: Flow | None
    residual: float
    residual_before: float
    inliers: int
    plate_size: tuple[int, int]
    still: bool = False


@dataclass(frozen=True)
class _Fit:
    matrix: Matrix  # small frame -> small plate
    inliers: int
    sigma: float  # expected error of the frame's corners, working pixels


class PlateAligner:
    """Aligns one plate to the frames of one shot, in order.

    Args:
        plate: (Hp, Wp, 3) RGB, sRGB-encoded; may be a mosaic of a pan, larger than the frames, or of another size.
        known: (Hp, Wp), False where the plate's pixels are guessed; such pixels come out as not valid.
        start: frame pixel -> plate pixel before alignment; the whole plate fills the frame if None.
        local_flow: follow parallax and lens breathing of a few pixels on top of the homography.
        enabled: False lays the plate as `start` or a given homography says, and only measures how well it lies.
    """

    def __init__(
        self,
        plate: Image,
        *,
        known: Mask | None = None,
        start: Matrix | None = None,
        local_flow: bool = True,
        enabled: bool = True,
    ) -> None:
        if plate.ndim != 3 or plate.shape[2] != 3:
            raise PlateError("an RGB plate", f"an array of {plate.shape}", "Give a colour picture")
        self.plate = plate
        self.known = None if known is None or known.all() else known
        self._given_start = start
        self._local_flow = local_flow and enabled
        self._enabled = enabled
        self._frame_shape: tuple[int, int] | None = None
        self._small_plate: Small = np.empty((0, 0), np.float32)
        self._matrix: Matrix = np.eye(3)
        self._flow: Flow | None = None
        self._last: AlignedPlate | None = None
        self._features: tuple[Sequence[cv2.KeyPoint], Points] | None = None
        self._usual_score = 0.0
        self._lost_for = 0  # frames in a row that fit much worse than usual
        self._still = 0  # frames in a row without motion
        self._no_flow_for = 0  # frames in a row without local flow
        self._alone, self._alone_for = 0.0, 0  # score of the plate left alone, and frames since it was taken, modulo 4
        self._fresh = True  # no frame yet

    def align(
        self, src: Image, subject: Plane | Mask | None = None, *, homography: Matrix | None = None
    ) -> AlignedPlate:
        """Lay the plate under `src`.

        Args:
            src: (H, W, 3) RGB, sRGB-encoded, the next frame of the shot, any precision.
            subject: (h, w) of any size, 0 to 1 or bool: where the subject is, roughly (last frame's matte will do).
            homography: frame pixel -> plate pixel from a camera or plane track; then no other start is looked for.

        Raises:
            PlateError: the frame's size differs from the frame's before.
        """
        if self._frame_shape is None:
            self._prepare(src.shape[:2])
        elif src.shape[:2] != self._frame_shape:
            raise PlateError(
                f"frames of {self._frame_shape[1]} x {self._frame_shape[0]}",
                f"{src.shape[1]} x {src.shape[0]}",
                "Start a new aligner for each shot",
            )
        grey = small_grey(src, self._size)
        outside = self._outside(subject)
        driven = None if homography is None else self._to_small(homography)

        if driven is None and self._still >= STILL_FRAMES and self._last is not None:
            if self._has_not_moved(grey, outside):
                self._last = replace(self._last, still=True)
                return self._last
            self._still = 0

        if not self._enabled:
            return self._lay_as_told(grey, outside, self._start if driven is None else driven)
        if driven is not None:
            fit, score = self._track(grey, outside, driven)
        else:
            fit, score = self._track(grey, outside, self._matrix)
            if self._is_lost(fit, score):
                fit, score = self._search(grey, outside, fit, score)
        before = self._score_alone(grey, outside, score)
        if before <= score * 1.02:  # never worse than leaving it alone
            fit, score = _Fit(self._start, fit.inliers, fit.sigma), before
        matrix = self._smooth(fit)
        flow, score = self._follow_flow(grey, outside, matrix, score)
        self._still = self._still + 1 if self._is_still(matrix, flow) else 0
        self._matrix, self._flow = matrix, flow
        self._usual_score += (score - self._usual_score) * (0.2 if self._usual_score else 1.0)
        self._last = self._lay(matrix, flow, score, before, fit.inliers)
        return self._last

    def replace_plate(self, plate: Image) -> None:
        """Go on with another picture of the same size: the next frame of a plate that moves."""
        self.plate = plate
        self._features = self._last = None
        self._still = 0
        if self._frame_shape is not None:
            self._small_plate = small_grey(plate, self._small_plate.shape[::-1])

    def _lay_as_told(self, grey: Small, outside: Weight, matrix: Matrix) -> AlignedPlate:
        score = self._score(grey, outside, matrix)
        if self._last is None or not np.array_equal(matrix, self._matrix):
            self._matrix = matrix
            self._last = self._lay(matrix, None, score, score, 0)
        return replace(self._last, residual=score, residual_before=score)

    # Geometry

    def _prepare(self, shape: tuple[int, int]) -> None:
        H, W = shape
        Hp, Wp = self.plate.shape[:2]
        self._frame_shape = shape
        scale, self._size = _working_scale(shape), working_size(shape)
        self._local_flow = self._local_flow and min(self._size) >= 32  # less is too small for the flow's patches
        start = self._given_start
        if start is None:
            start = _pixel_scale(Wp / W, Hp / H)
        density = math.sqrt(abs(np.linalg.det(start[:2, :2] / start[2, 2])))  # plate pixels per frame pixel
        plate_size = (max(8, round(Wp * scale / density)), max(8, round(Hp * scale / density)))
        self._frame_up = _pixel_scale(W / self._size[0], H / self._size[1])
        self._plate_up = _pixel_scale(Wp / plate_size[0], Hp / plate_size[1])
        self._small_plate = small_grey(self.plate, plate_size)
        known = np.ones(plate_size[::-1], np.uint8)
        if self.known is not None:
            known = (cv2.resize(self.known.astype(np.float32), plate_size, interpolation=cv2.INTER_AREA) > 0.99).astype(
                np.uint8
            )
        self._small_known = known
        self._start = self._to_small(start)
        self._matrix = self._start

    def _to_small(self, homography: Matrix) -> Matrix:
        return _normalised(np.linalg.inv(self._plate_up) @ homography @ self._frame_up)

    def _to_full(self, matrix: Matrix) -> Matrix:
        return _normalised(self._plate_up @ matrix @ np.linalg.inv(self._frame_up))

    def _outside(self, subject: Plane | Mask | None) -> Weight:
        """1 where the background is surely seen, at working size."""
        w, h = self._size
        if subject is None:
            return np.ones((h, w), np.uint8)
        small = cv2.resize(subject.astype(np.float32), self._size, interpolation=cv2.INTER_AREA)
        margin = 2 * max(2, round(w / 120)) + 1
        covered = cv2.dilate((small > 0.02).astype(np.uint8), np.ones((margin, margin), np.uint8))
        outside = (1 - covered).astype(np.uint8)
        return outside if outside.mean() > 0.02 else np.ones((h, w), np.uint8)

    def _warp(self, matrix: Matrix, outside: Weight) -> tuple[Small, Weight]:
        """The small plate seen from the frame, and 1 where it can be compared with it."""
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        warped = cv2.warpPerspective(
            self._small_plate, matrix, self._size, flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
        covered = cv2.warpPerspective(
            self._small_known, matrix, self._size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        )
        return warped, outside & covered

    def _pair(self, grey: Small, outside: Weight, matrix: Matrix) -> tuple[Small, Small, Weight]:
        warped, weight = self._warp(matrix, outside)
        return even_out(grey, weight), even_out(warped, weight), weight

    def _score(self, grey: Small, outside: Weight, matrix: Matrix) -> float:
        a, b, weight = self._pair(grey, outside, matrix)
        return _difference(a, b, weight, outside)

    def _score_alone(self, grey: Small, outside: Weight, score: float) -> float:
        """The score of the plate left alone; while that is far worse, one frame in four says it for the next three."""
        if self._alone_for == 0 or self._alone < 1.5 * score:
            self._alone = self._score(grey, outside, self._start)
        self._alone_for = (self._alone_for + 1) % 4
        return self._alone

    # Homography

    def _track(self, grey: Small, outside: Weight, start: Matrix) -> tuple[_Fit, float]:
        """Refine `start` by points followed from the frame into the warped plate; keeps it where that is no better."""
        fit = best = _Fit(start, 0, 1.0)
        best_score = math.inf
        for levels in (3, 1, 0):
            a, b, weight = self._pair(grey, outside, fit.matrix)
            score = _difference(a, b, weight, outside)
            if score < best_score or best.inliers == 0 and score < best_score * 1.01:
                best, best_score = fit, score
            found = self._step(a, b, weight, fit.matrix, levels) if levels else None
            if found is None:
                break
            fit = found
        return best, best_score

    def _step(self, a: Small, b: Small, weight: Weight, matrix: Matrix, levels: int) -> _Fit | None:
        a8, b8 = a.astype(np.uint8), b.astype(np.uint8)
        if levels < 3:  # nearly there: what still differs is no background
            differs = cv2.blur(np.abs(a - b), (9, 9)) > 30
            if np.count_nonzero(weight & ~differs) > 0.05 * weight.size:
                weight = weight & ~differs
        inner = cv2.erode(weight, np.ones((7, 7), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=1)
        points = cv2.goodFeaturesToTrack(a8, 500, 0.01, 7, mask=inner, blockSize=5)
        if points is None or len(points) < 4:
            return None
        there, ok, _ = cv2.calcOpticalFlowPyrLK(a8, b8, points, points.copy(), winSize=(17, 17), maxLevel=levels)
        back, ok_back, _ = cv2.calcOpticalFlowPyrLK(b8, a8, there, there.copy(), winSize=(17, 17), maxLevel=levels)
        good = (ok.ravel() == 1) & (ok_back.ravel() == 1)
        good &= np.linalg.norm((back - points).reshape(-1, 2), axis=1) < 0.5
        motion = fit_motion(points.reshape(-1, 2)[good], there.reshape(-1, 2)[good], self._size)
        if motion is None:
            return None
        delta, inliers, sigma = motion
        return _Fit(_normalised(matrix @ delta), inliers, sigma)

    def _is_lost(self, fit: _Fit, score: float) -> bool:
        if self._fresh:
            return fit.inliers < SURE_INLIERS or score > SURE_SCORE
        lost = score > 1.5 * self._usual_score + 0.05
        self._lost_for = self._lost_for + 1 if lost else 0
        return lost and (self._lost_for - 1) % 10 == 0  # a search costs; one in ten frames while lost

    def _search(self, grey: Small, outside: Weight, fit: _Fit, score: float) -> tuple[_Fit, float]:
        """Look for the plate anywhere: by features, by the whole image's shift, from the start."""
        starts = [self._start] if not self._fresh else []
        starts += self._feature_starts(grey, outside) + self._shift_starts(grey, outside)
        for start in starts:
            candidate, candidate_score = self._track(grey, outside, start)
            if (
                candidate_score < score * 0.97
            ):  # among equals (repeating patterns) the smallest motion, tried first, stays
                fit, score = candidate, candidate_score
                self._lost_for = 0
        return fit, score

    def _feature_starts(self, grey: Small, outside: Weight) -> list[Matrix]:
        sift = cv2.SIFT.create(2000, contrastThreshold=0.01)
        if self._features is None:
            plate = even_out(self._small_plate, self._small_known).astype(np.uint8)
            self._features = sift.detectAndCompute(plate, self._small_known)
        keys_plate, words_plate = self._features
        keys, words = sift.detectAndCompute(even_out(grey, outside).astype(np.uint8), outside)
        if words is None or words_plate is None or len(words) < 8 or len(words_plate) < 8:
            return []
        pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(words, words_plate, k=2)
        pairs = [pair for pair in pairs if len(pair) == 2 and pair[0].distance < 0.8 * pair[1].distance]
        if len(pairs) < 8:
            return []
        here = np.array([keys[first.queryIdx].pt for first, _ in pairs], np.float32)
        there = np.array([keys_plate[first.trainIdx].pt for first, _ in pairs], np.float32)
        found, inlier = cv2.findHomography(here, there, cv2.USAC_MAGSAC, 3.0, maxIters=2000, confidence=0.999)
        if found is None or np.count_nonzero(inlier) < 8 or not _is_sane(found, self._size):
            return []
        return [_normalised(found)]

    def _shift_starts(self, grey: Small, outside: Weight) -> list[Matrix]:
        """The best shifts of the whole plate, turned and scaled a little, at a quarter of the working size."""
        w, h = (max(8, side // 4) for side in self._size)
        down = np.linalg.inv(_pixel_scale(self._size[0] / w, self._size[1] / h))
        up = np.linalg.inv(down)
        weight = cv2.resize(outside, (w, h), interpolation=cv2.INTER_NEAREST)
        window = cv2.createHanningWindow((w, h), cv2.CV_32F) * weight
        here = (even_out(cv2.resize(grey, (w, h), interpolation=cv2.INTER_AREA), weight) - 128) * window
        middle = np.array([[1, 0, (w - 1) / 2], [0, 1, (h - 1) / 2], [0, 0, 1]])
        found: list[tuple[float, Matrix]] = []
        for degrees in (-4, -2, 0, 2, 4):
            for scale in (0.94, 0.97, 1.0, 1.03, 1.06):
                c, s = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
                turn = middle @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.linalg.inv(middle)
                start = self._start @ up @ turn
                flags = cv2.INTER_AREA | cv2.WARP_INVERSE_MAP
                warped = cv2.warpPerspective(
                    self._small_plate, start, (w, h), flags=flags, borderMode=cv2.BORDER_REPLICATE
                )
                there = (even_out(warped, weight) - 128) * window
                (x, y), response = cv2.phaseCorrelate(here, there)
                found.append((response, start @ np.array([[1, 0, x], [0, 1, y], [0, 0, 1]]) @ down))
        found.sort(key=lambda one: -one[0])
        return [_normalised(start) for _, start in found[:3]]

    def _smooth(self, fit: _Fit) -> Matrix:
        """Blend with the frame before by how much of the change is measurement error."""
        if self._fresh:
            self._fresh = False
            return fit.matrix
        old, new = _corners(self._matrix, self._size), _corners(fit.matrix, self._size)
        change = float(np.mean(np.sum((new - old) ** 2, axis=1)))
        if change == 0:
            return fit.matrix
        gain = change / (change + (2 * fit.sigma) ** 2)
        gain = gain**2 if gain < 0.9 else 1.0
        corners = _corners(np.eye(3), self._size)
        return cv2.getPerspectiveTransform(corners.astype(np.float32), (old + gain * (new - old)).astype(np.float32))

    # Local flow

    def _follow_flow(self, grey: Small, outside: Weight, matrix: Matrix, score: float) -> tuple[Flow | None, float]:
        if not self._local_flow or self._no_flow_for % 4:  # none for a while: look again in every fourth frame
            self._no_flow_for += 1
            return None, score
        a, b, weight = self._pair(grey, outside, matrix)
        score = _difference(a, b, weight, outside)
        flow = smooth_flow(a, b, weight)
        if self._flow is not None:
            change = np.sum((flow - self._flow) ** 2, axis=2, keepdims=True)
            flow = self._flow + change / (change + 0.15**2) * (flow - self._flow)
        self._no_flow_for += 1
        if np.abs(flow).max() < 0.1:
            return None, score
        both = weight & (
            _move(weight.astype(np.float32), flow) > 0.99
        )  # what stands still is as well seen as what moves
        without = _difference(a, b, both, both)
        gained = _difference(a, _move(b, flow), both, both) / max(without, 1e-6)
        if gained >= 0.97:
            return None, score
        self._no_flow_for = 0
        return flow, gained * score

    # Result

    def _is_still(self, matrix: Matrix, flow: Flow | None) -> bool:
        moved = np.abs(_corners(matrix, self._size) - _corners(self._matrix, self._size)).max()
        if moved > 0.1 or (flow is None) != (self._flow is None):
            return False
        return flow is None or self._flow is None or float(np.abs(flow - self._flow).max()) < 0.15

    def _has_not_moved(self, grey: Small, outside: Weight) -> bool:
        """A quick look at a locked-off shot: a few points, one level, no more than `WORK_WIDTH` pixels wide."""
        warped, weight = self._warp(self._matrix, outside)
        if self._flow is not None:
            warped = _move(warped, self._flow)
        share = min(1.0, WORK_WIDTH / max(self._size))
        size = round(self._size[0] * share), round(self._size[1] * share)
        weight = cv2.resize(weight, size, interpolation=cv2.INTER_NEAREST)
        a, b = (even_out(cv2.resize(each, size, interpolation=cv2.INTER_AREA), weight) for each in (grey, warped))
        a8, b8 = a.astype(np.uint8), b.astype(np.uint8)
        points: Points | None = cv2.goodFeaturesToTrack(a8, 150, 0.01, 15, mask=weight, blockSize=5)
        if points is None:
            return True
        there, ok, _ = cv2.calcOpticalFlowPyrLK(a8, b8, points, points.copy(), winSize=(15, 15), maxLevel=1)
        moved = (there - points).reshape(-1, 2)[ok.ravel() == 1] / share
        if len(moved) < 4:
            return True
        return bool(np.linalg.norm(np.median(moved, axis=0)) < 0.12 and np.median(np.abs(moved)) < 0.3)

    def _lay(self, matrix: Matrix, flow: Flow | None, score: float, before: float, inliers: int) -> AlignedPlate:
        assert self._frame_shape is not None
        full = self._to_full(matrix)
        scale = float(self._frame_up[0, 0])
        full_flow = None if flow is None else flow * np.float32(scale)
        bgr, valid = lay_plate(self.plate, self.known, full, full_flow, self._frame_shape)
        Hp, Wp = self.plate.shape[:2]
        return AlignedPlate(bgr, valid, full, full_flow, score, before, inliers, (Wp, Hp))


class MovingPlateAligner:
    """Aligns a plate that is a second take with the same camera move: finds the plate's frame, then lays it.

    Args:
        plates: the take without the subject.
        enabled: False lays the plate's frame as it is, see `PlateAligner`.
    """

    THUMB = (160, 90)  # pixels
    FIRST_LOOK = 60  # plate frames that the shot's first frame is compared with
    REACH = 3  # plate frames to look back and ahead of the one expected next

    def __init__(self, plates: FrameReader, *, enabled: bool = True) -> None:
        if plates.count == 0:
            raise PlateError("a plate with at least one frame", "none", "Check the plate's path and frame range")
        self._plates = plates
        self._enabled = enabled
        self._thumbs: dict[int, Small] = {}
        self._ahead: dict[int, Image] = {}  # plate frames whose turn comes: going back in a movie is slow
        self._aligner: PlateAligner | None = None
        self.index: int | None = None  # the plate's frame under the last frame

    def align(self, src: Image, subject: Plane | Mask | None = None) -> AlignedPlate:
        """Lay the plate's matching frame under `src`, the next frame of the shot; see `PlateAligner.align`."""
        index = self.find(src, subject)
        if self._aligner is None:
            self._aligner = PlateAligner(self._plates.read(index), enabled=self._enabled)
        elif index != self.index:
            self._aligner.replace_plate(self._ahead[index] if index in self._ahead else self._plates.read(index))
        self.index = index
        self._ahead = {i: picture for i, picture in self._ahead.items() if i > index}
        self._thumbs = {i: thumb for i, thumb in self._thumbs.items() if abs(i - index) <= 2 * self.REACH}
        return self._aligner.align(src, subject)

    def find(self, src: Image, subject: Plane | Mask | None = None) -> int:
        """Index of the plate's frame that matches `src`: before the first `align` one of all, then one of the next."""
        grey = small_grey(src, self.THUMB)
        outside = np.ones(grey.shape, np.uint8)
        if subject is not None:
            outside = (cv2.resize(subject.astype(np.float32), self.THUMB, interpolation=cv2.INTER_AREA) < 0.02).astype(
                np.uint8
            )
        last = self._plates.count - 1
        if self.index is None:
            step = max(1, math.ceil(self._plates.count / self.FIRST_LOOK))
            near = self._closest(grey, outside, range(0, last + 1, step))
            candidates = range(max(0, near - step + 1), min(last, near + step - 1) + 1)
        else:
            expected = min(self.index + 1, last)
            candidates = range(max(0, expected - self.REACH), min(last, expected + self.REACH) + 1)
        return self._closest(grey, outside, candidates)

    def _closest(self, grey: Small, outside: Weight, candidates: range) -> int:
        here = even_out(grey, outside)
        scores = []
        for i in candidates:
            if i not in self._thumbs:
                picture = self._plates.read(i)
                self._thumbs[i] = small_grey(picture, self.THUMB)
                if self.index is not None:  # else it is one of many, from all over the plate
                    self._ahead[i] = picture
            scores.append((_difference(here, even_out(self._thumbs[i], outside), outside, outside), i))
        return min(scores)[1]


def lay_plate(
    plate: Image, known: Mask | None, homography: Matrix, flow: Flow | None, shape: tuple[int, int]
) -> tuple[Image, Mask]:
    """Resample a plate into a frame of `shape` (H, W).

    Args:
        plate: (Hp, Wp, 3), any dtype.
        known: (Hp, Wp), False where the plate's pixels are guessed; None if nowhere.
        homography: frame pixel -> plate pixel.
        flow: (h, w, 2) of any size, frame pixels added to a pixel's place before the homography.

    Returns:
        bgr (H, W, 3) in the plate's dtype, and valid (H, W).
    """
    H, W = shape
    Hp, Wp = plate.shape[:2]
    if flow is None and plate.shape[:2] == shape:
        moved = np.abs(_corners(homography, (W, H)) - _corners(np.eye(3), (W, H))).max()
        if moved < 0.02:
            return plate, np.ones(shape, np.bool_) if known is None else known
    if flow is None:
        cubic, nearest = (kind | cv2.WARP_INVERSE_MAP for kind in (cv2.INTER_CUBIC, cv2.INTER_NEAREST))
        bgr = cv2.warpPerspective(plate, homography, (W, H), flags=cubic, borderMode=cv2.BORDER_REPLICATE)
        seen = np.ones((Hp, Wp), np.uint8) if known is None else known.astype(np.uint8)
        shown = cv2.copyMakeBorder(seen, RIM, RIM, RIM, RIM, cv2.BORDER_REPLICATE)
        inward = np.array([[1, 0, RIM], [0, 1, RIM], [0, 0, 1.0]])
        valid = cv2.warpPerspective(shown, inward @ homography, (W, H), flags=nearest) > 0
    else:
        where = _plate_coordinates(homography, flow, shape)
        bgr = cv2.remap(plate, where, np.empty(0), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        x, y = where[..., 0], where[..., 1]
        far = RIM + 0.5
        valid = (x > -far) & (y > -far) & (x < Wp - 1 + far) & (y < Hp - 1 + far)
        if known is not None:
            seen = known.astype(np.uint8)  # two maps: with one, OpenCV 5 errs unless cubic
            valid &= cv2.remap(seen, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE) > 0
    return np.maximum(bgr, 0) if plate.dtype.kind == "f" else bgr, valid  # the cubic kernel undershoots


def _plate_coordinates(homography: Matrix, flow: Flow, shape: tuple[int, int]) -> NDArray[Any]:
    H, W = shape
    h = (homography / homography[2, 2]).astype(np.float32)
    where = np.empty((H, W, 2), np.float32)
    x: NDArray[Any] = np.arange(W, dtype=np.float32)[None, :]
    y: NDArray[Any] = np.arange(H, dtype=np.float32)[:, None]
    full = cv2.resize(flow, (W, H), interpolation=cv2.INTER_LINEAR)
    x, y = x + full[..., 0], y + full[..., 1]
    depth = h[2, 0] * x + h[2, 1] * y + h[2, 2]
    np.divide(h[0, 0] * x + h[0, 1] * y + h[0, 2], depth, out=where[..., 0])
    np.divide(h[1, 0] * x + h[1, 1] * y + h[1, 2], depth, out=where[..., 1])
    return where


def fit_motion(here: Points, there: Points, size: tuple[int, int]) -> tuple[Matrix, int, float] | None:
    """The simplest motion that explains point pairs: translation, similarity, affinity or homography.

    Simple models do not swing in the parts of a frame that have no points; the Bayesian information criterion decides.

    Args:
        here, there: (N, 2) pixels.
        size: (w, h) of the frame.

    Returns:
        matrix (3, 3) here -> there, number of inliers, expected error of the frame's corners in pixels;
        None if the points tell nothing.
    """
    if len(here) < 4:
        return None
    inlier = None
    if len(here) >= 8:
        found, mask = cv2.findHomography(here, there, cv2.USAC_MAGSAC, 0.7, maxIters=300, confidence=0.99)
        if found is not None and np.count_nonzero(mask) >= 8 and _is_sane(found, size):
            inlier = mask.ravel() == 1
    if inlier is None:
        middle = np.median(there - here, axis=0)
        inlier = np.linalg.norm(there - here - middle, axis=1) < 1
        if np.count_nonzero(inlier) < 4:
            return None
    p, q = here[inlier], there[inlier]
    best: tuple[float, Matrix, float] | None = None
    for unknowns, matrix in _motions(p, q):
        if matrix is None or not _is_sane(matrix, size):
            continue
        error = np.linalg.norm(cv2.perspectiveTransform(p[:, None], matrix)[:, 0] - q, axis=1)
        spread = float(np.mean(error**2)) + 1e-4
        cost = 2 * len(p) * math.log(spread) + 3 * unknowns * math.log(2 * len(p))
        if best is None or cost < best[0]:
            best = (cost, matrix, math.sqrt(spread * unknowns / len(p)))
    if best is None:
        return None
    return best[1], len(p), best[2]


def _motions(p: Points, q: Points) -> list[tuple[int, Matrix | None]]:
    shift = np.eye(3)
    shift[:2, 2] = np.mean(q - p, axis=0)
    motions: list[tuple[int, Matrix | None]] = [(2, shift)]
    if len(p) >= 8:
        x, y, one = p[:, 0], p[:, 1], np.ones(len(p))
        nil = np.zeros(len(p))
        rows = np.concatenate([np.stack([x, -y, one, nil], 1), np.stack([y, x, nil, one], 1)])
        a, b, tx, ty = np.linalg.lstsq(rows, np.concatenate([q[:, 0], q[:, 1]]), rcond=None)[0]
        motions.append((4, np.array([[a, -b, tx], [b, a, ty], [0, 0, 1]])))
        affine = np.linalg.lstsq(np.stack([x, y, one], 1), q, rcond=None)[0].T
        motions.append((6, np.vstack([affine, [0, 0, 1]])))
    if len(p) >= 16:
        motions.append((8, cv2.findHomography(p, q, 0)[0]))
    return motions


def smooth_flow(a: Small, b: Small, weight: Weight) -> Flow:
    """Displacement (h, w, 2) from `a` to `b`, smooth, at most FLOW_LIMIT, carried on into what `weight` leaves out.

    Args:
        a, b: evened-out frame and plate, 0 to 255.
        weight: (h, w), 1 where they show the same things.
    """
    a8, b8 = (np.where(weight, image, 128).astype(np.uint8) for image in (a, b))
    raw = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(a8, b8, np.zeros((*a.shape, 2), np.float32))
    here, there = a - 128, _move(b, raw) - 128
    energy = cv2.blur(here * here, (11, 11))
    likeness = cv2.blur(here * there, (11, 11)) / np.sqrt(energy * cv2.blur(there * there, (11, 11)) + 1)
    trust = weight * np.clip((likeness - 0.7) / 0.3, 0, 1) ** 2  # noise does not look like itself; structure does
    trust = (trust * energy / (energy + 200) * (np.abs(raw).max(axis=2) < FLOW_LIMIT)).astype(np.float32)
    flow = np.zeros_like(raw)
    for sigma, doubt in ((4 * FLOW_SIGMA, 0.02), (FLOW_SIGMA, 0.1)):  # coarse first: the fine one corrects it
        known = _blur(trust, sigma)
        flow = flow + _blur((raw - flow) * trust[..., None], sigma) / (known + doubt)[..., None]
    return np.clip(flow, -FLOW_LIMIT, FLOW_LIMIT)


def _move(image: Small, flow: Flow) -> Small:
    h, w = image.shape
    x, y = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    return cv2.remap(image, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _blur(image: NDArray[Any], sigma: float) -> NDArray[Any]:
    """A wide Gaussian blur at a fraction of the cost: at a quarter of the size."""
    h, w = image.shape[:2]
    small = cv2.resize(image, (max(1, w // 4), max(1, h // 4)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / 4, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)


def even_out(grey: Small, weight: Weight) -> Small:
    """Local mean to 128, local deviation to EVEN_GAIN, 0 to 255; `weight` 0 is left out and comes out as 128."""
    size = (EVEN_WINDOW, EVEN_WINDOW)
    w = weight.astype(np.float32)
    share = cv2.blur(w, size) + 1e-6
    mean = cv2.blur(grey * w, size) / share
    centred = (grey - mean) * w
    deviation = np.sqrt(np.maximum(cv2.blur(centred * centred, size) / share, 0))
    return np.clip(128 + EVEN_GAIN * centred / (deviation + EVEN_FLOOR), 0, 255)


def _difference(a: Small, b: Small, weight: Weight, outside: Weight) -> float:
    """Capped mean difference over the background, 0 to 1; background without plate counts UNCOVERED_COST."""
    size = max(1, int(np.count_nonzero(outside)))
    covered = int(np.count_nonzero(weight))
    total = float(np.sum(np.minimum(np.abs(a - b), DIFFERENCE_CAP) * weight)) / DIFFERENCE_CAP
    return (total + UNCOVERED_COST * (size - covered)) / size


def working_size(shape: tuple[int, int]) -> tuple[int, int]:
    """Width and height at which alignment looks at a frame of `shape` (H, W)."""
    scale = _working_scale(shape)
    return max(8, round(shape[1] * scale)), max(8, round(shape[0] * scale))


def _working_scale(shape: tuple[int, int]) -> float:
    return min(1.0, max(WORK_WIDTH, max(shape) / 3) / max(shape))


def small_grey(frame: Image, size: tuple[int, int]) -> Small:
    small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(as_srgb(small), cv2.COLOR_RGB2GRAY)
    return cv2.GaussianBlur(grey * np.float32(255), (0, 0), DENOISE_SIGMA)


def _pixel_scale(x: float, y: float) -> Matrix:
    """Scale about the image's corner, for pixels whose centres lie at whole numbers."""
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]], np.float64)


def _normalised(matrix: Matrix) -> Matrix:
    return np.asarray(matrix / matrix[2, 2])


def _corners(matrix: Matrix, size: tuple[int, int]) -> Points:
    """Where `matrix` puts the corners of a frame of `size` (w, h): (4, 2)."""
    w, h = size
    corners = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float64)
    return np.asarray(cv2.perspectiveTransform(corners[:, None], matrix)[:, 0])


def _is_sane(matrix: Matrix, size: tuple[int, int]) -> bool:
    """A view a camera could have: the frame stays convex, keeps its orientation and its size to a factor of four."""
    if not np.isfinite(matrix).all():
        return False
    corners = _corners(matrix, size)
    edges = np.roll(corners, -1, axis=0) - corners
    after = np.roll(edges, -1, axis=0)
    turn = edges[:, 0] * after[:, 1] - edges[:, 1] * after[:, 0]
    area = cv2.contourArea(corners.astype(np.float32)) / (size[0] * size[1])
    return bool((turn > 0).all() and 1 / 16 < area < 16)
