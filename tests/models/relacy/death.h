/* SPDX-License-Identifier: Apache-2.0
 *
 * death.h - scenarios in which one thread is killed before any of its steps. Another thread
 * recovers it, while two more run. Two steps of a recovery read op records, and are modelled with
 * their order of loads:
 *
 *     ranges_bury    reads prod, then the slot, then the live op records: a position that was
 *                    reserved and not published, and that no live producer covers, becomes a
 *                    tombstone
 *     sweep          reads cons, then the live op records, then the owner word: a buffer that was
 *                    claimed and not marked, and that no live consumer covers, is taken
 */
#ifndef DEATH_H
#define DEATH_H

#include "world.h"

#define MORTAL 0
#define RECOVERER 3

#define OP_POSITION_BITS (64 - ALF_OP_POSITION_SHIFT)
#define POLLS 5 /* polls of a ring that may stay full or empty */

static inline uint32_t op_count(uint64_t record)
{
	return record >> ALF_OP_COUNT_SHIFT &
	       ((1u << (ALF_OP_POSITION_SHIFT - ALF_OP_COUNT_SHIFT)) - 1);
}

/* True if an op record covers a position of the ring. */
static inline bool op_covers(uint64_t record, enum alf_op_kind kind, uint64_t position)
{
	uint64_t ahead = ((position << ALF_OP_POSITION_SHIFT) -
			  (record >> ALF_OP_POSITION_SHIFT << ALF_OP_POSITION_SHIFT)) >>
			 ALF_OP_POSITION_SHIFT;
	return (record & 3) == kind && (record >> ALF_OP_QUEUE_SHIFT & 1023) == RING_ID &&
	       ahead < op_count(record);
}

template <uint32_t CAPACITY> struct mortal_world : world<CAPACITY> {
	shared64 dead;

	void make(unsigned steps)
	{
		world<CAPACITY>::make();
		dead.where = DEAD;
		store_relaxed(&dead, 0);
		settle_all();
		threads[MORTAL].steps_to_live = (int)rl::rand(steps);
	}

	/* The kernel's guarantee: a thread that learns of a death sees all stores of the dead
	 * thread. */
	void report_death()
	{
		threads[MORTAL].steps_to_live = -1;
		store_release(&dead, 1);
	}

	void wait_for_death()
	{
		while (!load_acquire(&dead))
			pause_thread();
	}

	bool live_covers(enum alf_op_kind kind, uint64_t position)
	{
		for (unsigned i = 0; i < RECOVERER; i++)
			if (i != MORTAL && op_covers(load_acquire(&this->op[i]), kind, position))
				return true;
		return false;
	}

	/* Makes a tombstone of a position unless it is published. Returns true if a live record may
	 * cover it. */
	bool make_tombstone(uint64_t position, bool producers)
	{
		shared64 *slot = &this->slot[position & this->ring.mask];
		uint64_t word = load_acquire(slot);
		uint64_t before = alf_tag(&this->ring, position - CAPACITY);
		if ((word ^ before) > (ALF_TOMBSTONE | ALF_INDEX_MASK))
			return false; /* published, a tombstone, or a lap further */
		if (producers && live_covers(ALF_OP_ENQUEUE, position))
			return true;
		if (cas_seq_cst(slot, &word, alf_tag(&this->ring, position) | ALF_TOMBSTONE)) {
			events[BURIED]++;
			RL_ASSERT(this->reserver[position] == MORTAL);
			int &holder = this->holder[this->at[position]];
			if (holder == IN_QUEUE) /* otherwise the sweep has taken it */
				holder = MORTAL;
		}
		return false;
	}

	/* For a multi-producer queue. Returns the number of postponed positions. A live producer's
	 * record may cover a position although its attempt failed: it has not cleared the record
	 * yet. */
	unsigned ranges_bury()
	{
		unsigned postponed = 0;
		uint64_t record = load_acquire(&this->op[MORTAL]);
		if ((record & 3) != ALF_OP_ENQUEUE)
			return 0;
		uint64_t first = record >> ALF_OP_POSITION_SHIFT;
		uint64_t prod = load_acquire(&this->queue.prod);
		for (uint64_t p = first; p != first + op_count(record) && (int64_t)(p - prod) < 0;
		     p++)
			postponed += make_tombstone(p, true);
		events[POSTPONED] += postponed;
		return postponed;
	}

	/* For a single-producer queue, whose producer is dead. */
	void ranges_bury_single()
	{
		uint64_t cons = load_acquire(&this->queue.cons);
		uint64_t prod = load_acquire(&this->queue.prod);
		for (uint64_t p = cons; (int64_t)(p - prod) < 0; p++)
			make_tombstone(p, false);
	}

	/* Inspects every buffer once. */
	void sweep(bool consumers)
	{
		uint64_t record[RECOVERER];
		uint64_t cons = load_acquire(&this->queue.cons);
		for (unsigned i = 0; i < RECOVERER; i++)
			record[i] = i != MORTAL && consumers ? load_acquire(&this->op[i]) : 0;
		for (unsigned b = 0; b < BUFFERS; b++) {
			uint64_t word = load_relaxed(&this->owner[b]);
			uint64_t position = word & ((1ull << 53) - 1);
			bool lost = word == owned(MORTAL);
			if (word & TRANSIT) {
				uint64_t tombstone = alf_tag(&this->ring, position) | ALF_TOMBSTONE;
				lost = (int64_t)(position - cons) < 0 ||
				       load_acquire(&this->slot[position & this->ring.mask]) ==
					       tombstone;
				for (unsigned i = 0; i < RECOVERER; i++)
					if (op_covers(record[i], ALF_OP_DEQUEUE, position) &&
					    load_acquire(&this->op[i]) == record[i])
						lost = false, events[POSTPONED]++;
			}
			if (lost && cas_seq_cst(&this->owner[b], &word, owned(RECOVERER))) {
				events[SWEPT]++;
				RL_ASSERT(this->holder[b] == MORTAL);
				this->holder[b] = TAKEN;
				this->fill(b, 0);
			}
		}
	}
};

