/* SPDX-License-Identifier: Apache-2.0
 *
 * audit.c - see audit.h. One file: its stages share the state of a walk.
 *
 * An audit goes through stages. Each stage can be interrupted and continued at any of its items:
 *
 *     stage                 counts
 *     0                     nothing yet
 *     1 .. slots            the ring of queue slot stage - 1: compares each entry with its owner
 *                           word
 *     slots + 1             every member's caches: marks the buffers that are cached
 *     slots + 2             every buffer, where its owner word says that it is
 *     slots + 3             nothing more: the audit is complete
 */
#include "audit.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "alf_repair.h"
#include "member.h"
#include "topic.h"

#define LOOKS 64     /* inspections of a buffer in motion before it counts as unaccounted */
#define LOOKS_FEW 2  /* the same once DAMAGED buffers are wrong */
#define DAMAGED 1024 /* with so many wrong buffers the segment must be corrupted */
/* Attempts to count everything without meeting a moving buffer twice. */
#define ATTEMPTS 4
#define CLOCK_WORK 4096 /* words between two readings of the clock: less than 1 ms */

#define PENDING (sizeof(((struct shmpool_audit *)0)->pending) / sizeof(uint32_t))

/* An op record, and the number of the member that wrote it. */
struct moving {
	uint64_t op;
	uint32_t number;
};

/* One step of an audit. */
struct walk {
	const struct qmempool *p;
	uint64_t *cached; /* one bit for each buffer: met in a cache */
	struct shmpool_audit *out;
	struct shmpool_held *held;
	size_t held_n;
	uint64_t *queued;
	size_t queued_n;
	/* The operations in progress when pending buffers were last inspected. */
	struct moving *moving;
	uint32_t movings;
	int64_t work; /* words to read before the clock is read again */
	int64_t end;  /* of the step: processor time of this thread, ns */
};

static int64_t processor_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* True if the step ends before the given number of words are read. The first CLOCK_WORK words of a
 * step always pass. */
static bool over(struct walk *w, uint32_t words)
{
	w->work -= words;
	if (likely(w->work > 0))
		return false;
	w->work = CLOCK_WORK;
	return processor_ns() >= w->end;
}

static const struct alf_ring *ring_of(const struct walk *w, uint32_t queue)
{
	struct qmempool *p = (struct qmempool *)w->p;
	const struct alf_ring *free = pool_free_ring(p, queue);
	return free ? free : queue_ring(p, queue);
}

static bool exists(const struct walk *w, uint64_t index)
{
	struct qmempool *p = (struct qmempool *)w->p;
	return index < p->total &&
	       segment_exists(&pool_of(p, (uint32_t)index)->segment, (uint32_t)index);
}

/* Begins the walk of a ring: stores in at and end the positions between which it holds entries. */
static void enter_ring(struct walk *w, const struct alf_ring *r)
{
	alf_position cons = load_acquire(&r->q->cons);          /* [CONS] */
	alf_position prod = alf_end(load_acquire(&r->q->prod)); /* [PROD] */
	/* What a topic evicts it does not take out at cons. */
	if ((alf_position)(prod - cons) > r->mask + 1 || topic_is(r))
		prod = cons;
	w->out->at = cons;
	w->out->end = prod;
}

/* Compares each entry of a ring with its buffer's owner word. They must agree, unless the entry has
 * been taken out since. Returns true when the ring is done. */
static bool walk_ring(struct walk *w, const struct alf_ring *r)
{
	for (; w->out->at != w->out->end; w->out->at = (alf_position)(w->out->at + 1)) {
		if (over(w, 2))
			return false;
		alf_position at = (alf_position)w->out->at;
		uint64_t word = alf_word(r, at), index = word & ALF_INDEX_MASK;
		if (alf_at(r, at, word) != ALF_AT_VALUE)
			continue;
		bool good = exists(w, index) &&
			    load_acquire(&pool_buffer(w->p, (uint32_t)index)->owner) ==
				    owner_transit(r->id, at); /* [OWNER] */
		if (!good && !audit_stale(w->p, r, at) &&
		    (alf_distance)(load_acquire(&r->q->cons) - at) <= 0) /* [CONS] */
			w->out->doubled++;
	}
	return true;
}

