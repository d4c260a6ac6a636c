# SPDX-License-Identifier: GPL-3.0-or-later
"""Deliveries of made-up finished frames, read back by decoders and compared with the frames."""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import OpenImageIO as oiio
import pytest

from core import __main__ as command_line
from core import color, delivery, engine, frame_io
from core.errors import JobError, OutputError
from core.job import Job, Output, PlateSource, Source, job_text
from core.matting import Matte

WIDTH, HEIGHT = 95, 63  # odd on purpose


def foreground(number: int) -> np.ndarray:
    """(H, W, 3) uint8, smooth, other in each frame."""
    ramp = np.linspace(20, 235, WIDTH)[None, :, None] * np.linspace(0.5, 1, HEIGHT)[:, None, None]
    return (ramp * np.float32([1, 0.8, 0.6])).astype(np.uint8) - np.uint8(number)


def alpha(number: int) -> np.ndarray:
    """(H, W) uint16: 0 above, 65535 below, a ramp between."""
    ramp = np.clip(np.linspace(-1, 2, HEIGHT) + number / 10, 0, 1)
    return np.repeat(np.round(ramp * 65535).astype(np.uint16)[:, None], WIDTH, 1)


def write_finished(folder: Path, numbers: list[int], extension: str = "png", space: str = "srgb") -> Path:
    frames = []
    for number in numbers:
        pictures = {"alpha": alpha(number), "foreground": foreground(number), "error": alpha(number).astype(np.uint8)}
        if extension == "exr":
            pictures["alpha"] = color.to_float(pictures["alpha"]).astype(np.float16)
            pictures["foreground"] = (color.to_float(pictures["foreground"]) * 3).astype(np.float16)
        files = {}
        for name, pixels in pictures.items():
            path = f"{name}/{name}.{number:04d}.{'png' if name == 'error' else extension}"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            files[path] = frame_io.write_image(folder / path, pixels)
        frames.append({"frame_number": number, "files": files})
    report = {"fps": 24000 / 1001, "foreground_color_space": space, "frames": frames}
    (folder / "report.json").write_text(json.dumps(report))
    return folder


@pytest.fixture
def finished(tmp_path):
    return delivery.read_finished(write_finished(tmp_path, [1, 2, 3]))


def read_layers(path: str) -> dict[str, np.ndarray]:
    image = oiio.ImageBuf(path)
    pixels = image.get_pixels(oiio.FLOAT)
    return {name: pixels[..., i] for i, name in enumerate(image.spec().channelnames)}


def decode(path: str, decoder: str = "") -> tuple[Fraction, list[av.VideoFrame]]:
    with av.open(path) as container:
        stream = container.streams.video[0]
        if decoder:
            context = av.CodecContext.create(decoder, "r")
            return stream.average_rate, [f for packet in container.demux(stream) for f in context.decode(packet)]
        return stream.average_rate, list(container.decode(stream))


def light(number: int) -> np.ndarray:
    return color.srgb_to_linear(color.to_float(foreground(number)))


def test_premultiplied_exr(finished):
    made = delivery.deliver(finished, ["rgba"])
    assert made == {"rgba": str(finished.folder / "delivery/rgba.0001.exr")}
    layers = read_layers(str(finished.folder / "delivery/rgba.0002.exr"))
    assert list(layers) == ["R", "G", "B", "A"]
    pha = color.to_float(alpha(2))
    assert np.allclose(layers["A"], pha, atol=5e-4)
    assert np.allclose(layers["G"], light(2)[..., 1] * pha, atol=5e-4)


def test_multilayer_exr(finished, tmp_path):
    frame_io.write_image(tmp_path / "plate.png", np.full((HEIGHT, WIDTH, 3), 128, np.uint8))
    delivery.deliver(finished, ["multilayer"], plate=PlateSource(str(tmp_path / "plate.png")))
    layers = read_layers(str(tmp_path / "delivery/multilayer.0003.exr"))
    assert set(layers) == {
        *("R", "G", "B", "A", "alpha.V", "error.V"),
        *(f"{layer}.{c}" for layer in ("foreground", "plate") for c in "RGB"),
    }
    pha = color.to_float(alpha(3))
    assert np.allclose(layers["alpha.V"], pha, atol=5e-4) and np.array_equal(layers["A"], layers["alpha.V"])
    assert np.allclose(layers["foreground.B"], light(3)[..., 2], atol=5e-4)
    assert np.allclose(layers["R"], light(3)[..., 0] * pha, atol=5e-4)
    assert np.allclose(layers["error.V"], color.to_float(alpha(3).astype(np.uint8)), atol=5e-4)
    assert np.allclose(layers["plate.G"], color.srgb_to_linear(np.float32(128 / 255)), atol=5e-4)


