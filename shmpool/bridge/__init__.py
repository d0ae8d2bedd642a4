# SPDX-License-Identifier: Apache-2.0
"""Queues and topics of other machines: links over ZeroMQ and NATS JetStream.

A link takes buffers out of a queue or topic here and sends them, or receives them and puts them
into one here. `shmpool bridge` runs links, and so does the daemon. Nothing here is imported by
`import shmpool`; what an engine needs comes with the extra shmpool[bridge].
"""
