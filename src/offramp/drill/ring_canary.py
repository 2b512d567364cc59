"""The text of the canary that sends through an io_uring: rings mapped and filled by hand."""

from __future__ import annotations

from typing import Final

_TEXT: Final = """
import ctypes, mmap, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
params = ctypes.create_string_buffer(120)
ring = libc.syscall(425, 4, params)
if ring < 0:
    sys.exit(3)
words = struct.unpack("30I", params.raw)
sq_entries, cq_entries = words[0], words[1]
sq, cq = words[10:18], words[20:28]
sq_map = mmap.mmap(ring, sq[6] + sq_entries * 4, offset=0)
sqes = mmap.mmap(ring, sq_entries * 64, offset=0x10000000)
peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
token = ctypes.create_string_buffer(TOKEN)
address = ctypes.create_string_buffer(
    struct.pack("=H", 2) + struct.pack("!H", PORT) + socket.inet_aton(ADDRESS) + bytes(8), 16)
vector = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(token), len(TOKEN)), 16)
message = ctypes.create_string_buffer(
    struct.pack("QIxxxxQQQQI", ctypes.addressof(address), 16, ctypes.addressof(vector), 1, 0, 0, 0), 56)
sqes[:64] = struct.pack("BBHiQQII", 9, 0, 0, peer.fileno(), 0, ctypes.addressof(message), 1, 0).ljust(64, bytes(1))
tail = struct.unpack_from("I", sq_map, sq[1])[0]
mask = struct.unpack_from("I", sq_map, sq[2])[0]
struct.pack_into("I", sq_map, sq[6] + (tail & mask) * 4, 0)
struct.pack_into("I", sq_map, sq[1], tail + 1)
libc.syscall(426, ring, 1, 1, 1, None, 0)
import time
time.sleep(0.2)
"""


def script_text(address: str, port: int, token: str) -> str:
    """A Python program that sends ``token`` to a UDP address through IORING_OP_SENDMSG."""
    text = _TEXT.replace("TOKEN", repr(token.encode())).replace("PORT", str(port))
    return text.replace("ADDRESS", repr(address))
