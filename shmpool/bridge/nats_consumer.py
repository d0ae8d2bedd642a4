# SPDX-License-Identifier: Apache-2.0
"""The consumer of a stream of NATS JetStream, through which receivers get what is in the stream.

Receivers share one, or each has one of its own. Not in here: what they get (nats_receiving.py).
"""

import asyncio
import contextlib

import nats.js.errors
from nats.js import JetStreamContext, api

from .ends import Refused
from .nats_stream import NO_REPLICAS, Place, covers, text

SETTLE_S = 0.5  # in which a leader of a stream knows what another server has delivered
STANDS_IN_S = 60.0  # for which a consumer lasts that nobody asks: one that stands in for another


def consumer_config(place: Place, stream: api.StreamInfo) -> api.ConsumerConfig:
    """What a new consumer is."""
    return api.ConsumerConfig(
        durable_name=place.consumer,
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=place.nats.ack_wait_s,
        deliver_policy=api.DeliverPolicy.ALL,
        filter_subject=_filter(place, stream),
        max_ack_pending=-1,  # what no pool holds stays unacknowledged, and must not stop the rest
    )


def _filter(place: Place, stream: api.StreamInfo) -> str | None:
    """The subject that the link receives, if the stream has others."""
    subject = place.nats.subject
    return None if subject is None or stream.config.subjects == [subject] else subject


async def prepare_consumer(
    jet: JetStreamContext, place: Place, stream: api.StreamInfo
) -> api.ConsumerInfo:
    """Creates the consumer unless it exists. Raises Refused, or one of TROUBLE."""
    try:
        info: api.ConsumerInfo = await jet.consumer_info(place.stream, place.consumer)
    except nats.js.errors.NotFoundError:
        try:
            info = await jet.add_consumer(place.stream, consumer_config(place, stream))
        except nats.js.errors.APIError as error:
            if error.err_code in NO_REPLICAS or error.code == 503:
                raise
            raise Refused(
                f"consumer {place.consumer!r} of stream {place.stream!r} cannot be created: "
                f"{error.description}"
            ) from None
    if found := consumer_differences(info.config, place, stream):
        raise Refused(
            f"consumer {place.consumer!r} of stream {place.stream!r} exists, and "
            f"{'; '.join(found)}. Name another one, or remove it"
        )
    return info


def consumer_differences(
    there: api.ConsumerConfig, place: Place, stream: api.StreamInfo
) -> list[str]:
    """Returns what of an existing consumer the link cannot use, as clauses."""
    found = []
    if there.deliver_subject:
        found.append("it pushes, and a link pulls")
    if there.ack_policy != api.AckPolicy.EXPLICIT:
        found.append(f"its ack_policy is {text(there.ack_policy)}, not explicit")
    if (there.max_deliver or 0) > 0:
        found.append(f"it gives a message up after max_deliver {there.max_deliver}")
    if (there.max_ack_pending or 0) > 0:
        found.append(
            f"it stops at max_ack_pending {there.max_ack_pending}, which packets that no pool here "
            "holds can use up, not at -1"
        )
    if there.headers_only:
        found.append("it leaves the packets out (headers_only)")
    if there.deliver_policy not in (api.DeliverPolicy.ALL, api.DeliverPolicy.NEW):
        found.append(f"its deliver_policy is {text(there.deliver_policy)}, not all")
    filters, wanted = _filters(there), _filter(place, stream)
    if filters not in ([[wanted]] if wanted else [[], stream.config.subjects]):
        found.append(
            f"it gets {' and '.join(filters) or 'all subjects'}, not {wanted or 'all subjects'}"
        )
    return found


def _filters(there: api.ConsumerConfig) -> list[str]:
    """The subjects that a consumer gets; none if it gets all."""
    return there.filter_subjects or ([there.filter_subject] if there.filter_subject else [])


async def has_receiver(jet: JetStreamContext, place: Place, stream: api.StreamInfo) -> bool:
    """Whether the stream keeps what a sender publishes: one for all receivers keeps only what a
    consumer gets."""
    if stream.config.retention != api.RetentionPolicy.INTEREST:
        return True
    seen = 0
    while page := await jet.consumers_info(place.stream, offset=seen):
        for one in page:
            filters = _filters(one.config)
            if not filters or any(covers(pattern, place.subject) for pattern in filters):
                return True
        seen += len(page)
    return False


async def has_begun_again(jet: JetStreamContext, place: Place, there: api.ConsumerInfo) -> bool:
    """began_again(), by what the stream says after the consumer did: what is stored and delivered
    between the two questions looks like it otherwise."""
    for pause in (0, SETTLE_S):
        await asyncio.sleep(pause)
        if not began_again(await jet.stream_info(place.stream), there):
            return False
    return True


async def replace_consumer(
    jet: JetStreamContext, place: Place, stream: api.StreamInfo
) -> api.ConsumerInfo:
    """Makes the consumer again, so that it gets all that the stream has.

    A stream that keeps what consumers want drops what the last of them wanted, when it is deleted.
    Another one stands in for it so long; if this process is killed, it ends by itself.
    """
    stands_in = None
    if stream.config.retention == api.RetentionPolicy.INTEREST:
        config = consumer_config(place, stream).evolve(
            durable_name=None, inactive_threshold=STANDS_IN_S, description=place.consumer
        )
        stands_in = await jet.add_consumer(place.stream, config)
    with contextlib.suppress(nats.js.errors.NotFoundError):  # another receiver was first
        await jet.delete_consumer(place.stream, place.consumer)
    made = await prepare_consumer(jet, place, stream)
    if stands_in is not None:
        await jet.delete_consumer(place.stream, stands_in.name)
    return made


def began_again(stream: api.StreamInfo, consumer: api.ConsumerInfo) -> bool:
    """Whether a server that was killed has forgotten the stream's numbers, and begun at 1.

    Before 2.11 a server does so if it is killed while it removes the last message of a work queue.
    The consumer then waits for numbers that are long to come, and messages stay in the stream.
    """
    return consumer.delivered is not None and consumer.delivered.stream_seq > stream.state.last_seq


async def left_behind(
    jet: JetStreamContext, place: Place, stream: api.StreamInfo, consumer: api.ConsumerInfo
) -> int:
    """Returns the number of the first message of a work queue if the consumer takes it, or one of
    those delivered after it, for done; or 0.

    For an instant a message is both there and done; for longer, only after a server has forgotten
    something. stream must be what the server said after consumer.
    """
    state, floor = stream.state, consumer.ack_floor
    if stream.config.retention != api.RetentionPolicy.WORK_QUEUE or floor is None:
        return 0
    if not state.messages:
        return 0
    first = state.first_seq
    if subject := consumer.config.filter_subject:  # what others get may be older
        try:
            found = await jet.get_msg(place.stream, seq=first, subject=subject, next=True)
        except nats.js.errors.NotFoundError:
            return 0
        first = found.seq or 0
    if first <= floor.stream_seq or (not subject and _awaited_by_nobody(stream, consumer)):
        return first
    return 0


def _awaited_by_nobody(stream: api.StreamInfo, consumer: api.ConsumerInfo) -> bool:
    """Whether messages of a work queue were delivered, and are neither acknowledged nor to be
    delivered again: a killed server forgets some that were on their way.

    The consumer gets all messages of the stream. What is stored after consumer was asked counts in
    neither number.
    """
    state, delivered = stream.state, consumer.delivered
    if delivered is None or consumer.num_ack_pending is None:
        return False
    later = max(state.last_seq - delivered.stream_seq, 0)
    return state.messages - later > consumer.num_ack_pending
