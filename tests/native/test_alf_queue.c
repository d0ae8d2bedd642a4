/* SPDX-License-Identifier: Apache-2.0
 *
 * test_alf_queue.c - the ring by itself, in one thread: every mode and edge, bulks that wrap at the
 * end of the ring, and every point where a position, a lap or an op record's position wraps.
 *
 * Usage: test_alf_queue [WRAPS]. With narrow positions (SHMPOOL_POSITION_BITS) they wrap WRAPS
 * times.
 */
#include "alf_queue.h"
#include "check.h"

#define SLOTS 65536

static uint64_t slots[SLOTS];
static struct alf_queue queue __attribute__((aligned(CACHE_LINE)));
static uint64_t op;
static uint64_t wrapped; /* times that positions wrapped, in narrow builds */

static int enqueue(const struct alf_ring *r, const uint64_t *handle, uint32_t n, enum alf_side side)
{
	alf_position at;
	int error = alf_reserve(r, &op, n, side, &at);
	if (!error)
		alf_publish(r, at, handle, n);
	alf_done(&op, side);
	return error;
}

static uint32_t dequeue(const struct alf_ring *r, uint64_t *handle, uint32_t n, enum alf_side side)
{
	uint32_t got = alf_claim(r, &op, handle, n, side);
	alf_done(&op, side);
	return got;
}

static void init(struct alf_ring *r, uint32_t capacity, uint32_t flags)
{
	memset(slots, 0, sizeof(slots));
	EQUAL(0, alf_init(r, &queue, slots, capacity, ALF_CAPACITY_MAX, 7, flags));
}

/* Refuses capacities out of range. */
static void test_capacities(void)
{
	struct alf_ring r;
	const uint32_t wrong[] = { 0, ALF_CAPACITY_MAX + 1, 131072, UINT32_MAX };
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
		EQUAL(-EINVAL, alf_init(&r, &queue, slots, wrong[i], ALF_CAPACITY_MAX, 1, 0));
	for (uint32_t capacity = 2; capacity <= ALF_CAPACITY_MAX; capacity *= 2) {
		init(&r, capacity, 0);
		EQUAL(capacity, alf_capacity(&r));
		EQUAL(capacity, alf_avail_space(&r));
		CHECK(alf_empty(&r));
	}
}

/* A queue returns what was put, in order, for every bulk size, mode and alignment to the ring's
 * end. */
static void test_order(uint32_t capacity, enum alf_side producer, enum alf_side consumer)
{
	struct alf_ring r;
	uint64_t in[64], out[64], next_in = 0, next_out = 0;
	init(&r, capacity, 0);
	for (uint32_t round = 0; round < 4000; round++) {
		uint32_t n = 1 + round * 7 % (capacity < 64 ? capacity : 64);
		for (uint32_t i = 0; i < n; i++)
			in[i] = (next_in + i) | (uint64_t)round
							<< 32; /* the generation is not stored */
		int error = enqueue(&r, in, n, producer);
		if (!error)
			next_in += n;
		else
			EQUAL(-ENOBUFS, error);
		CHECK(next_in - next_out <= capacity);
		EQUAL(next_in - next_out, alf_count(&r));
		EQUAL(capacity - (next_in - next_out), alf_avail_space(&r));
		uint32_t want = 1 + round * 5 % 64, have = (uint32_t)(next_in - next_out);
		uint32_t got = dequeue(&r, out, want, consumer);
		EQUAL(want < have ? want : have, got);
		for (uint32_t i = 0; i < got; i++)
			EQUAL((next_out + i) & ALF_INDEX_MASK, out[i]);
		next_out += got;
	}
	CHECK(next_in > 2000);
}

/* A bulk that does not fit whole changes nothing. */
static void test_all_or_nothing(void)
{
	struct alf_ring r;
	uint64_t handle[8] = { 0, 1, 2, 3, 4, 5, 6, 7 }, out[8];
	init(&r, 8, 0);
	EQUAL(0, enqueue(&r, handle, 6, ALF_MULTI));
	EQUAL(-ENOBUFS, enqueue(&r, handle, 3, ALF_MULTI));
	EQUAL(6, alf_count(&r));
	EQUAL(0, enqueue(&r, handle + 6, 2, ALF_MULTI));
	EQUAL(0, alf_avail_space(&r));
	EQUAL(-ENOBUFS, enqueue(&r, handle, 1, ALF_MULTI));
	EQUAL(8, dequeue(&r, out, 8, ALF_MULTI));
	for (uint64_t i = 0; i < 8; i++)
		EQUAL(i, out[i]);
	EQUAL(0, dequeue(&r, out, 8, ALF_MULTI));
}

