/* SPDX-License-Identifier: Apache-2.0
 *
 * test_side.c - several side rings: every free buffer is found in whichever ring it is, two members
 * of which one frees what the other allocates share a ring with nobody, members are spread over all
 * rings, stale slots cost a bounded number of claims, and all figures count all rings.
 */
#define _GNU_SOURCE
#include "alf_repair.h"
#include "audit.h"
#include "free_ring.h"
#include "member.h"
#include "memfd_pool.h"
#include "opening.h"
#include "qmempool.h"

#define CAPACITY 256u
#define RINGS 4u
#define ROOM (CAPACITY / RINGS)
#define BULK 16u
#define STALE (ROOM - 4) /* slots in a ring: few fewer than one search passes */

static uint32_t number;

static struct qmempool *pool(void)
{
	return opening_pool(number);
}

static struct member *attach(void)
{
	struct member *m;
	EQUAL(0, member_attach(&pool()->segment, opening_token(number), &m));
	return m;
}

static const struct alf_ring *ring_of(const struct member *m)
{
	const uint32_t n = tag_number(m->tag);
	return &pool()->side[(n + n / RINGS) % RINGS];
}

static void create(void)
{
	struct shmpool_geometry g = { .buffer_size = 64,
				      .capacity = CAPACITY,
				      .prealloc = CAPACITY,
				      .bulk = BULK,
				      .refill_multiplier = 1,
				      .members = 2 * RINGS,
				      .queues = 2,
				      .free_rings = RINGS };
	number = memfd_pool(&g);
	EQUAL(RINGS, pool()->sides);
	EQUAL(ROOM, alf_capacity(&pool()->side[RINGS - 1]));
}

/* All figures say that so many of the buffers are free. */
static void free_are(uint64_t n)
{
	struct shmpool_stats stats;
	struct shmpool_audit audit;
	struct shmpool_held held[2 * RINGS];
	uint64_t queued[3], met[CAPACITY / 64 + 1];
	memset(&audit, 0, sizeof(audit));
	while (audit_step(pool(), &audit, held, 2 * RINGS, queued, 3, met, INT64_MAX / 2) > 0)
		;
	EQUAL(0, audit.unaccounted + audit.doubled);
	EQUAL(n, audit.free);
	audit_stats(pool(), &stats);
	EQUAL(n, stats.free);
	EQUAL(n, qmempool_count(pool(), CAPACITY));
	EQUAL(n, pool_free_seen(pool()));
}

/* All members free a share of all buffers each. Each of them then finds all of them. */
static void nothing_is_missed(struct member **m)
{
	uint64_t handle[CAPACITY], none;
	const uint32_t share = CAPACITY / RINGS;
	for (uint32_t i = 0; i < RINGS; i++) {
		EQUAL(0, qmempool_alloc_bulk(pool(), m[i], handle + i * share, share));
		free_are(CAPACITY - (i + 1) * share);
	}
	for (uint32_t i = 0; i < RINGS; i++) {
		EQUAL(0, qmempool_free_bulk(pool(), m[i], handle + i * share, share));
		EQUAL(ROOM, alf_count(ring_of(m[i])));
	}
	EQUAL(0, alf_count(&pool()->free));
	free_are(CAPACITY);
	for (uint32_t i = 0; i < RINGS; i++) {
		EQUAL(0, qmempool_alloc_bulk(pool(), m[i], handle, CAPACITY));
		free_are(0);
		EQUAL(-EAGAIN, qmempool_alloc(pool(), m[i], &none));
		EQUAL(0, qmempool_free_bulk(pool(), m[i], handle, CAPACITY));
		free_are(CAPACITY);
	}
	for (uint32_t i = 0; i < CAPACITY; i++)
		EQUAL(0, qmempool_alloc(pool(), m[i % RINGS], &handle[i]));
	EQUAL(-EAGAIN, qmempool_alloc(pool(), m[0], &none));
	for (uint32_t i = 0; i < CAPACITY; i++) {
		EQUAL(0, qmempool_adopt(pool(), m[RINGS - 1], handle[i]));
		EQUAL(0, qmempool_free(pool(), m[RINGS - 1], handle[i]));
	}
	free_are(CAPACITY);
}

