"""What all tests share: one torch thread, a cache of its own for those that ask, no network."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def no_downloads(monkeypatch):
    """Data that is not on this machine is absent: no wheel, no package, no URL is fetched."""
    monkeypatch.setenv("CLF_OFFLINE", "1")


@pytest.fixture(autouse=True)
def _no_tracking(monkeypatch):
    """No test speaks to W&B unless it says so."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
