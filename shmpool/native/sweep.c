/* SPDX-License-Identifier: Apache-2.0
 *
 * sweep.c - see recovery.h: scans every buffer for those of dead members.
 */
#include "free_ring.h"
#include "queue.h"
#include "recovery.h"
#include "requeue.h"
#include "topic.h"
#include "wait.h"

#define CANDIDATES 64 /* buffers that are decided with one read of all op records */
#define DECISIONS 100 /* tries for one buffer, while other recoverers change its owner word */

/* Returns the ring of a named queue, NULL for a free ring or none. */
static const struct alf_ring *named_ring(struct recovery *r, uint32_t queue)
{
	return segment_free_ring(&r->p->segment, queue) < CLASSES_MAX ? NULL :
									recovery_ring(r, queue);
}

/* Postpones the dead members that may have claimed the position. */
static void postpone_claimant(struct recovery *r, const struct alf_ring *ring,
			      alf_position position)
{
	struct dead *consumer = recovery_dead(r, r->consumer[ring->id]);
	if (consumer)
		consumer->postponed = true;
	for (uint32_t i = 0; i < r->deaths; i++)
		if (recovery_covers(r, &r->dead[i], ALF_OP_DEQUEUE, ring->id, position))
			r->dead[i].postponed = true;
}

/* True if no live member can have claimed the position, which lies behind cons. */
static bool dead_claim(struct recovery *r, const struct alf_ring *ring, alf_position position)
{
	if (ring->flags & ALF_SINGLE_CONSUMER) {
		/* A single consumer has no op record; a live one may be in its last claim. */
		uint32_t consumer = r->consumer[ring->id];
		return !consumer || recovery_dead(r, consumer);
	}
	if (!recovery_live(r, ALF_OP_DEQUEUE, ring->id, position))
		return true;
	postpone_claimant(r, ring, position);
	return false;
}

/* True if the head of a segment's chain has been freed without the segment: by a recoverer. */
static bool orphan(const struct recovery *r, uint64_t owner)
{
	const uint32_t head = owner_head(owner);
	return head < r->p->total &&
	       handle_generation(load_acquire(&pool_buffer(r->p, head)->handle)) != /* [CHAIN] */
		       (uint32_t)owner;
}

static bool is_dead(const void *context, uint64_t tag)
{
	return recovery_dead(context, tag);
}

/* True if a dead member owns the buffer, or its chain has gone, or it is in no hands after a topic.
 * *ring is the ring that the member was claiming it from, or NULL. */
static bool dead_has(struct recovery *r, struct buffer *b, uint64_t owner,
		     const struct alf_ring **ring)
{
	*ring = NULL;
	if (owner_is_chained(owner))
		return orphan(r, owner);
	if (!(owner & OWNER_TRANSIT))
		return recovery_dead(r, owner) || owner & OWNER_ABANDONED;
	const struct alf_ring *from = recovery_ring(r, owner_queue(owner));
	if (from && topic_is(from))
		return topic_forsaken(from, b, owner, r->gone[from->id].bits, is_dead, r);
	if (!from || owner_behind(owner, r->cons[from->id]) >= 0 ||
	    !dead_claim(r, from, owner_position(owner)))
		return false;
	*ring = from;
	return true;
}

/* Returns the queue that the dead owner of a buffer got it from, 0 or a free ring if it allocated
 * it. */
static uint32_t came_from(struct recovery *r, const struct buffer *b, uint64_t owner)
{
	uint32_t said = owner_queue(owner);
	if (owner_is_chained(owner))
		return 0;
	if (owner & OWNER_TRANSIT && named_ring(r, said))
		return named_ring(r, said)->queue; /* of a lane its queue */
	if (said || owner & OWNER_TRANSIT)
		return said;
	return load_relaxed(&b->got) == buffer_generation(b) ? load_relaxed(&b->queue) : 0;
}

/* Returns the number of the queue that the buffer goes to, or 0 if it is to be freed. from is the
 * queue its owner got it from. If an OWNED or ABANDONED word names a queue, an earlier recoverer or
 * nack (requeue.h) has decided already that the buffer goes back there. */
static uint32_t destination(struct recovery *r, const struct buffer *b, uint64_t owner,
			    uint32_t from)
{
	if (!from || !named_ring(r, from) || topic_is(named_ring(r, from)))
		return 0;
	const struct queue_slot *slot = segment_queue(&r->p->segment, from);
	bool decided = !(owner & OWNER_TRANSIT) && owner_queue(owner);
	if (load_relaxed(&slot->on_death) == ON_DEATH_FREE && !decided)
		return 0;
	uint32_t to = requeue_to(slot, from, load_relaxed(&b->redelivered));
	return named_ring(r, to) ? to : 0;
}

/* Takes a dead member's or an abandoned buffer; false if another recoverer was first. If this
 * member dies too, the word says that it got the buffer from queue from. The word is never the tag
 * alone: a dead thief may have taken the buffer from this member's own cache, which still lists it,
 * and another thief would then find the entry valid. */