/* Threads: a mortal producer; a live producer (with ALF_MULTI) or a second consumer; a consumer; a
 * recoverer. After one more recovery nothing blocks the ring. Consumers got every buffer of the
 * live producer. Each buffer of the dead producer was got by a consumer or taken by the sweep. */
template <uint32_t BULK, enum alf_side PUT>
struct dead_producer : rl::test_suite<dead_producer<BULK, PUT>, THREADS> {
	static constexpr unsigned PRODUCERS = PUT == ALF_MULTI ? 2 : 1;
	mortal_world<4> w;
	uint64_t sent[2];

	void before()
	{
		w.make((PUT == ALF_MULTI ? 26 : 13) * BULK);
		sent[0] = sent[1] = 0;
	}

	void produce(unsigned me)
	{
		for (int polls = 0; polls < POLLS && sent[me] < 2 * BULK; polls++) {
			uint64_t handle[BULK];
			for (uint32_t i = 0; i < BULK; i++) {
				handle[i] = me * 8 + sent[me] + i;
				store_relaxed(&w.owner[handle[i]], owned(me));
				w.holder[handle[i]] = (int)me;
				w.fill(handle[i], 100 + (uint32_t)handle[i]);
			}
			if (0 == w.transfer_in(handle, BULK, PUT))
				sent[me] += BULK;
			else
				pause_thread();
		}
	}

	void consume(int *last)
	{
		uint64_t handle[BULK];
		uint32_t got = w.transfer_out(handle, BULK, ALF_MULTI);
		for (uint32_t i = 0; i < got; i++) {
			unsigned from = (unsigned)handle[i] / 8;
			RL_ASSERT(w.empty(handle[i]) == 100 + handle[i]);
			RL_ASSERT((int)handle[i] > last[from]);
			last[from] = (int)handle[i];
		}
	}

	unsigned recover()
	{
		unsigned postponed = 0;
		if (PUT == ALF_MULTI)
			postponed = w.ranges_bury();
		else
			w.ranges_bury_single();
		w.sweep(true);
		return postponed;
	}

	void thread(unsigned me)
	{
		live([&] {
			int last[2] = { -1, -1 };
			if (me < PRODUCERS)
				produce(me);
			else if (me != RECOVERER)
				for (int i = 0; i < POLLS; i++)
					consume(last);
			if (me == RECOVERER) {
				w.wait_for_death();
				for (int i = 0; i < 2 && recover(); i++)
					pause_thread();
			}
		});
		if (me == MORTAL)
			w.report_death();
	}

	void after()
	{
		int last[2] = { -1, -1 };
		RL_ASSERT(0 == recover());
		while (!alf_empty(&w.ring))
			consume(last); /* otherwise Relacy reports a livelock */
		settle_all();
		recover();
		for (unsigned b = 0; b < BUFFERS; b++)
			RL_ASSERT(w.holder[b] != IN_QUEUE && w.holder[b] != MORTAL);
	}
};

/* Threads: a mortal consumer; a live consumer (with ALF_MULTI); a thread that gets and puts back,
 * or only puts; a sweep. After one more sweep every buffer has one owner. */
template <uint32_t BULK, enum alf_side GET>
struct dead_consumer : rl::test_suite<dead_consumer<BULK, GET>, THREADS> {
	static constexpr uint32_t FILLED = GET == ALF_MULTI ? 4 : 2;
	mortal_world<4> w;

	void before()
	{
		uint64_t handle[FILLED];
		w.make(8 + 8 * BULK);
		for (uint32_t i = 0; i < FILLED; i++)
			handle[i] = i;
		int left = threads[MORTAL].steps_to_live;
		reset_threads();
		RL_ASSERT(0 == w.transfer_in(handle, FILLED, ALF_MULTI));
		settle_all();
		threads[MORTAL].steps_to_live = left;
	}

	void get_and_put(unsigned me)
	{
		uint64_t handle[BULK];
		for (int round = 0; round < 2; round++) {
			uint32_t got = w.transfer_out(handle, BULK, GET);
			for (uint32_t i = 0; i < got; i++)
				w.fill(handle[i], me);
			if (me == 2 && got)
				RL_ASSERT(0 == w.transfer_in(handle, got, ALF_MULTI));
		}
	}

	void thread(unsigned me)
	{
		live([&] {
			if (me == RECOVERER) {
				w.wait_for_death();
				w.sweep(GET == ALF_MULTI);
			} else if (me == MORTAL || GET == ALF_MULTI) {
				get_and_put(me);
			} else {
				uint64_t handle[2] = { me * 4, me * 4 + 1 };
				w.fill(handle[0], me);
				w.fill(handle[1], me);
				if (w.transfer_in(handle, BULK, ALF_MULTI))
					pause_thread();
			}
		});
		if (me == MORTAL)
			w.report_death();
	}

	void after()
	{
		uint64_t handle;
		w.sweep(true);
		while (w.transfer_out(&handle, 1, ALF_MULTI))
			w.holder[handle] = NOBODY;
		for (unsigned b = 0; b < BUFFERS; b++)
			RL_ASSERT(w.holder[b] != IN_QUEUE && w.holder[b] != MORTAL);
	}
};

#endif
