# SPDX-License-Identifier: GPL-3.0-or-later
"""Weights as users have them: every published format by its keys and shapes, and files that are none or worse."""

import copy
import io
import json
import pickle
import warnings
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from core.checkpoints import initialise_model, load_model, save_model
from core.errors import CheckpointError
from core.models import MattingBase, MattingRefine, RecurrentMatting
from tests.reference import formats, published

torch.set_num_threads(1)


def save(state, path):
    torch.save(state, path)
    return path


def assert_same(state, expected):
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(state[key].float(), value.float()), key


@pytest.mark.parametrize(("backbone", "whole", "kernel"), [
    ("mobilenetv2", False, 3),
    ("mobilenetv2", True, 3),
    ("mobilenetv2", True, 1),
    ("resnet50", False, 3),
    ("resnet50", True, 3),
    ("resnet101", True, 3),
])  # fmt: skip
def test_official_checkpoints_load(tmp_path, backbone, whole, kernel):
    shapes = formats.matting_base(backbone) | (formats.refiner(kernel=kernel) if whole else {})
    state = formats.fill(shapes)
    model = load_model(save(state, tmp_path / "official.pth"))
    assert type(model) is (MattingRefine if whole else MattingBase)
    assert model.arguments["backbone"] == backbone
    assert not model.training
    assert_same(model.state_dict(), state)


def test_official_checkpoint_mattes_as_published(tmp_path):
    state = formats.fill(formats.matting_base("mobilenetv2") | formats.refiner())
    model = load_model(save(state, tmp_path / "official.pth"))
    model.refiner.sample_pixels = 320
    src, bgr = torch.rand(2, 1, 3, 60, 92)
    with torch.inference_mode():
        expected = published.matting_refine(state, "mobilenetv2", src, bgr, refine_sample_pixels=320)
        for output, reference in zip(model(src, bgr), expected, strict=True):
            torch.testing.assert_close(output, reference, rtol=0, atol=1e-4)


def test_half_precision_loads_as_float32(tmp_path):
    state = formats.fill(formats.matting_base("mobilenetv2"))
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    model = load_model(save(half, tmp_path / "half.pth"))
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert_same(model.state_dict(), half)


@pytest.mark.parametrize("wrapped", [{"state_dict": "module."}, {"model_state": ""}])
def test_wrapped_checkpoints_load(tmp_path, wrapped):
    ((container, prefix),) = wrapped.items()
    state = formats.fill(formats.matting_base("mobilenetv2"))
    content = {container: {prefix + key: value for key, value in state.items()}, "best_score": np.float64(0.7)}
    assert_same(load_model(save(content, tmp_path / "wrapped.pth")).state_dict(), state)


def test_legacy_pickles_load(tmp_path):
    state = formats.fill(formats.matting_base("mobilenetv2"))
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_same(load_model(tmp_path / "old.pth").state_dict(), state)


def test_seed_whole_net_loads(tmp_path):
    state = formats.fill(formats.seed_whole_net())
    model = load_model(save(state, tmp_path / "checkpoint_epoch0.pth"))
    assert type(model) is MattingRefine and model.arguments["backbone"] == "resnet50"
    loaded = model.state_dict()
    assert not loaded["decoder.conv4.bias"].any() and not loaded["refiner.conv4.bias"].any()
    assert torch.equal(loaded["refiner.bn3.running_mean"], state["refine.bn3.running_mean"])
    assert torch.equal(loaded["decoder.conv4.weight"], state["decoder.conv4.weight"])
    assert loaded.keys() == (formats.matting_base("resnet50") | formats.refiner()).keys()


def test_seed_base_net_loads(tmp_path):
    model = load_model(save(formats.fill(formats.matting_base("resnet50", bias=False)), tmp_path / "base.pth"))
    assert type(model) is MattingBase
    assert not model.decoder.conv4.bias.any()


INITIALISATIONS = {
    "vainf-resnet50": (lambda: formats.vainf_deeplab("resnet50"), "resnet50", True),
    "vainf-mobilenetv2": (lambda: formats.vainf_deeplab("mobilenetv2"), "mobilenetv2", True),
    "torchvision-deeplab-resnet50": (lambda: formats.torchvision_deeplab("resnet50"), "resnet50", True),
    "imagenet-resnet50": (lambda: formats.torchvision_resnet("resnet50"), "resnet50", False),
    "imagenet-resnet101": (lambda: formats.torchvision_resnet("resnet101"), "resnet101", False),
    "imagenet-mobilenetv2": (formats.torchvision_mobilenet, "mobilenetv2", False),
}


