# SPDX-License-Identifier: GPL-3.0-or-later
"""Garbage and core masks over a made-up matte of 0.5."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core import __main__ as command_line
from core import engine, frame_io, output_folder
from core.errors import FootageError, JobError, OutputError
from core.job import Job, Masks, MaskSource, Output, PlateSource, Source, read_job
from core.masks import MaskReader, _Track
from core.matting import Matte


class Half:
    """In place of the network: alpha 0.5, foreground grey, expected error 0.25 everywhere."""

    is_recurrent = False
    overlapping = staticmethod(nullcontext)

    def reset(self) -> None: ...

    def matte(self, src, *_):
        shape = src.shape[:2]
        return Matte(*(np.full(s, v, np.float32) for s, v in ((shape, 0.5), (src.shape, 0.5), (shape, 0.25))))


@pytest.fixture
def job(shot, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_warm_matter", lambda job: Half())
    first = shot.write_sequence(tmp_path / "in", first=1001, count=3)
    return Job(Source(str(first)), output=Output(str(tmp_path / "out")))


def write_mask(path: Path, values: np.ndarray) -> str:
    """(64, 96) 0 to 1 as 16-bit grey."""
    path.parent.mkdir(exist_ok=True)
    frame_io.write_image(path, np.round(values * 65535).astype(np.uint16))
    return str(path)


def with_masks(job: Job, garbage: str = "", core: str = "", invert: bool = False) -> Job:
    return replace(job, masks=Masks(MaskSource(garbage, invert), MaskSource(core, invert)))


def alpha(job: Job, number: int) -> np.ndarray:
    """(64, 96) 0 to 1."""
    return frame_io.read_image(Path(job.output.folder) / f"alpha/alpha.{number}.png")[..., 0] / 65535


@pytest.fixture
def ramp():
    """(64, 96): 0 in the first third, 1 in the last, a feather between."""
    return np.broadcast_to(np.clip(np.linspace(-1, 2, 96), 0, 1), (64, 96))


def test_garbage_and_core_by_hand(shot, job, tmp_path, ramp):
    garbage, core = write_mask(tmp_path / "garbage.png", ramp), write_mask(tmp_path / "core.png", ramp[:, ::-1])
    with pytest.raises(FootageError, match="shape"):
        engine.run_job(with_masks(job, write_mask(tmp_path / "tall.png", np.zeros((64, 32)))))
    engine.run_job(with_masks(job, garbage))
    assert np.allclose(alpha(job, 1001), 0.5 * (1 - ramp), atol=2e-5)
    engine.run_job(with_masks(job, core=garbage))
    assert np.allclose(alpha(job, 1001), np.maximum(0.5, ramp), atol=2e-5)
    engine.run_job(with_masks(job, garbage, core))  # the core, mirrored, wins where both claim a pixel
    assert np.allclose(alpha(job, 1001), np.maximum(0.5 * (1 - ramp), ramp[:, ::-1]), atol=2e-5)
    engine.run_job(with_masks(job, garbage, invert=True))
    assert np.allclose(alpha(job, 1001), 0.5 * ramp, atol=2e-5)


def test_the_core_shows_the_source_and_has_no_error(shot, job, tmp_path, ramp):
    result = engine.run_job(with_masks(job, core=write_mask(tmp_path / "core.png", ramp)))
    foreground = frame_io.read_image(Path(result["foreground"]))
    assert np.array_equal(foreground[:, 65:], shot.frame(0)[:, 65:])
    assert (foreground[:, :30] == 128).all()
    feather = 0.5 + ramp[..., None] * (shot.frame(0) / 255 - 0.5)
    assert np.abs(foreground / 255 - feather).max() < 0.6 / 255
    error = frame_io.read_image(Path(result["error"]))[..., 0]
    assert (error[:, 65:] == 0).all() and (error[:, :30] == 64).all()
    frames = json.loads(Path(result["report"]).read_text())["frames"]
    assert frames[0]["forced"] == pytest.approx(np.mean(np.maximum(0.5, ramp) - 0.5 > 1 / 255), abs=1e-4)


def test_animated_masks_follow_the_footage_s_numbers(shot, job, tmp_path):
    for number in (1000, 1001, 1002, 1003):
        stripe = np.zeros((64, 96))
        stripe[:, number - 1000] = 1
        path = write_mask(tmp_path / "masks" / f"core.{number}.png", stripe)
    engine.run_job(with_masks(job, core=path), frames=(1002, 1003))
    for number in (1002, 1003):
        assert np.argwhere(alpha(job, number)[0] == 1).tolist() == [[number - 1000]]
    Path(path).unlink()
    with pytest.raises(JobError, match=r"has 1000 to 1002 and lacks 1 of them, 1003 first"):
        engine.run_job(with_masks(job, core=str(tmp_path / "masks/core.1001.png")))


def test_movie_masks(shot, job, tmp_path):
    movie = shot.write_movie(tmp_path / "a.mkv", 4)
    masked = replace(with_masks(job, core=str(movie)), footage=Source(str(movie)))
    engine.run_job(masked, frames=(2, 4))
    for number in (2, 3, 4):
        expected = np.maximum(0.5, shot.frame(number - 1).max(axis=2) / 255)
        written = frame_io.read_image(Path(job.output.folder) / f"alpha/alpha.{number:04d}.png")[..., 0] / 65535
        assert np.allclose(written, expected, atol=2e-5)


def test_a_changed_mask_redoes_its_frames_only(job, tmp_path, monkeypatch):
    monkeypatch.setattr(output_folder, "PREROLL", 0)
    for number in (1001, 1002, 1003):
        path = write_mask(tmp_path / "masks" / f"core.{number}.png", np.zeros((64, 96)))
    masked = with_masks(job, core=path)
    engine.run_job(masked)
    assert engine.run_job(masked)["skipped"] == 3
    write_mask(tmp_path / "masks/core.1002.png", np.ones((64, 96)))
    assert engine.run_job(masked)["skipped"] == 2
    assert alpha(job, 1002).min() == 1 and alpha(job, 1001).max() < 0.51
    assert engine.run_job(with_masks(job, garbage=path))["skipped"] == 0  # the same files in another role


def test_a_still_mask_that_is_replaced_during_a_job_redoes_all(job, tmp_path):
    masked = with_masks(job, garbage=write_mask(tmp_path / "rig.png", np.zeros((64, 96))))
    engine.run_job(masked, on_progress=lambda p: p.done != 2 or write_mask(tmp_path / "rig.png", np.ones((64, 96))))
    assert engine.run_job(masked)["skipped"] == 0 and alpha(job, 1003).max() == 0


def test_inputs_are_not_written_over(shot, job, tmp_path):
    """An earlier matte of the same folder as a mask, say, perhaps by way of a link."""
    engine.run_job(job)
    folder, before = Path(job.output.folder), alpha(job, 1002)
    (tmp_path / "link").symlink_to(folder)
    for path in (folder / "alpha/alpha.1001.png", tmp_path / "link/alpha/alpha.1001.png"):
        for other in (
            with_masks(job, core=str(path)),
            replace(job, plate=PlateSource(str(path))),
            replace(job, footage=Source(str(path))),
        ):
            with pytest.raises(OutputError, match="Choose another"):
                engine.run_job(replace(other, detail=0.5))
            with pytest.raises(OutputError, match="Choose another"):
                engine.preview_frame(replace(other, output=Output(str(tmp_path))), 1001, folder)
    assert np.array_equal(alpha(job, 1002), before)
    elsewhere = replace(job.output, folder=str(tmp_path / "other"))
    assert engine.run_job(replace(with_masks(job, core=str(path)), output=elsewhere))["frames"] == 3


def test_a_mask_that_is_not_there_is_not_called_footage(job, tmp_path):
    with pytest.raises(FootageError, match="for the mask a file that exists; got no file .*none.png"):
        engine.run_job(with_masks(job, core=str(tmp_path / "none.png")))


def test_a_mask_of_another_size_is_said(job, tmp_path, ramp):
    warnings = []
    for rows, name in ((ramp, "fits.png"), (ramp[::2, ::2], "half.png")):
        engine.run_job(with_masks(job, garbage=write_mask(tmp_path / name, rows)), on_warning=warnings.append)
    (warning,) = warnings
    assert "half.png is 48 x 32" in warning and "96 x 64" in warning


def test_a_photograph_for_a_mask_is_told(shot, job, tmp_path, ramp):
    warnings = []
    for name, pixels in (
        ("grey", 0.5 * ramp + 0.25),
        ("photo", np.dstack([ramp, ramp[:, ::-1], ramp])),
        ("mask", ramp),
        ("none", 0 * ramp),
        ("in_alpha", 0 * ramp + 1),
    ):
        still = write_mask(tmp_path / f"{name}.png", pixels)
        engine.run_job(with_masks(job, garbage=still, core=still), on_warning=warnings.append)
    assert all("does not look like a mask" in warning for warning in warnings[:4])
    assert "grey.png" in warnings[0] and "photo.png" in warnings[3]
    assert len(warnings) == 6 and all("white all over: if its shape is in the alpha" in words for words in warnings[4:])


def test_masks_in_a_job_file_and_a_preview(job, tmp_path, ramp):
    write_mask(tmp_path / "core.png", ramp)
    (tmp_path / "job.yaml").write_text("{footage: {path: in/shot.1001.png}, masks: {core: {path: core.png}}}")
    read = read_job(tmp_path / "job.yaml")
    assert read.masks == Masks(core=MaskSource(str(tmp_path / "core.png")))
    result = engine.preview_frame(read, 1002, tmp_path / "preview")
    assert (frame_io.read_image(Path(result["alpha"]))[:, 65:] == 65535).all()
    (tmp_path / "job.yaml").write_text("{footage: {path: a.png}, masks: {holdout: {path: core.png}}}")
    with pytest.raises(JobError, match="holdout"):
        read_job(tmp_path / "job.yaml")


def test_command_line(job, tmp_path, ramp):
    arguments = ["matte", "--footage", job.footage.path, "--output", job.output.folder, "--frames", "1002"]
    masks = [
        "--garbage",
        write_mask(tmp_path / "garbage.png", ramp),
        "--core",
        write_mask(tmp_path / "c.png", ramp > 2),
    ]
    assert command_line.main([*arguments, *masks]) == 0
    assert np.allclose(alpha(job, 1002), 0.5 * (1 - ramp), atol=2e-5)


def test_the_most_that_masks_allow(job, tmp_path, ramp, monkeypatch):
    """For the frame that was just forced, a sequence is not opened a second time."""
    for number in (1001, 1002, 1003):
        garbage = write_mask(tmp_path / f"g/g.{number}.png", ramp if number == 1002 else 0 * ramp)
    core = write_mask(tmp_path / "core.png", ramp[:, ::-1])
    footage = frame_io.open_footage(job.footage.path)
    masks = MaskReader(with_masks(job, garbage, core).masks, footage, footage.numbers)
    read, opened = _Track._read, []
    monkeypatch.setattr(_Track, "_read", lambda track, frame: opened.append(track) or read(track, frame))
    src = np.zeros((64, 96, 3), np.uint8)
    for number in footage.numbers:
        masks.force(number, src, Half().matte(src))
        allowed = np.maximum(1 - ramp, ramp[:, ::-1]) if number == 1002 else np.ones((64, 96))
        np.testing.assert_allclose(masks.allowed(number), allowed, atol=2e-5)
    assert len(opened) == 3 + 1  # the core is a still
