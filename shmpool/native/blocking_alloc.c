/* SPDX-License-Identifier: Apache-2.0
 *
 * blocking_alloc.c - see blocking.h: waiting for free buffers.
 *
 * An allocation that finds too little asks other members to flush their caches, takes what lies
 * behind a suspended member, and sleeps until there is enough. It holds nothing while it sleeps, so
 * that no member goes without a buffer that is free.
 *
 * Fairness. Members that wait for one buffer are woken first, and go ahead of those that wait for
 * many. A member that waits for many is woken when so many are free at one moment. While others
 * wait for one, that moment may never come. So once the others have got TURN_AFTER times as many
 * buffers as it waits for, it has a turn: it keeps what it gets, for TURN_FIRST_NS. If that is not
 * enough it gives all back, and the others get as many again before its next turn, which is twice
 * as long. A call that does not wait is held up only by what a turn has taken. A wait is made in
 * slices, between which signal handlers run: what a turn has collected stays the member's, and is
 * counted as allocated, until the next slice goes on with the turn.
 */
#include "blocking.h"
#include "bypass.h"

/* Headers that an attempt inspects behind a suspended member, where it is repeated: some 100 us. */
#define TRY_HEADERS 16384u
#define TURN_AFTER 4u
#define TURN_FIRST_NS 50000000ll
#define TURN_MOST_NS 3200000000ll
#define ALONE_MOST_NS 64000000ll

_Static_assert(MEMBERS_MAX <= WAIT_COUNT_MASK, "a wait word counts every member");

static int64_t earlier(int64_t one, int64_t other)
{
	return one < other ? one : other;
}

/* Buffers that have ever been taken from the free ring and the side rings. */
static alf_position taken(const struct qmempool *p)
{
	alf_position n = load_relaxed(&p->free.q->cons);
	for (uint32_t i = 0; i < p->sides; i++)
		n = (alf_position)(n + load_relaxed(&p->side[i].q->cons));
	return n;
}

/* Allocates from the class that serves, or a larger one, also if the first cannot grow. Inspects up
 * to headers headers of each behind a suspended member. */
static int alloc_from(struct blocking *b, uint32_t headers)
{
	int result = -EAGAIN;
	for (uint32_t i = b->of->segment.class; i < segment_classes(&b->p->segment); i++) {
		struct qmempool *of = pool_class(b->p, i);
		struct member *block = pool_block(of, b->m);
		int error = qmempool_alloc_bulk(of, block, b->handle, b->n);
		if (error == -EAGAIN && headers)
			error = qmempool_alloc_hard(of, block, b->handle, b->n, headers);
		if (!error)
			return 0;
		if (result == -EAGAIN)
			result = error;
	}
	return result;
}

static int alloc_attempt(struct blocking *b)
{
	return alloc_from(b, 0);
}

static int alloc_attempt_hard(struct blocking *b)
{
	return alloc_from(b, TRY_HEADERS);
}

/* Everywhere: an allocation of many must not miss what is enough. */
static int alloc_everywhere(struct blocking *b)
{
	return alloc_from(b, CAPACITY_MAX);
}

static bool alloc_obstructed(const struct blocking *b)
{
	(void)b;
	return true; /* a dead member may hold buffers anywhere */
}

static uint32_t alloc_yields(const struct blocking *b)
{
	(void)b;
	return 1;
}

static int sleep_for_one(struct blocking *b, int *result)
{
	uint32_t *word = &pool_shared(b->of)->free_wait, entered = wait_enter(word);
	int slept = 0;
	cache_request_flush(b->of);
	*result = alloc_everywhere(b);
	if (*result == -EAGAIN) {
		count_up(&b->m->counters[COUNT_SLEEP], 1);
		/* A member that was in the middle of a free did not see the request: its cache is
		 * read again soon, and then later and later. */
		slept = wait_sleep(word, entered, b->most_ns, b->deadline_ns);
	}
	wait_leave(word, entered);
	b->most_ns = wait_longer(b->most_ns, slept);
	return slept;
}

