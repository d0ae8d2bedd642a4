/* SPDX-License-Identifier: Apache-2.0
 *
 * recovery.c - see recovery.h.
 */
#include "recovery.h"

#include <stdlib.h>
#include <string.h>

#include "member.h"
#include "queue.h"
#include "topic.h"

int recovery_begin(struct recovery *r)
{
	const struct segment *s = &r->p->segment;
	const uint32_t members = s->members, slots = segment_ring_count(s);
	const size_t ops = (size_t)members * segment_classes(s);
	memset(r->out, 0, sizeof(*r->out));
	r->dead = calloc(members, sizeof(*r->dead));
	r->dead_at = calloc(members, sizeof(*r->dead_at));
	r->live.interval = calloc(2 * ops, sizeof(*r->live.interval));
	r->base = calloc(slots, sizeof(*r->base));
	r->range = calloc(ops + slots, sizeof(*r->range));
	r->cons = calloc(slots, sizeof(*r->cons));
	r->consumer = calloc(slots, sizeof(*r->consumer));
	r->gone = calloc(slots, sizeof(*r->gone));
	bool all = r->dead && r->dead_at && r->live.interval && r->range && r->base && r->cons &&
		   r->consumer && r->gone;
	return all ? 0 : -ENOMEM;
}

void recovery_end(struct recovery *r)
{
	free(r->dead);
	free(r->dead_at);
	free(r->live.interval);
	free(r->base);
	free(r->range);
	free(r->cons);
	free(r->consumer);
	free(r->gone);
}

void recovery_read_ops(struct recovery *r)
{
	const struct segment *s = &r->p->segment;
	cover_clear(&r->live);
	for (uint32_t i = 0; i < s->members; i++) {
		const struct member *m = segment_member(s, i);
		uint64_t op[CLASSES_MAX];
		bool any = false;
		for (uint32_t k = 0; k < segment_classes(s); k++)
			any |= (op[k] = load_acquire(&segment_block(s, m, k)->op)) != 0; /* [OP] */
		uint64_t identity = load_acquire(&m->identity); /* [MEMBER] */
		/* A member that died since this run began counts as live: this run does not know
		 * what it left. So does the next member of a dead one's slot. A slot that is being
		 * cleared has no operation. */
		if (!any || (r->dead_at[i] && r->dead[r->dead_at[i] - 1].identity == identity) ||
		    member_clearing(identity))
			continue;
		for (uint32_t k = 0; k < segment_classes(s); k++)
			if (op[k])
				cover_add(&r->live, op[k]);
	}
	cover_sort(&r->live);
}

const struct alf_ring *recovery_ring(struct recovery *r, uint32_t queue)
{
	const struct alf_ring *ring = pool_free_ring(r->p, queue);
	if (ring)
		return ring;
	ring = queue_ring(r->p, queue);
	if (!ring && queue_exists(r->p, queue)) {
		ring = queue_ring(r->p, queue); /* created since the first try */
		r->no_memory |= !ring;
	}
	return ring;
}
