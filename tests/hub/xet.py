"""Xet, by which huggingface_hub uploads large files where hf-xet is installed: enough of a server to get their content.

A file comes as chunks, packed in xorbs, and a shard that says which chunks of which xorbs make which file. The formats are
those of https://huggingface.co/docs/xet. Hashes of chunks are taken as they come; a file's SHA-256 is that of its content.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_RECORD = 48  # bytes of every record of a shard, its header too
_LAST = b"\xff" * 32
_VERIFIED, _DESCRIBED = 1 << 31, 1 << 30  # flags of a file: a record per segment, and one more, follow
_LZ4_MAGIC = 0x184D2204


def xorb_chunks(xorb: bytes) -> list[bytes]:
    """The chunks of a xorb, in order; what follows them (its footer) is not read."""
    chunks, place = [], 0
    while place < len(xorb) and xorb[place : place + 4] != b"XETB" and xorb[place] == 0:
        packed = int.from_bytes(xorb[place + 1 : place + 4], "little")
        kind = xorb[place + 4]
        size = int.from_bytes(xorb[place + 5 : place + 8], "little")
        data = xorb[place + 8 : place + 8 + packed]
        content = data if kind == 0 else lz4_frame(data)
        chunks.append(ungroup(content) if kind == 2 else content)
        assert len(chunks[-1]) == size
        place += 8 + packed
    return chunks


def shard_files(shard: bytes) -> Iterator[list[tuple[str, int, int]]]:
    """Each file of a shard as segments: a xorb's hash, its first chunk, and the one after the last."""
    place = _RECORD
    while (record := shard[place : place + _RECORD])[:32] != _LAST:
        flags, count = struct.unpack_from("<II", record, 32)
        place += _RECORD
        segments = []
        for number in range(count):
            entry = shard[place + number * _RECORD : place + (number + 1) * _RECORD]
            first, end = struct.unpack_from("<II", entry, 40)
            segments.append((xorb_name(entry[:32]), first, end))
        place += _RECORD * (count + (count if flags & _VERIFIED else 0) + bool(flags & _DESCRIBED))
        yield segments


def xorb_name(digest: bytes) -> str:
    """A hash as it stands in addresses: four little-endian words."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", digest))


def ungroup(content: bytes) -> bytes:
    """Bytes that were sorted by their place in a word of four, put back."""
    out = bytearray(len(content))
    place = 0
    for number in range(4):
        size = len(range(number, len(content), 4))
        out[number::4] = content[place : place + size]
        place += size
    return bytes(out)


def lz4_frame(data: bytes) -> bytes:
    """Decompress an LZ4 frame. Its checksums are not looked at."""
    magic, flags = struct.unpack_from("<IB", data)
    assert magic == _LZ4_MAGIC
    place = 7 + (8 if flags & 0x08 else 0) + (4 if flags & 0x01 else 0)
    out = bytearray()
    while size := struct.unpack_from("<I", data, place)[0]:
        place += 4
        block = data[place : place + (size & 0x7FFFFFFF)]
        place += len(block) + (4 if flags & 0x10 else 0)
        if size & 0x80000000:
            out += block
        else:
            _lz4_block(block, out)
    return bytes(out)


def _lz4_block(block: bytes, out: bytearray) -> None:
    place = 0

    def length(nibble: int) -> int:
        nonlocal place
        more = nibble == 15
        while more:
            nibble += block[place]
            more = block[place] == 255
            place += 1
        return nibble

    while place < len(block):
        token = block[place]
        place += 1
        literal = length(token >> 4)
        out += block[place : place + literal]
        place += literal
        if place >= len(block):
            return
        offset = int.from_bytes(block[place : place + 2], "little")
        place += 2
        left = length(token & 15) + 4
        while left:  # a match may reach into what it writes
            piece = out[len(out) - offset : len(out) - offset + left]
            out += piece
            left -= len(piece)
