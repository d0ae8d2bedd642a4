/* SPDX-License-Identifier: Apache-2.0
 *
 * member.c - see member.h.
 */
#define _GNU_SOURCE
#include "member.h"

#include <sys/syscall.h>
#include <unistd.h>

#include "role.h"
#include "wait.h"

/* Fills in the slot, which the calling thread has taken. */
static void introduce(struct member *m)
{
	struct process self = process_self();
	store_relaxed(&m->cleared, 0);
	store_relaxed(&m->attached_ns, (uint64_t)wait_now());
	store_relaxed(&m->pid, self.pid);
	store_relaxed(&m->tid, (uint32_t)syscall(SYS_gettid));
	store_relaxed(&m->start, self.start);
	store_relaxed(&m->pid_namespace, self.pid_namespace);
	/* Last: until then no member steals from the cache. */
	store_release(&m->barrier, process_barrier_register()); /* [BARRIER] */
}

int member_attach(const struct segment *s, uint64_t token, struct member **out)
{
	for (uint32_t i = 0; i < s->members; i++) {
		struct member *m = segment_member(s, i);
		uint64_t seen = 0;
		if (load_relaxed(&m->identity) != 0 ||
		    member_epoch(load_relaxed(&m->tag)) == TAG_EPOCH_MAX ||
		    !cas_seq_cst(&m->identity, &seen, MEMBER_ATTACHED | token)) /* [MEMBER] */
			continue;
		if (member_epoch(load_relaxed(&m->tag)) == TAG_EPOCH_MAX) {
			store_release(&m->identity,
				      0); /* [MEMBER] its last member has died since */
			continue;
		}
		introduce(m);
		*out = m;
		return 0;
	}
	return -EUSERS;
}

void member_release_roles(const struct segment *s, const struct member *m)
{
	for (uint32_t i = 1; i <= s->geometry.queues; i++) {
		struct alf_queue *q = &segment_queue(s, i)->queue;
		role_release(&q->producer, m->tag);
		role_release(&q->consumer, m->tag);
	}
}

/* Resets the words of a slot that belong to one member. */
static void reset(struct member *m)
{
	store_relaxed(&m->barrier, 0);
	for (int i = 0; i < COUNTERS; i++)
		store_relaxed(&m->base[i], member_count(m, i));
	store_relaxed(&m->adopted, 0);
	store_relaxed(&m->ended, 0);
	store_relaxed(&m->op, 0);
}

void member_release(const struct segment *s, struct member *m)
{
	member_release_roles(s, m);
	reset(m);
	/* Withdraws a request to flush: the cache is empty. A thief that has locked the cache finds
	 * nothing in it and unlocks it. */
	uint64_t seen = load_relaxed(&m->cache_bottom);
	if (cache_holder(seen) == CACHE_FLUSH_REQUESTED)
		cas_seq_cst(
			&m->cache_bottom, &seen,
			(uint64_t)cache_bottom_at(seen, load_relaxed(&m->cache_top))); /* [CACHE] */
	store_release(&m->identity, 0); /* [MEMBER] */
}

/* Raises the epoch once for each dead member, however often recovery is repeated: first the count,
 * then the flag that it has been raised, then the tag. */
static void raise_epoch(struct member *m)
{
	uint32_t tag = load_relaxed(&m->tag);
	if (!load_relaxed(&m->cleared)) {
		store_relaxed(&m->deaths, (uint64_t)member_epoch(tag) + 1);
		store_release(&m->cleared, 1); /* [CLEARED] */
	}
	store_release(&m->tag, (uint32_t)load_relaxed(&m->deaths) << TAG_NUMBER_BITS |
				       (tag & TAG_NUMBER_MASK)); /* [CLEARED] */
}

int member_take_slot(const struct segment *s, struct member *m, uint64_t dead, uint64_t token,
		     bool (*alive)(void *context, uint32_t tag), void *context)
{
	uint64_t bottom = load_acquire(&m->cache_bottom); /* [CACHE] */
	uint32_t thief = cache_holder(bottom);
	(void)s;
	if (thief && thief != CACHE_FLUSH_REQUESTED && alive(context, thief))
		return -EAGAIN;
	uint64_t seen = dead;
	if (!cas_seq_cst(&m->identity, &seen, MEMBER_CLEARING | token)) /* [MEMBER] */
		return -ESTALE;
	/* Now the slot is the caller's alone. A thief that comes later finds no buffer in the cache
	 * that this member owns. */
	cache_position top = load_relaxed(&m->cache_top);
	if (cache_between(bottom, top) < 0) /* it died while it popped too many */
		store_relaxed(&m->cache_top, top = cache_bottom_at(bottom, top));
	reset(m); /* the counts that it stores depend on cache_top */
	if (!cas_seq_cst(&m->cache_bottom, &bottom, (uint64_t)top)) { /* [CACHE] */
		/* A thief has locked the cache. The next recoverer takes the slot after it. */
		store_release(&m->identity, dead); /* [MEMBER] */
		return -EAGAIN;
	}
	raise_epoch(m);
	return 0;
}

void member_vacate(struct member *m)
{
	store_release(&m->identity, 0); /* [MEMBER] */
}

void member_use_slot(struct member *m, uint64_t token)
{
	introduce(m);
	store_release(&m->identity, MEMBER_ATTACHED | token); /* [MEMBER] */
}
