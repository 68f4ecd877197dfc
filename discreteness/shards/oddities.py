"""What is in files by accident, and what `data make` makes of it: a model should not learn what no writer meant."""

from enum import StrEnum


class Oddity(StrEnum):
    """The values are said of the files, by their number and one of them."""

    NOT_UTF8 = (
        "are not UTF-8 throughout: bytes that are not became U+FFFD; save such files as UTF-8, or leave them out by "
        "--glob"
    )
    BYTE_ORDER_MARK = "begin with a byte order mark, which was left out"
    CRLF = "have line ends of Windows (CRLF), which became LF"
    BLANK = "hold documents without text, or with white space alone, which were left out"
