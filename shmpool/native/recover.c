/* SPDX-License-Identifier: Apache-2.0
 *
 * recover.c - see recover.h: who is dead, and the words that name them.
 */
#include "recover.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "member.h"
#include "process.h"
#include "queue.h"
#include "recovery.h"
#include "wait.h"

#define PASSES 4 /* while something waits for a live member to end its operation */

/* Several members of one process are asked for once. */
struct asked {
	uint64_t identity;
	enum process_fate fate;
};

static enum process_fate ask(const struct segment *s, const struct process *self,
			     const struct member *m, uint64_t identity, struct asked *last)
{
	uint64_t namespaces = load_relaxed(&m->namespaces);
	if (!namespaces && !load_seq_cst(&segment_shared(s)->foreign))
		namespaces = segment_shared(s)->namespaces; /* still attaching, or killed at it */
	if (namespaces != self->namespaces)
		return PROCESS_UNKNOWN;
	if (member_same_process(last->identity, identity))
		return last->fate;
	uint32_t pid = member_pid(identity);
	last->identity = identity;
	if (pid == self->pid) {
		last->fate = (uint32_t)identity == self->start ? PROCESS_ALIVE : PROCESS_DEAD;
		return last->fate;
	}
	last->fate = process_fate(pid, (uint32_t)identity);
	if ((last->fate == PROCESS_ALIVE || last->fate == PROCESS_STOPPED) &&
	    process_maps(pid, s->fd) == 0)
		last->fate = PROCESS_DEAD; /* it has executed another program */
	return last->fate;
}

enum process_fate recover_fate(const struct segment *s, const struct member *m, uint64_t identity)
{
	struct process self = process_self();
	struct asked asked = { 0 };
	return member_dead(identity) ? PROCESS_DEAD : ask(s, &self, m, identity, &asked);
}

/* Finds the dead, and says so in their slots. */
static void recover_mark(struct recovery *r)
{
	const struct segment *s = &r->p->segment;
	struct process self = process_self();
	struct asked asked = { 0 };
	for (uint32_t i = 0; i < s->members; i++) {
		struct member *m = segment_member(s, i);
		uint64_t identity = load_acquire(&m->identity); /* [MEMBER] */
		if (member_attached(identity)) {
			enum process_fate fate = ask(s, &self, m, identity, &asked);
			r->out->unknown += fate == PROCESS_UNKNOWN;
			if (fate != PROCESS_DEAD)
				continue;
			uint64_t dead = identity ^ MEMBER_STATE_MASK;
			if (cas_seq_cst(&m->identity, &identity, dead)) /* [MEMBER] */
				identity = dead;
		}
		if (!member_dead(identity))
			continue;
		struct dead d = { .identity = identity,
				  .number = i,
				  .op = load_acquire(&m->op), /* [OP] */
				  .tag = load_relaxed(&m->tag) };
		if (!member_epoch_is(identity, d.tag))
			d.op = d.tag = 0; /* nothing is left of it but the slot */
		r->dead[r->deaths++] = d;
		r->dead_at[i] = r->deaths;
	}
}

/* Caches that a dead thief was emptying: their owners flush them, and leave out what it had taken. That must
 * be known before the sweep, after which it may be anybody's again. */
static void recover_thieves(struct recovery *r)
{
	for (uint32_t i = 0; i < r->p->segment.members; i++) {
		struct member *victim = segment_member(&r->p->segment, i);
		uint64_t bottom = load_acquire(&victim->cache_bottom); /* [CACHE] */
		if (recovery_dead(r, cache_thief(bottom)))
			cas_seq_cst(&victim->cache_bottom, &bottom,
				    cache_held(CACHE_REQUESTED, bottom)); /* [CACHE] */
	}
}

void recovery_look(struct recovery *r)
{
	r->lives = 0;
	for (uint32_t i = 0; i < r->p->segment.members; i++) {
		const struct member *m = segment_member(&r->p->segment, i);
		uint64_t op = load_acquire(&m->op); /* [OP] */
		/* Who died since this run began counts as alive: what it left is not known here. Nor is
		 * the slot's next member the dead one. */
		if (op && !(r->dead_at[i] && r->dead[r->dead_at[i] - 1].identity ==
						     load_acquire(&m->identity))) /* [MEMBER] */
			r->live_op[r->lives++] = op;
	}
}

