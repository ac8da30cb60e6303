"""A picture of how one person reaches others: a column for each distance, an arrow for each who follows whom."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from social.stores import Circle

WIDTH, HEIGHT, ROW, COLUMN = 132, 34, 54, 200
MOST = 60
"""People that are drawn; the list beside names them all."""


@dataclass(frozen=True, slots=True)
class Box:
    name: str
    distance: int
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Arrow:
    path: str
    shortest: bool
    title: str


@dataclass(frozen=True, slots=True)
class Picture:
    width: int
    height: int
    boxes: list[Box]
    arrows: list[Arrow]


def draw(start: str, circle: Circle) -> Picture:
    """Those beyond the first `MOST` are left out, and their arrows."""
    friends = circle.friends[:MOST]
    parents = {friend.username: friend.path[-2] for friend in friends}
    columns: dict[int, list[str]] = defaultdict(list)
    columns[0].append(start)
    for friend in friends:
        columns[friend.distance].append(friend.username)
    tallest = max(map(len, columns.values()))
    places: dict[str, tuple[int, int]] = {}
    boxes = []
    for distance in sorted(columns):
        names = columns[distance]
        if distance:  # beside the one over whom they are reached, so that few arrows cross
            names.sort(key=lambda name: (places.get(parents[name], (0, 0))[1], name))
        top = 10 + (tallest - len(names)) * ROW // 2
        for number, name in enumerate(names):
            places[name] = (10 + distance * COLUMN, top + number * ROW)
            boxes.append(Box(name, distance, *places[name]))
    width = 20 + WIDTH + COLUMN * max(columns)
    height = 20 + tallest * ROW - (ROW - HEIGHT)
    arrows = []
    for source, target in circle.edges:
        if source in places and target in places:
            shortest = parents.get(target) == source
            path, right, low = _arrow(places[source], places[target])
            arrows.append(Arrow(path, shortest, f"{source} follows {target}"))
            width, height = max(width, right + 10), max(height, low + 10)
    arrows.sort(key=lambda arrow: arrow.shortest)  # those on the way are drawn over the others
    return Picture(width, height, boxes, arrows)


def _arrow(source: tuple[int, int], target: tuple[int, int]) -> tuple[str, int, int]:
    """Forwards from side to side; back, or within a column, in a bow. With it how far it goes to the right, and down."""
    (x1, y1), (x2, y2) = source, target
    middle = HEIGHT // 2
    if x2 > x1:
        bend = (x2 - x1 - WIDTH) // 2
        path = (
            f"M{x1 + WIDTH},{y1 + middle} C{x1 + WIDTH + bend},{y1 + middle} "
            f"{x2 - bend},{y2 + middle} {x2 - 4},{y2 + middle}"
        )
        return path, x2, max(y1, y2) + HEIGHT
    if x1 == x2:
        edge, far = x1 + WIDTH, x1 + WIDTH + 34
        path = f"M{edge},{y1 + middle} C{far},{y1 + middle} {far},{y2 + middle} {edge + 4},{y2 + middle}"
        return path, far, max(y1, y2) + HEIGHT
    bow = max(y1, y2) + HEIGHT + 26
    path = (
        f"M{x1 + WIDTH // 2},{y1 + HEIGHT} C{x1 + WIDTH // 2},{bow} "
        f"{x2 + WIDTH // 2},{bow} {x2 + WIDTH // 2},{y2 + HEIGHT + 4}"
    )
    return path, x1 + WIDTH, bow
