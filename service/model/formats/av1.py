"""AV1: the true sizes of the coded images in an AVIF.

The decoder takes the size from the coded data, and scales the result to the declared size. Its own
limit is 268 megapixels, so 780 bytes that declare 64 x 64 can fill a gigabyte.
"""

from collections.abc import Iterator

from service.errors import Unreadable

MAX_ITEMS = 1000  # coded images, previews, EXIF; a grid of 8 x 8 tiles has 65
MAX_UNITS = 1000  # of an item; a still image has three or four
LARGEST_INDEX = 2**16  # bytes of the box with the items' locations
SEQUENCE_HEADER = 1


class Bits:
    """Reads unsigned numbers from bytes, highest bit first."""

    def __init__(self, content: bytes) -> None:
        self._value, self._left = int.from_bytes(content), 8 * len(content)

    def take(self, number: int) -> int:
        self._left -= number
        if self._left < 0:
            raise Unreadable("the AVIF is cut off; send the whole file")
        return self._value >> self._left & ((1 << number) - 1)


def coded_sizes(payload: bytes) -> Iterator[tuple[int, int]]:
    """Width and height of each coded image in the container.

    Raises:
        Unreadable: the container's layout cannot be checked.
    """
    meta = _box(payload, b"meta")[4:]
    for item in _item_contents(_box(meta, b"iloc"), payload, _box(meta, b"idat")):
        for unit in _sequence_headers(item):
            yield _size(Bits(unit[:256]))


def _box(content: bytes, name: bytes) -> bytes:
    """The content of the first box of this name, which the decoder reads as well."""
    return next((inside for found, inside in _boxes(content) if found == name), b"")


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    while place + 8 <= len(content):
        size, name = int.from_bytes(content[place : place + 4]), content[place + 4 : place + 8]
        start = place + 8
        if size == 1:
            size, start = int.from_bytes(content[start : start + 8]), start + 8
        end = place + size if size else len(content)
        if end < start:
            raise Unreadable("the AVIF has a damaged box; save it again")
        yield name, content[start:end]
        place = end


def _item_contents(iloc: bytes, payload: bytes, idat: bytes) -> Iterator[bytes]:
    bits = Bits(iloc)
    version = bits.take(8)
    bits.take(24)
    of_offset, of_length, of_base, of_index = (8 * bits.take(4) for _ in range(4))
    wide = 32 if version == 2 else 16
    number = bits.take(wide)
    if number > MAX_ITEMS or len(iloc) > LARGEST_INDEX:
        raise Unreadable(f"the AVIF has more than {MAX_ITEMS} items; save it again")
    allowance = 2 * len(payload) + MAX_ITEMS
    for _ in range(number):
        bits.take(wide)
        method = bits.take(16) & 15 if version else 0
        if method > 1:
            raise Unreadable("the AVIF has items made of other items; save it again")
        source = idat if method else payload
        bits.take(16)
        base = bits.take(of_base)
        pieces = []
        for _ in range(bits.take(16)):
            bits.take(of_index if version else 0)
            start, length = base + bits.take(of_offset), bits.take(of_length)
            pieces.append(source[start : start + length] if length else source[start:])
            allowance -= len(pieces[-1]) + 1
            if allowance < 0:
                raise Unreadable("the AVIF has overlapping items; save it again")
        yield b"".join(pieces)


def _sequence_headers(item: bytes) -> Iterator[bytes]:
    """The open bitstream units that declare a size; an item other than AV1 has none."""
    place = 0
    for _ in range(MAX_UNITS):
        if place >= len(item):
            return
        header = item[place]
        place += 2 if header & 4 else 1
        size = len(item) - place
        if header & 2:
            size = shift = 0
            while place < len(item) and shift < 64:
                size |= (item[place] & 127) << shift
                shift, place = shift + 7, place + 1
                if item[place - 1] < 128:
                    break
        if header >> 3 & 15 == SEQUENCE_HEADER:
            yield item[place : place + size]
        place += size
    raise Unreadable(f"the AVIF has an item of more than {MAX_UNITS} units; save it again")


def _size(bits: Bits) -> tuple[int, int]:
    """Width and height in a sequence header (AV1 specification, section 5.5.1)."""
    bits.take(4)
    if bits.take(1):  # the short header of a still image
        bits.take(5)
    else:
        if bits.take(1):
            raise Unreadable("the AVIF has timing information; save its first frame only")
        delays = bits.take(1)
        for _ in range(bits.take(5) + 1):
            bits.take(12)
            if bits.take(5) > 7:
                bits.take(1)
            if delays and bits.take(1):
                bits.take(4)
    of_width, of_height = bits.take(4) + 1, bits.take(4) + 1
    return bits.take(of_width) + 1, bits.take(of_height) + 1
