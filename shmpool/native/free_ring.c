/* SPDX-License-Identifier: Apache-2.0
 *
 * free_ring.c - see free_ring.h.
 */
#include "free_ring.h"

#include <sched.h>
#include <string.h>

#include "wait.h"

#define PUT_TRIES 16

/* Wakes members for which n more buffers are enough. */
__attribute__((noinline, cold)) static void wake_free(struct qmempool *p, uint32_t n)
{
	struct pool_shared *s = pool_shared(p);
	wait_wake_ones(&s->free_wait, &s->free_many, n);
	if (load_seq_cst(&s->free_want)) /* [WAIT] */
		wait_wake_wanted(&s->free_many, &s->free_want, pool_free_seen(p));
}

/* The free ring has a slot for every buffer, so only tombstones can make it full. Moves buffers
 * from its head to its end until a tombstone has been passed. */
__attribute__((noinline, cold)) static void
put_full(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n, uint64_t *rounds)
{
	do {
		uint64_t moved[BULK_MAX];
		int k = *rounds ? transfer_free(p, m, moved, BULK_MAX, NULL) : 0;
		if (k <= 0) { /* or a member is suspended at its head */
			pool_abandon(p, handle, n, 0);
			return;
		}
		--*rounds;
		for (int tries = PUT_TRIES;
		     transfer_in(p, m, &p->free, moved, (uint32_t)k, ALF_MULTI);)
			if (--tries) {
				sched_yield();
			} else {
				pool_abandon(p, moved, (uint32_t)k, 0);
				break;
			}
	} while (transfer_in(p, m, &p->free, handle, n, ALF_MULTI));
}

static void put_bulk(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n,
		     uint64_t *rounds, bool cold)
{
	const uint32_t side = unlikely(side_has(p)) && !cold ? side_put(p, m, handle, n) : 0;
	if (likely(n > side) && unlikely(transfer_in(p, m, &p->free, handle, n - side, ALF_MULTI)))
		put_full(p, m, handle, n - side, rounds);
	if (unlikely(wait_anybody(&pool_shared(p)->free_wait))) /* [WAIT] after prod moved */
		wake_free(p, n);
}

static ALWAYS_INLINE void put(struct qmempool *p, struct member *m, const uint64_t *handle,
			      uint32_t n, uint64_t *rounds, bool cold)
{
	const uint32_t capacity = p->capacity;
	uint32_t k = 0;
#pragma GCC unroll 4
	for (; k < n; k++)
		if (unlikely(handle_index(handle[k]) >= capacity))
			break;
	if (likely(k == n && n <= BULK_MAX)) {
		if (n)
			put_bulk(p, m, handle, n, rounds, cold);
		return;
	}
	for (uint32_t i = 0; i < n; i += BULK_MAX) {
		uint64_t good[BULK_MAX];
		k = n - i < BULK_MAX ? n - i : BULK_MAX;
		memcpy(good, handle + i, k * sizeof(*good));
		k = pool_filter(p, good, k);
		if (k)
			put_bulk(p, m, good, k, rounds, cold);
	}
}

void free_ring_put_rounds(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n,
			  uint64_t *rounds)
{
	put(p, m, handle, n, rounds, false);
}

void free_ring_put(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n)
{
	uint64_t rounds = FREE_RING_ROUNDS;
	put(p, m, handle, n, &rounds, false);
}

void free_ring_put_cold(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n)
{
	uint64_t rounds = FREE_RING_ROUNDS;
	put(p, m, handle, n, &rounds, true);
}

void free_ring_wake(struct qmempool *p)
{
	struct pool_shared *s = pool_shared(p);
	if (!wait_anybody(&s->free_wait)) /* [WAIT] */
		return;
	wait_wake(&s->free_wait, UINT32_MAX);
	wait_wake(&s->free_many, UINT32_MAX);
}
