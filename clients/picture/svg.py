"""A screen of the emulator as an SVG picture: text stays text, every run of cells stands at its own column. Pure."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from tests.clients.emulator import Cell, Emulator, Pen

CELL_WIDTH, CELL_HEIGHT, BASELINE, MARGIN = 8.4, 18, 13.5, 12
COLOURS = (
    "#1c1f26", "#c8463d", "#3f9c5a", "#b08a2e", "#3f74c8", "#9a57b5", "#2b8f9c", "#c9cdd6",
    "#6b7280", "#f0716a", "#7fd492", "#f2cf63", "#7db0f7", "#d39af0", "#6fd6e3", "#ffffff",
)  # fmt: skip
PAPER, INK = "#14171d", "#dde1e8"
BRIGHT = 8


def svg(screen: Emulator, title: str) -> str:
    """The whole picture."""
    width = round(screen.columns * CELL_WIDTH + 2 * MARGIN)
    height = screen.rows * CELL_HEIGHT + 2 * MARGIN
    size = f'width="{width}" height="{height}"'
    fonts = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
    rows = [part for number, row in enumerate(screen.cells) for part in _row(number, row)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{fonts}" font-size="14">',
            f"<title>{escape(title)}</title>",
            f'<rect {size} rx="8" fill="{PAPER}"/>',
            *rows,
            "</svg>\n",
        ]
    )


def _row(number: int, row: list[Cell]) -> list[str]:
    top = MARGIN + number * CELL_HEIGHT
    parts: list[str] = []
    for (pen, wide), group in groupby(enumerate(row), key=lambda cell: (cell[1][1], _is_wide(row, cell[0]))):
        cells = list(group)
        left = MARGIN + cells[0][0] * CELL_WIDTH
        ink, paper = _colours(pen)
        if paper != PAPER:
            parts.append(
                f'<rect x="{left:.1f}" y="{top}" width="{len(cells) * CELL_WIDTH:.1f}" height="{CELL_HEIGHT}"'
                f' fill="{paper}"/>'
            )
        while cells and cells[-1][1][0] == " ":  # blanks at an end are not drawn by every program
            cells.pop()
        while cells and cells[0][1][0] == " ":
            cells.pop(0)
        if not cells:
            continue
        text = "".join(character for _, (character, _) in cells)
        left = MARGIN + cells[0][0] * CELL_WIDTH
        style = (' font-weight="bold"' if pen.bold else "") + (' text-decoration="underline"' if pen.underline else "")
        stretch = "" if wide else f' textLength="{len(cells) * CELL_WIDTH:.1f}" lengthAdjust="spacingAndGlyphs"'
        parts.append(
            f'<text x="{left:.1f}" y="{top + BASELINE}" fill="{ink}"{style}{stretch} xml:space="preserve">'
            f"{escape(text)}</text>"
        )
    return parts


def _is_wide(row: list[Cell], at: int) -> bool:
    """Whether the cell is a half of a wide character, for whose width no font can be relied on."""
    return not row[at][0] or (at + 1 < len(row) and not row[at + 1][0])


def _colours(pen: Pen) -> tuple[str, str]:
    number = pen.foreground
    if number is not None and pen.bold and number < BRIGHT:
        number += BRIGHT
    ink = INK if number is None else COLOURS[number]
    paper = PAPER if pen.background is None else COLOURS[pen.background]
    return (paper, ink) if pen.reverse else (ink, paper)
