"""What ends an output before its limit: stop tokens and stop strings."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Stopping:
    """What ends an output before its limit.

    Attributes:
        tokens: Ids of stop tokens.
        strings: Stop strings; an output ends with the token that completes one.
        decode: Text of token ids, needed for ``strings``.

    Raises:
        ValueError: Strings without ``decode``, or an empty string.
    """

    tokens: Collection[int] = ()
    strings: Collection[str] = ()
    decode: Callable[[list[int]], str] | None = None

    def __post_init__(self) -> None:
        if "" in self.strings:
            raise ValueError("stop strings: expected texts of at least one character, got ''")
        if self.strings and self.decode is None:
            raise ValueError("stop strings: expected a tokenizer's decode beside them, got none")

    def cut(self, output: list[int], committed: list[int]) -> tuple[list[int], bool]:
        """The part of the coming tokens that still belongs to the output, and whether it ends."""
        for count in range(1, len(committed) + 1):
            if committed[count - 1] in self.tokens or self._says(output + committed[:count]):
                return committed[:count], True
        return committed, False

    def _says(self, output: list[int]) -> bool:
        """Whether the last token completes one of the strings."""
        if not self.strings or self.decode is None:
            return False
        # a token adds at least a byte, so a string ends within as many tokens as it has bytes
        longest = max(len(string.encode()) for string in self.strings)
        tail = self.decode(output[-longest:])
        return any(string in tail for string in self.strings)
