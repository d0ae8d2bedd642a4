/* SPDX-License-Identifier: Apache-2.0
 *
 * topic.h - topics: one buffer, many readers. A publisher puts a buffer into the topic's ring once.
 * Each subscriber goes through the ring with a cursor of its own and reads the buffer in place.
 *
 * A topic is a named queue with ALF_TOPIC. A position of its ring is a message's sequence number.
 * The ring keeps the newest `depth` messages (a power of two). The member that reserves a position
 * is the only one that evicts the message one ring before it; then it publishes in the same slot.
 * It can reserve the position only once that older message is published.
 *
 * No counter says how many hold a buffer. Its holders word has a bit for each subscriber:
 *
 *     | state 2 | topic 10 | position 28 | subscribers 24 |
 *
 *     state      meaning                            a crash then leaves; repaired by
 *     0          no holders word: `since`, layout.h
 *     PUBLISHED  in the ring, and held by the       a subscriber's bit: topic_forsaken()
 *                subscribers whose bits are set
 *     HELD       evicted, and held by those         the same; HELD without a bit: sweep()
 *                subscribers                        takes the buffer
 *     FINAL      nobody holds it; has the tag of    sweep() takes the buffer
 *                the member that will own it and
 *                free it
 *
 *     from -> to                by                                 in
 *     any -> PUBLISHED          its owner, before its owner word   topic_publish()
 *                               is TRANSIT(topic, position)
 *     PUBLISHED + bit           a subscriber, by CAS               acquire()
 *     PUBLISHED, HELD - bit     the same; a recoverer, if the      let_go(), topic_forsaken()
 *                               subscriber is dead
 *     PUBLISHED -> HELD         the publisher one ring later, by   evict(), topic_evict_for()
 *                               CAS; a recoverer, if that one is
 *                               dead
 *     PUBLISHED, HELD -> FINAL  that publisher, if no bit is set;  evict(), let_go()
 *                               the last subscriber, with its bit
 *     FINAL, and owner OWNED    the same member                    topic_own()
 *
 * From PUBLISHED to FINAL the owner word stays TRANSIT(topic, position).
 *
 * A subscriber belongs to a process, as a token does. Any of its threads may use it:
 *
 *     from -> to           by                                      a crash then leaves
 *     0 -> CLAIMED         the process, by CAS                     a dead subscriber
 *     CLAIMED -> LIVE      the same: publishers read its cursor    a dead subscriber
 *     LIVE -> CLOSING      the same: it still holds buffers        a dead subscriber
 *     CLOSING -> 0         the same: it holds none                 nothing
 *     any -> DEAD          a recoverer: the token is free; or the  the next recoverer goes on
 *                          process, when it closes the pool
 *     DEAD -> 0            a recoverer: its bits are cleared       nothing
 *
 * A recoverer may be suspended between reading a holders word and clearing a dead subscriber's bit.
 * It has read the bit of the dead one if the subscriber is still DEAD afterwards. When it goes on,
 * a later subscriber may have that bit, but never on the same message: `barred` is a position after
 * all that the dead one can have held, and a later one begins there.
 *
 * Policies: what happens when a subscriber is a whole ring behind.
 *
 *     BLOCK        publishers find no room until it goes on
 *     DROP_OLDEST  it goes on with the oldest message that is kept, and counts what it missed
 *     DROP_NEWEST  it has the oldest ones still to get, up to the length of the ring, and counts
 *                  what it missed: what was published while it had so many
 *     LATEST       it always gets the newest message that it has not got
 *
 * Keepers: subscribers for which a message stays when it is evicted: that of the next `keeps`
 * positions from the cursor on. Both are in one word, the cursor word. With DROP_NEWEST these are
 * the messages that it has accepted. One that blocks and starts with the oldest message keeps those
 * before the position at which it joined: a publisher that has read the gate before still evicts
 * some.
 * The member that evicts a message reads the cursor words of keepers. If one wants the message, the
 * compare-and-swap that makes it HELD also sets that subscriber's bit, and then the member puts the
 * slot's word on the subscriber's shelf, before it publishes in the slot. The subscriber takes
 * each message from the ring, or as HELD with its own bit, or from its shelf.
 *
 * So what a DROP_NEWEST has not got is its backlog (messages with its bit, in its process) and
 * the `keeps` positions, together at most a ring. A get that finds that more was published than it
 * had accepted takes all of these positions into the backlog, and then accepts from prod on.
 *
 *     step                                  by                     a crash then leaves
 *     HELD, with the bits of keepers        evict(),               a message that is not on the
 *                                           topic_evict_for(),     shelf: topic_evict_for(); bits
 *                                           topic_release()        of a dead one: topic_forsaken()
 *     shelf[position] by CAS, from what     topic_shelve()         nothing
 *       lay there before
 *     bit set; cursor word; user's release  the subscriber         a dead subscriber
 *
 * An evicting member may be suspended with a cursor word that it read long ago. So it must not find
 * the holders word as it read it, if the subscriber has got the message since and let it go. The
 * subscriber stores its cursor, reads prod, and lets the message go later. If the message's
 * eviction was due at that prod, it lets it go by evicting it (topic_release()), and a recoverer
 * evicts what is due before it clears bits of dead keepers (topic_evict_due()). If it was not due,
 * members that reserve the position one ring later read the new cursor.
 *
 * Ordering
 *     [HOLD]    a holders word, changed by compare-and-swap. A publisher writes it before the owner
 *               word, and that before the slot. So a member that reads the owner word or the slot,
 *               with acquire, sees the holders word of that publication or a later one. The member
 *               that makes it FINAL has read the buffer for the last time, as all holders have.
 *     [CURSOR]  cursor: its subscriber stores it, seq_cst, after it has set the bits of the
 *               messages before it, and then reads the wait word of publishers. A publisher that
 *               finds no room enters that wait word and then reads the cursors again.
 *     [GATE]    gate: a subscriber that blocks is LIVE, then writes a new gate, and then reads
 *               prod. A publisher reads prod, then gate, and then moves prod. So it reads the new
 *               gate, or the subscriber reads the prod that it moved. A publisher that has computed
 *               a gate stores it by compare-and-swap, which fails if a subscriber has joined.
 *     [KEEP]    keepers, state and cursor of a subscriber. An evicting member has moved prod, and
 *               then reads them. A subscriber writes them and then reads prod. All are seq_cst: so
 *               that member reads what was written, or the subscriber reads the prod that it moved.
 *     [SHELF]   a slot of a shelf. An evicting member changes it by compare-and-swap, and then
 *               stores a later message in the ring's slot. A subscriber that reads that one there
 *               reads the shelf.
 *     [TOPIC]   state of a subscriber, written by compare-and-swap. The next subscriber, and a
 *               recoverer, read with it what the last one has left. barred is only raised.
 *
 * Who may call what at the same time: any number of members. The threads of a process may use one
 * struct subscriber at once: they take turns by a lock that no other process sees.
 *
 * Progress: no call waits for another process. A publisher that is suspended between its
 * reservation and its publication delays subscribers at this position, and other publishers one
 * ring later. Loops end after TOPIC_TURNS_MAX turns if a word is corrupted.
 */
