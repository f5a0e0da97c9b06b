"""An encoder that hides a bit string in an image, and a decoder that reads it (Li et al., 2021, after StegaStamp)."""
import torch
import torch.nn.functional as F
from torch import nn

SIZE = 32  # pixels a side


class Encoder(nn.Module):
    """A U-Net of four strided convolutions: pixels (B, 3, 32, 32) in [0, 1] and bits (B, `bits`) to a residual.

    `width` is the channels of the first two levels, then twice, four and eight times as many. Without batch norm, so
    that what is hidden in one image does not depend on what else is in the batch.
    """

    def __init__(self, bits, width=16):
        super().__init__()
        self.bits, self.width = bits, width
        self.secret = nn.Linear(bits, 3 * SIZE * SIZE)
        channels = (width, width, 2 * width, 4 * width, 8 * width)
        self.down = nn.ModuleList(
            nn.Conv2d(before, after, 3, 2 if level else 1, 1)
            for level, (before, after) in enumerate(zip((6, *channels[:-1]), channels, strict=True)))
        self.up = nn.ModuleList(nn.Conv2d(before, after, 3, 1, 1)
                                for before, after in zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.join = nn.ModuleList(nn.Conv2d(2 * channel, channel, 3, 1, 1) for channel in channels[-2::-1])
        self.residual = nn.Conv2d(width, 3, 1)

    def forward(self, pixels, bits):
        """The residual (B, 3, 32, 32) that hides `bits`, float 0 or 1, once it is added to the pixels."""
        plane = F.relu(self.secret(bits - 0.5)).view(-1, 3, SIZE, SIZE)
        x, levels = torch.cat([plane, pixels - 0.5], 1), []
        for conv in self.down:
            x = F.relu(conv(x))
            levels.append(x)
        for up, join, skip in zip(self.up, self.join, levels[-2::-1], strict=True):
            x = F.relu(up(F.interpolate(x, scale_factor=2)))
            x = F.relu(join(torch.cat([skip, x], 1)))
        return self.residual(x)


class Decoder(nn.Module):
    """Seven convolutions, four of them strided, and two linear layers: pixels (B, 3, 32, 32) to bits' logits."""

    def __init__(self, bits, width=16):
        super().__init__()
        layers, before = [], 3
        for after, stride in ((1, 2), (1, 1), (2, 2), (2, 1), (4, 2), (4, 2), (4, 1)):
            layers += [nn.Conv2d(before, after * width, 3, stride, 1, bias=False), nn.BatchNorm2d(after * width),
                       nn.ReLU(inplace=True)]
            before = after * width
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * 4, 512), nn.ReLU(inplace=True))
        self.bits = nn.Linear(512, bits)

    def forward(self, pixels):
        """Logits (B, bits): positive where a 1 is read."""
        return self.bits(self.body(pixels - 0.5))