/* m, who owns them, frees n buffers of another member. */
static void hand(struct member *m, const uint64_t *handle, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		EQUAL(0, qmempool_adopt(pool(), m, handle[i]));
	EQUAL(0, qmempool_free_bulk(pool(), m, handle, n));
}

/* One member allocates bulks, and another one frees them. */
static void pass(struct member *from, struct member *to, uint32_t times)
{
	uint64_t handle[BULK];
	while (times--) {
		EQUAL(0, qmempool_alloc_bulk(pool(), from, handle, BULK));
		hand(to, handle, BULK);
	}
}

/* After a while such a pair moves no position but those of the ring of the member that frees. */
static void a_pair_settles(struct member *from, struct member *to)
{
	const struct qmempool *p = pool();
	pass(from, to, 2 * SIDE_TRIES * RINGS); /* the first ones empty its own ring */
	const alf_position taken = ring_of(to)->q->cons, given = ring_of(to)->q->prod;
	const alf_position cold = p->free.q->cons + p->free.q->prod;
	pass(from, to, 8);
	EQUAL(8 * BULK, ring_of(to)->q->cons - taken);
	EQUAL(8 * BULK, ring_of(to)->q->prod - given);
	EQUAL(cold, p->free.q->cons + p->free.q->prod);
	free_are(CAPACITY);
}

/* If every second member frees, all rings are used. */
static void rings_are_shared_out(struct member **first)
{
	struct member *m[2 * RINGS];
	uint64_t handle[CAPACITY];
	for (uint32_t i = 0; i < 2 * RINGS; i++)
		m[i] = i < RINGS ? first[i] : attach();
	EQUAL(0, qmempool_alloc_bulk(pool(), m[0], handle, CAPACITY));
	for (uint32_t begin = 0; begin < 2; begin++) {
		for (uint32_t i = begin; i < 2 * RINGS; i += 2)
			hand(m[i], &handle[i], 1);
		for (uint32_t i = 0; i < RINGS; i++)
			EQUAL(1, alf_count(&pool()->side[i]));
		for (uint32_t i = begin; i < 2 * RINGS; i += 2)
			EQUAL(0, qmempool_alloc(pool(), m[0], &handle[i]));
	}
	free_ring_put_cold(pool(), m[0], handle, CAPACITY);
	for (uint32_t i = RINGS; i < 2 * RINGS; i++)
		member_release(&pool()->segment, m[i]);
}

/* Two members that take from one ring by turns, where a third one frees, part when a fourth one has
 * filled another ring: then no position of the free ring moves any more. */
static void pairs_part(struct member **m)
{
	enum { PAIRS = 2, TURNS = 64 };
	const struct qmempool *p = pool();
	uint64_t handle[PAIRS][BULK];
	alf_position cold = 0, taken[PAIRS] = { 0 };
	for (uint32_t i = 0; i < PAIRS; i++)
		store_relaxed(&m[i]->side, 2 * SIDE_TRIES); /* the ring of m[2] */
	for (uint32_t turn = 0; turn < 2 * TURNS; turn++) {
		if (turn == TURNS) {
			cold = p->free.q->cons + p->free.q->prod;
			for (uint32_t i = 0; i < PAIRS; i++)
				taken[i] = ring_of(m[PAIRS + i])->q->cons;
		}
		for (uint32_t i = 0; i < PAIRS; i++) /* who comes first misses nothing */
			EQUAL(0, qmempool_alloc_bulk(pool(), m[(turn + i) % PAIRS],
						     handle[(turn + i) % PAIRS], BULK));
		for (uint32_t i = 0; i < PAIRS; i++)
			hand(m[PAIRS + i], handle[i], BULK);
	}
	EQUAL(cold, p->free.q->cons + p->free.q->prod);
	for (uint32_t i = 0; i < PAIRS; i++)
		EQUAL(TURNS * BULK, ring_of(m[PAIRS + i])->q->cons - taken[i]);
}