#ifndef SHMPOOL_TOPIC_H
#define SHMPOOL_TOPIC_H

#include "queue.h"

enum topic_policy {
	TOPIC_BLOCK,
	TOPIC_DROP_OLDEST,
	TOPIC_DROP_NEWEST,
	TOPIC_LATEST,
	TOPIC_POLICIES
};
enum topic_start { TOPIC_NEWEST, TOPIC_OLDEST };

#define TOPIC_BULK 1024u /* messages that are published at once, all or none */

#define TOPIC_TURNS_MAX 1024 /* compare-and-swaps lost in a row: a corrupted word */
#define TOPIC_KEEPS_SHIFT 48 /* of the position in a cursor word; and in the gate */
#define TOPIC_POSITION_BITS                                                                        \
	(SHMPOOL_POSITION_BITS < TOPIC_KEEPS_SHIFT ? SHMPOOL_POSITION_BITS : TOPIC_KEEPS_SHIFT)
#define TOPIC_POSITION_MASK ((1ull << TOPIC_POSITION_BITS) - 1)
#define TOPIC_KEEPS_MASK (~0ull << TOPIC_KEEPS_SHIFT)
_Static_assert(TOPIC_DEPTH_MAX < 1u << (64 - TOPIC_KEEPS_SHIFT), "a cursor word has its keeps");

