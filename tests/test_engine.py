# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs from footage to files."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Thread

import cv2
import numpy as np
import OpenImageIO as oiio
import pytest
import torch

from core import __main__ as command_line
from core import claims, color, delivery, engine, frame_io, movies, output_folder, plate_files
from core.checkpoints import load_model
from core.claims import EXPIRY, Claims, process_name
from core.errors import CheckpointError, FootageError, JobError, OutputError, PlateError
from core.job import Job, Masks, MaskSource, Output, PlateSource, Source, job_text, read_job
from core.matting import Matter
from core.models import MattingBase
from core.movies import MovieFootage
from tests.plate_scenes import motion, scene, shoot

ROOT = Path(__file__).parent.parent


def make_job(footage: Path, plate: Path | None, folder: Path, **output) -> Job:
    return Job(Source(str(footage)), PlateSource(str(plate) if plate else ""), output=Output(str(folder), **output))


@pytest.fixture
def job(shot, tmp_path):
    return make_job(shot.write_movie(tmp_path / "a.mkv"), shot.write_plate(tmp_path / "plate.png"), tmp_path / "out")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.*") if p.suffix in (".png", ".exr")}


def read_png(path: Path | str) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_what_a_job_writes(shot, job):
    progress = []
    result = engine.run_job(job, on_progress=progress.append)
    folder = Path(job.output.folder)
    assert sorted(files_of(folder)) == [
        f"{n}/{n}.000{i}.png" for n in ("alpha", "error", "foreground") for i in range(1, 6)
    ]
    assert result["frames"] == 5 and result["skipped"] == 0 and not result["cancelled"]
    assert (progress[-1].done, progress[-1].total, progress[-1].frame_number) == (5, 5, 5)
    alpha = read_png(result["alpha"])
    assert alpha.dtype == np.uint16 and alpha.shape == (shot.height, shot.width)
    report = json.loads(Path(result["report"]).read_text())["frames"]
    assert [f["frame_number"] for f in report] == [1, 2, 3, 4, 5]
    assert abs(report[0]["coverage"] - alpha.mean() / 65535) < 1e-4


@pytest.mark.parametrize("format", ["png", "exr"])
def test_a_shot_without_a_subject_has_black_files_of_the_footages_size(shot, tmp_path, format):
    plate = shot.write_plate(tmp_path / "plate.png")
    result = engine.run_job(make_job(plate, plate, tmp_path / "out", format=format, foreground=True, matte=True))
    for name, channels in (("alpha", 1), ("foreground", 3), ("matte", 4)):
        pixels = oiio.ImageBuf(result[name]).get_pixels(oiio.FLOAT)
        assert pixels.shape == (shot.height, shot.width, channels) and not pixels.any()


def test_the_foreground_goes_on_for_8_pixels_on_every_side(shot, job, monkeypatch):
    from core.matting import Matte, Matter

    def spot(self, src, bgr, valid):
        pha = np.zeros(src.shape[:2], np.float32)
        pha[20:30, 40:60] = 0.5
        return Matte(pha, np.full(src.shape, 0.25, np.float32), np.zeros_like(pha))

    monkeypatch.setattr(Matter, "matte", spot)
    expected = np.zeros((shot.height, shot.width, 3), np.uint8)
    expected[12:38, 32:68] = 64
    assert np.array_equal(read_png(engine.run_job(job)["foreground"]), expected)