static bool take(struct recovery *r, struct buffer *b, uint64_t owner, uint32_t from)
{
	if (!cas_seq_cst(&b->owner, &owner,
			 r->m->tag | OWNER_PUTTING |
				 (uint64_t)from << OWNER_QUEUE_SHIFT)) /* [OWNER] */
		return false;
	count_up(&r->m->counters[COUNT_RECOVER], 1);
	r->out->buffers++;
	return true;
}

/* Abandons a buffer to the next recoverer; false if another recoverer was first. recover.c counts
 * it in `abandoned` at the end of the pass. If this recoverer is killed or suspended before, the
 * dead member's slot is still taken, and the next recoverer sweeps for that slot. If another
 * recoverer has released the slot since, its own sweep read the word and counted it. */
static bool abandon(struct recovery *r, struct buffer *b, uint64_t owner, uint32_t from)
{
	if (!cas_seq_cst(&b->owner, &owner,
			 OWNER_ABANDONED | (uint64_t)from << OWNER_QUEUE_SHIFT)) /* [OWNER] */
		return false;
	r->left = true;
	return true;
}

enum handed { HANDED_ON, NO_ROOM, TAKEN_BEFORE };

/* Puts a dead member's or an abandoned buffer into a queue. Reserves the position first: if there
 * is none, nothing has changed. */
static enum handed hand_on(struct recovery *r, uint32_t index, uint64_t owner, uint32_t from,
			   uint32_t to)
{
	const struct alf_ring *ring = recovery_ring(r, to);
	struct buffer *b = pool_buffer(r->p, index);
	uint64_t handle = index;
	alf_position at;
	if (queue_reserve_back(r->p, r->m, &ring, &at)) {
		alf_done(&r->m->op, ALF_MULTI);
		return NO_ROOM;
	}
	if (!take(r, b, owner, from)) {
		store_release(&ring->slot[at & ring->mask],
			      alf_tag(ring, at) | ALF_TOMBSTONE); /* [SLOT] */
		alf_done(&r->m->op, ALF_MULTI);
		return TAKEN_BEFORE;
	}
	requeue_note(b, from, to);
	store_release(&b->owner, owner_transit(ring->id, at)); /* [OWNER] */
	alf_publish(ring, at, &handle, 1);
	alf_done(&r->m->op, ALF_MULTI);
	if (to == from)
		r->out->requeued++;
	else
		r->out->dead_lettered++;
	if (wait_anybody(ring->data_wait)) /* [WAIT] after prod moved */
		wait_wake(ring->data_wait, 1);
	return HANDED_ON;
}

/* Buffers of one class that are on their way to its free ring. */
struct freed {
	struct qmempool *p;
	struct member *m; /* the recoverer's block */
	uint64_t handle[BULK_MAX];
	uint32_t n;
	uint64_t rounds; /* free_ring_put_rounds() */
};

/* Handles one buffer. Decides again whenever another member changed the owner word first: it may
 * have been a recoverer that found no room and abandoned the buffer. */
static void sweep_one(struct recovery *r, uint32_t index, struct freed *freed)
{
	struct buffer *b = pool_buffer(r->p, index);
	for (int tries = 0;; tries++) {
		const struct alf_ring *ring;
		uint64_t owner = load_acquire(&b->owner); /* [OWNER] */
		if (likely(!dead_has(r, b, owner, &ring)))
			return;
		if (tries == DECISIONS) { /* corrupted: overwritten all the time */
			r->left = true;
			return;
		}
		/* An orphan stays one for a recoverer with a slot, which counts it. */
		bool abandoned = owner_is_chained(owner) ||
				 (!(owner & OWNER_TRANSIT) && owner & OWNER_ABANDONED);
		uint32_t from = came_from(r, b, owner), to = destination(r, b, owner, from);
		enum handed handed = to && r->m ? hand_on(r, index, owner, from, to) : NO_ROOM;
		if (handed == HANDED_ON)
			return;
		if (r->m && !to && take(r, b, owner, 0)) {
			if (from && named_ring(r, from) && !topic_is(named_ring(r, from)))
				add_relaxed(&segment_queue(&r->p->segment, from)->dropped, 1);
			if (owner_is_chained(owner)) { /* as the owner that frees it counts it */
				count_up(&r->m->counters[COUNT_CHAINED], -1ull);
				count_up(&r->m->counters[COUNT_FREE], 1);
			}
			r->orphans |= buffer_heads(b);
			break;
		}
		if ((to && handed == NO_ROOM) || !r->m) {
			r->left |= abandoned;
			if (abandoned || abandon(r, b, owner, to ? from : 0))
				return;
		}
	}
	uint64_t spent = handle_of(index, buffer_generation(b) + 1);
	store_release(&b->handle, spent); /* [CHAIN] the owner words of its segments before it */
	freed->handle[freed->n++] = spent;
	if (freed->n == BULK_MAX) {
		free_ring_put_rounds(freed->p, freed->m, freed->handle, freed->n, &freed->rounds);
		freed->n = 0;
	}
}

