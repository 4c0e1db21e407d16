"""Runs only in SGLang's own environment: `make test-sglang`. One engine at a time, its processes on the CPU."""

from __future__ import annotations

import os

os.environ.update(SGLANG_PLATFORM="plain_cpu", OMP_NUM_THREADS="1")
