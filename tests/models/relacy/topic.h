/* SPDX-License-Identifier: Apache-2.0
 *
 * topic.h - a topic: the steps of topic.c, topic_subscriber.c and topic_repair.c on the holders
 * word, the owner word, the slot and prod, with their orders. No subscriber blocks.
 *
 *     topic_publish  reads the slot one ring before, moves prod, evicts; then stores the holders
 *                    word, the owner word and the slot
 *     evict          PUBLISHED becomes HELD if there is a bit, FINAL if not
 *     acquire        sets a bit of PUBLISHED, and reads the owner word
 *     let_go         clears it; the last bit of HELD makes the word FINAL
 *     forsaken       reads the owner word, then the holders word; clears a dead subscriber's bit
 *
 * The member that has made a word FINAL writes the buffer's bytes. Relacy reports a race if a
 * holder may still read them.
 */
#ifndef TOPIC_H
#define TOPIC_H

#include "death.h"

#define TOPIC_BUFFERS 6u
#define NO_BUFFER TOPIC_BUFFERS
#define HOLD_PUBLISHED 1ull
#define HOLD_HELD 2ull
#define HOLD_FINAL 3ull
#define HOLD_BITS 15ull

static inline uint64_t hold_word(uint64_t state, uint64_t position)
{
	return state << 62 | position << 4;
}

