/* SPDX-License-Identifier: Apache-2.0
 *
 * unfinished.c - see unfinished.h.
 */
#include "unfinished.h"

#include "recover.h"
#include "wait.h"

/* A queue, and the numbers of the rings with its messages. */
struct rings {
	uint32_t queue;
	uint64_t of[QUEUES_MAX / 64 + 1];
};

static struct rings rings_of(const struct alf_ring *r)
{
	struct rings rings = { .queue = r->id };
	const struct alf_ring *part;
	for (uint32_t k = 0; (part = queue_part(r, k)); k++)
		rings.of[part->id / 64] |= 1ull << part->id % 64;
	return rings;
}

static bool among(const struct rings *rings, uint32_t ring)
{
	return rings->of[ring / 64] >> ring % 64 & 1;
}

/* True if the header says that the buffer is a message of the queue, or stands for a producer of
 * it. */
static bool counts(const struct buffer *b, const struct rings *rings, enum unfinished what)
{
	const uint32_t queue = rings->queue;
	const uint64_t owner = load_acquire(&b->owner); /* [OWNER] */
	const uint32_t from = what == UNFINISHED_PRODUCERS ? queue | BUFFER_PRODUCES : queue;
	if (!owner || owner_is_chained(owner))
		return false; /* or it is part of a message, whose head counts */
	if (owner & OWNER_TRANSIT)
		return what == UNFINISHED_MESSAGES && among(rings, owner_queue(owner));
	if (owner_queue(owner) || owner & OWNER_ABANDONED)
		return what == UNFINISHED_MESSAGES && owner_queue(owner) == queue;
	return load_relaxed(&b->queue) == from && load_relaxed(&b->got) == buffer_generation(b);
}

static uint64_t count_class(struct qmempool *p, const struct rings *rings, enum unfinished what)
{
	const struct segment *s = &p->segment;
	uint32_t at = s->first;
	const uint32_t end = at + (uint32_t)s->geometry.capacity;
	uint64_t n = 0;
	while (at < end) {
		uint32_t upto = s->first + (uint32_t)s->geometry.prealloc;
		if (at >= upto) {
			const uint64_t extent = segment_extent_of(s, at);
			upto = (uint32_t)slab_extent_first(s, extent) + slab_extent_size(s, extent);
		}
		for (bool there = segment_exists(s, at); there && at < upto; at++)
			n += counts(pool_buffer(p, at), rings, what);
		at = upto;
	}
	return n;
}

uint64_t unfinished_count(struct qmempool *p, const struct alf_ring *r, enum unfinished what)
{
	/* A message is put back by moving prod. If prod has not moved, no message was: so each was
	 * settled when its header was read, or before. */
	const alf_position before = queue_reserved(r);
	const struct rings rings = rings_of(r);
	uint64_t n = 0;
	for (uint32_t i = 0; i < segment_classes(&p->segment); i++)
		n += count_class(pool_class(p, i), &rings, what);
	if (what == UNFINISHED_MESSAGES && !n && queue_reserved(r) != before)
		n = 1;
	return n;
}

int64_t unfinished_wait(struct qmempool *p, struct member *m, const struct alf_ring *r,
			enum unfinished what, int64_t deadline_ns)
{
	uint32_t *word = &segment_queue(&p->segment, r->id)->settled_wait;
	for (;;) {
		if (load_relaxed(&p->closing))
			return -ESHUTDOWN;
		const uint32_t entered = wait_enter(word);
		/* A waiter counts once the queue is empty, which is cheap to ask. */
		const bool queued =
			what == UNFINISHED_MESSAGES && deadline_ns != WAIT_NEVER && !queue_empty(r);
		const uint64_t n = queued ? 1 : unfinished_count(p, r, what);
		int slept = 0;
		if (n && deadline_ns != WAIT_NEVER) {
			count_up(&m->counters[COUNT_SLEEP], 1);
			slept = wait_sleep(word, entered, WAIT_SLICE_NS, deadline_ns);
		}
		wait_leave(word, entered);
		if (slept)
			recover_if_due(p, m);
		if (slept == -EINTR)
			return slept;
		if (!n || deadline_ns == WAIT_NEVER || slept == -ETIMEDOUT)
			return (int64_t)n;
	}
}

void unfinished_declare(struct buffer *b, const struct alf_ring *r)
{
	store_relaxed(&b->got, buffer_generation(b));
	store_relaxed(&b->queue, r->id | BUFFER_PRODUCES);
}

void unfinished_settle(struct buffer *b)
{
	store_relaxed(&b->queue, 0);
}

void unfinished_wake(struct qmempool *p, uint32_t number)
{
	const bool producers = number & BUFFER_PRODUCES;
	number &= ~BUFFER_PRODUCES;
	if (!number || number > p->segment.geometry.queues)
		return;
	const struct alf_ring *r = queue_ring(p, number);
	if (!producers && r && !queue_empty(r))
		return; /* a later one is the last */
	uint32_t *word = &segment_queue(&p->segment, number)->settled_wait;
	/* An addition of 0, which orders the header's stores before it. */
	if (add_seq_cst(word, 0) & WAIT_COUNT_MASK) /* [WAIT] */
		wait_wake(word, UINT32_MAX);
}
