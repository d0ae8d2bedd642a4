/* SPDX-License-Identifier: Apache-2.0
 *
 * blocking_topic.c - see blocking.h: waiting for room in a topic, and for messages.
 */
#include "blocking.h"

struct topic_wait {
	struct blocking b;
	struct subscriber *s;
	uint64_t *position;
};

static int publish_attempt(struct blocking *b)
{
	return topic_publish(b->p, b->m, b->r, b->handle, b->n);
}

/* Recovers dead subscribers at once: they hold up this topic and nobody else. True if there were
 * some. */
static bool recovered_dead(const struct blocking *b)
{
	struct shmpool_recovery out;
	return topic_blocked_by_dead(b->p, b->m, b->r) && !recover_passes(b->p, b->m, &out, 1);
}

static int publish_hard(struct blocking *b)
{
	const int error = publish_attempt(b);
	return error == -ENOBUFS && recovered_dead(b) ? publish_attempt(b) : error;
}

/* The position one ring before the next one, as the head of a queue: its publisher may be dead. */
static bool publish_obstructed(const struct blocking *b)
{
	return topic_unpublished(b->r);
}

static uint32_t yields(const struct blocking *b)
{
	(void)b;
	return 1;
}

static int publish_sleep(struct blocking *b, int *result)
{
	struct alf_queue *q = b->r->q;
	uint32_t entered = wait_enter(&q->room_wait);
	int slept = 0;
	*result = publish_attempt(b); /* [WAIT] reads the cursors seq_cst */
	if (*result == -ENOBUFS) {
		count_up(&b->m->counters[COUNT_SLEEP], 1);
		slept = wait_sleep(&q->room_wait, entered, b->most_ns, b->deadline_ns);
	}
	wait_leave(&q->room_wait, entered);
	b->most_ns = wait_longer(b->most_ns, slept);
	if (b->most_ns > BLOCKING_ASK_NS)
		b->most_ns = BLOCKING_ASK_NS;
	return slept;
}

static const struct blocking_kind publish_kind = { -ENOBUFS,     publish_attempt,
						   publish_hard, publish_obstructed,
						   yields,       publish_sleep };

int blocking_publish(struct qmempool *p, struct member *m, const struct alf_ring *r,
		     const uint64_t *handle, uint32_t n, int64_t deadline_ns)
{
	struct blocking b = { .p = p,
			      .m = m,
			      .r = r,
			      .handle = (uint64_t *)handle, /* only read */
			      .n = n,
			      .deadline_ns = deadline_ns,
			      .kind = &publish_kind,
			      .most_ns = WAIT_SHORT_NS };
	int error = topic_publish(p, m, r, handle, n);
	if (likely(error != -ENOBUFS))
		return error;
	/* A call that waits polls before it asks the kernel for dead subscribers. */
	if (deadline_ns == WAIT_NEVER && recovered_dead(&b))
		error = publish_attempt(&b);
	return error == -ENOBUFS ? blocking_retry(&b, error) : error;
}

static int take_attempt(struct blocking *b)
{
	const struct topic_wait *w = (const struct topic_wait *)b;
	return topic_get(b->p, b->m, w->s, b->handle, w->position, b->n);
}

static bool take_obstructed(const struct blocking *b)
{
	queue_see(b->r); /* [WAIT] and the end: nobody takes at cons */
	return topic_lag(((const struct topic_wait *)b)->s) != 0;
}

static const struct blocking_kind take_kind = {
	-EAGAIN, take_attempt, take_attempt, take_obstructed, yields, blocking_data_sleep
};

int blocking_take(struct qmempool *p, struct member *m, struct subscriber *s, uint64_t *handle,
		  uint64_t *position, uint32_t n, int64_t deadline_ns)
{
	int got = topic_get(p, m, s, handle, position, n);
	if (likely(got != -EAGAIN))
		return got;
	struct topic_wait w = { .b = { .p = p,
				       .m = m,
				       .r = s->r,
				       .handle = handle,
				       .n = n,
				       .deadline_ns = deadline_ns,
				       .kind = &take_kind,
				       .most_ns = WAIT_SHORT_NS },
				.s = s,
				.position = position };
	return blocking_retry(&w.b, got);
}
