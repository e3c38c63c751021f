/*
 * LD_PRELOAD for linux.uml: a host's whole floating-point state where UML gives a part of it.
 *
 * UML 6.1 sets a process's registers from a buffer that ends with the protection keys. A host whose
 * CPU has more than that (AMX) refuses a set that is shorter than all it has: EFAULT, "ptrace set
 * fp regs failed, errno = 14", and the guest's init dies (ptrace(2), arch/x86/kernel/fpu/regset.c).
 * What UML does not know of is given as zeros, which is its state at the start of a process.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

typedef long ptrace_fn(enum __ptrace_request, ...);

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
