# SPDX-License-Identifier: GPL-3.0-or-later
"""Matte, and composite over the original plate inside Blender: the original frame comes back. For every encoding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from core import color, frame_io
from tests.test_addon import ROOT, VERSIONS, blender_python, run_blender

pytestmark = pytest.mark.blender

WIDTH, HEIGHT = 96, 64
CASES = {  # name: ending, pixel type, Blender's name of the colour space
    "8-bit": (".png", "uint8", "sRGB"),
    "16-bit": (".png", "uint16", "sRGB"),
    "half": (".exr", "float16", "Linear Rec.709"),
    "float": (".exr", "float32", "Linear Rec.709"),
    "ACEScg": (".exr", "float16", "ACEScg"),
    "Rec.2020": (".exr", "float32", "Linear Rec.2020"),
    "Rec.1886": (".png", "uint8", "Rec.1886"),
    "AgX Log": (".png", "uint16", "AgX Log"),
    "Filmic Log": (".png", "uint16", "Filmic Log"),
    "H.264": (".mp4", "yuv420p", "sRGB"),
    "ProRes": (".mov", "yuv422p10le", "sRGB"),
    "data": (".png", "uint8", "Non-Color"),
    "PQ": (".png", "uint16", "Rec.2100-PQ"),
    "HLG": (".png", "uint16", "Rec.2100-HLG"),
}
# 5.0 was the first to know PQ and HLG, 5.2 the first to heed the matrix of ProRes
UNKNOWN = {"4.5": {"ProRes", "PQ", "HLG"}, "5.0": {"ProRes"}}


def make_shot(path: Path, plate_path: Path, kind: str) -> None:
    """A plate of noise, and a frame in which a soft-edged disc covers a part of it; floats go up to 6."""
    random = np.random.default_rng(1)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    alpha = np.clip((24 - np.hypot(x - 48, y - 32)) / 6 + 0.5, 0, 1)[..., None]
    plate = 0.2 + 0.6 * random.random((HEIGHT, WIDTH, 3))
    frame = np.float32([0.8, 0.3, 0.5]) * alpha + plate * (1 - alpha)
    if kind.startswith("float"):
        plate, frame = plate * 6, frame * 6
    if not kind.startswith("yuv"):
        for target, values in ((path, frame), (plate_path, plate)):
            frame_io.write_image(target, color.to_dtype(values.astype(np.float32), np.dtype(kind)))
        return
    codec, options = ("libx264", {"crf": "12"}) if kind == "yuv420p" else ("prores_ks", {"profile": "3"})
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=24, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, kind
        stream.codec_context.colorspace = 1
        for index in range(2):
            picture = av.VideoFrame.from_ndarray(np.round(frame * 255).astype(np.uint8), format="rgb24")
            picture = picture.reformat(format=kind, dst_colorspace="ITU709")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    # The plate as the movie shows it: what is outside the disc, and something else under it
    decoded = next(frame_io.open_footage(path).frames([1]))[1].pixels
    frame_io.write_image(plate_path, np.where(alpha > 0, decoded[::-1, ::-1], decoded))


def run_engine(folder: str, version: str) -> None:
    """In a process of its own, whose OCIO is a Blender's: make each case's shot, and matte it with the true matte."""
    from core import delivery, engine
    from core.job import Job, Output, PlateSource, Source
    from core.matting import Matte

    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pha = np.clip((24 - np.hypot(x - 48, y - 32)) / 6 + 0.5, 0, 1).astype(np.float32)

    class TrueMatte:
        is_recurrent = False
        device = "cpu"
        overlapping = staticmethod(nullcontext)
        memory = staticmethod(dict)

        def reset(self) -> None: ...

        def remember(self, memory: dict[str, Any]) -> None: ...

        def matte(self, src: Any, *_: Any) -> Matte:
            return Matte(pha, np.full(src.shape, 0.6, np.float32), np.zeros_like(pha))

    engine._warm_matter = lambda job: TrueMatte()  # type: ignore[assignment,return-value]
    engines_names = {"sRGB": "srgb", "Linear Rec.709": "linear"}
    cases = []
    for name, (ending, kind, space) in CASES.items():
        if name in UNKNOWN.get(version, ()):
            continue
        source = Path(folder, f"{name} shot.0001{ending}")
        plate = source.with_name(f"{name} plate{'.exr' if ending == '.exr' else '.png'}")
        make_shot(source, plate, kind)
        engines = engines_names.get(space, space)
        job = Job(
            Source(str(source), engines),
            PlateSource(str(plate), engines, align="off", match=False),
            Output(str(Path(folder, f"{name} out")), "exr" if name in ("data", "PQ", "HLG") else "auto", matte=True),
        )
        result = engine.run_job(job, frames=(1, 1))
        footage = frame_io.open_footage(source, engines)
        _, frame = next(footage.frames([1]))
        convert = color.convert if footage.fps else color.convert_still
        light = convert(frame.pixels, engines, "linear")
        frame_io.write_image(source.with_name(f"{name} light.exr"), light)
        case = {key: result[key] for key in ("alpha", "foreground", "matte")}
        cases.append(
            {**case, "name": name, "source": str(source), "plate": str(plate), "space": space, "plate_space": space}
            | {
                "foreground_space": {v: k for k, v in engines_names.items()}.get(
                    result["foreground_color_space"], space
                )
            }
        )
        if name == "half":
            finished = delivery.read_finished(Path(result["folder"]))
            deliveries = delivery.deliver(finished, ["multilayer", "prores"], 25, job.plate)
    Path(folder, "cases.json").write_text(json.dumps({"cases": cases, "deliveries": deliveries}))


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """dB, for a peak of the original's own."""
    error = float(np.mean((one.astype(np.float64) - other) ** 2))
    return 10 * np.log10(float(other.max()) ** 2 / max(error, 1e-20))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_composite_over_the_plate_is_the_original(version: str, tmp_path: Path) -> None:
    python = blender_python(version)
    (config,) = python.parent.parent.glob(
        f"lib/python*/site-packages/bpy/{version}/datafiles/colormanagement/config.ocio"
    )
    code = f"from tests.test_round_trip import run_engine; run_engine({str(tmp_path)!r}, {version!r})"
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OCIO": str(config), "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        check=True,
        timeout=200,
    )
    made = json.loads((tmp_path / "cases.json").read_text())
    cases = made["cases"]
    assert {case["name"] for case in cases} == CASES.keys() - UNKNOWN.get(version, set())
    result = run_blender(version, "round_trip.py", None, tmp_path, cases=cases, deliveries=made["deliveries"])
    assert result["kind"] == "MULTILAYER" and result["movie"] == [WIDTH, HEIGHT, 1, 25]
    assert set(result["layers"]) == {"Combined", "Alpha", "alpha", "error", "foreground", "plate"}
    renders = result["renders"]
    for case in cases:
        name = case["name"]
        ways = ("original", "straight", "premultiplied")
        shown = {way: frame_io.read_image(Path(renders[f"{name} {way}"])) for way in ways}
        alpha = color.to_float(frame_io.read_image(Path(case["alpha"])))[..., 0]
        sure = (alpha == 0) | (alpha == 1)
        assert 0.1 < np.mean(alpha == 1) < 0.5 and 0.02 < np.mean(~sure) < 0.3, name
        original = shown["original"]
        assert not name.startswith(("half", "float")) or original.max() > 2
        for way in ("straight", "premultiplied"):
            assert psnr(shown[way][sure], original[sure]) > 50, (name, way)
            assert psnr(shown[way][~sure], original[~sure]) < 40, (name, way)  # its colour was made up
        light = frame_io.read_image(tmp_path / f"{name} light.exr")
        assert psnr(light, original) > 60, name