def test_exr_frames_keep_values_above_one(tmp_path):
    finished = delivery.read_finished(write_finished(tmp_path, [7], "exr", "linear"))
    layers = read_layers(delivery.deliver(finished, ["multilayer"])["multilayer"])
    stored = frame_io.read_image(tmp_path / "foreground/foreground.0007.exr")
    assert layers["foreground.R"].max() > 2 and np.array_equal(layers["foreground.R"], stored[..., 0])
    opaque = alpha(7) == 65535
    assert np.array_equal(layers["R"][opaque], stored[..., 0][opaque])


def test_prores(finished):
    rate, pictures = decode(delivery.deliver(finished, ["prores"])["prores"])
    assert rate == Fraction(24000, 1001) and len(pictures) == 3
    assert pictures[0].format.name.startswith("yuva444p") and pictures[0].colorspace == 1
    for number, picture in enumerate(pictures, 1):
        rgba = picture.to_ndarray(format="rgba64le")
        assert np.abs(rgba[..., 3] / 65535 - alpha(number) / 65535).max() < 1.5 / 1023  # of its 10 bits
        assert np.abs(rgba[..., :3] / 257 - foreground(number)).max() < 2


def test_webm(finished):
    rate, pictures = decode(delivery.deliver(finished, ["webm"], fps=30)["webm"], "libvpx-vp9")
    assert rate == 30 and len(pictures) == 3 and pictures[0].format.name == "yuva420p"
    rgba = pictures[1].to_ndarray(format="rgba")
    assert np.abs(rgba[..., 3] / 255 - alpha(2) / 65535).mean() < 0.01
    assert np.abs(rgba[..., :3].astype(float) - foreground(2)).mean() < 4


def test_preview(finished):
    rate, pictures = decode(delivery.deliver(finished, ["preview"])["preview"])
    assert len(pictures) == 3 and (pictures[0].width, pictures[0].height) == (96, 64)
    picture = pictures[2].to_ndarray(format="rgb24").astype(float)
    grey = color.linear_to_srgb(delivery.GREY) * 255
    assert np.abs(picture[:10, :90] - grey).max() < 5
    assert np.abs(picture[50:62, :90] - foreground(3)[50:62, :90]).mean() < 4


def test_prores_keeps_a_log_encoding_and_the_others_do_not(tmp_path):
    finished = delivery.read_finished(write_finished(tmp_path, [1], "png", "ACEScct"))
    made = delivery.deliver(finished, ["prores", "webm"])
    stored = foreground(1).astype(float)
    assert np.abs(decode(made["prores"])[1][0].to_ndarray(format="rgb24") - stored).max() < 2
    display = color.convert(foreground(1), "ACEScct", "srgb").clip(0, 1) * 255
    assert np.abs(decode(made["webm"], "libvpx-vp9")[1][0].to_ndarray(format="rgb24") - display).mean() < 4


def test_a_missing_frame_is_transparent(tmp_path):
    finished = delivery.read_finished(write_finished(tmp_path, [11, 12, 14]))
    _, pictures = decode(delivery.deliver(finished, ["prores"])["prores"])
    assert [int(p.to_ndarray(format="rgba64le")[-1, 0, 3]) > 65000 for p in pictures] == [True, True, False, True]


def test_frames_that_a_folder_lacks_are_named(tmp_path):
    (tmp_path / "job.yaml").write_text("footage: {path: shot.mov}")
    warnings = []
    write_finished(tmp_path, [2, 3, 5, 9])
    delivery.deliver_folder(tmp_path, ["preview"], on_warning=warnings.append)
    assert len(warnings) == 1 and "has no foreground of 4, 6-8, where movies are transparent" in warnings[0]
    write_finished(tmp_path, [2, 3])
    delivery.deliver_folder(tmp_path, ["preview"], on_warning=pytest.fail)


def test_a_movie_does_not_bridge_millions_of_frames(finished):
    """One stray file with a date for a number would have it run until the disk is full."""
    finished = replace(finished, files=finished.files | {20261128: finished.files[3]})
    with pytest.raises(JobError, match="1 to 20261128"):
        delivery.deliver(finished, ["preview"], cancelled=lambda: True)
    assert delivery.deliver(finished, ["rgba"])


@pytest.mark.skipif(sys.platform == "win32", reason="no colons in names")
def test_a_folder_with_a_colon_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finished = delivery.read_finished(write_finished(Path("sc:01"), [1, 2]))
    assert len(decode(str(Path(delivery.deliver(finished, ["preview"])["preview"]).absolute()))[1]) == 2


def test_a_preview_that_is_too_wide_for_its_codec_is_told(finished):
    vars(finished)["size"] = 8, 16386
    with pytest.raises(JobError, match="16384 pixels a side for H.264; got 16386 x 8. Deliver prores"):
        delivery.deliver(finished, ["preview"])


