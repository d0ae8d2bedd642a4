# SPDX-License-Identifier: Apache-2.0
"""iceoryx2: publish and subscribe in place, with events for receivers that sleep. Overflow is off
and publishers retry until a message is delivered. Under load the library still drops messages of a
full subscriber now and then.
"""

import ctypes
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..transport import InPlace, OneByOne, Receive, Send, Shape, Spec, Transport


class Iceoryx2(Transport):
    """Without overflow, so that a publisher waits for its subscribers."""

    library = "iceoryx2"
    package = module = "iceoryx2"
    shape = Shape.TOPIC

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._opened: list[Any] = []

    @property
    def folder(self) -> Path:
        return Path("/tmp") / self.spec.name  # noqa: S108

    def create(self) -> None:
        self._kept = self.each(self._service)

    def remove(self) -> None:
        self._kept = []
        shutil.rmtree(self.folder, ignore_errors=True)

    def recover(self) -> None:
        node, _ = self._kept[0]
        node.try_cleanup_dead_nodes()

    def _node(self) -> Any:
        iox2 = self.lib
        iox2.set_log_level(iox2.LogLevel.Fatal)
        config = iox2.config.default()
        config.global_cfg.root_path = iox2.Path.new(str(self.folder))
        config.global_cfg.prefix = iox2.FileName.new(f"{self.spec.name}_")
        builder = iox2.NodeBuilder.new().config(config)
        builder = builder.signal_handling_mode(iox2.SignalHandlingMode.Disabled)
        return builder.create(iox2.ServiceType.Ipc)

    def _service(self, channel: int) -> tuple[Any, Any]:
        iox2, spec, node = self.lib, self.spec, self._node()
        service = (
            node.service_builder(iox2.ServiceName.new(str(channel)))
            .publish_subscribe(iox2.Slice[ctypes.c_uint8])
            .max_publishers(spec.producers + spec.replacements)
            .max_subscribers(spec.consumers + spec.replacements)
            .max_nodes(self._endpoints + 1)
            .subscriber_max_buffer_size(spec.depth)
            .enable_safe_overflow(False)
            .open_or_create()
        )
        return node, service

    def _event(self, channel: int) -> Any:
        node = self._node()
        event = node.service_builder(self.lib.ServiceName.new(str(channel))).event()
        service = event.max_nodes(self._endpoints + 1).open_or_create()
        self._opened += [node, service]
        return service

    @property
    def _endpoints(self) -> int:
        return self.spec.producers + self.spec.consumers + 2 * self.spec.replacements

    def _writer(self, channel: int) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
        self.full = (self.lib.LoanError,)
        node, service = self._service(channel)
        publisher = (
            service.publisher_builder()
            .initial_max_slice_len(self.spec.size)
            .backpressure_strategy(self.lib.BackpressureStrategy.RetryUntilDelivered)
            .create()
        )
        self._opened += [node, service, publisher]
        loan, size = publisher.loan_slice_uninit, self.spec.size
        place = (ctypes.c_uint8 * size).from_address
        sample: Any = None

        def acquire() -> Any:
            nonlocal sample
            sample = loan(size)
            return place(sample.payload_ptr)

        def commit(at: Any) -> None:
            sample.assume_init().send()

        return acquire, commit

    def _receive(self, channel: int) -> Receive:
        node, service = self._service(channel)
        subscriber = service.subscriber_builder().buffer_size(self.spec.depth).create()
        self._opened += [node, service, subscriber]
        receive, place = subscriber.receive, (ctypes.c_uint8 * self.spec.size).from_address
        sample: Any = None

        def receive_one() -> Any:
            nonlocal sample  # stays valid until the next call
            sample = None
            sample = receive()
            return None if sample is None else place(sample.payload_ptr)

        return receive_one


class LoanReceive(Iceoryx2, InPlace):
    call = "loan, receive"
    polls = True
    blocks = False

    def writer(self, channel: int) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
        return self._writer(channel)

    def receiver(self, channel: int, timeout: float) -> Receive:
        return self._receive(channel)


class Events(Iceoryx2, OneByOne):
    """Sends a notification after each message, so that the receiver can sleep."""

    call = "loan, receive, event"
    has_poller = False
    copies = False

    def sender(self, channel: int) -> Send:
        acquire, commit = self._writer(channel)
        notify, size = self._event(channel).notifier_builder().create().notify, self.spec.size

        def send(message: bytes) -> None:
            place = acquire()
            ctypes.memmove(place, bytes(message), size)
            commit(place)
            notify()

        return send

    def receiver(self, channel: int, timeout: float) -> Receive:
        self.empty = (self.lib.ListenerWaitError,)  # interrupted by a signal
        receive = self._receive(channel)
        wait = self._event(channel).listener_builder().create().timed_wait
        limit = self.lib.Duration.from_secs_f64(timeout)

        def receive_one() -> Any:
            sample = receive()
            if sample is None:
                wait(limit)
                sample = receive()
            return sample

        return receive_one
