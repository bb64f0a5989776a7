"""Hierarchical reasoning models. The public API, and nothing else: Reasoner, HRM, ModelConfig, load."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .checkpoint import load
    from .config import ModelConfig
    from .model import HRM
    from .reasoner import Reasoner

__all__ = ["HRM", "ModelConfig", "Reasoner", "load"]
__version__ = "0.1.0"

# oneDNN keeps 1,024 kernels, one for each shape; a lattice packed anew at every segment fills that, with gigabytes
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

_HOMES = {"HRM": "model", "ModelConfig": "config", "Reasoner": "reasoner", "load": "checkpoint"}


def __getattr__(name: str) -> object:
    # torch takes over a second to import; `import hrm` and `hrm --help` should not wait for it
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module 'hrm' has no attribute '{name}'")
