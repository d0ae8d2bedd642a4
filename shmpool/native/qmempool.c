/* SPDX-License-Identifier: Apache-2.0
 *
 * qmempool.c - see qmempool.h: allocation and free where the cache is not enough; members that end.
 */
#include "qmempool.h"

#include <string.h>

#include "bypass.h"
#include "chain.h"
#include "member.h"

#define CLAIM_MAX 4096u /* buffers of one claim: an op record counts them */
_Static_assert(CLAIM_MAX <= ALF_BULK_MAX && BULK_MAX <= ALF_OP_COUNT_MAX, "alf_queue.h");

/* Grows the slab by an extent. Stores up to max of its buffers in handle, and puts the rest into
 * the free ring. Returns how many it stored, or -errno of slab_grow(). */
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
		uint64_t h = handle_of(first + k, buffer_generation(pool_buffer(p, first + k)));
		if (k < mine) {
			handle[k] = h;
			continue;
		}
		rest[filled++] = h;
		if (filled == BULK_MAX || k + 1 == (uint32_t)n) {
			free_ring_put(p, m, rest, filled);
			filled = 0;
		}
	}
	return (int)mine;
}

int qmempool_obtain(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t max)
{
	if (max > CLAIM_MAX)
		max = CLAIM_MAX;
	int got = free_ring_take(p, m, handle, max);
	if (got)
		return got;
	int grown = grow(p, m, handle, max);
	if (grown > 0)
		return grown;
	got = (int)cache_steal(p, m, handle, max);
	if (!got)
		got = free_ring_take(p, m, handle, max); /* freed since the first try */
	return got ? got : grown;
}

/* qmempool_obtain(), and bypass_take() with up to looks headers. */
static int obtain_hard(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t max,
		       uint32_t looks)
{
	int got = qmempool_obtain(p, m, handle, max);
	if (got > 0 || !looks || !bypass_needed(p))
		return got;
	int behind = (int)bypass_take(p, m, handle, max > CLAIM_MAX ? CLAIM_MAX : max, looks);
	return behind ? behind : got;
}

int qmempool_alloc_hard(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t n,
			uint32_t looks)
{
	uint32_t have = 0;
	int got = 0;
	if (n > p->segment.geometry.capacity)
		return -EAGAIN;
	if (cache_flush_if_asked(p, m))
		have = cache_take(p, m, handle, n);
	/* An allocation of many takes none while there are too few: others may want only a few. It
	 * makes an extent all the same, so that a lack of memory is reported. */
	if (n > 1 && have < n && !free_ring_ready(p, m, n - have) &&
	    have + qmempool_count(p, n - have) < n) {
		got = grow(p, m, handle, 0);
		goto exhausted;
	}
	while (have < n) {
		if (n - have >= p->bulk) {
			got = obtain_hard(p, m, handle + have, n - have, looks);
			if (got <= 0)
				break;
			have += (uint32_t)got;
			continue;
		}
		uint64_t more[BULK_MAX];
		got = obtain_hard(p, m, more, p->cache_size ? p->bulk : n - have, looks);
		if (got <= 0)
			break;
		count_up(&m->counters[COUNT_REFILL], 1);
		uint32_t use = n - have < (uint32_t)got ? n - have : (uint32_t)got;
		memcpy(handle + have, more, use * sizeof(*handle));
		have += use;
		cache_put(p, m, more + use, (uint32_t)got - use);
	}
	if (likely(have == n)) {
		count_up(&m->counters[COUNT_ALLOC], n);
		return 0;
	}
exhausted:
	cache_put(p, m, handle, have);
	count_up(&m->counters[COUNT_EXHAUSTED], 1);
	return got < 0 ? got : -EAGAIN;
}

int qmempool_alloc_slow(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t n)
{
	return qmempool_alloc_hard(p, m, handle, n, 0);
}

