# SPDX-License-Identifier: Apache-2.0
"""Fuzzes what decodes a client's bytes, guided by coverage; not part of the test suite.

pip install atheris; python tests/fuzz_wire.py -max_total_time=60 -max_len=4096
"""

import sys

import atheris

with atheris.instrument_imports(include=["shmpool.rpc.wire", "shmpool.rpc.protocol", "msgpack"]):
    from shmpool import errors
    from shmpool.rpc import protocol, wire


def decode(data: bytes) -> None:
    """Decodes a stream, cut where its first byte says: frames, requests, or one of 2 exceptions."""
    fuzzed = atheris.FuzzedDataProvider(data)
    cut = fuzzed.ConsumeIntInRange(1, 64)
    stream = wire.Frames(1024, trusted=fuzzed.ConsumeBool())
    rest = fuzzed.ConsumeBytes(len(data))
    try:
        for at in range(0, len(rest), cut):
            stream.feed(rest[at : at + cut])
            for frame in stream:
                if isinstance(frame, wire.Call):
                    try:
                        protocol.request_of(frame)
                    except (errors.InvalidArgument, errors.RequestRefused):
                        continue
                elif isinstance(frame, wire.Reply):
                    protocol.error_of(frame.error)
            assert stream.unread <= 1024 + cut
    except wire.FrameError:
        return


if __name__ == "__main__":
    atheris.Setup(sys.argv, decode)
    atheris.Fuzz()