@pytest.mark.parametrize("name", INITIALISATIONS)
def test_initialisations_load_only_as_such(tmp_path, name):
    shapes, backbone, with_aspp = INITIALISATIONS[name]
    state = formats.fill(shapes())
    path = save({"model_state": state} if name.startswith("vainf") else state, tmp_path / "init.pth")
    with pytest.raises(CheckpointError, match=r"missing \(.*initialise"):
        load_model(path)

    model = load_model(path, initialise=True)
    assert type(model) is MattingBase and model.arguments["backbone"] == backbone
    loaded = model.state_dict()
    norms = "backbone.features.17.conv.3.bias" if backbone == "mobilenetv2" else "backbone.layer4.2.bn3.bias"
    theirs = norms if name.startswith("torchvision") else norms.removeprefix("backbone.")
    if name.startswith("vainf"):
        theirs = norms.replace("features", "high_level_features")
    assert torch.equal(loaded[norms], state[theirs])
    first = "backbone.features.0.0.weight" if backbone == "mobilenetv2" else "backbone.conv1.weight"
    assert loaded[first][:, :3].any() and not loaded[first][:, 3:].any()  # the plate has no say yet
    fresh = initialise_model(MattingBase(backbone), path)
    parts = {key.split(".")[0] for key in fresh}
    assert parts == ({"decoder"} if with_aspp else {"decoder", "aspp"})


def test_a_refinement_from_before_the_least_alpha_refines_as_it_did(tmp_path):
    model = RecurrentMatting().eval()
    torch.nn.init.normal_(model.refiner.predict.weight, std=0.1)
    shorter = {"trunk.0.weight": (16, 32), "head.0.weight": (16, 52), "predict.weight": (20, 16), "predict.bias": (20,)}
    for name, shape in shorter.items():
        weight = model.refiner.get_parameter(name)
        old = weight.detach()[tuple(map(slice, shape))].clone()
        weight.data.zero_()[tuple(map(slice, shape))] = old
    state = model.state_dict()
    old = state | {f"refiner.{name}": state[f"refiner.{name}"][tuple(map(slice, shorter[name]))] for name in shorter}
    strings = {"architecture": "RecurrentMatting", "arguments": "{}"}
    safetensors.torch.save_file(
        {key: value.contiguous() for key, value in old.items()}, tmp_path / "old.safetensors", strings
    )
    assert_same(load_model(tmp_path / "old.safetensors").state_dict(), state)

    old["refiner.head.0.weight"] = old["refiner.head.0.weight"][:, :20]  # no file ever had that
    safetensors.torch.save_file(
        {key: value.contiguous() for key, value in old.items()}, tmp_path / "cut.safetensors", strings
    )
    with pytest.raises(CheckpointError, match=r"head\.0\.weight of \[16, 20, 3, 3\] instead of \[16, 56, 3, 3\]"):
        load_model(tmp_path / "cut.safetensors")


def test_a_file_from_before_the_shading_does_not_see_it(tmp_path):
    model = RecurrentMatting(blind=True).eval()
    state = model.state_dict()
    places = {"decoder.up4.conv.plate_weight": 34, "plate_review.down8.weight": 9}
    places["plate_review.see_through.weigh.0.weight"] = 25
    places = {prefix + name: n for name, n in places.items() for prefix in ("", "blind.") if prefix + name in state}
    assert len(places) == 4
    old = dict(state)
    for name, n in places.items():
        torch.nn.init.normal_(state[name])
        state[name][:, n : n + 2] = 0
        old[name] = torch.cat([state[name][:, :n], state[name][:, n + 2 :]], dim=1)
    strings = {"architecture": "RecurrentMatting", "arguments": '{"blind": true}'}
    safetensors.torch.save_file(old, tmp_path / "old.safetensors", strings)
    assert_same(load_model(tmp_path / "old.safetensors").state_dict(), state)

    old["decoder.up4.conv.plate_weight"] = old["decoder.up4.conv.plate_weight"][:8].clone()  # as no file ever had it
    safetensors.torch.save_file(old, tmp_path / "cut.safetensors", strings)
    with pytest.raises(CheckpointError, match=r"plate_weight of \[8, 34, 3, 3\] instead of \[40, 36, 3, 3\]"):
        load_model(tmp_path / "cut.safetensors")


def test_base_checkpoint_starts_the_whole_network(tmp_path):
    state = formats.fill(formats.matting_base("mobilenetv2"))
    model = MattingRefine("mobilenetv2")
    fresh = initialise_model(model, save(state, tmp_path / "base.pth"))
    assert {key.split(".")[0] for key in fresh} == {"refiner"}
    assert_same({key: value for key, value in model.state_dict().items() if key not in fresh}, state)


