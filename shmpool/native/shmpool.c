/* SPDX-License-Identifier: Apache-2.0
 *
 * shmpool.c - see shmpool.h and binding.h: keys taken apart, answers put together.
 */
#include "shmpool.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "audit.h"
#include "geometry.h"
#include "guard.h"
#include "liveness.h"
#include "lookup.h"
#include "member.h"
#include "recover.h"
#include "slab.h"
#include "token.h"

#include "trim.h"
#include "unfinished.h"

/* Between two recoveries of dead members by a process that never waits. */
#define TEND_NS 100000000

struct shmpool_range shmpool_range(int option)
{
	return geometry_range((enum shmpool_option)option);
}

int shmpool_plan(struct shmpool_geometry *g, struct shmpool_refusal *why)
{
	struct segment s;
	return segment_plan(&s, g, why);
}

int shmpool_create_wait(void *base, int fd, struct shmpool_geometry *g)
{
	struct segment s;
	struct shmpool_refusal why;
	int error = segment_plan(&s, g, &why);
	guard_watch(base, error ? 0 : s.size);
	if (!error)
		error = segment_init(&s, base, fd);
	for (uint32_t i = 0; i < s.geometry.classes && !error; i++) {
		const struct segment view = segment_view(&s, i);
		error = slab_create(&view);
	}
	if (!error)
		segment_ready(&s);
	return guard_watched(error);
}

int shmpool_check(void *base, uint64_t size, int fd, struct shmpool_refusal *why)
{
	struct segment s;
	guard_watch(base, size);
	return guard_watched(segment_check(&s, base, size, fd, why));
}

int shmpool_open(void *base, uint64_t size, int fd, const char *path, int made)
{
	struct segment s;
	struct shmpool_refusal why;
	if (path && strlen(path) >= sizeof(s.path))
		return -ENAMETOOLONG;
	madvise(base, size, MADV_DONTDUMP); /* or a core file would contain all payloads */
	guard_watch(base, size);
	int error = segment_check(&s, base, size, fd, &why);
	if (path)
		strcpy(s.path, path);
	s.writes = path != NULL;
	if (error == -EAGAIN)
		error = -EBADMSG; /* its creator has not finished, and so has died */
	return guard_watched(error ? error : opening_open(&s, made));
}

int shmpool_room(void)
{
	return opening_room() ? 0 : -EXFULL;
}

int shmpool_geometry(int pool, struct shmpool_geometry *g)
{
	const struct qmempool *p = opening_pool((uint32_t)pool);
	if (!p)
		return -EBADF;
	*g = p->segment.geometry;
	return 0;
}

int shmpool_close_wait(int pool)
{
	return opening_close((uint32_t)pool);
}

void shmpool_leave(int pool)
{
	opening_leave((uint32_t)pool);
}

void shmpool_leave_file(int fd)
{
	const off_t at = SHARED_OFFSET + offsetof(struct pool_shared, left);
	const uint32_t left = 1;
	uint64_t magic;
	if (pread(fd, &magic, sizeof(magic), 0) == sizeof(magic) && magic == LAYOUT_MAGIC)
		(void)!pwrite(fd, &left, sizeof(left), at);
}

int shmpool_left(const void *header)
{
	return ((const struct pool_shared *)((const char *)header + SHARED_OFFSET))->left != 0;
}

int shmpool_hold(int fd, const char *path, void **page)
{
	return opening_hold(fd, path, page);
}

void shmpool_let_go(void *page)
{
	token_let_go(page);
}

int shmpool_queue_create(int pool, const char *name, uint32_t capacity, uint32_t flags,
			 uint32_t on_death, uint32_t dead_letter, uint32_t max_redeliveries)
{
	struct lookup c;
	struct queue_on_death policy = { on_death, dead_letter, max_redeliveries };
	int error = lookup_pool((uint32_t)pool, &c);
	return error ? error : queue_create(c.p, c.m, name, capacity, flags, &policy);
}

int shmpool_queue_find(int pool, const char *name)
{
	struct qmempool *p = opening_pool((uint32_t)pool);
	return p ? (int)opening_read((uint32_t)pool, queue_find(p, name)) :
		   opening_missing((uint32_t)pool);
}

