"""Declares the two operators that torchvision's PyPI wheel expects from CUDA libraries, so that it can be imported.

Nothing here calls them: SGLang imports torchvision for image models. Loaded at start-up by a `.pth` file, and only
when torchvision is about to be imported, so that other programs of the environment start as fast as before.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
LIBRARIES = []


class Declares(MetaPathFinder):
    """Finds nothing; declares the operators when torchvision is first looked for."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:  # noqa: ARG002
        """Never finds the module itself."""
        if fullname == "torchvision" and not LIBRARIES:
            import torch

            LIBRARIES.append(torch.library.Library("torchvision", "DEF"))
            for operator in OPERATORS:
                LIBRARIES[0].define(operator)


sys.meta_path.insert(0, Declares())