const struct alf_ring *recovery_ring(const struct recovery *r, uint32_t queue)
{
	return queue ? queue_ring(r->p, queue) : &r->p->free;
}

/* A bulk is published from its end on: if its first position is published, all of it is. Of a range that is
 * certainly one producer's, only the last bulk can be unfinished. */
static void add_range(struct recovery *r, struct dead_range range)
{
	if (range.n > alf_capacity(range.ring))
		return; /* somebody scribbled over it */
	if (range.certain)
		for (; range.n; range.from++, range.n--) {
			enum alf_at at =
				alf_at(range.ring, range.from, alf_word(range.ring, range.from));
			if (at == ALF_AT_UNPUBLISHED)
				break;
		}
	if (range.n)
		r->range[r->ranges++] = range;
}

/* Which positions the dead may have reserved: what their op records cover of what is reserved at all,
 * and in a queue with a single producer all that is left of a dead one's. */
static void recover_ranges(struct recovery *r)
{
	const struct segment *s = &r->p->segment;
	for (uint32_t i = 0; i < r->deaths; i++) {
		struct dead *d = &r->dead[i];
		enum alf_op_kind kind = alf_op_kind(d->op);
		if (kind != ALF_OP_ENQUEUE && kind != ALF_OP_PUBLISH)
			continue;
		const struct alf_ring *ring = recovery_ring(r, alf_op_queue(d->op));
		if (!ring)
			continue;
		alf_position prod = load_acquire(&ring->q->prod); /* [PROD] */
		uint64_t ago = alf_op_offset(d->op, prod), n = alf_op_count(d->op);
		add_range(r, (struct dead_range) { .ring = ring,
						   .from = (alf_position)(prod - ago),
						   .n = n < ago ? n : ago,
						   .by = d,
						   .certain = kind == ALF_OP_PUBLISH });
	}
	for (uint32_t i = 1; i <= s->geometry.queues; i++) {
		const struct alf_ring *ring = recovery_ring(r, i);
		if (!ring || !(ring->flags & ALF_SINGLE_PRODUCER))
			continue;
		alf_position cons = load_acquire(&ring->q->cons);     /* [CONS] */
		alf_position n = load_acquire(&ring->q->prod) - cons; /* [PROD] */
		/* After prod: who has the role still had it then. Pairs with take_role(). */
		struct dead *d = recovery_dead(r, load_acquire(&ring->q->producer));
		if (d)
			add_range(r, (struct dead_range) { .ring = ring,
							   .from = cons,
							   .n = n,
							   .by = d,
							   .certain = true });
	}
}

/* Makes void what nobody will publish, once the buffers that were on their way there are known. */
static void recover_voids(struct recovery *r)
{
	for (uint32_t i = 0; i < r->ranges; i++) {
		struct dead_range *range = &r->range[i];
		for (uint64_t k = 0; k < range->n && !range->postponed; k++) {
			alf_position at = (alf_position)(range->from + k);
			uint64_t word = alf_word(range->ring, at);
			if (alf_at(range->ring, at, word) != ALF_AT_UNPUBLISHED)
				continue;
			if (!range->certain)
				recovery_look(r);
			if (!range->certain &&
			    recovery_live(r, ALF_OP_ENQUEUE, range->ring->id, at))
				range->by->postponed = true;
			else
				alf_make_void(range->ring, at, word);
		}
	}
}

