"""Random flip, perspective and rotation of a whole batch in one resampling.

The three transforms are one homography an image, so the batch is resampled once, bilinearly, on
whatever device it is on: ``warp(images, random_maps(len(images), generator))``. All random numbers
come from a generator on the CPU: the same seed gives the same images on every device, with any
number of workers, and with any number of processes that share a batch.

Source: the training transform of Troika's authors (torchvision's RandomHorizontalFlip,
RandomPerspective and RandomRotation(5) with their defaults; black outside the image).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

FLIP_PROBABILITY = 0.5
PERSPECTIVE_PROBABILITY = 0.5
PERSPECTIVE_DISTORTION = 0.5
"""A corner moves inwards by up to this share of half the image, along either axis."""

ROTATION_DEGREES = 5.0


def homographies(corners: Tensor) -> Tensor:
    """Maps that take ``corners`` to the corners of the square -1..1.

    Args:
        corners: x and y of the top-left, top-right, bottom-right and bottom-left corner in the
            output image, float64 ``[batch, 4, 2]``.

    Returns:
        Homogeneous matrices from output to input coordinates, float64 ``[batch, 3, 3]``.
    """
    batch = corners.shape[0]
    square = corners.new_tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    u, v = corners.unbind(-1)
    one, zero = torch.ones_like(u), torch.zeros_like(u)
    rows = []
    for axis in (0, 1):
        target = square[:, axis].expand(batch, 4)
        linear = [u, v, one]
        empty = [zero, zero, zero]
        parts = (linear + empty) if axis == 0 else (empty + linear)
        rows.append(torch.stack([*parts, -u * target, -v * target], dim=-1))
    system = torch.cat(rows, dim=1)
    targets = square.T.reshape(-1).expand(batch, 8)
    solution = torch.linalg.solve(system, targets)
    return torch.cat([solution, solution.new_ones(batch, 1)], dim=1).reshape(batch, 3, 3)


def random_maps(batch: int, generator: torch.Generator) -> Tensor:
    """Random flips, perspectives and rotations: maps from output to input coordinates.

    Args:
        batch: images.
        generator: on the CPU.

    Returns:
        Homogeneous matrices, float64 ``[batch, 3, 3]``.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    square = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64)
    moved = square * (1 - PERSPECTIVE_DISTORTION * uniform(batch, 4, 2))
    perspective = (uniform(batch, 1, 1) < PERSPECTIVE_PROBABILITY).to(torch.float64)
    maps = homographies(square + perspective * (moved - square))

    angles = (2 * uniform(batch) - 1) * math.radians(ROTATION_DEGREES)
    rotations = torch.eye(3, dtype=torch.float64).repeat(batch, 1, 1)
    rotations[:, 0, 0] = rotations[:, 1, 1] = angles.cos()
    rotations[:, 0, 1] = angles.sin()
    rotations[:, 1, 0] = -angles.sin()

    flips = torch.eye(3, dtype=torch.float64).repeat(batch, 1, 1)
    flips[:, 0, 0] = 1 - 2 * (uniform(batch) < FLIP_PROBABILITY).to(torch.float64)
    return flips @ maps @ rotations


def warp(images: Tensor, maps: Tensor) -> Tensor:
    """Resample square images by maps from output to input coordinates.

    Args:
        images: ``[batch, channels, size, size]``, any number type.
        maps: homogeneous matrices, ``[batch, 3, 3]``; -1 and 1 are the centres of the outermost
            pixels.

    Returns:
        float32 ``[batch, channels, size, size]`` in the range of the input, 0 outside of it.
    """
    batch, _, size, _ = images.shape
    axis = torch.linspace(-1, 1, size, device=images.device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)]).reshape(3, -1)
    mapped = maps.to(images.device, torch.float32) @ points
    grid = (mapped[:, :2] / mapped[:, 2:]).transpose(1, 2).reshape(batch, size, size, 2)
    return F.grid_sample(
        images.to(torch.float32), grid, mode="bilinear", padding_mode="zeros", align_corners=True
    )