@pytest.mark.parametrize("kind", ["preview", "prores", "rgba"])
def test_frames_of_two_sizes_are_not_mixed(tmp_path, kind):
    """A movie was cut to the first, or read beyond the end of smaller ones."""
    folder = write_finished(tmp_path, [1, 2])
    for name in ("alpha", "foreground"):
        frame_io.write_image(folder / f"{name}/{name}.0002.png", np.zeros((31, 47, 3), np.uint8))
    with pytest.raises(JobError, match="frames of 95 x 63, as the first is; got frame 2 of 47 x 31"):
        delivery.deliver(delivery.read_finished(folder), [kind])


def test_only_what_changed_is_made_again(finished, tmp_path):
    kinds = ["rgba", "preview"]
    delivery.deliver(finished, kinds)
    files = list((tmp_path / "delivery").glob("*.*[34xr]"))
    assert len(files) == 4
    stamps = {path: path.stat().st_mtime_ns for path in files}
    delivery.deliver(finished, kinds)
    assert {path: path.stat().st_mtime_ns for path in files} == stamps
    frame_io.write_image(tmp_path / "alpha/alpha.0002.png", alpha(5))
    delivery.deliver(finished, kinds)
    changed = {path.name for path in files if path.stat().st_mtime_ns != stamps[path]}
    assert changed == {"rgba.0002.exr", "preview.mp4"}


def test_what_earlier_deliveries_made_of_other_frames_stays_and_is_named(finished):
    delivery.deliver(finished, ["rgba", "webm"], on_warning=pytest.fail)
    narrower, warnings = delivery.read_finished(finished.folder, [2]), []
    delivery.deliver(narrower, ["rgba", "webm"], on_warning=warnings.append)
    (warning,) = warnings
    assert "delivery holds rgba frames of earlier deliveries: 1, 3. Delete" in warning
    assert (finished.folder / "delivery" / "rgba.0001.exr").is_file()


def test_whole_or_not_at_all(finished, tmp_path):
    def stop_at_2(number: int) -> None:
        seen.append(number)

    seen: list[int] = []
    with pytest.raises(delivery.CancelledError):
        delivery.deliver(finished, ["prores"], on_frame=stop_at_2, cancelled=lambda: len(seen) == 2)
    (tmp_path / "foreground/foreground.0003.png").write_bytes(b"broken")
    with pytest.raises(Exception, match=r"foreground\.0003"):
        delivery.deliver(finished, ["preview"])
    assert [path.name for path in (tmp_path / "delivery").iterdir()] == ["delivery.json"]
    (tmp_path / "delivery/cutout.webm").mkdir()
    with pytest.raises(OutputError):
        delivery.deliver(delivery.read_finished(tmp_path, [1, 2]), ["webm"])


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits")
@pytest.mark.parametrize("kind", ["prores", "webm", "preview", "multilayer"])
def test_a_full_disk(finished, tmp_path, kind):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1]))  # bytes; every file is larger
    try:
        with pytest.raises(OutputError, match="to write"):
            delivery.deliver(finished, [kind])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name for path in (tmp_path / "delivery").iterdir()} <= {"delivery.json"}


def test_a_folder_that_cannot_be_made(finished, tmp_path):
    (tmp_path / "delivery").write_text("")
    with pytest.raises(OutputError, match="can be written"):
        delivery.deliver(finished, ["rgba"])


def test_what_a_killed_engine_left_is_swept(finished, tmp_path):
    (tmp_path / "delivery").mkdir()
    old, new = (tmp_path / f"delivery/.{pid}.part.cutout.mov" for pid in (1, 2))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    delivery.deliver(finished, ["rgba"])
    assert not old.exists() and new.exists()


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("kind", ["rgba", "prores"])
def test_footage_is_not_delivered_over(shot, tmp_path, kind, linked):
    """An earlier delivery may be the footage, itself or by links that lead there."""
    out = tmp_path / "out"
    write_finished(out, [1, 2])
    source = Path(delivery.deliver(delivery.read_finished(out), [kind])[kind])
    if linked:
        (tmp_path / "links").mkdir()
        for path in source.parent.glob(f"*{source.suffix}"):
            (tmp_path / "links" / path.name.replace("rgba", "shot")).symlink_to(path)
        source = sorted((tmp_path / "links").iterdir())[0]
    before = {path: path.read_bytes() for path in out.rglob("*.*") if path.suffix != ".json"}
    job = Job(Source(str(source)), output=Output(str(out), deliver=(kind,)))
    with pytest.raises(OutputError, match=r"delivery.*would be written over"):
        engine.run_job(job)
    (out / "job.yaml").write_text(job_text(job, out))
    with pytest.raises(OutputError, match=r"delivery.*would be written over"):
        delivery.deliver_folder(out, [kind])
    assert {path: path.read_bytes() for path in before} == before
    assert delivery.deliver_folder(out, ["preview"])