/* What the member allocates next does not come from the ring of the other one, which is empty. */
static void miss(struct member *from, struct member *to)
{
	uint64_t handle[CAPACITY], one[BULK];
	const uint32_t n = alf_count(ring_of(to));
	EQUAL(0, qmempool_alloc_bulk(pool(), to, handle, n));
	const alf_position taken = ring_of(to)->q->cons;
	EQUAL(0, qmempool_alloc_bulk(pool(), from, one, BULK));
	EQUAL(taken, ring_of(to)->q->cons);
	free_ring_put_cold(pool(), from, one, BULK);
	EQUAL(0, qmempool_free_bulk(pool(), to, handle, n));
}

/* A partner that is late now and then is not left, however often. */
static void a_pair_stays(struct member *from, struct member *to)
{
	for (uint32_t i = 0; i < 3 * SIDE_TRIES; i++) {
		miss(from, to);
		const alf_position taken = ring_of(to)->q->cons;
		pass(from, to, 1);
		EQUAL(BULK, ring_of(to)->q->cons - taken);
	}
}

/* All rings but the first one begin with STALE stale slots: a member was suspended in each, others
 * took what was behind it, and it died. The last one has a buffer behind them. m[0] owns the other
 * buffers: returns how many there are in handle. */
static uint32_t make_stale(struct member **m, uint64_t *handle)
{
	struct member *suspended[RINGS];
	alf_position at[RINGS];
	EQUAL(0, qmempool_alloc_bulk(pool(), m[0], handle, CAPACITY));
	for (uint32_t i = 1; i < RINGS; i++) {
		suspended[i] = attach();
		EQUAL(0, alf_reserve(ring_of(m[i]), &suspended[i]->op, 1, ALF_MULTI, &at[i]));
		hand(m[i], handle + i * ROOM, STALE);
	}
	for (uint32_t i = 1; i < RINGS; i++)
		for (uint32_t k = 0; k < STALE; k++)
			EQUAL(0, qmempool_alloc_hard(pool(), m[0], &handle[i * ROOM + k], 1,
						     CAPACITY_MAX));
	hand(m[RINGS - 1], handle + CAPACITY - 1, 1);
	for (uint32_t i = 1; i < RINGS; i++) {
		const struct alf_ring *r = ring_of(m[i]);
		EQUAL(1 + STALE + (i == RINGS - 1), alf_count(r));
		EQUAL(1, alf_make_tombstone(r, at[i], alf_word(r, at[i])));
		alf_done(&suspended[i]->op, ALF_MULTI);
		member_release(&pool()->segment, suspended[i]);
	}
	return CAPACITY - 1;
}

/* Searches once for a buffer, and claims no more than all rings together allow. Returns how many
 * it found. */
static int search(struct member *m, uint64_t *handle)
{
	const struct qmempool *p = pool();
	alf_position passed = 0;
	for (uint32_t i = 1; i < RINGS; i++)
		passed -= p->side[i].q->cons;
	const int got = side_take(p, m, handle, 1);
	for (uint32_t i = 1; i < RINGS; i++)
		passed += p->side[i].q->cons;
	/* One in each ring, and the tombstones. */
	CHECK(passed <= BYPASS_TRIES + 2 * (RINGS - 1));
	return got;
}

/* A search passes a bounded number of stale slots, however many rings have some. It misses no
 * buffer at the head of a ring; what is behind stale slots is left to the next search, and to a
 * call that inspects headers. */
