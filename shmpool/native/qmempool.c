/* SPDX-License-Identifier: Apache-2.0
 *
 * qmempool.c - see qmempool.h: refill and flush.
 */
#include "qmempool.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "member.h"
#include "recover.h"
#include "slab.h"
#include "transfer.h"
#include "wait.h"

static struct pool_shared *shared(const struct qmempool *p)
{
	return segment_shared(&p->segment);
}

int qmempool_bind(struct qmempool *p, const struct segment *s)
{
	*p = (struct qmempool) {
		.segment = *s,
		.buffers = segment_buffer(s, 0),
		.capacity = (uint32_t)s->geometry.capacity,
		.cache_size = (uint64_t)s->geometry.cache_size,
		.cache_mask = (uint64_t)s->geometry.cache_size - (s->geometry.cache_size > 0),
		.bulk = (uint32_t)s->geometry.bulk,
	};
	p->queues = calloc(s->geometry.queues + 1, sizeof(*p->queues));
	if (!p->queues)
		return -ENOMEM;
	alf_bind(&p->free, &segment_queue(s, 0)->queue, (uint64_t *)(s->base + s->free_ring_offset),
		 p->capacity, 0, 0);
	return 0;
}

void qmempool_unbind(struct qmempool *p)
{
	for (int64_t i = 0; p->queues && i <= p->segment.geometry.queues; i++)
		free(p->queues[i]);
	free(p->queues);
	*p = (struct qmempool) { 0 };
}

#define GIVE_TRIES 1024
#define DRAIN_TRIES 1024

/* Leaves buffers of m's to whoever sweeps next. */
static void abandon(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		store_release(&qmempool_buffer(p, handle_index(handle[i]))->owner,
			      m->tag | OWNER_ABANDONED); /* [OWNER] */
	/* Afterwards: who reads it sees them. Who dies before it is swept for anyhow. */
	add_seq_cst(&shared(p)->abandoned, n);
}

/* Only the voids that the dead leave can make the shared queue full: it has a slot for every buffer. Then
 * buffers from its head go to its end until a void is passed. */
static void give(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n)
{
	uint32_t rounds = p->capacity / BULK_MAX + GIVE_TRIES;
	while (transfer_in(p, m, &p->free, handle, n, ALF_MULTI)) {
		uint64_t moved[BULK_MAX];
		int k = transfer_free(p, m, moved, BULK_MAX);
		if (k <= 0 || !rounds--) { /* somebody has stopped at its head */
			abandon(p, m, handle, n);
			return;
		}
		for (int tries = GIVE_TRIES;
		     transfer_in(p, m, &p->free, moved, (uint32_t)k, ALF_MULTI);)
			if (--tries) {
				sched_yield();
			} else {
				abandon(p, m, moved, (uint32_t)k);
				break;
			}
	}
	if (unlikely(wait_anybody(&shared(p)->free_wait))) /* [WAIT] after prod moved */
		wait_wake(&shared(p)->free_wait, n);
}

uint32_t transfer_indices(const struct qmempool *p, uint64_t *handle, uint32_t n)
{
	uint32_t good = 0;
	for (uint32_t i = 0; i < n; i++)
		if (handle_index(handle[i]) < p->capacity)
			handle[good++] = handle[i];
	return good;
}

void qmempool_give(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n)
{
	const uint32_t capacity = p->capacity;
	uint32_t k = 0;
#pragma GCC unroll 4
	for (; k < n; k++)
		if (unlikely(handle_index(handle[k]) >= capacity))
			break;
	if (likely(k == n && n <= BULK_MAX)) {
		if (n)
			give(p, m, handle, n);
		return;
	}
	for (uint32_t i = 0; i < n; i += BULK_MAX) {
		uint64_t good[BULK_MAX];
		k = n - i < BULK_MAX ? n - i : BULK_MAX;
		memcpy(good, handle + i, k * sizeof(*good));
		k = transfer_indices(p, good, k);
		if (k)
			give(p, m, good, k);
	}
}

/* Grows the slab by an extent. Up to max of its buffers go to handle, the rest to the shared queue. */
static int grow(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t max)
{
	uint32_t first, mine, filled = 0;
	uint64_t rest[BULK_MAX];
	int n = slab_grow(&p->segment, &p->absent, m->tag, &first);
	if (n < 0)
		return n;
	count_up(&m->counters[COUNT_GROW], 1);
	mine = (uint32_t)n < max ? (uint32_t)n : max;
	for (uint32_t k = 0; k < (uint32_t)n; k++) {
		uint64_t h = handle_of(first + k, buffer_generation(qmempool_buffer(p, first + k)));
		if (k < mine) {
			handle[k] = h;
			continue;
		}
		rest[filled++] = h;
		if (filled == BULK_MAX || k + 1 == (uint32_t)n) {
			qmempool_give(p, m, rest, filled);
			filled = 0;
		}
	}
	return (int)mine;
}