def test_weights_of_another_backbone_start_nothing(tmp_path):
    path = save(formats.fill(formats.torchvision_mobilenet()), tmp_path / "mobilenet.pth")
    with pytest.raises(CheckpointError, match="none of which fits"):
        initialise_model(MattingBase("resnet50"), path)


def test_what_does_not_match_is_listed_and_refused(tmp_path):
    state = formats.fill(formats.matting_base("mobilenetv2") | formats.refiner())
    del state["decoder.conv2.weight"]
    state["decoder.extra.weight"] = torch.zeros(2)
    state["refiner.conv1.weight"] = torch.zeros(24, 41, 3, 3)
    with pytest.raises(CheckpointError) as error:
        load_model(save(state, tmp_path / "odd.pth"))
    assert (
        "with 1 missing (decoder.conv2.weight) and 2 unexpected (decoder.extra.weight, "
        "refiner.conv1.weight of [24, 41, 3, 3] instead of [24, 42, 3, 3])" in str(error.value)
    )


def test_counters_of_batch_norms_may_be_absent(tmp_path):
    state = formats.fill(formats.matting_base("mobilenetv2"))
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    model = load_model(save(old, tmp_path / "old.pth"))
    assert torch.equal(model.aspp.project[1].running_var, state["aspp.project.1.running_var"])


class Node(torch.nn.Module):
    """Modules within modules, to hold a state dict as an export of the published network does."""

    def __init__(self, state):
        super().__init__()
        children = {}
        for key, value in state.items():
            name, _, rest = key.partition(".")
            if rest:
                children.setdefault(name, {})[rest] = value
            elif value.is_floating_point() and not name.startswith("running"):
                self.register_parameter(name, torch.nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        for name, part in children.items():
            self.add_module(name, Node(part))


class Archived(torch.nn.Module):
    """As the published export wraps its network: the weights lie under `model.`, beside settings."""

    def __init__(self, state):
        super().__init__()
        self.model = Node(state)
        self.backbone_scale = 0.25
        self.refine_mode = "sampling"
        self.sizes = [1, 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.backbone_scale + self.sizes[0]


@pytest.fixture(scope="module")
def archive():
    state = formats.fill(formats.matting_base("mobilenetv2") | formats.refiner())
    state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer releases of torch would rather export
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.script(Archived(state)), buffer)
    return buffer.getvalue(), state


def rewrite(archive, path, change, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(path, "w", compression) as target:
        for info in source.infolist():
            target.writestr(info.filename, change(info.filename, source.read(info)))
    return path


def test_torchscript_archives_give_their_weights(tmp_path, archive):
    content, state = archive
    (tmp_path / "torchscript.pth").write_bytes(content)
    model = load_model(tmp_path / "torchscript.pth")
    assert type(model) is MattingRefine
    assert_same(model.state_dict(), state)


def test_code_of_torchscript_archives_is_not_even_read(tmp_path, archive):
    content, state = archive
    path = rewrite(content, tmp_path / "x.pth", lambda name, data: b"no code" if "/code/" in name else data)
    assert_same(load_model(path).state_dict(), state)


def test_archives_with_packed_tensors_are_refused(tmp_path, archive):
    path = rewrite(archive[0], tmp_path / "bomb.pth", lambda name, data: data, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="packed"):
        load_model(path)


def test_packed_checkpoints_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    content = save({"x": torch.zeros(1 << 16)}, tmp_path / "a.pth").read_bytes()
    rewrite(content, tmp_path / "packed.pth", lambda name, data: data, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "a.pth") as archive, zipfile.ZipFile(tmp_path / "shared.pth", "w") as shared:
        for info in archive.infolist():
            shared.writestr(info.filename, archive.read(info))
            if info.filename.endswith("/data/0"):  # many names for the same bytes
                again = shared.getinfo(info.filename)
        for index in range(1, 99):
            shared.filelist.append(copy.copy(again))
            shared.filelist[-1].filename = f"a/data/{index}"
    monkeypatch.setattr(torch, "load", None)
    for name in ("packed", "shared"):
        with pytest.raises(CheckpointError, match="them packed"):
            load_model(tmp_path / f"{name}.pth")


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare", "torchscript"])
def test_code_in_a_checkpoint_does_not_run(tmp_path, kind, archive):
    state, path = {"a": torch.zeros(1), "code": Touch(tmp_path / "touched")}, tmp_path / "evil.pth"
    if kind == "bare":
        path.write_bytes(pickle.dumps(state["code"]))
    elif kind == "torchscript":
        program = pickle.dumps(state["code"], protocol=2)
        rewrite(archive[0], path, lambda name, data: program if name.endswith("/data.pkl") else data)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(CheckpointError, match="weights"):
        load_model(path)
    assert not (tmp_path / "touched").exists()
    with pytest.raises(CheckpointError, match="weights"):
        load_model(path, initialise=True)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89PNG\r\n\x1a\n" * 9, b"\x10\0\0\0\0\0\0\0{", b"\x80\x02", b"PK\x05\x06" + bytes(18)]
)
def test_files_that_are_no_model_are_refused(tmp_path, content):
    (tmp_path / "no.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"no\.pth"):
        load_model(tmp_path / "no.pth")


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"a": torch.zeros(2)}, {}, torch.zeros(3)])
def test_weights_of_nothing_that_is_known_are_refused(tmp_path, content):
    with pytest.raises(CheckpointError):
        load_model(save(content, tmp_path / "other.pth"))