/* Extents and queues that a dead member was making: nobody has seen anything of them yet. */
static void recover_makers(struct recovery *r)
{
	const struct segment *s = &r->p->segment;
	for (uint64_t i = 0; i < s->extents; i++) {
		uint64_t maker = load_acquire(segment_extent(s, i)); /* [EXTENT] */
		if (!maker || maker == EXTENT_PRESENT || !recovery_dead(r, maker))
			continue;
		add_seq_cst(&segment_shared(s)->trims,
			    1); /* it may have been taking it away: trim.c */
		cas_seq_cst(segment_extent(s, i), &maker, 0); /* [EXTENT] */
	}
	for (uint32_t i = 1; i <= s->geometry.queues; i++) {
		uint64_t *state = &segment_queue(s, i)->state,
			 maker = load_acquire(state); /* [QUEUE] */
		if (maker != QUEUE_READY && recovery_dead(r, maker))
			cas_seq_cst(state, &maker, 0); /* [QUEUE] */
	}
}

/* The single sides of queues that the dead had, of those too that are not finished with: it may be a
 * successor that makes room for what waits. After the sweep and recover_voids(), which find by these
 * roles what is unfinished there. */
static void recover_roles(struct recovery *r)
{
	for (uint32_t i = 1; i <= r->p->segment.geometry.queues; i++) {
		struct alf_queue *q = &segment_queue(&r->p->segment, i)->queue;
		uint32_t producer = load_acquire(&q->producer); /* pairs with take_role() */
		uint32_t consumer = load_acquire(&q->consumer);
		if (recovery_dead(r, producer))
			cas_seq_cst(&q->producer, &producer, 0);
		if (recovery_dead(r, consumer))
			cas_seq_cst(&q->consumer, &consumer, 0);
	}
}

/* Frees the slot of a dead member of which nothing is left but that. False if somebody alive still looks
 * into its cache. Whoever is at its cache does this alone. */
static bool recover_finish(struct recovery *r, const struct dead *d)
{
	struct member *m = segment_member(&r->p->segment, d->number);
	uint64_t bottom = load_acquire(&m->cache_bottom); /* [CACHE] */
	uint32_t thief = cache_thief(bottom);
	if (thief && thief != CACHE_REQUESTED && !recovery_dead(r, thief))
		return load_acquire(&m->identity) != d->identity;                   /* [MEMBER] */
	if (!cas_seq_cst(&m->cache_bottom, &bottom, cache_held(r->m->tag, bottom))) /* [CACHE] */
		return load_acquire(&m->identity) != d->identity;                   /* [MEMBER] */
	if (load_acquire(&m->identity) == d->identity) {                            /* [MEMBER] */
		cache_position top = load_relaxed(&m->cache_top);
		if (cache_between(bottom, top) < 0) /* it died in an attempt to pop more */
			store_relaxed(&m->cache_top, top = cache_bottom_at(bottom, top));
		store_relaxed(&m->cache_bottom, cache_held(r->m->tag, top));
		member_release(&r->p->segment, m);
		r->out->members++;
		store_release(&m->cache_bottom, (uint64_t)top); /* [CACHE] */
	} else {
		store_release(
			&m->cache_bottom,
			cache_held(CACHE_REQUESTED, bottom)); /* [CACHE] its successor's now */
	}
	return true;
}

/* The dead may have been counted asleep, or have died between a change and its wake-up. */
static void recover_sleepers(struct recovery *r)
{
	const struct segment *s = &r->p->segment;
	for (uint32_t i = 1; i <= s->geometry.queues; i++) {
		struct alf_queue *q = &segment_queue(s, i)->queue;
		if (wait_anybody(&q->data_wait))
			wait_reset(&q->data_wait);
		if (wait_anybody(&q->room_wait))
			wait_reset(&q->room_wait);
		if (wait_anybody(&q->room_many))
			wait_reset(&q->room_many);
	}
	if (wait_anybody(&segment_shared(s)->free_wait))
		wait_reset(&segment_shared(s)->free_wait);
	if (wait_anybody(&segment_shared(s)->free_many))
		wait_reset(&segment_shared(s)->free_many);
}