int qmempool_refill(struct qmempool *p, struct member *m, uint64_t *handle)
{
	uint64_t more[BULK_MAX];
	*handle = 0;
	if (!cache_flush_if_asked(p, m) || !cache_take(p, m, handle, 1)) {
		int got = free_ring_take(p, m, more, p->cache_size ? p->bulk : 1);
		if (got <= 0)
			return got ? got : -EAGAIN;
		count_up(&m->counters[COUNT_REFILL], 1);
		*handle = more[0];
		cache_put(p, m, more + 1, (uint32_t)got - 1);
	}
	count_up(&m->counters[COUNT_ALLOC], 1);
	return 0;
}

/* Frees the segments of the chain that a buffer of m heads, and makes it a single buffer, which
 * goes back to no queue if m dies: chain.h. */
static void free_chain(struct qmempool *p, struct member *m, uint64_t head)
{
	struct buffer *b = pool_buffer(p, handle_index(head));
	uint32_t at = handle_index(head), next = chain_next(p, head, at), k = 0;
	uint64_t some[BULK_MAX];
	/* No generation of this allocation: the chain is used up and goes back to no queue. */
	store_release(&b->got, handle_generation(head) - 1); /* [CHAIN] before the first segment */
	for (uint32_t n = 0; next != at && n < p->total; n++) {
		struct buffer *segment = pool_buffer(p, next);
		if (k == BULK_MAX) {
			qmempool_free_bulk(p, m, some, k);
			k = 0;
		}
		at = next;
		next = chain_next(p, head, at);
		some[k++] = handle_of(at, buffer_generation(segment));
		/* If the segment is corrupted and heads a chain too, free no further ones for it: a
		 * chain of chains has no end. */
		store_relaxed(&segment->handle, some[k - 1]);
		store_release(&segment->owner, m->tag); /* [OWNER] [CHAIN] */
		count_up(&m->counters[COUNT_CHAINED], -1ull);
	}
	qmempool_free_bulk(p, m, some, k);
	store_relaxed(&b->link, 0);
	store_release(&b->handle, head); /* [CHAIN] after the last segment */
}

/* Frees the segments of all chains that n buffers of m head. Returns 0, or an error of
 * qmempool_mark() and frees none. */
static int free_segments(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n)
{
	int error = qmempool_mark(p, m, handle, n);
	if (error)
		return error;
	qmempool_unmark(p, m, handle, n);
	for (uint32_t i = 0; i < n; i++)
		if (buffer_heads(pool_buffer(p, handle_index(handle[i]))))
			free_chain(p, m, handle[i]);
	return 0;
}

/* Raises the generations of n buffers of m, the last one's first, as cache_free() does; before that
 * the segments of those that head a chain are freed. Returns 0, or an error of qmempool_check() and
 * raises none. */
static int raise_generations(struct qmempool *p, struct member *m, const uint64_t *handle,
			     uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		const uint32_t index = handle_index(handle[i]);
		if (unlikely(index < p->total && buffer_heads(pool_buffer(p, index)))) {
			int error = free_segments(p, m, handle, n);
			if (error)
				return error;
			break;
		}
	}
	for (uint32_t i = n; i-- > 0;) {
		int error = qmempool_check(p, m, handle[i]);
		if (error) {
			pool_unfree(p, handle + i + 1, n - i - 1);
			return error;
		}
		store_relaxed(&pool_buffer(p, handle_index(handle[i]))->handle,
			      handle[i] + GENERATION_ONE);
	}
	return 0;
}

/* Frees n buffers of m, whose generations are raised already, into the class of p. */
static void free_raised(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n)
{
	while (n) {
		uint64_t freed[BULK_MAX];
		uint32_t k = n < BULK_MAX ? n : BULK_MAX;
		for (uint32_t i = 0; i < k; i++)
			freed[i] = handle[i] + GENERATION_ONE;
		handle += k;
		n -= k;
		if (p->cache_size && cache_flush_if_asked(p, m)) {
			cache_make_room(p, m, k);
			if (cache_push(p, m, freed, k))
				continue;
		}
		free_ring_put(p, m, freed, k);
		count_up(&m->counters[COUNT_FREE], k);
	}
}

/* Frees n buffers of several classes, or of another class than class 0. */
static int free_by_class(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n)
{
	int error = raise_generations(p, m, handle, n);
	for (uint32_t i = 0, end; i < n && !error; i = end) {
		struct qmempool *of = pool_of(p, handle_index(handle[i]));
		for (end = i + 1; end < n && pool_of(p, handle_index(handle[end])) == of;)
			end++;
		free_raised(of, pool_block(of, m), handle + i, end - i);
	}
	return error;
}

