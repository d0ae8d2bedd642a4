/* SPDX-License-Identifier: Apache-2.0
 *
 * recover.c - see recover.h: finds dead members and repairs the words that name them.
 */
#include "recover.h"

#include <sched.h>
#include <string.h>

#include "liveness.h"
#include "queue.h"
#include "recovery.h"
#include "role.h"
#include "wait.h"

/* At most, while something is postponed until a live member ends its operation. */
#define PASSES 4

bool recover_abandoned(const struct segment *s)
{
	return load_seq_cst(&segment_shared(s)->swept) !=
	       load_seq_cst(&segment_shared(s)->abandoned); /* [ABANDONED] */
}

/* Finds dead members and marks their slots DEAD. */
static void recover_mark(struct recovery *r)
{
	const struct segment *s = &r->p->segment;
	struct liveness q = { .s = s, .own = r->token };
	for (uint32_t i = 0; i < s->members; i++) {
		struct member *m = segment_member(s, i);
		uint64_t identity = load_acquire(&m->identity); /* [MEMBER] */
		if (!identity)
			continue;
		const enum token_state state = liveness_ask(&q, identity);
		const bool kept = state == TOKEN_FREE && !device_gone(m);
		r->out->unknown += kept || state == TOKEN_UNKNOWN;
		r->unasked = r->unasked || state == TOKEN_UNKNOWN;
		if (kept || state != TOKEN_FREE)
			continue;
		if (!member_dead(identity)) {
			uint64_t dead = member_as_dead(identity);
			if (!cas_seq_cst(&m->identity, &identity, dead) && /* [MEMBER] */
			    identity != dead)
				continue; /* it has been recovered since */
			identity = dead;
		}
		struct dead d = { .identity = identity, .number = i };
		for (uint32_t k = 0; k < segment_classes(s); k++)
			d.op[k] = load_acquire(&segment_block(s, m, k)->op); /* [OP] */
		d.tag = load_acquire(&m->tag);                               /* [CLEARED] */
		bool cleared = load_acquire(&m->cleared) != 0;               /* [CLEARED] */
		if (load_acquire(&m->identity) != identity)                  /* [MEMBER] */
			continue; /* it has been recovered since */
		if (cleared)
			d = (struct dead) { .identity = identity, .number = i }; /* only its slot
										    is left */
		r->dead[r->deaths++] = d;
		r->dead_at[i] = r->deaths;
	}
}

/* Turns the locks of dead thieves into requests to flush: the owner flushes its cache and leaves
 * out what the thief had taken. Must come before the sweep, after which those buffers may belong to
 * any member. */
static void recover_thieves(struct recovery *r)
{
	const struct segment *s = &r->p->segment;
	for (uint32_t i = 0; i < s->members * segment_classes(s); i++) {
		struct member *victim =
			segment_block(s, segment_member(s, i % s->members), i / s->members);
		uint64_t bottom = load_acquire(&victim->cache_bottom); /* [CACHE] */
		if (recovery_dead(r, cache_holder(bottom)))
			cas_seq_cst(&victim->cache_bottom, &bottom,
				    cache_locked_by(CACHE_FLUSH_REQUESTED, bottom)); /* [CACHE] */
	}
}

/* Frees the extents of a class that dead members were creating. No other member has used them. */
static void recover_extents(struct recovery *r, const struct segment *s)
{
	for (uint64_t i = 0; i < s->extents; i++) {
		uint64_t maker = load_acquire(segment_extent(s, i)); /* [EXTENT] */
		if (!maker || maker == EXTENT_PRESENT || !recovery_dead(r, maker))
			continue;
		/* [TRIMS] it may have been trimming */
		add_seq_cst(&segment_class_shared(s)->trims, 1);
		cas_seq_cst(segment_extent(s, i), &maker, 0); /* [EXTENT] */
	}
}

/* The same, and queue slots. */
static void recover_makers(struct recovery *r)
{
	const struct segment *s = &r->p->segment;
	for (uint32_t k = 0; k < segment_classes(s); k++)
		recover_extents(r, &pool_class(r->p, k)->segment);
	for (uint32_t i = 1; i <= s->geometry.queues; i++) {
		uint64_t *state = &segment_queue(s, i)->state,
			 maker = load_acquire(state); /* [QUEUE] */
		if (maker != QUEUE_READY && recovery_dead(r, maker) &&
		    !(maker & QUEUE_LANE && queue_listed(r->p, i)))
			cas_seq_cst(state, &maker, 0); /* [QUEUE] */
	}
}

/* Releases the single-producer and single-consumer roles of dead members, of postponed ones too: a
 * successor may be what makes room for them. Must come after sweep() and ranges_bury(), which need
 * the roles to find what is unfinished. */
static void recover_roles(struct recovery *r)
{
	for (uint32_t i = 1; i <= r->p->segment.geometry.queues; i++) {
		struct alf_queue *q = &segment_queue(&r->p->segment, i)->queue;
		uint32_t producer = load_acquire(&q->producer); /* [ROLE] */
		uint32_t consumer = load_acquire(&q->consumer); /* [ROLE] */
		if (recovery_dead(r, producer))
			role_release(&q->producer, producer);
		if (recovery_dead(r, consumer))
			role_release(&q->consumer, consumer);
	}
}

