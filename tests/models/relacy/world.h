/* SPDX-License-Identifier: Apache-2.0
 *
 * world.h - what all scenarios use: the real ring over modelled words, buffers with contents and
 * owner words, an op record for each thread, and the two transfers in the order of transfer.h.
 *
 * Plain variables here belong to the checker, not to the model. Relacy runs one thread at a time,
 * so they record what happened, in order.
 */
#ifndef WORLD_H
#define WORLD_H

#include "atomic.h"

#include "alf_queue.h"

/* Without effect here, as cpu_relax(). */
void alf_pause(uint32_t)
{
}

uint32_t alf_back_off(const alf_shared_position *, alf_position, uint32_t, uint32_t turns)
{
	return turns + 1;
}

#include <string.h>

#define RING_ID 5
#define BUFFERS 16
#define POSITIONS 64 /* more than any scenario reserves */
#define IN_QUEUE -1
#define NOBODY -2
#define TAKEN -3 /* by the sweep */

/* How often each event occurred, over all interleavings. */
enum event {
	FULL,
	EMPTY,
	LAPPED,
	SLEPT,
	KILLED,
	BURIED,
	SWEPT,
	POSTPONED,
	RECEIVED,
	EVICTED,
	STAYED,
	EVENTS
};
static const char *const event_name[EVENTS] = { "full",     "empty",   "lapped", "slept",
						"killed",   "buried",  "swept",  "postponed",
						"received", "evicted", "stayed" };
static uint64_t events[EVENTS];

/* Owner words as in layout.h. */
#define TRANSIT (1ull << 63)
static inline uint64_t transit(uint64_t position)
{
	return TRANSIT | (uint64_t)RING_ID << 53 | position;
}

static inline uint64_t owned(unsigned member)
{
	return member + 1;
}

template <uint32_t CAPACITY> struct world {
	alf_queue queue;
	alf_ring ring;
	shared64 slot[CAPACITY];
	shared64 op[THREADS];
	shared64 owner[BUFFERS];
	rl::var<uint32_t> content[BUFFERS];
	rl::var<uint32_t> cell[CAPACITY];
	cells all;

	int holder[BUFFERS];     /* a thread, IN_QUEUE, NOBODY */
	int reserver[POSITIONS]; /* the thread that reserved the position */
	uint64_t at[POSITIONS];  /* the buffer that it was reserved for */
	uint32_t put[THREADS], got[THREADS];

	void make()
	{
		reset_threads();
		all.cell = cell;
		all.mask = CAPACITY - 1;
		queue.prod.where = PROD;
		queue.cons.where = CONS;
		queue.limit.where = LIMIT;
		RL_ASSERT(0 ==
			  alf_init(&ring, &queue, slot, CAPACITY, ALF_CAPACITY_MAX, RING_ID, 0));
		queue.cons.ring = &all;
		for (uint32_t i = 0; i < CAPACITY; i++) {
			store_relaxed(&slot[i], 0);
			cell[i]($) = 0;
			slot[i].where = SLOT;
			slot[i].cell = &cell[i];
		}
		for (unsigned i = 0; i < THREADS; i++) {
			op[i].where = OP;
			store_relaxed(&op[i], 0);
			put[i] = got[i] = 0;
		}
		for (unsigned i = 0; i < BUFFERS; i++) {
			owner[i].where = OWNER;
			store_relaxed(&owner[i], 0);
			content[i]($) = 0;
			holder[i] = NOBODY;
		}
		for (int &who : reserver)
			who = NOBODY;
		settle_all();
	}

	/* transfer_in(): puts the calling thread's buffers into the ring, all or none. */
	int transfer_in(const uint64_t *handle, uint32_t n, enum alf_side side)
	{
		unsigned me = rl::thread_index();
		alf_position at;
		int error = alf_reserve(&ring, &op[me], n, side, &at);
		events[FULL] += error != 0;
		if (!error) {
			events[LAPPED] += at + n > 2 * CAPACITY;
			for (uint32_t i = 0; i < n; i++) {
				RL_ASSERT(at + i < POSITIONS);
				RL_ASSERT(reserver[at + i] ==
					  NOBODY); /* reserved by no thread before */
				reserver[at + i] = (int)me;
				this->at[at + i] = handle[i];
			}
			for (uint32_t i = 0; i < n; i++)
				store_relaxed(&owner[handle[i]], transit(at + i));
			for (uint32_t i = 0; i < n; i++)
				holder[handle[i]] = IN_QUEUE;
			alf_publish(&ring, at, handle, n);
			put[me] += n;
		}
		alf_done(&op[me], side);
		return error;
	}

	/* transfer_out(): takes up to n buffers for the calling thread. */
	uint32_t transfer_out(uint64_t *handle, uint32_t n, enum alf_side side)
	{
		unsigned me = rl::thread_index();
		uint32_t got_now = alf_claim(&ring, &op[me], handle, n, side);
		events[EMPTY] += got_now == 0;
		for (uint32_t i = 0; i < got_now; i++) {
			RL_ASSERT(handle[i] < BUFFERS);
			RL_ASSERT(holder[handle[i]] == IN_QUEUE); /* delivered once */
			holder[handle[i]] = (int)me;
		}
		for (uint32_t i = 0; i < got_now; i++)
			store_relaxed(&owner[handle[i]], owned(me));
		alf_done(&op[me], side);
		got[me] += got_now;
		return got_now;
	}

	/* The bytes of a buffer. Its producer writes them; its consumer reads and then overwrites
	 * them. */
	void fill(uint64_t handle, uint32_t value)
	{
		content[handle]($) = value;
	}

	uint32_t empty(uint64_t handle)
	{
		uint32_t value = content[handle]($);
		content[handle]($) = 0;
		return value;
	}
};

/* Runs work as a thread that may be killed. No store of it stays behind. */
template <typename F> static inline void live(F work)
{
	try {
		work();
	} catch (killed &) {
		events[KILLED]++;
	}
	settle_all();
}

static inline void pause_thread()
{
	rl::yield(1, $);
}

#endif
