"""Ingredients of a soup: a classifier, trained from one initialisation in several ways."""

import torch
from torch import nn

from tests.models.small import randomize


class Net(nn.Module):
    """A classifier with a BatchNorm, a table and a weight that is used twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.head, self.again = nn.Linear(6, 6), nn.Linear(6, 6)
        self.again.weight = self.head.weight
        self.register_buffer("places", torch.tensor([2, 0, 1]))

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x[:, self.places]))).mean((2, 3))
        return self.again(self.head(x))


def ingredient(seed):
    torch.manual_seed(0)
    net = Net()  # one initialisation for all: ingredients of one basin
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn_like(p)
    net = randomize(net, seed)
    net.norm.num_batches_tracked.fill_(seed)
    return net