/* A position that is reserved and not published blocks the head; what was published behind it stays
 * in order. */
static void test_unpublished(void)
{
	struct alf_ring r;
	alf_position first, second;
	uint64_t handle[4] = { 10, 11, 12, 13 }, out[4], other = 0;
	init(&r, 8, 0);
	EQUAL(0, alf_reserve(&r, &op, 2, ALF_MULTI, &first));
	CHECK(op != 0);
	EQUAL(0, alf_reserve(&r, &other, 2, ALF_MULTI, &second));
	alf_publish(&r, second, handle + 2, 2);
	EQUAL(0, dequeue(&r, out, 4, ALF_MULTI));
	EQUAL(4, alf_count(&r));
	alf_publish(&r, first, handle, 2);
	EQUAL(4, dequeue(&r, out, 4, ALF_MULTI));
	for (uint64_t i = 0; i < 4; i++)
		EQUAL(10 + i, out[i]);
}

/* A consumer steps over tombstones, also if there is nothing else. */
static void test_voids(void)
{
	struct alf_ring r;
	alf_position at;
	uint64_t handle[4] = { 20, 21, 22, 23 }, out[4];
	init(&r, 8, 0);
	for (int round = 0; round < 20; round++) {
		EQUAL(0, alf_reserve(&r, &op, 4, ALF_MULTI, &at));
		alf_publish(&r, at, handle, 4);
		slots[(at + 1) & r.mask] = alf_tag(&r, at + 1) | ALF_TOMBSTONE;
		slots[(at + 2) & r.mask] = alf_tag(&r, at + 2) | ALF_TOMBSTONE;
		EQUAL(2, dequeue(&r, out, 4, round & 1 ? ALF_SINGLE : ALF_MULTI));
		EQUAL(20, out[0]);
		EQUAL(23, out[1]);
		EQUAL(0, alf_reserve(&r, &op, 2, ALF_MULTI, &at));
		slots[at & r.mask] = alf_tag(&r, at) | ALF_TOMBSTONE;
		slots[(at + 1) & r.mask] = alf_tag(&r, at + 1) | ALF_TOMBSTONE;
		EQUAL(0, dequeue(&r, out, 4, round & 1 ? ALF_SINGLE : ALF_MULTI));
		CHECK(alf_empty(&r));
	}
}

/* With an outdated limit a producer reads cons again, and never overwrites. */
static void test_stale_limit(void)
{
	struct alf_ring r;
	uint64_t handle[4] = { 0, 1, 2, 3 }, out[4];
	init(&r, 4, 0);
	alf_position old = queue.limit;
	/* Outdated by less than half of all positions. */
	for (int round = 0; round < (SHMPOOL_POSITION_BITS == 8 ? 30 : 100); round++) {
		EQUAL(0, enqueue(&r, handle, 4, ALF_MULTI));
		queue.limit = old; /* what a slow producer may store late */
		EQUAL(-ENOBUFS, enqueue(&r, handle, 1, ALF_MULTI));
		EQUAL(4, dequeue(&r, out, 4, ALF_MULTI));
	}
	if (ALF_CLOSED != 0) { /* also if it lies behind the end of a closed queue */
		CHECK(alf_close(&r));
		queue.limit = old;
		EQUAL(-EPIPE, enqueue(&r, handle, 1, ALF_MULTI));
		EQUAL(-EPIPE, enqueue(&r, handle, 1, ALF_SINGLE));
		CHECK(alf_closed(&r) && alf_empty(&r));
	}
}

/* Makes a ring as after a long life: empty, and its next position is at. */
static void start_at(struct alf_ring *r, uint32_t capacity, alf_position at)
{
	init(r, capacity, 0);
	queue.prod = queue.cons = at;
	queue.limit = at + capacity;
}

/* Puts and gets elements from a position on, in bulks of every size, with tombstones and
 * unpublished positions between. */
