"""A config with one of its parts changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from statemix.models import MixerConfig
from statemix.training import RunConfig


def with_mixer(config: RunConfig, mixer: MixerConfig) -> RunConfig:
    """The same run with another mixer."""
    return replace(config, model=replace(config.model, mixer=mixer))


def with_data(config: RunConfig, **changes: Any) -> RunConfig:
    """The same run with some fields of its data changed."""
    return replace(config, data=replace(config.data, **changes))
