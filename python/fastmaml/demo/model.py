"""The net of the demo."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

PIXELS = 28 * 28
WIDTHS = (64, 64)


def classifier(classes: int) -> nn.Sequential:
    """The net without convolutions of Finn et al. 2017 (section 5.2), with two narrow layers.

    From [n, 1, 28, 28] to [n, classes].
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for width_in, width_out in pairwise((PIXELS, *WIDTHS)):
        layers += [nn.Linear(width_in, width_out), nn.BatchNorm1d(width_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTHS[-1], classes))
