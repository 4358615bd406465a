"""Wrap words into lines."""


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters; a longer word stands alone."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        if line and len(line) + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}"
    lines.append(line)
    return lines
