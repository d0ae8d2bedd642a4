/* SPDX-License-Identifier: Apache-2.0
 *
 * flow.h - scenarios without deaths: messages pass through rings that wrap, each once, in order
 * and uncorrupted; buffers circulate in a ring that cannot be full; observers read no wrong count;
 * sleepers are woken.
 */
#ifndef FLOW_H
#define FLOW_H

#include "world.h"

/* PRODUCERS threads put MESSAGES each, in bulks of 1 to BULK; the other threads get them. */
template <uint32_t CAPACITY, unsigned PRODUCERS, uint32_t MESSAGES, uint32_t BULK,
	  enum alf_side PUT = ALF_MULTI, enum alf_side GET = ALF_MULTI,
	  unsigned CONSUMERS = THREADS - PRODUCERS>
struct pass
    : rl::test_suite<pass<CAPACITY, PRODUCERS, MESSAGES, BULK, PUT, GET, CONSUMERS>, THREADS> {
	static_assert(PRODUCERS * MESSAGES <= BUFFERS, "a buffer for each message");
	world<CAPACITY> w;
	uint32_t received;

	void before()
	{
		w.make();
		received = 0;
	}

	void produce(unsigned me)
	{
		for (uint32_t sent = 0; sent < MESSAGES;) {
			uint64_t handle[BULK];
			uint32_t n = BULK == 1 ? 1 : 1 + (me + sent) % BULK;
			if (n > MESSAGES - sent)
				n = MESSAGES - sent;
			for (uint32_t i = 0; i < n; i++) {
				handle[i] = me * MESSAGES + sent + i;
				w.fill(handle[i], 100 + (uint32_t)handle[i]);
			}
			while (w.transfer_in(handle, n, PUT))
				pause_thread();
			sent += n;
		}
	}

	void consume()
	{
		int last[PRODUCERS];
		memset(last, -1, sizeof(last));
		while (received < PRODUCERS * MESSAGES) {
			uint64_t handle[BULK];
			uint32_t got = w.transfer_out(handle, BULK, GET);
			received += got;
			for (uint32_t i = 0; i < got; i++) {
				RL_ASSERT(w.empty(handle[i]) == 100 + handle[i]);
				unsigned from = (unsigned)handle[i] / MESSAGES;
				RL_ASSERT((int)handle[i] > last[from]);
				last[from] = (int)handle[i];
			}
			if (!got)
				pause_thread();
		}
	}

	/* Without a lapped ring no count ever exceeds the number of messages that were put. */
	void observe()
	{
		for (int i = 0; i < 3; i++) {
			uint32_t count = alf_count(&w.ring);
			RL_ASSERT(count <= PRODUCERS * MESSAGES ||
				  CAPACITY <= PRODUCERS * MESSAGES);
			if (alf_ready(&w.ring, 0))
				RL_ASSERT(w.put[0] || !alf_empty(&w.ring) || received);
			RL_ASSERT(alf_avail_space(&w.ring) <= CAPACITY);
		}
	}

	void thread(unsigned me)
	{
		live([&] {
			if (me < PRODUCERS)
				produce(me);
			else if (me < PRODUCERS + CONSUMERS)
				consume();
			else
				observe();
		});
	}

	void after()
	{
		RL_ASSERT(received == PRODUCERS * MESSAGES);
		RL_ASSERT(alf_empty(&w.ring));
		for (unsigned i = 0; i < THREADS; i++)
			RL_ASSERT(load_relaxed(&w.op[i]) == 0);
	}
};

/* As many buffers circulate as the ring has slots, as in the pool's free ring: there is always room
 * for a buffer that was taken. */
template <uint32_t CAPACITY, uint32_t BULK, int ROUNDS>
struct cycle : rl::test_suite<cycle<CAPACITY, BULK, ROUNDS>, THREADS> {
	world<CAPACITY> w;

	void before()
	{
		uint64_t handle[CAPACITY];
		w.make();
		for (uint32_t i = 0; i < CAPACITY; i++)
			handle[i] = i;
		RL_ASSERT(0 == w.transfer_in(handle, CAPACITY, ALF_MULTI));
		settle_all();
	}

	void thread(unsigned me)
	{
		live([&] {
			for (int round = 0; round < ROUNDS; round++) {
				uint64_t handle[BULK];
				uint32_t got = w.transfer_out(handle, BULK, ALF_MULTI);
				for (uint32_t i = 0; i < got; i++)
					w.fill(handle[i], me);
				if (got)
					RL_ASSERT(0 == w.transfer_in(handle, got, ALF_MULTI));
			}
		});
	}

	void after()
	{
		uint64_t handle[CAPACITY];
		RL_ASSERT(alf_count(&w.ring) == CAPACITY);
		RL_ASSERT(w.transfer_out(handle, CAPACITY, ALF_MULTI) == CAPACITY);
	}
};

/* Two threads put one message each and then wake sleepers. Two others try, announce themselves, try
 * again and sleep, as blocking_get() does. None sleeps its whole slice while there is a message. */
template <unsigned PRODUCERS, enum alf_side PUT>
struct sleep_empty : rl::test_suite<sleep_empty<PRODUCERS, PUT>, THREADS> {
	world<4> w;
	shared32 data_wait;
	int asleep, woken;

	void before()
	{
		w.make();
		data_wait.where = WAIT;
		data_wait.store(0, rl::mo_relaxed, $);
		asleep = woken = 0;
	}

	void thread(unsigned me)
	{
		live([&] {
			uint64_t handle = me;
			if (me < PRODUCERS) {
				RL_ASSERT(0 == w.transfer_in(&handle, 1, PUT));
				woken += load_seq_cst(&data_wait) != 0;
				return;
			}
			if (w.transfer_out(&handle, 1, ALF_MULTI))
				return;
			add_seq_cst(&data_wait, 1u);
			bool reserved = load_seq_cst(&w.queue.prod) != load_seq_cst(&w.queue.cons);
			if (!w.transfer_out(&handle, 1, ALF_MULTI) && !reserved)
				asleep++;
		});
	}

	void after()
	{
		events[SLEPT] += asleep != 0;
		RL_ASSERT(!asleep || woken || alf_empty(&w.ring));
	}
};

/* The same for producers, as in blocking_put(): the ring is full, and one thread takes from it. */
template <enum alf_side GET> struct sleep_full : rl::test_suite<sleep_full<GET>, THREADS> {
	static constexpr unsigned CONSUMERS = GET == ALF_MULTI ? 2 : 1;
	world<2> w;
	shared32 room_wait;
	int asleep, woken;

	void before()
	{
		uint64_t handle[2] = { 4, 5 };
		w.make();
		room_wait.where = WAIT;
		room_wait.store(0, rl::mo_relaxed, $);
		asleep = woken = 0;
		RL_ASSERT(0 == w.transfer_in(handle, 2, ALF_MULTI));
		settle_all();
	}

	void thread(unsigned me)
	{
		live([&] {
			uint64_t handle = me;
			if (me < CONSUMERS) {
				RL_ASSERT(1 == w.transfer_out(&handle, 1, GET));
				woken += load_seq_cst(&room_wait) != 0;
				return;
			}
			if (!w.transfer_in(&handle, 1, ALF_MULTI))
				return;
			add_seq_cst(&room_wait, 1u);
			(void)load_seq_cst(&w.queue.cons);
			asleep += w.transfer_in(&handle, 1, ALF_MULTI) != 0;
		});
	}

	void after()
	{
		events[SLEPT] += asleep != 0;
		RL_ASSERT(!asleep || woken || alf_count(&w.ring) == 2);
	}
};

#endif
