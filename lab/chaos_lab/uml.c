/*
 * LD_PRELOAD for linux.uml: what UML 6.1 gets wrong on its host.
 *
 * ptrace: it sets a process's registers from a buffer that ends with the protection keys. A host
 * whose CPU has more than that (AMX) refuses a set that is shorter than all it has: EFAULT, "ptrace
 * set fp regs failed, errno = 14", and the guest's init dies (ptrace(2), arch/x86/kernel/fpu/regset.c).
 * What UML does not know of is given as zeros, which is its state at the start of a process.
 *
 * sigsuspend: a CPU that goes idle has its interrupts off (do_idle). A SIGIO that comes before it
 * sleeps is noted, spent, and slept on; and a tap device of the host sends SIGIO just before there is
 * something to read (tun_net_xmit), so who is quick finds nothing and is not told again. Either way
 * the guest saw the packet at its next timer: of those between two VMs one in 250 took 10 ms
 * instead of 0.1 ms, some 30 ms. What is unhandled can be read from UML's one epoll set: an idle
 * CPU waits for that too, and a busy one (timer_settime) looks at every tick.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

typedef long ptrace_fn(enum __ptrace_request, ...);
typedef int epoll_create_fn(int);
typedef int settime_fn(timer_t, int, const struct itimerspec *, struct itimerspec *);

static struct pollfd unhandled = {-1, POLLIN, 0};

long ptrace(enum __ptrace_request request, ...)
{
	static ptrace_fn *real;
	static char all[1 << 16]; /* not on the stack: that is the UML kernel's, of a few pages */
	static size_t size;       /* of the host's whole state; 0 until it was asked */
	va_list words;

	va_start(words, request);
	pid_t pid = va_arg(words, pid_t);
	void *address = va_arg(words, void *);
	void *data = va_arg(words, void *);
	va_end(words);

	if (!real)
		real = (ptrace_fn *)dlsym(RTLD_NEXT, "ptrace");
	if (request != PTRACE_SETREGSET || address != (void *)NT_X86_XSTATE)
		return real(request, pid, address, data);

	const struct iovec *part = data;
	struct iovec whole = {all, size};
	if (!size) {
		whole.iov_len = sizeof all;
		if (real(PTRACE_GETREGSET, pid, address, &whole) < 0)
			return -1;
		size = whole.iov_len;
		memset(all, 0, size);
	}
	memcpy(all, part->iov_base, part->iov_len < size ? part->iov_len : size);
	return real(request, pid, address, &whole);
}

int epoll_create(int size)
{
	epoll_create_fn *real = (epoll_create_fn *)dlsym(RTLD_NEXT, "epoll_create");

	return unhandled.fd = real(size);
}

int sigsuspend(const sigset_t *mask)
{
	if (ppoll(&unhandled, 1, NULL, mask) > 0)
		raise(SIGIO);
	errno = EINTR;
	return -1;
}

int timer_settime(timer_t timer, int flags, const struct itimerspec *new, struct itimerspec *old)
{
	static settime_fn *real;

	if (!real)
		real = (settime_fn *)dlsym(RTLD_NEXT, "timer_settime");
	if (poll(&unhandled, 1, 0) > 0)
		raise(SIGIO);
	return real(timer, flags, new, old);
}