/* True if members that wait for one have got so many buffers that it is this member's turn. */
static bool turn_due(const struct blocking *b)
{
	return wait_ones(&pool_shared(b->of)->free_wait, &pool_shared(b->of)->free_many) &&
	       (alf_position)(taken(b->of) - (alf_position)b->turn->since) >=
		       (uint64_t)TURN_AFTER * b->n;
}

/* Goes on with a turn: keeps what it gets until it has n. Returns 0; -EINTR if the slice ends, or a
 * signal comes, before the turn ends; or another code if there are fewer. */
static int take_turn(const struct blocking *b)
{
	struct qmempool *p = b->of;
	struct shmpool_turn *turn = b->turn;
	const int64_t until_ns = earlier(turn->end_ns, b->deadline_ns);
	uint32_t have = turn->have, *word = &pool_shared(p)->free_wait;
	int slept = 0, got = -EAGAIN;
	turn->have = 0;
	while (have < b->n && slept >= 0 && (got > 0 || got == -EAGAIN) &&
	       !load_relaxed(&b->p->closing)) {
		uint32_t entered = wait_enter(word);
		cache_request_flush(p);
		got = qmempool_obtain(p, b->block, b->handle + have, b->n - have);
		if (got > 0)
			have += (uint32_t)got;
		else if (got == -EAGAIN)
			slept = wait_sleep(word, entered, WAIT_SHORT_NS, until_ns);
		wait_leave(word, entered);
		if (slept) /* the others may be dead, and this the only one that waits */
			recover_if_due(b->p, b->m);
	}
	if (have == b->n) {
		count_up(&b->block->counters[COUNT_ALLOC], b->n);
		turn->end_ns = 0;
		return 0;
	}
	if ((slept == -EINTR || slept == -ETIMEDOUT) && wait_now() < turn->end_ns) {
		count_up(&b->block->counters[COUNT_ALLOC], have);
		turn->have = have;
		return -EINTR;
	}
	free_ring_put(p, b->block, b->handle, have);
	turn->end_ns = 0;
	turn->length_ns = earlier(2 * turn->length_ns, TURN_MOST_NS);
	turn->since = taken(p);
	return slept == -EINTR ? -EINTR : got < 0 ? got : -EAGAIN;
}

/* Takes over what the turn had collected when the last slice ended. If a signal handler has forked
 * since, the child owns none of it. */
static void resume_turn(const struct blocking *b)
{
	uint32_t good = 0;
	for (uint32_t i = 0; i < b->turn->have; i++)
		if (!qmempool_check(b->of, b->block, b->handle[i]))
			b->handle[good++] = b->handle[i];
	count_up(&b->block->counters[COUNT_ALLOC], -(uint64_t)good);
	b->turn->have = good;
}

/* Sleeps until n buffers are free at one moment. */
static int sleep_until_free(struct blocking *b)
{
	struct qmempool *p = b->of;
	struct pool_shared *s = pool_shared(p);
	/* free_many first: a recovery resets it last, so a member that is no longer
	 * counted in free_wait finds free_many changed. */
	uint32_t many = wait_enter(&s->free_many), entered = wait_enter(&s->free_wait);
	int slept = 0;
	cache_request_flush(p);
	/* [WAIT] The number of buffers in the free rings with which there would be enough, n at
	 * most: members that free read no more than the counts of these. The two numbers are not of
	 * one moment: without the limit a claim between them asks for more than are needed. */
	uint64_t queued = pool_free_count(p), counted = qmempool_count(p, b->n);
	uint64_t want = queued + b->n - counted + (counted == b->n);
	wait_want(&s->free_want, want < b->n ? (uint32_t)want : b->n);
	pool_free_seen(p); /* [WAIT] */
	if (qmempool_count(p, b->n) < b->n) {
		wait_wake_ones(&s->free_wait, &s->free_many, (uint32_t)pool_free_count(p));
		count_up(&b->m->counters[COUNT_SLEEP], 1);
		slept = wait_sleep(&s->free_many, many, b->most_ns, b->deadline_ns);
	}
	wait_leave(&s->free_many, many);
	wait_leave(&s->free_wait, entered);
	b->most_ns = wait_longer(b->most_ns, slept);
	b->alone_ns = WAIT_SHORT_NS;
	return slept;
}