static void pass(struct recovery *r)
{
	r->deaths = r->ranges = 0;
	r->left_abandoned = false;
	memset(r->dead_at, 0, r->p->segment.members * sizeof(*r->dead_at));
	r->out->unknown = r->out->postponed = 0;
	uint64_t *abandoned = &segment_shared(&r->p->segment)->abandoned;
	uint64_t before = load_seq_cst(abandoned);
	recover_mark(r);
	if (!r->deaths && !before)
		return;
	recover_thieves(r);
	recover_ranges(r);
	sweep_unreserve(r);
	recover_voids(r);
	sweep(r);
	if (before && !r->left_abandoned)
		cas_seq_cst(abandoned, &before, 0);
	recover_roles(r);
	recover_makers(r);
	for (uint32_t i = 0; i < r->deaths; i++)
		if (r->dead[i].postponed || !recover_finish(r, &r->dead[i]))
			r->out->postponed++;
	recover_sleepers(r);
}

static int recover_passes(struct qmempool *p, struct member *m, struct shmpool_recovery *out,
			  int passes)
{
	uint32_t members = p->segment.members, queues = (uint32_t)p->segment.geometry.queues + 1;
	struct recovery r = { .p = p, .m = m, .out = out };
	int error = -ENOMEM;
	memset(out, 0, sizeof(*out));
	r.dead = calloc(members, sizeof(*r.dead));
	r.dead_at = calloc(members, sizeof(*r.dead_at));
	r.live_op = calloc(members, sizeof(*r.live_op));
	r.range = calloc(members + queues, sizeof(*r.range));
	r.cons = calloc(queues, sizeof(*r.cons));
	r.consumer = calloc(queues, sizeof(*r.consumer));
	if (r.dead && r.dead_at && r.live_op && r.range && r.cons && r.consumer) {
		error = 0;
		for (int i = 0; i < passes && !error; i++) {
			if (i)
				sched_yield();
			pass(&r);
			if (!out->postponed)
				break;
		}
	}
	free(r.dead);
	free(r.dead_at);
	free(r.live_op);
	free(r.range);
	free(r.cons);
	free(r.consumer);
	return error;
}

int recover(struct qmempool *p, struct member *m, struct shmpool_recovery *out)
{
	return recover_passes(p, m, out, PASSES);
}

/* pool_shared.inquired: | not before, CLOCK_REALTIME ns | inquiries in a row that changed nothing, 3 bits |. Any
 * value is good enough: one that lies further ahead than a rest can is of a clock that was set back. */
#define FRUITLESS 7u
#define FRUITLESS_MOST 3u

static uint64_t inquire_after(uint64_t wall, uint64_t rest, uint64_t fruitless)
{
	return ((wall + rest) & ~(uint64_t)FRUITLESS) | fruitless;
}

static bool due(uint64_t inquired, uint64_t wall)
{
	return (inquired & ~(uint64_t)FRUITLESS) - wall - 1 >= RECOVER_REST_MAX_NS;
}

bool recover_due(const struct qmempool *p)
{
	return due(load_relaxed(&segment_shared(&p->segment)->inquired), (uint64_t)wait_wall());
}

bool recover_stuck(struct qmempool *p, struct member *m)
{
	struct shmpool_recovery out;
	uint64_t *word = &segment_shared(&p->segment)->inquired, seen = load_relaxed(word);
	uint64_t wall = (uint64_t)wait_wall(), claimed;
	if (!due(seen, wall))
		return false;
	claimed = inquire_after(wall, RECOVER_LOOK_NS, seen & FRUITLESS);
	if (!cas_seq_cst(word, &seen, claimed)) /* decides who asks: pairs with itself */
		return false;
	int64_t began = wait_spent();
	bool found = !recover_passes(p, m, &out, 1) && (out.members || out.buffers);
	uint64_t took = (uint64_t)(wait_spent() - began), fruitless = seen & FRUITLESS;
	fruitless = found ? 0 : fruitless < FRUITLESS_MOST ? fruitless + 1 : FRUITLESS_MOST;
	uint64_t rest = RECOVER_LOOK_NS << fruitless;
	if (!found && rest < RECOVER_REST_TIMES * took)
		rest = RECOVER_REST_TIMES * took;
	if (rest > RECOVER_REST_MAX_NS)
		rest = RECOVER_REST_MAX_NS;
	cas_seq_cst(word, &claimed, inquire_after((uint64_t)wait_wall(), rest, fruitless));
	return found;
}
