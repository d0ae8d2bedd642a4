/* SPDX-License-Identifier: Apache-2.0
 *
 * audit.c - see audit.h.
 */
#include "audit.h"

#include <stdlib.h>
#include <string.h>

#include "alf_repair.h"
#include "member.h"
#include "queue.h"

#define LOOKS 64   /* at a buffer that is on its way, before it counts as unaccounted for */
#define ATTEMPTS 4 /* to count without meeting a buffer twice, while it moves from place to place */

struct walk {
	const struct qmempool *p;
	uint64_t *cached; /* one bit a buffer: met in a cache */
	struct shmpool_audit *out;
	struct shmpool_held *held;
	size_t held_n;
	uint64_t *queued;
	size_t queued_n;
};

static const struct alf_ring *ring_of(const struct walk *w, uint32_t queue)
{
	return queue ? queue_ring((struct qmempool *)w->p, queue) : &w->p->free;
}

/* Whether the slot's buffer may have been taken from behind a stopped member (bypass.c). */
static bool hollow(const struct qmempool *p, const struct alf_ring *r, alf_position at)
{
	alf_position limit = load_relaxed(&segment_shared(&p->segment)->bypassed);
	return r->id == 0 && limit && (alf_distance)(at - limit) < 0;
}

/* Every entry of a ring must say what its buffer's owner word says, unless it was taken out meanwhile. */
static void walk_ring(struct walk *w, const struct alf_ring *r)
{
	alf_position cons = load_acquire(&r->q->cons), prod = load_acquire(&r->q->prod);
	if ((alf_position)(prod - cons) > r->mask + 1)
		prod = cons;
	for (alf_position at = cons; at != prod; at++) {
		uint64_t word = alf_word(r, at), index = word & ALF_INDEX_MASK;
		if (alf_at(r, at, word) != ALF_AT_VALUE)
			continue;
		bool good = index < w->p->capacity &&
			    segment_exists(&w->p->segment, (uint32_t)index) &&
			    load_acquire(&qmempool_buffer(w->p, (uint32_t)index)->owner) ==
				    owner_transit(r->id, at); /* [OWNER] */
		if (!good && !hollow(w->p, r, at) &&
		    (alf_distance)(load_acquire(&r->q->cons) - at) <= 0) /* [CONS] */
			w->out->doubled++;
	}
}

/* Whether what somebody takes from the cache, or took when it died, may still be listed in it. */
static bool emptied(const struct member *m)
{
	return cache_thief(load_acquire(&m->cache_bottom)); /* [CACHE] */
}

static void walk_cache(struct walk *w, const struct member *m)
{
	if (member_dead(load_acquire(&m->identity))) /* [MEMBER] */
		return; /* what it had cached it holds, until it is taken back one by one */
	uint64_t word = load_acquire(&m->cache_bottom);   /* [CACHE] */
	cache_position top = load_acquire(&m->cache_top); /* [CACHE] */
	cache_position bottom = cache_bottom_at(word, top);
	uint64_t mask = w->p->cache_mask;
	int64_t len = cache_between(word, top);
	if (len > (int64_t)w->p->cache_size)
		return; /* somebody scribbled over it */
	for (uint32_t i = 0; i < len; i++) {
		uint64_t handle = load_relaxed(&m->cache[(bottom + i) & mask]);
		uint32_t index = handle_index(handle);
		/* Of this generation: what a dead thief had taken may be the member's again, in hand. */
		bool good = index < w->p->capacity && segment_exists(&w->p->segment, index) &&
			    load_acquire(&qmempool_buffer(w->p, index)->owner) ==
				    m->tag && /* [OWNER] */
			    load_relaxed(&qmempool_buffer(w->p, index)->handle) == handle &&
			    !(w->cached[index / 64] >> index % 64 & 1);
		if (good)
			w->cached[index / 64] |= 1ull << index % 64;
		else if (i < member_cached(&w->p->segment, m) && !emptied(m))
			w->out->doubled++;
	}
}

static void count_held(struct walk *w, uint32_t number, const struct buffer *b)
{
	if (number >= w->held_n)
		return;
	struct shmpool_held *held = &w->held[number];
	uint64_t since = load_relaxed(&b->since);
	if (since && (!held->oldest_ns || since < held->oldest_ns))
		held->oldest_ns = since;
	held->buffers++;
}

/* Whose operation a buffer between a member and a ring is part of; members if it is nobody's. */
static uint32_t mover(const struct walk *w, const struct alf_ring *r, alf_position position)
{
	const struct segment *s = &w->p->segment;
	uint32_t producer = tag_number(load_acquire(&r->q->producer));
	uint32_t consumer = tag_number(load_acquire(&r->q->consumer));
	for (uint32_t i = 0; i < s->members; i++) {
		uint64_t op = load_acquire(&segment_member(s, i)->op); /* [OP] */
		if (alf_op_covers(op, ALF_OP_ENQUEUE, r->id, position) ||
		    alf_op_covers(op, ALF_OP_DEQUEUE, r->id, position))
			return i;
	}
	return producer < s->members ? producer : consumer < s->members ? consumer : s->members;
}

