"""ResNet-18 for 32x32 images, with the parameter names that the field's CIFAR checkpoints use."""
import torch
import torch.nn.functional as F
from torch import nn

# The homework's constants. The true pixel deviations are larger (about 0.247, 0.243, 0.262), but every
# published checkpoint of this family was trained with these, so a stranger's model needs them too.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2023, 0.1994, 0.2010)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., 2016, Fig. 5 left)."""

    def __init__(self, in_planes, planes, stride, norm_layer):
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, 1, bias=False)
        self.bn1 = norm_layer(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = norm_layer(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(in_planes, planes, 1, stride, bias=False), norm_layer(planes))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out, inplace=True)


class ResNet(nn.Module):
    """A CIFAR ResNet: 3x3 stem, four stages of `width` x (1, 2, 4, 8) channels, 4x4 pooling, one linear layer.

    Takes float pixels in [0, 1], shape (B, 3, 32, 32), and returns logits (B, num_classes): normalization is
    the model's own first step, so that every attack and defense works on pixels. Its two constants are not
    saved, which keeps the state_dict keys those of the well-known CIFAR ResNet.
    """

    def __init__(self, blocks, num_classes=10, width=64, norm_layer=nn.BatchNorm2d):
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = norm_layer(width)
        planes = width
        for stage, count in enumerate(blocks):
            out_planes, layers = width * 2**stage, []
            for block in range(count):
                layers.append(BasicBlock(planes, out_planes, 2 if stage and not block else 1, norm_layer))
                planes = out_planes
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.linear = nn.Linear(planes, num_classes)

    def features(self, x):
        """Output of the last stage after its ReLU, (B, 8 * width, 4, 4), for pixels (B, 3, 32, 32)."""
        x = (x - self.mean) / self.std
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward(self, x):
        return self.linear(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


def resnet18(num_classes=10, width=64, norm_layer=nn.BatchNorm2d):
    """The homework's model: 2 blocks a stage, 4,800 batch-norm channels at width 64."""
    return ResNet((2, 2, 2, 2), num_classes, width, norm_layer)
