/* SPDX-License-Identifier: Apache-2.0
 *
 * recovery.c - see recovery.h.
 */
#include "recovery.h"

#include <stdlib.h>
#include <string.h>

#include "member.h"
#include "queue.h"

int recovery_begin(struct recovery *r)
{
	uint32_t members = r->p->segment.members,
		 queues = (uint32_t)r->p->segment.geometry.queues + 1;
	memset(r->out, 0, sizeof(*r->out));
	r->dead = calloc(members, sizeof(*r->dead));
	r->dead_at = calloc(members, sizeof(*r->dead_at));
	r->live.interval = calloc(2 * (size_t)members, sizeof(*r->live.interval));
	r->base = calloc(queues, sizeof(*r->base));
	r->range = calloc(members + queues, sizeof(*r->range));
	r->cons = calloc(queues, sizeof(*r->cons));
	r->consumer = calloc(queues, sizeof(*r->consumer));
	bool all = r->dead && r->dead_at && r->live.interval && r->range && r->base && r->cons &&
		   r->consumer;
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
}

void recovery_read_ops(struct recovery *r)
{
	cover_clear(&r->live);
	for (uint32_t i = 0; i < r->p->segment.members; i++) {
		const struct member *m = segment_member(&r->p->segment, i);
		uint64_t op = load_acquire(&m->op);             /* [OP] */
		uint64_t identity = load_acquire(&m->identity); /* [MEMBER] */
		/* A member that died since this run began counts as live: this run does not know
		 * what it left. So does the next member of a dead one's slot. A slot that is being
		 * cleared has no operation. */
		if (op && !(r->dead_at[i] && r->dead[r->dead_at[i] - 1].identity == identity) &&
		    !member_clearing(identity))
			cover_add(&r->live, op);
	}
	cover_sort(&r->live);
}

const struct alf_ring *recovery_ring(struct recovery *r, uint32_t queue)
{
	const struct alf_ring *ring = queue ? queue_ring(r->p, queue) : &r->p->free;
	if (!ring && queue_exists(r->p, queue)) {
		ring = queue_ring(r->p, queue); /* created since the first try */
		r->no_memory |= !ring;
	}
	return ring;
}