/* Gets 1..max buffers for m from wherever there are some: the shared queue, growth, other caches. */
static int obtain(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t max)
{
	int got = transfer_free(p, m, handle, max);
	if (got)
		return got;
	int grown = grow(p, m, handle, max);
	if (grown > 0)
		return grown;
	got = (int)qmempool_steal(p, m, handle, max);
	if (got)
		return got;
	got = transfer_free(p, m, handle, max); /* given back meanwhile */
	if (!got && (!alf_empty(&p->free) || load_relaxed(&shared(p)->abandoned)))
		got = (int)qmempool_bypass(p, m, handle, max);
	return got ? got : grown;
}

/* Pushes n handles onto m's cache; false if they do not fit or somebody is at it. */
static bool push(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n)
{
	cache_position top = load_relaxed(&m->cache_top);
	uint64_t len = cache_between_own(load_acquire(&m->cache_bottom), top); /* [CACHE] */
	uint64_t size = p->cache_size;
	if (n > size || len > size - n)
		return false;
	uint64_t from = top & p->cache_mask, straight = size - from;
	uint32_t first = n < straight ? n : (uint32_t)straight;
	memcpy(&m->cache[from], handle, first * sizeof(*handle));
	if (unlikely(first < n))
		memcpy(m->cache, handle + first, (n - first) * sizeof(*handle));
	count_up(&m->cache_pushed, n);
	store_release(&m->cache_top, (cache_position)(top + n)); /* [CACHE] */
	return true;
}

/* Keeps n buffers of m's in its cache, or in the shared queue if the cache cannot take them. */
static void keep(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n)
{
	if (n && push(p, m, handle, n))
		count_up(&m->counters[COUNT_FREE], -(uint64_t)n); /* nobody freed them */
	else
		qmempool_give(p, m, handle, n);
}

/* Takes back n handles, or as many as there are, that no allocation asked for. */
static uint32_t unkeep(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t n)
{
	uint32_t len = member_cached(&p->segment, m);
	if (n > len)
		n = len;
	if (!n || !cache_pop(p, m, handle, n))
		return 0;
	count_up(&m->counters[COUNT_ALLOC], -(uint64_t)n);
	return n;
}

int qmempool_alloc_slow(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t n)
{
	uint32_t have = 0;
	int got = 0;
	if (n > p->capacity)
		return -EAGAIN;
	if (qmempool_honour(p, m))
		have = unkeep(p, m, handle, n);
	while (have < n) {
		if (n - have >= p->bulk) {
			got = obtain(p, m, handle + have, n - have);
			if (got <= 0)
				break;
			have += (uint32_t)got;
			continue;
		}
		uint64_t more[BULK_MAX];
		got = obtain(p, m, more, p->cache_size ? p->bulk : n - have);
		if (got <= 0)
			break;
		count_up(&m->counters[COUNT_REFILL], 1);
		uint32_t use = n - have < (uint32_t)got ? n - have : (uint32_t)got;
		memcpy(handle + have, more, use * sizeof(*handle));
		have += use;
		keep(p, m, more + use, (uint32_t)got - use);
	}
	if (have < n) {
		keep(p, m, handle, have);
		if (got != -ENOSPC && recover_stuck(p, m))
			return qmempool_alloc_slow(p, m, handle, n);
		count_up(&m->counters[COUNT_EXHAUSTED], 1);
		return got < 0 ? got : -EAGAIN;
	}
	count_up(&m->counters[COUNT_ALLOC], n);
	return 0;
}

int qmempool_refill(struct qmempool *p, struct member *m, uint64_t *handle)
{
	uint64_t more[BULK_MAX];
	*handle = 0;
	if (!qmempool_honour(p, m) || !unkeep(p, m, handle, 1)) {
		int got = transfer_free(p, m, more, p->cache_size ? p->bulk : 1);
		if (got <= 0)
			return got ? got : -EAGAIN;
		count_up(&m->counters[COUNT_REFILL], 1);
		*handle = more[0];
		keep(p, m, more + 1, (uint32_t)got - 1);
	}
	count_up(&m->counters[COUNT_ALLOC], 1);
	return 0;
}

void qmempool_unfree(struct qmempool *p, const uint64_t *handle, uint32_t n)
{
	while (n--)
		store_relaxed(&qmempool_buffer(p, handle_index(handle[n]))->handle, handle[n]);
}

/* Raises the generations of n buffers of m's: all, or an error and none. */
static int spend(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		int error = qmempool_check(p, m, handle[i]);
		if (error) {
			qmempool_unfree(p, handle, i);
			return error;
		}
		store_relaxed(&qmempool_buffer(p, handle_index(handle[i]))->handle,
			      handle[i] + GENERATION_ONE);
	}
	return 0;
}

