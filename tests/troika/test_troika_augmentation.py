"""Warps of a batch against transforms computed pixel by pixel."""

from __future__ import annotations

import math

import torch
from torchvision.transforms.functional import _get_perspective_coeffs

from compositional_prompts.troika.training.augmentation import homographies, random_maps, warp


def random_images(batch: int, size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, size, size), generator=generator, dtype=torch.uint8)


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return warp(images, random_maps(len(images), generator))


def test_identity_and_flip_keep_every_pixel() -> None:
    images = random_images(2, 9, 0)
    maps = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    maps[1, 0, 0] = -1
    warped = warp(images, maps)
    torch.testing.assert_close(warped[0], images[0].float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(warped[1], images[1].flip(-1).float(), atol=1e-3, rtol=0)


def test_a_quarter_turn_moves_every_pixel() -> None:
    images = random_images(1, 8, 1)
    angle = math.pi / 2
    turn = torch.tensor(
        [[math.cos(angle), math.sin(angle), 0], [-math.sin(angle), math.cos(angle), 0], [0, 0, 1]],
        dtype=torch.float64,
    )
    warped = warp(images, turn[None])[0]
    for y in range(8):
        for x in range(8):
            # Output (x, y) reads input (y, -x), in coordinates about the centre.
            expected = images[0, :, 7 - x, y].float()
            torch.testing.assert_close(warped[:, y, x], expected, atol=1e-2, rtol=0)


def test_outside_of_the_image_is_black() -> None:
    images = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    shift = torch.eye(3, dtype=torch.float64)
    shift[0, 2] = 4.0
    assert warp(images, shift[None]).abs().max() == 0


def test_homographies_are_torchvisions_perspective() -> None:
    generator = torch.Generator().manual_seed(2)
    square = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64)
    corners = square * (1 - 0.5 * torch.rand(6, 4, 2, generator=generator, dtype=torch.float64))
    maps = homographies(corners)
    for row in range(6):
        coefficients = _get_perspective_coeffs(square.tolist(), corners[row].tolist())
        expected = torch.tensor([*coefficients, 1.0], dtype=torch.float64).reshape(3, 3)
        torch.testing.assert_close(maps[row], expected, atol=1e-4, rtol=1e-4)


def test_augmentation_follows_its_seed() -> None:
    images = random_images(16, 12, 3)
    first = augment(images, torch.Generator().manual_seed(5))
    again = augment(images, torch.Generator().manual_seed(5))
    other = augment(images, torch.Generator().manual_seed(6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.dtype == torch.float32 and first.shape == images.shape
    assert first.min() >= 0 and first.max() <= 255.001
    # Each image has a transform of its own.
    same = images[:1].expand(16, -1, -1, -1)
    assert len({tuple(row.flatten().tolist()) for row in augment(same, torch.Generator())}) > 8