#define HOLD_PUBLISHED 1ull
#define HOLD_HELD 2ull
#define HOLD_FINAL 3ull
#define HOLD_STATE_SHIFT 62
#define HOLD_QUEUE_SHIFT 52
#define HOLD_POSITION_SHIFT SUBSCRIBERS_MAX
#define HOLD_BITS ((1ull << SUBSCRIBERS_MAX) - 1)
#define HOLD_POSITION_MASK ((1ull << (HOLD_QUEUE_SHIFT - HOLD_POSITION_SHIFT)) - 1)

#define TOPIC_TOKEN_BITS 62
#define TOPIC_CLAIMED 0ull /* with a token, which is never 0 */
#define TOPIC_LIVE (1ull << TOPIC_TOKEN_BITS)
#define TOPIC_CLOSING (2ull << TOPIC_TOKEN_BITS)
#define TOPIC_DEAD (3ull << TOPIC_TOKEN_BITS)
#define TOPIC_STATE_MASK (3ull << TOPIC_TOKEN_BITS)

/* A message that a subscriber has taken and its users have not got. */
struct topic_backlog {
	uint64_t handle;
	alf_position position;
};

/* A subscriber, in the memory of its process. */
struct subscriber {
	const struct alf_ring *r;
	struct topic_subscriber *shared;
	uint64_t token;
	alf_position cursor;
	uint64_t gaps;
	uint64_t held;   /* messages that its users have not let go */
	uint32_t number; /* its bit */
	uint32_t policy;
	uint32_t lock;
	bool closed;
	bool keeper;
	alf_position joined; /* what it misses before this position is no gap */
	alf_position seen;   /* of a keeper: prod, read after its cursor word was stored */
	/* DROP_NEWEST: */
	alf_position end;              /* of what it has accepted: cursor + keeps */
	struct topic_backlog *backlog; /* a ring with as many entries as the topic's */
	uint32_t first, waiting;       /* in it */
};

static inline struct topic *topic_of(const struct alf_ring *r)
{
	return (struct topic *)&r->slot[r->mask + 1];
}

static inline bool topic_is(const struct alf_ring *r)
{
	return r->flags & ALF_TOPIC;
}

static inline uint64_t hold_state(uint64_t word)
{
	return word >> HOLD_STATE_SHIFT;
}

/* Returns a holders word without its bits. */
static inline uint64_t hold_word(uint64_t state, uint32_t queue, alf_position position)
{
	return state << HOLD_STATE_SHIFT | (uint64_t)queue << HOLD_QUEUE_SHIFT |
	       (position & HOLD_POSITION_MASK) << HOLD_POSITION_SHIFT;
}

/* True if the word says that the buffer is that message of the topic, PUBLISHED or HELD. */
static inline bool hold_is(uint64_t word, uint64_t state, uint32_t queue, uint64_t position)
{
	return (word & ~HOLD_BITS) == hold_word(state, queue, (alf_position)position);
}

/* Returns how far one position of TOPIC_POSITION_BITS lies behind another; negative if it lies
 * before. */
static inline int64_t topic_distance(uint64_t position, uint64_t other)
{
	const int shift = 64 - TOPIC_POSITION_BITS;
	return (int64_t)((position - other) << shift) >> shift;
}

/* Returns how many messages a subscriber has not got yet, reserved ones included. */
static inline uint64_t topic_unread(const struct alf_ring *r, uint32_t policy, uint64_t cursor)
{
	const alf_position prod = alf_end(load_acquire(&r->q->prod)); /* [PROD] */
	const int64_t distance = topic_distance(prod, cursor);
	const uint64_t behind = distance > 0 ? (uint64_t)distance : 0;
	const uint64_t keeps = cursor >> TOPIC_KEEPS_SHIFT;
	return policy != TOPIC_DROP_NEWEST ?
		       behind :
		       alf_capacity(r) - keeps + (behind < keeps ? behind : keeps);
}

