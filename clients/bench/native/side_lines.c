/* SPDX-License-Identifier: Apache-2.0
 *
 * side_lines.c - counts how pairs of members spread over side rings: make bench-side-rings
 *
 * In each pair one member allocates bulks and the other one frees them, with up to DEPTH bulks
 * between them. All members are in one thread, and a fixed seed says whose turn it is: the counts
 * are the same on every machine. For each bulk it prints how often the line of a ring's position
 * went from one member to another, which is what a bulk costs on many cores, and how many
 * operations there were on the free ring. Both are 0 if each pair has a ring of its own.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "member.h"
#include "our_pool.h"
#include "qmempool.h"

#define BULK 32u
#define DEPTH 8u
#define PAIRS_MAX 16u
#define BUFFERS 8192
#define STEPS 200000u /* before it counts, and while it does */
#define SEEDS 3u

enum order { BY_TURNS, PRODUCERS_FIRST, ANY, ORDERS };
static const char *const names[ORDERS] = { "by turns", "producers first", "any order" };

struct pair {
	struct member *producer, *consumer;
	uint64_t bulk[DEPTH][BULK];
	uint32_t first, bulks;
};

/* The line of a position: which member moved it last, and how often it went to another one. */
struct line {
	alf_position at;
	const struct member *last;
	uint64_t moved, transfers;
};

static struct line lines[1 + SIDES_MAX][2];
static uint64_t seed;

static uint32_t chance(uint32_t n)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(seed >> 33) % n;
}

static void demand(bool holds)
{
	if (!holds)
		abort();
}

/* Counts the positions that m has moved. */
static void count(const struct qmempool *p, const struct member *m)
{
	for (uint32_t i = 0; i <= p->sides; i++) {
		const struct alf_queue *q = i ? p->side[i - 1].q : p->free.q;
		const alf_position now[2] = { q->prod, q->cons };
		for (uint32_t k = 0; k < 2; k++) {
			struct line *line = &lines[i][k];
			line->moved += now[k] != line->at;
			line->transfers += now[k] != line->at && line->last != m;
			line->last = now[k] != line->at ? m : line->last;
			line->at = now[k];
		}
	}
}

/* Lets any member make a step. Returns how many bulks were allocated. */
static uint32_t step(struct qmempool *p, struct pair *pairs, uint32_t n)
{
	struct pair *one = &pairs[chance(n)];
	uint64_t *oldest = one->bulk[one->first];
	if (chance(2)) {
		uint64_t *next = one->bulk[(one->first + one->bulks) % DEPTH];
		if (one->bulks == DEPTH || qmempool_alloc_bulk(p, one->producer, next, BULK))
			return 0;
		one->bulks++;
		count(p, one->producer);
		return 1;
	}
	if (!one->bulks)
		return 0;
	for (uint32_t i = 0; i < BULK; i++)
		demand(!qmempool_adopt(p, one->consumer, oldest[i]));
	demand(!qmempool_free_bulk(p, one->consumer, oldest, BULK));
	one->first = (one->first + 1) % DEPTH;
	one->bulks--;
	count(p, one->consumer);
	return 0;
}

/* Gives each pair its two members, of those that have attached in this order. */
static void deal(struct pair *pairs, struct member **m, uint32_t n, enum order order)
{
	for (uint32_t i = 2 * n; order == ANY && i-- > 1;) {
		const uint32_t k = chance(i + 1);
		struct member *other = m[i];
		m[i] = m[k];
		m[k] = other;
	}
	for (uint32_t i = 0; i < n; i++) {
		pairs[i].producer = order == PRODUCERS_FIRST ? m[i] : m[2 * i];
		pairs[i].consumer = order == PRODUCERS_FIRST ? m[n + i] : m[2 * i + 1];
	}
}

/* Adds the counts of one pool: transfers and operations on the free ring for each bulk. */
static void run(uint32_t n, uint32_t rings, enum order order, double *transfers, double *cold)
{
	static struct pair pairs[PAIRS_MAX];
	struct our_pool made = { .fd = -1 };
	struct member *m[2 * PAIRS_MAX];
	struct shmpool_geometry g = { .buffer_size = 64,
				      .capacity = BUFFERS,
				      .prealloc = BUFFERS,
				      .bulk = BULK,
				      .refill_multiplier = 1,
				      .members = 2 * PAIRS_MAX,
				      .queues = 1,
				      .free_rings = rings };
	demand(!our_pool_create(&made, g));
	struct qmempool *p = opening_pool((uint32_t)made.number);
	demand(p && p->sides == rings);
	memset(pairs, 0, sizeof(pairs));
	memset(lines, 0, sizeof(lines));
	for (uint32_t i = 0; i < 2 * n; i++)
		demand(!member_attach(&p->segment, opening_token((uint32_t)made.number), &m[i]));
	deal(pairs, m, n, order);
	for (uint32_t i = 0; i < STEPS; i++)
		step(p, pairs, n);
	for (uint32_t i = 0; i <= rings; i++)
		for (uint32_t k = 0; k < 2; k++)
			lines[i][k].moved = lines[i][k].transfers = 0;
	uint64_t bulks = 0, sum = 0;
	for (uint32_t i = 0; i < STEPS; i++)
		bulks += step(p, pairs, n);
	for (uint32_t i = 0; i <= rings; i++)
		sum += lines[i][0].transfers + lines[i][1].transfers;
	*transfers += (double)sum / (double)bulks;
	*cold += (double)(lines[0][0].moved + lines[0][1].moved) / (double)bulks;
	for (uint32_t i = 0; i < 2 * n; i++)
		member_release(&p->segment, m[i]);
	opening_close((uint32_t)made.number);
	munmap(made.base, made.size);
	close(made.fd);
}

int main(void)
{
	static const uint32_t sizes[][2] = { { 4, 8 }, { 8, 8 }, { 8, 16 }, { 16, 16 } };
	printf("| pairs | rings | attached | transfers a bulk | free ring operations a bulk |\n"
	       "|---|---|---|---|---|\n");
	for (uint32_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
		for (enum order order = 0; order < ORDERS; order++) {
			double transfers = 0, cold = 0;
			for (uint32_t k = 1; k <= SEEDS; k++) {
				seed = k;
				run(sizes[i][0], sizes[i][1], order, &transfers, &cold);
			}
			printf("| %u | %u | %s | %.2f | %.2f |\n", sizes[i][0], sizes[i][1],
			       names[order], transfers / SEEDS, cold / SEEDS);
		}
	return 0;
}
