# SPDX-License-Identifier: Apache-2.0
"""The engine for zmq:// addresses: DEALER sockets that send, ROUTER sockets that receive.

The protocol is in messages.py.
"""

from .zeromq_receive import Receiver
from .zeromq_send import Sender

__all__ = ["Receiver", "Sender"]