/* True if entries of the cache may be stale: a thief is taking buffers from it, or was when it
 * died. */
static bool emptied(const struct member *m)
{
	return cache_holder(load_acquire(&m->cache_bottom)); /* [CACHE] */
}

static void walk_cache(struct walk *w, const struct qmempool *p, const struct member *m)
{
	if (member_gone(load_acquire(&segment_holder(&p->segment, m)->identity))) /* [MEMBER] */
		return; /* what a dead member's cache lists counts as in its hands */
	uint64_t word = load_acquire(&m->cache_bottom);   /* [CACHE] */
	cache_position top = load_acquire(&m->cache_top); /* [CACHE] */
	cache_position bottom = cache_bottom_at(word, top);
	uint64_t mask = p->cache_mask;
	int64_t len = cache_between(word, top);
	if (len > (int64_t)p->cache_size)
		return; /* corrupted */
	for (uint32_t i = 0; i < len; i++) {
		uint64_t handle = load_relaxed(&m->cache[(bottom + i) & mask]);
		uint32_t index = handle_index(handle);
		/* The generations must agree: a buffer that a dead thief had taken may be the
		 * member's again, outside its cache. */
		bool good =
			exists(w, index) &&
			load_acquire(&pool_buffer(w->p, index)->owner) == m->tag && /* [OWNER] */
			load_relaxed(&pool_buffer(w->p, index)->handle) == handle &&
			!(w->cached[index / 64] >> index % 64 & 1);
		if (good)
			w->cached[index / 64] |= 1ull << index % 64;
		else if (i < cache_length(&p->segment, m) && !emptied(m))
			w->out->doubled++;
	}
}

/* Returns true when all caches are done. A cache has a few thousand words at most. */
static bool walk_caches(struct walk *w)
{
	const uint32_t members = w->p->segment.members, classes = segment_classes(&w->p->segment);
	for (; w->out->at < (uint64_t)members * classes; w->out->at++) {
		struct qmempool *p =
			pool_class((struct qmempool *)w->p, (uint32_t)(w->out->at / members));
		if (over(w, 4 + (uint32_t)p->cache_size))
			return false;
		walk_cache(w, p, segment_member(&p->segment, (uint32_t)(w->out->at % members)));
	}
	return true;
}

static void count_held(struct walk *w, uint32_t number, const struct buffer *b)
{
	if (number >= w->held_n)
		return;
	struct shmpool_held *held = &w->held[number];
	uint64_t since = load_relaxed(&b->since);
	if (!hold_state(since) && since && (!held->oldest_ns || since < held->oldest_ns))
		held->oldest_ns = since;
	held->buffers++;
}

/* Reads the op records of all members. The owner words of the buffers in question must have been
 * read before. */
static void look_for_movers(struct walk *w)
{
	const struct segment *s = &w->p->segment;
	w->movings = 0;
	for (uint32_t i = 0; i < s->members; i++)
		for (uint32_t k = 0; k < segment_classes(s); k++) {
			const struct member *block = segment_block(s, segment_member(s, i), k);
			uint64_t op = load_acquire(&block->op); /* [OP] */
			if (op)
				w->moving[w->movings++] = (struct moving) { op, i };
		}
}

/* Returns the number of the member whose operation is moving a buffer to or from the position, or
 * the number of member slots if there is none. */
static uint32_t mover(const struct walk *w, const struct alf_ring *r, alf_position position)
{
	uint32_t members = w->p->segment.members;
	uint32_t producer = tag_number(load_acquire(&r->q->producer)); /* [ROLE] */
	uint32_t consumer = tag_number(load_acquire(&r->q->consumer)); /* [ROLE] */
	for (uint32_t i = 0; i < w->movings; i++)
		if (alf_op_covers(w->moving[i].op, ALF_OP_ENQUEUE, r->id, position) ||
		    alf_op_covers(w->moving[i].op, ALF_OP_DEQUEUE, r->id, position))
			return w->moving[i].number;
	return producer < members ? producer : consumer < members ? consumer : members;
}