/* Counts one buffer where its owner word says that it is, if that is so. */
static void count_one(struct walk *w, uint32_t index)
{
	const struct segment *s = &w->p->segment;
	const struct buffer *b = qmempool_buffer(w->p, index);
	for (int look = 0; look < LOOKS; look++) {
		uint64_t owner = load_acquire(&b->owner); /* [OWNER] */
		uint32_t number = tag_number(owner);
		if (!(owner & OWNER_TRANSIT)) {
			if (owner & OWNER_ABANDONED) {
				w->out->free++; /* to whoever sweeps next */
				return;
			}
			if (w->cached[index / 64] >> index % 64 & 1) {
				w->out->cached++;
				return;
			}
			if (number < s->members &&
			    load_acquire(&segment_member(s, number)->identity)) { /* [MEMBER] */
				count_held(w, number, b);
				return;
			}
			continue;
		}
		const struct alf_ring *r = ring_of(w, owner_queue(owner));
		if (!r)
			break;
		alf_position low = (alf_position)owner_position(owner);
		uint64_t word = alf_word(r, low);
		if ((word ^ alf_tag(r, low)) == index) {
			if (owner_queue(owner) == 0)
				w->out->free++;
			else if (owner_queue(owner) < w->queued_n)
				w->queued[owner_queue(owner)]++;
			return;
		}
		if (load_acquire(&b->owner) == owner && (number = mover(w, r, low)) < s->members) {
			count_held(w, number, b);
			return;
		}
	}
	w->out->unaccounted++;
}

static void count_all(struct walk *w)
{
	const struct segment *s = &w->p->segment;
	memset(w->cached, 0, (w->p->capacity / 64 + 1) * 8);
	memset(w->out, 0, sizeof(*w->out));
	memset(w->held, 0, w->held_n * sizeof(*w->held));
	memset(w->queued, 0, w->queued_n * sizeof(*w->queued));
	for (uint32_t i = 0; i <= s->geometry.queues; i++)
		if (ring_of(w, i))
			walk_ring(w, ring_of(w, i));
	for (uint32_t i = 0; i < s->members; i++)
		walk_cache(w, segment_member(s, i));
	for (uint32_t i = 0; i < w->p->capacity; i++) {
		if (!segment_exists(s, i))
			continue;
		w->out->total++;
		count_one(w, i);
	}
}

int audit_count(struct qmempool *p, struct shmpool_audit *out, struct shmpool_held *held,
		size_t held_n, uint64_t *queued, size_t queued_n)
{
	struct walk w = { p, calloc(p->capacity / 64 + 1, 8), out, held, held_n, queued, queued_n };
	if (!w.cached)
		return -ENOMEM;
	for (int i = 0; i < ATTEMPTS; i++) {
		count_all(&w);
		if (!out->unaccounted && !out->doubled)
			break;
	}
	free(w.cached);
	return 0;
}

/* Slots of the free ring whose buffers have been taken from behind a stopped member. */
static uint32_t count_hollow(const struct qmempool *p)
{
	const struct alf_ring *r = &p->free;
	alf_position at = load_acquire(&r->q->cons); /* [CONS] */
	uint32_t n = 0;
	for (uint64_t k = 0; k <= r->mask && hollow(p, r, at); k++, at++) {
		uint64_t word = alf_word(r, at), index = word & ALF_INDEX_MASK;
		n += alf_at(r, at, word) == ALF_AT_VALUE && index < p->capacity &&
		     segment_exists(&p->segment, (uint32_t)index) &&
		     load_acquire(&qmempool_buffer(p, (uint32_t)index)->owner) !=
			     owner_transit(0, at); /* [OWNER] */
	}
	return n;
}

void audit_stats(struct qmempool *p, struct shmpool_stats *out)
{
	const struct segment *s = &p->segment;
	memset(out, 0, sizeof(*out));
	out->created = s->geometry.prealloc;
	for (uint64_t i = 0; i < s->extents; i++)
		if (load_acquire(segment_extent(s, i)) == EXTENT_PRESENT) { /* [EXTENT] */
			uint64_t first = s->geometry.prealloc + i * s->geometry.extent_buffers;
			uint64_t left = s->geometry.capacity - first;
			out->created += left < s->geometry.extent_buffers ?
						left :
						s->geometry.extent_buffers;
		}
	out->free = alf_count(&p->free) - count_hollow(p);
	for (uint32_t i = 1; i <= s->geometry.queues; i++) {
		const struct alf_ring *r = queue_ring(p, i);
		if (r)
			out->queued += alf_count(r);
	}
	for (uint32_t i = 0; i < s->members; i++) {
		const struct member *m = segment_member(s, i);
		uint64_t identity = load_acquire(&m->identity); /* [MEMBER] */
		if (!member_dead(identity))
			out->cached += member_cached(s, m);
		out->members += identity != 0;
		out->deaths += load_relaxed(&m->deaths);
		for (int k = 0; k < COUNTERS; k++)
			out->counters[k] += member_count(m, k);
	}
}
