/* SPDX-License-Identifier: Apache-2.0
 *
 * blocking.c - see blocking.h: the loop of every wait; waiting for room and for data.
 */
#include "blocking.h"

#include <sched.h>

#include "member.h"

_Thread_local bool blocking_idle;

/* One attempt more, after recovery of dead members, if they may be why there is nothing. */
static int retry_once(struct blocking *b, int result)
{
	if (b->kind->obstructed(b) && recover_if_due(b->p, b->m))
		result = b->kind->attempt_hard(b);
	return result;
}

int blocking_retry(struct blocking *b, int result)
{
	const struct blocking_kind *kind = b->kind;
	int slept = 0;
	if (result == -EBUSY && recover_role(b->p, b->m, b->r))
		result = kind->attempt(b);
	if (result == kind->nothing && b->deadline_ns == WAIT_NEVER)
		return retry_once(b, result);
	const int64_t until_ns = wait_coarse() + WAIT_POLLS_NS;
	for (uint32_t polls = 0, n; result == kind->nothing && polls < WAIT_POLLS &&
				    !blocking_idle && wait_coarse() < until_ns;
	     polls += n) {
		if (load_relaxed(&b->p->closing))
			return -ESHUTDOWN;
		n = kind->yields(b);
		for (uint32_t i = 0; i < n; i++)
			sched_yield();
		result = kind->attempt(b);
	}
	while (result == kind->nothing) {
		if (load_relaxed(&b->p->closing))
			return -ESHUTDOWN;
		blocking_idle = slept != 0;
		if (slept < 0)
			return slept == -ETIMEDOUT ? result : slept;
		slept = kind->sleep(b, &result);
		if (slept) { /* also after a signal: a timer's may end every sleep */
			recover_if_due(b->p, b->m);
			result = kind->attempt_hard(b);
		}
	}
	blocking_idle = false;
	return result;
}

#define FULL_YIELDS_MAX 8u /* between two polls of a full queue */
#define FULL_SHARE 128u    /* one for so many that it holds */

/* Each poll of a full queue steals the consumers' cache line, so a producer that polls often slows
 * a slower consumer down further. It polls less often the longer the queue is, some us apart at
 * most; then it finds room for a run. */
static uint32_t room_yields(const struct blocking *b)
{
	uint32_t n = 1 + alf_room(b->r) / FULL_SHARE;
	return n < FULL_YIELDS_MAX ? n : FULL_YIELDS_MAX;
}

/* An unpublished position at the head: its producer may be dead, and consumers cannot pass. */
static bool room_obstructed(const struct blocking *b)
{
	return !alf_ready(b->r, 0);
}

static int room_sleep(struct blocking *b, int *result)
{
	struct alf_queue *q = b->r->q;
	const bool obstructed = room_obstructed(b);
	/* room_many first: a recovery resets it last, so a member that is no longer
	 * counted in room_wait finds room_many changed. */
	uint32_t many = b->n > 1 ? wait_enter(&q->room_many) : 0;
	uint32_t entered = wait_enter(&q->room_wait);
	int slept = 0;
	if (b->n > 1)
		wait_want(&q->room_want, b->n);
	/* [WAIT] The attempt's own load of cons is not seq_cst: it might miss a move of cons whose
	 * consumer missed this sleeper. */
	load_seq_cst(&q->cons); /* [WAIT] */
	*result = b->kind->attempt(b);
	if (*result == -ENOBUFS) {
		int64_t most = obstructed ? b->most_ns : WAIT_SLICE_NS;
		if (b->n > 1)
			wait_wake_ones(&q->room_wait, &q->room_many, alf_avail_space(b->r));
		count_up(&b->m->counters[COUNT_SLEEP], 1);
		slept = b->n > 1 ? wait_sleep(&q->room_many, many, most, b->deadline_ns) :
				   wait_sleep(&q->room_wait, entered, most, b->deadline_ns);
	}
	if (b->n > 1)
		wait_leave(&q->room_many, many);
	wait_leave(&q->room_wait, entered);
	b->most_ns = obstructed ? wait_longer(b->most_ns, slept) : WAIT_SHORT_NS;
	return slept;
}

static int put_attempt(struct blocking *b)
{
	return queue_put(b->p, b->m, b->r, b->handle, b->n);
}

