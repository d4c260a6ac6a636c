# SPDX-License-Identifier: GPL-3.0-or-later
"""The three trainers on data made here, from train_base through train_refine to test_image and evaluate."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from core.checkpoints import load_model
from core.errors import CheckpointError, JobError
from core.matting import Matter
from core.models import MattingBase, MattingRefine, RecurrentMatting
from core.training import looks, paper, windows
from core.training.loop import Process
from scripts import evaluate, test_image, train_base, train_recurrent, train_refine
from tests.training_data import make_data


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def windows_of_an_untrained_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "MOST", 1.0)
        yield


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("pairs"))


def _flags(pairs: Path, folder: Path, *more: object) -> list[str]:
    found = []
    for split in ("train", "valid"):
        for kind, name in (("rgb", "fgr"), ("alp", "pha"), ("bck", "bgr")):
            found += [f"--{split}_{kind}_path", pairs / split / name]
    found += ["--checkpoint_path", folder / "checkpoints", "--logging_path", folder / "logs"]
    found += ["--backbone", "mobilenetv2", "--device", "cpu", "--precision", "fp32", "--num_workers", 0]
    found += ["--size", 64, "--crop", 48, 64, "--batch_size", 8, "--valid_samples", 6, *more]
    return [str(flag) for flag in found]


SEED_DEFAULTS = {
    "train_rgb_path": "../data/VideoMatte240K_JPEG_HD/train/fgr",
    "train_alp_path": "../data/VideoMatte240K_JPEG_HD/train/pha",
    "train_bck_path": "../data/Backgrounds/train",
    "valid_rgb_path": "../data/VideoMatte240K_JPEG_HD/test/fgr",
    "valid_alp_path": "../data/VideoMatte240K_JPEG_HD/test/pha",
    "valid_bck_path": "../data/Backgrounds/test",
    "batch_size": 8,
    "num_workers": 2,
    "epochs": 3,
    "backbone": "resnet50",
    "size": 512,
    "crop": (256, 512),
    "checkpoint_path": "../result/checkpoint/basenet",
    "logging_path": "../logs/basenet",
    "pretrained_model": "../data/pretrained/best_deeplabv3_resnet50_voc_os16.pth",
    "backbone_learning_rate": 1e-4,
    "aspp_learning_rate": 5e-4,
    "decoder_learning_rate": 5e-4,
}
SEED_REFINE_DEFAULTS = SEED_DEFAULTS | {
    "size": 2048,
    "crop": (1024, 2048),
    "checkpoint_path": "../result/checkpoint/refinenet",
    "logging_path": "../logs/refinenet",
    "pretrained_model": "../result/checkpoint/basenet/checkpoint_epoch0.pth",
    "backbone_learning_rate": 5e-5,
    "aspp_learning_rate": 5e-5,
    "decoder_learning_rate": 1e-4,
    "refiner_learning_rate": 3e-4,
    "backbone_scale": 0.25,
    "refine_sample_pixels": 80_000,
}


@pytest.mark.parametrize(("trainer", "defaults"), [(train_base, SEED_DEFAULTS), (train_refine, SEED_REFINE_DEFAULTS)])
def test_the_seeds_flags_have_the_seeds_defaults(trainer: Any, defaults: dict[str, object]) -> None:
    args = vars(trainer.parse_args(["--epochs", "3"]))
    assert {name: str(args[name]) for name in defaults} == {name: str(value) for name, value in defaults.items()}
    with pytest.raises(SystemExit):
        trainer.parse_args([])


def test_a_wrong_pool_ends_the_script_with_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, train_recurrent.__file__, "--pool", str(tmp_path / "nowhere")]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 1
    said = [line for line in run.stderr.splitlines() if "warn" not in line.lower()]
    assert len(said) == 1 and said[0].startswith("error: Expected subjects"), run.stderr


@pytest.mark.parametrize("crop", [(64, 48), (0, 48)])
def test_crops_that_are_none_are_refused(crop: tuple[int, int]) -> None:
    with pytest.raises(JobError, match=rf"got {crop[0]} {crop[1]}\. Correct it"):
        paper.train(argparse.Namespace(crop=crop), torch.nn.Module(), lambda net, batch: {})


def test_random_crop_keeps_the_images_together() -> None:
    torch.manual_seed(1)
    images = torch.linspace(0, 1, 64).view(1, 1, 64, 1).expand(2, 3, 64, 80) + torch.linspace(0, 1, 80)
    batch = {"src": images, "bgr": images.clone(), "fgr": images.clone(), "pha": images[:, :1]}
    sizes = set()
    for _ in range(8):
        cropped = paper.random_crop(batch, 32, 48)
        height, width = cropped["src"].shape[-2:]
        sizes.add((height, width))
        assert height % 4 == width % 4 == 0 and 32 <= height <= 48 and 32 <= width <= 48
        assert torch.equal(cropped["src"][:, :1], cropped["pha"]) and torch.equal(cropped["bgr"], cropped["fgr"])
        assert cropped["src"].mean() == pytest.approx(1, abs=0.02)  # centred
    assert len(sizes) > 3
    same = paper.random_crop({name: image[..., :64] for name, image in batch.items()}, 64, 64)
    torch.testing.assert_close(same["src"], images[..., :64])


def test_samples_do_not_depend_on_where_a_run_started(pairs: Path) -> None:
    args = train_base.parse_args(_flags(pairs, pairs, "--epochs", 1))
    dataset = paper.ImagePairDataset(
        args.train_rgb_path, args.train_alp_path, args.train_bck_path, size=64, seed=0, augment=True
    )
    whole = paper.sample_batches(dataset, 0, args, Process())
    batches = [next(whole)["src"] for _ in range(4)]
    assert torch.equal(batches[3], next(paper.sample_batches(dataset, 3, args, Process()))["src"])
    assert not torch.equal(batches[0], batches[1])
    args.num_workers = 2
    assert torch.equal(batches[2], next(paper.sample_batches(dataset, 2, args, Process()))["src"])


@pytest.mark.slow
def test_from_the_first_step_to_scored_mattes(pairs: Path, tmp_path: Path) -> None:
    """The training chapter's run: train_base, train_refine, test_image, evaluate."""

    base_flags = _flags(pairs, tmp_path / "base", "--pretrained_model", "none", "--epochs", 5, "--valid_every", 100)
    base_flags += ["--backbone_learning_rate", "5e-4", "--warmup", "10", "--schedule", "cosine"]
    start = train_base.main(train_base.parse_args([*base_flags, "--dry-run"]))
    base = train_base.main(train_base.parse_args(base_flags))
    assert base["loss"] < start["loss"] / 3 and base["best_mad"] < start["best_mad"] / 5

    checkpoint = tmp_path / "base/checkpoints/checkpoint_epoch4.pth"
    refine_flags = _flags(pairs, tmp_path / "refine", "--pretrained_model", checkpoint, "--epochs", 2)
    refine_flags += ["--backbone_scale", "0.5", "--refine_sample_pixels", "2000", "--size", "96", "--crop", "96", "96"]
    refined = train_refine.main(train_refine.parse_args(refine_flags))
    assert refined["best_mad"] < start["best_mad"] / 5

    best = tmp_path / "refine/checkpoints/best.safetensors"
    model = load_model(best)
    assert isinstance(model, MattingRefine) and model.backbone_scale == 0.5
    test_image.main(
        test_image.parse_args(
            [str(pairs / "cases/src"), str(pairs / "cases/bgr"), "alp", "com"]
            + ["--pretrained_model", str(best), "--output_path", str(tmp_path / "images")]
        )
    )
    scored = [
        "--data",
        str(pairs / "cases"),
        "--device",
        "cpu",
        "--output",
        str(tmp_path / "scored"),
        "--model",
        str(best),
        "--plate-as-is",
    ]
    total = evaluate.main(evaluate.parse_args(scored))
    assert total["mad"] < start["best_mad"] / 5
    for index in range(4):
        alpha = evaluate.read_alpha(tmp_path / f"images/{index}_alp.png")
        np.testing.assert_allclose(alpha, evaluate.read_alpha(tmp_path / f"scored/pha/{index}.png"), atol=0.01)
        assert (tmp_path / f"images/{index}_com.png").exists()


