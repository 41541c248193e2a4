"""Image classifiers: MLPs, a small CNN, ResNet-18 for small images.

Each factory takes ``input_shape`` (channels, height, width) and ``num_classes``; a model of one's
own, named ``package.module:factory`` on the command line, is called the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import prod

from torch import Tensor, nn
from torch.nn import functional as F

from goldiprox.schema import ConfigError

__all__ = ["MLP", "ResNet", "SmallCNN"]

Shape = tuple[int, ...]


class MLP(nn.Sequential):
    """A multi-layer perceptron with ReLU on the flattened image.

    Args:
        input_shape: shape of one example.
        num_classes: size of the output.
        hidden: widths of the hidden layers. (512, 512) is the RHO-LOSS paper's network for QMNIST;
            (128,) * 3 and (512,) * 3 are the GoldiProx poster's proxies (135 k and 932 k parameters
            on 28x28 images).
        dropout: dropout probability after each hidden layer.
    """

    def __init__(
        self, input_shape: Shape, num_classes: int, hidden: Shape = (512, 512), dropout: float = 0.0
    ) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in pairwise((prod(input_shape), *hidden)):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
        layers.append(nn.Linear(hidden[-1], num_classes))
        super().__init__(*layers)


class SmallCNN(nn.Module):
    """Three unpadded 3x3 convolutions (64, 128, 256) with max-pooling, then 128-256-classes.

    0.538 M parameters and 0.019 G multiply-adds on a 32x32 colour image: the small
    irreducible-loss model of Mindermann et al. 2022.

    Raises:
        ConfigError: if the image is smaller than 22 pixels, where nothing is left to pool.
    """

    def __init__(self, input_shape: Shape, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        channels, height, width = _image_shape(input_shape)
        if min(height, width) < 22:
            raise ConfigError(
                f"small-cnn needs images of at least 22x22 pixels, these are {height}x{width}; "
                "use --model mlp"
            )
        self.convolutions = nn.ModuleList(
            nn.Conv2d(fan_in, fan_out, 3) for fan_in, fan_out in pairwise((channels, 64, 128, 256))
        )
        self.drop = nn.Dropout2d(dropout)
        features = _halved(_halved(_halved((height, width))))
        self.head = nn.Sequential(
            nn.Linear(256 * prod(features), 128),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(128, 256),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(256, num_classes),
        )

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Images to logits_BC."""
        x = images_BCHW
        for convolution in self.convolutions:
            x = F.relu(F.max_pool2d(self.drop(convolution(x)), 2))
        logits: Tensor = self.head(x.flatten(1))
        return logits


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut (He et al. 2016)."""

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(fan_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or fan_in != fan_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(fan_in, fan_out, 1, stride=stride, bias=False), nn.BatchNorm2d(fan_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Features to features."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet-18 without the early down-sampling, for images of about 32x32.

    A 3x3 stem instead of the strided 7x7 one and no max-pooling (Mindermann et al. 2022,
    appendix B): 11.17 M parameters and 0.557 G multiply-adds at width 64, 32x32, 10 classes.

    Args:
        input_shape: (channels, height, width).
        num_classes: size of the output.
        width: channels of the first stage; each later stage doubles them.
        blocks: basic blocks per stage.
    """

    def __init__(
        self, input_shape: Shape, num_classes: int, width: int = 64, blocks: Shape = (2, 2, 2, 2)
    ) -> None:
        super().__init__()
        channels, _, _ = _image_shape(input_shape)
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        stages: list[nn.Module] = []
        fan_in = width
        for stage, depth in enumerate(blocks):
            fan_out = width * 2**stage
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(_BasicBlock(fan_in, fan_out, stride))
                fan_in = fan_out
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(fan_in, num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Images to logits_BC."""
        features = self.stages(self.stem(images_BCHW))
        logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits


def _image_shape(input_shape: Shape) -> tuple[int, int, int]:
    if len(input_shape) != 3:
        raise ConfigError(
            f"a convolutional model needs images of shape (channels, height, width), "
            f"not examples of shape {tuple(input_shape)}; use --model mlp"
        )
    channels, height, width = input_shape
    return channels, height, width


def _halved(size: tuple[int, int]) -> tuple[int, int]:
    """Size after an unpadded 3x3 convolution and 2x2 pooling."""
    return (size[0] - 2) // 2, (size[1] - 2) // 2


Factory = Callable[[Shape, int], nn.Module]

VISION_MODELS: dict[str, Factory] = {
    "mlp": MLP,
    "mlp-128": lambda shape, classes: MLP(shape, classes, hidden=(128,) * 3),
    "mlp-512": lambda shape, classes: MLP(shape, classes, hidden=(512,) * 3),
    "mlp-dropout": lambda shape, classes: MLP(shape, classes, dropout=0.5),
    "small-cnn": SmallCNN,
    "small-cnn-dropout": lambda shape, classes: SmallCNN(shape, classes, dropout=0.05),
    "resnet18": ResNet,
    "resnet18-32": lambda shape, classes: ResNet(shape, classes, width=32),
    "resnet18-16": lambda shape, classes: ResNet(shape, classes, width=16),
}
"""Built-in image models; ``resnet18-16`` is ResNet-18 with 16 channels in its first stage, and the
``-dropout`` ones have the dropout of Mindermann et al. 2022, appendix G."""
