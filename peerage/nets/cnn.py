"""Stacked convolutional networks for images: the Nature CNN of all members.

The encoder is that of Mnih et al. (2015) and of `NatureCNN` in Stable-Baselines3: three convolutions with ReLUs, then a
linear layer of 512 units with a ReLU. The layers of a multilayer perceptron follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from peerage.nets import kernels
from peerage.nets.kernels import Activation
from peerage.nets.layers import linear_part, orthogonal_part
from peerage.nets.stack import Part, Stack, Weights
from peerage.nets.stacked import ALL_ROWS, Rows
from peerage.nets.workers import by_rows

CONVOLUTIONS = (32, 8, 4), (64, 4, 2), (64, 3, 1)
"""Channels, kernel size and stride of each convolution."""
FEATURES = 512


class Image(NamedTuple):
    """The layout of an image in a flat observation."""

    channels: int
    height: int
    width: int
    channels_first: bool

    def __str__(self) -> str:
        sizes = self.height, self.width, self.channels
        return " x ".join(map(str, (sizes[2], *sizes[:2]) if self.channels_first else sizes))

    @staticmethod
    def of(shape: Sequence[int]) -> Image:
        """From the shape of an observation. The smallest of first and last size is the number of channels, as in
        Stable-Baselines3; of two equal sizes the last."""
        if shape[0] < shape[2]:
            return Image(shape[0], shape[1], shape[2], True)
        return Image(shape[2], shape[0], shape[1], False)

    def unflatten(self, x: Tensor) -> Tensor:
        """`[..., obs]` with values 0 to 255 -> `[..., channels, height, width]` with values 0 to 1."""
        if self.channels_first:
            x = x.reshape(*x.shape[:-1], self.channels, self.height, self.width)
        else:
            x = x.reshape(*x.shape[:-1], self.height, self.width, self.channels).movedim(-1, -3)
        return x / 255


def build_cnn(
    rows: int, inputs: int, outputs: int, settings: Any, *, image: Image, window: Any = None, **more: Any
) -> StackedCNN:
    """The networks of PPO for images (`peerage.config.methods.NetMethod`): tanh in the layers of `net_arch`, and
    orthogonal weights, with gain sqrt(2) in all layers but the last."""
    return StackedCNN(rows, image, (*settings.net_arch, outputs), activation="tanh", gain=1.0, **more)


class StackedCNN(Stack):
    """`S` Nature CNNs of one shape; `sizes` are the widths of the layers after the encoder, at least that of the
    output. `activation`: that of these layers, except the last.

    Convolution n has the parameters `conv{n}.weight [S, out, in, k, k]` and `conv{n}.bias [S, out]`, linear layer n
    those of a `StackedMLP`, all drawn as torch does. With `gain` the weights are instead orthogonal with this gain in
    the last layer and sqrt(2) in the others, and the biases are 0. `extra` names further parameters, zero at first,
    with their shape per row. Inputs are flat observations `[s, B, obs]` with values 0 to 255, of any dtype. On a CPU
    every row is computed separately, so its bits do not depend on other rows.
    """

    def __init__(
        self,
        rows: int,
        image: Image,
        sizes: Sequence[int],
        *,
        activation: Activation = "relu",
        gain: float | None = None,
        extra: dict[str, tuple[int, ...]] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.image, self.activation = image, activation
        parts: dict[str, Part] = {}
        channels, height, width = image.channels, image.height, image.width
        self.pixels = channels * height * width  # of the input and of all convolutions' outputs
        for n, (out, kernel, stride) in enumerate(CONVOLUTIONS):
            bound = 1 / math.sqrt(channels * kernel * kernel)
            shape = out, channels, kernel, kernel
            parts[f"conv{n}.weight"] = Part(shape, bound) if gain is None else Part(shape, gain=math.sqrt(2))
            parts[f"conv{n}.bias"] = Part((out,), bound) if gain is None else Part((out,), constant=0.0)
            channels, height, width = out, (height - kernel) // stride + 1, (width - kernel) // stride + 1
            self.pixels += channels * height * width
        self.sizes = (channels * height * width, FEATURES, *sizes)
        for n, (fan_in, fan_out) in enumerate(pairwise(self.sizes)):
            if gain is None:
                parts |= linear_part(str(n), fan_in, fan_out)
            else:
                parts |= orthogonal_part(str(n), fan_in, fan_out, gain if n == self.layers - 1 else math.sqrt(2))
        parts |= {name: Part(shape, constant=0.0) for name, shape in (extra or {}).items()}
        super().__init__(rows, parts, device=device, dtype=dtype)

    @property
    def layers(self) -> int:
        """The number of linear layers."""
        return len(self.sizes) - 1

    @property
    def head(self) -> str:
        """The name of the last layer."""
        return str(self.layers - 1)

    @property
    def activations(self) -> int:
        """The number of inputs and outputs of all layers of all rows, for one input each."""
        return self.rows * (self.pixels + sum(self.sizes))

    def __call__(self, x: Tensor, *, rows: Rows = ALL_ROWS) -> Tensor:
        """`x [s, B, obs]` -> `[s, B, out]` without gradients, for all rows of the stack, a slice or an index `[s]`."""
        if isinstance(rows, slice) and rows == ALL_ROWS:
            return by_rows(lambda part: self._forward(self.weights(part), x[part]), self.rows, x.device)
        which = torch.arange(self.rows)[rows].tolist()
        outs = [self._forward(self.weights(slice(r, r + 1)), x[k : k + 1]) for k, r in enumerate(which)]
        return torch.cat(outs)

    def tape(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], None]]:
        """The output `[S, B, out]`, and a function that takes the output's gradient and adds the parameters' gradients
        to `self.grad`."""
        with torch.enable_grad():
            out = by_rows(lambda rows: self._forward(self.weights(rows, grad=True), x[rows]), self.rows, x.device)
        return out.detach(), out.backward

    def _forward(self, w: Weights, x: Tensor) -> Tensor:
        """The networks of the `s` rows of `w`. Convolutions of several rows are groups of one convolution."""
        rows, batch = x.shape[:2]
        h = self.image.unflatten(x.to(self.flat.dtype)).transpose(0, 1).flatten(1, 2)  # [B, s C, H, W]
        for n, (_, _, stride) in enumerate(CONVOLUTIONS):
            weight, bias = w[f"conv{n}.weight"].flatten(0, 1), w[f"conv{n}.bias"].flatten(0, 1)
            h = F.conv2d(h, weight, bias, stride=stride, groups=rows).relu()
        h = h.reshape(batch, rows, -1).transpose(0, 1).contiguous()  # [s, B, features]
        return kernels.run(h, [w.layer(str(n), self._activation(n)) for n in range(self.layers)])

    def _activation(self, layer: int) -> Activation | None:
        """The activation of a linear layer: the first one belongs to the encoder."""
        if layer == self.layers - 1:
            return None
        return "relu" if layer == 0 else self.activation