@pytest.mark.parametrize("whole", [False, True])
def test_an_alpha_that_is_zero_everywhere_can_be_trained_away(whole: bool) -> None:
    torch.manual_seed(0)
    model = (MattingRefine if whole else MattingBase)("mobilenetv2").train()
    with torch.no_grad():
        model.decoder.conv4.bias[0] = -10
        if isinstance(model, MattingRefine):
            model.refiner.conv4.bias[0] = -10
    pha = model(torch.rand(2, 3, 128, 128), torch.rand(2, 3, 128, 128))[0]
    assert not pha.any()
    (1 - pha).mean().backward()
    last = model.refiner.conv4 if isinstance(model, MattingRefine) else model.decoder.conv4
    assert last.bias.grad is not None and last.bias.grad[0] < 0


def test_refinement_sees_a_whole_batch_at_once_in_training() -> None:
    """Batch norm's statistics are those of all patches; in every process it is called equally often."""
    model = MattingRefine("mobilenetv2").train()
    calls: list[int] = []
    model.refiner.bn1.register_forward_hook(lambda *_: calls.append(1))
    model(torch.rand(2, 3, 256, 256), torch.rand(2, 3, 256, 256))
    assert len(calls) == 1
    model.eval()(torch.rand(2, 3, 256, 256), torch.rand(2, 3, 256, 256))
    assert len(calls) > 2