int qmempool_free_slow(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n)
{
	for (uint32_t i = 0; p->more && i < n; i++)
		if (handle_index(handle[i]) >= p->capacity)
			return free_by_class(p, m, handle, n);
	if (cache_make_room(p, m, n) && cache_free(p, m, handle, n))
		return 0;
	int error = raise_generations(p, m, handle, n);
	if (!error)
		free_raised(p, m, handle, n);
	return error;
}

int qmempool_free_one(struct qmempool *p, struct member *m, uint64_t handle)
{
	const uint32_t index = handle_index(handle);
	if (index >= p->capacity && index < p->total) { /* of another class */
		struct qmempool *of = pool_of(p, index);
		if (likely(cache_free_one(of, pool_block(of, m), handle)))
			return 0;
	}
	return qmempool_free_slow(p, m, &handle, 1);
}

#define ENDED_TRIES 64

/* Frees the slot of a thread that has ended once its last buffer is gone. */
static void release_ended(const struct qmempool *p, struct member *from)
{
	for (int i = 0; i < ENDED_TRIES; i++) {
		uint32_t ended = 1;
		if (load_seq_cst(&from->ended) != 1 ||
		    member_held(&p->segment, from) ||      /* [ENDED] */
		    !cas_seq_cst(&from->ended, &ended, 2)) /* [ENDED] */
			return;
		if (member_held(&p->segment, from) == 0) {
			member_release(&p->segment, from);
			return;
		}
		/* The slot was freed after the first check, and its next member has ended since
		 * and still owns buffers. */
		store_seq_cst(&from->ended, 1); /* [ENDED] */
	}
}

int qmempool_adopt(struct qmempool *p, struct member *m, uint64_t handle)
{
	struct buffer *b = pool_buffer(p, handle_index(handle));
	uint64_t owner = load_relaxed(&b->owner);
	if (buffer_generation(b) != handle_generation(handle))
		return -ESTALE;
	if (owner == m->tag)
		return 0;
	if (owner & OWNER_TRANSIT)
		return -ESTALE;
	if (owner >> 32 || tag_number(owner) >= p->segment.members)
		return -EPERM;
	const struct segment *s = &p->segment;
	struct member *from = segment_holder(s, segment_member(s, tag_number(owner)));
	if (load_acquire(&from->identity) != /* [MEMBER] */
	    load_relaxed(&segment_holder(s, m)->identity))
		return -EPERM;
	store_relaxed(&b->owner, m->tag);
	count_up(&m->counters[COUNT_ADOPT], 1);
	add_seq_cst(&from->adopted, 1); /* [ENDED] */
	release_ended(p, from);
	return 0;
}

void qmempool_drain(struct qmempool *p, struct member *m)
{
	for (uint32_t i = 0; i < segment_classes(&p->segment); i++)
		cache_drain(pool_class(p, i), segment_block(&p->segment, m, i));
}

void qmempool_end(struct qmempool *p, struct member *m)
{
	uint32_t ended = 1;
	member_release_roles(&p->segment, m);
	qmempool_drain(p, m);
	store_seq_cst(&m->ended, 1); /* [ENDED] */
	/* No second check as in release_ended(): the slot cannot have a next member yet. */
	if (member_held(&p->segment, m) == 0 && cas_seq_cst(&m->ended, &ended, 2)) /* [ENDED] */
		member_release(&p->segment, m);
}

uint64_t qmempool_count(struct qmempool *p, uint64_t most)
{
	const struct pool_shared *s = segment_shared(&p->segment);
	uint64_t n = pool_free_count(p) + load_relaxed(&s->abandoned) - load_relaxed(&s->swept);
	if (n >= most)
		return most;
	for (uint32_t i = 0; i < p->segment.members && n < most; i++)
		n += cache_length(&p->segment, segment_member(&p->segment, i));
	return n < most ? n + slab_absent(&p->segment, &p->absent, most - n) : most;
}
