/* SPDX-License-Identifier: Apache-2.0
 *
 * alloc_wait.c - see qmempool.h: what an allocation does that finds too little.
 *
 * It asks who is dead, takes what lies behind a stopped member, and then sleeps, until there is
 * enough or its deadline comes. Meanwhile it holds nothing, so that nobody goes without a buffer
 * that is free.
 *
 * Fairness. Who waits for one is woken first, and goes ahead of whoever waits for many. Who waits
 * for many is woken when so many are free at one moment. While others sleep for one, that moment
 * may never come; so when they have been served TURN_AFTER times as many as it waits for, it has a
 * turn: what it gets it keeps, for a while. If that is not enough it gives all back, and the others
 * are served so many times as much again before its next turn, which is twice as long. Nobody who
 * does not wait (timeout 0) is held up by anything but what a turn has taken.
 */
#include <sched.h>

#include "member.h"
#include "qmempool.h"
#include "recover.h"
#include "wait.h"

#define TRY_LOOKS                                                                                  \
	16384u /* headers that an allocation with deadline WAIT_NEVER looks at: some 100 us */
#define TURN_AFTER 4u
#define TURN_FIRST_NS 50000000ll
#define TURN_MOST_NS 3200000000ll
#define UNTAKEN_MOST_NS 64000000ll

_Static_assert(MEMBERS_MAX <= WAIT_COUNT_MASK, "a wait word counts every member");

static struct pool_shared *shared(const struct qmempool *p)
{
	return segment_shared(&p->segment);
}

void qmempool_wake(struct qmempool *p)
{
	struct pool_shared *s = shared(p);
	if (!wait_anybody(&s->free_wait)) /* [WAIT] */
		return;
	wait_wake(&s->free_wait, UINT32_MAX);
	wait_wake(&s->free_many, UINT32_MAX);
}

uint64_t qmempool_count(struct qmempool *p, uint64_t most)
{
	uint64_t n = alf_count(&p->free) + load_relaxed(&shared(p)->abandoned) -
		     load_relaxed(&shared(p)->swept);
	if (n >= most)
		return most;
	for (uint32_t i = 0; i < p->segment.members && n < most; i++)
		n += member_cached(&p->segment, segment_member(&p->segment, i));
	return n < most ? n + slab_absent(&p->segment, &p->absent, most - n) : most;
}

/* Buffers that have ever been taken from the shared queue. */
static alf_position taken(const struct qmempool *p)
{
	return load_relaxed(&p->free.q->cons);
}

static int64_t earlier(int64_t one, int64_t other)
{
	return one < other ? one : other;
}

/* The turn of who waits for many: keeps what it gets until it has n. */
static int take_turn(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t n,
		     int64_t deadline_ns)
{
	uint32_t have = 0, *word = &shared(p)->free_wait;
	int slept = 0, got = -EAGAIN;
	while (have < n && slept >= 0 && (got > 0 || got == -EAGAIN) &&
	       !load_relaxed(&p->closing)) {
		uint32_t entered = wait_enter(word);
		qmempool_request(p);
		got = qmempool_obtain(p, m, handle + have, n - have);
		if (got > 0)
			have += (uint32_t)got;
		else if (got == -EAGAIN)
			slept = wait_sleep(word, entered, WAIT_SHORT_NS, deadline_ns);
		wait_leave(word, entered);
	}
	if (have == n) {
		count_up(&m->counters[COUNT_ALLOC], n);
		return 0;
	}
	qmempool_give(p, m, handle, have);
	return slept == -EINTR ? -EINTR : got < 0 ? got : -EAGAIN;
}

/* One sleep until n buffers are free at a time. What wait_sleep() returned. */
static int sleep_for_many(struct qmempool *p, struct member *m, uint32_t n, int64_t most,
			  int64_t deadline_ns)
{
	struct pool_shared *s = shared(p);
	/* The second word first, which recover_sleepers() forgets last: who is no longer counted in
	 * the first finds the second changed. */
	uint32_t many = wait_enter(&s->free_many), entered = wait_enter(&s->free_wait);
	int slept = 0;
	qmempool_request(p);
	/* [WAIT] What is in the shared queue now and what is missing: givers look at no more than
	 * that. */
	uint64_t queued = alf_count(&p->free), counted = qmempool_count(p, n);
	wait_want(&s->free_want, (uint32_t)(queued + n - counted + (counted == n)));
	load_seq_cst(&p->free.q->prod);
	if (qmempool_count(p, n) < n) {
		wait_pass_on(&s->free_wait, &s->free_many, alf_count(&p->free));
		count_up(&m->counters[COUNT_SLEEP], 1);
		slept = wait_sleep(&s->free_many, many, most, deadline_ns);
	}
	wait_leave(&s->free_many, many);
	wait_leave(&s->free_wait, entered);
	return slept;
}

