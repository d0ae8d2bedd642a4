/* SPDX-License-Identifier: Apache-2.0
 *
 * topics.c - the calls of binding.h and shmpool.h that publish to topics and subscribe to them.
 */
#include <errno.h>
#include <limits.h>

#include "blocking.h"
#include "lookup.h"
#include "recover.h"

/* Finds the topic that a key names. -EXDEV if it is a queue. */
static int lookup_topic(uint64_t key, struct lookup *c)
{
	int error = lookup_queue(key, c);
	return error ? error : topic_is(c->ring) ? 0 : -EXDEV;
}

int64_t shmpool_publish(uint64_t key, const uint64_t *handles, size_t n)
{
	struct lookup c;
	int error = lookup_topic(key, &c);
	if (error || !n)
		return error;
	error = n > TOPIC_BULK ? -EMSGSIZE : topic_publish(c.p, c.m, c.ring, handles, (uint32_t)n);
	return error == -ENOBUFS ? -EINPROGRESS : error; /* it may be a dead subscriber's */
}

int64_t shmpool_publish_wait(uint64_t key, const uint64_t *handles, size_t n, int64_t deadline)
{
	struct lookup c;
	const int64_t end = wait_slice_end(deadline);
	int error = lookup_topic(key, &c);
	if (error || !n)
		return error;
	if (n > TOPIC_BULK)
		return -EMSGSIZE;
	error = blocking_publish(c.p, c.m, c.ring, handles, (uint32_t)n, end);
	return wait_slice_result(error, end, deadline);
}

int64_t shmpool_subscribe(uint64_t key, uint32_t policy, uint32_t start, struct subscriber *s)
{
	struct lookup c;
	int error = lookup_topic(key, &c);
	if (!error)
		error = topic_subscribe(c.p, c.m, c.ring, policy, start, s);
	return error == -EUSERS ? -ENOTEMPTY : error;
}

int shmpool_vacancy_wait(int pool, int topic)
{
	struct wait_tries tries = { 0 };
	struct shmpool_recovery done;
	struct lookup c;
	int vacancy = lookup_topic(key_of((uint32_t)pool, (uint32_t)topic), &c);
	if (vacancy)
		return vacancy;
	do {
		recover_passes(c.p, c.m, &done, 1);
		vacancy = topic_vacancy(c.ring);
		if (load_relaxed(&c.p->closing))
			return -ESHUTDOWN;
	} while (vacancy == -EAGAIN && wait_again(&tries));
	return vacancy == -EAGAIN ? 0 : vacancy;
}

int64_t shmpool_take(uint64_t key, struct subscriber *s, uint64_t *handles, uint64_t *sequences,
		     size_t n)
{
	struct lookup c;
	int error = lookup_topic(key, &c);
	if (error)
		return error;
	const int got = topic_get(c.p, c.m, s, handles, sequences, (uint32_t)n);
	/* A message that is being published: its publisher may be dead. */
	const bool stuck = got == -EAGAIN && s->policy != TOPIC_LATEST &&
			   load_relaxed(&c.m->counters[COUNT_EMPTY]) % QUEUE_EMPTIES == 0 &&
			   topic_lag(s);
	return stuck ? -EINPROGRESS : got;
}

int64_t shmpool_take_wait(uint64_t key, struct subscriber *s, uint64_t *handles,
			  uint64_t *sequences, size_t n, int64_t deadline)
{
	struct lookup c;
	const int64_t end = wait_slice_end(deadline);
	int error = lookup_topic(key, &c);
	if (error)
		return error;
	const int got = blocking_take(c.p, c.m, s, handles, sequences, (uint32_t)n, end);
	return wait_slice_result(got, end, deadline);
}

int64_t shmpool_done(uint64_t key, struct subscriber *s, const uint64_t *handles, size_t n)
{
	struct lookup c;
	int error = lookup_topic(key, &c);
	if (!error)
		topic_let_go(c.p, c.m, s, handles, (uint32_t)n);
	return error;
}

int64_t shmpool_unsubscribe(uint64_t key, struct subscriber *s)
{
	struct lookup c;
	int error = lookup_topic(key, &c);
	if (!error) {
		const uint32_t index = c.ring->id | s->number << SHMPOOL_SUBSCRIBER_SHIFT;
		topic_unsubscribe(c.p, c.m, s);
		if (opening_subscriber_ends)
			opening_subscriber_ends(key_pool(key), index);
	}
	return error;
}

int shmpool_topic_room(int pool, int topic)
{
	struct lookup c;
	int error = lookup_to_read((uint32_t)pool, (uint32_t)topic, &c);
	if (error)
		return error;
	const uint32_t room = topic_is(c.ring) ? topic_room(c.ring) : 0;
	return (int)opening_read((uint32_t)pool, room > INT_MAX ? INT_MAX : (int64_t)room);
}