@pytest.mark.parametrize("kind", ["zip", "legacy", "torchscript"])
def test_damaged_files_are_refused_whatever_the_damage(tmp_path, kind):
    state = {"decoder.conv4.weight": torch.zeros(2, 2), "backbone.layer3.0.bias": torch.zeros(2)}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "torchscript":
            torch.jit.save(torch.jit.script(Archived(state)), buffer)
        else:
            torch.save(state, buffer, _use_new_zipfile_serialization=kind == "zip")
    content, random = buffer.getvalue(), np.random.default_rng(0)
    start = content.find(b"\x80\x02")
    for _ in range(150):
        damaged = bytearray(content)
        for place in random.integers(start, start + 700, random.integers(1, 6)):
            damaged[place % len(damaged)] = random.integers(256)
        (tmp_path / "x.pth").write_bytes(damaged)
        with pytest.raises(CheckpointError):  # whole, it is refused too, for its keys
            load_model(tmp_path / "x.pth")


@pytest.mark.parametrize("initialise", [False, True])
def test_claims_of_absurd_size_take_no_memory(tmp_path, initialise):
    state = formats.fill(formats.seed_whole_net())
    state["decoder.conv4.weight"] = torch.zeros(1).expand(1 << 40, 54, 3, 3)
    state["backbone.conv1.weight"] = torch.zeros(1).expand(1 << 40, 3, 7, 7)
    path = save(state, tmp_path / "huge.pth")
    if initialise:
        fresh = initialise_model(MattingRefine("resnet50"), path)
        assert {"decoder.conv4.weight", "backbone.conv1.weight"} <= set(fresh)
    else:
        with pytest.raises(CheckpointError, match="1099511627776, 54, 3, 3"):
            load_model(path)


def test_own_format_keeps_network_settings_and_weights(tmp_path):
    model = MattingRefine("mobilenetv2", backbone_scale=1 / 8, refine_mode="thresholding", refine_kernel_size=1).eval()
    metadata = {"architecture": "MattingRefine", "arguments": model.arguments, "licence": "CC0"}
    save_model(model, tmp_path / "own.safetensors", metadata)
    loaded = load_model(tmp_path / "own.safetensors")
    assert loaded.arguments == model.arguments
    assert_same(loaded.state_dict(), model.state_dict())


@pytest.mark.parametrize("metadata", [
    {"architecture": "Nothing"},
    {"architecture": "MattingBase", "arguments": '{"backbone": "vgg"}'},
    {"architecture": "MattingBase", "arguments": '{"scale": 2}'},
    {"architecture": "MattingBase", "arguments": "not json"},
    {"architecture": "MattingBase", "arguments": "[" * 100_000},
    {"architecture": "MattingBase", "arguments": json.dumps({"backbone": "mobilenetv2"})},
])  # fmt: skip
def test_own_format_of_another_version_is_refused(tmp_path, metadata):
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "own.safetensors", metadata)
    with pytest.raises(CheckpointError, match=r"own\.safetensors"):
        load_model(tmp_path / "own.safetensors")


@pytest.mark.parametrize(("architecture", "arguments"), [
    ("MattingRefine", {"refine_sample_pixels": "x"}),
    ("MattingRefine", {"refine_sample_pixels": 1.5}),
    ("MattingRefine", {"refine_sample_pixels": -1}),
    ("MattingRefine", {"refine_threshold": "x"}),
    ("RecurrentMatting", {"refine_threshold": None}),
    ("RecurrentMatting", {"refine_channels": 10**9}),
    ("RecurrentMatting", {"refine_channels": "16"}),
])  # fmt: skip
def test_settings_that_do_not_work_are_refused_before_the_first_frame(tmp_path, architecture, arguments):
    if architecture == "MattingRefine":
        arguments |= {"backbone": "mobilenetv2"}
    metadata = {"architecture": architecture, "arguments": json.dumps(arguments)}
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "own.safetensors", metadata)
    with pytest.raises(CheckpointError, match="with its settings"):
        load_model(tmp_path / "own.safetensors")
