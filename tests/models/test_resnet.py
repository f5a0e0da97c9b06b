import torch
from torch import nn

import models
from models import build_model
from models.base import MEAN


def test_full_width_is_the_well_known_cifar_resnet18():
    net = models.resnet18(num_classes=10)
    assert sum(p.numel() for p in net.parameters()) == 11_173_962
    channels = {name: m.num_features for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert sum(channels.values()) == 4800
    assert sum(n for name, n in channels.items() if "shortcut" in name) == 896
    keys = set(net.state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "layer2.0.shortcut.0.weight",
            "layer2.0.shortcut.1.bias", "layer4.1.bn2.num_batches_tracked", "linear.weight", "linear.bias"} <= keys
    assert len(keys) == 122 and not any(key.startswith("layer1.0.shortcut") for key in keys)
    assert all(m.bias is None for m in net.modules() if isinstance(m, nn.Conv2d))


def test_normalization_is_the_models_first_step_and_not_saved():
    net, seen = models.resnet18(width=4), []
    net.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net(torch.tensor(MEAN).view(1, 3, 1, 1).expand(2, 3, 32, 32))
    net(torch.ones(1, 3, 32, 32))
    assert seen[0].abs().max() == 0
    torch.testing.assert_close(seen[1][0, :, 0, 0], torch.tensor([(1 - 0.4914) / 0.2023, (1 - 0.4822) / 0.1994,
                                                                  (1 - 0.4465) / 0.2010]))
    assert not {"mean", "std"} & set(net.state_dict())


def test_features_are_the_post_relu_maps_that_the_linear_layer_averages():
    net = build_model("resnet18", 4, 7).eval()
    pixels = torch.rand(3, 3, 32, 32)
    features = net.feature_maps(pixels)
    assert features.shape == (3, 32, 4, 4) and features.min() == 0
    torch.testing.assert_close(net(pixels), features.mean((2, 3)) @ net.linear.weight.T + net.linear.bias)


def test_built_in_channels_last_with_what_a_checkpoint_needs():
    net = build_model("resnet18", 4, 7)
    assert net.spec == {"arch": "resnet18", "width": 4, "num_classes": 7, "image_size": 32,
                        "mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
    assert net.layer2[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
