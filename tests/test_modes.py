"""Modes as `nn.Module.train` sets them."""

import pytest
import torch
from torch import nn

from cl_framework.modes import set_mode


class Frozen(nn.Sequential):
    """Stays in evaluation mode whatever is asked, as frozen normalisation does."""

    def train(self, mode=True):
        return super().train(False)


def networks():
    bare = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)), nn.ReLU())
    frozen = nn.Sequential(nn.Dropout(), Frozen(nn.BatchNorm1d(2)))
    own = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    own[1].train = lambda mode=True: own[1]
    holey = nn.Sequential(nn.Linear(2, 2))
    holey.register_module("nothing", None)
    return bare, frozen, own, holey, torch.compile(nn.Sequential(nn.Dropout()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile, when it is first used
def test_every_module_has_the_mode_that_train_gives_it():
    for plain, fast in zip(networks(), networks(), strict=True):
        for is_training in (False, True, False):
            plain.train(is_training)
            set_mode(fast, is_training)
            modes = [[module.training for module in network.modules()] for network in (plain, fast)]
            assert modes[0] == modes[1]
