"""What all tests share: no limit of time on an example, and the CPU where a test does not ask for a GPU."""

import os
from unittest import mock

import pytest
import torch
from hypothesis import settings

# The first call of a kernel compiles it.
settings.register_profile("statemix", deadline=None)
settings.load_profile("statemix")


@pytest.fixture(autouse=True)
def the_cpu_unless_marked(request):
    """Without the marker ``gpu`` a test and what it starts see no GPU, so that "auto" means the CPU everywhere."""
    if request.node.get_closest_marker("gpu") is not None:
        yield
        return
    nothing = {"CUDA_VISIBLE_DEVICES": ""}
    with mock.patch.object(torch.cuda, "is_available", lambda: False), mock.patch.dict(os.environ, nothing):
        yield
