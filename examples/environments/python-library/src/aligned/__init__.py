"""Tables of plain text whose columns line up."""

from attrs import frozen


@frozen
class Table:
    """Rows of cells; all rows have as many cells as the first one."""

    rows: tuple[tuple[str, ...], ...]

    def lines(self) -> list[str]:
        """Each row as a line, two blanks between columns, none at the end."""
        widths = [max(map(width, column)) for column in zip(*self.rows, strict=True)]
        return ["  ".join(map(padded, row, widths)).rstrip() for row in self.rows]


def padded(text: str, cells: int) -> str:
    return text + " " * (cells - width(text))


def width(text: str) -> int:
    """How many cells of a terminal the text takes."""
    return len(text)