/* ---- for the topic*.c files ---- */

/* True if the subscriber gets messages. */
static inline bool topic_lives(const struct topic_subscriber *s)
{
	return (load_seq_cst(&s->state) & TOPIC_STATE_MASK) == TOPIC_LIVE; /* [TOPIC] [KEEP] */
}

/* True if it also holds publishers up. */
static inline bool topic_blocks(const struct topic_subscriber *s)
{
	return topic_lives(s) && load_relaxed(&s->policy) == TOPIC_BLOCK;
}

/* Makes a buffer m's own that m has made FINAL. Returns its handle, which m frees. */
static inline uint64_t topic_own(const struct qmempool *p, struct member *m, uint32_t index)
{
	struct buffer *b = pool_buffer(p, index);
	store_release(&b->owner, m->tag); /* [OWNER] [HOLD] */
	count_up(&m->counters[COUNT_DEQUEUE], 1);
	return handle_of(index, buffer_generation(b));
}

enum topic_taken { TOPIC_NOT_YET, TOPIC_NOTHING, TOPIC_MISSED, TOPIC_TAKEN };

/* Makes s hold the message at position: TOPIC_TAKEN, and *index. TOPIC_NOT_YET: it is not
 * published. TOPIC_NOTHING: its publisher died. TOPIC_MISSED: it is gone. */
enum topic_taken topic_take(struct qmempool *p, struct member *m, const struct subscriber *s,
			    alf_position position, uint32_t *index);

/* Lets a message go that s holds, and frees it for m if nobody else does. */
void topic_release(struct qmempool *p, struct member *m, const struct subscriber *s,
		   uint64_t handle);

/* Goes on at next; counts what was missed before. */
void topic_miss(struct subscriber *s, alf_position next);

/* Stores the cursor word of a keeper, and then reads prod. */
void topic_store_cursor(struct subscriber *s, uint32_t keeps);

/* topic_get() under the lock: the next messages that are published; LATEST; DROP_NEWEST. */
int topic_get_next(struct qmempool *p, struct member *m, struct subscriber *s, uint64_t *handle,
		   uint64_t *position, uint32_t n);
int topic_get_latest(struct qmempool *p, struct member *m, struct subscriber *s, uint64_t *handle,
		     uint64_t *position);
int topic_get_kept(struct qmempool *p, struct member *m, struct subscriber *s, uint64_t *handle,
		   uint64_t *position, uint32_t n);

/* Lets go what a subscriber that is not LIVE any more has accepted and not got. */
void topic_drop_kept(struct qmempool *p, struct member *m, struct subscriber *s);

/* The shelf of a subscriber. Its slots have memory once a keeper has subscribed there. */
shared64 *topic_shelf(const struct alf_ring *r, uint32_t number);

/* Returns the bits of the subscribers for which the message at position must stay. */
uint64_t topic_keepers(const struct alf_ring *r, alf_position position);

/* Puts a message that is HELD on the shelves of those subscribers. */
void topic_shelve(const struct qmempool *p, const struct alf_ring *r, alf_position position,
		  uint32_t index);

/* Publishes n buffers of m, TOPIC_BULK at most: all or none, but only a prefix if m is killed.
 * Returns 0; -ENOBUFS if a blocking subscriber is a ring behind or an older message is still being
 * published; -EPIPE after queue_shutdown(); -EINVAL, -ESTALE, -EPERM as queue_put(). */
int topic_publish(struct qmempool *p, struct member *m, const struct alf_ring *r,
		  const uint64_t *handle, uint32_t n);

/* True if the process of a subscriber that blocks is dead, so that a recovery makes room. */
bool topic_blocked_by_dead(const struct qmempool *p, const struct member *m,
			   const struct alf_ring *r);

/* True if an older message is still being published where the next one is to go. */
bool topic_unpublished(const struct alf_ring *r);