/* Counts a buffer where its owner word says that it is, if that place says the same. Returns false
 * if the buffer may be in motion. */
static bool count_one(struct walk *w, uint32_t index)
{
	const struct segment *s = &w->p->segment;
	const struct buffer *b = pool_buffer(w->p, index);
	uint64_t owner = load_acquire(&b->owner); /* [OWNER] */
	uint32_t number = tag_number(owner), queue = owner_queue(owner);
	if (owner_is_chained(owner)) {
		const bool whole = exists(w, owner_head(owner)) &&
				   handle_generation(load_acquire(
					   &pool_buffer(w->p, owner_head(owner))->handle)) ==
					   (uint32_t)owner;     /* [CHAIN] */
		if (!whole && load_acquire(&b->owner) != owner) /* [OWNER] */
			return false;
		w->out->chained += whole;
		w->out->free += !whole; /* for the next sweep */
		return true;
	}
	if (!(owner & OWNER_TRANSIT)) {
		if (owner & OWNER_ABANDONED) {
			w->out->free++; /* for the next sweep */
			return true;
		}
		if (w->cached[index / 64] >> index % 64 & 1) {
			w->out->cached++;
			return true;
		}
		if (number >= s->members ||
		    !load_acquire(&segment_member(s, number)->identity)) /* [MEMBER] */
			return false;
		count_held(w, number, b);
		return true;
	}
	const struct alf_ring *r = ring_of(w, queue);
	if (!r)
		return false;
	alf_position low = (alf_position)owner_position(owner);
	if (topic_is(r)) {
		uint64_t word = load_acquire(&b->since); /* [HOLD] */
		if (hold_state(word) == HOLD_FINAL &&
		    load_acquire(&b->owner) == owner) { /* [OWNER] */
			count_held(w, tag_number(word), b);
			return true;
		}
		if (hold_is(word, HOLD_HELD, queue, low)) {
			if (word & HOLD_BITS && queue < w->queued_n)
				w->queued[queue]++;
			w->out->free += !(word & HOLD_BITS); /* for the next sweep */
			return true;
		}
	}
	if ((alf_word(r, low) ^ alf_tag(r, low)) != index)
		return false;
	if (segment_free_ring(s, queue) < CLASSES_MAX)
		w->out->free++;
	else if (r->queue < w->queued_n)
		w->queued[r->queue]++;
	return true;
}

/* Counts a buffer that is between two places for the member whose operation it is part of. owner
 * must have been read before look_for_movers(). Returns false if no operation covers it. */
static bool count_moving(struct walk *w, uint32_t index, uint64_t owner)
{
	const struct alf_ring *r = owner & OWNER_TRANSIT ? ring_of(w, owner_queue(owner)) : NULL;
	const struct buffer *b = pool_buffer(w->p, index);
	if (!r)
		return false;
	uint32_t number = mover(w, r, (alf_position)owner_position(owner));
	if (number >= w->p->segment.members)
		return false;
	count_held(w, number, b);
	return true;
}

static bool damaged(const struct shmpool_audit *a)
{
	return a->unaccounted + a->doubled >= DAMAGED;
}

/* Inspects the buffers that may be in motion until all are counted, LOOKS times at most. Returns
 * true when it is done; what is left then is unaccounted. */
static bool count_pending(struct walk *w)
{
	struct shmpool_audit *a = w->out;
	uint64_t owner[PENDING];
	uint32_t looks = damaged(a) ? LOOKS_FEW : LOOKS;
	for (; a->pendings && a->looks < looks; a->looks++) {
		uint32_t left = 0, n = a->pendings;
		if (over(w, w->p->segment.members + n * (w->movings + 2)))
			return false;
		for (uint32_t i = 0; i < n; i++)
			owner[i] = load_acquire(
				&pool_buffer(w->p, a->pending[i])->owner); /* [OWNER] */
		look_for_movers(w);
		for (uint32_t i = 0; i < n; i++) {
			uint32_t index = a->pending[i];
			if (!count_one(w, index) && !count_moving(w, index, owner[i]))
				a->pending[left++] = index;
		}
		a->pendings = left;
	}
	a->unaccounted += a->pendings;
	a->pendings = a->looks = 0;
	return true;
}

