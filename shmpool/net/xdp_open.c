/* SPDX-License-Identifier: Apache-2.0
 *
 * xdp_open.c - opens and closes an AF_XDP socket's rings, and loads the program that fills it.
 */
#include "xdp.h"

#include <errno.h>
#include <linux/bpf.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define GONE_NS 1000000000ll /* that a close waits for it */
#define GONE_PAUSE_NS 2000000

static int fail(const char *what)
{
	const int error = errno;
	PyObject *text = PyUnicode_FromFormat("%s: %s", what, strerror(error));
	PyObject *value = text ? Py_BuildValue("(iO)", error, text) : NULL;
	if (value)
		PyErr_SetObject(PyExc_OSError, value);
	Py_XDECREF(text);
	Py_XDECREF(value);
	return -1;
}

/* ---- rings ---- */

static int map_ring(struct xdp_ring *r, int fd, uint32_t size, size_t entry, off_t page,
		    const struct xdp_ring_offset *at)
{
	const size_t bytes = at->desc + size * entry;
	char *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, page);
	if (map == MAP_FAILED)
		return fail("a ring of the AF_XDP socket cannot be mapped");
	*r = (struct xdp_ring) {
		.map = map,
		.bytes = bytes,
		.producer = (uint32_t *)(map + at->producer),
		.consumer = (uint32_t *)(map + at->consumer),
		.flags = (uint32_t *)(map + at->flags),
		.entries = map + at->desc,
		.mask = size - 1,
	};
	/* A child that had the mapping would keep the socket. */
	return madvise(map, bytes, MADV_DONTFORK) ? fail("madvise") : 0;
}

static int set_option(int fd, int name, const void *value, size_t bytes, const char *what)
{
	return setsockopt(fd, SOL_XDP, name, value, (socklen_t)bytes) ? fail(what) : 0;
}

static int make_rings(struct xdp_object *self, int fd, char *data)
{
	const struct xdp_umem_reg memory = {
		.addr = (uintptr_t)data,
		.len = (uint64_t)(self->end - self->first) * self->stride,
		.chunk_size = (uint32_t)self->stride,
	};
	static const int rings[] = { XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_RX_RING,
				     XDP_TX_RING };
	struct xdp_mmap_offsets at;
	socklen_t bytes = sizeof(at);
	if (set_option(fd, XDP_UMEM_REG, &memory, sizeof(memory),
		       "the kernel refuses the pool's memory for an AF_XDP socket"))
		return -1;
	for (int i = 0; i < 4; i++)
		if (set_option(fd, rings[i], &self->size, sizeof(self->size),
			       "the kernel refuses a ring of the AF_XDP socket"))
			return -1;
	if (getsockopt(fd, SOL_XDP, XDP_MMAP_OFFSETS, &at, &bytes))
		return fail("XDP_MMAP_OFFSETS");
	const size_t address = sizeof(uint64_t), packet = sizeof(struct xdp_desc);
	return map_ring(&self->rx, fd, self->size, packet, XDP_PGOFF_RX_RING, &at.rx) ||
			       map_ring(&self->tx, fd, self->size, packet, XDP_PGOFF_TX_RING,
					&at.tx) ||
			       map_ring(&self->fill, fd, self->size, address,
					(off_t)XDP_UMEM_PGOFF_FILL_RING, &at.fr) ||
			       map_ring(&self->completion, fd, self->size, address,
					(off_t)XDP_UMEM_PGOFF_COMPLETION_RING, &at.cr) ?
		       -1 :
		       0;
}

static int bind_socket(struct xdp_object *self, int fd, int flags)
{
	const struct sockaddr_xdp to = { .sxdp_family = AF_XDP,
					 .sxdp_flags = (uint16_t)(flags | XDP_USE_NEED_WAKEUP),
					 .sxdp_ifindex = self->device.interface,
					 .sxdp_queue_id = self->device.queue };
	struct xdp_options options;
	socklen_t bytes = sizeof(options);
	if (bind(fd, (const struct sockaddr *)&to, sizeof(to)))
		return fail("the AF_XDP socket cannot be bound to the queue");
	self->zero_copy = !getsockopt(fd, SOL_XDP, XDP_OPTIONS, &options, &bytes) &&
			  options.flags & XDP_OPTIONS_ZEROCOPY;
	return 0;
}

/* Attaches the socket's member, without the interpreter's lock: it may wait for a slot. 0, or a
 * code. */
static int attach_member(struct xdp_object *self, uint64_t key)
{
	struct member *member = NULL;
	uint32_t *counted = opening_begin(key_pool(key));
	PyThreadState *state = PyEval_SaveThread();
	const int code =
		opening_pool(key_pool(key)) ? opening_device(key_pool(key), &member) : -EBADF;
	opening_end(counted);
	PyEval_RestoreThread(state);
	if (!code && !self->in.pool->key)
		return -EBADF; /* another thread closed the pool, which ended the member */
	self->member = member;
	return code;
}

int xdp_begin(struct xdp_object *self, int fd, int flags)
{
	struct lookup c;
	const uint64_t key = self->in.pool->key;
	int code = key ? lookup_key(key, &c) : -EBADF;
	if (!code)
		code = attach_member(self, key);
	if (code) {
		hot_pool_raise(self->in.pool, code);
		return -1;
	}
	self->key = key;
	self->asker = device_asker(&self->space);
	if (self->asker < 0) {
		errno = -self->asker;
		return fail("the kernel does not say which network namespace this is");
	}
	self->device.space = self->space;
	const struct segment *s = &pool_class(c.p, self->class)->segment;
	self->first = s->first;
	self->end = s->first + (uint32_t)s->geometry.capacity;
	self->stride = s->stride;
	if (make_rings(self, fd, segment_data(s, s->first)) || bind_socket(self, fd, flags))
		return -1;
	/* The socket has no buffer yet: a process that is killed before this leaves none in it. */
	device_set(&c.p->segment, self->member, &self->device,
		   device_bound(self->asker, self->space, &self->device) == 1);
	self->bound = true;
	device_succeed(&c.p->segment, &self->device, opening_token(key_pool(key)));
	return 0;
}

