"""The published networks beside layers of torch, named as torchvision (ResNet) and timm (the others) name them.

Every parameter is random; the weights travel by a file, as a user's would.
"""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from references_models import weights_of
from small_models import features, images, in_torch, loaded
from torch.nn import functional

from metric_jax.models import IMAGENET_MEAN, IMAGENET_STD, ConvNeXt, ResNet, ViT
from metric_jax.models.vit import resample

# --- torchvision's ResNet ---------------------------------------------------------------------------------------------


class ResidualBlock(torch.nn.Module):
    def __init__(self, channels, width, stride, bottleneck):
        super().__init__()
        outer = 4 * width if bottleneck else width
        plan = [(channels, width, 3, stride), (width, width, 3, 1)]
        if bottleneck:
            plan = [(channels, width, 1, 1), (width, width, 3, stride), (width, outer, 1, 1)]
        for index, (before, after, side, by) in enumerate(plan, start=1):
            conv = torch.nn.Conv2d(before, after, side, stride=by, padding=side // 2, bias=False)
            setattr(self, f"conv{index}", conv)
            setattr(self, f"bn{index}", torch.nn.BatchNorm2d(after))
        self.count, self.downsample = len(plan), None
        if stride != 1 or channels != outer:
            self.downsample = torch.nn.Sequential(
                torch.nn.Conv2d(channels, outer, 1, stride=stride, bias=False), torch.nn.BatchNorm2d(outer)
            )

    def forward(self, x):
        y = x
        for index in range(1, self.count + 1):
            y = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(y))
            y = functional.relu(y) if index < self.count else y
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class TorchResNet(torch.nn.Module):
    def __init__(self, depths, width, bottleneck):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(width)
        channels, self.count = width, len(depths)
        for stage, depth in enumerate(depths):
            blocks = []
            for block in range(depth):
                stride = 2 if stage and not block else 1
                blocks.append(ResidualBlock(channels, width << stage, stride, bottleneck))
                channels = (width << stage) * (4 if bottleneck else 1)
            setattr(self, f"layer{stage + 1}", torch.nn.Sequential(*blocks))
        self.fc = torch.nn.Linear(channels, 10)

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        for stage in range(1, self.count + 1):
            x = getattr(self, f"layer{stage}")(x)
        return x.mean(dim=(2, 3))


# --- timm's VisionTransformer -----------------------------------------------------------------------------------------


class Mlp(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1, self.fc2 = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(functional.gelu(self.fc1(x)))


class SelfAttention(torch.nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, width))


