/* SPDX-License-Identifier: Apache-2.0
 *
 * pool.h - one process's view of an open pool: where its buffers, rings and caches lie. All files
 * that move buffers work on this struct.
 *
 * Who may call what at the same time: pool_bind and pool_unbind one thread, while no other thread
 * uses the view; everything else any thread.
 */
#ifndef SHMPOOL_POOL_H
#define SHMPOOL_POOL_H

#include "owner.h"
#include "segment.h"

/* One process's view of one size class of an open pool. That of class 0 stands for the pool: it has
 * the named queues and what follows them, and leads to the other classes. */
struct qmempool {
	struct buffer *buffers; /* of all classes */
	uint32_t capacity;      /* one beyond the last index of the class */
	uint32_t bulk;
	uint64_t cache_size;
	uint64_t cache_mask; /* cache_size - 1; 0 without a cache */
	uint64_t absent;     /* slab_grow()'s hint */
	struct alf_ring free;
	struct alf_ring *side; /* the side rings of the class: side.h */
	uint32_t sides;
	struct segment segment;
	struct pool_shared *shared; /* the words of the class */
	struct qmempool *more;      /* the other classes */
	uint32_t total;             /* buffers of all classes */
	struct alf_ring **queues;   /* of named queues, by number; NULL until bound */
	uint32_t serial;            /* of this opening: opening.h */
	uint32_t closing;
	/* Hints of bypass_take(), shared by all threads: any value is good enough. */
	uint32_t bypass_at;     /* the buffer from which it goes on */
	uint64_t bypass_sum;    /* buffers freed and abandoned when it last found nothing */
	int64_t bypass_rest_ns; /* CLOCK_MONOTONIC: no search before it while that sum stays */
	uint64_t tend_ns; /* CLOCK_MONOTONIC: from then on a busy thread tends the pool: lookup.h */
	uint32_t tend_due; /* nonzero: a thread has noticed that it is time to */
};

/* Binds a checked segment. Returns 0 or -ENOMEM. */
int pool_bind(struct qmempool *p, const struct segment *s);
void pool_unbind(struct qmempool *p);

static inline struct buffer *pool_buffer(const struct qmempool *p, uint32_t index)
{
	return &p->buffers[index];
}

/* Returns the words of the class. */
static inline struct pool_shared *pool_shared(const struct qmempool *p)
{
	return p->shared;
}

/* Returns a class of the pool. */
static inline struct qmempool *pool_class(struct qmempool *p, uint32_t class)
{
	return class ? &p->more[class - 1] : p;
}

/* Returns the ring of free buffers that has this queue slot, NULL if none has. */
static inline const struct alf_ring *pool_free_ring(struct qmempool *p, uint32_t slot)
{
	const uint32_t class = segment_free_ring(&p->segment, slot);
	if (class == CLASSES_MAX)
		return NULL;
	const struct qmempool *of = pool_class(p, class);
	return of->free.id == slot ? &of->free : &of->side[slot - of->side->id];
}

/* Returns a ring's word of stale slots: bypass.h. */
static ALWAYS_INLINE alf_shared_position *pool_bypassed(const struct alf_ring *r)
{
	return &((struct queue_slot *)((char *)r->q - offsetof(struct queue_slot, queue)))
			->bypassed;
}

/* Returns how many buffers are in the rings of free buffers of the class. */
static inline uint64_t pool_free_count(const struct qmempool *p)
{
	uint64_t n = alf_count(&p->free);
	for (uint32_t i = 0; i < p->sides; i++)
		n += alf_count(&p->side[i]);
	return n;
}

/* The same after all these rings were read with seq_cst, for members that sleep and those that wake
 * them: of members that put into different rings, the last one counts what all have put. */
static inline uint64_t pool_free_seen(const struct qmempool *p)
{
	load_seq_cst(&p->free.q->prod); /* [WAIT] */
	for (uint32_t i = 0; i < p->sides; i++)
		load_seq_cst(&p->side[i].q->prod); /* [WAIT] */
	return pool_free_count(p);
}

/* Returns the class that has buffer index, which is below p->total. */
static inline struct qmempool *pool_of(struct qmempool *p, uint32_t index)
{
	if (likely(index < p->capacity))
		return p;
	uint32_t class = 1;
	while (index >= p->more[class - 1].capacity)
		class ++;
	return pool_class(p, class);
}

/* Returns the first class from class on that can ever have n free buffers; the number of classes if
 * there is none. */
static inline uint32_t pool_class_for(struct qmempool *p, uint32_t class, uint64_t n)
{
	while (class < segment_classes(&p->segment) &&
	       n > (uint64_t)pool_class(p, class)->segment.geometry.capacity)
		class ++;
	return class;
}

/* Returns how many bytes of data buffer index has, and where they are. */
static inline uint64_t pool_stride(const struct qmempool *p, uint32_t index)
{
	return pool_of((struct qmempool *)p, index)->segment.stride;
}

static inline char *pool_data(const struct qmempool *p, uint32_t index)
{
	return segment_data(&pool_of((struct qmempool *)p, index)->segment, index);
}

/* Returns the block that a member has in the class of p. m is its block of class 0. */
static inline struct member *pool_block(const struct qmempool *p, const struct member *m)
{
	return segment_block(&p->segment, m, p->segment.class);
}

/* Keeps those of n handles that name a buffer. Returns how many. */
uint32_t pool_filter(const struct qmempool *p, uint64_t *handle, uint32_t n);

/* Gives n buffers their handles back: undoes a free that failed at a later buffer. */
void pool_unfree(const struct qmempool *p, const uint64_t *handle, uint32_t n);

/* Abandons n buffers of the caller's member to the next recoverer, which frees them, or puts them
 * back into the queue, if that is not 0. */
void pool_abandon(const struct qmempool *p, const uint64_t *handle, uint32_t n, uint32_t queue);

/* Calls wake for each wait word of the pool in which a sleeper is counted. */
void pool_wake_sleepers(const struct qmempool *p, void (*wake)(uint32_t *word));

#endif
