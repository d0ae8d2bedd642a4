/* SPDX-License-Identifier: Apache-2.0
 *
 * queue_wait.c - see queue.h: puts that wait for room, gets that wait for data.
 */
#include <sched.h>

#include "member.h"
#include "queue.h"
#include "recover.h"
#include "wait.h"

#define FULL_APART 8   /* looks of a producer at a full queue: most yields between two */
#define FULL_SHARE 128 /* one for so many of its slots */

/* sched_yield() calls between two looks at a full queue. Each look takes the consumers' line from
 * them, so a producer at the heels of a slower consumer slows it down further; a longer queue lets
 * it stay away for longer (some us), and then it has room for a run. */
static int look_apart(const struct alf_ring *r)
{
	uint32_t n = 1 + alf_capacity(r) / FULL_SHARE;
	return (int)(n < FULL_APART ? n : FULL_APART);
}

/* One sleep until there is room for n. What wait_sleep() returns, 0 with *error the result of an
 * attempt before it. */
static int sleep_for_room(struct qmempool *p, struct member *m, const struct alf_ring *r,
			  const uint64_t *handle, uint32_t n, int64_t most, int64_t deadline_ns,
			  queue_attempt *attempt, int *error)
{
	struct alf_queue *q = r->q;
	/* The second word first: as in alloc_wait.c. */
	uint32_t many = n > 1 ? wait_enter(&q->room_many) : 0, entered = wait_enter(&q->room_wait);
	int slept = 0;
	if (n > 1)
		wait_want(&q->room_want, n);
	/* [WAIT] alf_reserve's own load is no seq_cst one: it might miss a move of cons whose
	 * consumer missed this sleeper. */
	load_seq_cst(&q->cons);
	*error = attempt(p, m, r, handle, n);
	if (*error == -ENOBUFS) {
		if (n > 1)
			wait_pass_on(&q->room_wait, &q->room_many, alf_avail_space(r));
		count_up(&m->counters[COUNT_SLEEP], 1);
		slept = n > 1 ? wait_sleep(&q->room_many, many, most, deadline_ns) :
				wait_sleep(&q->room_wait, entered, most, deadline_ns);
	}
	if (n > 1)
		wait_leave(&q->room_many, many);
	wait_leave(&q->room_wait, entered);
	return slept;
}

int queue_room_wait(struct qmempool *p, struct member *m, const struct alf_ring *r,
		    const uint64_t *handle, uint32_t n, int64_t deadline_ns, queue_attempt *attempt)
{
	int error = -ENOBUFS, slept = 0;
	int64_t most = WAIT_SHORT_NS;
	if (deadline_ns == WAIT_NEVER)
		return !alf_ready(r, 0) && recover_stuck(p, m) ? attempt(p, m, r, handle, n) :
								 error;
	for (int polls = 0; error == -ENOBUFS; polls += look_apart(r)) {
		if (load_relaxed(&p->closing))
			return -ESHUTDOWN;
		if (slept < 0)
			return slept == -ETIMEDOUT ? error : slept;
		if (polls < WAIT_POLLS) {
			for (int i = look_apart(r); i; i--)
				sched_yield();
			error = attempt(p, m, r, handle, n);
			continue;
		}
		/* Behind a position that is not published: its producer may be dead. */
		bool stuck = !alf_ready(r, 0);
		slept = sleep_for_room(p, m, r, handle, n, stuck ? most : WAIT_SLICE_NS,
				       deadline_ns, attempt, &error);
		most = stuck ? wait_longer(most, slept) : WAIT_SHORT_NS;
		if (slept > 0 || slept == -ETIMEDOUT)
			recover_stuck(p, m);
		if (slept)
			error = attempt(p, m, r, handle, n);
	}
	return error;
}

int queue_put_wait(struct qmempool *p, struct member *m, const struct alf_ring *r,
		   const uint64_t *handle, uint32_t n, int64_t deadline_ns)
{
	int error = queue_put(p, m, r, handle, n);
	if (unlikely(error == -EBUSY) && recover_stuck(p, m))
		error = queue_put(p, m, r, handle, n);
	return likely(error != -ENOBUFS) ?
		       error :
		       queue_room_wait(p, m, r, handle, n, deadline_ns, queue_put);
}

int queue_get_wait(struct qmempool *p, struct member *m, const struct alf_ring *r, uint64_t *handle,
		   uint32_t n, int64_t deadline_ns)
{
	int got = queue_get(p, m, r, handle, n), slept = 0;
	int64_t most = WAIT_SHORT_NS;
	if (got == -EBUSY || (got == -EAGAIN && deadline_ns == WAIT_NEVER && !alf_empty(r)))
		if (recover_stuck(p, m))
			got = queue_get(p, m, r, handle, n);
	for (int polls = 0; got == -EAGAIN && deadline_ns != WAIT_NEVER; polls++) {
		if (load_relaxed(&p->closing))
			return -ESHUTDOWN;
		if (slept < 0)
			return slept == -ETIMEDOUT ? got : slept;
		if (polls < WAIT_POLLS) {
			sched_yield();
			got = queue_get(p, m, r, handle, n);
			continue;
		}
		uint32_t *word = &r->q->data_wait, entered = wait_enter(word);
		/* [WAIT] Nothing reserved: whoever reserves from now on sees the sleeper. Something
		 * reserved but not published: its producer may have looked before, so look soon,
		 * and later and later while it stays so: whoever goes on with it sees the sleeper.
		 *  */
		bool reserved = load_seq_cst(&r->q->prod) != load_seq_cst(&r->q->cons);
		got = queue_get(p, m, r, handle, n);
		slept = 0; /* or a later get would overwrite what this one got */
		if (got == -EAGAIN) {
			count_up(&m->counters[COUNT_SLEEP], 1);
			slept = wait_sleep(word, entered, reserved ? most : WAIT_SLICE_NS,
					   deadline_ns);
		}
		wait_leave(word, entered);
		most = reserved ? wait_longer(most, slept) : WAIT_SHORT_NS;
		if (slept > 0 || slept == -ETIMEDOUT)
			recover_stuck(p, m);
		if (slept)
			got = queue_get(p, m, r, handle, n);
	}
	return got;
}
