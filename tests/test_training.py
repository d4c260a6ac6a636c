# SPDX-License-Identifier: GPL-3.0-or-later
"""Losses against numbers worked by hand; the loop's resume, processes, averages, precision and refusals."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from core.checkpoints import save_model
from core.errors import CheckpointError, FootageError, JobError, MattingError, ending_in_words
from core.training import losses
from core.training.loop import Process, Trainer, learning_rate_scale, sample_order, write_state
from core.training.options import add_loop_arguments, loop_options, parse_with_config
from tests import toy_trainer

TOY = Path(toy_trainer.__file__)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


# Losses


def _ramp(slope: float) -> Tensor:
    return (slope * torch.arange(8.0)).expand(1, 1, 8, 8)


def test_gradient_l1_is_the_difference_of_slopes() -> None:
    loss = losses.gradient_l1(_ramp(0.1), _ramp(0.04))
    assert loss == pytest.approx(0.06 * 7 / 8, rel=0.01)  # the first and last column see half a slope
    assert losses.gradient_l1(_ramp(0.1), _ramp(0.1) + 0.5) == pytest.approx(0, abs=1e-6)


def test_laplacian_l1_sees_detail_not_brightness() -> None:
    image = torch.rand(2, 1, 33, 50)
    assert losses.laplacian_l1(image, image + 0.3) == pytest.approx(0, abs=1e-5)
    checks = (torch.arange(64).view(-1, 1) + torch.arange(64)) % 2 * 1.0
    # A chequerboard of 0.2 is all detail: the low-pass turns it into 0.1, and 0.1 is missing at every pixel.
    one = losses.laplacian_l1(0.2 * checks[None, None], torch.zeros(1, 1, 64, 64), levels=1)
    assert one == pytest.approx(0.1, rel=1e-4)
    assert losses.laplacian_l1(0.2 * checks[None, None], torch.zeros(1, 1, 64, 64), levels=4) == pytest.approx(0.025)


def test_laplacian_l1_weighs_each_level_twice_as_much_as_the_one_before() -> None:
    image = torch.rand(1, 1, 32, 32)
    half = losses._blur(image)[..., ::2, ::2]
    bands = [float(losses.laplacian_l1(x, 0 * x, levels=1)) for x in (image, half)]
    assert losses.laplacian_l1(image, 0 * image, levels=2) == pytest.approx((bands[0] + 2 * bands[1]) / 2)


def test_motion_l2_is_blind_to_what_stays() -> None:
    true = torch.zeros(1, 3, 1, 2, 2)
    pred = torch.tensor([0.5, 0.5, 0.7]).view(1, 3, 1, 1, 1).expand_as(true)
    assert losses.motion_l2(pred, true) == pytest.approx((0 + 0.04) / 2)
    assert losses.motion_l2(pred[:, :1], true[:, :1]) == 0


def test_foreground_l1_counts_where_the_true_alpha_is_above_zero() -> None:
    true_pha = torch.tensor([0.0, 0.01, 1.0, 0.0]).view(1, 1, 2, 2)
    assert losses.foreground_l1(torch.full((1, 3, 2, 2), 0.4), torch.zeros(1, 3, 2, 2), true_pha) == pytest.approx(0.2)


def test_error_l2_compares_with_the_true_error_at_the_maps_size() -> None:
    pred_pha = torch.full((1, 1, 4, 4), 0.75, requires_grad=True)
    true_pha = torch.zeros(1, 1, 4, 4)
    true_pha[..., :2] = 1  # errors 0.25 on the left, 0.75 on the right
    pred_err = torch.full((1, 1, 2, 2), 0.25, requires_grad=True)
    loss = losses.error_l2(pred_err, pred_pha, true_pha)
    assert float(loss.detach()) == pytest.approx(0.125)
    loss.backward()
    assert pred_pha.grad is None and pred_err.grad is not None


def test_error_cross_entropy_is_least_at_the_expected_error_and_steep_near_nothing() -> None:
    pred_pha = torch.tensor([0.1, 0.0, 0.0, 0.0]).view(1, 1, 2, 2)  # on average 0.025
    logit = torch.full((1, 1, 1, 1), -6.0, requires_grad=True)
    loss = losses.error_cross_entropy(torch.sigmoid(logit), pred_pha.requires_grad_(), torch.zeros(1, 1, 2, 2))
    loss.backward()
    assert pred_pha.grad is None and logit.grad is not None
    assert float(logit.grad) == pytest.approx(torch.sigmoid(torch.tensor(-6.0)).item() - 0.025, abs=1e-5)

    def at(value: float) -> float:
        return float(losses.error_cross_entropy(torch.full((1, 1, 1, 1), value), pred_pha, torch.zeros(1, 1, 2, 2)))

    assert at(0.025) < min(at(0.02), at(0.03)) and math.isfinite(at(0.0)) and math.isfinite(at(1.0))


def test_overshoot_counts_what_lies_beyond_the_range_and_its_margin() -> None:
    assert losses.overshoot(torch.tensor([-1.2, 0.5, 1.2, 2.2])) == pytest.approx((1.0 + 0 + 0 + 1.0) / 4)


def test_losses_of_two_halves_average_to_the_whole() -> None:
    """What several processes rely on."""
    generator = torch.Generator().manual_seed(0)
    pred_pha, true_pha = (torch.rand(4, 3, 1, 16, 16, generator=generator) for _ in range(2))
    pred_fgr, true_fgr = (torch.rand(4, 3, 3, 32, 32, generator=generator) for _ in range(2))
    true_pha[0] = 0
    tensors = (pred_pha, pred_fgr[..., ::2, ::2], true_pha.repeat_interleave(2, -1).repeat_interleave(2, -2), true_fgr)
    for compute in (losses.clip_losses, losses.paper_losses):
        whole, *halves = (compute(*(t[part] for t in tensors)) for part in (slice(None), slice(2), slice(2, 4)))
        for name, value in whole.items():
            assert value == pytest.approx(float(halves[0][name] + halves[1][name]) / 2, rel=1e-5), name


def test_losses_stay_in_fp32_under_autocast() -> None:
    image = torch.rand(1, 2, 1, 32, 32)
    plain = losses.laplacian_l1(image, 0 * image), losses.gradient_l1(image, 0 * image)
    with torch.autocast("cpu", torch.bfloat16):
        under = losses.laplacian_l1(image, 0 * image), losses.gradient_l1(image, 0 * image)
    assert plain == under


# Schedule and order


def test_learning_rate_warms_up_then_falls_along_a_cosine(tmp_path: Path) -> None:
    options = toy_trainer.options(tmp_path, steps=14, warmup=4)
    scales = [learning_rate_scale(step, options) for step in (0, 1, 3, 4, 9, 14)]
    assert scales == pytest.approx([0.25, 0.5, 1, 1, 0.5, 0])
    assert learning_rate_scale(9, dataclasses.replace(options, schedule="constant")) == 1


def test_sample_order_covers_every_epoch_anew_and_goes_on_anywhere() -> None:
    whole = list(itertools.islice(sample_order(10, 5, 0, Process()), 20))
    assert sorted(whole[:10]) == sorted(whole[10:]) == list(range(10)) and whole[:10] != whole[10:]
    assert list(itertools.islice(sample_order(10, 5, 7, Process()), 13)) == whole[7:]
    shares = [list(itertools.islice(sample_order(10, 5, 0, Process(rank, 2)), 10)) for rank in (0, 1)]
    assert [index for pair in zip(*shares, strict=True) for index in pair] == whole


# The loop


def _state(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def _assert_equal(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 0) -> None:
    for name, value in one.items():
        torch.testing.assert_close(
            other[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_a_run_learns_and_logs(tmp_path: Path) -> None:
    trainer = toy_trainer.make_trainer(toy_trainer.options(tmp_path, steps=40), noise=0)
    with torch.no_grad():
        start = toy_trainer.validate(trainer.model.eval()).scores["mad"]
    values = trainer.run()
    assert values["best_mad"] < start / 2 and values["loss"] == values["l2"]
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "train/l2", "train/learning_rate_scale", "train/gradient_norm", "valid/mad"} <= set(
        tags["scalars"]
    )
    assert tags["images"] == ["valid/image"]
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 41))


def test_the_best_model_is_kept_not_the_last(tmp_path: Path) -> None:
    trainer = toy_trainer.make_trainer(toy_trainer.options(tmp_path, steps=12))
    scores = iter([5.0, 9.0])
    seen: list[dict[str, Tensor]] = []

    def validate(model: nn.Module) -> toy_trainer.Validation:
        assert not model.training and not torch.is_grad_enabled()
        seen.append(_state(trainer))
        return toy_trainer.Validation({"mad": next(scores)})

    trainer._validate = validate
    assert trainer.run()["best_mad"] == 5
    _assert_equal(seen[0], load_file(tmp_path / "checkpoints/best.safetensors"))
    _assert_equal(seen[1], load_file(tmp_path / "checkpoints/last.safetensors"))
    assert not torch.equal(seen[0]["head.weight"], seen[1]["head.weight"])
    assert toy_trainer.make_trainer(toy_trainer.options(tmp_path, steps=12, resume=True)).run()["best_mad"] == 5


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_resumed_run_equals_one_that_was_not_interrupted(tmp_path: Path, ema: float) -> None:
    whole = toy_trainer.make_trainer(toy_trainer.options(tmp_path / "whole", ema=ema))
    whole.run()

    class KilledError(Exception):
        pass

    def kill(done: int, model: nn.Module) -> None:
        if done == 7:
            raise KilledError

    options = toy_trainer.options(tmp_path / "cut", ema=ema)
    cut = toy_trainer.make_trainer(options)
    cut._on_step = kill
    with pytest.raises(KilledError):
        cut.run()
    resumed = toy_trainer.make_trainer(dataclasses.replace(options, resume=True))
    resumed.run()
    _assert_equal(_state(whole), _state(resumed))
    _assert_equal(dict(whole.shipped.state_dict()), dict(resumed.shipped.state_dict()))
    assert resumed.best == whole.best


def test_kill_9_loses_at_most_one_interval(tmp_path: Path) -> None:
    command = [sys.executable, str(TOY), str(tmp_path), "--steps", "60", "--pause", "0.25"]
    last = tmp_path / "checkpoints" / "last.pt"
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)  # into the next interval
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    saved = torch.load(last, weights_only=True)["step"]
    assert saved % 4 == 0 and 4 <= saved < 60
    (last.parent / ".0.part.last.pt").touch()  # as a kill in the middle of writing leaves it
    resumed = toy_trainer.make_trainer(toy_trainer.options(tmp_path, steps=saved + 3, resume=True))
    resumed.run()
    assert resumed.done == saved + 3
    assert {path.name for path in last.parent.iterdir()} == {"last.pt", "last.safetensors", "best.safetensors"}


def test_an_earlier_run_is_not_overwritten_unasked(tmp_path: Path) -> None:
    toy_trainer.make_trainer(toy_trainer.options(tmp_path, steps=4)).run()
    with pytest.raises(CheckpointError, match="--resume"):
        toy_trainer.make_trainer(toy_trainer.options(tmp_path, steps=4)).run()


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    trainer = toy_trainer.make_trainer(toy_trainer.options(tmp_path, steps=4))
    trainer.run()
    other = toy_trainer.make_trainer(toy_trainer.options(tmp_path, steps=8, resume=True))
    other.model.head = nn.Conv2d(8, 2, 1)
    with pytest.raises(CheckpointError, match="head.weight"):
        other.run()


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\3\4"])
def test_a_damaged_checkpoint_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    resumed = toy_trainer.make_trainer(toy_trainer.options(tmp_path, steps=4, resume=True))
    last = resumed.options.checkpoint_path / "last.pt"
    last.parent.mkdir(parents=True)
    last.write_bytes(content)
    with pytest.raises(CheckpointError, match="last.pt, which does not fit"):
        resumed.run()


class _Unreadable(Dataset[int]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise FootageError("a picture", "none:\nno file", "Look")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_data_loaders_process_is_said_as_that_of_its_own(workers: int) -> None:
    with pytest.raises(SystemExit, match="^error: Expected a picture; got none:\nno file. Look.$"), ending_in_words():
        next(iter(DataLoader(_Unreadable(), num_workers=workers)))
    with pytest.raises(RuntimeError, match="of torch"), ending_in_words():
        raise RuntimeError("of torch")


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits")
@pytest.mark.parametrize("name", ["last.pt", "last.safetensors"])
def test_a_full_disk_leaves_the_checkpoint_before_and_nothing_half_written(tmp_path: Path, name: str) -> None:
    import resource

    path, metadata = tmp_path / name, {"architecture": "Toy", "arguments": {}}
    model, limits = toy_trainer.Toy(), resource.getrlimit(resource.RLIMIT_FSIZE)

    def write() -> None:
        if name == "last.pt":
            write_state(model.state_dict(), path)
        else:
            save_model(model, path, metadata)

    write()
    before = path.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1]))  # bytes
    try:
        with pytest.raises(SystemExit, match=f"error: Expected to write .*{name}; .* too large"), ending_in_words():
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before


def test_dry_run_takes_one_batch_and_writes_nothing(tmp_path: Path) -> None:
    trainer = toy_trainer.make_trainer(toy_trainer.options(tmp_path, dry_run=True))
    values = trainer.run()
    assert trainer.done == 1 and values["best_mad"] < math.inf
    assert not any(tmp_path.iterdir())


def test_average_lags_behind_the_trained_weights(tmp_path: Path) -> None:
    trainer = toy_trainer.make_trainer(toy_trainer.options(tmp_path, steps=3, ema=0.75, warmup=0))
    seen: list[Tensor] = []
    trainer._on_step = lambda done, model: seen.append(trainer.model.head.weight.detach().clone())
    trainer.run()
    expected = seen[0]  # the first average is a copy
    for weight in seen[1:]:
        expected = 0.75 * expected + 0.25 * weight
    torch.testing.assert_close(trainer.shipped.head.weight, expected)


def test_clipping_bounds_the_gradient(tmp_path: Path) -> None:
    trainer = toy_trainer.make_trainer(toy_trainer.options(tmp_path, steps=1, clip=1e-3))
    trainer.run()
    total = sum(float(p.grad.square().sum()) for p in trainer.model.parameters() if p.grad is not None)
    assert total**0.5 == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_autocast_reaches_the_model(tmp_path: Path, precision: str, dtype: torch.dtype) -> None:
    trainer = toy_trainer.make_trainer(toy_trainer.options(tmp_path, steps=4, precision=precision))
    start = trainer.model.head.weight.detach().clone()
    dtypes: list[torch.dtype] = []
    trainer.model.head.register_forward_hook(lambda module, args, output: dtypes.append(output.dtype))
    trainer.run()
    assert dtypes[0] == dtype and trainer.model.head.weight.dtype == torch.float32
    assert trainer.scaler.is_enabled() == (precision == "fp16")  # small gradients would vanish otherwise
    assert not torch.equal(start, trainer.model.head.weight)


def test_the_loss_scale_is_resumed(tmp_path: Path) -> None:
    trainer = toy_trainer.make_trainer(toy_trainer.options(tmp_path, steps=4, precision="fp16"))
    trainer.run()
    resumed = toy_trainer.make_trainer(toy_trainer.options(tmp_path, steps=4, precision="fp16", resume=True))
    resumed.run()
    assert (
        resumed.scaler.get_scale() == trainer.scaler.get_scale() < 65536
    )  # the first steps overflow, and are left out


def test_a_step_without_finite_gradient_is_skipped_and_a_diverged_run_ends(tmp_path: Path) -> None:
    def step(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        found = toy_trainer.step(model, batch)
        return {"l2": found["l2"] * math.nan}

    trainer = toy_trainer.make_trainer(toy_trainer.options(tmp_path, steps=50, valid_every=100, save_every=100))
    before = _state(trainer)["head.weight"]
    trainer._step = step
    with pytest.raises(MattingError, match="20 steps"):
        trainer.run()
    assert torch.equal(before, trainer.model.head.weight)


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    """torchrun, gloo: the weights after three steps equal one process's on the joined batch, batch norm included."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(TOY), str(tmp_path / "two"), "--steps", "3", "--noise", "0", "--optimizer", "SGD"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    options = toy_trainer.options(tmp_path / "one", steps=3)
    one = toy_trainer.make_trainer(options, noise=0, optimizer=torch.optim.SGD)
    one.run()
    two = load_file(tmp_path / "two/checkpoints/last.safetensors")
    _assert_equal(_state(one), two, tolerance=1e-6)  # steps are 1e-2 times a gradient
    start = toy_trainer.Toy().state_dict()["body.weight"]
    assert (start - two["body.weight"]).abs().max() > 1e-4


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_no_thread_of_the_group_is_left_at_the_end() -> None:
    """One that is aborts the process, at times, when the interpreter ends."""
    script = """
import atexit, pathlib, torch, torch.distributed as dist
from core.training.loop import join_processes
threads = lambda: {path.read_text().strip() for path in pathlib.Path("/proc/self/task").glob("*/comm")}
join_processes()
torch.optim.SGD([torch.nn.Parameter(torch.ones(2))])
dist.barrier()
assert any("gloo" in name for name in threads())
dist.destroy_process_group()
assert not any("gloo" in name for name in threads()), threads()
atexit.unregister(dist.destroy_process_group)
"""
    environment = dict(os.environ, RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


# Flags


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--checkpoint_path", type=Path, default="c")
    parser.add_argument("--logging_path", type=Path, default="l")
    add_loop_arguments(parser)
    return parser


def test_flags_win_over_the_config_which_wins_over_defaults(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("epochs: 3\nclip: 1e-2\nseed: 5\nresume: true\nprecision: bf16\n")
    args = parse_with_config(_parser(), ["--config", str(config), "--seed", "7"])
    assert (args.epochs, args.clip, args.seed, args.resume, args.warmup) == (3, 0.01, 7, True, 0)
    options = loop_options(args, steps=9)
    assert (options.steps, options.precision, options.checkpoint_path) == (9, "bf16", Path("c"))


@pytest.mark.parametrize("flags", [["--save_every", "0"], ["--batch_size", "-1"], ["--epochs", "0"]])
def test_none_of_something_is_refused_in_words(flags: list[str]) -> None:
    parser = _parser()
    parser.add_argument("--batch_size", type=int)
    with pytest.raises(JobError, match=rf"{flags[0]} of 1 or more; got {flags[1]}"):
        parse_with_config(parser, ["--epochs", "1", "--batch_size", "1", *flags])


@pytest.mark.parametrize(
    ("text", "message"),
    [("epoch: 3", "`epoch`"), ("precision: fp8", "precision: fp8"), ("- 3", "mapping"), ("a: [", "YAML")],
)
def test_a_wrong_config_is_refused_in_words(tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(text)
    with pytest.raises(JobError, match=message):
        parse_with_config(_parser(), ["--config", str(config)])