static void stale_slots_are_bounded(struct member **m, bool headers)
{
	uint64_t handle[CAPACITY], one;
	uint32_t n = make_stale(m, handle), searches = 1;
	const uint64_t last = handle[n];
	hand(m[0], &handle[0], 1); /* into the first ring, which is searched last */
	store_relaxed(&m[1]->side, 1 * SIDE_TRIES);
	EQUAL(1, search(m[1], &one));
	EQUAL(handle_index(handle[0]), handle_index(one));
	EQUAL(0, qmempool_adopt(pool(), m[0], one));
	handle[0] = one;
	EQUAL(0, search(m[1], &one));
	if (headers)
		EQUAL(0, qmempool_alloc_hard(pool(), m[1], &one, 1, CAPACITY));
	else
		while (!search(m[1], &one))
			searches++;
	CHECK(searches <= (RINGS - 1) * STALE / BYPASS_TRIES);
	EQUAL(handle_index(last), handle_index(one));
	EQUAL(0, qmempool_free(pool(), m[1], one));
	EQUAL(0, qmempool_free_bulk(pool(), m[0], handle, n));
	EQUAL(0, qmempool_alloc_bulk(pool(), m[0], handle, CAPACITY)); /* passes all stale slots */
	EQUAL(0, qmempool_free_bulk(pool(), m[0], handle, CAPACITY));
	free_are(CAPACITY);
}

/* A segment with this word changed is refused, and the queue slot of the ring is named. */
static void refused(shared32 *word, uint32_t slot)
{
	const struct segment *s = &pool()->segment;
	struct shmpool_refusal why;
	EQUAL(0, shmpool_check(s->base, s->size, s->fd, 1, &why));
	(*word)++;
	EQUAL(-EBADMSG, shmpool_check(s->base, s->size, s->fd, 1, &why));
	EQUAL(SHMPOOL_FAULT_RING, why.fault);
	EQUAL(slot, why.value);
	EQUAL(-EBADMSG, shmpool_open(s->base, s->size, s->fd, "", 0));
	EQUAL(0, shmpool_check(s->base, s->size, s->fd, 0, &why)); /* the header alone */
	(*word)--;
}

static void rings_are_checked(void)
{
	refused(&pool()->free.q->room, pool()->free.id);
	refused(&pool()->side[RINGS - 1].q->capacity, pool()->side[RINGS - 1].id);
}

/* Figures read as many slots of all rings together as of one. */
static void figures_are_bounded(void)
{
	struct shmpool_geometry g = { .buffer_size = 64,
				      .capacity = 1 << 15,
				      .bulk = BULK,
				      .refill_multiplier = 1,
				      .members = 1,
				      .queues = 1,
				      .free_rings = RINGS };
	const struct qmempool *p = opening_pool(memfd_pool(&g));
	struct shmpool_stats stats;
	for (uint32_t i = 0; i < RINGS; i++) {
		const struct alf_ring *r = &p->side[i];
		EQUAL(1 << 13, alf_capacity(r));
		store_relaxed(pool_bypassed(r), (alf_position)(r->q->cons + alf_capacity(r)));
		audit_stats((struct qmempool *)p, &stats);
		EQUAL(i > 1, stats.estimated); /* 16,384 are read */
	}
}

int main(void)
{
	struct member *m[RINGS];
	uint64_t handle[CAPACITY];
	figures_are_bounded();
	create();
	rings_are_checked();
	for (uint32_t i = 0; i < RINGS; i++)
		m[i] = attach();
	nothing_is_missed(m);
	EQUAL(0, qmempool_alloc_bulk(pool(), m[0], handle, CAPACITY));
	free_ring_put_cold(pool(), m[0], handle, CAPACITY); /* all into the free ring */
	rings_are_shared_out(m);
	pairs_part(m);
	EQUAL(0, qmempool_alloc_bulk(pool(), m[0], handle, CAPACITY));
	free_ring_put_cold(pool(), m[0], handle, CAPACITY);
	for (uint32_t i = 0; i < RINGS; i++) {
		a_pair_settles(m[i], m[(i + 2) % RINGS]);
		a_pair_stays(m[i], m[(i + 2) % RINGS]);
	}
	stale_slots_are_bounded(m, false);
	stale_slots_are_bounded(m, true);
	for (uint32_t i = 0; i < RINGS; i++)
		member_release(&pool()->segment, m[i]);
	printf("%u buffers, %u side rings\n", CAPACITY, RINGS);
	return 0;
}