/* Returns true when all buffers are done. Skips an extent that does not exist in one step. */
static bool walk_buffers(struct walk *w)
{
	struct shmpool_audit *a = w->out;
	while (a->at < w->p->total) {
		if (over(w, 3))
			return false;
		if (!exists(w, a->at)) {
			const struct segment *s =
				&pool_of((struct qmempool *)w->p, (uint32_t)a->at)->segment;
			uint64_t extent = segment_extent_of(s, (uint32_t)a->at);
			a->at = slab_extent_first(s, extent) + slab_extent_size(s, extent);
			continue;
		}
		if (a->pendings == PENDING && !count_pending(w))
			return false;
		a->total++;
		if (!count_one(w, (uint32_t)a->at))
			a->pending[a->pendings++] = (uint32_t)a->at;
		a->at++;
	}
	return count_pending(w);
}

static void begin(struct walk *w)
{
	uint32_t attempt = w->out->attempt;
	memset(w->cached, 0, audit_words(w->p->total) * 8);
	memset(w->out, 0, sizeof(*w->out));
	memset(w->held, 0, w->held_n * sizeof(*w->held));
	memset(w->queued, 0, w->queued_n * sizeof(*w->queued));
	w->out->attempt = attempt;
}

/* Continues the present stage. Returns true when it is done. */
static bool walk_stage(struct walk *w, uint32_t caches)
{
	const struct alf_ring *r;
	uint32_t stage = w->out->stage;
	if (stage == 0)
		begin(w);
	else if (stage < caches)
		return !(r = ring_of(w, stage - 1)) || walk_ring(w, r);
	else if (stage == caches)
		return walk_caches(w);
	else
		return walk_buffers(w);
	return true;
}

/* Goes to the next stage. After the last one it starts again if a buffer was met twice or nowhere,
 * ATTEMPTS times at most. */
static void next_stage(struct walk *w, uint32_t caches)
{
	struct shmpool_audit *a = w->out;
	const struct alf_ring *r;
	a->stage++;
	a->at = a->end = 0;
	if (a->stage < caches && (r = ring_of(w, a->stage - 1)))
		enter_ring(w, r);
	if (a->stage > caches + 1 && (a->unaccounted || a->doubled) && !damaged(a) &&
	    ++a->attempt < ATTEMPTS)
		a->stage = 0;
}

int audit_step(struct qmempool *p, struct shmpool_audit *out, struct shmpool_held *held,
	       size_t held_n, uint64_t *queued, size_t queued_n, uint64_t *met, int64_t budget_ns)
{
	uint32_t caches = segment_ring_count(&p->segment) + 1;
	struct walk w = { p,
			  met,
			  out,
			  held,
			  held_n,
			  queued,
			  queued_n,
			  NULL,
			  0,
			  CLOCK_WORK,
			  processor_ns() + budget_ns };
	if (!slab_backed(&p->segment))
		return -EBADMSG;
	for (uint32_t i = 1; i <= p->segment.geometry.queues; i++)
		if (!queue_ring(p, i) && queue_exists(p, i))
			return -ENOMEM;
	w.moving = calloc((size_t)p->segment.members * segment_classes(&p->segment),
			  sizeof(*w.moving));
	if (!w.moving)
		return -ENOMEM;
	while (out->stage <= caches + 1 && walk_stage(&w, caches))
		next_stage(&w, caches);
	free(w.moving);
	return out->stage <= caches + 1;
}

int audit_count(struct qmempool *p, struct shmpool_audit *out, struct shmpool_held *held,
		size_t held_n, uint64_t *queued, size_t queued_n)
{
	uint64_t *met = malloc(audit_words(p->total) * 8);
	int more = met ? 1 : -ENOMEM;
	memset(out, 0, sizeof(*out));
	while (more > 0)
		more = audit_step(p, out, held, held_n, queued, queued_n, met, INT64_MAX / 2);
	free(met);
	return more;
}