/* Buffers in TRANSIT to positions that a live member may have reserved. */
struct candidates {
	struct {
		struct dead_range *range;
		uint64_t owner, word;
		alf_position position;
		uint32_t index;
	} of[CANDIDATES];
	uint32_t n;
};

/* Returns the queue from which a buffer was got that is in TRANSIT to ring number to, if that is
 * its way back: into the same queue or into its dead-letter queue, by a nack or a recoverer.
 * Returns 0 otherwise. */
static uint32_t returning(struct recovery *r, const struct buffer *b, uint32_t to)
{
	uint32_t from = load_relaxed(&b->queue);
	if (!from || load_relaxed(&b->got) != buffer_generation(b) || !named_ring(r, to) ||
	    !named_ring(r, from))
		return 0;
	to = named_ring(r, to)->queue;
	const struct queue_slot *slot = segment_queue(&r->p->segment, from);
	const struct alf_ring *back =
		named_ring(r, requeue_to(slot, from, load_relaxed(&b->redelivered)));
	if (!back || back->flags & ALF_SINGLE_PRODUCER)
		return 0;
	return to == from || to == load_relaxed(&slot->dead_letter) ? from : 0;
}

/* Abandons the buffer instead of marking it OWNED(dead producer): another recoverer may have
 * finished with that producer, and its slot may have a new member. A buffer on its way back keeps
 * the name of its queue, whatever that queue's on_death says: the dead producer may be a recoverer
 * that did the work of a nack() which has returned. Those are put back one by one, so a bulk (a
 * certain range) is none of them. */
static void unreserve(struct recovery *r, uint32_t index, uint64_t owner, bool certain)
{
	struct buffer *b = pool_buffer(r->p, index);
	uint32_t from = certain ? 0 : returning(r, b, owner_queue(owner));
	abandon(r, b, owner, from); /* [OWNER] */
}

/* Reads all op records once for all candidates, after their slots were read. */
static void unreserve_candidates(struct recovery *r, struct candidates *c)
{
	if (c->n)
		recovery_read_ops(r);
	for (uint32_t i = 0; i < c->n; i++) {
		struct dead_range *range = c->of[i].range;
		if (recovery_live(r, ALF_OP_ENQUEUE, range->ring->id, c->of[i].position))
			range->postponed = range->by->postponed = true;
		else if (alf_word(range->ring, c->of[i].position) == c->of[i].word)
			unreserve(r, c->of[i].index, c->of[i].owner, false);
	}
	c->n = 0;
}

/* Abandons the buffer if it is in TRANSIT to a position that becomes a tombstone. */
static void unreserve_one(struct recovery *r, uint32_t index, struct candidates *c)
{
	uint64_t owner = load_acquire(&pool_buffer(r->p, index)->owner); /* [OWNER] */
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
	case ALF_AT_VALUE: /* in a bulk that is not whole: no consumer passed its first slot */
		if (!range->certain)
			return;
		alf_make_tombstone(range->ring, position, word);
		break;
	case ALF_AT_TOMBSTONE:
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
	unreserve(r, index, owner, range->certain);
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

/* Visits every buffer of a class that exists. */
static void sweep_class(struct recovery *r, const struct segment *s, struct freed *freed,
			struct candidates *c)
{
	sweep_run(r, s->first, (uint64_t)s->geometry.prealloc, freed, c);
	for (uint64_t i = 0; i < s->extents; i++)
		if (load_acquire(segment_extent(s, i)) == EXTENT_PRESENT) /* [EXTENT] */
			sweep_run(r, slab_extent_first(s, i), slab_extent_size(s, i), freed, c);
}

void sweep_unreserve(struct recovery *r)
{
	struct candidates c;
	c.n = 0;
	if (!r->ranges)
		return;
	for (uint32_t i = 0; i < segment_classes(&r->p->segment); i++)
		sweep_class(r, &pool_class(r->p, i)->segment, NULL, &c);
	unreserve_candidates(r, &c);
}

/* Takes what dead members own of every class. */
static void sweep_all(struct recovery *r)
{
	for (uint32_t i = 0; i < segment_classes(&r->p->segment); i++) {
		struct qmempool *p = pool_class(r->p, i);
		struct freed freed = { .p = p,
				       .m = r->m ? pool_block(p, r->m) : NULL,
				       .rounds = alf_capacity(&p->free) / BULK_MAX +
						 FREE_RING_ROUNDS };
		sweep_class(r, &p->segment, &freed, NULL);
		if (freed.n)
			free_ring_put_rounds(p, freed.m, freed.handle, freed.n, &freed.rounds);
	}
}

void sweep(struct recovery *r)
{
	for (uint32_t i = 0; i < segment_ring_count(&r->p->segment); i++) {
		const struct alf_ring *ring = recovery_ring(r, i);
		if (!ring)
			continue;
		r->cons[i] = load_acquire(&ring->q->cons);         /* [CONS] */
		r->consumer[i] = load_acquire(&ring->q->consumer); /* [ROLE] */
	}
	recovery_read_ops(r);
	r->orphans = false;
	sweep_all(r);
	if (r->orphans) /* segments that lie before the heads that this recoverer has freed */
		sweep_all(r);
}
