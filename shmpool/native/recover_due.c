/* SPDX-License-Identifier: Apache-2.0
 *
 * recover_due.c - see recover.h: when a member that is stuck, or has slept for a slice, asks who is
 * dead. One asks for the whole pool, and the longer nothing comes of it, the longer the pool rests.
 * A member that finds a role taken asks about its holder at once.
 */
#include "liveness.h"
#include "recover.h"
#include "wait.h"

#define REST_FIRST_NS 10000000ull
#define REST_MOST_NS 1000000000ull
#define REST_TIMES 16ull /* the processor time of an inquiry that found nothing */

/* pool_shared.inquired: | not before, CLOCK_REALTIME ns | inquiries in a row that found nothing, 3
 * bits |. Any value is safe: a time that is further ahead than the longest pause was written before
 * the clock was set back, and is ignored. */
#define FRUITLESS 7u
#define FRUITLESS_MOST 3u

static uint64_t inquire_after(uint64_t wall, uint64_t rest, uint64_t fruitless)
{
	return ((wall + rest) & ~(uint64_t)FRUITLESS) | fruitless;
}

bool recover_role(struct qmempool *p, struct member *m, const struct alf_ring *r)
{
	const uint64_t own = member_token(load_relaxed(&m->identity));
	struct shmpool_recovery out;
	return (liveness_tag_dead(&p->segment, load_acquire(&r->q->producer), own) ||  /* [ROLE] */
		liveness_tag_dead(&p->segment, load_acquire(&r->q->consumer), own)) && /* [ROLE] */
	       !recover_passes(p, m, &out, 1);
}

bool recover_if_due(struct qmempool *p, struct member *m)
{
	struct shmpool_recovery out;
	uint64_t *word = &pool_shared(p)->inquired, seen = load_relaxed(word);
	uint64_t wall = (uint64_t)wait_wall(), claimed;
	if ((seen & ~(uint64_t)FRUITLESS) - wall - 1 < REST_MOST_NS)
		return false;
	claimed = inquire_after(wall, REST_FIRST_NS, seen & FRUITLESS);
	if (!cas_seq_cst(word, &seen, claimed)) /* elects the member that asks: pairs with itself */
		return false;
	int64_t began = wait_spent();
	bool unasked;
	int error = recover_asking(p, m, &out, 1, &unasked);
	bool found = !error && (out.members || out.buffers);
	uint64_t took = (uint64_t)(wait_spent() - began), fruitless = seen & FRUITLESS;
	if (found || error || unasked)
		fruitless = 0; /* if this one could not ask, another one soon does */
	else if (fruitless < FRUITLESS_MOST)
		fruitless++;
	uint64_t rest = REST_FIRST_NS << fruitless;
	if (!found && rest < REST_TIMES * took)
		rest = REST_TIMES * took;
	if (rest > REST_MOST_NS)
		rest = REST_MOST_NS;
	/* Pairs with itself. */
	cas_seq_cst(word, &claimed, inquire_after((uint64_t)wait_wall(), rest, fruitless));
	return found;
}