int shmpool_queue_info(int pool, int queue, struct shmpool_queue_info *info)
{
	struct qmempool *p = opening_pool((uint32_t)pool);
	if (!p)
		return opening_missing((uint32_t)pool);
	const struct alf_ring *r = queue_ring(p, (uint32_t)queue);
	if (!r)
		return queue_missing(p, (uint32_t)queue);
	memcpy(info->name, segment_queue(&p->segment, r->id)->name, sizeof(info->name));
	info->name[sizeof(info->name) - 1] = 0;
	info->capacity = lanes_share(p, r);
	info->single_producer = !!(r->flags & ALF_SINGLE_PRODUCER);
	info->single_consumer = !!(r->flags & ALF_SINGLE_CONSUMER);
	info->on_demand = !!(r->flags & ALF_ON_DEMAND);
	info->count = (uint32_t)queue_count(r);
	info->topic = !!(r->flags & ALF_TOPIC);
	info->waiting = load_relaxed(&r->q->room_wait) & WAIT_COUNT_MASK;
	const struct queue_slot *slot = segment_queue(&p->segment, r->id);
	info->producer = load_relaxed(&r->q->producer) & TAG_NUMBER_MASK;
	info->consumer = load_relaxed(&r->q->consumer) & TAG_NUMBER_MASK;
	info->on_death = slot->on_death;
	info->dead_letter = slot->dead_letter;
	info->max_redeliveries = slot->max_redeliveries;
	info->laned = r->queue == r->id ? 0 : r->queue;
	info->lanes = lanes_are(r) ? r->lanes->n : 0;
	info->active = lanes_are(r) ? lanes_active(r->lanes) : 0;
	info->grows = !!(r->flags & ALF_LANES_GROW);
	info->bulk = r->bulk;
	info->enqueued = info->dequeued = info->lost = 0;
	const struct alf_ring *part;
	for (uint32_t k = 0; (part = queue_part(r, k)); k++) {
		info->enqueued += alf_end(load_relaxed(&part->q->prod)) - alf_capacity(part);
		info->dequeued += load_relaxed(&part->q->cons) - alf_capacity(part);
		info->lost += load_relaxed(&part->q->lost);
	}
	info->refused = load_relaxed(&slot->refused);
	info->dropped = load_relaxed(&slot->dropped);
	return (int)opening_read((uint32_t)pool, 0);
}

/* Looks up a queue of a pool, both by number. */
static int lookup_number(int pool, int queue, struct lookup *c)
{
	int error = lookup_pool((uint32_t)pool, c);
	if (error)
		return error;
	c->ring = queue_ring(c->p, (uint32_t)queue);
	return c->ring ? 0 : queue_missing(c->p, (uint32_t)queue);
}

int shmpool_queue_shutdown(int pool, int queue)
{
	struct lookup c;
	int error = lookup_number(pool, queue, &c);
	return error ? error : queue_shutdown(c.ring, c.m);
}

int shmpool_queue_lane(int pool, int queue)
{
	struct lookup c;
	int error = lookup_number(pool, queue, &c);
	return error ? error : (int)queue_in(c.m, c.ring)->id;
}

int shmpool_queue_lanes(int pool, int queue, uint32_t *out, size_t n)
{
	struct qmempool *p = opening_pool((uint32_t)pool);
	uint32_t k = 0;
	if (!p)
		return opening_missing((uint32_t)pool);
	const struct alf_ring *r = queue_ring(p, (uint32_t)queue), *part;
	if (!r)
		return queue_missing(p, (uint32_t)queue);
	const uint32_t most = lanes_are(r) ? lanes_active(r->lanes) : 1;
	for (; k < most && k < n && (part = queue_part(r, k)); k++)
		out[k] = part->id;
	return (int)opening_read((uint32_t)pool, k);
}

int shmpool_queue_ended(int pool, int queue)
{
	struct qmempool *p = opening_pool((uint32_t)pool);
	if (!p)
		return opening_missing((uint32_t)pool);
	const struct alf_ring *r = queue_ring(p, (uint32_t)queue);
	return (int)opening_read((uint32_t)pool,
				 r ? alf_closed(r) : queue_missing(p, (uint32_t)queue));
}

int64_t shmpool_unfinished_wait(int pool, int queue, int producers, int64_t deadline)
{
	struct lookup c;
	int64_t end = wait_slice_end(deadline);
	int error = lookup_number(pool, queue, &c);
	if (error)
		return error;
	const enum unfinished what = producers ? UNFINISHED_PRODUCERS : UNFINISHED_MESSAGES;
	if (what == UNFINISHED_PRODUCERS && deadline == WAIT_NEVER) {
		struct shmpool_recovery done;
		recover(c.p, c.m, &done); /* a dead one is no producer any more */
	}
	const int64_t n = unfinished_wait(c.p, c.m, c.ring, what, end);
	return n > 0 && end != deadline ? -EINTR : n;
}

int64_t shmpool_queue_count(uint64_t key)
{
	struct qmempool *p = opening_pool(key_pool(key));
	if (!p)
		return opening_missing(key_pool(key));
	const struct alf_ring *r = queue_ring(p, key_queue(key));
	return opening_read(key_pool(key),
			    r ? (int64_t)queue_count(r) : queue_missing(p, key_queue(key)));
}

int64_t shmpool_queue_empty(uint64_t key)
{
	struct qmempool *p = opening_pool(key_pool(key));
	if (!p)
		return opening_missing(key_pool(key));
	const struct alf_ring *r = queue_ring(p, key_queue(key));
	return opening_read(key_pool(key), r ? !queue_ready(r) : queue_missing(p, key_queue(key)));
}

int shmpool_queue_release(int pool, int queue)
{
	struct lookup c;
	int error = lookup_number(pool, queue, &c);
	if (!error)
		queue_release(c.ring, c.m);
	return error;
}

