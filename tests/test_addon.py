# SPDX-License-Identifier: GPL-3.0-or-later
"""The built extension inside Blender 4.5, 5.0 and 5.2: what it renders is compared here, by another reader."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import OpenImageIO as oiio
import pytest

from core.plate_files import read_track
from scripts import build_extension
from tests.fake_worker import alpha_of, foreground_of
from tests.plate_scenes import H, W, scene, shoot

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("4.5", "5.0", "5.2")
WIDTH, HEIGHT = 67, 45
MOVIE_SIZE = (64, 48)  # codecs want even numbers

pytestmark = pytest.mark.blender


def blender_python(version: str) -> Path:
    folder = ROOT / ".envs" / f"bpy-{version}"
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        pytest.skip(f"no bpy {version} environment in {folder}")
    return python


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    blender_python(VERSIONS[-1])
    return build_extension.main(argparse.Namespace(blender=ROOT / ".envs" / "bpy-5.2", output=folder))


@pytest.fixture(scope="session")
def fake_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Looks like the engine's Python, and runs the fake worker whatever it is asked to run."""
    if sys.platform == "win32":
        pytest.skip("a Python that is a script needs a shell")
    path = tmp_path_factory.mktemp("engine") / "python"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -u "{ROOT}/tests/fake_worker.py"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    """An image sequence of 12 frames that starts at 1001."""
    folder = tmp_path / "footage"
    folder.mkdir()
    for number in range(1001, 1013):
        assert cv2.imwrite(str(folder / f"shot_v2.{number}.png"), foreground_of(number, WIDTH, HEIGHT)[..., ::-1] // 2)
    return folder / "shot_v2.1001.png"


@pytest.fixture
def other(tmp_path: Path, sequence: Path) -> Path:
    """A picture of another sequence, numbered 7."""
    path = tmp_path / "other" / "b.0007.png"
    path.parent.mkdir()
    path.write_bytes(sequence.read_bytes())
    return path


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    """A movie of 12 frames at 24 a second."""
    writer = cv2.VideoWriter(str(tmp_path / "take.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 24, MOVIE_SIZE)
    for number in range(1, 13):
        writer.write(foreground_of(number, *MOVIE_SIZE))
    writer.release()
    return tmp_path / "take.mp4"


def run_blender(version: str, script: str, engine: Path | None, tmp_path: Path, **arguments: Any) -> dict[str, Any]:
    """Run a script of tests/blender inside a Blender module; returns its RESULT."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "BGM_"))},
        "BLENDER_USER_RESOURCES": str(tmp_path / f"user-{version}"),
        "OMP_NUM_THREADS": "1",
    }
    if engine is not None:
        environment["BGM_ENGINE_PYTHON"] = str(engine)
    environment |= arguments.pop("variables", {})
    arguments = {"folder": str(tmp_path), **arguments}
    command = [
        str(blender_python(version)),
        str(ROOT / "tests" / "blender" / script),
        json.dumps(arguments, default=str),
    ]
    elsewhere = tmp_path / "elsewhere"  # no path may be found by luck
    elsewhere.mkdir(exist_ok=True)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=elsewhere)
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert done.returncode == 0 and results, f"{script} in {version}:\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    result: dict[str, Any] = json.loads(results[-1].removeprefix("RESULT "))
    return {**result, "stdout": done.stdout}


def read_image(path: Path | str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(H, W, channels) float; integers as 0 to 1."""
    return np.asarray(oiio.ImageBuf(str(path)).get_pixels(oiio.FLOAT), np.float32)


def linear(srgb8: Any) -> Any:
    values = srgb8 / 255.0
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def check_renders(renders: dict[str, str], numbers: dict[int, int | None]) -> None:
    """Compare renders of the node's outputs with what the fake engine wrote.

    Args:
        numbers: scene frame: the frame number that it must show; None: nothing.
    """
    for frame, number in numbers.items():
        alpha, foreground = np.zeros((HEIGHT, WIDTH)), np.zeros((HEIGHT, WIDTH, 3))
        error = np.zeros((HEIGHT, WIDTH))
        if number is not None:
            alpha16 = alpha_of(number, WIDTH, HEIGHT)
            alpha, error = alpha16 / 65535, (alpha16 >> 8) / 255
            foreground = linear(foreground_of(number, WIDTH, HEIGHT))
        np.testing.assert_allclose(read_image(renders[f"Alpha {frame}"])[..., 0], alpha, atol=1e-6)
        np.testing.assert_allclose(read_image(renders[f"Error {frame}"])[..., 0], error, atol=1e-6)
        np.testing.assert_allclose(
            read_image(renders[f"Foreground {frame}"])[..., :3], foreground, atol=5e-5
        )  # Blender converts by table
        image = read_image(renders[f"Image {frame}"])
        np.testing.assert_allclose(image[..., 3], alpha, atol=1e-6)
        np.testing.assert_allclose(image[..., :3], foreground * alpha[..., None], atol=5e-5)


@pytest.mark.parametrize("version", VERSIONS)
def test_node_renders_what_the_engine_wrote(
    version: str, archive: Path, fake_engine: Path, sequence: Path, tmp_path: Path
) -> None:
    # The clip shows 1001 + (scene - 10) + 2: from 8 on number 1001, at 19 number 1012
    numbers: dict[int, int | None] = {5: None, 7: None, 8: 1001, 10: 1003, 15: 1008, 19: 1012, 20: None, 25: None}
    setup = {"zip": archive, "footage": sequence, "frame_start": 10, "frame_offset": 2, "frames": list(numbers)}
    result = run_blender(version, "node.py", fake_engine, tmp_path, **setup)
    assert (result["first"], result["last"]) == (1001, 1012)
    assert result["status"] == "12 frames, 1001 to 1012"
    check_renders(result["renders"], numbers)

    number = 1003
    before = read_image(result["renders"]["before"])
    np.testing.assert_allclose(before[..., :3], linear(foreground_of(number, WIDTH, HEIGHT) // 2), atol=5e-5)
    np.testing.assert_allclose(before[..., 3], 1.0)
    alpha = (alpha_of(number, WIDTH, HEIGHT) / 65535)[..., None]
    over = linear(foreground_of(number, WIDTH, HEIGHT)) * alpha + np.array([0.25, 0.5, 0.75]) * (1 - alpha)
    np.testing.assert_allclose(read_image(result["renders"]["over"])[..., :3], over, atol=5e-5)

    plain = run_blender(version, "render_only.py", None, tmp_path, blend=result["blend"], frames=list(numbers))
    for frame in numbers:
        np.testing.assert_array_equal(
            read_image(plain["renders"][str(frame)]), read_image(result["renders"][f"Image {frame}"])
        )


SENTENCES = {
    "no node": "There is no matting node. Add one in the compositor: Add > Matting.",
    "no such clip": "There is no clip named gone in this file.",
    "no such plate": "There is no image named gone in this file.",
    "no clip": "There is no clip. Choose the footage to pull a matte from.",
    "results of no clip": "There is no clip. Choose the footage that the matte is of.",
    "no plate": "There is no clean plate. Choose one",
    "plate not on disk": "The plate drawn has changes that are not on disk. Save the image first.",
    "a render as plate": "shows another picture with each render. Save it, and choose the file.",
    "nothing to check": "There is no clean plate to check. Choose one, or make one from the clip.",
    "plate gone": "The plate's file is missing",
    "empty range": "Frames 1 to 50 show nothing of the clip, which lasts from scene frame 101 to 112.",
    "backwards": "The first frame, 105, comes after the last, 102. Swap them.",
    "empty frame": "The clip shows nothing at frame 50; it lasts from 101 to 112.",
    "high numbers": "The clip's frames are numbered up to 1048575; Blender's compositor shows those up to 1048574.",
    "no model": "There is no model file chosen.",
    "no folder": "There is no output folder.",
    "unwritable": "cannot be written: Not a directory. Choose another.",
    "own job": "holds a job.yaml that Blender did not write. Choose another folder",
    "nothing to load": "There is no matte in",
    "no delivery": "No delivery is chosen.",
    "nothing to deliver": "There is no matte in",
    "nothing to show": "There is no cut-out to show. Switch on Cut-Out under Output",
    "no folder yet": "There is no folder",
    "check plate": "Expected a plate of this place; got another. Choose the right plate.",
    "crash": "The engine ended unexpectedly (exit code 3). Its last words:\nthe fake engine dies on purpose",
    "crash of all": "Matting: The engine ended unexpectedly (exit code 3). Its last words:",
    "after the crash": "",
    "clip gone": "The clip's file is missing",
    "no UTF-8": "sh?t.png. Rename the file or its folder.",
    "which node": "There are several matting nodes. Select the one you mean.",
    "same folder": "The node group Matting writes to",
    "python gone": "which the variable BGM_ENGINE_PYTHON names as the engine's. Correct or remove",
    "no engine": "The engine has no environment yet: make one in the preferences",
    "none named": "of yours, but name none. Name one, or choose Own Environment",
    "wrong python": "lacks packages that the engine needs (no module named",
    "named python gone": "or choose Own Environment and press Make Environment.",
    "engine again": "",
    "no strip": "No strip of footage is active. Select a movie or image strip in the sequencer",
    "another job": "A job is running. Wait for it to end, or cancel it",
    "offline": "Blender is offline.",
}


@pytest.mark.parametrize("version", VERSIONS)
def test_errors_are_sentences(version: str, archive: Path, fake_engine: Path, sequence: Path, tmp_path: Path) -> None:
    plate = tmp_path / "plate.png"
    plate.write_bytes(sequence.read_bytes())
    setup = {"zip": archive, "footage": sequence, "plate": plate, "python": fake_engine}
    result = run_blender(version, "errors.py", fake_engine, tmp_path, **setup)
    said = result["said"]
    assert "the engine needs" in result["drawn"]["wrong python"] and "CHECKMARK" not in result["drawn"]["wrong python"]
    assert "There is no Python" in result["drawn"]["gone"] and "CHECKMARK" not in result["drawn"]["gone"]
    words = "Installing failed (exit code 1): no space left."
    popped, panel = result["drawn"]["not made"]
    assert popped == [["Make the engine's environment", words]] and words in panel
    assert said.keys() == SENTENCES.keys()
    for case, sentence in SENTENCES.items():
        assert sentence in said[case] and bool(sentence) == bool(said[case]), f"{case}: {said[case]}"


@pytest.mark.parametrize("version", VERSIONS)
def test_strips_are_in_sync(
    version: str, archive: Path, fake_engine: Path, sequence: Path, movie: Path, other: Path, tmp_path: Path
) -> None:
    effect_end = {"frame_end": 100} if version == "4.5" else {"length": 100}
    setup = {
        "zip": archive,
        "footage": sequence,
        "movie": movie,
        "other": other,
        "sizes": [MOVIE_SIZE, (WIDTH, HEIGHT)],
    }
    result = run_blender(version, "strips.py", fake_engine, tmp_path, effect_end=effect_end, **setup)
    assert "The movie runs at 24.00 frames a second, the scene at 30.00" in result["wrong_rate"]
    assert result["before"] == ["bgm.set_up_strip"]
    assert "There is no clean plate." in result["no plate"] and "Set Up Matting" in result["no plate"]
    assert result["left behind"] == 0
    assert result["set up"] == ["bgm.matte_strip"] and result["matted"] == ["bgm.matte_strip", "bgm.add_strip"]
    # The movie's first frame is at 20, of which 23 to 28 are shown; channel 3 is taken. The image strip's first file,
    # number 1003, is at 40; channel 6 is muted, channel 7 locked. Only what is shown is matted.
    assert result["places"] == {
        "movie": [4, 23, 29, 23],
        "images": [8, 42, 47, 42],
        "no source": [1, 60, 61, 60],
    }
    assert result["numbers"] == {"movie": [4, 9], "images": [1005, 1009]}
    missing = "There is no cut-out yet for 2 of the 8 frames of the strip movie, from 21 on: they show nothing."
    assert result["stdout"].count(f"Warning: {missing} Matte the strip.") == 1
    assert result["in a meta strip"] == {"flip": True, "crop": 5, "origin": 0.25, "beside": True}
    assert "is reversed or strobed" in result["reversed"]
    for name, number, size in (
        ("movie", 6, MOVIE_SIZE),
        ("images", 1007, (WIDTH, HEIGHT)),
        ("of a farm", 1005, (WIDTH, HEIGHT)),
        ("again", 1007, (WIDTH, HEIGHT)),
    ):
        picture = read_image(result["renders"][name])
        alpha = alpha_of(number, *size) / 65535
        foreground = linear(foreground_of(number, *size))
        np.testing.assert_allclose(picture[..., 3], alpha, atol=2e-3)
        np.testing.assert_allclose(picture[..., :3], foreground * alpha[..., None], atol=2e-2)


@pytest.mark.parametrize("version", VERSIONS)
def test_strips_show_what_their_sources_show(
    version: str, archive: Path, fake_engine: Path, sequence: Path, movie: Path, tmp_path: Path
) -> None:
    setup = {"zip": archive, "footage": sequence, "movie": movie}
    result = run_blender(version, "strip_numbers.py", fake_engine, tmp_path, **setup)
    assert result["shown"] == {
        "gaps": [1001, 1004, 1005, 1006, 1007, 1008],
        "gaps, trimmed": [1004, 1005, 1006],
        "on twos": [1002, 1002, 1003, 1003],
        "a still": [1005] * 4,
        "held": [1005, 1005, 1005, 1006, 1007, 1007, 1007],
        "only held": [1007, 1007],
        "a movie, held": [6, 7, 8, 8, 8, 8, 8],
    }
    assert result["numbers"] == {
        name: [min(numbers), max(numbers)] for name, numbers in result["shown"].items()
    }  # what is held is matted once
    # What strips show, all where one is strobed, and what the settings say where a compositor has the node
    assert result["farm"] == [[1002, 1005, 12.0], [1002, 1012, 12.0], [1002, 1005, 12.0], [1002, 1012, 24.0]]
    errors = result["errors"]
    assert "expected shot_v2.1003.png, got shot_v2.1005.png. Make a strip of each" in errors.pop("unordered")
    assert "expected shot_v2.1008.png, got another.1008.png. Make a strip of each" in errors.pop("of two")
    assert set(errors.values()) == {""}


@pytest.mark.parametrize("version", VERSIONS)
def test_strips_keep_their_look(
    version: str, archive: Path, fake_engine: Path, sequence: Path, movie: Path, tmp_path: Path
) -> None:
    effect_end = {"frame_end": 60} if version == "4.5" else {"length": 32}
    copy = shutil.copy(movie, tmp_path / "copy.mp4")
    setup = {"zip": archive, "footage": sequence, "movie": movie, "copy": copy, "effect_end": effect_end}
    result = run_blender(version, "strip_looks.py", fake_engine, tmp_path, **setup)
    # Channel, first frame, end, content start: the cut-out of more frames gives way to what is on its channel
    assert result["once"] == [3, 23, 27, 23]
    assert result["again"] == [4, 21, 30, 21, 0.5, 7.0, False, "ALPHA_OVER"]
    assert result["images"] == [f"matte.{number:04d}.png" for number in range(2, 11)]
    assert result["above"] == [7, 22, 34, 22]
    assert result["both"] == [[4, 21, 30, 20], [7, 22, 34, 22]]
    assert result["moved"] == [4, 121, 130, 120]
    assert result["cut"] == [[4, 121, 126, 120], [4, 127, 130, 120], ["02", "10"]]
    assert result["source cut"] == [[3, 1000, 1010, 1000], [3, 1000, 1005, 1000], [4, 1005, 1010, 998]]
    assert result["spaces"][0] == ["Linear Rec.709", "Linear Rec.709", []]
    assert result["paths"] == ["//copy.mp4", str(sequence)]
    assert result["spaces"][1][:2] == ["Non-Color", "Non-Color"]
    (words,) = result["spaces"][1][2]
    assert "images is read as sRGB, but its clip shot_v2.1001.png as Non-Color" in words
    assert f"Warning: {words}" in result["stdout"]  # of Set Up Matting
    assert all(result["copied"].values()), result["copied"]
    end = "which its cut-out Matting take Matte.002 does not have. Copy them over if you want them."
    assert result["told"] == [
        [f"The strip graded has keyframes or drivers and modifiers, {end}"],
        [f"The strip graded has keyframes or drivers, {end}"],
        [],
    ]
    assert result["stdout"].count(f"Warning: The strip graded has keyframes or drivers, {end}") == 2  # Add to Sequencer
    shown = "Effect strips still show the strip movie whole, with its background: fast, soft. Mute them, and"
    assert [len(words) for words in result["effects"]] == [1, 0] and result["effects"][0][0].startswith(shown)
    assert result["renamed"] == [3, 600, 612, 600]
    assert result["deleted"] == ["The matte is made, but its strip deleted is gone.", True]
    (words,) = result["longer"]
    assert words.startswith("There is no cut-out yet for 2 of the 6 frames of the strip longer, from 804 on")
    operators, labels, error = result["no footage"]
    assert (operators, labels) == ([], ["Select a movie or image strip."])
    assert "No strip of footage is active. Select a movie or image strip in the sequencer" in error
    assert result["top"] == [
        "No channel above 128 is free for the cut-out; 128 is the last. Move strips down, then press Add Existing "
        "Matte: what is matted is kept.",
        True,
        False,
    ]
    assert result["below it"] == [128, 900, 912, 900]
    assert result["of a cut-out"] == [["bgm.matte_strip", "bgm.add_strip"], "", [128, 902, 908, 900]]
    assert result["out of reach"] == [128, 902, 908, 900]
    assert "No strip of footage is active" in result["without its source"]
    is_filled, first, again = result["long"]
    assert is_filled and again < 2 * first
    assert result["short again"] == [True, 900]
    assert "There is no cut-out to show. Switch on Cut-Out under Output" in result["older"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_other_operators(
    version: str, archive: Path, fake_engine: Path, sequence: Path, movie: Path, tmp_path: Path
) -> None:
    setup = {"zip": archive, "footage": sequence, "movie": movie}
    result = run_blender(version, "features.py", fake_engine, tmp_path, **setup)
    assert not result["at half size"]
    assert result["default"] == "//matting/Matting_shot_v2/"
    assert result["unsaved"] == str(Path.home() / "matting" / "Matting_shot_v2")
    assert result["saved"] == str(tmp_path / "matting" / "Matting_shot_v2")
    assert result["unknown icons"] == []
    assert result["mask"] == [WIDTH, HEIGHT]
    assert result["scene"] == [WIDTH, HEIGHT, 8, 19]
    assert result["slow"] == pytest.approx(0.4)
    assert result["engine"] == "Fake processor"
    # An image's first pixels are those at the bottom left
    assert result["preview"]["size"] == [WIDTH, HEIGHT]
    for number, name in ((1004, "packed"), (1003, "pixels")):
        alpha, foreground = alpha_of(number, WIDTH, HEIGHT) / 65535, foreground_of(number, WIDTH, HEIGHT) / 255
        expected = np.dstack([foreground, alpha])[-1, :2].reshape(-1)
        np.testing.assert_allclose(result["preview"][name], expected, atol=1 / 255)
    # Premultiplied, as Blender has floats; and the thumbnail's, encoded and over grey
    assert result["float preview"] == pytest.approx([0.125, 0.25 * 0.5 ** (1 / 2.2) + 0.75 * 0.4], abs=0.01)
    assert result["left behind"] == ["preview"]
    assert result["from clip"]["frames"] == [1003, 1004]
    assert result["from clip"]["footage"]["color_space"] == "srgb"
    assert result["findings"] == [["amber", "The plate is 9 pixels off. Turn alignment on.", "align"]]
    assert result["warnings"] == [
        "The clip lasts from scene frame 8 to 19; the other frames of 18 to 60 are left out.",
        "The plate is 134 x 90; it is scaled to the footage's 67 x 45.",
    ]
    words, warnings = result["other shape"]
    assert "a plate of the footage's shape" in words and not warnings  # that it is scaled
    scaled = "The plate is 64 x 48; it is scaled to the footage's 67 x 45."
    assert result["unread plates"] == ["auto", [scaled], "srgb", []]
    assert result["data"] == "Non-Color"
    found = "The plate is 9 pixels off. Turn alignment on."
    assert result["outcomes"] == [["ERROR", found], ["CANCEL", found], ["", ""]]
    assert Path(result["packed"]).name == "packed.png"
    assert result["packed again"] and result["packed anew"]
    assert {"Clean_Plate_v2.png", "Clean_Plate.exr"} <= set(result["plates"])
    assert not [name for name in result["plates"] if name.endswith(".part")]
    folder = tmp_path / "matting" / "Matting_shot_v2" / "delivery"
    assert result["delivered"] == f"Delivered into {folder}: preview at 24.0, webm at 24.0"
    words = "Deliveries have the engine's matte, without this node's Matte panel and masks: for those, render the node."
    assert result["rate"] == "30.0"
    assert result["delivery words"] == [[], [words], [words], [words]]
    picture = read_image(result["no foreground"])
    colors = linear(foreground_of(1003, WIDTH, HEIGHT) // 2) * alpha[..., None]
    np.testing.assert_allclose(picture[..., :3], colors, atol=5e-5)
    assert result["command"] == [0, "2 frames, 1003 to 1004", 1]
    warning = "Matting shot_v2: The fake engine has no network."
    assert {warning, f"Warning: {warning}"} <= set(result["stdout"].splitlines())  # of the command, of Matte All Nodes
    assert "is linked from another file" in result["linked"]
    assert result["linked clip"] == ""


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_day_brings(
    version: str, archive: Path, fake_engine: Path, sequence: Path, other: Path, tmp_path: Path
) -> None:
    for number in (8, 9, 11):  # Blender counts up to the gap
        (other.parent / f"b.{number:04d}.png").write_bytes(sequence.read_bytes())
    setup = {"zip": archive, "footage": sequence, "other": other}
    result = run_blender(version, "states.py", fake_engine, tmp_path, **setup)
    assert result["names"] == [
        "Matting",
        ["Matting b", "//matting/Matting_b/"],
        ["Matting shot_v2", "//matting/Matting_shot_v2/"],
    ]
    assert result["followed"] == ["Matting b", "//matting/Matting_b/"]
    assert "holds the matte of" in result["taken folder"] and str(sequence) in result["taken folder"]
    assert Path(result["plates"][0]).name != Path(result["plates"][1]).name
    assert result["sources"] == ["Alpha Matte", "Clip", "Alpha Matte"]
    assert result["with a gap"] == [False, "", True, 1, 5, False]
    assert result["made plate"] == ["IMAGE", "//", False]
    assert result["findings"] == [1, 0, 0]
    assert result["copy"] == ["other", "copy"]
    told = "Some of the finished frames were made without Foreground, so the node does without for all. "
    told += "Matte the whole clip with Foreground on: only what is missing is made."
    assert result["incomplete"] == [["Foreground"], ["Clip"], ["Clip", told], ["Foreground"]]
    assert result["copies"] == [
        ["Matting shot_v2 deleted", "//matting/Matting_shot_v2/"],
        ["Matting b.001", "//matting/Matting_b_001/"],
        ["Hero", "//matting/Matting_shot_v2/"],
        ["Matting shot_v2", "//matting/Matting_shot_v2/"],
    ]
    passed = "This footage has not been matted yet: the node passes it through."
    assert result["relinked"] == [
        ["Clip", "//matting/Matting_v2/", passed, False],
        ["Alpha Matte", "//matting/Matting_b_001/", "", True],
    ]
    assert result["accents"] == ["//matting/Matting_Caf\u00e9_Nu\u00f1oa-2/", "//matting/Matting_b_001/"]
    assert result["failed"] == ["ERROR", "ERROR"]
    assert result["stopped"] == "stopped"
    assert result["lengths"] == [6, 6]
    assert "the nodes Core Mask are missing" in result["broken"]
    assert result["broken status"] == result["broken"]
    assert result["second scene"] == [1004, 1005]
    assert result["queue"] == ["Matte shot_v2.1001.png, 2 waiting", "running", "waiting", "waiting"]
    assert "Matting shot_v2.003 is running or waiting" in result["twice"]
    ends, sources, icons = result["ends"]
    assert ends == ["finished", "cancelled", "finished"]
    assert sources == ["Alpha Matte", "Clip", "Alpha Matte"] and icons == ["CHECKMARK", "X", "CHECKMARK"]
    assert result["never begun"] == []
    assert result["engine gone"][0] == ["finished", "failed", "finished"] and "no-python" in result["engine gone"][1]
    words, count, ends = result["all"]
    assert "the nodes Core Mask are missing" in words and count == 3 and ends == ["finished"] * 3
    assert result["no clip"] == ""
    assert not result["busy"]


@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_is_taken_for_another(
    version: str, archive: Path, fake_engine: Path, sequence: Path, other: Path, tmp_path: Path
) -> None:
    setup = {"zip": archive, "footage": sequence, "other": other}
    result = run_blender(version, "mixups.py", fake_engine, tmp_path, **setup)
    whole = "1001-1012"  # the second time for footage that is newer
    plates = ["MakePlate 1001-1002", f"MakePlate {whole}", "Matte 1001-1002", f"Matte {whole}"]
    assert result["plates"] == [*plates, f"MakePlate {whole}", "Diagnose", f"Matte {whole}"]
    folder = tmp_path / "matting" / "Matting_shot_v2"
    made = {"matte": f"The matte is in {folder}", "plate": f"The clean plate is {folder}", "check": "The plate is"}
    for job, (status, plate, findings, shown) in result["other clip"].items():
        assert status.startswith(made[job]) and "the node Matting b no longer has this clip" in status
        assert (plate, findings, shown) == ("NONE", 0, "Alpha Matte")
    assert "the node Matting shot_v2 no longer has this clip" in result["other file"]
    for (message, images), start in zip(
        result["another file"], (made["matte"], made["plate"], "The prev"), strict=True
    ):
        assert message.startswith(start) and message.endswith("its node is no longer in this file.") and not images
    assert result["opened again"] == "12 frames, 1001 to 1012"
    assert result["with a warm engine"] == "Working"  # not "Starting the engine"
    assert result["two of one clip"] == [True, True]
    assert result["no users"] == ["", "", True]
    can_add, refusal, added = result["shader editor"]
    assert not can_add and "Add matting nodes in the compositor" in refusal and not added
    assert result["linked folder"] == str(folder)
    assert all("is linked from another file." in words for words in result["not kept"]), result["not kept"]
    assert result["linked strip"] and result["of one name"] and not result["local"]
    assert result["beside a linked one"] == "//matting/Matting_shot_v2/"
    assert result["made local"] == ["", str(tmp_path / "work" / "matting" / "Matting_shot_v2")]
    assert result["linked preview"] == ["", [8, 8]]
    assert result["renamed output"] == ["", "", ""]
    assert result["renamed control"] == [["Background", "Matte", "Crush", "White Level", "Dilate Size"], 0]
    unsaved, *errors, saved = result["first save"]
    assert unsaved == str(tmp_path / "home" / "matting" / "Matting_shot_v2") and errors == ["", ""]
    assert saved == str(tmp_path / "saved" / "matting" / "Matting_b")
    assert result["image editors"] == [[False, False, True, False], [False, False, False, True]]
    assert result["previews"] == ["Matting shot_v2", "Matting b"]
    assert f"holds the matte of {sequence}" in result["folder of another"]
    assert result["copied project"] == ["", "", ""]
    error, delivered, of_another = result["saved elsewhere"]
    assert not error and f"Delivered into {tmp_path / 'copy' / 'matting' / 'Matting_shot_v2' / 'delivery'}" in delivered
    assert f"There is no matte in {tmp_path / 'saved' / 'matting'}" in of_another
    *said, picture = result["still"]
    assert said == ["", "Preview of frame 50", "", "1 frame, 1", "", "Frame 1 loaded"]
    np.testing.assert_allclose(read_image(picture)[..., 0], alpha_of(1, WIDTH, HEIGHT) / 65535, atol=1e-6)
    *pictures, refused, error, before, first, after = result["from zero"]
    assert "holds the matte of" in refused and not error
    shown = zip([*pictures, before, first, after], (None, None, 0, 11, None, None, None, 1001, None), strict=True)
    for picture, number in shown:
        alpha = 0 if number is None else alpha_of(number, WIDTH, HEIGHT) / 65535
        np.testing.assert_allclose(read_image(picture)[..., 0], alpha, atol=1e-6)
    assert result["nested"] == "Second"
    assert result["~/mattes"] == str(Path.home() / "mattes")
    assert result["mattes/a"] == str(tmp_path / "mattes" / "a")
    assert result["//mattes\\b\\"] == str(tmp_path / "mattes" / "b")
    assert result["status bar"]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_swapped_and_deleted_later(
    version: str, archive: Path, fake_engine: Path, sequence: Path, movie: Path, other: Path, tmp_path: Path
) -> None:
    setup = {"zip": archive, "footage": sequence, "movie": movie, "other": other}
    result = run_blender(version, "changes.py", fake_engine, tmp_path, **setup)
    passed = "This footage has not been matted yet: the node passes it through."
    assert result["replaced file"] == 3 * [["Clip", passed], "Alpha Matte"]
    png, exr = [".png", "STRAIGHT", "sRGB"], [".exr", "PREMUL", "Linear Rec.709"]
    assert result["other format"] == [png, png, exr]
    assert "The plate tiles is tiled" in result["tiled"]
    assert result["outputs"] == [True, False]
    assert result["switched off"] == [["Clip", True], ["Foreground", False], ["Foreground", True]]
    assert "cannot be written" in result["taken name"] and not result["left behind"]
    assert result["pinned"] == [[1003, 1004], [1001, 1008], 8, 12]
    assert "The scene Scene is linked from another file." in result["linked scene"]
    assert result["still"] == [False, "", True, 5, 60]
    assert "There is no matting node." in result["nothing"]
    both, node, named = [True, True], [False, True], [True, False]
    assert result["deleted strip"] == [both, both, named, node, node, named]


def test_two_blenders_on_one_folder(archive: Path, fake_engine: Path, sequence: Path, tmp_path: Path) -> None:
    """The same file is open twice, say: neither takes the other's job or preview for its own."""

    def blender(first: int, last: int) -> Any:
        variables = {"BLENDER_USER_RESOURCES": str(tmp_path / f"user {first}")}
        setup = {"zip": archive, "footage": sequence, "frames": [first, last], "variables": variables}
        return run_blender("5.2", "two.py", fake_engine, tmp_path, **setup)["said"]

    with ThreadPoolExecutor(2) as both:
        one, two = both.map(blender, (1, 7), (6, 12))
    assert one == ["", "6 frames, 1001 to 1006", *[""] * 10]
    assert two == ["", "6 frames, 1007 to 1012", *[""] * 10]
    assert [path.name for path in (tmp_path / "results" / "preview").iterdir()] == ["preview.tga"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_studios_colour_configuration(
    version: str, archive: Path, fake_engine: Path, sequence: Path, tmp_path: Path
) -> None:
    variables = {"OCIO": "ocio://studio-config-latest"}  # ACES, in which no space has the name that Blender gives it
    # What is in linear light stays as it is; names of Blender, of the ACES configurations, and of their aliases
    linear = ["Linear Rec.2020", "ACEScg", "ACES - ACEScg", "ACES - ACES2065-1", "lin_ap1", "scene_linear"]
    linear += ["Linear ARRI Wide Gamut 3", "Input - ARRI - Linear - ALEXA Wide Gamut"]
    other = ["sRGB", "sRGB Encoded Rec.709 (sRGB)", "Output - sRGB", "ARRI LogC3", "ACEScct", ""]
    setup = {"zip": archive, "footage": sequence, "variables": variables, "spaces": linear + other}
    result = run_blender(version, "studio.py", fake_engine, tmp_path, **setup)
    assert result["exr"] == {space: space if space in linear else "Linear Rec.709" for space in linear + other}
    assert result["errors"] == ["", "", ""]
    assert result["alpha"] and result["foreground"] == result["preview"] == result["clip"]
    alpha, foreground = alpha_of(1001, WIDTH, HEIGHT) / 65535, foreground_of(1001, WIDTH, HEIGHT) / 255
    np.testing.assert_allclose(result["pixels"], np.dstack([foreground, alpha])[-1, :2].reshape(-1), atol=1 / 255)


@pytest.mark.parametrize("saved, opened", [("4.5", "5.2"), ("5.2", "4.5")])
def test_a_file_of_another_blender_opens(
    saved: str, opened: str, archive: Path, fake_engine: Path, sequence: Path, tmp_path: Path
) -> None:
    setup = {"zip": archive, "footage": sequence, "frame_start": 10, "frame_offset": 2, "frames": [8, 9, 19, 10]}
    old = run_blender(saved, "node.py", fake_engine, tmp_path, **setup)
    new = run_blender(opened, "open_other.py", fake_engine, tmp_path, zip=archive, blend=old["blend"])
    assert new["settings"] == {
        "is_matting": True,
        "plate_source": "NONE",
        "use_matte": True,
        "frame_range": "CLIP",
        "output_folder": "//matting/Matting_shot_v2/",
        "result_first": 1001,
        "status": "12 frames, 1001 to 1012",
        "detail": 0.25,
        "clip": "shot_v2.1001.png",
    }
    np.testing.assert_allclose(read_image(new["image"]), read_image(old["renders"]["Image 10"]), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sequence", "movie"])
def test_the_real_engine_in_blender(kind: str, archive: Path, shot: Any, tmp_path: Path) -> None:
    first = 1001 if kind == "sequence" else 1
    footage = shot.write_sequence(tmp_path / "footage", first) if first > 1 else shot.write_movie(tmp_path / "shot.mkv")
    plate = shot.write_plate(tmp_path / "plate.png")
    setup = {"zip": archive, "footage": footage, "plate": plate, "frame": 3, "size": [shot.width, shot.height]}
    result = run_blender("5.2", "real_engine.py", Path(sys.executable), tmp_path, **setup)
    assert f"holds the matte of {footage}" in result["refused"]
    for extension, renders in result["renders"].items():
        folder = tmp_path / extension
        name = f"{first + 2:04d}.{extension}"
        assert len(list((folder / "alpha").iterdir())) == 5
        alpha = read_image(folder / "alpha" / f"alpha.{name}")[..., 0]
        assert alpha.max() > alpha.min()  # it found something
        np.testing.assert_allclose(read_image(renders["Alpha"])[..., 0], alpha, atol=1e-6)
        foreground = read_image(folder / "foreground" / f"foreground.{name}")[..., :3]
        if extension == "png":
            foreground = linear(foreground * 255)
        np.testing.assert_allclose(read_image(renders["Image"])[..., :3], foreground * alpha[..., None], atol=5e-5)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
def test_no_engine_outlives_blender(archive: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "BLENDER_USER_RESOURCES": str(tmp_path / "user")}
    arguments = json.dumps({"zip": str(archive), "folder": str(tmp_path), "python": sys.executable})
    command = [str(blender_python("5.2")), str(ROOT / "tests" / "blender" / "dies.py"), arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == -9, done.stdout + done.stderr
    pid = int(done.stdout.partition("ENGINE ")[2].split()[0])
    end = time.monotonic() + 20
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not is_running(pid)


APP = Path(os.environ.get("BGM_BLENDER_APP", Path.home() / ".cache" / "bgm" / "blender-app"))


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command that runs things in the Blender application, with settings and an engine of the test's own."""
    if not (APP / ".complete").exists():
        pytest.skip(f"no Blender application in {APP}; scripts/blender_app build {APP} makes one (Linux, as root)")
    monkeypatch.setenv("BLENDER_USER_RESOURCES", str(tmp_path / "user"))
    monkeypatch.setenv("BGM_ENGINE_PYTHON", sys.executable)
    return [str(ROOT / "scripts" / "blender_app")]


@pytest.mark.slow
def test_the_farms_command(application: list[str], archive: Path, shot: Any, tmp_path: Path) -> None:
    footage = shot.write_sequence(tmp_path / "footage", first=1001, count=3)

    def blender(*arguments: Any) -> subprocess.CompletedProcess[str]:
        command = [*application, "run", str(APP), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=ROOT)

    installed = blender("--command", "extension", "install-file", "-r", "user_default", "-e", archive)
    assert 'Installed "bgm_matting"' in installed.stdout, installed.stdout + installed.stderr
    blend = tmp_path / "shot.blend"
    made = blender(
        "-b", "--python-exit-code", 1, "--python", ROOT / "tests" / "blender" / "make_file.py", "--", footage, blend
    )
    assert made.returncode == 0, made.stdout + made.stderr
    done = blender(blend, "--command", "bgm", "matte", "--save")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Matting shot: 3 frames, 1001 to 1003" in done.stdout
    assert len(list((tmp_path / "matting" / "Matting_shot" / "alpha").iterdir())) == 3
    assert "All 3 frames were up to date" in blender(blend, "--command", "bgm", "matte").stdout
    assert blender(blend, "--command", "bgm", "matte", "--node", "gone").returncode == 1


@pytest.mark.slow
def test_in_the_application(application: list[str], archive: Path, tmp_path: Path) -> None:
    sample = ROOT / "scripts" / "sample"
    arguments = {"zip": archive, "folder": tmp_path, "footage": sample / "footage.mp4", "plate": sample / "plate.png"}
    command = [*application, "gui", str(APP), "360", str(tmp_path / "end.png")]
    command += ["--python", str(ROOT / "tests" / "blender" / "gui.py"), "--", json.dumps(arguments, default=str)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=420, cwd=ROOT)
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert results, done.stdout[-6000:] + done.stderr[-6000:]
    result = json.loads(results[-1].removeprefix("RESULT "))
    pictures = ROOT / "artifacts" / "blender"
    pictures.mkdir(parents=True, exist_ok=True)
    for picture in tmp_path.glob("*.png"):
        shutil.copy(picture, pictures)
    assert "error" not in result, result["error"]
    assert result["fits"]
    assert result["preview"] == ["finished", "Preview of frame 10"]
    assert (result["state"], result["message"]) == ("finished", "24 frames, 1 to 24")
    assert result["wired"] == [1, 24, True]  # after an undo in the middle of the job
    assert result["undone"] and "its node is no longer in this file" in result["redone"][0] and result["redone"][1]
    assert (result["cancelled"], result["redo"], result["waited"]) == ("cancelled", True, "finished")
    assert result["other file"][0] == "finished" and "no longer in this file" in result["other file"][1]
    assert result["failure"][0] == "failed" and "plate.png" in result["failure"][1]
    assert result["moved"] == [7, 1] and result["relinked"] == [False, True, False, True]
    assert not result["in no compositor"]
    assert result["popped up"] == 3 * ["Matte footage.mp4"]  # two jobs without their node, one that failed
    assert result["during a move"]
    assert result["during a stroke"] == [True, True] and result["after a stroke"] == ["finished", 0]
    assert not is_running(result["engine"])  # it ended with Blender
    # A window that redraws takes a moment now and then; one that waits for the engine would not tick at all
    assert result["ticks"] > result["seconds"] and result["longest"] < 5.0


@pytest.mark.parametrize("version", VERSIONS)
def test_masks(version: str, archive: Path, fake_engine: Path, sequence: Path, tmp_path: Path) -> None:
    result = run_blender(version, "masks.py", fake_engine, tmp_path, zip=archive, footage=sequence)
    assert result["shown"] == ["TRACKING", None]
    assert result["new"] == ["Matting shot_v2 Core", "Matting shot_v2 Garbage", "MASK", True]
    assert result["sizes"] == [[WIDTH, HEIGHT], [200, 100]]
    renders = result["renders"]
    alpha = alpha_of(1003, WIDTH, HEIGHT) / 65535
    np.testing.assert_allclose(read_image(renders["without"])[..., 0], alpha, atol=1e-6)
    masked, garbage, core = (
        read_image(renders["Alpha"])[..., 0],
        slice(0, WIDTH // 4 - 1),
        slice(WIDTH * 3 // 4 + 2, WIDTH),
    )
    assert masked[:, garbage].max() == 0.0
    assert masked[:, core].min() == 1.0
    between = slice(WIDTH // 4 + 2, WIDTH * 3 // 4 - 1)
    np.testing.assert_allclose(masked[:, between], alpha[:, between], atol=1e-6)
    foreground = read_image(renders["Foreground"])[..., :3]
    written = foreground_of(1003, WIDTH, HEIGHT)
    np.testing.assert_allclose(foreground[:, between], linear(written)[:, between], atol=5e-5)
    np.testing.assert_allclose(foreground[:, core], linear(written // 2)[:, core], atol=5e-5)  # the clip itself


@pytest.mark.parametrize("version", VERSIONS)
def test_the_matte_is_finished_in_the_node(version: str, archive: Path, sequence: Path, tmp_path: Path) -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    alpha = np.clip((14 - np.hypot(x - 6, y - 22)) / 3, 0, 1).astype(np.float32)  # cut by the picture's left edge
    alpha = np.round(alpha * 65535) / 65535

    def levels(black: float, white: float) -> Any:
        return np.clip((alpha - black) / (white - black), 0, 1)

    def disc(radius: int) -> Any:
        y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
        return (x * x + y * y <= radius * radius).astype(np.uint8)

    color = np.uint8([200, 120, 40])
    around = cv2.dilate((alpha > 0).astype(np.uint8), np.ones((17, 17), np.uint8))
    for number, matte in ((1003, alpha), (1004, cv2.dilate(levels(0.2, 0.7), disc(2)))):
        for name, picture in (
            ("alpha", np.round(matte * 65535).astype(np.uint16)),
            ("foreground", around[..., None] * color[::-1]),
        ):
            (tmp_path / "results" / name).mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(tmp_path / "results" / name / f"{name}.{number}.png"), picture)
    result = run_blender(version, "controls.py", None, tmp_path, zip=archive, footage=sequence)
    shown = {name: read_image(path) for name, path in result["renders"].items()}
    assert result["panel"]
    assert result["values"] == 2 * [{"Black Level": 0.0, "White Level": 1.0, "Dilate Size": 0, "Blur Size": 0.0}]
    for output in ("Image", "Alpha", "Foreground"):
        for group in ("new", "renewed"):
            np.testing.assert_array_equal(shown[f"{group} {output}"], shown[f"old {output}"])
    mattes = {name.removesuffix(" Alpha"): picture[..., 0] for name, picture in shown.items() if "Alpha" in name}
    np.testing.assert_allclose(mattes["old"], alpha, atol=1e-6)

    np.testing.assert_allclose(mattes["levels"], levels(0.2, 0.7), atol=1e-5)
    np.testing.assert_array_equal(mattes["threshold"], alpha >= 0.5)
    np.testing.assert_allclose(mattes["dilate"], cv2.dilate(alpha, disc(3)), atol=1e-6)
    np.testing.assert_allclose(mattes["erode"], cv2.erode(alpha, disc(3)), atol=1e-6)
    blurred = cv2.GaussianBlur(alpha, (9, 9), 4 / 3, borderType=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(mattes["blur"], blurred, atol=1e-3)
    np.testing.assert_allclose(mattes["all"], mattes["one by one"], atol=1e-4)
    assert mattes["masked"][:, : WIDTH // 4 - 1].max() == 0.0 and mattes["masked"][:, WIDTH * 3 // 4 + 2 :].min() == 1.0

    clip = linear(foreground_of(1003, WIDTH, HEIGHT) // 2)
    colors = np.where(around[..., None], linear(color), np.where(mattes["grown"][..., None] > 0, clip, 0))
    assert np.any((around == 0) & (mattes["grown"] > 0.5))
    np.testing.assert_allclose(shown["grown Foreground"][..., :3], colors, atol=5e-4)  # no black rim
    np.testing.assert_allclose(shown["grown Image"][..., :3], colors * mattes["grown"][..., None], atol=5e-4)


@pytest.mark.parametrize("version", VERSIONS)
def test_blenders_tracks_drive_the_plate(
    version: str, archive: Path, fake_engine: Path, sequence: Path, tmp_path: Path
) -> None:
    result = run_blender(version, "tracks.py", fake_engine, tmp_path, zip=archive, footage=sequence)
    back = [1, 0, -9, 0, 1, 6, 0, 0, 1]  # three frames of (3, -2) pixels, undone
    np.testing.assert_allclose(result["stabilization"], back, atol=1e-3)
    np.testing.assert_allclose(result["plane"], back, atol=1e-3)
    assert "No track of the 2D stabilization" in result["nothing tracked"]
    assert result["known"] == [256, 256] and set(map(tuple, result["sizes"])) == {tuple(result["real"])}
    assert result["preview"] == ""
    assert "no plane track" in result["no plane"] and "not solved" in result["no camera"]


@pytest.mark.parametrize("version", VERSIONS)
def test_blenders_solver_drives_the_plate(version: str, archive: Path, tmp_path: Path) -> None:
    """A camera turns by four degrees over a texture: what Blender tracks and solves of it, against the truth."""
    lens, count, world = 1.2 * W, 12, scene(margin=120)
    tiles = np.random.default_rng(0).uniform(0, 1, (17, 24, 3)).astype(np.float32)  # corners for the tracker
    world = (world + cv2.resize(tiles, world.shape[1::-1], interpolation=cv2.INTER_NEAREST)) / 2
    to_middle, to_corner = (np.array([[1, 0, f * W / 2], [0, 1, f * H / 2], [0, 0, 1]]) for f in (-1, 1))
    poses = []
    for i in range(count):
        c, s = (f(np.radians(4 * i / (count - 1))) for f in (np.cos, np.sin))
        poses.append(to_corner @ np.array([[c, 0, lens * s], [0, 1, 0], [-s / lens, 0, c]]) @ to_middle)
        picture = shoot(world, poses[i], seed=i)
        assert cv2.imwrite(str(tmp_path / f"turn.{i + 1:04d}.png"), picture[..., ::-1])
    tracks = run_blender(
        version, "solved.py", None, tmp_path, zip=archive, footage=tmp_path / "turn.0001.png", lens=lens
    )
    grid = np.array([[[x, y]] for x in (40, 240, 440) for y in (30, 135, 240)], np.float64)
    for kind, allowed in {"CAMERA": 0.3, "PLANE": 0.6, "STABILIZATION": 4.0}.items():
        path = tmp_path / f"{kind}.json"
        path.write_text(tracks[kind])
        track = read_track(path)
        assert sorted(track) == list(range(1, count + 1))
        errors = []
        for number, matrix in track.items():
            true = cv2.perspectiveTransform(grid, np.linalg.inv(poses[0]) @ poses[number - 1])
            errors.append(np.linalg.norm(cv2.perspectiveTransform(grid, matrix) - true, axis=2).mean())
        assert max(errors) < allowed, (kind, errors)
    assert tracks["rewritten"] == []
    assert tracks["partly"] == [n for n in range(1, count + 1) if n != 8] and "frame 8" in tracks["refused"]
