/* SPDX-License-Identifier: Apache-2.0
 *
 * member.c - see member.h.
 */
#define _GNU_SOURCE
#include "member.h"

#include <sys/syscall.h>
#include <unistd.h>

#include "wait.h"

int member_attach(const struct segment *s, uint32_t opening, struct member **out)
{
	struct process self = process_self();
	uint64_t identity = member_identity(self.pid, self.start);
	bool barrier = process_barrier_register();
	for (uint32_t i = 0; i < s->geometry.members; i++) {
		struct member *m = segment_member(s, i);
		uint64_t seen = 0;
		if (load_relaxed(&m->identity) != 0 ||
		    !cas_seq_cst(&m->identity, &seen, identity)) /* [MEMBER] */
			continue;
		store_relaxed(&m->pid_namespace, self.pid_namespace);
		store_relaxed(&m->attached_ns, (uint64_t)wait_now());
		store_relaxed(&m->tid, (uint32_t)syscall(SYS_gettid));
		store_relaxed(&m->number, i);
		store_relaxed(&m->opening, opening);
		/* Last: until then nobody touches the cache from outside. Pairs with qmempool_steal. */
		store_release(&m->barrier, barrier);
		*out = m;
		return 0;
	}
	return -EUSERS;
}

static void give_up_roles(const struct segment *s, const struct member *m)
{
	for (uint32_t i = 1; i <= s->geometry.queues; i++) {
		struct alf_queue *q = &segment_queue(s, i)->queue;
		uint32_t me = m->number + 1;
		if (load_relaxed(&q->producer) == me)
			store_release(&q->producer, 0); /* pairs with take_role() in queue.c */
		if (load_relaxed(&q->consumer) == me)
			store_release(&q->consumer, 0);
	}
}

void member_release(const struct segment *s, struct member *m)
{
	give_up_roles(s, m);
	store_relaxed(&m->barrier, 0);
	for (int i = 0; i < COUNTERS; i++) {
		/* The cache's positions go on: a thief may still be about to store one. */
		add_relaxed(&segment_shared(s)->retired[i], member_count(m, i));
		store_relaxed(&m->counters[i], load_relaxed(&m->counters[i]) - member_count(m, i));
	}
	store_relaxed(&m->adopted, 0);
	store_relaxed(&m->ended, 0);
	store_relaxed(&m->op, 0);
	/* A request for what is in the cache is void: there is nothing in it. A thief that still looks
	 * (thief holds its number) finds nothing and lets go by itself. */
	uint32_t seen = CACHE_REQUESTED;
	cas_seq_cst(&m->thief, &seen, 0);
	store_release(&m->identity, 0); /* [MEMBER] */
}
