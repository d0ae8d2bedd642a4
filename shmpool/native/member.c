/* SPDX-License-Identifier: Apache-2.0
 *
 * member.c - see member.h.
 */
#define _GNU_SOURCE
#include "member.h"

#include <sys/syscall.h>
#include <unistd.h>

#include "wait.h"

/* What this process left in the pool under another program, before it called exec: dead. */
static void bury_former_self(const struct segment *s, const struct process *self)
{
	uint64_t identity = member_identity(self->pid, self->start);
	for (uint32_t i = 0; i < s->members; i++) {
		struct member *m = segment_member(s, i);
		uint64_t seen = load_acquire(&m->identity); /* [MEMBER] */
		uint32_t image = load_acquire(&m->image);   /* pairs with member_attach() */
		if (member_same_process(seen, identity) && image && image != self->image)
			cas_seq_cst(&m->identity, &seen, seen ^ MEMBER_STATE_MASK); /* [MEMBER] */
	}
}

int member_attach(const struct segment *s, uint32_t opening, bool spare, struct member **out)
{
	struct process self = process_self();
	bool barrier = process_barrier_register();
	uint32_t first = spare ? (uint32_t)s->geometry.members : 0;
	uint32_t end = spare ? s->members : (uint32_t)s->geometry.members;
	bury_former_self(s, &self);
	if (self.namespaces != load_relaxed(&segment_shared(s)->namespaces))
		store_seq_cst(&segment_shared(s)->foreign, 1); /* before the identity: recover.c */
	for (uint32_t i = first; i < end; i++) {
		struct member *m = segment_member(s, i);
		uint64_t seen = 0, epoch = load_relaxed(&m->tag) >> TAG_NUMBER_BITS;
		uint64_t identity = member_identity(self.pid, self.start) |
				    (epoch << MEMBER_EPOCH_SHIFT & MEMBER_EPOCH_MASK);
		if (load_relaxed(&m->identity) != 0 ||
		    !cas_seq_cst(&m->identity, &seen, identity)) /* [MEMBER] */
			continue;
		if (!member_epoch_is(identity, load_relaxed(&m->tag))) {
			store_release(&m->identity, 0); /* [MEMBER] another life came in between */
			i--;
			continue;
		}
		store_relaxed(&m->namespaces, self.namespaces);
		store_relaxed(&m->attached_ns, (uint64_t)wait_now());
		store_relaxed(&m->tid, (uint32_t)syscall(SYS_gettid));
		store_relaxed(&m->opening, opening);
		store_release(&m->image, self.image); /* pairs with bury_former_self() */
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
		uint32_t producer = m->tag, consumer = m->tag;
		if (load_relaxed(&q->producer) == producer)
			cas_seq_cst(&q->producer, &producer,
				    0); /* pairs with take_role() in queue.c */
		if (load_relaxed(&q->consumer) == consumer)
			cas_seq_cst(&q->consumer, &consumer, 0);
	}
}

/* Once for each life, however often it is begun: the count first, and then the tag after it. */
static void raise_epoch(struct member *m, uint64_t dead)
{
	uint64_t deaths = load_relaxed(&m->deaths);
	uint32_t tag = load_relaxed(&m->tag);
	if (!member_epoch_is(dead, tag))
		return;
	if (((uint32_t)deaths ^ tag >> TAG_NUMBER_BITS) << TAG_NUMBER_BITS == 0)
		store_relaxed(&m->deaths, ++deaths);
	store_release(&m->tag, (uint32_t)deaths << TAG_NUMBER_BITS | (tag & TAG_NUMBER_MASK));
}

void member_release(const struct segment *s, struct member *m)
{
	uint64_t dead = load_relaxed(&m->identity);
	give_up_roles(s, m);
	store_relaxed(&m->barrier, 0);
	store_relaxed(&m->image, 0);
	store_relaxed(&m->namespaces, 0);
	for (int i = 0; i < COUNTERS; i++)
		store_relaxed(&m->base[i], member_count(m, i));
	store_relaxed(&m->adopted, 0);
	store_relaxed(&m->ended, 0);
	store_relaxed(&m->op, 0);
	if (member_dead(dead)) {
		raise_epoch(m, dead);
	} else {
		/* A request for what is in the cache is void: there is nothing in it. A thief that
		 * still looks (cache_bottom holds its tag) finds nothing and lets go by itself. */
		uint64_t seen = load_relaxed(&m->cache_bottom);
		if (cache_thief(seen) == CACHE_REQUESTED)
			cas_seq_cst(&m->cache_bottom, &seen,
				    (uint64_t)cache_bottom_at(seen, load_relaxed(&m->cache_top)));
	}
	store_release(&m->identity, 0); /* [MEMBER] */
}