static void unmap(struct xdp_ring *r)
{
	if (r->map)
		munmap(r->map, r->bytes);
	r->map = NULL;
}

/* True once the queue has no socket. */
static bool is_gone(const struct xdp_object *self, const struct member *member, int asker,
		    bool wait)
{
	const struct timespec pause = { 0, GONE_PAUSE_NS };
	if (!self->bound)
		return true;
	/* A kernel that does not report sockets says that there is none. */
	if (!(load_relaxed(&member->device) & DEVICE_REPORTED))
		return false;
	const int64_t end = wait_now() + GONE_NS;
	while (device_bound(asker, self->space, &self->device) != 0) {
		if (!wait || wait_now() >= end)
			return false;
		nanosleep(&pause, NULL);
	}
	return true;
}

void xdp_end(struct xdp_object *self, bool wait)
{
	if (self->in.fd >= 0 || self->out.fd >= 0 || self->in.busy || self->out.busy)
		return;
	/* A forked child has none of these mappings, and the member is its parent's. */
	const bool mine = self->in.process == *hot_process_number;
	struct xdp_ring *const rings[] = { &self->fill, &self->rx, &self->tx, &self->completion };
	for (int i = 0; i < 4 && mine; i++)
		unmap(rings[i]);
	struct member *member = self->member;
	const int asker = self->asker;
	/* First: another thread may come here while the lock is released. */
	self->member = NULL;
	self->asker = -1;
	if (member && mine) {
		uint32_t *counted = opening_begin(key_pool(self->key));
		if (opening_pool(key_pool(self->key))) {
			PyThreadState *state = wait ? PyEval_SaveThread() : NULL;
			opening_device_ends(key_pool(self->key), member,
					    is_gone(self, member, asker, wait));
			if (state)
				PyEval_RestoreThread(state);
		}
		opening_end(counted);
	}
	if (asker >= 0)
		close(asker);
}

void xdp_ask(struct xdp_object *self)
{
	struct xdp_statistics found = { 0 };
	socklen_t bytes = sizeof(found);
	if (self->in.fd >= 0 && !getsockopt(self->in.fd, SOL_XDP, XDP_STATISTICS, &found, &bytes))
		self->kernel = found;
}

/* ---- the program ---- */

static int bpf(int command, union bpf_attr *attributes)
{
	return (int)syscall(SYS_bpf, command, attributes, sizeof(*attributes));
}

static int load_program(int map)
{
	/* return bpf_redirect_map(&map, context->rx_queue_index, XDP_PASS) */
	const struct bpf_insn code[] = {
		{ .code = BPF_LDX | BPF_W | BPF_MEM,
		  .dst_reg = BPF_REG_2,
		  .src_reg = BPF_REG_1,
		  .off = offsetof(struct xdp_md, rx_queue_index) },
		{ .code = BPF_LD | BPF_DW | BPF_IMM,
		  .dst_reg = BPF_REG_1,
		  .src_reg = BPF_PSEUDO_MAP_FD,
		  .imm = map },
		{ 0 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_3, .imm = XDP_PASS },
		{ .code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_redirect_map },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	static const char license[] = "Apache-2.0";
	union bpf_attr attributes = {
		.prog_type = BPF_PROG_TYPE_XDP,
		.insn_cnt = sizeof(code) / sizeof(code[0]),
		.insns = (uintptr_t)code,
		.license = (uintptr_t)license,
		.prog_name = "shmpool",
	};
	return bpf(BPF_PROG_LOAD, &attributes);
}

PyObject *net_xdp_program(PyObject *Py_UNUSED(module), PyObject *args)
{
	uint32_t interface, queues, flags;
	if (!PyArg_ParseTuple(args, "III", &interface, &queues, &flags))
		return NULL;
	union bpf_attr attributes = { .map_type = BPF_MAP_TYPE_XSKMAP,
				      .key_size = sizeof(uint32_t),
				      .value_size = sizeof(uint32_t),
				      .max_entries = queues,
				      .map_name = "shmpool" };
	const int map = bpf(BPF_MAP_CREATE, &attributes);
	const int program = map < 0 ? -1 : load_program(map);
	int link = -1;
	if (program >= 0) {
		attributes = (union bpf_attr) { 0 };
		attributes.link_create.prog_fd = (uint32_t)program;
		attributes.link_create.target_ifindex = interface;
		attributes.link_create.attach_type = BPF_XDP;
		attributes.link_create.flags = flags;
		link = bpf(BPF_LINK_CREATE, &attributes);
	}
	if (link < 0)
		PyErr_SetFromErrno(PyExc_OSError);
	if (program >= 0)
		close(program); /* the link keeps it */
	if (link < 0 && map >= 0)
		close(map);
	return link < 0 ? NULL : Py_BuildValue("(ii)", map, link);
}

PyObject *net_xdp_steer(PyObject *Py_UNUSED(module), PyObject *args)
{
	int map, fd;
	uint32_t queue;
	if (!PyArg_ParseTuple(args, "iIi", &map, &queue, &fd))
		return NULL;
	union bpf_attr attributes = { .map_fd = (uint32_t)map,
				      .key = (uintptr_t)&queue,
				      .value = (uintptr_t)&fd };
	return bpf(BPF_MAP_UPDATE_ELEM, &attributes) ? PyErr_SetFromErrno(PyExc_OSError) :
						       Py_NewRef(Py_None);
}
