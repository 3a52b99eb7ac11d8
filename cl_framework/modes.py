"""Training and evaluation mode, set at a fraction of the time of `nn.Module.train`: an online run sets it twice a step.

A module's flag is an entry of its dictionary; `nn.Module.__setattr__`, which looks for parameters first, is passed by.
"""

from __future__ import annotations

from torch import nn


def set_mode(module: nn.Module, is_training: bool) -> None:
    """As `module.train(is_training)`; a module with a `train` or attributes of its own is asked itself.

    >>> network = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
    >>> set_mode(network, False)
    >>> [module.training for module in network.modules()]
    [False, False, False]
    """
    kind, own = type(module), vars(module)
    if kind.train is not nn.Module.train or kind.__setattr__ is not nn.Module.__setattr__ or "train" in own:
        module.train(is_training)
        return
    own["training"] = is_training
    for child in own["_modules"].values():
        if child is not None:
            set_mode(child, is_training)