int64_t shmpool_field(uint64_t key, int field)
{
	struct lookup c;
	struct buffer *b;
	uint64_t handle;
	int error = lookup_key(key, &c);
	if (!error)
		error = lookup_buffer(key, &c, &b, &handle);
	if (error)
		return error;
	switch (field) {
	case SHMPOOL_MARK:
		return load_relaxed(&b->mark);
	case SHMPOOL_FLOW_HASH:
		return load_relaxed(&b->flow_hash);
	case SHMPOOL_TIMESTAMP:
		return (int64_t)(load_relaxed(&b->timestamp) & INT64_MAX);
	case SHMPOOL_QUEUE:
		return load_relaxed(&b->queue);
	case SHMPOOL_REDELIVERED:
		return (int64_t)(load_relaxed(&b->redelivered) & INT64_MAX);
	case SHMPOOL_GENERATION:
		return buffer_generation(b);
	case SHMPOOL_ORIGIN:
		return load_relaxed(&b->origin);
	}
	return -EINVAL;
}

int64_t shmpool_set_field(uint64_t key, int field, uint64_t value)
{
	struct lookup c;
	struct buffer *b;
	uint64_t handle;
	int error = lookup_key(key, &c);
	if (!error)
		error = lookup_buffer(key, &c, &b, &handle);
	if (error)
		return error;
	switch (field) {
	case SHMPOOL_MARK:
		store_relaxed(&b->mark, (uint32_t)value);
		return 0;
	case SHMPOOL_FLOW_HASH:
		store_relaxed(&b->flow_hash, (uint32_t)value);
		return 0;
	case SHMPOOL_TIMESTAMP:
		store_relaxed(&b->timestamp, value);
		return 0;
	}
	return -EINVAL;
}

int shmpool_recover_wait(int pool, struct shmpool_recovery *out)
{
	struct lookup c;
	int error = lookup_pool((uint32_t)pool, &c);
	if (error ==
	    -EUSERS) { /* opening_attach() has recovered all that could be; no slot is free */
		*out = (struct shmpool_recovery) {
			.postponed = liveness_dead(&c.p->segment, opening_token((uint32_t)pool))
		};
		return (int)opening_read((uint32_t)pool, 0);
	}
	if (error)
		return error;
	error = recover(c.p, c.m, out);
	return (int)opening_read((uint32_t)pool, error);
}

int shmpool_tend_wait(uint64_t key)
{
	struct lookup c;
	int error = lookup_key(key, &c);
	if (error)
		return error;
	recover_if_due(c.p, c.m);
	store_relaxed(&c.p->tend_ns, (uint64_t)wait_now() + TEND_NS);
	store_relaxed(&c.p->tend_due, 0);
	return 0;
}

int64_t shmpool_trim_wait(int pool, uint64_t keep)
{
	struct lookup c;
	int error = lookup_pool((uint32_t)pool, &c);
	if (error)
		return error;
	int64_t bytes = trim(c.p, c.m, keep);
	return opening_read((uint32_t)pool, bytes);
}

int shmpool_pin_wait(int pool, const struct shmpool_driver *driver)
{
	return opening_pool((uint32_t)pool) ? opening_pin((uint32_t)pool, driver) :
					      opening_missing((uint32_t)pool);
}

int shmpool_pin_more_wait(int pool)
{
	struct qmempool *p = opening_pool((uint32_t)pool);
	return p ? pin_more(opening_pinned((uint32_t)pool), p) : opening_missing((uint32_t)pool);
}

int shmpool_unpin_wait(int pool)
{
	struct qmempool *p = opening_pool((uint32_t)pool);
	if (!p)
		return opening_missing((uint32_t)pool);
	pin_end(opening_pinned((uint32_t)pool), p);
	return 0;
}

int shmpool_pinned(int pool, struct shmpool_pinned *out)
{
	struct qmempool *p = opening_pool((uint32_t)pool);
	if (!p)
		return opening_missing((uint32_t)pool);
	pin_read(opening_pinned((uint32_t)pool), p, out);
	return (int)opening_read((uint32_t)pool, 0);
}

int shmpool_fate(int pool, uint32_t member)
{
	struct qmempool *p = opening_pool((uint32_t)pool);
	if (!p)
		return opening_missing((uint32_t)pool);
	if (member >= p->segment.members)
		return -ENOENT;
	const struct member *m = segment_member(&p->segment, member);
	uint64_t identity = load_acquire(&m->identity); /* [MEMBER] */
	return identity ?
		       (int)liveness_fate(&p->segment, m, identity, opening_token((uint32_t)pool)) :
		       -ENOENT;
}

int shmpool_audit_wait(int pool, struct shmpool_audit *out, struct shmpool_held *held,
		       size_t held_n, uint64_t *queued, size_t queued_n, uint64_t *met,
		       size_t met_n, int64_t budget_ns)
{
	struct lookup c = { .p = opening_pool((uint32_t)pool) };
	if (!c.p)
		return opening_missing((uint32_t)pool);
	if (load_relaxed(&c.p->closing))
		return -ESHUTDOWN;
	if (met_n < audit_words(c.p->total))
		return -EINVAL;
	int more = audit_step(c.p, out, held, held_n, queued, queued_n, met, budget_ns);
	return (int)opening_read((uint32_t)pool, more);
}
