/* SPDX-License-Identifier: Apache-2.0
 *
 * sweep.c - see recover.h: one look at every buffer, to find those that the dead had.
 *
 * A buffer's owner word says whose it is, but for the two moments in which a ring's position has
 * moved and the word has not: then the position says it, together with who can have moved it there.
 *
 *     OWNED(dead)                                            the dead's
 *     TRANSIT to a position that a dead producer may have
 *       reserved, void, or unpublished and nobody alive
 *       may have it, or part of a bulk that is not whole     the dead's
 *     TRANSIT to a position behind cons, which nobody alive
 *       may have claimed                                     the dead's
 *     anything else                                          somebody's, or in a queue
 *
 * The second kind is abandoned before the positions become void and all is freed: afterwards the
 * ring may go round, and such a buffer could not be told from one of the third kind; and the ring
 * of free buffers has room for all of them only once consumers can pass.
 */
#include "member.h"
#include "queue.h"
#include "recovery.h"
#include "requeue.h"
#include "transfer.h"
#include "wait.h"

#define CANDIDATES 64 /* buffers of which one look at what live members do decides */
#define DECISIONS 100 /* about one buffer, each overtaken by another recoverer's */

/* Whoever is dead and may have claimed the position is not finished with yet. */
static void postpone_claimant(struct recovery *r, const struct alf_ring *ring,
			      alf_position position)
{
	struct dead *consumer = recovery_dead(r, r->consumer[ring->id]);
	if (consumer)
		consumer->postponed = true;
	for (uint32_t i = 0; i < r->deaths; i++)
		if (alf_op_covers(r->dead[i].op, ALF_OP_DEQUEUE, ring->id, position))
			r->dead[i].postponed = true;
}

/* Whether nobody alive can have claimed the position, which lies behind cons. */
static bool dead_claim(struct recovery *r, const struct alf_ring *ring, alf_position position)
{
	if (ring->flags & ALF_SINGLE_CONSUMER) {
		/* It has no op record; a live one is at its last claim. */
		uint32_t consumer = r->consumer[ring->id];
		return !consumer || recovery_dead(r, consumer);
	}
	if (!recovery_live(r, ALF_OP_DEQUEUE, ring->id, position))
		return true;
	postpone_claimant(r, ring, position);
	return false;
}

/* Whether the dead have the buffer, and with *ring set, from that ring. */
static bool dead_has(struct recovery *r, uint64_t owner, const struct alf_ring **ring)
{
	*ring = NULL;
	if (!(owner & OWNER_TRANSIT))
		return recovery_dead(r, owner) || owner & OWNER_ABANDONED;
	const struct alf_ring *from = recovery_ring(r, owner_queue(owner));
	if (!from || owner_behind(owner, r->cons[from->id]) >= 0 ||
	    !dead_claim(r, from, owner_position(owner)))
		return false;
	*ring = from;
	return true;
}

/* The queue that the dead holder of a buffer had got it from, 0 if it had it from the pool. */
static uint32_t came_from(const struct buffer *b, uint64_t owner)
{
	uint32_t said = owner_queue(owner);
	if (said || owner & OWNER_TRANSIT)
		return said;
	return load_relaxed(&b->got) == buffer_generation(b) ? load_relaxed(&b->queue) : 0;
}

/* Where the buffer goes: the number of a queue, or 0 to be freed. from is the queue its holder had
 * it from. An owner word outside a ring that names a queue says that the buffer is on its way back
 * there: a recoverer or a nack (requeue.h) has decided that already. */
static uint32_t destination(struct recovery *r, const struct buffer *b, uint64_t owner,
			    uint32_t from)
{
	if (!from || !recovery_ring(r, from))
		return 0;
	const struct queue_slot *slot = segment_queue(&r->p->segment, from);
	bool decided = !(owner & OWNER_TRANSIT) && owner_queue(owner);
	if (load_relaxed(&slot->on_death) == ON_DEATH_FREE && !decided)
		return 0;
	uint32_t to = requeue_to(slot, from, load_relaxed(&b->redelivered));
	return recovery_ring(r, to) ? to : 0;
}

/* Takes a dead member's or an abandoned buffer: false if another recoverer was faster. From here on
 * it is a buffer that this member has from queue from, should it die too. Never its tag alone: a
 * dead thief may have had the buffer out of this member's own cache, where it is listed yet, and
 * another thief would find it good. */
static bool take(struct recovery *r, struct buffer *b, uint64_t owner, uint32_t from)
{
	if (!cas_seq_cst(&b->owner, &owner,
			 r->m->tag | OWNER_PUTTING | (uint64_t)from << OWNER_QUEUE_SHIFT))
		return false;
	count_up(&r->m->counters[COUNT_RECOVER], 1);
	r->out->buffers++;
	return true;
}

