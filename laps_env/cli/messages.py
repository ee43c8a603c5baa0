"""Errors of a command as one line, whatever text of others they repeat."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager

#: Characters of a message that are shown.
MOST_CHARACTERS = 1500


@contextmanager
def errors_as_messages(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Bad input ends with status 2 and what was expected on stderr; an interruption with 130."""
    try:
        yield
    except (OSError, ValueError, MemoryError) as error:
        parser.exit(2, f"{parser.prog}: error: {one_line(str(error))}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: interrupted\n")


def one_line(text: str) -> str:
    """Without line breaks and other control characters, and not endless."""
    plain = re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", text)
    return plain if len(plain) <= MOST_CHARACTERS else f"{plain[:MOST_CHARACTERS]}..."