class TransformerBlock(torch.nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = (torch.nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn, self.mlp = SelfAttention(width, heads), Mlp(width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TorchViT(torch.nn.Module):
    def __init__(self, patch, width, blocks, heads, tokens):
        super().__init__()
        self.cls_token = torch.nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = torch.nn.Parameter(torch.zeros(1, tokens, width))
        self.patch_embed = torch.nn.Module()
        self.patch_embed.proj = torch.nn.Conv2d(3, width, patch, stride=patch)
        self.blocks = torch.nn.Sequential(*(TransformerBlock(width, heads) for _ in range(blocks)))
        self.norm = torch.nn.LayerNorm(width, eps=1e-6)
        self.head = torch.nn.Linear(width, 10)

    def forward(self, x):
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        return self.norm(self.blocks(x))[:, 0]


# --- timm's ConvNeXt --------------------------------------------------------------------------------------------------


class LayerNorm2d(torch.nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv_dw = torch.nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm, self.mlp = torch.nn.LayerNorm(width, eps=1e-6), Mlp(width)
        self.gamma = torch.nn.Parameter(torch.zeros(width))

    def forward(self, x):
        y = self.mlp(self.norm(self.conv_dw(x).permute(0, 2, 3, 1)))
        return x + (self.gamma * y).permute(0, 3, 1, 2)


class ConvNeXtStage(torch.nn.Module):
    def __init__(self, channels, width, depth):
        super().__init__()
        self.downsample = torch.nn.Identity()
        if channels != width:
            conv = torch.nn.Conv2d(channels, width, 2, stride=2)
            self.downsample = torch.nn.Sequential(LayerNorm2d(channels, eps=1e-6), conv)
        self.blocks = torch.nn.Sequential(*(ConvNeXtBlock(width) for _ in range(depth)))

    def forward(self, x):
        return self.blocks(self.downsample(x))


class TorchConvNeXt(torch.nn.Module):
    def __init__(self, depths, width):
        super().__init__()
        self.stem = torch.nn.Sequential(torch.nn.Conv2d(3, width, 4, stride=4), LayerNorm2d(width, eps=1e-6))
        widths = [width, *(width << stage for stage in range(len(depths)))]
        stages = zip(widths, widths[1:], depths, strict=False)
        self.stages = torch.nn.Sequential(
            *(ConvNeXtStage(before, after, depth) for before, after, depth in stages)
        )
        self.head = torch.nn.Module()
        self.head.norm = LayerNorm2d(widths[-1], eps=1e-6)
        self.head.fc = torch.nn.Linear(widths[-1], 10)

    def forward(self, x):
        x = self.stages(self.stem(x)).mean(dim=(2, 3), keepdim=True)
        return self.head.norm(x).flatten(1)


# --- the same outputs -------------------------------------------------------------------------------------------------


def beside_torch(ours, theirs, mean, std, folder, *, train=False):
    weights = weights_of({name: tuple(value.shape) for name, value in theirs.state_dict().items()})
    theirs.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    net = loaded(ours, weights, folder)
    x = images(3, net.image_shape)
    with torch.no_grad():
        expected = theirs.train(train)(torch.tensor(in_torch(x, mean, std), dtype=torch.float32)).numpy()
    assert np.ptp(expected, axis=0).max() > 0.01, "images are told apart"
    np.testing.assert_allclose(features(net, x, train=train), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_resnet_beside_torch(bottleneck, train, tmp_path):
    ours = ResNet((40, 33, 3), depths=(1, 2, 1, 1), width=8, bottleneck=bottleneck, rngs=nnx.Rngs(0))
    theirs = TorchResNet((1, 2, 1, 1), 8, bottleneck)
    beside_torch(ours, theirs, IMAGENET_MEAN, IMAGENET_STD, tmp_path, train=train)


def test_vit_beside_torch(tmp_path):
    ours = ViT((32, 32, 3), patch=8, width=24, blocks=3, heads=3, rngs=nnx.Rngs(0))
    beside_torch(ours, TorchViT(8, 24, 3, 3, tokens=17), 0.5, 0.5, tmp_path)


def test_convnext_beside_torch(tmp_path):
    ours = ConvNeXt((70, 64, 3), depths=(1, 2, 1, 1), width=8, rngs=nnx.Rngs(0))
    beside_torch(ours, TorchConvNeXt((1, 2, 1, 1), 8), IMAGENET_MEAN, IMAGENET_STD, tmp_path)


@pytest.mark.parametrize("grid", [(7, 7), (3, 5), (16, 12), (4, 4)])
def test_positions_of_another_grid_beside_torch(grid):
    theirs = torch.randn(1, 1 + 8 * 8, 6, generator=torch.Generator().manual_seed(0))
    patches = theirs[:, 1:].reshape(1, 8, 8, 6).permute(0, 3, 1, 2)
    resized = functional.interpolate(patches, size=grid, mode="bicubic", antialias=True, align_corners=False)
    found = resample(theirs.numpy(), grid)
    np.testing.assert_array_equal(found[0], theirs[0, 0])
    np.testing.assert_allclose(found[1:], resized[0].flatten(1).T, atol=1e-5)


def test_weights_in_bfloat16_beside_torch(tmp_path):
    theirs = TorchViT(8, 7, 1, 1, tokens=2)
    weights = weights_of({name: tuple(value.shape) for name, value in theirs.state_dict().items()})
    bias = torch.linspace(-3, 3, 7).to(torch.bfloat16)
    weights["norm.bias"] = bias.view(torch.int16).numpy().view(jnp.bfloat16)
    net = loaded(ViT((8, 8, 3), patch=8, width=7, blocks=1, heads=1, rngs=nnx.Rngs(0)), weights, tmp_path)
    np.testing.assert_array_equal(net.norm.bias[...], bias.float().numpy())
