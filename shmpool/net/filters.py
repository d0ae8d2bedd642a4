# SPDX-License-Identifier: Apache-2.0
"""Filters in tcpdump's language, compiled by libpcap, which is found at run time."""

import ctypes
import ctypes.util
import socket
import struct
from collections.abc import Iterator
from functools import cache

from .. import errors

SO_ATTACH_FILTER = 26
NETMASK_UNKNOWN = 0xFFFFFFFF
PACKET_TYPE = 0xFFFFF004  # where a program finds it: SKF_AD_OFF + SKF_AD_PKTTYPE
SNAPLEN = 262144


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint),
    )


class _Program(ctypes.Structure):
    _fields_ = (("n", ctypes.c_uint), ("instructions", ctypes.POINTER(_Instruction)))


def _names() -> Iterator[str]:
    yield from ("libpcap.so.0.8", "libpcap.so.1")
    if found := ctypes.util.find_library("pcap"):  # runs programs: only if it must
        yield found


@cache
def _libpcap() -> ctypes.CDLL:
    for name in _names():
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise errors.InvalidArgument(
        "filters need libpcap, which is not installed here (Debian: libpcap0.8)"
    )


def compiled(text: str, link: int = 1, snaplen: int = SNAPLEN) -> bytes:
    """Returns the instructions of a filter for packets of that link type, 8 bytes each.

    >>> len(compiled("udp port 53")) % 8
    0
    """
    if "\0" in text:
        raise errors.InvalidArgument(f"filter is {text!r}; it has a zero byte")
    pcap = _libpcap()
    pcap.pcap_open_dead.restype = ctypes.c_void_p
    pcap.pcap_open_dead.argtypes = [ctypes.c_int, ctypes.c_int]
    pcap.pcap_compile.argtypes = [
        ctypes.c_void_p,
        ctypes.POINTER(_Program),
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_uint,
    ]
    pcap.pcap_geterr.restype = ctypes.c_char_p
    pcap.pcap_geterr.argtypes = [ctypes.c_void_p]
    pcap.pcap_freecode.argtypes = [ctypes.POINTER(_Program)]
    pcap.pcap_close.argtypes = [ctypes.c_void_p]
    handle = pcap.pcap_open_dead(link, snaplen)
    if not handle:
        raise MemoryError("libpcap has no memory")
    try:
        program = _Program()
        if pcap.pcap_compile(handle, ctypes.byref(program), text.encode(), 1, NETMASK_UNKNOWN):
            why = (pcap.pcap_geterr(handle) or b"").decode(errors="replace")
            raise errors.InvalidArgument(f"filter is {text!r}: {why}")
        try:
            return ctypes.string_at(program.instructions, 8 * program.n)
        finally:
            pcap.pcap_freecode(ctypes.byref(program))
    finally:
        pcap.pcap_close(handle)


def incoming(instructions: bytes | None) -> bytes:
    """Returns a filter that refuses what this machine sends, and then is the other one."""
    return b"".join(
        (
            struct.pack("=HBBI", 0x20, 0, 0, PACKET_TYPE),  # load it
            struct.pack("=HBBI", 0x15, 0, 1, socket.PACKET_OUTGOING),  # unless equal, skip one
            struct.pack("=HBBI", 0x06, 0, 0, 0),  # return no byte of it
            instructions or struct.pack("=HBBI", 0x06, 0, 0, SNAPLEN),
        )
    )


def attach(sock: socket.socket, instructions: bytes) -> None:
    """Lets the kernel pass only packets to the socket that the filter selects."""
    memory = ctypes.create_string_buffer(instructions, len(instructions))

    class Fprog(ctypes.Structure):
        _fields_ = (("n", ctypes.c_ushort), ("instructions", ctypes.c_void_p))

    program = Fprog(len(instructions) // 8, ctypes.addressof(memory))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, bytes(program))
