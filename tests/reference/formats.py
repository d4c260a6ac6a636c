# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys and shapes of published state dicts, spelled out without the networks of core."""

import torch

from tests.reference.published import MOBILENET_BLOCKS, RESNET_DEPTHS


def norm(name, channels):
    shapes = {f"{name}.{key}": (channels,) for key in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {f"{name}.num_batches_tracked": ()}


def resnet(variant, in_channels=3, prefix=""):
    """torchvision's ResNet without its classifier."""
    shapes = {f"{prefix}conv1.weight": (64, in_channels, 7, 7)} | norm(f"{prefix}bn1", 64)
    width_in = 64
    for stage, (depth, width) in enumerate(zip(RESNET_DEPTHS[variant], (64, 128, 256, 512), strict=True), start=1):
        for block in range(depth):
            name = f"{prefix}layer{stage}.{block}"
            shapes |= {f"{name}.conv1.weight": (width, width_in, 1, 1)} | norm(f"{name}.bn1", width)
            shapes |= {f"{name}.conv2.weight": (width, width, 3, 3)} | norm(f"{name}.bn2", width)
            shapes |= {f"{name}.conv3.weight": (4 * width, width, 1, 1)} | norm(f"{name}.bn3", 4 * width)
            if block == 0:
                shapes |= {f"{name}.downsample.0.weight": (4 * width, width_in, 1, 1)}
                shapes |= norm(f"{name}.downsample.1", 4 * width)
            width_in = 4 * width
    return shapes


def mobilenet(in_channels=3, prefix="features."):
    """torchvision's MobileNetV2 up to the 320-channel block."""
    shapes = {f"{prefix}0.0.weight": (32, in_channels, 3, 3)} | norm(f"{prefix}0.1", 32)
    for number, (width_in, wide, width_out, _, _) in enumerate(MOBILENET_BLOCKS, start=1):
        name, step = f"{prefix}{number}.conv", 0
        if wide != width_in:
            shapes |= {f"{name}.0.0.weight": (wide, width_in, 1, 1)} | norm(f"{name}.0.1", wide)
            step = 1
        shapes |= {f"{name}.{step}.0.weight": (wide, 1, 3, 3)} | norm(f"{name}.{step}.1", wide)
        shapes |= {f"{name}.{step + 1}.weight": (width_out, wide, 1, 1)} | norm(f"{name}.{step + 2}", width_out)
    return shapes


def aspp(channels, prefix):
    shapes = {f"{prefix}.convs.0.0.weight": (256, channels, 1, 1)} | norm(f"{prefix}.convs.0.1", 256)
    for branch in (1, 2, 3):
        shapes |= {f"{prefix}.convs.{branch}.0.weight": (256, channels, 3, 3)} | norm(f"{prefix}.convs.{branch}.1", 256)
    shapes |= {f"{prefix}.convs.4.1.weight": (256, channels, 1, 1)} | norm(f"{prefix}.convs.4.2", 256)
    return shapes | {f"{prefix}.project.0.weight": (256, 1280, 1, 1)} | norm(f"{prefix}.project.1", 256)


def matting_base(backbone, bias=True):
    """BackgroundMattingV2's MattingBase; without the last bias, the seed's BaseNet."""
    if backbone == "mobilenetv2":
        shapes = mobilenet(6, "backbone.features.") | aspp(320, "aspp")
        widths = (256 + 32, 128 + 24, 64 + 16, 48 + 6)
    else:
        shapes = resnet(backbone, 6, "backbone.") | aspp(2048, "aspp")
        widths = (256 + 512, 128 + 256, 64 + 64, 48 + 6)
    for step, (width_in, width_out) in enumerate(zip(widths, (128, 64, 48, 37), strict=True), start=1):
        shapes |= {f"decoder.conv{step}.weight": (width_out, width_in, 3, 3)}
        if step < 4:
            shapes |= norm(f"decoder.bn{step}", width_out)
    return shapes | ({"decoder.conv4.bias": (37,)} if bias else {})


def refiner(prefix="refiner", kernel=3, bias=True):
    """BackgroundMattingV2's Refiner; called `refine`, without the bias and with a bn4, the seed's Refine."""
    shapes = {}
    for step, (width_in, width_out) in enumerate([(42, 24), (24, 16), (22, 12), (12, 4)], start=1):
        shapes |= {f"{prefix}.conv{step}.weight": (width_out, width_in, kernel, kernel)}
        if step < 4:
            shapes |= norm(f"{prefix}.bn{step}", width_out)
    return shapes | ({f"{prefix}.conv4.bias": (4,)} if bias else norm(f"{prefix}.bn4", 4))


def seed_whole_net():
    return matting_base("resnet50", bias=False) | refiner("refine", bias=False)


def vainf_deeplab(backbone):
    """DeepLabV3Plus-Pytorch's DeepLabV3 with 21 classes."""
    if backbone == "mobilenetv2":
        features = mobilenet(3, "")
        shapes = {
            f"backbone.{'low' if int(key.split('.')[0]) < 4 else 'high'}_level_features.{key}": shape
            for key, shape in features.items()
        }
    else:
        shapes = resnet(backbone, 3, "backbone.")
    shapes |= aspp(320 if backbone == "mobilenetv2" else 2048, "classifier.classifier.0")
    shapes |= {"classifier.classifier.1.weight": (256, 256, 3, 3)} | norm("classifier.classifier.2", 256)
    return shapes | {"classifier.classifier.4.weight": (21, 256, 1, 1), "classifier.classifier.4.bias": (21,)}


def torchvision_deeplab(backbone):
    shapes = resnet(backbone, 3, "backbone.") | aspp(2048, "classifier.0")
    shapes |= {"classifier.1.weight": (256, 256, 3, 3)} | norm("classifier.2", 256)
    shapes |= {"classifier.4.weight": (21, 256, 1, 1), "classifier.4.bias": (21,)}
    shapes |= {"aux_classifier.0.weight": (256, 1024, 3, 3)} | norm("aux_classifier.1", 256)
    return shapes | {"aux_classifier.4.weight": (21, 256, 1, 1), "aux_classifier.4.bias": (21,)}


def torchvision_resnet(variant):
    return resnet(variant) | {"fc.weight": (1000, 2048), "fc.bias": (1000,)}


def torchvision_mobilenet():
    shapes = mobilenet() | {"features.18.0.weight": (1280, 320, 1, 1)} | norm("features.18.1", 1280)
    return shapes | {"classifier.1.weight": (1000, 1280), "classifier.1.bias": (1000,)}


def fill(shapes, seed=0):
    """A state dict of these shapes: large tensors are one value everywhere and cost no memory, small ones differ."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(3)
        elif key.endswith("running_var"):
            state[key] = torch.rand(shape, generator=generator) + 0.5
        elif len(shape) == 1 or torch.Size(shape).numel() < 2e6:
            fan_in = torch.Size(shape[1:]).numel()
            state[key] = torch.randn(shape, generator=generator) * fan_in**-0.5 * (0.1 if len(shape) == 1 else 1)
        else:
            state[key] = torch.randn(1, generator=generator).mul(1e-3).expand(shape)
    return state
