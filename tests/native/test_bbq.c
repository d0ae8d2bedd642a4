/* SPDX-License-Identifier: Apache-2.0
 *
 * test_bbq.c - the benchmark's BBQ (clients/bench/native/bbq.h) by itself and with threads: nothing
 * is lost or doubled, and each consumer gets each producer's words in order.
 *
 * Usage: test_bbq WORDS, for each producer.
 */
#define _GNU_SOURCE
#include "bbq.h"
#include "check.h"

#include <sched.h>

#define PRODUCERS 3u
#define CONSUMERS 2u
#define BULK 64u

void *bench_memory(struct bench_run *run, size_t bytes)
{
	(void)run;
	return memset(aligned_alloc(CACHE_LINE, bytes), 0, bytes);
}

static struct bbq *queue;
static uint64_t each; /* words of a producer */
static uint64_t left; /* words that no consumer has got yet */
static uint8_t *seen; /* how often each word was got */

/* In one thread: every bulk, round the blocks and until the queue is full and empty. */
static void test_alone(uint32_t bulk, bool single)
{
	uint64_t in[BULK], out[BULK], next_in = 0, next_out = 0;
	struct bbq *q = bbq_create(NULL);
	for (uint32_t round = 0; round < 1000; round++) {
		const uint32_t n = 1 + round * 7 % bulk;
		for (uint32_t i = 0; i < n; i++)
			in[i] = next_in + i;
		next_in += bbq_put(q, in, n, single);
		const uint32_t want = 1 + round * 5 % bulk;
		const uint64_t have = next_in - next_out;
		const uint32_t got = bbq_get(q, out, want, single);
		EQUAL(want < have ? want : have, got);
		for (uint32_t i = 0; i < got; i++)
			EQUAL(next_out++, out[i]);
	}
	while (bbq_put(q, &next_in, 1, single))
		next_in++;
	CHECK(next_in - next_out > BENCH_RING - BBQ_SLOTS && next_in - next_out <= BENCH_RING);
	while (bbq_get(q, out, 1, single))
		EQUAL(next_out++, out[0]);
	EQUAL(next_in, next_out);
	free(q);
}

/* A producer that is suspended between its two additions: consumers leave the words behind it. */
static void test_suspended(void)
{
	struct bbq *q = bbq_create(NULL);
	struct bbq_block *b = bbq_block(q, q->prod);
	uint64_t word = 2, out[2];
	EQUAL(0, bbq_slots(bbq_add(&b->allocated, 1, false)));
	EQUAL(1, bbq_put(q, &word, 1, false));
	EQUAL(0, bbq_get(q, out, 2, false));
	b->slot[0] = 1;
	bbq_add(&b->committed, 1, false);
	EQUAL(2, bbq_get(q, out, 2, false));
	EQUAL(1, out[0]);
	EQUAL(2, out[1]);
	free(q);
}

static void *produce(void *argument)
{
	const uint64_t me = (uintptr_t)argument;
	uint64_t word[BULK];
	for (uint64_t i = 0; i < each;) {
		const uint32_t most = 1 + (uint32_t)i % BULK;
		const uint32_t n = each - i < most ? (uint32_t)(each - i) : most;
		for (uint32_t k = 0; k < n; k++)
			word[k] = me * each + i + k;
		const uint32_t done = bbq_put(queue, word, n, false);
		if (!done)
			sched_yield();
		i += done;
	}
	return NULL;
}

static void *consume(void *argument)
{
	uint64_t next[PRODUCERS] = { 0 }, word[BULK];
	(void)argument;
	while (load_relaxed(&left)) {
		const uint32_t got = bbq_get(queue, word, BULK, false);
		if (!got)
			sched_yield();
		for (uint32_t i = 0; i < got; i++) {
			CHECK(word[i] < PRODUCERS * each);
			const uint64_t from = word[i] / each, at = word[i] % each;
			CHECK(at >= next[from]);
			next[from] = at + 1;
			add_relaxed(&seen[word[i]], 1);
		}
		add_relaxed(&left, -(uint64_t)got);
	}
	return NULL;
}

static void test_threads(void)
{
	pthread_t thread[PRODUCERS + CONSUMERS];
	queue = bbq_create(NULL);
	left = PRODUCERS * each;
	seen = calloc(PRODUCERS, each);
	for (uint32_t i = 0; i < PRODUCERS + CONSUMERS; i++)
		EQUAL(0, pthread_create(&thread[i], NULL, i < PRODUCERS ? produce : consume,
					(void *)(uintptr_t)i));
	for (uint32_t i = 0; i < PRODUCERS + CONSUMERS; i++)
		EQUAL(0, pthread_join(thread[i], NULL));
	for (uint64_t i = 0; i < PRODUCERS * each; i++)
		EQUAL(1, seen[i]);
	free(seen);
	free(queue);
}

int main(int argc, char **argv)
{
	each = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000;
	for (uint32_t bulk = 1; bulk <= BULK; bulk *= 4) {
		test_alone(bulk, false);
		test_alone(bulk, true);
	}
	test_suspended();
	test_threads();
	return 0;
}