/* Fills in a subscriber of m's process. Returns 0; -EUSERS if the topic has SUBSCRIBERS_MAX;
 * -EINVAL for another policy or start; -ENOMEM, or what segment_reserve() returns, if there is no
 * memory for a shelf. Call topic_unsubscribe(), or free() its backlog. */
int topic_subscribe(struct qmempool *p, struct member *m, const struct alf_ring *r, uint32_t policy,
		    uint32_t start, struct subscriber *s);

/* Returns 1 if a subscriber is free; 0 if processes that are not known to be dead have all;
 * -EAGAIN if one is a dead process's, or about to be a live one's, which may fail. */
int topic_vacancy(const struct alf_ring *r);

/* Gets 1 to n messages, oldest first (LATEST: one). The subscriber holds them until topic_let_go().
 * position[] receives their sequence numbers, from 0 on. Returns how many; -EAGAIN; -EPIPE if there
 * is none and the topic was shut down; -ENOTCONN if s is closed; -EBADMSG if the ring is
 * corrupted. */
int topic_get(struct qmempool *p, struct member *m, struct subscriber *s, uint64_t *handle,
	      uint64_t *position, uint32_t n);

/* Lets n messages go that s holds. The last holder of an evicted one frees it for m. */
void topic_let_go(struct qmempool *p, struct member *m, struct subscriber *s,
		  const uint64_t *handle, uint32_t n);

/* Ends the subscription: it gets nothing more and blocks nobody. What it holds it keeps. */
void topic_unsubscribe(struct qmempool *p, struct member *m, struct subscriber *s);

/* Returns how many messages s has not got yet, reserved ones included. */
uint64_t topic_lag(struct subscriber *s);

/* For members that wait, without a struct subscriber. Returns how many messages the subscriber with
 * that bit, of the process with that token, may get; 0 for none; UINT32_MAX if it is closed, or the
 * topic was shut down and it has got all. *unsure: a message is being published. */
uint32_t topic_ready(const struct alf_ring *r, uint32_t number, uint64_t token, bool *unsure);

/* Returns how many messages can be published now, TOPIC_BULK at most; UINT32_MAX after
 * queue_shutdown(). */
uint32_t topic_room(const struct alf_ring *r);

/* Gives up the subscribers of a process that closes the pool: marks them DEAD. True if it has any,
 * so that a recovery frees what they hold. */
bool topic_give_up(struct qmempool *p, uint64_t token);

/* True if there is a subscriber with that state and its process is dead. own is a token of this
 * process, or 0. */
bool topic_is_dead(const struct qmempool *p, uint64_t state, uint64_t own);

/* Returns the number of subscribers, of all topics, that are dead and not recovered. own is a token
 * of this process, or 0. */
uint32_t topic_dead(struct qmempool *p, uint64_t own);

/* ---- for recovery ---- */

/* Evicts the message one ring before position, which a dead publisher reserved; word is that of its
 * slot. */
void topic_evict_for(const struct qmempool *p, const struct alf_ring *r, alf_position position,
		     uint64_t word);

/* Evicts, as HELD, each message whose publisher one ring later has reserved its position and not
 * published. Then no member that is suspended while it evicts sets the bit of a subscriber that was
 * marked DEAD before this call. */
void topic_evict_due(const struct qmempool *p, const struct alf_ring *r);

/* Clears the bits of subscribers that are DEAD, of the set gone, from the holders word of a buffer
 * that is in TRANSIT to the topic. Returns true if nobody holds it then and it is not in the ring:
 * a recoverer may take it. dead tells whether the member with a tag is dead. */
bool topic_forsaken(const struct alf_ring *r, struct buffer *b, uint64_t owner, uint32_t gone,
		    bool (*dead)(const void *context, uint64_t tag), const void *context);

/* Subscribers that a recovery has found dead: their bits, and the state of each, which says which
 * one it was. */
struct topic_gone {
	uint32_t bits;
	uint64_t state[SUBSCRIBERS_MAX];
};

/* Frees them, after all buffers were swept. Not a later one that has died since, of which the sweep
 * may have left a bit. Returns how many. */
uint32_t topic_vacate(const struct alf_ring *r, const struct topic_gone *gone);

#endif