static bool tag_alive(void *context, uint32_t tag)
{
	return !recovery_dead(context, tag);
}

/* Takes the slot of a dead member when nothing else is left to recover: member_take_slot(). */
static int take_slot(struct recovery *r, const struct dead *d)
{
	struct member *m = segment_member(&r->p->segment, d->number);
	if (d->postponed || r->no_memory)
		return -EAGAIN;
	return member_take_slot(&r->p->segment, m, d->identity, r->token, tag_alive, r);
}

static void recover_slots(struct recovery *r)
{
	for (uint32_t i = 0; i < r->deaths; i++) {
		int error = take_slot(r, &r->dead[i]);
		r->out->postponed += error == -EAGAIN;
		if (error)
			continue;
		member_vacate(segment_member(&r->p->segment, r->dead[i].number));
		r->out->members++;
	}
}

/* Recovers everything but the slots. Returns false if there is nothing to do. */
static bool pass(struct recovery *r)
{
	struct pool_shared *shared = segment_shared(&r->p->segment);
	r->deaths = r->ranges = 0;
	r->left = r->no_memory = r->unasked = false;
	memset(r->dead_at, 0, r->p->segment.members * sizeof(*r->dead_at));
	r->out->unknown = r->out->postponed = 0;
	uint64_t swept = load_seq_cst(&shared->swept);         /* [ABANDONED] */
	uint64_t abandoned = load_seq_cst(&shared->abandoned); /* [ABANDONED] */
	recover_mark(r);
	subscribers_mark(r);
	if (!r->deaths && !r->subscribers && swept == abandoned)
		return false;
	recover_thieves(r);
	ranges_collect(r);
	sweep_unreserve(r);
	ranges_bury(r);
	subscribers_evict(r);
	r->left = false; /* this sweep takes what was abandoned until here */
	sweep(r);
	subscribers_vacate(r);
	/* What this pass abandoned or left is counted, whatever is counted already: the member that
	 * abandoned it may be suspended before its own count, or another recoverer may have read
	 * that count before it passed the buffer. After the sweep, so that a member that reads the
	 * count sees the buffer. */
	if (r->left)
		add_seq_cst(&shared->abandoned, 1); /* [ABANDONED] */
	/* Only forward: what was counted before is placed, or counted once more. */
	while (!r->no_memory && (int64_t)(abandoned - swept) > 0 &&
	       !cas_seq_cst(&shared->swept, &swept, abandoned)) /* [ABANDONED] */
		;
	recover_roles(r);
	recover_makers(r);
	return true;
}

int recover_asking(struct qmempool *p, struct member *m, struct shmpool_recovery *out, int passes,
		   bool *unasked)
{
	struct recovery r = {
		.p = p, .m = m, .token = member_token(load_relaxed(&m->identity)), .out = out
	};
	int error = recovery_begin(&r);
	for (int i = 0; i < passes && !error; i++) {
		if (i)
			sched_yield();
		if (!pass(&r))
			break;
		recover_slots(&r);
		pool_wake_sleepers(p, wait_reset); /* a dead member may be counted asleep */
		if (r.no_memory)
			error = -ENOMEM;
		if (!out->postponed)
			break;
	}
	out->postponed += r.left;
	*unasked = r.unasked;
	recovery_end(&r);
	return error;
}

int recover_passes(struct qmempool *p, struct member *m, struct shmpool_recovery *out, int passes)
{
	bool unasked;
	return recover_asking(p, m, out, passes, &unasked);
}

/* Takes the slot of one of the dead members for the caller. -EUSERS if others were first, or may
 * have been: they have made some of these slots free. */
static int use_slot(struct recovery *r, struct member **out)
{
	for (uint32_t i = 0; i < r->deaths; i++) {
		struct member *m = segment_member(&r->p->segment, r->dead[i].number);
		if (take_slot(r, &r->dead[i]))
			continue;
		if (member_epoch(load_relaxed(&m->tag)) == TAG_EPOCH_MAX) {
			member_vacate(m);
			continue;
		}
		member_use_slot(m, r->token);
		*out = m;
		return 0;
	}
	return member_attach(&r->p->segment, r->token, out);
}

int recover_slot(struct qmempool *p, uint64_t token, struct member **out)
{
	struct shmpool_recovery done;
	struct recovery r = { .p = p, .token = token, .out = &done };
	int error = recovery_begin(&r);
	if (!error) {
		const bool any = pass(&r);
		error = use_slot(&r, out);
		if (error && r.no_memory)
			error = -ENOMEM;
		else if (error && (r.deaths || member_room(&p->segment)))
			error = -EAGAIN; /* the next attempt may find others that have died since */
		if (any)
			pool_wake_sleepers(p, wait_reset);
	}
	recovery_end(&r);
	if (!error)
		recover(p, *out, &done); /* other dead members, and abandoned buffers */
	return error;
}

int recover(struct qmempool *p, struct member *m, struct shmpool_recovery *out)
{
	return recover_passes(p, m, out, PASSES);
}
