# SPDX-License-Identifier: Apache-2.0
"""Sockets of ZeroMQ links: their options, keys, and what becomes of a connection."""

import contextlib
import os
import struct
from collections.abc import Iterator

import zmq
from zmq.auth.thread import ThreadAuthenticator

from .config import LinkOptions, Remote
from .keys import read

HEARTBEAT_MS = 1000
CONNECT_MS = 3000  # for which a connection is tried
# Without a sign of the other side, or of what was sent, the connection is lost. A sign has to wait
# behind the bursts in the kernel: 1.5 MiB in 30 s are 0.4 Mbit/s. If the other side takes nothing
# at all, 10 s are enough.
SILENCE_MS = 30000
STANDSTILL_MS = 10000
RECONNECT_MS = (100, 1000)  # first and longest pause
KERNEL_BYTES = 1 << 20  # of a connection, each way: a burst is one system call (36 and 42 us)
REPLY_MAX = 1 << 16  # bytes of a message from a receiver
QUEUED_MAX = 2048  # messages of one sender that are not read yet: more than a window
DOMAIN = "shmpool"  # of those who may connect
_OF_DEALER = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_OF_DEALER |= zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
_OF_ROUTER = zmq.EVENT_ACCEPTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
_EVENT = struct.Struct("=Hi")  # zmq_socket_monitor(3): the event, its value


@contextlib.contextmanager
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """A context of one link, and its end, which waits for nothing."""
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        yield made
    except zmq.ZMQError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0)) from error
    finally:
        made.destroy(linger=0)


def dealer(
    ctx: zmq.Context[zmq.Socket[bytes]], options: LinkOptions, to: Remote, sender: bytes
) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    """Returns a socket that connects to a receiver, and one that says when it has. Refused."""
    sock = ctx.socket(zmq.DEALER)
    _common(sock)
    sock.setsockopt(zmq.ROUTING_ID, sender)
    sock.setsockopt(zmq.IMMEDIATE, 1)  # nothing waits in a connection that there is not
    sock.setsockopt(zmq.SNDHWM, 0)  # the window limits it
    sock.setsockopt(zmq.RCVHWM, 0)
    sock.setsockopt(zmq.MAXMSGSIZE, REPLY_MAX)
    sock.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS[0])
    sock.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MS[1])
    sock.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS)
    if options.key_file is not None and options.peer_key is not None:
        keys = read(options.key_file)
        sock.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        sock.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        sock.setsockopt(zmq.CURVE_SERVERKEY, options.peer_key.encode())
    monitor = _monitor(sock, ctx, _OF_DEALER)
    sock.connect(f"tcp://{to.bracketed}:{to.port}")
    return sock, monitor


@contextlib.contextmanager
def router(
    ctx: zmq.Context[zmq.Socket[bytes]], options: LinkOptions, at: Remote, message_max: int
) -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    """A socket that senders connect to, and one that says who has. OSError, Refused."""
    sock = ctx.socket(zmq.ROUTER)
    guard = None
    try:
        _common(sock)
        sock.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a sender that comes again is the same one
        sock.setsockopt(zmq.RCVHWM, QUEUED_MAX)
        sock.setsockopt(zmq.MAXMSGSIZE, message_max)
        if options.key_file is not None:
            keys = read(options.key_file)
            sock.setsockopt(zmq.CURVE_SERVER, 1)
            sock.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
            sock.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
            sock.setsockopt(zmq.ZAP_DOMAIN, DOMAIN.encode())  # without an answer nobody is let in
            guard = ThreadAuthenticator(ctx)
            guard.start()
            guard.configure_curve_callback(DOMAIN, Allowed(options.allow_keys))
        monitor = _monitor(sock, ctx, _OF_ROUTER)
        try:
            sock.bind(f"tcp://{at.bracketed}:{at.port}")
        except zmq.ZMQError as error:
            code = error.errno or 0
            raise OSError(code, f"{at.bracketed}:{at.port}: {os.strerror(code)}") from error
        yield sock, monitor
    finally:
        sock.close(linger=0)
        if guard is not None:
            guard.stop()


class Allowed:
    """The senders that may connect, by their public keys."""

    def __init__(self, keys: list[str]) -> None:
        self._keys = {key.encode() for key in keys}

    def callback(self, _domain: str, key: bytes) -> bool:
        """Whether the sender with that key may connect."""
        return key in self._keys


def _common(sock: zmq.Socket[bytes]) -> None:
    sock.setsockopt(zmq.LINGER, 0)
    sock.setsockopt(zmq.SNDBUF, KERNEL_BYTES)
    sock.setsockopt(zmq.RCVBUF, KERNEL_BYTES)
    sock.setsockopt(zmq.IPV6, 1)
    sock.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    sock.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENCE_MS)
    sock.setsockopt(zmq.HEARTBEAT_TTL, SILENCE_MS)
    sock.setsockopt(zmq.TCP_MAXRT, STANDSTILL_MS)


def _monitor(
    sock: zmq.Socket[bytes], ctx: zmq.Context[zmq.Socket[bytes]], events: int
) -> zmq.Socket[bytes]:
    """Returns a socket that says what becomes of the connections of another. Its queue has no
    limit: where it has one, ZeroMQ's thread stops until it is read, and all connections with
    it. A receiver does not read while it waits for room."""
    place = f"inproc://events-{sock.fileno()}"
    sock.monitor(place, events)
    monitor = ctx.socket(zmq.PAIR)
    monitor.setsockopt(zmq.RCVHWM, 0)
    monitor.connect(place)
    return monitor


def happened(monitor: zmq.Socket[bytes]) -> Iterator[tuple[int, int]]:
    """Yields what has become of connections since the last call: the event, and its value."""
    while True:
        try:
            frames = monitor.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
        yield _EVENT.unpack(frames[0])
