# SPDX-License-Identifier: GPL-3.0-or-later
"""Exported networks give what they give here: recorded at one size, run at another."""

import warnings

import numpy as np
import onnxruntime
import pytest
import torch

from core.checkpoints import load_model, save_model
from core.errors import JobError
from core.models import MattingBase, MattingRefine
from scripts import export

torch.set_num_threads(1)
SIZES = ((64, 80), (76, 52))  # height, width: recorded at, and another


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    for model in (MattingBase("mobilenetv2"), MattingRefine("mobilenetv2")):
        model.decoder.conv4.bias.data[:5] = 0.5
        name = type(model).__name__
        save_model(model, folder / f"{name}.safetensors", {"architecture": name, "arguments": model.arguments})
    return folder


def run_onnx(path, inputs):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})


def run_torchscript(path, inputs):
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # torch would rather have its newer format
        return [output.numpy() for output in torch.jit.load(str(path))(*inputs)]


def check(path, inputs, expected):
    outputs = (run_onnx if path.suffix == ".onnx" else run_torchscript)(path, inputs)
    assert len(outputs) == len(expected)
    for output, reference in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(output, reference.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("suffix", [".onnx", ".pt"])
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("MattingBase", None),
        ("MattingRefine", "sampling"),
        ("MattingRefine", "thresholding"),
        ("MattingRefine", "full"),
    ],
)
def test_paper_networks(models, tmp_path, name, mode, suffix):
    path = tmp_path / f"exported{suffix}"
    flags = ["--size", "80", "64"]
    if mode:
        flags += ["--refine_mode", mode, "--refine_sample_pixels", "1600", "--refine_threshold", "0.5"]
    export.main(export.parse_args([str(models / f"{name}.safetensors"), str(path), *flags]))
    model = load_model(models / f"{name}.safetensors")
    if mode:
        model.refiner.mode, model.refiner.sample_pixels, model.refiner.threshold = mode, 1600, 0.5
    for size in SIZES:
        inputs = torch.rand(2, 1, 3, *size).unbind()
        with torch.inference_mode():
            check(path, inputs, model(*inputs))


@pytest.mark.parametrize("suffix", [".onnx", ".pt"])
@pytest.mark.parametrize(("width", "height", "ratio"), [(96, 64, 0.5), (200, 136, 0.25)])
def test_default_network(tmp_path, capsys, width, height, ratio, suffix):
    path = tmp_path / f"exported{suffix}"
    size = ["--size", str(width), str(height), "--downsample_ratio", str(ratio)]
    export.main(export.parse_args(["default", str(path), *size]))
    model = load_model()
    with torch.inference_mode():
        rec = model(*torch.rand(2, 1, 3, height, width), None, ratio).rec
    shapes = ", ".join(f"r{i} {tuple(state.shape)}" for i, state in enumerate(rec, 1))
    assert capsys.readouterr().out == f"downsample ratio {ratio}; {shapes}\n"  # else nobody knows what to begin with
    src, bgr = torch.rand(2, 1, 3, height + 4, width + 4)
    with torch.inference_mode():
        *first, rec = model(src, bgr, None, ratio)
        *second, after = model(bgr, src, rec, ratio)
    size = int(ratio * src.shape[2]), int(ratio * src.shape[3])
    for state in rec:
        assert state.shape[2:] == (size := (-(-size[0] // 2), -(-size[1] // 2)))
    check(path, [src, bgr, *(torch.zeros(state.shape) for state in rec)], [*first, *rec])
    check(path, [bgr, src, *rec], [*second, *after])


def test_what_cannot_be_exported_is_said(models, tmp_path):
    with pytest.raises(JobError, match=r"NAME\.onnx"):
        export.main(export.parse_args([str(models / "MattingBase.safetensors"), str(tmp_path / "x.trt")]))
    model, output = str(models / "MattingRefine.safetensors"), str(tmp_path / "x.pt")
    for width in ("82", "0"):
        with pytest.raises(JobError, match=f"{width} x 64"):
            export.main(export.parse_args([model, output, "--size", width, "64"]))
    with pytest.raises(JobError, match="0 x 64"):
        export.main(export.parse_args([str(models / "MattingBase.safetensors"), output, "--size", "0", "64"]))
    with pytest.raises(JobError, match="--refine_sample_pixels of 0 or more; got -5"):
        export.main(export.parse_args([model, output, "--size", "80", "64", "--refine_sample_pixels", "-5"]))
    for name, value, most in (("backbone_scale", "0.7", "0.5"), ("downsample_ratio", "-1", "1")):
        with pytest.raises(JobError, match=f"--{name} above 0, at most {most}; got {value}"):
            export.main(export.parse_args([model, output, "--size", "80", "64", f"--{name}", value]))
    for name, flag in (("MattingBase", "--refine_mode=full"), ("MattingRefine", "--downsample_ratio=0.5")):
        with pytest.raises(JobError, match=rf"{name}, which has no {flag.partition('=')[0]}"):
            export.main(export.parse_args([str(models / f"{name}.safetensors"), output, "--size", "80", "64", flag]))
    with pytest.raises(JobError, match="RecurrentMatting, which has no --backbone_scale, --refine_threshold"):
        export.main(export.parse_args(["default", output, "--backbone_scale", "0.2", "--refine_threshold", "0.1"]))
