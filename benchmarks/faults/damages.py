"""Where a checkpoint can be damaged: a byte of each kind that its format has, and three ways to damage it there.

torch.save writes a zip archive without compression: local headers, a pickled index of tensors, their bytes, the
checksums (CRC-32) of each member, and the central directory behind them (APPNOTE.TXT 6.3.10, PKWARE).
"""

from __future__ import annotations

import io
import zipfile


def places(content: bytes) -> list[tuple[str, int]]:
    """Kinds of bytes of a checkpoint, each with the offset of one.

    Args:
        content: of a whole file.
    """
    found = [("first byte", 0), ("last byte", len(content) - 1), ("middle", len(content) // 2)]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        found.append(("central directory", archive.start_dir))
    for member in (members[0], members[len(members) // 2], members[-1]):
        name, extra = (int.from_bytes(content[member.header_offset + at:][:2], "little") for at in (26, 28))
        start = member.header_offset + 30 + name + extra
        kind = "index of tensors" if member.filename.endswith("data.pkl") else "payload"
        found += [("local header", member.header_offset), ("checksum", member.header_offset + 14),
                  (f"{kind}, first byte", start), (f"{kind}, last byte", start + max(member.file_size - 1, 0)),
                  (f"{kind}, size", member.header_offset + 18)]
    return found


def damaged(content: bytes, offset: int, how: str) -> bytes:
    """The content with one other bit there, cut off there, or with a byte more there.

    >>> damaged(b"ab", 1, "flip"), damaged(b"ab", 1, "cut"), damaged(b"ab", 1, "add")
    (b'ac', b'a', b'a\\x00b')
    """
    if how == "flip":
        return content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1:]
    return content[:offset] + (b"" if how == "cut" else b"\0" + content[offset:])