/* Sleeps while enough buffers count as free and cannot be had: they are behind a suspended member,
 * or on their way. No member wakes it. */
static int sleep_alone(struct blocking *b)
{
	uint32_t word = 0;
	count_up(&b->m->counters[COUNT_SLEEP], 1);
	int slept = wait_sleep(&word, 0, b->alone_ns, b->deadline_ns);
	b->alone_ns = earlier(2 * b->alone_ns, ALONE_MOST_NS);
	return slept;
}

static int sleep_for_many(struct blocking *b, int *result)
{
	*result = alloc_everywhere(b);
	if (*result == -EAGAIN && turn_due(b)) {
		b->turn->end_ns = earlier(b->until_ns, wait_now() + b->turn->length_ns);
		*result = take_turn(b);
	}
	if (*result != -EAGAIN)
		return 0;
	return qmempool_count(b->of, b->n) < b->n ? sleep_until_free(b) : sleep_alone(b);
}

static const struct blocking_kind one_kind = { -EAGAIN,          alloc_attempt, alloc_attempt_hard,
					       alloc_obstructed, alloc_yields,  sleep_for_one };
static const struct blocking_kind many_kind = { -EAGAIN,          alloc_attempt, alloc_everywhere,
						alloc_obstructed, alloc_yields,  sleep_for_many };

int blocking_alloc_class(struct qmempool *p, struct member *m, uint32_t class, uint64_t *handle,
			 uint32_t n, int64_t deadline_ns)
{
	struct shmpool_turn turn = { 0 };
	return blocking_alloc_turns(p, m, class, handle, n, deadline_ns, deadline_ns, &turn);
}

int blocking_alloc_turns(struct qmempool *p, struct member *m, uint32_t class, uint64_t *handle,
			 uint32_t n, int64_t deadline_ns, int64_t until_ns,
			 struct shmpool_turn *turn)
{
	class = pool_class_for(p, class, n);
	if (class == segment_classes(&p->segment))
		return -EAGAIN;
	struct qmempool *of = pool_class(p, class);
	struct blocking b = { .p = p,
			      .m = m,
			      .of = of,
			      .block = pool_block(of, m),
			      .handle = handle,
			      .n = n,
			      .deadline_ns = deadline_ns,
			      .kind = n == 1 ? &one_kind : &many_kind,
			      .most_ns = WAIT_SHORT_NS,
			      .alone_ns = WAIT_SHORT_NS,
			      .until_ns = until_ns,
			      .turn = turn };
	int error = turn->end_ns ? -EAGAIN : alloc_attempt(&b);
	if (error != -EAGAIN)
		return error;
	if (!turn->length_ns)
		*turn = (struct shmpool_turn) { .length_ns = TURN_FIRST_NS, .since = taken(of) };
	if (turn->end_ns) {
		resume_turn(&b);
		error = take_turn(&b);
		if (error != -EAGAIN)
			return error;
	}
	if (deadline_ns == WAIT_NEVER && bypass_needed(of)) {
		error = alloc_attempt_hard(&b);
		if (error != -EAGAIN)
			return error;
	}
	return blocking_retry(&b, error);
}

int blocking_alloc_some(struct qmempool *p, struct member *m, uint32_t class, uint64_t *handle,
			uint32_t n, int64_t deadline_ns)
{
	struct qmempool *of = pool_class(p, class);
	if (n == 0 || qmempool_alloc_bulk(of, pool_block(of, m), handle, n) == 0)
		return (int)n;
	int error = blocking_alloc_class(p, m, class, handle, 1, deadline_ns);
	if (error)
		return error;
	/* The first one has filled the cache, if there was anything to fill it with. */
	of = pool_of(p, handle_index(handle[0]));
	uint32_t have = 1;
	while (have < n && qmempool_alloc_bulk(of, pool_block(of, m), handle + have, 1) == 0)
		have++;
	return (int)have;
}