template <uint32_t CAPACITY> struct topic_world {
	alf_queue queue;
	alf_ring ring;
	shared64 slot[CAPACITY], hold[TOPIC_BUFFERS], owner[TOPIC_BUFFERS];
	shared64 dead;
	rl::var<uint32_t> content[TOPIC_BUFFERS];
	unsigned readers[TOPIC_BUFFERS]; /* the threads that read it, for the checker */
	unsigned published;
	bool mortal_is_dead;

	void make()
	{
		reset_threads();
		queue.prod.where = PROD;
		RL_ASSERT(0 ==
			  alf_init(&ring, &queue, slot, CAPACITY, ALF_CAPACITY_MAX, RING_ID, 0));
		for (uint32_t i = 0; i < CAPACITY; i++) {
			slot[i].where = SLOT;
			store_relaxed(&slot[i], ALF_TOMBSTONE);
		}
		for (unsigned i = 0; i < TOPIC_BUFFERS; i++) {
			hold[i].where = HOLD;
			owner[i].where = OWNER;
			store_relaxed(&hold[i], 0);
			store_relaxed(&owner[i], 0);
			content[i]($) = 0;
			readers[i] = 0;
		}
		dead.where = DEAD;
		store_relaxed(&dead, 0);
		published = 0;
		mortal_is_dead = false;
		settle_all();
	}

	/* Writes the bytes of a buffer that nobody reads. */
	void fill(unsigned b, uint32_t value)
	{
		RL_ASSERT(!(readers[b] & ~(unsigned)mortal_is_dead));
		content[b]($) = value;
	}

	void give_back(unsigned b)
	{
		fill(b, 0);
		store_release(&owner[b], 0);
	}

	unsigned allocate()
	{
		for (unsigned b = 0; b < TOPIC_BUFFERS; b++) {
			uint64_t nobody = 0;
			if (load_acquire(&owner[b]) == 0 &&
			    cas_seq_cst(&owner[b], &nobody, owned(rl::thread_index())))
				return b;
		}
		return NO_BUFFER;
	}

	void own(unsigned b)
	{
		store_release(&owner[b], owned(rl::thread_index()));
		give_back(b);
	}

	void evict(uint64_t position)
	{
		uint64_t index =
			load_acquire(&slot[position & ring.mask]) ^ alf_tag(&ring, position);
		if (index >= TOPIC_BUFFERS)
			return;
		uint64_t word = load_acquire(&hold[index]);
		for (;;) {
			if ((word & ~HOLD_BITS) != hold_word(HOLD_PUBLISHED, position))
				return;
			uint64_t bits = word & HOLD_BITS;
			uint64_t next = bits ? hold_word(HOLD_HELD, position) | bits :
					       HOLD_FINAL << 62 | owned(rl::thread_index());
			if (!cas_seq_cst(&hold[index], &word, next))
				continue;
			events[bits ? STAYED : EVICTED]++;
			if (!bits)
				own((unsigned)index);
			return;
		}
	}

	/* Publishes a buffer, if a position can be reserved now; gives it back otherwise. The bytes
	 * are written before, as those of a message are, and say in which slot it is. */
	void topic_publish(unsigned b)
	{
		uint64_t at = load_seq_cst(&queue.prod);
		fill(b, 100 + (uint32_t)(at & ring.mask));
		uint64_t before = load_acquire(&slot[at & ring.mask]);
		if ((before ^ alf_tag(&ring, at - CAPACITY)) > (ALF_TOMBSTONE | ALF_INDEX_MASK) ||
		    !cas_seq_cst(&queue.prod, &at, at + 1)) {
			give_back(b);
			pause_thread();
			return;
		}
		evict(at - CAPACITY);
		store_relaxed(&hold[b], hold_word(HOLD_PUBLISHED, at));
		store_release(&owner[b], transit(at));
		store_release(&slot[at & ring.mask], alf_tag(&ring, at) | b);
		published++;
	}

	void let_go(unsigned b, uint64_t bit)
	{
		uint64_t word = load_acquire(&hold[b]);
		for (;;) {
			RL_ASSERT(word & bit);
			bool last = word >> 62 == HOLD_HELD && (word & HOLD_BITS) == bit;
			uint64_t next =
				last ? HOLD_FINAL << 62 | owned(rl::thread_index()) : word & ~bit;
			if (!cas_seq_cst(&hold[b], &word, next))
				continue;
			if (last)
				own(b);
			return;
		}
	}

	bool acquire(unsigned b, uint64_t position, uint64_t bit)
	{
		uint64_t word = load_acquire(&hold[b]);
		do {
			if ((word & ~HOLD_BITS) != hold_word(HOLD_PUBLISHED, position))
				return false;
		} while (!cas_seq_cst(&hold[b], &word, word | bit));
		RL_ASSERT(load_acquire(&owner[b]) == transit(position));
		return true;
	}

	/* Gets the next message. A message is missed only if its eviction was due. Returns the
	 * buffer that the thread holds then, or NO_BUFFER. */
	unsigned get(uint64_t *cursor)
	{
		const unsigned me = rl::thread_index();
		uint64_t word = load_acquire(&slot[*cursor & ring.mask]);
		uint64_t b = word ^ alf_tag(&ring, *cursor);
		if ((word ^ alf_tag(&ring, *cursor - CAPACITY)) <=
		    (ALF_TOMBSTONE | ALF_INDEX_MASK)) {
			pause_thread(); /* it is not published */
			return NO_BUFFER;
		}
		bool got = b < TOPIC_BUFFERS && acquire((unsigned)b, *cursor, 1ull << me);
		if (got) {
			readers[b] |= 1u << me;
			events[RECEIVED]++;
		} else {
			events[LAPPED]++;
			RL_ASSERT((int64_t)(load_seq_cst(&queue.prod) - *cursor) > CAPACITY);
		}
		++*cursor;
		return got ? (unsigned)b : NO_BUFFER;
	}

	/* Reads a message that the thread holds, and lets it go. */
	void read(unsigned b, uint64_t position)
	{
		const unsigned me = rl::thread_index();
		RL_ASSERT(content[b]($) == 100 + (position & ring.mask));
		readers[b] &= ~(1u << me);
		let_go(b, 1ull << me);
	}

	void take(unsigned b, uint64_t was)
	{
		if (!cas_seq_cst(&owner[b], &was, owned(RECOVERER)))
			return;
		events[SWEPT]++;
		give_back(b);
	}

	/* Clears the bit of the dead subscriber, and takes what nobody holds. */
	void forsaken()
	{
		for (unsigned b = 0; b < TOPIC_BUFFERS; b++) {
			uint64_t at = load_acquire(&owner[b]), position = at & ((1ull << 53) - 1);
			if (at == owned(MORTAL))
				take(b, at);
			if (!(at & TRANSIT))
				continue;
			uint64_t word = load_acquire(&hold[b]), free = word & ~(1ull << MORTAL);
			if (word == (HOLD_FINAL << 62 | owned(MORTAL)))
				take(b, at);
			bool held = (word & ~HOLD_BITS) == hold_word(HOLD_HELD, position);
			if (!held && (word & ~HOLD_BITS) != hold_word(HOLD_PUBLISHED, position))
				continue;
			if ((word == free || cas_seq_cst(&hold[b], &word, free)) && held &&
			    !(free & HOLD_BITS))
				take(b, at);
		}
	}

	void publish_some()
	{
		for (int i = 0; i < POLLS; i++) {
			unsigned b = allocate();
			if (b != NO_BUFFER)
				topic_publish(b);
		}
	}

	/* Holds a message until it has tried to get the next one. */
	void get_some()
	{
		uint64_t cursor = CAPACITY, position = 0;
		unsigned held = NO_BUFFER;
		for (int polls = 0; polls < 3 * POLLS; polls++) {
			uint64_t at = cursor;
			unsigned b = get(&cursor);
			if (held != NO_BUFFER)
				read(held, position);
			held = b;
			position = at;
		}
		if (held != NO_BUFFER)
			read(held, position);
	}

	void recover()
	{
		while (!load_acquire(&dead))
			pause_thread();
		forsaken();
	}

	/* Every buffer is in the ring or free, and no bit is left. */
	void check()
	{
		unsigned kept = 0;
		for (unsigned b = 0; b < TOPIC_BUFFERS; b++) {
			uint64_t at = load_relaxed(&owner[b]), position = at & ((1ull << 53) - 1);
			if (!(at & TRANSIT)) {
				RL_ASSERT(at == 0);
				continue;
			}
			RL_ASSERT(load_relaxed(&hold[b]) == hold_word(HOLD_PUBLISHED, position));
			RL_ASSERT(load_relaxed(&slot[position & ring.mask]) ==
				  (alf_tag(&ring, position) | b));
			kept++;
		}
		RL_ASSERT(kept == (published < CAPACITY ? published : CAPACITY));
	}
};

/* PUBLISHERS threads publish; the others get what there is, and let it go. */
template <unsigned PUBLISHERS> struct topic_flow : rl::test_suite<topic_flow<PUBLISHERS>, THREADS> {
	topic_world<2> w;

	void before()
	{
		w.make();
	}

	void thread(unsigned me)
	{
		live([&] {
			if (me < PUBLISHERS)
				w.publish_some();
			else
				w.get_some();
		});
	}

	void after()
	{
		w.check();
	}
};

/* Threads: a mortal subscriber; a publisher; another subscriber; a recoverer. */
struct topic_death : rl::test_suite<topic_death, THREADS> {
	topic_world<2> w;

	void before()
	{
		w.make();
		threads[MORTAL].steps_to_live = (int)rl::rand(60);
	}

	void thread(unsigned me)
	{
		live([&] {
			if (me == 1)
				w.publish_some();
			else if (me != RECOVERER)
				w.get_some();
			else
				w.recover();
		});
		if (me == MORTAL) {
			threads[MORTAL].steps_to_live = -1;
			w.mortal_is_dead = true;
			store_release(&w.dead, 1);
		}
	}

	void after()
	{
		w.forsaken();
		w.check();
	}
};

#endif