/* Moves bulks from the top of m's cache to the shared queue until n more fit in. False if they did before,
 * or cannot be made to. */
static bool make_room(struct qmempool *p, struct member *m, uint32_t n)
{
	bool moved = false;
	if (n > p->cache_size)
		return false;
	while (member_cached(&p->segment, m) > p->cache_size - n) {
		uint64_t old[BULK_MAX];
		uint32_t out = unkeep(p, m, old, p->bulk);
		if (!out)
			return false;
		qmempool_give(p, m, old, out);
		count_up(&m->counters[COUNT_FLUSH], 1);
		moved = true;
	}
	return moved;
}

int qmempool_free_slow(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n)
{
	if (make_room(p, m, n) && cache_free(p, m, handle, n))
		return 0;
	int error = SHMPOOL_CHECK ? spend(p, m, handle, n) : 0;
	while (n && !error) {
		uint64_t freed[BULK_MAX];
		uint32_t k = n < BULK_MAX ? n : BULK_MAX;
		for (uint32_t i = 0; i < k; i++)
			freed[i] = handle[i] + SHMPOOL_CHECK * GENERATION_ONE;
		handle += k;
		n -= k;
		if (p->cache_size && qmempool_honour(p, m)) {
			make_room(p, m, k);
			if (push(p, m, freed, k))
				continue;
		}
		give(p, m, freed, k);
		count_up(&m->counters[COUNT_FREE], k);
	}
	return error;
}

int qmempool_free_one(struct qmempool *p, struct member *m, uint64_t handle)
{
	return qmempool_free_slow(p, m, &handle, 1);
}

int qmempool_adopt(struct qmempool *p, struct member *m, uint64_t handle)
{
	struct buffer *b = qmempool_buffer(p, handle_index(handle));
	uint64_t owner = load_relaxed(&b->owner);
	if (buffer_generation(b) != handle_generation(handle))
		return -ESTALE;
	if (owner == m->tag)
		return 0;
	if (owner & OWNER_TRANSIT)
		return -ESTALE;
	if (owner >> 32 || tag_number(owner) >= p->segment.members)
		return -EPERM;
	struct member *from = segment_member(&p->segment, tag_number(owner));
	if (load_acquire(&from->identity) != load_relaxed(&m->identity)) /* [MEMBER] */
		return -EPERM;
	store_relaxed(&b->owner, m->tag);
	count_up(&m->counters[COUNT_ADOPT], 1);
	add_seq_cst(&from->adopted, 1);
	/* The last buffer of a thread that has ended: its slot is free. seq_cst with the same two steps
	 * in reverse in member_end(), so that one of the two sees the other; the swap picks one. */
	uint32_t ended = 1;
	if (load_seq_cst(&from->ended) && member_held(from) == 0 &&
	    cas_seq_cst(&from->ended, &ended, 2))
		member_release(&p->segment, from);
	return 0;
}

void qmempool_drain(struct qmempool *p, struct member *m)
{
	uint64_t old[BULK_MAX];
	for (int tries = DRAIN_TRIES; tries && member_cached(&p->segment, m); tries--) {
		uint32_t n;
		if (!qmempool_honour(p, m))
			sched_yield(); /* a thief is at it */
		while ((n = unkeep(p, m, old, p->bulk)))
			qmempool_give(p, m, old, n);
	}
}

int qmempool_alloc_wait(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t n,
			int64_t deadline_ns)
{
	int error = qmempool_alloc_bulk(p, m, handle, n);
	int64_t most = WAIT_SHORT_NS;
	for (int polls = 0; error == -EAGAIN && n <= p->capacity; polls++) {
		int slept = 0;
		if (deadline_ns == WAIT_NEVER)
			break;
		if (load_relaxed(&p->closing))
			return -ESHUTDOWN;
		if (polls < WAIT_POLLS) {
			sched_yield();
			error = qmempool_alloc_bulk(p, m, handle, n);
			continue;
		}
		uint32_t *word = &shared(p)->free_wait, entered = wait_enter(word);
		qmempool_request(p);
		error = qmempool_alloc_bulk(p, m, handle, n);
		if (error == -EAGAIN) {
			count_up(&m->counters[COUNT_SLEEP], 1);
			slept = wait_sleep(word, entered, most, deadline_ns);
			/* Who was in the middle of a free did not see the request: soon, and then less
			 * and less soon, it is looked for in its cache. A whole slice ends like this by
			 * a wake-up only. */
			most = most == WAIT_SLICE_NS    ? WAIT_SHORT_NS :
			       most < WAIT_SLICE_NS / 8 ? 8 * most :
							  WAIT_SLICE_NS;
		}
		wait_leave(word, entered);
		recover_idle(p, m);
		if (slept == -ETIMEDOUT)
			return qmempool_alloc_bulk(p, m, handle, n);
		if (slept)
			return slept;
	}
	return error;
}
