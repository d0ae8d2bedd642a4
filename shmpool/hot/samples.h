/* SPDX-License-Identifier: Apache-2.0
 *
 * samples.h - a Subscriber and its Samples: what both know of each other.
 *
 * A Sample is read-only: other subscribers read the same bytes. It keeps its Subscriber alive,
 * which keeps its topic and pool. The struct subscriber of a Subscriber points into the opened
 * pool, so it is used only while the pool has a key. A forked child has its parent's objects and
 * not its subscriptions: hot_process() tells them apart.
 */
#ifndef SHMPOOL_SAMPLES_H
#define SHMPOOL_SAMPLES_H

#include "hot.h"
#include "topic.h"

struct subscriber_object {
	PyObject_HEAD
	struct queue_object *topic;
	struct subscriber in;
	uint32_t process; /* hot_process() of the owner, HOT_RELEASED before it is open */
	/* The same, but HOT_RELEASED while it has a descriptor: as take_key of a queue. */
	uint32_t quick;
	int waker; /* of that descriptor, 0 for none */
};

struct sample_object {
	PyObject_HEAD
	struct subscriber_object *from;
	uint64_t handle;
	uint64_t sequence;
	uint32_t state;   /* hot_process(), or HOT_RELEASED */
	uint32_t exports; /* live views */
	bool later;       /* let go with the last view */
	uint32_t part;    /* 1 + the part of a chain that the next view covers, or 0 */
};

/* The key of the topic, 0 if the pool is closed. A closed Topic does not end subscriptions. */
static inline uint64_t samples_key(const struct subscriber_object *self)
{
	return self->topic && self->topic->pool && self->topic->pool->key && self->in.r ?
		       self->topic->pool->key | (uint64_t)self->in.r->id << KEY_QUEUE_SHIFT :
		       0;
}

static inline bool samples_mine(const struct subscriber_object *self)
{
	return self->process == *hot_process_number;
}

/* Returns a released Sample, to be filled with a message that is yet to be got; NULL with an
 * exception. May run Python code (a collection). */
struct sample_object *samples_new(struct subscriber_object *from);

#endif
