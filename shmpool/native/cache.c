/* SPDX-License-Identifier: Apache-2.0
 *
 * cache.c - see [CACHE] in qmempool.h: local caches emptied from outside, and flushed on request.
 */
#include "member.h"
#include "process.h"
#include "qmempool.h"
#include "wait.h"

#define VICTIMS_MAX 64 /* caches emptied under one membarrier(2), which costs microseconds */

static struct pool_shared *shared(const struct qmempool *p)
{
	return segment_shared(&p->segment);
}

/* Whether an entry of m's cache is one of m's buffers: not so if a thief died after it had taken it. It may be
 * m's again then, but of a later generation (sweep.c). */
static bool entry_good(const struct qmempool *p, const struct member *m, uint64_t handle,
		       uint64_t *out)
{
	*out = handle;
	if (handle_index(handle) >= p->capacity)
		return false; /* somebody scribbled over it */
	const struct buffer *b = qmempool_buffer(p, handle_index(handle));
	return !SHMPOOL_CHECK || (load_acquire(&b->owner) == m->tag && /* [OWNER] */
				  load_relaxed(&b->generation) == handle_generation(handle));
}

/* Moves everything that is in m's cache to the shared queue. */
static void spill(struct qmempool *p, struct member *m)
{
	cache_position bottom = load_relaxed(&m->cache_stolen);
	uint32_t len = member_cached(&p->segment, m);
	for (uint32_t i = 0; i < len;) {
		uint64_t some[BULK_MAX];
		uint32_t k = 0;
		while (k < BULK_MAX && i < len)
			if (entry_good(p, m, m->cache[(bottom + i++) & p->cache_mask], &some[k]))
				k++;
		qmempool_give(p, m, some, k);
	}
	store_release(&m->cache_stolen, bottom + len); /* [CACHE] */
	if (len)
		count_up(&m->counters[COUNT_FLUSH], 1);
}

bool qmempool_honour(struct qmempool *p, struct member *m)
{
	uint32_t seen = CACHE_REQUESTED;
	if (!cas_seq_cst(&m->thief, &seen, m->tag)) /* [CACHE] its own thief for a moment */
		return seen == 0;
	spill(p, m);
	bool asked = wait_anybody(&shared(p)->free_wait);
	store_release(&m->thief, asked ? CACHE_REQUESTED : 0); /* [CACHE] */
	return !asked;
}

/* Takes up to max buffers from victim's cache, which the caller holds as thief. */
static uint32_t rob(struct qmempool *p, struct member *m, struct member *victim, uint64_t *handle,
		    uint32_t max)
{
	cache_position bottom = load_relaxed(&victim->cache_stolen);
	uint32_t len = member_cached(&p->segment, victim), got = 0, passed = 0;
	while (got < max && passed < len) {
		uint64_t h = victim->cache[(bottom + passed) & p->cache_mask], was = victim->tag;
		/* The owner word first: if the thief dies here, what no longer reads as the victim's is
		 * not the victim's, whatever its cache says (entry_good). A swap: if the victim is
		 * dead, somebody may be putting it right at the same time. */
		if (entry_good(p, victim, h, &h) &&
		    cas_seq_cst(&qmempool_buffer(p, handle_index(h))->owner, &was, m->tag))
			handle[got++] = h;
		passed++;
	}
	store_release(&victim->cache_stolen, bottom + passed); /* [CACHE] */
	return got;
}

uint32_t qmempool_steal(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t max)
{
	struct member *victim[VICTIMS_MAX];
	uint32_t before[VICTIMS_MAX], held = 0, got = 0;
	for (uint32_t i = 0; i < p->segment.members && held < VICTIMS_MAX; i++) {
		struct member *v = segment_member(&p->segment, i);
		uint32_t seen = load_relaxed(&v->thief);
		if (v == m || !member_cached(&p->segment, v) ||
		    (seen != 0 && seen != CACHE_REQUESTED))
			continue;
		/* A slot without a member may have a cache too: see qmempool_drain(). */
		if (load_acquire(&v->identity) && !load_acquire(&v->barrier)) { /* [MEMBER] */
			cas_seq_cst(&v->thief, &seen,
				    CACHE_REQUESTED);               /* [CACHE] at its next call */
		} else if (cas_seq_cst(&v->thief, &seen, m->tag)) { /* [CACHE] */
			before[held] =
				seen; /* a request stays: others wait for what is freed next */
			victim[held++] = v;
		}
	}
	bool open = held && process_barrier(); /* [CACHE] */
	for (uint32_t i = 0; i < held; i++) {
		uint32_t k = open ? rob(p, m, victim[i], handle + got, max - got) : 0;
		got += k;
		if (k)
			count_up(&m->counters[COUNT_STEAL], 1);
		store_release(&victim[i]->thief, open ? before[i] : CACHE_REQUESTED); /* [CACHE] */
	}
	return got;
}

void qmempool_request(struct qmempool *p)
{
	for (uint32_t i = 0; i < p->segment.members; i++) {
		struct member *v = segment_member(&p->segment, i);
		uint32_t seen = 0;
		if (load_acquire(&v->identity))                         /* [MEMBER] */
			cas_seq_cst(&v->thief, &seen, CACHE_REQUESTED); /* [CACHE] */
	}
	process_barrier(); /* [CACHE] whoever pushes from now on sees the request */
}