def test_refine_does_not_start_from_another_backbones_checkpoint(pairs: Path, tmp_path: Path) -> None:
    torch.save(MattingBase("mobilenetv2").state_dict(), tmp_path / "base.pth")
    flags = _flags(pairs, tmp_path, "--pretrained_model", tmp_path / "base.pth", "--epochs", 1, "--dry-run")
    with pytest.raises(CheckpointError, match="resnet50"):
        train_refine.main(train_refine.parse_args([*flags, "--backbone", "resnet50"]))


# The recurrent network's trainer


class Clips(torch.utils.data.Dataset[dict[str, Tensor]]):
    """A soft bright square that moves over a dark gradient; every third clip goes without its plate."""

    def __init__(self, split: str, size: int, frames: int, mix: dict[str, float]) -> None:
        self.size, self.frames = size, frames

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng(index)
        bgr = np.broadcast_to(np.linspace(0, rng.uniform(0.2, 0.5), self.size), (3, self.size, self.size))
        clip: dict[str, list[np.ndarray]] = {"src": [], "bgr": [], "pha": [], "fgr": []}
        corner = rng.integers(0, self.size // 2, 2)
        for t in range(self.frames):
            pha = np.zeros((self.size, self.size))
            pha[corner[0] : corner[0] + self.size // 2, corner[1] + 2 * t : corner[1] + 2 * t + self.size // 2] = 1
            pha = cv2.blur(pha, (3, 3))[None]
            fgr = np.full_like(bgr, 0.9)
            for name, image in (("src", pha * fgr + (1 - pha) * bgr), ("bgr", bgr), ("pha", pha), ("fgr", fgr)):
                clip[name].append(image)
        tensors = {name: torch.from_numpy(np.stack(images)).float() for name, images in clip.items()}
        return tensors | {"has_plate": torch.tensor(index % 3 > 0)}


def _recurrent_flags(folder: Path, *more: object) -> list[str]:
    flags = ["--pool", folder, "--init", "none", "--checkpoint_path", folder / "c", "--logging_path", folder / "l"]
    flags += ["--num_workers", 0, "--valid_size", 32, "--valid_clips", 2, "--valid_frames", 2, "--device", "cpu", *more]
    return [str(flag) for flag in flags]


STAGES = """[{steps: 4, size: 32, frames: 2, batch: 3},
    {steps: 2, size: 64, frames: 3, batch: 2, downsample_ratio: 0.5},
    {steps: 3, size: 64, frames: 2, batch: 3, part: review},
    {steps: 3, size: 128, frames: 1, batch: 2, downsample_ratio: 0.5, part: refiner}]"""


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, float], Path]:
    """What a run through all STAGES returned, and the model file that it wrote."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    flags = _recurrent_flags(folder, "--stages", STAGES, "--precision", "fp32")
    return train_recurrent.main(train_recurrent.parse_args(flags), Clips), folder / "c/last.safetensors"


@pytest.mark.parametrize("cut", [8, 10])  # in the review's stage, in the refiner's
def test_stages_run_one_after_another_and_a_resume_enters_in_the_middle(
    tmp_path: Path, whole_run: tuple[dict[str, float], Path], cut: int
) -> None:
    whole, model = whole_run
    assert {"pha_l1", "pha_gradient", "fgr_l1"} <= whole.keys()
    assert isinstance(load_model(model), RecurrentMatting)

    flags = _recurrent_flags(tmp_path, "--stages", STAGES, "--save_every", cut, "--precision", "fp32")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        steps = iter(range(cut))
        original = train_recurrent.compute_losses

        def interrupted(*args: Any) -> dict[str, Tensor]:
            if next(steps, None) is None:
                raise KeyboardInterrupt
            return original(*args)

        patch.setattr(train_recurrent, "compute_losses", interrupted)
        train_recurrent.main(train_recurrent.parse_args(flags), Clips)
    assert torch.load(tmp_path / "c/last.pt", weights_only=True)["step"] == cut
    resumed = train_recurrent.main(train_recurrent.parse_args([*flags, "--resume"]), Clips)
    assert resumed["loss"] == whole["loss"]
    one, other = load_file(model), load_file(tmp_path / "c/last.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_each_stage_has_its_size_and_ratio() -> None:
    stages = train_recurrent.make_stages(
        [{"steps": 2, "size": 16, "batch": 3}, {"steps": 9, "size": 32, "frames": 3}], 3
    )
    assert [stage.steps for stage in stages] == [2, 1]
    model = RecurrentMatting()
    batches = list(train_recurrent.stage_batches(1, stages, Clips, 0, 0, Process(), model))
    assert [tuple(batch["src"].shape) for batch in batches] == [(3, 2, 3, 16, 16), (6, 3, 3, 32, 32)]
    stages = train_recurrent.make_stages([{"steps": 3, "size": 64, "downsample_ratio": [0.3, 0.5]}], None)
    batches = list(train_recurrent.stage_batches(0, stages, Clips, 0, 0, Process(), model))
    shapes = [{batch[name].shape[-2:] for name in ("src", "bgr", "pha", "fgr")} for batch in batches]
    assert all(len(shape) == 1 for shape in shapes) and len(set.union(*shapes)) > 1
    assert all(19 <= side <= 32 for shape in shapes for side in shape.pop())
    later = next(iter(train_recurrent.stage_batches(1, stages, Clips, 0, 0, Process(), model)))
    assert torch.equal(later["src"], batches[1]["src"])  # a resumed run draws the same
    assert train_recurrent.make_stages([{"steps": 2}], 10)[0].steps == 10
    for wrong, named in (
        ({"sise": 16}, "sise"),
        ({"part": "encoder"}, "encoder"),
        ({"mix": {"peeple": 1.0}}, "peeple"),
        ({"part": "refiner", "size": 30}, "30"),
        ({"frames": 0}, "frames=0"),
        ({"size": "x"}, "size='x'"),
        ({"downsample_ratio": [0.5, 2]}, r"downsample_ratio=\[0.5, 2\]"),
        ({"downsample_ratio": 0}, "downsample_ratio=0"),
        ({"downsample_ratio": [0.5]}, r"downsample_ratio=\[0.5\]"),
    ):
        with pytest.raises(JobError, match=named):
            train_recurrent.make_stages([{"steps": 2} | wrong], None)
    with pytest.raises(JobError, match="at least one stage"):
        train_recurrent.make_stages([], None)


def test_clips_without_a_plate_do_not_show_theirs() -> None:
    torch.manual_seed(0)
    model = RecurrentMatting()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "plate" in name:
                parameter.normal_(0, 0.1)  # they start at zero, where a plate has no effect
    clips = Clips("train", 32, 2, {})
    batch: dict[str, Any] = torch.utils.data.default_collate([clips[i] for i in range(4)])
    loss = sum(train_recurrent.compute_losses(model, batch).values())
    for index, (shown, name) in enumerate([(False, "first"), (True, "second"), (True, "third"), (False, "fourth")]):
        changed = dict(batch)
        changed["bgr"] = batch["bgr"].clone()
        changed["bgr"][index] = 0.5
        other = sum(train_recurrent.compute_losses(model, changed).values())
        assert (float((loss - other).detach()) != 0) == shown, name


def test_windows_teach_the_refiner_alone() -> None:
    torch.manual_seed(0)
    model = RecurrentMatting()
    clips = Clips("train", 192, 1, {})
    clip_batch: dict[str, Any] = torch.utils.data.default_collate([clips[i] for i in range(6)])
    group = windows.cut_training_windows(model.train(), clip_batch, 0.4, [0, 0])
    batch = next(windows.draw_windows(iter([group]), 4, 0, 0, 1))
    for learning, found in (("refiner", batch), ("encoder", clip_batch)):
        model.zero_grad(set_to_none=True)
        sum(train_recurrent.compute_losses(model, found).values()).backward()
        for part in ("refiner", "encoder"):
            assert any(p.grad is not None for p in getattr(model, part).parameters()) == (part == learning)
    assert model.encoder.training and model.refiner.training
    for fixed in (True, False):
        before = [norm.clone() for name, norm in model.refiner.named_buffers() if name.endswith("running_mean")]
        train_recurrent.compute_losses(model, batch | {"fixed_norm": fixed})
        after = [norm for name, norm in model.refiner.named_buffers() if name.endswith("running_mean")]
        assert all(torch.equal(*pair) == fixed for pair in zip(before, after, strict=True))


def test_looks_are_the_engines() -> None:
    """In its box, with the truth of the same pixels; a clip without a plate gives none."""
    model = load_model("default")
    clips = Clips("train", 192, 3, {})
    batch: dict[str, Any] = torch.utils.data.default_collate([clips[i] for i in range(6)])
    seen = looks.look_at_clips(Matter(model, "cpu", "fp32"), batch, [0])
    assert len(seen) == 4
    for each in seen:
        with torch.no_grad():
            look = each.look(model)
        error = (model.reviewed(look).coarse[:, 3:].clamp(0, 1) - each.pha).abs().mean()
        assert error < 0.03 < each.pha.mean()
        assert each.fgr.shape == (1, 3, *each.pha.shape[2:])
        assert ((look.src_sm - each.fgr).abs() * (each.pha > 0.99)).max() < 0.1
    assert len({each.pha.shape for each in seen}) > 1


def test_looks_are_learnt_from_again() -> None:
    fresh = [[f"{step}a", f"{step}b"] for step in range(40)]
    whole = [batch["looks"] for batch in looks.draw_looks(iter(fresh), 6, 0, 0, 40)]  # type: ignore[arg-type]
    assert [len(batch) for batch in whole[:4]] == [2, 4, 6, 6]
    uses = Counter(look for batch in whole for look in batch)
    assert all(batch[:2] == new for batch, new in zip(whole, fresh, strict=True))
    assert 2 < sum(uses.values()) / len(uses) <= looks.USES and len(uses) == 80
    later = looks.draw_looks(iter(fresh[looks.first_fresh(30) :]), 6, 0, 30, 40)  # type: ignore[arg-type]
    assert [batch["looks"] for batch in later] == whole[30:]


@pytest.mark.parametrize(
    ("part", "learning"),
    [
        ("decoder", ("decoder.", "project.", "error.", "plate_review.")),
        ("review", "plate_review."),
        ("see-through", "plate_review.see_through."),
    ],
)
def test_the_review_learns_alone(part: str, learning: str) -> None:
    torch.manual_seed(0)
    model = RecurrentMatting()
    stage = train_recurrent.Stage(1, size=32, batch=3, part=part)
    batch = next(iter(train_recurrent.stage_batches(0, [stage], Clips, 0, 0, Process(), model)))
    sum(train_recurrent.compute_losses(model, batch).values()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == name.startswith(learning), name


@pytest.mark.parametrize(("ratio", "look"), [(0.5, 480), (0.25, 480), (0.5, 80)], ids=["near", "far", "shrunk"])
def test_windows_are_what_the_network_sees_there(monkeypatch: pytest.MonkeyPatch, ratio: float, look: int) -> None:
    """What the refiner makes of windows is what the network gives at full size; they lie where edges are."""
    monkeypatch.setattr("core.models.recurrent.broadly_see_through", torch.zeros_like)  # there it is not the refiner's
    monkeypatch.setattr(windows, "SHARE", 0.5)
    monkeypatch.setattr(windows, "LOOK", look)
    torch.manual_seed(0)
    model = RecurrentMatting().eval()
    torch.nn.init.normal_(model.refiner.predict.weight, std=0.1)
    model.refiner.threshold = -1.0  # everywhere
    clips = Clips("train", 192, 1, {})
    batch: dict[str, Any] = torch.utils.data.default_collate([clips[i] for i in range(1, 3)])
    batch["src"] += 0.05 * torch.rand(batch["src"].shape)  # so that no two windows are alike
    found = {name: x.float() for name, x in windows.cut_training_windows(model, batch, ratio, [3, 1]).items()}
    if look < 480:
        batch = {name: F.interpolate(batch[name][:, 0], (160, 160), mode="area")[:, None] for name in ("src", "bgr")}
    with torch.no_grad():
        whole = model(batch["src"], batch["bgr"], downsample_ratio=ratio)
        refined = model.refiner.refine_windows(*(found[name] for name in ("src", "bgr", "guides", "before")))
    assert len(refined) >= 4 and found["pha"].std(dim=(1, 2, 3)).gt(0.05).float().mean() > 0.7
    places = batch["src"].flatten(0, 1)[:, :1].unfold(2, 64, 2).unfold(3, 64, 2).flatten(1, 3)
    preds = whole.pha.flatten(0, 1).unfold(2, 64, 2).unfold(3, 64, 2).flatten(1, 3)
    margin = 2 * model.refiner.half_margin
    for src, pha in zip(found["src"][:, 0, margin:-margin, margin:-margin], refined[:, 0], strict=True):
        n, k = divmod(int((places - src).abs().mean((2, 3)).argmin()), places.shape[1])
        torch.testing.assert_close(pha.clamp(0, 1), preds[n, k], atol=0.02, rtol=0)


def test_windows_need_a_coarse_alpha_that_is_nearly_right() -> None:
    with pytest.raises(JobError, match="Train the coarse network first"):
        next(windows.draw_windows(iter([{}]), 8, 7, 0, 1))


def test_windows_of_many_groups_are_learnt_from_whenever_a_run_enters() -> None:
    made = [{"pha": torch.full((5, 1, 4, 4), float(n)) + torch.arange(5).view(5, 1, 1, 1) / 10} for n in range(50)]
    made[3] = {}  # clips that had nothing to learn from
    end = 50 * windows.STEPS
    whole = [batch["pha"] for batch in windows.draw_windows(iter(made), 8, 7, 0, end)]
    groups = [{int(n) for n in x[:, 0, 0, 0]} for x in whole]
    assert groups[0] == {0}
    assert all(max(found) <= step // windows.STEPS for step, found in enumerate(groups))
    assert len(set.union(*groups[-windows.STEPS :])) > 20
    assert min(set.union(*groups[-windows.STEPS :])) == 50 - windows.KEPT
    enter = 47 * windows.STEPS + 2
    later = windows.draw_windows(iter(made[windows.first_group(enter) :]), 8, 7, enter, end)
    assert all(torch.equal(one, other["pha"]) for one, other in zip(whole[enter:], later, strict=True))


def test_the_network_starts_from_the_weights_that_are_named(tmp_path: Path) -> None:
    shipped, model = load_model("default").state_dict(), train_recurrent.build_model("default")
    assert all(torch.equal(value, shipped[name]) for name, value in model.state_dict().items())
    torch.save(MattingBase("mobilenetv2").state_dict(), tmp_path / "base.pth")
    with pytest.raises(JobError, match="MattingBase"):
        train_recurrent.build_model(str(tmp_path / "base.pth"))


def test_a_widened_refiner_starts_as_the_narrow_one() -> None:
    shipped = load_model("default")
    assert isinstance(shipped, RecurrentMatting)
    channels = shipped.refiner.correct.in_channels
    wide = train_recurrent.build_model("default", channels + 8)
    assert wide.arguments["refine_channels"] == wide.refiner.correct.in_channels == channels + 8
    src, bgr, guides, before = (torch.rand(2, c, s, s) for c, s in ((3, 48), (3, 48), (26, 24), (4, 32)))
    with torch.no_grad():
        pred, narrow = (x.refiner.eval().refine_windows(src, bgr, guides, before) for x in (wide, shipped))
    torch.testing.assert_close(pred, narrow)
    wide.refiner.refine_windows(src, bgr, guides, before).sum().backward()
    for layer in (wide.refiner.correct, wide.refiner.predict):
        assert layer.weight.grad[:, channels:].abs().sum() > 0
    for wrong in (channels - 1, 0, 999):
        with pytest.raises(JobError, match=f"at least the {channels} channels"):
            train_recurrent.build_model("default", wrong)


def test_each_part_has_its_learning_rate() -> None:
    model = RecurrentMatting()
    groups = train_recurrent.parameter_groups(model, 1e-4, 2e-4, 3e-4, 4e-4)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    expected = {"encoder.stem.weight": 1e-4, "project.weight": 2e-4, "decoder.up2.conv.plate_weight": 3e-4}
    expected |= {"refiner.predict.weight": 4e-4, "error.bias": 4e-3}
    parameters = dict(model.named_parameters())
    assert {name: rates[id(parameters[name])] for name in expected} == pytest.approx(expected)
    assert {p for group in groups for p in group["params"]} == set(model.parameters())
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
