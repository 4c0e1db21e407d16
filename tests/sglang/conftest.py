"""Runs only in SGLang's own environment: `make test-sglang`. One engine at a time, its processes on the CPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Stand-ins for compiled kernels. Engines start their processes with this process's path, whatever PYTHONPATH says.
sys.path.append(str(Path(__file__).with_name("kernels_on_cpu")))

os.environ.update(SGLANG_PLATFORM="plain_cpu", OMP_NUM_THREADS="1")
