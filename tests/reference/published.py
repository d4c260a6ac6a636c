# SPDX-License-Identifier: GPL-3.0-or-later
"""Lin et al. 2021 restated in plain functions over a state dict: nothing shared with core, nothing optimised.

Layer by layer as the paper and its published checkpoints define the network: whole frames are resampled, padded and
unfolded, and every patch is cut on its own. It is what the parity tests compare with, and what the benchmark calls the
published implementation.
"""

import torch
import torch.nn.functional as F

RESNET_DEPTHS = {"resnet50": [3, 4, 6, 3], "resnet101": [3, 4, 23, 3]}


class Weights:
    """A state dict with a prefix, and the three layers that these networks are made of."""

    def __init__(self, state, prefix=""):
        self.state = state
        self.prefix = prefix

    def __getitem__(self, name):
        return Weights(self.state, f"{self.prefix}{name}.")

    def conv(self, x, stride=1, padding=0, dilation=1, groups=1):
        bias = self.state.get(self.prefix + "bias")
        return F.conv2d(x, self.state[self.prefix + "weight"], bias, stride, padding, dilation, groups)

    def norm(self, x):
        mean, var, weight, bias = (
            self.state[self.prefix + name] for name in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=1e-5)


def resize(x, height, width):
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)


def resnet(w, x, depths):
    features = [x]
    x = F.relu_(w["bn1"].norm(w["conv1"].conv(x, stride=2, padding=3)))
    features.append(x)
    x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    for stage in (1, 2, 3, 4):
        for block in range(depths[stage - 1]):
            b = w[f"layer{stage}"][str(block)]
            stride = 2 if stage in (2, 3) and block == 0 else 1
            dilation = 2 if stage == 4 and block > 0 else 1
            identity = x
            if block == 0:
                identity = b["downsample"]["1"].norm(b["downsample"]["0"].conv(x, stride=stride))
            y = F.relu_(b["bn1"].norm(b["conv1"].conv(x)))
            y = F.relu_(b["bn2"].norm(b["conv2"].conv(y, stride=stride, padding=dilation, dilation=dilation)))
            y = b["bn3"].norm(b["conv3"].conv(y))
            x = F.relu_(y + identity)
        if stage != 3:
            features.append(x)
    return features  # at 1, 1/2, 1/4, 1/8, 1/16


# One row per block of MobileNetV2: input width, expanded width, output width, stride, dilation.
MOBILENET_BLOCKS = [
    (32, 32, 16, 1, 1),
    (16, 96, 24, 2, 1),
    (24, 144, 24, 1, 1),
    (24, 144, 32, 2, 1),
    (32, 192, 32, 1, 1),
    (32, 192, 32, 1, 1),
    (32, 192, 64, 2, 1),
    (64, 384, 64, 1, 1),
    (64, 384, 64, 1, 1),
    (64, 384, 64, 1, 1),
    (64, 384, 96, 1, 1),
    (96, 576, 96, 1, 1),
    (96, 576, 96, 1, 1),
    (96, 576, 160, 1, 1),
    (160, 960, 160, 1, 2),
    (160, 960, 160, 1, 2),
    (160, 960, 320, 1, 2),
]


def mobilenet(w, x):
    features = [x]
    x = F.hardtanh_(w["0"]["1"].norm(w["0"]["0"].conv(x, stride=2, padding=1)), 0, 6)
    for number, (width_in, wide, width_out, stride, dilation) in enumerate(MOBILENET_BLOCKS, start=1):
        block, y = w[str(number)]["conv"], x
        step = 0
        if wide != width_in:
            y = F.hardtanh_(block["0"]["1"].norm(block["0"]["0"].conv(y)), 0, 6)
            step = 1
        depthwise = block[str(step)]
        y = depthwise["0"].conv(y, stride=stride, padding=dilation, dilation=dilation, groups=wide)
        y = F.hardtanh_(depthwise["1"].norm(y), 0, 6)
        y = block[str(step + 2)].norm(block[str(step + 1)].conv(y))
        x = x + y if width_in == width_out and stride == 1 else y
        if number in (1, 3, 6, 17):
            features.append(x)
    return features  # at 1, 1/2, 1/4, 1/8, 1/16


def aspp(w, x):
    branches = [F.relu_(w["convs"]["0"]["1"].norm(w["convs"]["0"]["0"].conv(x)))]
    for branch, rate in ((1, 3), (2, 6), (3, 9)):
        b = w["convs"][str(branch)]
        branches.append(F.relu_(b["1"].norm(b["0"].conv(x, padding=rate, dilation=rate))))
    mean = F.adaptive_avg_pool2d(x, 1)
    mean = F.relu_(w["convs"]["4"]["2"].norm(w["convs"]["4"]["1"].conv(mean)))
    branches.append(resize(mean, x.shape[2], x.shape[3]))
    return F.relu_(w["project"]["1"].norm(w["project"]["0"].conv(torch.cat(branches, 1))))


