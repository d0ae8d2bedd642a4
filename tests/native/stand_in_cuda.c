/* SPDX-License-Identifier: Apache-2.0
 *
 * stand_in_cuda.c - stands in for the CUDA driver's library (libcuda.so.1) in test_pinning.py.
 *
 * Writes a line for each registration into the file CUDA_LOG: "PID register ADDRESS BYTES", "PID
 * unregister ADDRESS", or "PID wrong WHAT" for what the driver would refuse or crash on: no
 * context, ranges that share a page, memory that is not mapped, another process than the one that
 * called cuInit(). CUDA_ROOM is how many bytes can be registered, CUDA_INIT what cuInit() returns,
 * and a registration waits while the file CUDA_GATE exists.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096ul
#define MOST 4096

enum { OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_CONTEXT = 201, REGISTERED = 712, NOT_REGISTERED };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
	uintptr_t from, bytes;
} ranges[MOST];
static int count;
static pid_t owner;
static _Thread_local int depth;

static void say(const char *format, ...)
{
	char line[200];
	va_list values;
	int fd = open(getenv("CUDA_LOG"), O_WRONLY | O_APPEND | O_CREAT, 0600);
	int n = snprintf(line, sizeof(line), "%d ", getpid());
	va_start(values, format);
	n += vsnprintf(line + n, sizeof(line) - (size_t)n, format, values);
	va_end(values);
	if (fd < 0 || write(fd, line, (size_t)n) != n)
		abort();
	close(fd);
}

static int wrong(int code, const char *what)
{
	say("wrong %s\n", what);
	return code;
}

static uintptr_t first_page(uintptr_t address)
{
	return address / PAGE * PAGE;
}

/* True if all pages are mapped. */
static int mapped(uintptr_t from, uintptr_t bytes)
{
	unsigned char resident[1];
	for (uintptr_t at = first_page(from); at < from + bytes; at += PAGE)
		if (mincore((void *)at, PAGE, resident))
			return 0;
	return 1;
}

static int check(void)
{
	if (owner != getpid())
		return wrong(NOT_INITIALIZED, "process");
	return depth ? 0 : wrong(NO_CONTEXT, "context");
}

int cuInit(unsigned int flags)
{
	const char *code = getenv("CUDA_INIT");
	(void)flags;
	if (code)
		return atoi(code);
	if (owner && owner != getpid())
		return NOT_INITIALIZED;
	owner = getpid();
	return 0;
}

int cuCtxGetCurrent(void **context)
{
	*context = NULL;
	return 0;
}

int cuCtxGetDevice(int *device)
{
	*device = 0;
	return 0;
}

int cuDeviceGet(int *device, int number)
{
	*device = number;
	return 0;
}

int cuDevicePrimaryCtxRetain(void **context, int device)
{
	*context = (void *)(uintptr_t)(0x1000 + device);
	return 0;
}

int cuCtxPushCurrent_v2(void *context)
{
	depth += context == (void *)0x1000;
	return owner == getpid() ? 0 : wrong(NOT_INITIALIZED, "process");
}

int cuCtxPopCurrent_v2(void **context)
{
	*context = (void *)0x1000;
	depth--;
	return 0;
}

int cuMemHostRegister_v2(void *address, size_t bytes, unsigned int flags)
{
	const uintptr_t from = (uintptr_t)address;
	const char *gate = getenv("CUDA_GATE"), *room = getenv("CUDA_ROOM");
	uintptr_t all = bytes;
	int code = check();
	if (code)
		return code;
	while (gate && access(gate, F_OK) == 0)
		usleep(1000);
	pthread_mutex_lock(&lock);
	for (int i = 0; i < count && !code; i++) {
		all += ranges[i].bytes;
		if (first_page(from) < ranges[i].from + ranges[i].bytes &&
		    first_page(ranges[i].from) < from + bytes)
			code = wrong(REGISTERED, "overlap");
	}
	if (!code && (flags != 1 || count == MOST || !mapped(from, bytes)))
		code = wrong(OUT_OF_MEMORY, "range");
	if (!code && room && all > strtoul(room, NULL, 10))
		code = OUT_OF_MEMORY;
	if (!code) {
		ranges[count].from = from;
		ranges[count++].bytes = bytes;
		say("register %lu %lu\n", (unsigned long)from, (unsigned long)bytes);
	}
	pthread_mutex_unlock(&lock);
	return code;
}

int cuMemHostUnregister(void *address)
{
	int code = check(), i;
	if (code)
		return code;
	pthread_mutex_lock(&lock);
	for (i = 0; i < count && ranges[i].from != (uintptr_t)address; i++)
		;
	if (i == count)
		code = wrong(NOT_REGISTERED, "address");
	else if (!mapped(ranges[i].from, ranges[i].bytes))
		code = wrong(NOT_REGISTERED, "unmapped before");
	else
		say("unregister %lu\n", (unsigned long)ranges[i].from);
	if (i < count)
		ranges[i] = ranges[--count];
	pthread_mutex_unlock(&lock);
	return code;
}

int cuGetErrorName(int code, const char **text)
{
	*text = code == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" :
		code == 100           ? "CUDA_ERROR_NO_DEVICE" :
					"CUDA_ERROR";
	return 0;
}

int cuGetErrorString(int code, const char **text)
{
	*text = code == OUT_OF_MEMORY ? "out of memory" : "no device";
	return 0;
}