static void pass(uint32_t capacity, alf_position from, uint64_t elements, enum alf_side producer,
		 enum alf_side consumer)
{
	struct alf_ring r;
	uint64_t in[64], out[64], put = 0, most = capacity < 64 ? capacity : 64;
	alf_position at;
	start_at(&r, capacity, from);
	while (put < elements) {
		uint32_t n = 1 + (uint32_t)(put * 7 % most);
		for (uint32_t i = 0; i < n; i++)
			in[i] = put + i;
		EQUAL(0, alf_reserve(&r, &op, n, producer, &at));
		EQUAL((alf_position)(from + put), at);
		if (producer == ALF_MULTI)
			EQUAL(at & (~0ull >> ALF_OP_POSITION_SHIFT), op >> ALF_OP_POSITION_SHIFT);
		EQUAL(0, dequeue(&r, out, 64, consumer)); /* nothing of an older lap */
		CHECK(!alf_ready(&r, 0));
		EQUAL(n, alf_count(&r));
		alf_publish(&r, at, in, n);
		alf_done(&op, producer);
		CHECK(alf_ready(&r, 0) && alf_ready(&r, n - 1) && !alf_ready(&r, n));
		uint32_t skip = put % 5 == 0 ?
					n / 2 :
					n; /* this one becomes a tombstone, if there is one */
		if (skip < n)
			slots[(alf_position)(at + skip) & r.mask] =
				alf_tag(&r, at + skip) | ALF_TOMBSTONE;
		EQUAL(n - (skip < n), dequeue(&r, out, n, consumer));
		for (uint32_t i = 0, k = 0; i < n; i++)
			if (i != skip)
				EQUAL((put + i) & ALF_INDEX_MASK, out[k++]);
		CHECK(alf_empty(&r));
		put += n;
	}
	EQUAL((alf_position)(from + put), queue.prod);
	EQUAL((alf_position)(from + put), queue.cons);
	if (SHMPOOL_POSITION_BITS < 64)
		wrapped += put >> (SHMPOOL_POSITION_BITS & 63);
}

static void test_wraps(uint64_t wraps)
{
	/* Where a position, a lap in a slot, and the position in an op record wrap. A position of
	 * 64 bits never gets to ALF_CLOSED. */
	static const uint8_t bits[] = { SHMPOOL_POSITION_BITS < 64 ? SHMPOOL_POSITION_BITS : 61,
					64 - ALF_LAP_SHIFT, 64 - ALF_OP_POSITION_SHIFT };
	for (uint32_t capacity = 2; capacity <= ALF_CAPACITY_MAX; capacity *= 4)
		for (int mode = 0; mode < 9; mode++)
			for (size_t i = 0; i < sizeof(bits); i++)
				pass(capacity, (alf_position)((1ull << bits[i]) - 2ull * capacity),
				     4ull * capacity, (enum alf_side)(mode % 3),
				     (enum alf_side)(mode / 3));
	for (uint32_t capacity = ALF_CAPACITY_MAX; wraps; capacity = 2, wraps /= 2) {
		pass(capacity, 0 - 2 * capacity, wraps << (SHMPOOL_POSITION_BITS & 31), ALF_MULTI,
		     ALF_MULTI);
		pass(capacity, 0 - 2 * capacity, wraps << (SHMPOOL_POSITION_BITS & 31), ALF_SINGLE,
		     ALF_SINGLE);
		if (capacity == 2)
			break;
	}
}

int main(int argc, char **argv)
{
	test_capacities();
	for (uint32_t capacity = 2; capacity <= 4096 && capacity <= ALF_CAPACITY_MAX; capacity *= 4)
		for (int mode = 0; mode < 9; mode++) {
			test_order(capacity, (enum alf_side)(mode % 3), (enum alf_side)(mode / 3));
			test_order(capacity - 1, (enum alf_side)(mode % 3),
				   (enum alf_side)(mode / 3));
		}
	test_all_or_nothing();
	test_unpublished();
	test_voids();
	test_stale_limit();
	test_wraps(argc > 1 ? (uint64_t)atoll(argv[1]) : 0);
	printf("positions came round %llu times\n", (unsigned long long)wrapped);
	return 0;
}