static const struct blocking_kind put_kind = { -ENOBUFS,        put_attempt, put_attempt,
					       room_obstructed, room_yields, room_sleep };

int blocking_put(struct qmempool *p, struct member *m, const struct alf_ring *r,
		 const uint64_t *handle, uint32_t n, int64_t deadline_ns)
{
	int error = queue_put(p, m, r, handle, n);
	if (likely(error != -ENOBUFS && error != -EBUSY))
		return error;
	struct blocking b = { .p = p,
			      .m = m,
			      .r = r,
			      .handle = (uint64_t *)handle, /* only read */
			      .n = n,
			      .deadline_ns = deadline_ns,
			      .kind = &put_kind,
			      .most_ns = WAIT_SHORT_NS };
	return blocking_retry(&b, error);
}

/* Of a queue with lanes any lane will do. The member sleeps until its own one has room. */
static int requeue_attempt(struct blocking *b)
{
	return requeue_put(b->p, b->m, queue_ring(b->p, b->r->queue), b->handle[0]);
}

static const struct blocking_kind requeue_kind = { -ENOBUFS,        requeue_attempt,
						   requeue_attempt, room_obstructed,
						   room_yields,     room_sleep };

int blocking_requeue(struct qmempool *p, struct member *m, uint64_t handle, int64_t deadline_ns,
		     uint32_t *to)
{
	int error = requeue(p, m, handle, to);
	if (error != -ENOBUFS)
		return error;
	struct blocking b = { .p = p,
			      .m = m,
			      .r = queue_in(m, queue_ring(p, *to)),
			      .handle = &handle,
			      .n = 1,
			      .deadline_ns = deadline_ns,
			      .kind = &requeue_kind,
			      .most_ns = WAIT_SHORT_NS };
	return blocking_retry(&b, error);
}

static bool data_obstructed(const struct blocking *b)
{
	return queue_see(b->r).reserved; /* [WAIT] */
}

static uint32_t data_yields(const struct blocking *b)
{
	(void)b;
	return 1;
}

static int get_attempt(struct blocking *b)
{
	return queue_get(b->p, b->m, b->r, b->handle, b->n);
}

int blocking_data_sleep(struct blocking *b, int *result)
{
	uint32_t *word = b->r->data_wait;
	uint32_t entered = wait_enter(word);
	int slept = 0;
	/* [WAIT] If nothing is reserved, a member that reserves from now on sees this sleeper. If
	 * something is reserved and not published, its producer may have read the wait word before:
	 * sleep for a short time, and longer and longer while nothing changes. A member that is
	 * resumed there sees the sleeper. */
	const bool reserved = b->kind->obstructed(b); /* [WAIT] */
	*result = b->kind->attempt(b);
	if (*result == -EAGAIN) {
		count_up(&b->m->counters[COUNT_SLEEP], 1);
		slept = wait_sleep(word, entered, reserved ? b->most_ns : WAIT_SLICE_NS,
				   b->deadline_ns);
	}
	wait_leave(word, entered);
	b->most_ns = reserved ? wait_longer(b->most_ns, slept) : WAIT_SHORT_NS;
	return slept;
}

static const struct blocking_kind get_kind = { -EAGAIN,         get_attempt, get_attempt,
					       data_obstructed, data_yields, blocking_data_sleep };

int blocking_get(struct qmempool *p, struct member *m, const struct alf_ring *r, uint64_t *handle,
		 uint32_t n, int64_t deadline_ns)
{
	int got = queue_get(p, m, r, handle, n);
	if (likely(got != -EAGAIN && got != -EBUSY))
		return got;
	struct blocking b = { .p = p,
			      .m = m,
			      .r = r,
			      .handle = handle,
			      .n = n,
			      .deadline_ns = deadline_ns,
			      .kind = &get_kind,
			      .most_ns = WAIT_SHORT_NS };
	got = blocking_retry(&b, got);
	/* A wake-up may have reached this member in vain: for a message behind a position that was
	 * not published yet. What it leaves now is another sleeper's. */
	if (got > 0 && wait_anybody(r->data_wait) && queue_ready(r)) /* [WAIT] after cons moved */
		wait_wake(r->data_wait, 1);
	return got;
}