def test_where_alpha_is_one_the_foreground_is_the_source(shot, job, tmp_path, monkeypatch):
    """Half of the frame is made opaque; there the source's own pixels come back, beside it the network's, then none."""
    from core.matting import Matte, Matter

    def half(self, src, bgr, valid):
        pha = np.zeros(src.shape[:2], np.float32)
        pha[:, : src.shape[1] // 2] = 1
        return Matte(pha, np.full(src.shape, 0.25, np.float32), np.zeros_like(pha))

    monkeypatch.setattr(Matter, "matte", half)
    result = engine.run_job(job)
    foreground = read_png(result["foreground"])[..., ::-1]
    assert foreground.dtype == np.uint8
    assert np.array_equal(foreground[:, :48], shot.frame(0)[:, :48])
    assert (foreground[:, 48:56] == 64).all() and (foreground[:, 56:] == 0).all()

    light = (np.random.default_rng(0).random((shot.height, shot.width, 3)) * 6).astype(np.float16)
    frame_io.write_image(tmp_path / "light.exr", light)
    result = engine.run_job(make_job(tmp_path / "light.exr", None, tmp_path / "exr", matte=True))
    foreground = frame_io.read_image(Path(result["foreground"]))
    assert np.array_equal(foreground[:, :48], light[:, :48]) and light.max() > 5
    rgba = oiio.ImageBuf(result["matte"]).get_pixels(oiio.FLOAT)
    assert np.array_equal(rgba[:, :48, :3], light[:, :48].astype(np.float32)) and (rgba[:, 48:] == 0).all()


def test_a_network_that_gives_no_numbers_is_told(job, monkeypatch):
    """As diverged weights do, and half precision where it overflows: black frames, and a report that is no JSON."""
    from core.matting import Matte, Matter

    def broken(self, src, bgr, valid):
        return Matte(*(np.full(shape, np.nan, np.float32) for shape in (src.shape[:2], src.shape, src.shape[:2])))

    monkeypatch.setattr(Matter, "matte", broken)
    with pytest.raises(CheckpointError, match=r"numbers; got none for frame 1\. Set the precision to fp32"):
        engine.run_job(job)
    assert not list(Path(job.output.folder).glob("alpha/*"))


def test_exr_output_of_an_8_bit_source_is_scene_linear(shot, job, monkeypatch):
    from core import color
    from core.matting import Matte, Matter

    opaque = np.ones((shot.height, shot.width), np.float32)
    monkeypatch.setattr(
        Matter, "matte", lambda self, src, bgr, valid: Matte(opaque, np.zeros(src.shape, np.float32), opaque)
    )
    result = engine.run_job(replace(job, output=replace(job.output, format="exr")))
    light = frame_io.read_image(Path(result["foreground"])).astype(np.float32)
    assert np.array_equal(color.to_dtype(color.linear_to_srgb(light), np.dtype(np.uint8)), shot.frame(0))
    assert result["foreground_color_space"] == "linear"


def test_a_second_run_does_nothing_and_a_changed_setting_redoes(job):
    engine.run_job(job)
    stamps = {p: p.stat().st_mtime_ns for p in Path(job.output.folder).rglob("*.png")}
    assert engine.run_job(job)["skipped"] == 5
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert engine.run_job(replace(job, detail=0.5))["skipped"] == 0


def test_a_record_from_the_future_is_outdone(job):
    """By a machine whose clock is fast, under other settings: frames are done once more, not for ever."""
    engine.run_job(job)
    (log,) = (Path(job.output.folder) / "records").glob("*.jsonl")
    records = [json.loads(line) | {"key": "", "written": time.time() + 3600} for line in log.read_text().splitlines()]
    log.with_name("fast-1.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    delivering = replace(job, output=replace(job.output, deliver=("rgba",)))
    result = engine.run_job(delivering)
    assert result["skipped"] == 0 and result["deliveries"]
    assert all(frame["key"] for frame in json.loads(Path(result["report"]).read_text())["frames"])
    assert engine.run_job(job)["skipped"] == 5


@pytest.mark.parametrize("name", ["key", "files", "written"])
@pytest.mark.parametrize("value", [None, [1]])
def test_a_damaged_record_does_not_count(job, name, value):
    engine.run_job(job, (1, 1))
    (log,) = (Path(job.output.folder) / "records").glob("*.jsonl")
    damaged = json.loads(log.read_text()) | {"written": time.time() + 9, name: value}
    if value is None:
        del damaged[name]
    log.with_name("other-1.jsonl").write_text(json.dumps(damaged))
    assert engine.run_job(job, (1, 1))["skipped"] == 1


def test_a_record_that_was_cut_off_takes_no_other_with_it(job):
    """In a container each run has the same number, and goes on in the log of the killed one."""
    engine.run_job(job, (1, 2))
    (log,) = (Path(job.output.folder) / "records").glob("*.jsonl")
    log.write_text(log.read_text().rstrip()[:-5])
    assert engine.run_job(job, (1, 3))["skipped"] == 1
    assert engine.run_job(job, (1, 3))["skipped"] == 3


def test_a_damaged_or_deleted_result_is_done_again(job):
    result = engine.run_job(job)
    before = files_of(Path(job.output.folder))
    Path(result["alpha"]).write_bytes(b"cut")
    Path(job.output.folder, "error/error.0004.png").unlink()
    assert engine.run_job(job)["skipped"] == 3
    assert files_of(Path(job.output.folder)) == before


def test_a_changed_plate_redoes_everything(shot, job):
    engine.run_job(job)
    frame_io.write_image(Path(job.plate.path), 255 - shot.plate)
    assert engine.run_job(job)["skipped"] == 0


def test_cancel_keeps_what_is_written_and_a_second_run_gives_the_same_files(job, tmp_path):
    whole = replace(job, output=Output(str(tmp_path / "whole")))
    engine.run_job(whole)
    seen = []
    result = engine.run_job(job, on_progress=seen.append, cancelled=lambda: len(seen) > 2)
    assert result["cancelled"] and 0 < result["frames"] < 5
    result = engine.run_job(job)
    assert result["frames"] == 5 and 0 < result["skipped"] < 5
    assert files_of(Path(job.output.folder)) == files_of(tmp_path / "whole")


def test_ranges_one_after_the_other_equal_one_go(job, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "SEGMENT", 2)
    monkeypatch.setattr(output_folder, "PREROLL", 1)
    engine.run_job(job)
    whole = files_of(Path(job.output.folder))
    parts = replace(job, output=Output(str(tmp_path / "parts")))
    engine.run_job(parts, frames=(1, 2))
    engine.run_job(parts, frames=(3, 4))
    engine.run_job(parts, frames=(5, 5))
    assert files_of(tmp_path / "parts") == whole


def test_without_a_plate_the_memory_carries_over_a_segment_s_end(job, tmp_path, monkeypatch):
    """Segments of two frames give what one go through all frames gives."""
    job = replace(job, plate=PlateSource())
    engine.run_job(job)
    monkeypatch.setattr(engine, "SEGMENT", 2)
    cut = replace(job, output=Output(str(tmp_path / "cut")))
    engine.run_job(cut)
    assert files_of(tmp_path / "cut") == files_of(Path(job.output.folder))
    for memory in (tmp_path / "cut/records").glob("memory.*"):
        memory.unlink()
    monkeypatch.setattr(output_folder, "PREROLL", 0)
    engine.run_job(replace(cut, output=Output(str(tmp_path / "fresh"))), frames=(3, 4))
    assert files_of(tmp_path / "fresh")["alpha/alpha.0004.png"] != files_of(tmp_path / "cut")["alpha/alpha.0004.png"]


def test_a_segment_that_is_recorded_whole_has_left_its_memory(job, tmp_path, monkeypatch):
    """Else a run that is killed between both would leave the next segment to start from nothing."""
    monkeypatch.setattr(engine, "SEGMENT", 2)
    there, write = [], engine.OutputFolder.write

    def spying(results, number, *args):
        there.append((number, results._memory_path(number).is_file()))
        write(results, number, *args)

    monkeypatch.setattr(engine.OutputFolder, "write", spying)
    engine.run_job(job)
    assert dict(there) == {1: False, 2: True, 3: False, 4: True, 5: True}


def test_sequence_numbers_and_gaps(shot, tmp_path):
    first = shot.write_sequence(tmp_path / "in", first=1001)
    (tmp_path / "in/shot.1003.png").unlink()
    warnings = []
    result = engine.run_job(make_job(first, None, tmp_path / "out"), frames=(1002, 1004), on_warning=warnings.append)
    assert [p.name for p in sorted((tmp_path / "out/alpha").iterdir())] == ["alpha.1002.png", "alpha.1004.png"]
    assert result["first"] == 1002 and "lacks 1" in warnings[0]


def test_a_frame_in_a_gap_is_missing_on_disk(shot, tmp_path):
    first = shot.write_sequence(tmp_path / "in", first=1001)
    for number in (1003, 1004):
        (tmp_path / f"in/shot.{number}.png").unlink()
    job = make_job(first, None, tmp_path / "out")
    with pytest.raises(JobError, match="frame 1003; got .*no such file"):
        engine.run_job(job, frames=(1003, 1003))
    with pytest.raises(JobError, match="frames 1003 to 1004; got .*no such file"):
        engine.run_job(job, frames=(1003, 1004))
    with pytest.raises(JobError, match="overlaps"):
        engine.run_job(job, frames=(1, 1000))


def test_frames_of_older_settings_are_told(job, tmp_path):
    """By a part that is done otherwise, by a job that is cancelled, and to who delivers them."""
    folder, warnings, seen = Path(job.output.folder), [], []
    engine.run_job(job, on_warning=warnings.append)
    assert warnings == [] and delivery.read_finished(folder).older == []
    other = replace(job, detail=0.5)
    engine.run_job(other, frames=(2, 3), on_warning=warnings.append)
    assert warnings == [
        "Frames 1, 4-5 were made with older settings or footage: run the job for all frames, or delete them."
    ]
    assert delivery.read_finished(folder).older == [1, 4, 5]
    assert delivery.older_words([4]).startswith("Frame 4 was") and delivery.older_words([4]).endswith("or delete it.")
    engine.run_job(other, on_warning=warnings.append)
    assert len(warnings) == 1 and delivery.read_finished(folder).older == []
    engine.run_job(job, on_progress=seen.append, on_warning=warnings.append, cancelled=lambda: len(seen) > 2)
    assert len(warnings) == 2 and "5 were made with older settings" in warnings[1]


def test_files_of_another_format_or_kind_beside_the_frames_are_told(job):
    """A format that is changed, or a plate beside a matte/ that is no longer asked for: nobody wrote them anew."""
    folder, told = Path(job.output.folder), []
    job = replace(job, output=replace(job.output, format="png", matte=True))
    engine.run_job(job, on_warning=told.append)
    engine.run_job(replace(job, output=replace(job.output, matte=False)), on_warning=told.append)
    assert told == []  # what is there is as it would be now
    exr = replace(job, output=replace(job.output, format="exr", matte=False, error=False))
    engine.run_job(exr, on_warning=told.append)
    assert told == [
        f"Beside these frames, {folder} holds files of earlier runs with other settings, 20 in alpha, error, "
        "foreground, matte: alpha/alpha.0001.png first. Delete them."
    ]
    for path in folder.glob("*/*.png"):
        path.unlink()
    engine.run_job(exr, on_warning=told.append)
    assert len(told) == 1


def test_frames_that_the_footage_no_longer_has_are_told(shot, tmp_path):
    first, warnings = shot.write_sequence(tmp_path / "in", first=1), []
    job = make_job(first, None, tmp_path / "out")
    engine.run_job(job)
    for number in (4, 5):
        (tmp_path / f"in/shot.{number:04}.png").unlink()
    engine.run_job(job, on_warning=warnings.append)
    assert "Frames 4-5 were made with older settings or footage" in warnings[0]
    assert delivery.read_finished(tmp_path / "out").older == [4, 5]


def test_a_frame_that_is_replaced_during_a_job_is_done_again(shot, tmp_path, monkeypatch):
    read, replaced = frame_io.read_image, []

    def replace_after(path):
        pixels = read(path)
        if path.name == "shot.0003.png" and not replaced:
            replaced.append(frame_io.write_image(path, 255 - pixels))
        return pixels

    monkeypatch.setattr(frame_io, "read_image", replace_after)
    job = make_job(shot.write_sequence(tmp_path / "in", first=1), None, tmp_path / "out")
    engine.run_job(job)
    assert replaced and engine.run_job(job)["skipped"] == 2


def test_odd_sizes(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (61, 97, 3), np.uint8)
    frame_io.write_image(tmp_path / "a.png", pixels)
    result = engine.run_job(make_job(tmp_path / "a.png", tmp_path / "a.png", tmp_path / "out"))
    assert read_png(result["alpha"]).shape == (61, 97)


def test_plate_of_another_size_is_scaled_and_of_another_shape_refused(shot, job, tmp_path):
    warnings = []
    small = frame_io.resize(shot.plate, 48, 32)
    frame_io.write_image(tmp_path / "small.png", small)
    engine.run_job(replace(job, plate=PlateSource(str(tmp_path / "small.png"))), on_warning=warnings.append)
    assert "48 x 32" in warnings[0]
    frame_io.write_image(tmp_path / "tall.png", small[:, :20])
    with pytest.raises(PlateError, match=r"tall\.png of 20 x 32"):
        engine.run_job(replace(job, plate=PlateSource(str(tmp_path / "tall.png"))))


def test_a_plate_that_is_tagged_to_be_turned_is_told(job, tmp_path):
    """As phones do: everybody but Blender and the engine shows it upright."""
    image = oiio.ImageBuf(job.plate.path)
    image.specmod().attribute("Orientation", 6)
    image.write(str(tmp_path / "plate.jpg"))
    told = []
    engine.run_job(replace(job, plate=PlateSource(str(tmp_path / "plate.jpg")), frames=(1, 1)), on_warning=told.append)
    assert len(told) == 1 and told[0].startswith("plate.jpg is tagged to be turned") and "save it turned" in told[0]


def test_a_track_lays_the_plate(shot, job, tmp_path):
    """A plate shot 24 pixels to the side serves where a track says so, and is marked where it does not reach."""
    moved = np.roll(shot.plate, 24, axis=1)
    frame_io.write_image(tmp_path / "moved.png", moved)
    track = {str(n): [1, 0, 24, 0, 1, 0, 0, 0, 1] for n in range(1, 6)}
    (tmp_path / "track.json").write_text(json.dumps(track), encoding="utf-8-sig")  # as editors on Windows do
    plate = PlateSource(str(tmp_path / "moved.png"), align="off", match=False)
    untracked = engine.run_job(replace(job, plate=plate, output=Output(str(tmp_path / "untracked"))))
    result = engine.run_job(replace(job, plate=replace(plate, track=str(tmp_path / "track.json"))))
    reports = [json.loads(Path(r["report"]).read_text())["frames"][0] for r in (untracked, result)]
    assert reports[0].get("plate_coverage", 1.0) == 1.0 and abs(reports[1]["plate_coverage"] - 72 / 96) < 0.03
    error = read_png(result["error"])
    assert error[:, -12:].min() >= 0.2 * 255
    job = replace(job, plate=replace(plate, track=str(tmp_path / "track.json")))
    del track["4"]
    (tmp_path / "track.json").write_text(json.dumps(track))
    with pytest.raises(JobError, match="frames 1 to 5; got none for frame 4"):
        engine.run_job(job)
    (tmp_path / "track.json").write_text("{}")
    with pytest.raises(JobError, match="got none for frame 1"):
        engine.run_job(job)
    (tmp_path / "track.json").write_text('{"1": [1, 2]}')
    with pytest.raises(JobError, match="nine numbers"):
        engine.run_job(replace(job, plate=replace(plate, track=str(tmp_path / "track.json"))))


def test_a_track_redoes_the_frames_that_it_lays_elsewhere(job, tmp_path):
    def run(track):
        (tmp_path / "track.json").write_text(json.dumps({str(n): matrix for n, matrix in track.items()}))
        return engine.run_job(job, frames=(2, 5))["skipped"]

    job = replace(job, plate=replace(job.plate, track=str(tmp_path / "track.json")))
    track = {n: [1, 0, n / 2, 0, 1, 0, 0, 0, 1] for n in range(1, 6)}
    assert [run(track), run(track)] == [0, 4]
    assert run(track | {7: track[1]}) == 4  # more of the clip is tracked
    assert run(track | {4: track[5]}) == 2  # what the network saw before a frame counts, too
    del track[1]
    assert run(track) == 0  # frame 1, before the range, is now laid as frame 2


def test_guessed_parts_of_a_plate_are_not_trusted(shot, job, tmp_path):
    job = replace(job, plate=replace(job.plate, align="off", match=False))
    trusting = read_png(engine.run_job(job)["error"])
    coverage = np.full((shot.height, shot.width), 255, np.uint8)
    coverage[:, 60:] = 0
    frame_io.write_image(plate_files.coverage_path(Path(job.plate.path)), coverage)
    error = read_png(engine.run_job(job)["error"])
    assert trusting[:, 72:].min() < 0.1 * 255 and error[:, 72:].min() >= 0.2 * 255
    np.testing.assert_array_equal(error[:, :40], trusting[:, :40])


def test_bad_input(shot, job, tmp_path):
    with pytest.raises(FootageError, match="for the plate a file that exists"):
        engine.run_job(replace(job, plate=PlateSource(str(tmp_path / "none.png"))))
    with pytest.raises(JobError, match="1-5"):
        engine.run_job(job, frames=(50, 60))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can be written"):
        engine.run_job(replace(job, output=Output(str(tmp_path / "file/out"))))
    with pytest.raises(OutputError, match="can be written; got .*/file: File exists"):
        engine.run_job(replace(job, output=Output(str(tmp_path / "file"))))
    (tmp_path / "error").write_text("")
    with pytest.raises(OutputError, match="can be written; got .*error: File exists"):  # what is in the way
        engine.run_job(replace(job, output=Output(str(tmp_path))))
    frame_io.write_image(tmp_path / "light.exr", np.zeros((4, 4, 3), np.float16))
    with pytest.raises(JobError, match="PNG cannot hold"):
        engine.run_job(make_job(tmp_path / "light.exr", None, tmp_path / "png", format="png"))


def test_an_unreadable_frame_stops_the_job_and_keeps_the_frames_before(shot, tmp_path):
    first = shot.write_sequence(tmp_path / "in", count=5)
    (tmp_path / "in/shot.0004.png").write_bytes(b"broken")
    job = make_job(first, None, tmp_path / "out")
    with pytest.raises(FootageError, match=r"shot\.0004\.png"):
        engine.run_job(job)
    assert len(list((tmp_path / "out/alpha").iterdir())) == 3
    assert engine.run_job(job, (5, 5))["frames"] == 1  # the frames before a range only fill the memory
    frame_io.write_image(tmp_path / "in/shot.0004.png", shot.frame(3))
    assert engine.run_job(job)["skipped"] == 3


def test_a_preview_sees_a_plate_and_a_movie_that_changed(shot, job, tmp_path):
    """Both are kept from one preview to the next, as long as they are the same files."""
    job = replace(job, plate=replace(job.plate, align="off", match=False))
    first = read_png(engine.preview_frame(job, 1, tmp_path / "a")["alpha"])
    frame_io.write_image(Path(job.plate.path), shot.frame(0))
    second = read_png(engine.preview_frame(job, 1, tmp_path / "b")["alpha"])
    assert not np.array_equal(first, second)
    shot.write_movie(tmp_path / "a.mkv", 9)
    assert Path(engine.preview_frame(job, 9, tmp_path / "c")["alpha"]).is_file()


@pytest.mark.parametrize("name", ["b.mkv", "b.MTS", "b"])  # as camcorders name them, or nobody
def test_a_second_preview_of_a_frame_does_not_decode_it_again(shot, job, tmp_path, monkeypatch, name):
    opened, decoded, open_movie, decode = [], [], MovieFootage.__init__, MovieFootage.frames
    monkeypatch.setattr(MovieFootage, "__init__", lambda self, *args: opened.append(args) or open_movie(self, *args))
    monkeypatch.setattr(MovieFootage, "frames", lambda self, n: decoded.append(n) or decode(self, n))
    job = replace(job, footage=Source(str(shot.write_movie(tmp_path / "a.mkv").rename(tmp_path / name))))
    for number in (1, 1, 2):
        engine.preview_frame(job, number, tmp_path / "a")
    assert decoded == [[1], [2]] and len(opened) == 1


@pytest.mark.parametrize(("scale", "reads"), [(1, 1), (2, 2)])  # of another size: as it is, and as it is needed
def test_previews_read_a_plate_no_further_time(shot, job, tmp_path, monkeypatch, scale, reads):
    frame_io.write_image(Path(job.plate.path), np.kron(shot.plate, np.ones((scale, scale, 1), np.uint8)))
    read, reading = [], frame_io.read_image
    monkeypatch.setattr(frame_io, "read_image", lambda path: read.append(path) or reading(path))
    for number in (1, 2, 1):
        engine.preview_frame(job, number, tmp_path / "a")
    assert len(read) == reads


def test_a_preview_says_what_is_wrong_with_its_plate(job, tmp_path):
    whole = Path(job.plate.path).read_bytes()
    Path(job.plate.path).write_text("no picture")
    with pytest.raises(FootageError, match=r"for the plate .*plate\.png"):
        engine.preview_frame(job, 1, tmp_path / "a")
    Path(job.plate.path).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FootageError, match=r"for the plate .*plate\.png"):
        engine.preview_frame(job, 1, tmp_path / "a")


def test_a_plate_of_another_place_is_told_once(job, tmp_path, monkeypatch):
    """By a run and by a preview; not where the plate is right, or nothing can be told from a blank frame."""
    monkeypatch.setattr(engine, "SEGMENT", 2)
    right, there = [], []
    engine.run_job(job, on_warning=right.append)
    engine.preview_frame(job, 2, tmp_path / "preview", on_warning=right.append)
    blank = frame_io.write_image(tmp_path / "blank.png", np.full((64, 96, 3), 60, np.uint8)) and tmp_path / "blank.png"
    engine.run_job(
        replace(job, footage=Source(str(blank)), output=Output(str(tmp_path / "b"))), on_warning=right.append
    )
    assert right == []
    frame_io.write_image(Path(job.plate.path), (scene(5)[80:144, 80:176] * 255).astype(np.uint8))
    assert engine.run_job(job, on_warning=there.append)["frames"] == 5
    engine.preview_frame(job, 2, tmp_path / "preview", on_warning=there.append)
    assert len(there) == 2 and there[0] == there[1]
    assert "does not seem to show this place" in there[0] and "Choose the plate" in there[0]


def test_a_cut_to_another_place_is_told_where_it_is(job, shot, tmp_path):
    first = shot.write_sequence(tmp_path / "in")
    for number in (4, 5):
        pixels = (scene(number)[80:144, 80:176] * 255).astype(np.uint8)
        frame_io.write_image(first.with_name(f"shot.{number:04d}.png"), pixels)
    told = []
    engine.run_job(replace(job, footage=Source(str(first))), on_warning=told.append)
    assert len(told) == 1 and told[0].startswith("Frame 4 shows nothing of the plate") and "job of its own" in told[0]


def test_bars_that_the_plate_has_not_are_told_once(job, shot, tmp_path, monkeypatch):
    """By a run and by a preview; not where the artist's masks cover them."""
    monkeypatch.setattr(engine, "SEGMENT", 2)
    first = shot.write_sequence(tmp_path / "in")
    for number in range(1, 6):
        pixels = shot.frame(number)
        pixels[:, :12] = 2
        frame_io.write_image(first.with_name(f"shot.{number:04d}.png"), pixels)
    job, told = replace(job, footage=Source(str(first))), []
    engine.run_job(job, on_warning=told.append)
    engine.preview_frame(job, 1, tmp_path / "preview", on_warning=told.append)
    bars = np.where((pixels == 2).all(axis=(0, 2), keepdims=True), np.uint8(255), np.uint8(0) * pixels)
    frame_io.write_image(tmp_path / "bars.png", bars)
    masks = Masks(garbage=MaskSource(str(tmp_path / "bars.png")))
    engine.run_job(replace(job, masks=masks), on_warning=told.append)
    assert len(told) == 2 and told[0] == told[1] and told[0].startswith("Frame 1 is black") and "Crop" in told[0]
    frame_io.write_image(tmp_path / "bars.png", np.ascontiguousarray(bars[:, ::-1]))
    engine.run_job(replace(job, masks=masks), on_warning=told.append)
    assert len(told) == 3 and told[2].startswith("Frame 1 is black")


def test_the_black_before_a_fade_is_no_subject(job, shot, tmp_path, monkeypatch):
    """Not even where a whole segment is black."""
    monkeypatch.setattr(engine, "SEGMENT", 2)
    matte, looked_at = Matter.matte, []

    def watched(self, src, *arguments):
        looked_at.append(src.max())
        return matte(self, src, *arguments)

    monkeypatch.setattr(Matter, "matte", watched)
    first = shot.write_sequence(tmp_path / "in")
    for number in (1, 2):
        frame_io.write_image(first.with_name(f"shot.{number:04d}.png"), np.full((64, 96, 3), 3, np.uint8))
    engine.run_job(replace(job, footage=Source(str(first))), on_warning=pytest.fail)
    alphas = [frame_io.read_image(path).max() for path in sorted(Path(job.output.folder).glob("alpha/*"))]
    assert alphas[:2] == [0, 0] and min(alphas[2:]) > 60000 and min(looked_at) > 3


def test_a_plate_that_is_a_frame_with_somebody_is_told_and_changes_nothing(job, shot, tmp_path, monkeypatch):
    frame_io.write_image(Path(job.plate.path), shot.frame(2))
    found, told = [0.0], []

    def lone_matte(matter):
        def matte(src, bgr):
            matter.reset()
            matter.matte(src, None)
            return np.full(src.shape[:2], found[0], np.float32)

        return matte

    monkeypatch.setattr(engine, "_lone_matte", lone_matte)
    engine.run_job(job, on_warning=told.append)
    assert told == []
    before, found[0] = files_of(Path(job.output.folder)), 1.0
    engine.run_job(replace(job, output=Output(str(tmp_path / "other"))), on_warning=told.append)
    assert len(told) == 1 and told[0].startswith("The plate is frame 3 of the shot, and someone")
    monkeypatch.setattr(engine, "is_same_picture", lambda src, bgr: False)
    engine.run_job(replace(job, output=Output(str(tmp_path / "unseen"))), on_warning=told.append)
    assert len(told) == 1
    assert before == files_of(tmp_path / "other") == files_of(tmp_path / "unseen")


def test_beside_a_network_that_needs_a_plate_the_default_one_finds_somebody(shot):
    """In a plate that is a frame of the shot, and for the doctor: it can do without a plate."""
    matters = Matter(MattingBase("mobilenetv2").eval(), "cpu"), engine._warm_matter(Job(Source(), device="cpu"))
    paper, default = (engine._lone_matte(matter)(shot.frame(2), None) for matter in matters)
    assert paper.shape == (64, 96) and np.array_equal(paper, default)


def test_a_paper_s_network_stays_while_the_default_one_looks_for_somebody(shot, job, tmp_path, monkeypatch):
    """Each preview loaded both anew."""
    loaded = []

    def load(path: Path) -> torch.nn.Module:
        loaded.append(path.name)
        return MattingBase("mobilenetv2").eval() if path.name == "paper.pth" else load_model(path)

    monkeypatch.setattr(engine, "load_model", load)
    monkeypatch.setattr(engine, "find_wrong_place", lambda src, bgr, valid, matte: matte(src, None)[:0].any() or None)
    for cache in (engine._load_matter, engine._load_beside):
        cache.cache_clear()
    (tmp_path / "paper.pth").write_bytes(b"")
    paper = replace(job, model=str(tmp_path / "paper.pth"))
    for number in (1, 2):
        engine.preview_frame(paper, number, tmp_path / "preview")
    assert loaded == ["paper.pth", "default.safetensors"]
    for cache in (engine._load_matter, engine._load_beside):
        cache.cache_clear()


def test_preview_is_one_frame_in_its_own_folder(job, tmp_path):
    with pytest.raises(JobError, match="of the preview's own; got .*out, which is the job's"):
        engine.preview_frame(job, 3, tmp_path / "preview/../out")  # whose matte the job would keep
    result = engine.preview_frame(job, 3, tmp_path / "preview")
    assert Path(result["alpha"]) == tmp_path / "preview/alpha/alpha.0003.png" and Path(result["alpha"]).is_file()
    assert not Path(job.output.folder).exists()


def test_a_plate_does_not_take_the_place_of_footage(shot, tmp_path):
    first = shot.write_sequence(tmp_path / "in")
    before = (tmp_path / "in/shot.0004.png").read_bytes()
    with pytest.raises(JobError, match=r"a file of its own; got .*shot\.0004\.png"):
        engine.make_plate(Source(str(first)), tmp_path / "in/../in/shot.0004.png")
    assert (tmp_path / "in/shot.0004.png").read_bytes() == before
    with pytest.raises(JobError, match=r"shot\.0000\.png, which would be a frame of the footage"):
        engine.make_plate(Source(str(first)), tmp_path / "in/../in/shot.0000.png")
    assert not (tmp_path / "in/shot.0000.png").exists()


def test_a_plate_of_another_plate_s_name_is_told(shot, tmp_path):
    """What lies beside a plate goes by its name without the ending."""
    footage, photograph = shot.write_sequence(tmp_path / "shot", count=2), tmp_path / "plate.png"
    shot.write_plate(photograph)
    warnings = []
    for _ in range(2):  # nor does the plate itself, or what lies beside it, count
        engine.make_plate(Source(str(footage)), tmp_path / "plate.exr", on_warning=warnings.append)
        (warning,) = (words for words in warnings if "seen empty" not in words)
        assert "as plate.coverage.png, would be taken for plate.png's, too" in warning
        warnings.clear()


def test_a_plates_ending_in_capitals(shot, tmp_path):
    engine.make_plate(Source(str(shot.write_sequence(tmp_path / "in"))), tmp_path / "PLATE.PNG")
    assert frame_io.read_image(tmp_path / "PLATE.PNG").shape == shot.plate.shape


def test_a_frame_that_went_away_is_told(shot, job, tmp_path):
    footage = Path(shot.write_sequence(tmp_path / "in"))
    job = make_job(footage, None, tmp_path / "out2")
    engine.run_job(job)
    (tmp_path / "in/shot.0003.png").rename(tmp_path / "elsewhere.png")
    (tmp_path / "in/shot.0003.png").symlink_to(tmp_path / "offline.png")
    with pytest.raises(FootageError, match=r"shot\.0003\.png; got No such file"):
        engine.run_job(job)


def test_plate_from_the_clip(shot, tmp_path):
    source = Source(str(shot.write_movie(tmp_path / "a.mkv", 24)))
    warnings = []
    result = engine.make_plate(source, tmp_path / "plate.png", on_warning=warnings.append)
    assert not warnings
    error = np.abs(frame_io.read_image(tmp_path / "plate.png").astype(int) - shot.plate)
    assert np.mean(error > 3) < 0.02 and result["coverage"] > 0.5
    engine.make_plate(source, tmp_path / "plate.exr")
    seen = [
        color.to_float(color.to_srgb(frame.pixels, frame.color_space))
        for name in ("plate.png", "plate.exr")
        for _, frame in frame_io.open_plate(tmp_path / name).frames([1])
    ]
    assert np.allclose(*seen, atol=1e-3)  # whoever reads it, whatever the file's kind
    with pytest.raises(OutputError, match="can be written"):
        engine.make_plate(source, tmp_path / "plate.png" / "plate.png")


@pytest.mark.parametrize("moment", [50, 75, 100])
def test_a_plate_that_is_cancelled_leaves_the_old_one(shot, tmp_path, moment):
    source = Source(str(shot.write_movie(tmp_path / "a.mkv", 6)))
    (tmp_path / "plate.png").write_bytes(b"old")
    seen = [0]
    result = engine.make_plate(
        source,
        tmp_path / "plate.png",
        on_progress=lambda progress: seen.append(progress.done),
        cancelled=lambda: seen[-1] >= moment,
    )
    assert result == {"plate": "", "coverage": 0.0, "cancelled": True}
    assert sum(done >= moment for done in seen) == 1
    assert [path.name for path in tmp_path.glob("plate*")] == ["plate.png"]
    assert (tmp_path / "plate.png").read_bytes() == b"old"


@pytest.mark.parametrize("moving", [False, True])
def test_a_new_plate_never_lies_beside_the_old_one_s_files(shot, tmp_path, monkeypatch, moving):
    """Stopped before any of its files, or after the last: either all are of one plate, or there is no plate; and while
    the new one is being written, as to a disk that fills up, the old one is whole."""
    made, names = engine.plate_from_clip, ["plate.png", "plate.coverage.png", "plate.motion.json"]
    monkeypatch.setattr(engine, "plate_from_clip", lambda *a, **k: replace(made(*a, **k), locked_off=not moving))
    source = Source(str(shot.write_movie(tmp_path / "a.mkv", 6)))
    replace_file, left = Path.replace, 0

    def stop(self, target):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return replace_file(self, target)

    written = 3 if moving else 2
    for writes in range(2 * written + 1):
        for name in names:
            (tmp_path / name).write_bytes(b"old")
        left = writes
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", stop)
            try:
                engine.make_plate(source, tmp_path / "plate.png")
            except KeyboardInterrupt:
                if writes < written:
                    assert all((tmp_path / name).read_bytes() == b"old" for name in names)
                else:
                    assert not (tmp_path / "plate.png").exists()
            else:
                assert writes == 2 * written and not [*tmp_path.glob(".*")]
                there = names if moving else names[:2]
                assert [name for name in names if (tmp_path / name).exists()] == there
                assert all((tmp_path / name).read_bytes() != b"old" for name in there)


def test_two_engines_make_one_plate_once(shot, tmp_path, monkeypatch):
    make, made = engine.plate_from_clip, []

    def slow(*args, **options):
        made.append(args)
        time.sleep(1.0)
        return make(*args, **options)

    monkeypatch.setattr(engine, "plate_from_clip", slow)
    source, plate, progress = Source(str(shot.write_movie(tmp_path / "a.mkv", 6))), tmp_path / "plate.png", []
    plate.write_bytes(b"old")
    with ThreadPoolExecutor(2) as both:
        first = both.submit(engine.make_plate, source, plate)
        while not made:
            time.sleep(0.01)
        second = engine.make_plate(source, plate, on_progress=progress.append)
        assert len(made) == 1 and progress  # a sign of life, which Blender waits for
    assert second == pytest.approx(first.result(), abs=0.01)
    assert not [*tmp_path.glob("*.claim")]
    engine.make_plate(source, plate, (1, 4))
    assert len(made) == 2


def test_a_plate_that_was_seldom_seen_empty_is_warned_of(shot, tmp_path, monkeypatch):
    made, warnings = engine.plate_from_clip, []

    def hidden(*arguments, **names):
        plate = made(*arguments, **names)
        plate.coverage[:] = 0.1  # of the pictures: in the others something stands there
        return plate

    monkeypatch.setattr(engine, "plate_from_clip", hidden)
    source = Source(str(shot.write_movie(tmp_path / "a.mkv", 12)))
    engine.make_plate(source, tmp_path / "plate.png", on_warning=warnings.append)
    (warning,) = warnings
    assert "100% of the plate" in warning and "plate.coverage.png" in warning and "longer range" in warning


def test_one_network_is_kept(job, tmp_path):
    for detail in (0.5, 0.6, 0.7):
        engine.preview_frame(replace(job, detail=detail), 1, tmp_path / "a")
    assert engine._load_matter.cache_info().currsize == 1


def test_a_plate_of_one_picture_is_told(shot, tmp_path):
    warnings = []
    still = shot.write_plate(tmp_path / "still.png")
    engine.make_plate(Source(str(still)), tmp_path / "plate.png", on_warning=warnings.append)
    assert "one picture" in warnings[0]
    clip = shot.write_sequence(tmp_path / "in", count=2)
    engine.make_plate(Source(str(clip)), tmp_path / "plate.png", on_warning=warnings.append)
    assert not any("one picture" in warning for warning in warnings[1:])


def test_a_pan_is_matted_with_the_plate_from_the_clip(tmp_path):
    world = scene(margin=200)
    (tmp_path / "shot").mkdir()
    for i in range(7):  # over a frame's width in all but 80 pixels
        frame_io.write_image(tmp_path / f"shot/a.{i + 11:04d}.png", shoot(world, motion(66 * (i - 3)), i))
    footage, plate = Source(str(tmp_path / "shot/a.0011.png")), tmp_path / "plate.png"
    engine.make_plate(footage, plate)
    _, width, _ = frame_io.read_image(plate).shape
    assert width == pytest.approx(480 + 6 * 66, abs=4)
    job = Job(footage, PlateSource(str(plate), align="off"), Output(str(tmp_path / "out"), deliver=("multilayer",)))
    result = engine.run_job(job)
    layers = oiio.ImageBuf(str(tmp_path / "out/delivery/multilayer.0014.exr"))
    names = layers.spec().channelnames
    delivered = layers.get_pixels()[..., [names.index(f"plate.{channel}") for channel in "RGB"]]
    middle = color.srgb_to_linear(frame_io.read_image(tmp_path / "shot/a.0014.png") / np.float32(255))
    assert np.abs(delivered - middle).mean() < 0.01
    report = json.loads(Path(result["report"]).read_text())["frames"]
    assert len(report) == 7 and min(frame["plate_coverage"] for frame in report) > 0.98
    assert max(frame["plate_residual"] for frame in report) < 0.15 and max(frame["coverage"] for frame in report) < 0.01
    middle = engine.preview_frame(job, 15, tmp_path / "preview")
    assert read_png(middle["alpha"]).mean() < 0.01 * 65535
    diagnosis = engine.diagnose_plate(job)
    assert diagnosis["findings"] == [] and diagnosis["light"] == "green"
    small = tmp_path / "small" / "a.0011.png"  # a proxy of the same shot
    small.parent.mkdir()
    frame_io.write_image(small, frame_io.resize(frame_io.read_image(tmp_path / "shot/a.0011.png"), 240, 135))
    proxy = engine.run_job(replace(job, footage=Source(str(small)), output=Output(str(tmp_path / "proxy"))))
    (frame,) = json.loads(Path(proxy["report"]).read_text())["frames"]
    assert frame["plate_coverage"] > 0.97 and frame["plate_residual"] < 0.2
    (tmp_path / "track.json").write_text('{"11": [1, 0, 0, 0, 1, 0, 0, 0, 1]}')
    with pytest.raises(JobError, match="without a track"):
        engine.run_job(replace(job, plate=replace(job.plate, track=str(tmp_path / "track.json"))))
    plate_files.motion_path(plate).write_text('{"width": 480, "height": 270, "frames": {}}')
    with pytest.raises(PlateError, match="Make the plate again"):
        engine.run_job(job)
    plate_files.motion_path(plate).unlink()
    with pytest.raises(PlateError, match="shape"):
        engine.run_job(job)


def test_a_plate_of_float_tiffs_in_srgb_is_exr(shot, tmp_path):
    """What Blender's node asks for: it names sRGB, and cannot tell whether a TIFF holds floats."""
    for i in range(12):
        image = oiio.ImageBuf((shot.frame(3 * i) / 255).astype(np.float32))
        assert image.write(str(tmp_path / f"a.{i + 1:04d}.tif"))
    source = Source(str(tmp_path / "a.0001.tif"), "srgb")
    with pytest.raises(JobError, match="ending"):
        engine.make_plate(source, tmp_path / "plate.png")
    engine.make_plate(source, tmp_path / "plate.exr")
    job = Job(source, PlateSource(str(tmp_path / "plate.exr"), "srgb"), Output(str(tmp_path / "out")), frames=(1, 1))
    assert Path(engine.run_job(job)["foreground"]).suffix == ".exr"


def test_a_job_that_ran_short_of_memory_is_taken_up_again(shot, tmp_path, monkeypatch):
    """What it remembered at half the size means nothing to the run that has enough."""
    (tmp_path / "in").mkdir()
    for i in range(4):
        frame_io.write_image(tmp_path / f"in/a.{i + 1:04d}.png", np.kron(shot.frame(i), np.ones((8, 8, 1), np.uint8)))
    job = make_job(tmp_path / "in/a.0001.png", None, tmp_path / "out")
    monkeypatch.setattr(engine, "SEGMENT", 2)
    starved, run = [True], Matter._look

    def starved_once(self, *arguments):
        if starved and starved.pop():
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
        return run(self, *arguments)

    monkeypatch.setattr(Matter, "_look", starved_once)
    warnings, done = [], []
    engine.run_job(job, on_progress=done.append, on_warning=warnings.append, cancelled=lambda: len(done) > 2)
    assert "half the coarse size" in warnings[0] and not list((tmp_path / "out/records").glob("memory.*"))
    assert engine.run_job(job)["frames"] == 4
    assert list((tmp_path / "out/records").glob("memory.*"))


def test_a_moving_plate_may_be_a_sequence(shot, tmp_path, monkeypatch):
    (tmp_path / "plate").mkdir()
    for i in range(3):
        frame_io.write_image(tmp_path / f"plate/p.{i + 1:04d}.png", shot.plate + np.uint8(i))
    job = make_job(shot.write_movie(tmp_path / "a.mkv", 3), tmp_path / "plate/p.0001.png", tmp_path / "out")
    job = replace(job, plate=replace(job.plate, moving=True))
    read, reading = set(), frame_io.read_image
    monkeypatch.setattr(frame_io, "read_image", lambda path: read.add(path.name) or reading(path))
    engine.run_job(job)
    assert read == {"p.0001.png", "p.0002.png", "p.0003.png"}
    frame_io.write_image(tmp_path / "plate/p.0003.png", shot.plate)
    assert engine.run_job(job)["skipped"] == 0


def test_the_doctor_decodes_a_movie_only_where_it_looks(shot, tmp_path, monkeypatch):
    decode, decoded = movies._decode, []
    monkeypatch.setattr(movies, "_decode", lambda *args: (decoded.append(1) or picture for picture in decode(*args)))
    plate = shot.write_plate(tmp_path / "plate.png")
    job = make_job(shot.write_movie(tmp_path / "a.mkv", 120), plate, tmp_path / "out")  # a key frame every 12
    assert len(engine.diagnose_plate(job)["frame_numbers"]) == 6 and len(decoded) <= 6 * 12


def test_the_doctor_holds_each_frame_against_its_picture_of_a_moving_plate(tmp_path):
    """The first picture lacks most of what a pan shows later."""
    world = scene()
    for name, first, seed in (("shot", 0, 0), ("plate", -3, 100)):  # the second take starts three frames earlier
        (tmp_path / name).mkdir()
        for i in range(first, 16):
            picture = shoot(world, motion(9 * i - 70, 0), seed + i - first)
            frame_io.write_image(tmp_path / name / f"a.{i - first + 1:04d}.png", picture)
    job = make_job(tmp_path / "shot/a.0001.png", tmp_path / "plate/a.0001.png", tmp_path / "out")
    assert engine.diagnose_plate(job)["light"] != "green"
    diagnosis = engine.diagnose_plate(replace(job, plate=replace(job.plate, moving=True)))
    assert diagnosis["findings"] == [] and diagnosis["frame_numbers"] == [1, 4, 7, 10, 13, 16]


def test_a_full_disk_is_a_sentence_wherever_it_is_met(job, monkeypatch):
    write_text = Path.write_text

    def full(self, *args, **kwargs):
        if self.name.endswith(name):
            raise OSError(28, "No space left on device")
        return write_text(self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    for name in ("job.yaml", "report.json"):
        with pytest.raises(OutputError, match=rf"{name}; got No space left"):
            engine.run_job(job)


@pytest.mark.parametrize(("folder", "words"), [("records", "what is done"), ("claims", "a claim"), ("alpha", "")])
def test_a_drive_that_fails_while_a_folder_is_looked_through(shot, tmp_path, monkeypatch, folder, words):
    """In words; what a killed run left half-written can stay."""
    job, scan = make_job(shot.write_sequence(tmp_path / "in", count=2), None, tmp_path / "out"), os.scandir

    def fail(path):
        if Path(path) == tmp_path / "out" / folder:
            raise OSError(116, "Stale file handle", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(OutputError, match=f"{words}.*Stale") if words else nullcontext():
        assert engine.run_job(job)["frames"] == 2


def test_a_log_of_frames_that_may_not_be_read(job):
    engine.run_job(job, frames=(1, 1))
    (Path(job.output.folder) / "records/another.jsonl").mkdir()
    with pytest.raises(OutputError, match="what is done"):
        engine.run_job(job)


def test_a_claim_of_another_container_is_not_judged_by_its_process_number(tmp_path):
    mine = Claims(tmp_path)
    here = process_name(2**22 + 1)
    elsewhere = tmp_path / f"1_10.abc_{here[:-1]}{(int(here[-1], 16) + 1) % 16:x}.claim"
    elsewhere.touch()
    assert not mine.take(5, 6)
    elsewhere.rename(tmp_path / f"1_10.abc_{here}.claim")
    assert mine.take(5, 6) or sys.platform in ("win32", "darwin")


def test_claims_are_exclusive_and_expire(tmp_path):
    mine, other = Claims(tmp_path), Claims(tmp_path)
    assert mine.take(1, 10)
    assert not other.take(5, 20)
    assert other.take(11, 20)
    other.release()
    (claim,) = tmp_path.glob("*.claim")
    old = time.time() - EXPIRY - 1
    os.utime(claim, (old, old))
    assert other.take(5, 20)


def test_a_claim_outlives_a_failed_heartbeat(tmp_path, monkeypatch):
    beats = []

    def touch(path):
        beats.append(path)
        if len(beats) == 1:
            raise OSError(116, "Stale file handle")
        if len(beats) == 3:
            raise FileNotFoundError

    monkeypatch.setattr(claims, "HEARTBEAT", 0.01)
    monkeypatch.setattr(claims.os, "utime", touch)
    mine = Claims(tmp_path)
    assert mine.take(1, 9)
    time.sleep(0.3)
    assert len(beats) == 3
    mine.release()


def test_a_claim_that_others_remove_is_not_held(tmp_path, monkeypatch):
    write = Path.write_bytes
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", lambda self, data: (write(self, data), self.unlink()))
        assert not Claims(tmp_path).take(1, 9)
    assert Claims(tmp_path).take(1, 9)


def test_a_dead_engine_s_claim_that_cannot_be_removed_does_not_count(tmp_path, monkeypatch):
    """On Windows, while a third engine reads it."""

    def deny(self, missing_ok=False):
        raise PermissionError(13, "in use")

    dead = tmp_path / "1_9.abc.claim"
    dead.touch()
    os.utime(dead, (0, 0))
    monkeypatch.setattr(Path, "unlink", deny)
    mine = Claims(tmp_path)
    assert mine.take(1, 9)
    mine.release()


def test_two_engines_share_a_folder(shot, tmp_path):
    """Each of 96 frames is written by exactly one of two processes, which need not start at the same moment."""
    footage = shot.write_movie(tmp_path / "a.mkv", 96)
    code = (
        "import sys; from core import engine, output_folder, __main__ as m;"
        "engine.SEGMENT = 3; output_folder.PREROLL = 1;"
        f"sys.exit(m.main(['matte', '--footage', {str(footage)!r}, '--output', {str(tmp_path / 'out')!r}]))"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [run.wait(120) for run in runs] == [0, 0]
    logs = [log.read_text().splitlines() for log in (tmp_path / "out/records").glob("*.jsonl")]
    numbers = sorted(json.loads(line)["frame_number"] for log in logs for line in log)
    assert numbers == list(range(1, 97)) and len(logs) == 2
    assert not list((tmp_path / "out/claims").iterdir())


def test_a_report_is_not_written_over_by_an_engine_that_has_seen_less(job, monkeypatch):
    """One that finishes while another is at its report: what it delivered then lacked its own frames."""
    write_whole, others = output_folder.write_whole, []

    def slowly(path, *arguments, **options):
        if path.name == "report.json" and not others:
            others.append(Thread(target=engine.run_job, args=(job, (3, 5))))
            others[0].start()
            others[0].join(4)
        return write_whole(path, *arguments, **options)

    monkeypatch.setattr(output_folder, "write_whole", slowly)
    engine.run_job(job, (1, 2))
    others[0].join()
    report = json.loads((Path(job.output.folder) / "report.json").read_text())
    assert [frame["frame_number"] for frame in report["frames"]] == [1, 2, 3, 4, 5]
    assert not list(Path(job.output.folder).glob("claims/*"))


def test_an_engine_that_waits_says_that_it_lives(shot, tmp_path, monkeypatch):
    """For another's frames, while it opens the footage, and when it finds frames done."""
    source = Source(str(shot.write_movie(tmp_path / "a.mkv", 3)))
    open_footage, seen, deadline = engine._open_footage, [], time.monotonic() + 10
    monkeypatch.setattr(engine.random, "uniform", lambda *_: 0.01)
    monkeypatch.setattr(engine, "ALIVE", 0.05)
    monkeypatch.setattr(engine, "_open_footage", lambda source: (time.sleep(0.3), open_footage(source))[1])
    engine.make_plate(source, tmp_path / "plate.png", on_progress=seen.append, cancelled=lambda: True)
    assert len(seen) > 3
    seen.clear()
    assert Claims(tmp_path / "out/claims").take(1, 2)
    job = Job(source, output=Output(str(tmp_path / "out")))

    def waiting():
        return sum(progress.total > 0 for progress in seen)

    engine.run_job(job, (1, 2), seen.append, cancelled=lambda: waiting() > 5 or time.monotonic() > deadline)
    assert len(seen) - waiting() > 3 and waiting() == 6
    engine._Rate(5, 1, engine._Listener(seen.append, print, lambda: False)).note_up_to_date(3)
    assert seen[-1].done == 4


def test_command_line(shot, tmp_path, capsys):
    footage, plate = shot.write_movie(tmp_path / "a.mkv"), shot.write_plate(tmp_path / "p.png")
    arguments = ["matte", "--footage", str(footage), "--plate", str(plate), "--output", str(tmp_path / "out")]
    assert command_line.main([*arguments, "--frames", "2-3"]) == 0
    assert "2 frames" in capsys.readouterr().out
    assert command_line.main(["matte", str(tmp_path / "out/job.yaml")]) == 0
    assert len(list((tmp_path / "out/alpha").iterdir())) == 5
    assert command_line.main(["plate", "--footage", str(footage), "--output", str(tmp_path / "clip.png")]) == 0


def test_a_job_file_written_by_hand_stays_as_it_is(shot, tmp_path):
    shot.write_sequence(tmp_path / "in", count=2)
    path = tmp_path / "job.yaml"
    path.write_text("# my notes on this shot\nfootage: {path: in/shot.####.png}\n")
    engine.run_job(read_job(path), frames=(1, 1))
    assert path.read_text().startswith("# my notes")
    engine.run_job(replace(read_job(path), detail=0.5))  # another job
    assert read_job(path).detail == 0.5


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["matte"], 2, "--footage and --output"),
        (["matte", "--footage", "a.png"], 2, "--footage alone"),
        (["matte", "none.yaml"], 2, "readable job file"),
        (["matte", "j.yaml", "--plate", "a.png", "--color-space", "x"], 2, "got --plate, --color-space"),
        (["matte", "a.png"], 2, "no text. Name a job file, or the footage by --footage"),
        (["matte", "--footage", "none.mov", "--output", "out"], 3, "no file"),
        (["matte", "--footage", "a.png", "--output", "out", "--model", "none.pth"], 4, "model"),
        (["matte", "--footage", "a.png", "--output", "out", "--model", "a.png"], 4, "a.png"),
        (["matte", "--footage", "a.png", "--output", "a.png/out"], 5, "written"),
        (["matte", "--footage", "a.png", "--output", "out", "--device", "cuda:7"], 6, "cuda:7"),
        (["matte", "--footage", "a.png", "--output", "out", "--frames", "7-1"], 2, "7-1"),
        (["matte", "--footage", "a.png", "--output", "out", "--color-space", "Kodak"], 2, "Kodak"),
        (["matte", "--footage", "a.png", "--output", "out", "--detail", "-1"], 2, "detail between 0 and 1"),
        (["matte", "--footage", "a.png", "--output", "out", "--detail", "nan"], 2, "detail between 0 and 1"),
        (["matte", "--footage", "a.png", "--output", "out", "--fps", "nan"], 2, "fps from 0"),
        (["matte", "--footage", "a.png", "--output", "out", "--refine-pixels", "-5"], 2, "refine_pixels of 0"),
        (["deliver", ".", "--deliver", "preview", "--fps", "-3"], 2, "fps from 0"),
    ],
)
def test_exit_status_and_sentence(tmp_path, monkeypatch, capsys, arguments, status, words):
    monkeypatch.chdir(tmp_path)
    frame_io.write_image(tmp_path / "a.png", np.zeros((32, 32, 3), np.uint8))
    assert command_line.main(arguments) == status
    (message,) = capsys.readouterr().err.splitlines()  # found before the job is under way, and its bar
    assert words in message and message.startswith("error: Expected")


def test_who_mattes_without_a_plate_is_told_of_plates(shot, tmp_path, capsys):
    footage = shot.write_sequence(tmp_path / "a shot", count=1)
    arguments = ["matte", "--footage", str(footage), "--output", str(tmp_path / "out")]
    assert command_line.main(arguments) == 0
    assert f"python -m core plate --footage '{footage}'" in capsys.readouterr().err
    assert command_line.main([*arguments, "--plate", str(footage)]) == 0
    assert "python -m core plate" not in capsys.readouterr().err


def test_a_service_without_stderr_runs_a_job(shot, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    footage = str(shot.write_sequence(tmp_path / "in", count=1))
    assert command_line.main(["matte", "--footage", footage, "--output", str(tmp_path / "out")]) == 0
    sys.stderr.close()


def test_an_output_without_a_name_is_not_the_job_s_own(job, tmp_path, capsys):
    (tmp_path / "job.yaml").write_text(job_text(job, tmp_path))
    assert command_line.main(["matte", str(tmp_path / "job.yaml"), "--output", ""]) == 2
    assert "a name after --output; got ''" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--plate", "--garbage", "--core"])
def test_a_file_without_a_name_is_not_left_out(shot, tmp_path, capsys, option):
    """As an unset variable gives it: all frames were matted without."""
    footage = str(shot.write_movie(tmp_path / "a.mkv"))
    assert command_line.main(["matte", "--footage", footage, "--output", str(tmp_path / "out"), option, ""]) == 2
    assert f"a name after {option}; got ''" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_footage_without_a_name_is_not_the_folder_at_hand(shot, tmp_path, monkeypatch, capsys):
    """As an unset variable gives it: a plate was made of the pictures that lay there."""
    monkeypatch.chdir(shot.write_sequence(tmp_path / "in", count=2).parent)
    for command in (["plate", "--output", "plate.png"], ["doctor", "--plate", "a.png"]):
        assert command_line.main([*command, "--footage", ""]) == 2
        assert "Expected a path that a file system can hold; got ''" in capsys.readouterr().err


def test_a_path_that_the_pipe_cannot_spell_does_not_fail_a_finished_job(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")  # as Windows has it
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(delivery, "deliver_folder", lambda *_: {"preview": "\u6620\u50cf/preview.mp4"})
    assert command_line.main(["deliver", ".", "--deliver", "preview"]) == 0
    out.flush()
    assert out.buffer.getvalue().startswith(rb"\u6620\u50cf/preview.mp4")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full disk")
def test_a_full_disk_of_logs_stops_no_job(shot, tmp_path):
    arguments = [sys.executable, "-m", "core", "matte", "--output", str(tmp_path / "out")]
    with open("/dev/full", "w") as log:
        arguments += ["--footage", str(shot.write_movie(tmp_path / "a.mkv", 3))]
        assert subprocess.run(arguments, cwd=ROOT, stderr=log).returncode == 0
        assert len(list((tmp_path / "out/alpha").iterdir())) == 3
        assert subprocess.run(arguments[:4], cwd=ROOT, stderr=log).returncode == 2
        again = subprocess.run(arguments, cwd=ROOT, stdout=log, stderr=subprocess.PIPE, text=True)
        assert again.returncode == 0 and "Traceback" not in again.stderr
        answer = subprocess.run([*arguments[:3], "info"], cwd=ROOT, stdout=log, stderr=subprocess.PIPE, text=True)
        assert answer.returncode == 5 and answer.stderr.startswith("error: Expected to write the answer")


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize(("light", "status"), [("green", 0), ("amber", 0), ("red", 3)])
def test_doctor_s_exit_status_is_for_scripts(monkeypatch, capsys, options, light, status):
    monkeypatch.setattr(engine, "diagnose_plate", lambda job: {"light": light, "frame_numbers": [1], "findings": []})
    assert command_line.main(["doctor", "--footage", "a.mov", "--plate", "p.png", *options]) == status
    assert light in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_control_c_while_all_is_imported_ends_quietly(tmp_path):
    arguments = [sys.executable, "-X", "importtime", "-m", "core", "matte", "--footage", "a.mov", "--output", "out"]
    with subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True) as run:
        for line in run.stderr:
            if "numpy._core" in line:
                break
        run.send_signal(signal.SIGINT)
        rest = run.stderr.read()
    assert run.returncode == 130 and "KeyboardInterrupt" not in rest and "error:" not in rest


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_run_resumes_to_the_same_files(shot, tmp_path):
    footage = shot.write_movie(tmp_path / "a.mkv", 12)
    arguments = [sys.executable, "-m", "core", "matte", "--footage", str(footage), "--output"]
    subprocess.run([*arguments, str(tmp_path / "whole")], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    run = subprocess.Popen([*arguments, str(tmp_path / "out")], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.time() + 60
    while len(list(tmp_path.glob("out/alpha/alpha.*"))) < 3 and time.time() < deadline:
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert 3 <= len(list((tmp_path / "out/alpha").glob("alpha.*"))) < 12
    for claim in (tmp_path / "out/claims").glob("*"):
        os.utime(claim, (0, 0))  # as if a minute had passed
    subprocess.run([*arguments, str(tmp_path / "out")], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_a_plate_is_laid_beside_the_network_from_the_same_mattes_however_fast():
    """Which frame's matte says where the subject is, for each frame; and that nobody waits for the frame at hand."""

    class Plate:
        subject = None

        def under(self, number, frame, subject):
            laid.append((number, subject))
            return number

    plate, laid = Plate(), []
    with ThreadPoolExecutor(1) as layer:
        for number, _, _ in engine._lay_ahead(((n, None) for n in range(1, 7)), plate, layer):
            layer.submit(lambda: None).result()  # the network takes long enough for all that was asked for
            assert [n for n, _ in laid] == list(range(1, min(number + (number > 1), 6) + 1))
            plate.subject = number
    assert laid == [(1, None), (2, 1), (3, 1), (4, 2), (5, 3), (6, 4)]


def test_a_folder_with_the_matte_of_other_footage_is_refused(shot, job, tmp_path):
    engine.run_job(job)
    files = files_of(tmp_path / "out")
    other = replace(job, footage=Source(str(shot.write_movie(tmp_path / "b.mkv", 3))))
    with pytest.raises(OutputError, match=r"a\.mkv.*Choose another folder"):
        engine.run_job(other)
    assert files_of(tmp_path / "out") == files
    Path(job.footage.path).rename(tmp_path / "moved.mkv")  # the same clip elsewhere
    assert engine.run_job(replace(job, footage=Source(str(tmp_path / "moved.mkv"))))["frames"] == 5


def test_a_range_beyond_the_footage_is_said(job):
    warnings = []
    engine.run_job(job, (4, 9), on_warning=warnings.append)
    assert len(warnings) == 1 and "frames 1 to 5" in warnings[0] and "4 to 9" in warnings[0]
    engine.run_job(job, (1, 5), on_warning=warnings.append)
    assert len(warnings) == 1
