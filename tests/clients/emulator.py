"""A small terminal: takes the bytes that a full-screen program writes, and holds the screen that a person would see.

It knows what urwid writes (ECMA-48 cursor moves, erasing, inserting, colours, and xterm's private modes, which change
nothing that is seen), and how wide characters are (``wcwidth``, as terminals that draw each character by itself). For
tests and for the picture in the README; not a terminal to work in.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, replace

from wcwidth import wcwidth

SEQUENCE = re.compile(
    r"\x1b\[(?P<private>[?>=]?)(?P<numbers>[0-9;]*)[ -/]*(?P<final>[@-~])"
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"
    r"|\x1bP[^\x1b]*\x1b\\"
    r"|\x1b[()*+][0-9A-Za-z]"
    r"|\x1b[=>78cDEHM]"
)
UNFINISHED = re.compile(r"\x1b(?:[\[()*+][0-9;?>= -/]*|\][^\x07]*|P[^\x1b]*)?\Z")


@dataclass(frozen=True, slots=True)
class Pen:
    """How a cell is drawn. Colours are 0 to 15, None for the terminal's own."""

    foreground: int | None = None
    background: int | None = None
    bold: bool = False
    underline: bool = False
    reverse: bool = False


Cell = tuple[str, Pen]
"""A character with its combining marks; empty behind a wide one."""

BLANK: Cell = (" ", Pen())


class Emulator:
    """See the module's docstring."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.cells: list[list[Cell]] = [[BLANK] * columns for _ in range(rows)]
        self.cursor = (0, 0)
        self.pen = Pen()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._inserting = self._full = False

    def feed(self, data: bytes) -> None:
        """Take in what the program wrote."""
        text = self._rest + self._decoder.decode(data)
        self._rest = ""
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                found = SEQUENCE.match(text, at)
                if found is None and UNFINISHED.match(text, at):
                    self._rest = text[at:]
                    return
                at = found.end() if found else at + 1
                if found and found["final"]:
                    self._obey(found["final"], found["private"], [int(one or 0) for one in found["numbers"].split(";")])
            else:
                self._print(text[at])
                at += 1

    def text(self) -> str:
        """The screen without the blanks behind its rows."""
        return "\n".join("".join(cell[0] for cell in row).rstrip() for row in self.cells)

    def _print(self, character: str) -> None:
        row, column = self.cursor
        match character:
            case "\r":
                self._move(row, 0)
            case "\n":
                self._down()
            case "\b":
                self._move(row, column - 1)
            case _ if character >= " " and character != "\x7f":
                self._put(character, wcwidth(character))

    def _put(self, character: str, width: int) -> None:
        row, column = self.cursor
        if width <= 0:
            self._combine(row, column - (0 if self._full else 1), character)
            return
        if self._full or column + width > self.columns:
            self._down()
            row, column = self.cursor[0], 0
        cells = self.cells[row]
        new: list[Cell] = [(character, self.pen), *[("", self.pen)] * (width - 1)]
        if self._inserting:
            self.cells[row] = (cells[:column] + new + cells[column:])[: self.columns]
        else:
            cells[column : column + width] = new[: self.columns - column]
        self._full = column + width >= self.columns
        self.cursor = row, min(column + width, self.columns - 1)

    def _combine(self, row: int, column: int, mark: str) -> None:
        while column > 0 and not self.cells[row][column][0]:
            column -= 1
        if column >= 0:
            character, pen = self.cells[row][column]
            self.cells[row][column] = character + mark, pen

    def _down(self) -> None:
        row, column = self.cursor
        if row + 1 == self.rows:
            self.cells = [*self.cells[1:], [BLANK] * self.columns]
            row -= 1
        self._move(row + 1, column)

    def _move(self, row: int, column: int) -> None:
        self.cursor = max(0, min(row, self.rows - 1)), max(0, min(column, self.columns - 1))
        self._full = False

    def _obey(self, final: str, private: str, numbers: list[int]) -> None:
        if private:
            return
        row, column = self.cursor
        first = numbers[0]
        count = max(1, first)
        match final:
            case "H" | "f":
                self._move(count - 1, (max(1, numbers[1]) if len(numbers) > 1 else 1) - 1)
            case "A" | "B":
                self._move(row + (count if final == "B" else -count), column)
            case "C" | "D":
                self._move(row, column + (count if final == "C" else -count))
            case "G":
                self._move(row, count - 1)
            case "J" | "K":
                self._erase(final, first)
            case "@":
                cells = self.cells[row]
                self.cells[row] = (cells[:column] + [BLANK] * count + cells[column:])[: self.columns]
            case "h" | "l":
                self._inserting = final == "h" if first == 4 else self._inserting
            case "m":
                self._paint(numbers)

    def _erase(self, final: str, what: int) -> None:
        row, column = self.cursor
        blank: Cell = (" ", Pen(background=self.pen.background))
        begin, end = (0 if what else column), (column + 1 if what == 1 else self.columns)
        self.cells[row][begin:end] = [blank] * (end - begin)
        others = {0: range(row + 1, self.rows), 1: range(row)}.get(what, range(self.rows)) if final == "J" else ()
        for other in others:
            self.cells[other] = [blank] * self.columns

    def _paint(self, numbers: list[int]) -> None:
        rest = iter(numbers)
        for number in rest:
            match number:
                case 0:
                    self.pen = Pen()
                case 1:
                    self.pen = replace(self.pen, bold=True)
                case 4 | 24:
                    self.pen = replace(self.pen, underline=number == 4)
                case 7 | 27:
                    self.pen = replace(self.pen, reverse=number == 7)
                case 22:
                    self.pen = replace(self.pen, bold=False)
                case 38 | 48:
                    colour = (next(rest, 5) == 5 and next(rest, 0)) or 0
                    key = "foreground" if number == 38 else "background"
                    self.pen = replace(self.pen, **{key: min(colour, 15)})
                case _:
                    self._colour(number)

    def _colour(self, number: int) -> None:
        for key, base in (("foreground", 30), ("background", 40), ("foreground", 90), ("background", 100)):
            if base <= number < base + 8:
                self.pen = replace(self.pen, **{key: number - base + (8 if base >= 90 else 0)})
            elif number == base + 9 and base < 90:
                self.pen = replace(self.pen, **{key: None})
