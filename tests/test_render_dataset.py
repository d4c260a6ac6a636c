# SPDX-License-Identifier: GPL-3.0-or-later
"""Rendered subjects: straight colours, exact alpha, and no subject on both sides of the split."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from scripts import render_dataset
from scripts.rendered_pixels import develop, extend_colours, straighten

ROOT = Path(__file__).resolve().parent.parent
MODELS = {*render_dataset.PEOPLE, *(name for names in render_dataset.THINGS.values() for name in names)}


def test_a_longer_plan_begins_with_the_shorter_one() -> None:
    long = render_dataset.plan(60, 3, MODELS)
    assert render_dataset.plan(25, 3, MODELS) == long[:25]
    assert len({shot.name for shot in long}) == 60
    assert render_dataset.plan(60, 4, MODELS) != long


def test_a_size_of_nothing_is_refused_before_blender_starts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        render_dataset.parse_args(["--packages", ".", "--hdri", ".", "--output", ".", "--size", "0"])
    assert "--size: expected 1 or more; got 0" in capsys.readouterr().err


def test_no_person_and_no_model_is_on_both_sides() -> None:
    shots = render_dataset.plan(1500, 0, MODELS)
    sides: dict[str, set[str]] = {}
    for shot in shots:
        if shot.kind != "glass":
            who = render_dataset.PEOPLE.get(shot.subject, (shot.subject,))[0]
            sides.setdefault(who, set()).add(shot.split)
    assert all(len(side) == 1 for side in sides.values())
    for kind in render_dataset.SHARES:
        share = np.mean([shot.split == "test" for shot in shots if shot.kind == kind])
        assert 0.02 < share < 0.5, kind


def test_models_that_differ_by_a_number_stay_together() -> None:
    pairs = [("horse", "horse2"), ("scooter", "scooter2"), ("iron-railing-1", "iron-railing-3")]
    for a, b in pairs:
        assert render_dataset.split_of("bike", a, 0) == render_dataset.split_of("held", b, 9)


def test_paths_carry_kind_and_split(tmp_path: Path) -> None:
    shot = render_dataset.Shot("hair", "male03", 7, "train")
    assert shot.path(tmp_path) == tmp_path / "train/rendered/hair-male03-00007.png"
    clip = render_dataset.Shot("fur", "deer", 7, "test", frames=8)
    assert clip.path(tmp_path) == tmp_path / "test/rendered_clips/fur-deer-00007"


def test_straighten_recovers_the_colour_under_a_soft_edge_and_beyond() -> None:
    alpha = np.broadcast_to(np.clip(np.linspace(-0.5, 1.5, 61, dtype=np.float32), 0, 1), (40, 61))
    colour = np.array([0.8, 0.3, 0.1], np.float32)
    assert np.abs(straighten(alpha[..., None] * colour, alpha) - colour).max() < 1e-4


def test_extend_colours_keeps_what_is_trusted_and_fills_from_the_nearest() -> None:
    colour = np.zeros((33, 47, 3), np.float32)
    trust = np.zeros((33, 47), np.float32)
    colour[:, :5], trust[:, :5] = (1, 0, 0), 1
    colour[:, -5:], trust[:, -5:] = (0, 0, 1), 1
    filled = extend_colours(colour, trust)
    assert np.array_equal(filled[trust == 1], colour[trust == 1])
    assert filled[16, 8, 0] > 0.7 and filled[16, 38, 2] > 0.7
    assert np.allclose(filled.sum(-1), 1, atol=1e-4)


def test_extend_colours_of_nothing_is_black() -> None:
    assert np.array_equal(
        extend_colours(np.full((4, 5, 3), np.nan, np.float32), np.zeros((4, 5), np.float32)), np.zeros((4, 5, 3))
    )


def test_develop_brings_grey_to_the_level_and_never_clips_order() -> None:
    alpha = np.ones((8, 8), np.float32)
    grey = develop(np.full((8, 8, 3), 40.0, np.float32), alpha, 0.18)
    assert np.allclose(grey, 1.055 * 0.18 ** (1 / 2.4) - 0.055, atol=1e-4)
    ramp = np.linspace(0, 4, 64, dtype=np.float32).reshape(8, 8)[..., None].repeat(3, 2)
    shown = develop(ramp, alpha, 0.5)[..., 0].ravel()
    assert np.all(np.diff(shown) > 0) and shown.max() <= 1


def test_crop_keeps_all_that_is_visible() -> None:
    rgba = np.zeros((50, 60, 4), np.float32)
    rgba[20:30, 5:55, 3] = 0.01
    assert render_dataset.crop(rgba, margin=4).shape == (18, 58, 4)
    assert render_dataset.crop(np.zeros((9, 9, 4), np.float32)).shape == (9, 9, 4)


def test_glass_has_a_wall() -> None:
    rng = np.random.default_rng(1)
    for make in render_dataset.GLASSWARE[:4]:
        for _ in range(50):
            outline = render_dataset.glass_outline(make, rng)
            assert (outline[:, 0] > 0).all() and (np.diff(outline[:, 1]) > 0).all() and outline[-1, 1] < 0.5


def blender() -> Path:
    folder = ROOT / ".envs/bpy-5.2"
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        pytest.skip("Blender 5.2 as a module is not installed (scripts/test.py installs it)")
    return python


GAUZE = """
import sys; sys.path.insert(0, {root!r})
from pathlib import Path
import numpy as np
from scripts import render_subjects as stage
from scripts.rendered_pixels import straighten
stage.clear()
u = np.linspace(-0.5, 0.5, 9)
flat = np.stack(np.broadcast_arrays(u[None], 0.0, -u[:, None]), -1).astype(np.float32)
stage.add_sheet(flat, "Gauze", stage.make_veil("Gauze", (0.8, 0.4, 0.2), 0.3, fresnel=False))
stage.set_world(Path({hdri!r}), 0.0)
stage.add_camera(np.zeros(3, np.float32), 2.0, 0.0, 0.0, 85)
stage.animate_transform(stage.add_root(), (-0.15, 0, 0), (0.15, 0, 0), (0, 0, 0), 2)
stage.set_render(64, 64, 1, shutter=1.0)
stage.bpy.context.scene.frame_set(1)
premul, alpha = stage.render(Path({folder!r}), 16, 256)
fgr = straighten(premul, alpha)
np.savez({out!r}, alpha=alpha, fgr=fgr)
stage.write_png(Path({out!r}).with_suffix(".png"), np.dstack([np.full_like(fgr, 0.25), alpha]))
"""


@pytest.fixture
def grey_world(tmp_path: Path) -> Path:
    """A folder with one environment map: the same light from everywhere."""
    folder = tmp_path / "hdri"
    folder.mkdir()
    cv2.imwrite(str(folder / "grey.hdr"), np.full((16, 32, 3), 0.5, np.float32))
    return folder


@pytest.mark.blender
@pytest.mark.slow
def test_rendered_alpha_is_the_cover_of_a_moving_gauze_and_its_colour_is_straight(
    tmp_path: Path, grey_world: Path
) -> None:
    out = tmp_path / "gauze.npz"
    script = GAUZE.format(root=str(ROOT), hdri=str(grey_world / "grey.hdr"), folder=str(tmp_path), out=str(out))
    subprocess.run([blender(), "-c", script], check=True, capture_output=True, timeout=240)
    with np.load(out) as frame:
        alpha, fgr = frame["alpha"], frame["fgr"]
    # half of the light comes from the front, the cloth reflects its colour of it; it covers 0.3 of each pixel
    assert abs(alpha[30:34, 26:38].mean() - 0.3) < 0.02
    assert alpha[32, 2] == 0 and alpha[2].max() == 0
    edge = alpha[32, 8:28]
    assert np.any((edge > 0.05) & (edge < 0.25)), "motion blur leaves an edge of partial alpha"
    cloth = fgr[30:34, 26:38].mean((0, 1))
    assert np.allclose(cloth / cloth[1], [2, 1, 0.5], rtol=0.1)
    apart = np.abs(fgr - cloth).max(-1) / cloth.max()
    assert np.percentile(apart, 95) < 0.25, "the colour is the cloth's, at the blurred edge and beyond it"
    picture = cv2.imread(str(out.with_suffix(".png")), cv2.IMREAD_UNCHANGED)
    assert np.abs(picture[..., :3].astype(int) - 64).max() <= 1, "colours stay where alpha is 0"
    assert np.abs(picture[..., 3] / 255 - alpha).max() < 3 / 255


@pytest.mark.blender
@pytest.mark.slow
def test_the_dataset_resumes_where_it_stopped(tmp_path: Path, grey_world: Path) -> None:
    (tmp_path / "packages/sweethome3d").mkdir(parents=True)  # no models: only what is made here, glass
    pool = tmp_path / "pool"
    sizes = ["--size", "64", "--samples", "1", "--alpha_samples", "1", "--threads", "1", "--count", "13"]
    command = [blender(), ROOT / "scripts/render_dataset.py", "--packages", tmp_path / "packages", "--hdri", grey_world]
    said = []
    for _ in range(2):
        run = [*map(str, command), "--output", str(pool), *sizes]
        done = subprocess.run(run, check=True, capture_output=True, text=True, timeout=240)
        said.append(done.stdout)
    planned = render_dataset.plan(13, 0, set())
    assert planned and {shot.path(pool) for shot in planned} == set(pool.glob("*/rendered/*.png"))
    assert f"{len(planned)} to render" in said[0] and "0 to render" in said[1]
    for path in pool.glob("*/rendered/*.png"):
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert picture.dtype == np.uint8 and picture.shape[2] == 4 and picture[..., 3].max() > 10
    assert not list((pool / ".partial").iterdir())


@pytest.mark.blender
@pytest.mark.slow
def test_a_clip_is_a_folder_of_frames_in_which_the_subject_moves(tmp_path: Path, grey_world: Path) -> None:
    (tmp_path / "packages/sweethome3d").mkdir(parents=True)
    first = next(shot.number for shot in render_dataset.plan(60, 0, set()) if shot.subject == "veil")
    command = [blender(), ROOT / "scripts/render_dataset.py", "--packages", tmp_path / "packages", "--hdri", grey_world]
    sizes = ["--size", "64", "--samples", "1", "--alpha_samples", "8", "--threads", "1", "--clips", "--frames", "3"]
    run = [*map(str, command), "--output", str(tmp_path / "pool"), *sizes, "--first", str(first), "--count", "1"]
    subprocess.run(run, check=True, capture_output=True, timeout=240)
    paths = sorted((tmp_path / "pool").glob("*/rendered_clips/glass-veil-*/*.png"))
    assert [path.name for path in paths] == ["0001.png", "0002.png", "0003.png"]
    frames = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., 3].astype(float) for path in paths]
    assert all(frame.shape == (64, 64) for frame in frames)
    assert np.abs(frames[0] - frames[2]).mean() > 0.5
