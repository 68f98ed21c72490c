"""Relative errors that a dtype allows, in one place."""

import torch

FORWARD = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 2e-3, torch.float16: 3e-4}
GRADIENT = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
STATE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 1e-5, torch.float16: 1e-5}