/* Leaves a buffer to whoever recovers next. False if another recoverer was faster. */
static bool abandon(struct recovery *r, struct buffer *b, uint64_t owner, uint32_t from)
{
	if (!cas_seq_cst(&b->owner, &owner, OWNER_ABANDONED | (uint64_t)from << OWNER_QUEUE_SHIFT))
		return false;
	/* Afterwards: who reads the count sees the buffer. Should this recoverer be killed or
	 * suspended before it, the dead member's slot is not free yet, and the next one sweeps for
	 * that. */
	add_seq_cst(&segment_shared(&r->p->segment)->abandoned, 1);
	r->left = true;
	return true;
}

enum handed { HANDED_ON, NO_ROOM, SOMEBODY_WAS_FASTER };

/* Puts a dead member's or an abandoned buffer into a queue. The position first: when there is none,
 * nothing has changed. */
static enum handed hand_on(struct recovery *r, uint32_t index, uint64_t owner, uint32_t from,
			   uint32_t to)
{
	const struct alf_ring *ring = recovery_ring(r, to);
	struct buffer *b = qmempool_buffer(r->p, index);
	uint64_t handle = index;
	alf_position at;
	if (alf_reserve(ring, &r->m->op, 1, ALF_MULTI, &at)) {
		alf_done(&r->m->op, ALF_MULTI);
		return NO_ROOM;
	}
	if (!take(r, b, owner, from)) {
		store_release(&ring->slot[at & ring->mask],
			      alf_tag(ring, at) | ALF_VOID); /* [SLOT] */
		alf_done(&r->m->op, ALF_MULTI);
		return SOMEBODY_WAS_FASTER;
	}
	requeue_note(b, from, to);
	store_release(&b->owner, owner_transit(to, at)); /* [OWNER] */
	alf_publish(ring, at, &handle, 1);
	alf_done(&r->m->op, ALF_MULTI);
	if (to == from)
		r->out->requeued++;
	else
		r->out->dead_lettered++;
	if (wait_anybody(&ring->q->data_wait)) /* [WAIT] after prod moved */
		wait_wake(&ring->q->data_wait, 1);
	return HANDED_ON;
}

struct freed {
	uint64_t handle[BULK_MAX];
	uint32_t n;
	uint64_t rounds; /* qmempool_give_round() */
};

/* Decides anew whenever somebody else changed the owner word first: that may have been a recoverer
 * which found no room, and left the buffer to whoever does. */
static void sweep_one(struct recovery *r, uint32_t index, struct freed *freed)
{
	struct buffer *b = qmempool_buffer(r->p, index);
	for (int tries = 0;; tries++) {
		const struct alf_ring *ring;
		uint64_t owner = load_acquire(&b->owner); /* [OWNER] */
		if (likely(!dead_has(r, owner, &ring)))
			return;
		if (tries == DECISIONS) { /* somebody writes over it all the time */
			r->left = true;
			return;
		}
		bool abandoned = !(owner & OWNER_TRANSIT) && owner & OWNER_ABANDONED;
		uint32_t from = came_from(b, owner), to = destination(r, b, owner, from);
		enum handed handed = to && r->m ? hand_on(r, index, owner, from, to) : NO_ROOM;
		if (handed == HANDED_ON)
			return;
		if (r->m && !to && take(r, b, owner, 0)) {
			if (from && recovery_ring(r, from))
				add_relaxed(&segment_queue(&r->p->segment, from)->dropped, 1);
			break;
		}
		if ((to && handed == NO_ROOM) || !r->m) {
			r->left |= abandoned;
			if (abandoned || abandon(r, b, owner, to ? from : 0))
				return;
		}
	}
	uint64_t spent = handle_of(index, buffer_generation(b) + 1);
	store_relaxed(&b->handle, spent);
	freed->handle[freed->n++] = spent;
	if (freed->n == BULK_MAX) {
		qmempool_give_round(r->p, r->m, freed->handle, freed->n, &freed->rounds);
		freed->n = 0;
	}
}

/* Buffers on their way into positions of which it must be learnt whether a live member has them. */
struct candidates {
	struct {
		struct dead_range *range;
		uint64_t owner, word;
		alf_position position;
		uint32_t index;
	} of[CANDIDATES];
	uint32_t n;
};

/* The queue from which a buffer was got that is on its way into queue to, if that is its way back:
 * into the same queue or its dead-letter queue. 0 if it is not, or is the put of a single producer.
 */
