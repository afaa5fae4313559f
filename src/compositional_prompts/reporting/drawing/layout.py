"""A layered drawing of a directed acyclic graph whose lines never run through a box.

The method is Sugiyama's: longest-path layers, invisible points where an edge passes a layer,
barycentre ordering, then positions that minimise the squared distance to the neighbours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

BOX_WIDTH = 168.0
BOX_HEIGHT = 46.0
GAP_X = 26.0
GAP_Y = 34.0
MARGIN = 6.0
_LANE = 12.0
_SWEEPS = 24


@dataclass(frozen=True, slots=True)
class Box:
    """A placed node: its upper left corner, in pixels; all boxes have the same size."""

    name: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Line:
    """A placed edge: an SVG path from the lower side of one box to the upper side of another."""

    start: str
    end: str
    path: str
    points: tuple[tuple[float, float], ...]
    """The ends of the path's pieces; odd pieces are curves between layers, even ones upright."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A placed graph in a frame of ``width`` by ``height`` pixels."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]


# A node is a stage's name, or (start, end, layer) where an edge passes a layer.
Node = Hashable
Edge = tuple[str, str]


def draw(names: Sequence[str], edges: Sequence[Edge]) -> Drawing:
    """Place ``names``, given in topological order, and ``edges`` among them."""
    if not names:
        return Drawing(2 * MARGIN, 2 * MARGIN, (), ())
    layer_of = _layers(names, edges)
    layers: list[list[Node]] = [[] for _ in range(max(layer_of.values()) + 1)]
    for name in names:
        layers[layer_of[name]].append(name)
    chains: dict[Edge, list[Node]] = {}
    for start, end in edges:
        between = range(layer_of[start] + 1, layer_of[end])
        chains[start, end] = [start, *((start, end, layer) for layer in between), end]
        for layer in between:
            layers[layer].append((start, end, layer))
    above: dict[Node, list[Node]] = defaultdict(list)
    below: dict[Node, list[Node]] = defaultdict(list)
    for chain in chains.values():
        for upper, lower in pairwise(chain):
            above[lower].append(upper)
            below[upper].append(lower)
    layers = _ordered(layers, above, below)
    centers = _centers(layers, above, below)
    left = min(centers[node] - _width(node) / 2 for node in centers)
    right = max(centers[node] + _width(node) / 2 for node in centers)
    centers = {node: center - left + MARGIN for node, center in centers.items()}
    boxes = tuple(Box(name, centers[name] - BOX_WIDTH / 2, _top(layer_of[name])) for name in names)
    lines = tuple(
        _line(edge, [centers[node] for node in chain], layer_of[edge[0]])
        for edge, chain in chains.items()
    )
    height = _top(len(layers) - 1) + BOX_HEIGHT + MARGIN
    return Drawing(right - left + 2 * MARGIN, height, boxes, lines)


def _layers(names: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    """Each node below all that feed it; one that nothing feeds stands just above its readers."""
    layer = dict.fromkeys(names, 0)
    for name in names:
        layer[name] = max((layer[start] + 1 for start, end in edges if end == name), default=0)
    fed = {end for _, end in edges}
    for name in names:
        readers = [layer[end] for start, end in edges if start == name]
        if name not in fed and readers:
            layer[name] = min(readers) - 1
    return layer


def _ordered(
    layers: list[list[Node]],
    above: Mapping[Node, list[Node]],
    below: Mapping[Node, list[Node]],
) -> list[list[Node]]:
    """The order in every layer with the fewest crossings that alternating sweeps come upon."""
    best, fewest = layers, _crossings(layers, below)
    current = [list(layer) for layer in layers]
    for sweep in range(_SWEEPS):
        downwards = sweep % 2 == 0
        neighbours = above if downwards else below
        for index in range(len(current)) if downwards else reversed(range(len(current))):
            rank = {node: place for layer in current for place, node in enumerate(layer)}
            weight = {
                node: fmean(rank[other] for other in neighbours[node])
                if neighbours[node]
                else float(rank[node])
                for node in current[index]
            }
            current[index].sort(key=weight.__getitem__)
        found = _crossings(current, below)
        if found < fewest:
            best, fewest = [list(layer) for layer in current], found
    return best


def _crossings(layers: Sequence[Sequence[Node]], below: Mapping[Node, list[Node]]) -> int:
    crossings = 0
    for upper, lower in pairwise(layers):
        place = {node: index for index, node in enumerate(lower)}
        ends = [(i, place[other]) for i, node in enumerate(upper) for other in below[node]]
        crossings += sum(
            a < c and b > d for index, (a, b) in enumerate(ends) for c, d in ends[index:]
        )
    return crossings


def _centers(
    layers: Sequence[Sequence[Node]],
    above: Mapping[Node, list[Node]],
    below: Mapping[Node, list[Node]],
) -> dict[Node, float]:
    centers: dict[Node, float] = {}
    for layer in layers:
        centers.update(zip(layer, _separated([0.0] * len(layer), layer), strict=True))
    for sweep in range(_SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wanted = [
                fmean(centers[other] for other in neighbours)
                if (neighbours := above[node] + below[node])
                else centers[node]
                for node in layer
            ]
            centers.update(zip(layer, _separated(wanted, layer), strict=True))
    return centers


def _separated(wanted: Sequence[float], layer: Sequence[Node]) -> list[float]:
    """The centres nearest to ``wanted`` (least squares) that keep order and distance.

    With the distances subtracted this is isotonic regression: pool adjacent violators.
    """
    offsets = [0.0]
    for left, right in pairwise(layer):
        offsets.append(offsets[-1] + (_width(left) + _width(right)) / 2 + GAP_X)
    pools: list[tuple[float, int]] = []
    for target, offset in zip(wanted, offsets, strict=True):
        mean, size = target - offset, 1
        while pools and pools[-1][0] > mean:
            earlier, members = pools.pop()
            mean = (earlier * members + mean * size) / (members + size)
            size += members
        pools.append((mean, size))
    levels = [mean for mean, size in pools for _ in range(size)]
    return [level + offset for level, offset in zip(levels, offsets, strict=True)]


def _width(node: Node) -> float:
    return BOX_WIDTH if isinstance(node, str) else _LANE


def _top(layer: int) -> float:
    return MARGIN + layer * (BOX_HEIGHT + GAP_Y)


def _line(edge: Edge, centers: Sequence[float], first_layer: int) -> Line:
    """Curves in the gaps between layers, upright pieces where the edge passes a layer."""
    y = _top(first_layer) + BOX_HEIGHT
    points = [(centers[0], y)]
    path = [f"M{centers[0]:.1f},{y:.1f}"]
    for index, (x0, x1) in enumerate(pairwise(centers)):
        if index:
            y += BOX_HEIGHT
            points.append((x0, y))
            path.append(f"V{y:.1f}")
        middle = y + GAP_Y / 2
        y += GAP_Y
        points.append((x1, y))
        path.append(f"C{x0:.1f},{middle:.1f} {x1:.1f},{middle:.1f} {x1:.1f},{y:.1f}")
    return Line(*edge, " ".join(path), tuple(points))
