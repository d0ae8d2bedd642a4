/* SPDX-License-Identifier: Apache-2.0
 *
 * test_on_demand.c - a ring whose memory is reserved on demand (ALF_ON_DEMAND), in one thread. What
 * has no memory yet cannot be accessed here, so any read or write there ends the test.
 */
#include <sys/mman.h>

#include "alf_queue.h"
#include "check.h"

#define ROOM (8 * ALF_PART_MIN)
#define BULK 64u
#define MANY (4 * ALF_MARGIN) /* that a get asks for */

static shared64 *slots;
static struct alf_queue queue __attribute__((aligned(CACHE_LINE)));
static uint64_t op;

/* What queue.c does before it raises backed. */
static void give_memory(void)
{
	CHECK(mprotect(slots, queue.backed * sizeof(*slots), PROT_READ | PROT_WRITE) == 0);
}

static void init(struct alf_ring *r)
{
	if (slots)
		munmap(slots, ROOM * sizeof(*slots));
	slots = mmap(NULL, ROOM * sizeof(*slots), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(slots != MAP_FAILED);
	EQUAL(0, alf_init(r, &queue, slots, ROOM, ALF_CAPACITY_MAX, 1, ALF_ON_DEMAND));
	EQUAL(ALF_PART_MIN, queue.backed);
	give_memory();
}

static int put(const struct alf_ring *r, uint64_t first, uint32_t n, enum alf_side side)
{
	uint64_t handle[BULK];
	alf_position at;
	for (uint32_t i = 0; i < n; i++)
		handle[i] = first + i;
	int error = alf_reserve(r, &op, n, side, &at);
	if (!error)
		alf_publish(r, at, handle, n);
	alf_done(&op, side);
	return error;
}

/* Gets what transfer.h would, and reads the slot that it reads then. */
static uint32_t get(const struct alf_ring *r, uint64_t first, uint32_t n, enum alf_side side)
{
	uint64_t handle[MANY];
	const uint32_t got = alf_claim(r, &op, handle, alf_most(r, n), side);
	alf_done(&op, side);
	if (got > 1)
		(void)alf_ready(r, 2 * got - 1);
	for (uint32_t i = 0; i < got; i++)
		EQUAL(first + i, handle[i]);
	return got;
}

/* Puts and gets bulks of n, with up to held elements in the ring, three times round it. Producers
 * stop where the memory ends, and go on when there is more; nobody accesses what has none. */
static void pass(uint32_t n, uint32_t held, enum alf_side side)
{
	struct alf_ring r;
	uint64_t in = 0, out = 0;
	init(&r);
	while (in < 3 * ROOM) {
		int error = put(&r, in, n, side);
		if (error == -ERESTART) {
			CHECK(queue.backed < ROOM);
			EQUAL(1, in + n > queue.backed - ALF_MARGIN);
			queue.backed *= 2;
			give_memory();
			continue;
		}
		EQUAL(0, error);
		in += n;
		EQUAL(in - out, alf_count(&r));
		while (in - out > held) {
			const uint32_t got = get(&r, out, MANY, side);
			CHECK(got);
			out += got;
		}
		(void)alf_ready(&r, 0);
	}
	while (out < in)
		out += get(&r, out, MANY, side);
	EQUAL(0, get(&r, out, MANY, side));
	EQUAL(0, get(&r, out, 1, side));
	EQUAL(ROOM, queue.backed);
}

/* A full ring is full, and one without memory is not: the first waits for consumers. */
static void test_full(void)
{
	struct alf_ring r;
	uint64_t in = 0;
	int error;
	init(&r);
	while (queue.backed < ROOM)
		if (put(&r, in, 1, ALF_MULTI) == -ERESTART) {
			queue.backed *= 2;
			give_memory();
		} else {
			in++;
		}
	while (!(error = put(&r, in, 1, ALF_MULTI)))
		in++;
	EQUAL(-ENOBUFS, error);
	EQUAL(ROOM, in);
	/* A ring of this room that has more slots than elements: full before its memory ends. */
	munmap(slots, ROOM * sizeof(*slots));
	slots = mmap(NULL, ROOM * sizeof(*slots), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	const uint32_t room = ALF_PART_MIN + 1;
	EQUAL(0, alf_init(&r, &queue, slots, room, ALF_CAPACITY_MAX, 1, ALF_ON_DEMAND));
	give_memory();
	for (in = 0; in < ALF_PART_MIN - ALF_MARGIN; in++)
		EQUAL(0, put(&r, in, 1, ALF_MULTI));
	EQUAL(-ERESTART, put(&r, in, 1, ALF_MULTI));
	queue.backed = 2 * ALF_PART_MIN;
	give_memory();
	for (; in < room; in++)
		EQUAL(0, put(&r, in, 1, ALF_MULTI));
	EQUAL(-ENOBUFS, put(&r, in, 1, ALF_MULTI));
}

/* An element that comes back enters a closed ring, and not what has no memory. */
static void test_back(void)
{
	struct alf_ring r;
	alf_position at;
	init(&r);
	for (uint32_t i = 0; i < ALF_PART_MIN - ALF_MARGIN; i++)
		EQUAL(0, put(&r, i, 1, ALF_MULTI));
	EQUAL(-ERESTART, alf_reserve_back(&r, &op, &at));
	CHECK(alf_close(&r));
	EQUAL(-EPIPE, put(&r, 0, 1, ALF_MULTI));
	EQUAL(-ERESTART, alf_reserve_back(&r, &op, &at));
	queue.backed *= 2;
	give_memory();
	EQUAL(0, alf_reserve_back(&r, &op, &at));
	EQUAL((alf_position)(ROOM + ALF_PART_MIN - ALF_MARGIN), at);
}

int main(void)
{
	const uint32_t bulk[] = { 1, 3, BULK };
	for (size_t i = 0; i < sizeof(bulk) / sizeof(*bulk); i++)
		for (uint32_t held = 0; held <= ROOM - BULK; held += held / 2 + 1) {
			pass(bulk[i], held, ALF_MULTI);
			pass(bulk[i], held, ALF_SINGLE);
		}
	test_full();
	test_back();
	return 0;
}