def decoder(w, x, features):
    for step, skip in ((1, features[3]), (2, features[2]), (3, features[1]), (4, features[0])):
        x = resize(x, skip.shape[2], skip.shape[3])
        x = torch.cat([x, skip], 1)
        x = w[f"conv{step}"].conv(x, padding=1)
        if step < 4:
            x = F.relu_(w[f"bn{step}"].norm(x))
    return x


def coarse(state, backbone, src, bgr):
    """The decoder's 37 channels: alpha, foreground residual, error, hidden; nothing clamped yet."""
    w = Weights(state)
    x = torch.cat([src, bgr], 1)
    features = mobilenet(w["backbone"]["features"], x) if backbone == "mobilenetv2" else None
    if features is None:
        features = resnet(w["backbone"], x, RESNET_DEPTHS[backbone])
    return decoder(w["decoder"], aspp(w["aspp"], features[4]), features)


def matting_base(state, backbone, src, bgr):
    x = coarse(state, backbone, src, bgr)
    return x[:, :1].clamp(0, 1), (x[:, 1:4] + src).clamp(0, 1), x[:, 4:5].clamp(0, 1), F.relu(x[:, 5:])


def choose(err, mode, sample_pixels, threshold, prevent_oversampling):
    if mode == "thresholding":
        return (err > threshold).float()
    B, _, h, w = err.shape
    err = err.reshape(B, h * w)
    worst = torch.topk(err, sample_pixels // 16, dim=1, sorted=False)[1]
    chosen = torch.zeros_like(err)
    chosen.scatter_(1, worst, 1.0)
    if prevent_oversampling:
        chosen *= (err > 0).float()
    return chosen.reshape(B, 1, h, w)


def cut(frame, where, size, padding):
    """All patches of the zero-padded frame as a view, then the chosen ones."""
    if padding:
        frame = F.pad(frame, [padding] * 4)
    side = size + 2 * padding
    return frame.permute(0, 2, 3, 1).unfold(1, side, size).unfold(2, side, size)[where]


def first_half(w, x):
    x = F.relu_(w["bn1"].norm(w["conv1"].conv(x)))
    return F.relu_(w["bn2"].norm(w["conv2"].conv(x)))


def second_half(w, x):
    x = F.relu_(w["bn3"].norm(w["conv3"].conv(x)))
    return w["conv4"].conv(x)


def refine(w, src, bgr, pha, fgr, err, hid, mode, sample_pixels, threshold, prevent_oversampling):
    B, _, H, W = src.shape
    three = w.state[w.prefix + "conv1.weight"].shape[-1] == 3
    images = torch.cat([src, bgr], 1)
    features = torch.cat([hid, pha, fgr], 1)
    if mode == "full":
        x = torch.cat([resize(features, H // 2, W // 2), resize(images, H // 2, W // 2)], 1)
        x = first_half(w, F.pad(x, [3] * 4) if three else x)
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = second_half(w, torch.cat([x, F.pad(images, [2] * 4) if three else images], 1))
        return x[:, :1], x[:, 1:], torch.ones(B, 1, H // 4, W // 4)

    chosen = choose(resize(err, H // 4, W // 4), mode, sample_pixels, threshold, prevent_oversampling)
    out = resize(torch.cat([pha, fgr], 1), H, W)
    where = torch.nonzero(chosen.squeeze(1), as_tuple=True)
    if len(where[0]):
        x = cut(resize(features, H // 2, W // 2), where, 2, 3 if three else 0)
        y = cut(resize(images, H // 2, W // 2), where, 2, 3 if three else 0)
        x = first_half(w, torch.cat([x, y], 1))
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        y = cut(images, where, 4, 2 if three else 0)
        x = second_half(w, torch.cat([x, y], 1))
        out = out.view(B, 4, H // 4, 4, W // 4, 4).permute(0, 2, 4, 1, 3, 5)
        out[where] = x
        out = out.permute(0, 3, 1, 4, 2, 5).reshape(B, 4, H, W)
    return out[:, :1], out[:, 1:], chosen


def matting_refine(
    state,
    backbone,
    src,
    bgr,
    backbone_scale=0.25,
    refine_mode="sampling",
    refine_sample_pixels=80_000,
    refine_threshold=0.1,
    refine_prevent_oversampling=True,
):
    small = {"scale_factor": backbone_scale, "mode": "bilinear", "align_corners": False, "recompute_scale_factor": True}
    src_sm, bgr_sm = F.interpolate(src, **small), F.interpolate(bgr, **small)
    x = coarse(state, backbone, src_sm, bgr_sm)
    pha_sm, fgr_sm, err_sm, hid_sm = x[:, :1].clamp_(0, 1), x[:, 1:4], x[:, 4:5].clamp_(0, 1), x[:, 5:].relu_()
    pha, fgr, ref_sm = refine(
        Weights(state, "refiner."),
        src,
        bgr,
        pha_sm,
        fgr_sm,
        err_sm,
        hid_sm,
        refine_mode,
        refine_sample_pixels,
        refine_threshold,
        refine_prevent_oversampling,
    )
    fgr = fgr.add_(src).clamp_(0, 1)
    fgr_sm = src_sm.add_(fgr_sm).clamp_(0, 1)
    return pha.clamp_(0, 1), fgr, pha_sm, fgr_sm, err_sm, ref_sm
