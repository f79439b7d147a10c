"""Text of strangers on a terminal: it is shown, and steers nothing."""


def visible(value: object, *, lines: bool = False) -> str:
    """Return a text with what would steer a terminal in visible form.

    That is escapes, control characters and the marks that turn the direction of a line.

    Args:
        value: Anything; it is made a text.
        lines: Whether ends of lines stay as they are.
    """
    return "".join(
        char
        if char.isprintable() or (lines and char == "\n")
        else char.encode("unicode_escape").decode()
        for char in str(value)
    )
