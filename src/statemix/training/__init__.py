"""Training on plain PyTorch: configs, the loop, checkpoints that resume exactly."""

from .checkpoint import CheckpointError
from .config import RunConfig, from_json, to_json
from .data import DataConfig, TaskData, TextData, open_source
from .evaluation import bits_per_token, evaluate, task_accuracy
from .folder import RunFolderError, read_config, read_result
from .loop import TrainResult, load_run, train
from .metrics import Observer
from .optimizer import OptimizerConfig
from .replicas import groupable, train_replicas
from .schedule import ScheduleConfig
from .shard_data import ShardData

__all__ = [
    "CheckpointError",
    "DataConfig",
    "Observer",
    "OptimizerConfig",
    "RunConfig",
    "RunFolderError",
    "ScheduleConfig",
    "ShardData",
    "TaskData",
    "TextData",
    "TrainResult",
    "bits_per_token",
    "evaluate",
    "from_json",
    "groupable",
    "load_run",
    "open_source",
    "read_config",
    "read_result",
    "task_accuracy",
    "to_json",
    "train",
    "train_replicas",
]