def test_nothing_to_deliver(tmp_path, finished):
    with pytest.raises(JobError, match="rgba, multilayer"):
        delivery.deliver(finished, ["gif"])
    with pytest.raises(JobError, match=r"report\.json"):
        delivery.read_finished(tmp_path / "none")
    with pytest.raises(JobError, match="finished frames"):
        delivery.read_finished(tmp_path, [77])


def test_frames_of_runs_in_different_colour_spaces_are_not_mixed(shot, tmp_path):
    job = Job(Source(str(shot.write_movie(tmp_path / "a.mkv", 2))), output=Output(str(tmp_path / "out"), "png"))
    engine.run_job(job)
    engine.run_job(replace(job, output=replace(job.output, format="exr")), frames=(1, 1))
    with pytest.raises(JobError, match="frame 2 in srgb"):
        delivery.read_finished(tmp_path / "out")
    assert list(delivery.read_finished(tmp_path / "out", [1]).files) == [1]


def test_a_job_delivers_once_its_last_frame_is_there(shot, tmp_path, monkeypatch):
    class Opaque:
        is_recurrent = False
        overlapping = staticmethod(nullcontext)

        def reset(self) -> None: ...

        def matte(self, src, *_):
            pha = np.ones(src.shape[:2], np.float32)
            return Matte(pha, np.zeros(src.shape, np.float32), pha)

    monkeypatch.setattr(engine, "_warm_matter", lambda job: Opaque())
    footage = shot.write_movie(tmp_path / "a.mkv")
    job = Job(Source(str(footage)), output=Output(str(tmp_path / "the out"), deliver=("prores",)))
    warnings, progress = [], []
    assert engine.run_job(job, frames=(1, 3), on_warning=warnings.append)["deliveries"] == {}
    (warning,) = warnings
    assert (
        "once frames 4-5 are" in warning
        and f"python -m core deliver '{tmp_path / 'the out'}' --deliver prores" in warning
    )
    engine.run_job(job, frames=(4, 4), on_warning=warnings.append)
    assert "once frame 5 is there, too" in warnings.pop()
    result = engine.run_job(job, frames=(4, 5), on_progress=progress.append, on_warning=warnings.append)
    assert len(warnings) == 1
    assert [p.frame_number for p in progress[-5:]] == [1, 2, 3, 4, 5]
    rate, pictures = decode(result["deliveries"]["prores"])
    assert rate == 24
    for index, picture in enumerate(pictures):
        rgba = picture.to_ndarray(format="rgba64le")
        assert rgba[..., 3].min() >= 65520  # 1 in the 12 bits that it is decoded to
        assert np.abs(rgba[..., :3] / 257 - shot.frame(index)).mean() < 1
    assert engine.run_job(replace(job, output=replace(job.output, deliver=())))["skipped"] == 5


def test_command_line(shot, tmp_path, capsys):
    out = tmp_path / "out"
    write_finished(out, [1, 2])
    (out / "job.yaml").write_text("footage: {path: a.mov}")
    assert command_line.main(["deliver", str(out), "--deliver", "preview,rgba"]) == 0
    assert capsys.readouterr().out.split() == [str(out / "delivery/preview.mp4"), str(out / "delivery/rgba.0001.exr")]
    with pytest.raises(SystemExit):
        command_line.main(["deliver", str(out), "--deliver", "gif"])
    report = json.loads((out / "report.json").read_text())
    (out / "report.json").write_text(json.dumps(report | {"of_older_settings": [2, 9]}))
    assert command_line.main(["deliver", str(out), "--deliver", "rgba"]) == 0
    assert "warning: Frame 2 was made with older settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fps", "rate"),
    [
        (23.976, Fraction(24000, 1001)),
        (23.98, Fraction(24000, 1001)),
        (29.97, Fraction(30000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (24, 24),
        (25, 25),
        (12.5, Fraction(25, 2)),
        (5, 5),
        (1, 1),
    ],
)
def test_rates_as_people_write_them(fps, rate):
    assert delivery._exact_rate(fps) == rate


def test_a_jobs_own_rate_is_that_of_its_folder(tmp_path):
    write_finished(tmp_path, [1, 2])
    report = json.loads((tmp_path / "report.json").read_text())
    (tmp_path / "report.json").write_text(json.dumps(report | {"fps": 0}))
    (tmp_path / "job.yaml").write_text("{footage: {path: a.0001.png}, output: {fps: 25}}")
    assert decode(delivery.deliver_folder(tmp_path, ["preview"])["preview"])[0] == 25
    assert decode(delivery.deliver_folder(tmp_path, ["preview"], fps=30)["preview"])[0] == 30