static uint32_t returning(struct recovery *r, const struct buffer *b, uint32_t to)
{
	uint32_t from = load_relaxed(&b->queue);
	if (!to || !from || load_relaxed(&b->got) != buffer_generation(b) ||
	    !recovery_ring(r, from))
		return 0;
	const struct queue_slot *slot = segment_queue(&r->p->segment, from);
	const struct alf_ring *back =
		recovery_ring(r, requeue_to(slot, from, load_relaxed(&b->redelivered)));
	if (!back || back->flags & ALF_SINGLE_PRODUCER)
		return 0;
	return to == from || to == load_relaxed(&slot->dead_letter) ? from : 0;
}

/* Anybody's who sweeps, not the dead producer's: that one may be finished with by another
 * recoverer, and the position a later one's. A buffer that was on its way back keeps the name of
 * its queue, whatever that queue's on_death says: the dead producer may be a recoverer, and the
 * nack() that it did the work of has returned. */
static void unreserve(struct recovery *r, uint32_t index, uint64_t owner)
{
	struct buffer *b = qmempool_buffer(r->p, index);
	abandon(r, b, owner, returning(r, b, owner_queue(owner))); /* [OWNER] */
}

/* One look for all of them, after their slots were read. */
static void unreserve_candidates(struct recovery *r, struct candidates *c)
{
	if (c->n)
		recovery_look(r);
	for (uint32_t i = 0; i < c->n; i++) {
		struct dead_range *range = c->of[i].range;
		if (recovery_live(r, ALF_OP_ENQUEUE, range->ring->id, c->of[i].position))
			range->postponed = range->by->postponed = true;
		else if (alf_word(range->ring, c->of[i].position) == c->of[i].word)
			unreserve(r, c->of[i].index, c->of[i].owner);
	}
	c->n = 0;
}

/* A buffer on its way into a position that is about to become a tombstone is abandoned. */
static void unreserve_one(struct recovery *r, uint32_t index, struct candidates *c)
{
	uint64_t owner = load_acquire(&qmempool_buffer(r->p, index)->owner); /* [OWNER] */
	alf_position position;
	if (!(owner & OWNER_TRANSIT))
		return;
	struct dead_range *range =
		ranges_find(r, owner_queue(owner), owner_position(owner), &position);
	if (!range)
		return;
	uint64_t word = alf_word(range->ring, position);
	switch (alf_at(range->ring, position, word)) {
	case ALF_AT_LATER:
		return;
	case ALF_AT_VALUE: /* of a bulk that is not whole: nobody can have come past its first */
		if (!range->certain)
			return;
		alf_make_void(range->ring, position, word);
		break;
	case ALF_AT_VOID:
		break;
	case ALF_AT_UNPUBLISHED:
		if (range->certain)
			break;
		c->of[c->n].range = range;
		c->of[c->n].owner = owner;
		c->of[c->n].word = word;
		c->of[c->n].position = position;
		c->of[c->n++].index = index;
		if (c->n == CANDIDATES)
			unreserve_candidates(r, c);
		return;
	}
	unreserve(r, index, owner);
}

static void sweep_run(struct recovery *r, uint64_t first, uint64_t n, struct freed *freed,
		      struct candidates *c)
{
	for (uint64_t i = first; i < first + n; i++)
		if (freed)
			sweep_one(r, (uint32_t)i, freed);
		else
			unreserve_one(r, (uint32_t)i, c);
}

/* Every buffer that exists. */
static void sweep_all(struct recovery *r, struct freed *freed, struct candidates *c)
{
	const struct segment *s = &r->p->segment;
	uint64_t prealloc = (uint64_t)s->geometry.prealloc, each = s->geometry.extent_buffers;
	sweep_run(r, 0, prealloc, freed, c);
	for (uint64_t i = 0; i < s->extents; i++) {
		uint64_t first = prealloc + i * each, left = r->p->capacity - first;
		if (load_acquire(segment_extent(s, i)) == EXTENT_PRESENT) /* [EXTENT] */
			sweep_run(r, first, left < each ? left : each, freed, c);
	}
}

void sweep_unreserve(struct recovery *r)
{
	struct candidates c;
	c.n = 0;
	if (!r->ranges)
		return;
	sweep_all(r, NULL, &c);
	unreserve_candidates(r, &c);
}

void sweep(struct recovery *r)
{
	struct freed freed = { .rounds = r->p->capacity / BULK_MAX + GIVE_ROUNDS };
	for (uint32_t i = 0; i <= r->p->segment.geometry.queues; i++) {
		const struct alf_ring *ring = recovery_ring(r, i);
		if (!ring)
			continue;
		r->cons[i] = load_acquire(&ring->q->cons);         /* [CONS] */
		r->consumer[i] = load_acquire(&ring->q->consumer); /* pairs with take_role() */
	}
	recovery_look(r);
	sweep_all(r, &freed, NULL);
	if (freed.n)
		qmempool_give_round(r->p, r->m, freed.handle, freed.n, &freed.rounds);
}
