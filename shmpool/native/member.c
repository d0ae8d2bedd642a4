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

/* True if the slot is free, or will be: it is being reset, or a dead member's. Not if that had a
 * socket, which stays as long as any process has a descriptor of it. */
static bool has_room(const struct member *m, uint64_t identity)
{
	if (!identity)
		return member_epoch(load_relaxed(&m->tag)) != TAG_EPOCH_MAX;
	return member_clearing(identity) ||
	       (member_dead(identity) && !load_acquire(&m->device)); /* [DEVICE] */
}

bool member_room(const struct segment *s)
{
	for (uint32_t i = 0; i < s->members; i++) {
		const struct member *m = segment_member(s, i);
		const uint64_t identity = load_acquire(&m->identity); /* [MEMBER] */
		if (has_room(m, identity))
			return true;
	}
	return false;
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
static void reset(const struct segment *s, struct member *m)
{
	store_relaxed(&m->barrier, 0);
	store_relaxed(&m->adopted, 0);
	store_relaxed(&m->ended, 0);
	store_relaxed(&m->device, 0);
	for (uint32_t k = 0; k < segment_classes(s); k++) {
		struct member *block = segment_block(s, m, k);
		for (int i = 0; i < COUNTERS; i++)
			store_relaxed(&block->base[i], member_count(block, i));
		store_relaxed(&block->op, 0);
	}
}

/* Withdraws a request to flush: the cache is empty. A thief that has locked the cache finds nothing
 * in it and unlocks it. */
static void withdraw_request(struct member *block)
{
	uint64_t seen = load_relaxed(&block->cache_bottom);
	if (cache_holder(seen) == CACHE_FLUSH_REQUESTED)
		cas_seq_cst(&block->cache_bottom, &seen,
			    (uint64_t)cache_bottom_at(
				    seen, load_relaxed(&block->cache_top))); /* [CACHE] */
}

void member_release(const struct segment *s, struct member *m)
{
	member_release_roles(s, m);
	reset(s, m);
	for (uint32_t k = 0; k < segment_classes(s); k++)
		withdraw_request(segment_block(s, m, k));
	store_release(&m->identity, 0); /* [MEMBER] */
}

/* Raises the epoch once for each dead member, however often recovery is repeated: first the count,
 * then the flag that it has been raised, then the tag. */
static void raise_epoch(const struct segment *s, struct member *m)
{
	uint32_t tag = load_relaxed(&m->tag);
	if (!load_relaxed(&m->cleared)) {
		store_relaxed(&m->deaths, (uint64_t)member_epoch(tag) + 1);
		store_release(&m->cleared, 1); /* [CLEARED] */
	}
	tag = (uint32_t)load_relaxed(&m->deaths) << TAG_NUMBER_BITS | (tag & TAG_NUMBER_MASK);
	for (uint32_t k = segment_classes(s); k--;)
		store_release(&segment_block(s, m, k)->tag, tag); /* [CLEARED] */
}

/* True if a live member has locked one of the dead member's caches. Stores the words of the caches
 * in bottom. */
static bool locked_by_thief(const struct segment *s, const struct member *m, uint64_t *bottom,
			    bool (*alive)(void *context, uint32_t tag), void *context)
{
	for (uint32_t k = 0; k < segment_classes(s); k++) {
		bottom[k] = load_acquire(&segment_block(s, m, k)->cache_bottom); /* [CACHE] */
		uint32_t thief = cache_holder(bottom[k]);
		if (thief && thief != CACHE_FLUSH_REQUESTED && alive(context, thief))
			return true;
	}
	return false;
}

int member_take_slot(const struct segment *s, struct member *m, uint64_t dead, uint64_t token,
		     bool (*alive)(void *context, uint32_t tag), void *context)
{
	uint64_t bottom[CLASSES_MAX];
	if (locked_by_thief(s, m, bottom, alive, context))
		return -EAGAIN;
	uint64_t seen = dead;
	if (!cas_seq_cst(&m->identity, &seen, MEMBER_CLEARING | token)) /* [MEMBER] */
		return -ESTALE;
	/* Now the slot is the caller's alone. A thief that comes later finds no buffer in the cache
	 * that this member owns. */
	for (uint32_t k = 0; k < segment_classes(s); k++) {
		struct member *block = segment_block(s, m, k);
		cache_position top = load_relaxed(&block->cache_top);
		if (cache_between(bottom[k], top) < 0) /* it died while it popped too many */
			store_relaxed(&block->cache_top, cache_bottom_at(bottom[k], top));
	}
	reset(s, m); /* the counts that it stores depend on cache_top */
	for (uint32_t k = 0; k < segment_classes(s); k++) {
		struct member *block = segment_block(s, m, k);
		if (cas_seq_cst(&block->cache_bottom, &bottom[k],
				(uint64_t)load_relaxed(&block->cache_top))) /* [CACHE] */
			continue;
		/* A thief has locked the cache. The next recoverer takes the slot after it. */
		store_release(&m->identity, dead); /* [MEMBER] */
		return -EAGAIN;
	}
	raise_epoch(s, m);
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
