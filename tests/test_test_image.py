# SPDX-License-Identifier: GPL-3.0-or-later
"""The seed's command line for images, and the converter beside it, on files made here."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from core.checkpoints import load_model, save_model
from core.errors import FootageError, JobError, ShapeError
from core.frame_io import write_image
from core.models import MattingRefine
from scripts import convert_checkpoint, test_image
from tests.reference import formats, published

torch.set_num_threads(1)


def cv2_read(path):
    import cv2

    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.fixture
def folders(tmp_path):
    """Two pairs whose names sort alike but differ, one of them in a folder below; sizes that do not divide by 4."""
    random = np.random.default_rng(0)
    for name in ("src/a.png", "src/clip/b.png", "bck/1.png", "bck/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / name, random.integers(0, 256, (50, 66, 3), dtype=np.uint8))
    return tmp_path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    state = formats.fill(formats.matting_base("mobilenetv2") | formats.refiner())
    state["decoder.conv4.bias"] = state["decoder.conv4.bias"] + 0.5
    path = tmp_path_factory.mktemp("weights") / "official.pth"
    torch.save(state, path)
    return path, state


def run(*arguments):
    test_image.main(test_image.parse_args([str(argument) for argument in arguments]))


def test_outputs_are_the_networks(folders, checkpoint):
    path, state = checkpoint
    out = folders / "out"
    run(folders / "src", folders / "bck", *test_image.OUTPUTS, "--pretrained_model", path, "--output_path", out)
    names = {str(file.relative_to(out)) for file in out.rglob("*.png")}
    assert names == {f"{name}_{kind}.png" for name in ("a", "clip/b") for kind in test_image.OUTPUTS}

    src, bgr = (
        torch.from_numpy(cv2_read(folders / name)[..., ::-1].copy()).permute(2, 0, 1)[None] / 255
        for name in ("src/clip/b.png", "bck/2.png")
    )
    src, bgr = (torch.nn.functional.pad(image, (0, 2, 0, 2), mode="replicate") for image in (src, bgr))
    with torch.inference_mode():
        pha, fgr, _, _, err, ref = published.matting_refine(
            state,
            "mobilenetv2",
            src,
            bgr,
            backbone_scale=0.5,
            refine_sample_pixels=round(80_000 * 50 * 66 / 1920 / 1080),
        )  # what `MattingRefine.suit` finds for this size
    assert ref.sum() == 7
    pictures = {kind: cv2_read(out / f"clip/b_{kind}.png") for kind in test_image.OUTPUTS}
    assert {picture.dtype for picture in pictures.values()} == {np.dtype(np.uint16)}
    pha, fgr = pha[0, 0, :50, :66].numpy(), fgr[0, :, :50, :66].permute(1, 2, 0).numpy()
    scale = 1 / 65535
    np.testing.assert_allclose(pictures["alp"] * scale, pha, atol=1e-4)
    np.testing.assert_allclose(pictures["fgr"][..., ::-1] * scale, fgr, atol=1e-4)
    assert pictures["com"].shape == (50, 66, 4)
    np.testing.assert_array_equal(pictures["com"][..., 3], pictures["alp"])
    np.testing.assert_array_equal(pictures["com"][..., :3], pictures["fgr"] * (pha > 0)[..., None])
    np.testing.assert_array_equal(pictures["ref"], 65535 * ref[0, 0].numpy().repeat(4, 0).repeat(4, 1)[:50, :66])
    assert pictures["err"].shape == (50, 66) and pictures["err"].std() > 0


def test_one_background_serves_all_and_the_shipped_weights_are_the_default(folders):
    out = folders / "out"
    run(folders / "src", folders / "bck/1.png", "com", "--output_path", out)
    assert {file.name for file in out.rglob("*.png")} == {"a_com.png", "b_com.png"}
    assert cv2_read(out / "a_com.png").shape == (50, 66, 4)


def test_shipped_weights_have_no_refinement_map(folders):
    with pytest.raises(JobError, match="MattingRefine for a refinement map"):
        run(folders / "src", folders / "bck", "ref", "--output_path", folders / "out")
    assert not (folders / "out").exists()


def test_numbers_of_images_that_differ_are_said_with_names(folders):
    write_image(folders / "bck/3.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(FootageError, match=r"each of the 2 images .* 3 in .*without a partner: 3\.png"):
        run(folders / "src", folders / "bck", "alp", "--output_path", folders / "out")
    with pytest.raises(FootageError, match="folder of images"):
        run(folders / "none", folders / "bck", "alp")


def test_two_images_of_one_name_are_refused_and_hidden_files_are_none(folders):
    (folders / "src/._a.png").write_bytes(b"of a Mac")
    assert len(test_image.find_pairs(folders / "src", folders / "bck")) == 2
    (folders / "src/a.jpg").write_bytes((folders / "src/a.png").read_bytes())
    with pytest.raises(FootageError, match="one image of a name; got two of a in"):
        test_image.find_pairs(folders / "src", folders / "bck/1.png")


def test_sizes_that_differ_are_refused(folders):
    write_image(folders / "bck/1.png", np.zeros((50, 64, 3), np.uint8))
    with pytest.raises(ShapeError):
        run(folders / "src", folders / "bck", "alp", "--output_path", folders / "out")


def test_convert_keeps_network_and_weights(checkpoint, tmp_path):
    path, state = checkpoint
    convert_checkpoint.main(convert_checkpoint.parse_args([str(path), str(tmp_path / "new.safetensors")]))
    model = load_model(tmp_path / "new.safetensors")
    assert type(model) is MattingRefine
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
    with pytest.raises(JobError, match=r"NAME\.safetensors"):
        convert_checkpoint.main(convert_checkpoint.parse_args([str(path), str(tmp_path / "new.pth")]))


def test_convert_leaves_the_recurrent_network_alone(tmp_path):
    model = load_model()
    metadata = {"architecture": "RecurrentMatting", "arguments": model.arguments}
    save_model(model, tmp_path / "a.safetensors", metadata)
    with pytest.raises(JobError, match="RecurrentMatting"):
        convert_checkpoint.main(
            convert_checkpoint.parse_args([str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")])
        )


def test_errors_are_one_sentence_on_the_terminal(tmp_path):
    script = Path(convert_checkpoint.__file__)
    (tmp_path / "no.pth").write_bytes(b"nothing")
    command = [sys.executable, str(script), str(tmp_path / "no.pth"), str(tmp_path / "x.safetensors")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "Expected a file of weights" in result.stderr and "Traceback" not in result.stderr
