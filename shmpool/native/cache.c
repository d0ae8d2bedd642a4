/* SPDX-License-Identifier: Apache-2.0
 *
 * cache.c - see cache.h: flushes, drains and steals from local caches.
 */
#include "cache.h"

#include <sched.h>

#include "process.h"
#include "wait.h"

#define VICTIMS_MAX 64 /* caches locked for one membarrier(2), which costs microseconds */

#define LOCK_TRIES 64 /* compare-and-swaps lost to other thieves */

#define DRAIN_TRIES 1024 /* while a thief has the cache locked */

/* True if an entry of m's cache is one of m's buffers. An entry is stale if a thief died after it
 * had taken the buffer; the buffer may be m's again then, but with a later generation. */
static bool entry_valid(const struct qmempool *p, const struct member *m, uint64_t handle,
			uint64_t *out)
{
	*out = handle;
	if (handle_index(handle) >= p->capacity)
		return false; /* corrupted */
	const struct buffer *b = pool_buffer(p, handle_index(handle));
	return load_acquire(&b->owner) == m->tag && /* [OWNER] */
	       load_relaxed(&b->handle) == handle;
}

/* Moves all valid entries of m's cache to the free ring. Returns the new bottom. */
static cache_position flush(struct qmempool *p, struct member *m)
{
	uint32_t len = cache_length(&p->segment, m);
	cache_position top = load_relaxed(&m->cache_top), at = (cache_position)(top - len);
	while (at != top) {
		uint64_t some[BULK_MAX];
		uint32_t k = 0;
		for (; k < BULK_MAX && at != top; at++)
			if (entry_valid(p, m, m->cache[at & p->cache_mask], &some[k]))
				k++;
		free_ring_put(p, m, some, k);
	}
	if (len)
		count_up(&m->counters[COUNT_FLUSH], 1);
	return top;
}

bool cache_flush_if_asked(struct qmempool *p, struct member *m)
{
	uint64_t seen = load_acquire(&m->cache_bottom); /* [CACHE] */
	if (cache_holder(seen) != CACHE_FLUSH_REQUESTED ||
	    !cas_seq_cst(&m->cache_bottom, &seen,
			 cache_locked_by(m->tag, seen))) /* [CACHE] locked by its owner */
		return !cache_holder(seen);
	uint64_t bottom = flush(p, m);
	bool asked = wait_anybody(&pool_shared(p)->free_wait);
	store_release(&m->cache_bottom, asked ? cache_locked_by(CACHE_FLUSH_REQUESTED, bottom) :
						bottom); /* [CACHE] */
	return !asked;
}

bool cache_make_room(struct qmempool *p, struct member *m, uint32_t n)
{
	bool moved = false;
	if (n > p->cache_size)
		return false;
	for (uint64_t i = p->cache_size; i && cache_length(&p->segment, m) > p->cache_size - n;
	     i--) {
		uint64_t old[BULK_MAX];
		uint32_t out = cache_take(p, m, old, p->bulk);
		if (!out)
			return false;
		free_ring_put(p, m, old, out);
		count_up(&m->counters[COUNT_FLUSH], 1);
		moved = true;
	}
	return moved;
}

void cache_drain(struct qmempool *p, struct member *m)
{
	uint64_t old[BULK_MAX];
	for (int tries = DRAIN_TRIES; tries && cache_length(&p->segment, m); tries--) {
		uint32_t n;
		if (!cache_flush_if_asked(p, m))
			sched_yield(); /* a thief is at it */
		for (uint64_t i = p->cache_size; i && (n = cache_take(p, m, old, p->bulk)); i--)
			free_ring_put(p, m, old, n);
	}
}

/* Takes up to max buffers from victim's cache, which the caller has locked, and unlocks it. A
 * request that stood there before stays: others wait for the buffers that are freed next. */
static uint32_t steal_from(struct qmempool *p, struct member *m, struct member *victim,
			   uint64_t *handle, uint32_t max, uint32_t before)
{
	cache_position top = load_acquire(&victim->cache_top); /* [CACHE] */
	uint64_t word = load_relaxed(&victim->cache_bottom);
	cache_position bottom = cache_bottom_at(word, top);
	int64_t len = cache_between(word, top);
	uint32_t got = 0;
	/* len is negative while the owner undoes a pop of more than there were. */
	for (; len > 0 && len <= (int64_t)p->cache_size && got < max; len--, bottom++) {
		uint64_t h = victim->cache[bottom & p->cache_mask], was = victim->tag;
		/* The owner word first: if the thief dies here, the entry is stale (entry_valid).
		 * By compare-and-swap: if the victim is dead, another member may be recovering it
		 * at the same time. */
		if (entry_valid(p, victim, h, &h) &&
		    cas_seq_cst(&pool_buffer(p, handle_index(h))->owner, &was,
				m->tag)) /* [OWNER] */
			handle[got++] = h;
	}
	store_release(&victim->cache_bottom,
		      before ? cache_locked_by(before, bottom) : bottom); /* [CACHE] */
	return got;
}

/* Locks v's cache for who. Succeeds if it is unlocked or held by other; stores the previous holder
 * in *before. */
static bool lock(struct member *v, uint32_t who, uint32_t other, uint32_t *before)
{
	uint64_t seen = load_relaxed(&v->cache_bottom);
	for (int i = 0; i < LOCK_TRIES; i++) {
		*before = cache_holder(seen);
		if (*before && *before != other)
			return false;
		if (cas_seq_cst(&v->cache_bottom, &seen, cache_locked_by(who, seen))) /* [CACHE] */
			return true;
	}
	return false;
}

uint32_t cache_steal(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t max)
{
	struct member *victim[VICTIMS_MAX];
	uint32_t before[VICTIMS_MAX], held = 0, got = 0;
	for (uint32_t i = 0; i < p->segment.members && held < VICTIMS_MAX; i++) {
		struct member *v = segment_member(&p->segment, i);
		if (v == m || !cache_length(&p->segment, v))
			continue;
		/* A slot without a member may have entries too: cache_drain(). */
		if (load_acquire(&v->identity) &&
		    !load_acquire(&v->barrier)) /* [MEMBER] [BARRIER] */
			lock(v, CACHE_FLUSH_REQUESTED, 0, &before[held]);
		else if (lock(v, m->tag, CACHE_FLUSH_REQUESTED, &before[held]))
			victim[held++] = v;
	}
	bool open = held && process_barrier(); /* [CACHE] */
	for (uint32_t i = 0; i < held; i++) {
		shared64 *bottom = &victim[i]->cache_bottom;
		if (!open) {
			store_release(bottom, cache_locked_by(CACHE_FLUSH_REQUESTED,
							      load_relaxed(bottom))); /* [CACHE] */
			continue;
		}
		uint32_t k = steal_from(p, m, victim[i], handle + got, max - got, before[i]);
		got += k;
		if (k)
			count_up(&m->counters[COUNT_STEAL], 1);
	}
	return got;
}

void cache_request_flush(struct qmempool *p)
{
	for (uint32_t i = 0; i < p->segment.members; i++) {
		struct member *v = segment_member(&p->segment, i);
		uint32_t before;
		if (load_acquire(&v->identity)) /* [MEMBER] */
			lock(v, CACHE_FLUSH_REQUESTED, 0, &before);
	}
	process_barrier(); /* [CACHE] an owner that begins to push from now on sees the request */
}