/* What counts as free and is not to be had is behind a stopped member, or on its way: nobody wakes
 * for it. */
static int sleep_alone(struct member *m, int64_t most, int64_t deadline_ns)
{
	uint32_t nobody = 0;
	count_up(&m->counters[COUNT_SLEEP], 1);
	return wait_sleep(&nobody, 0, most, deadline_ns);
}

static int wait_for_one(struct qmempool *p, struct member *m, uint64_t *handle, int64_t deadline_ns)
{
	uint32_t *word = &shared(p)->free_wait;
	int error = -EAGAIN, slept = 0;
	for (int64_t most = WAIT_SHORT_NS; error == -EAGAIN; most = wait_longer(most, slept)) {
		if (load_relaxed(&p->closing))
			return -ESHUTDOWN;
		if (slept < 0)
			return slept == -ETIMEDOUT ? error : slept;
		uint32_t entered = wait_enter(word);
		qmempool_request(p);
		error = qmempool_alloc_hard(p, m, handle, 1, p->capacity);
		slept = 0;
		if (error == -EAGAIN) {
			count_up(&m->counters[COUNT_SLEEP], 1);
			/* Who was in the middle of a free did not see the request: soon, and then
			 * less and less soon, it is looked for in its cache. */
			slept = wait_sleep(word, entered, most, deadline_ns);
		}
		wait_leave(word, entered);
		if (slept > 0 || slept == -ETIMEDOUT)
			recover_stuck(p, m);
		if (slept)
			error = qmempool_alloc_hard(p, m, handle, 1, TRY_LOOKS);
	}
	return error;
}

/* Whether others that wait for one have had so much since then that it is the turn of who waits for
 * n. */
static bool passed_over(const struct qmempool *p, uint32_t n, alf_position since)
{
	return wait_ones(&shared(p)->free_wait, &shared(p)->free_many) &&
	       (uint64_t)(alf_position)(taken(p) - since) >= (uint64_t)TURN_AFTER * n;
}

static int wait_for_many(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t n,
			 int64_t deadline_ns)
{
	int64_t most = WAIT_SHORT_NS, alone = WAIT_SHORT_NS, turn = TURN_FIRST_NS;
	alf_position since = taken(p);
	int error, slept = 0;
	while ((error = qmempool_alloc_hard(p, m, handle, n, p->capacity)) == -EAGAIN) {
		if (load_relaxed(&p->closing))
			return -ESHUTDOWN;
		if (slept < 0)
			return slept == -ETIMEDOUT ? error : slept;
		if (passed_over(p, n, since)) {
			error = take_turn(p, m, handle, n, earlier(deadline_ns, wait_now() + turn));
			if (error != -EAGAIN)
				return error;
			turn = earlier(2 * turn, TURN_MOST_NS);
			since = taken(p);
		}
		if (qmempool_count(p, n) < n) {
			slept = sleep_for_many(p, m, n, most, deadline_ns);
			most = wait_longer(most, slept);
			alone = WAIT_SHORT_NS;
		} else {
			slept = sleep_alone(m, alone, deadline_ns);
			alone = earlier(2 * alone, UNTAKEN_MOST_NS);
		}
		if (slept > 0 || slept == -ETIMEDOUT)
			recover_stuck(p, m);
	}
	return error;
}

int qmempool_alloc_wait(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t n,
			int64_t deadline_ns)
{
	int error = qmempool_alloc_bulk(p, m, handle, n);
	if (error != -EAGAIN || n > p->capacity)
		return error;
	if (deadline_ns == WAIT_NEVER) {
		if (qmempool_blocked(p))
			error = qmempool_alloc_hard(p, m, handle, n, TRY_LOOKS);
		if (error == -EAGAIN && recover_stuck(p, m))
			error = qmempool_alloc_hard(p, m, handle, n, TRY_LOOKS);
		return error;
	}
	for (int polls = 0; polls < WAIT_POLLS; polls++) {
		sched_yield();
		error = qmempool_alloc_bulk(p, m, handle, n);
		if (error != -EAGAIN)
			return error;
	}
	return n == 1 ? wait_for_one(p, m, handle, deadline_ns) :
			wait_for_many(p, m, handle, n, deadline_ns);
}

int qmempool_alloc_some_wait(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t n,
			     int64_t deadline_ns)
{
	if (n == 0 || qmempool_alloc_bulk(p, m, handle, n) == 0)
		return (int)n;
	int error = qmempool_alloc_wait(p, m, handle, 1, deadline_ns);
	if (error)
		return error;
	/* The first one has filled the cache, if there was anything to fill it with. */
	uint32_t have = 1;
	while (have < n && qmempool_alloc_bulk(p, m, handle + have, 1) == 0)
		have++;
	return (int)have;
}
