/*
 * A program that finds what the wedge has in its process, where that is a process of Linux: instructions, orders, and a stack for
 * signals. It reads and writes there, goes to the instructions with calls and frames of its own, has signals held off, and hides
 * the stack. It must get nothing of Linux: the call ends as an instruction that there is not, or the program gets SIGSEGV, for
 * what it ran in is of no use any more. Then it goes on as if nothing had been.
 */
#include <asm/ldt.h>
#include <errno.h>
#include <setjmp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "stub.h"
#include "verdict.h"

#define PLACE UINT64_C(0x10000000)
#define VSYSCALL UINT64_C(0xffffffffff600000)

static sigjmp_buf back;
static volatile int got, code;

static void caught(int signal, siginfo_t *info, void *data)
{
	(void)data;
	got = signal;
	code = info->si_code;
	siglongjmp(back, 1);
}

/* What is at an address; -1 if nothing can be read there. */
static int64_t look(uint64_t address)
{
	if (sigsetjmp(back, 1))
		return -1;
	return (int64_t)(*(volatile uint64_t *)address & INT64_MAX);
}

static bool can_write(uint64_t address)
{
	if (sigsetjmp(back, 1))
		return false;
	*(volatile uint64_t *)address = 0;
	return true;
}

/* Goes to an address with registers; the signal that this ends with, or the value that comes back. */
static int64_t go(uint64_t address, uint64_t number, uint64_t rdi, uint64_t rsi, uint64_t rdx, uint64_t r10, uint64_t r8)
{
	int64_t value;

	got = 0;
	if (sigsetjmp(back, 1))
		return got;
	__asm__ volatile("mov %5, %%r10; mov %6, %%r8; xor %%r9d, %%r9d; lea 1f(%%rip), %%r15; jmp *%7; 1:"
			 : "=a"(value)
			 : "a"(number), "D"(rdi), "S"(rsi), "d"(rdx), "r"(r10), "r"(r8), "r"(address)
			 : "rcx", "r8", "r9", "r10", "r11", "r15", "memory");
	return value;
}

/* By the instruction that orders are carried out by. */
static int64_t ask(uint64_t number, uint64_t rdi, uint64_t rsi, uint64_t rdx)
{
	return go(order_site, number, rdi, rsi, rdx, 0, 0);
}

/* By the instruction that a process stops by: a signal, and where its frame is. */
static void stops(uint64_t signal, uint64_t frame)
{
	__asm__ volatile("mov $8, %%r10d; mov %4, %%r8; mov %5, %%r9; jmp *%6"
			 :
			 : "a"(SYS_rt_sigprocmask), "D"(SIG_SETMASK), "S"(ORDERS), "d"(0), "r"(signal), "r"(frame), "r"(stop_site)
			 : "rcx", "r8", "r9", "r10", "r11", "memory");
	__builtin_unreachable();
}

static int64_t stop(uint64_t signal, uint64_t frame)
{
	got = 0;
	if (sigsetjmp(back, 1))
		return got;
	stops(signal, frame);
	return 0;
}

static void ends(const char *name, int64_t found, int64_t expected)
{
	verdict(found == expected, name, "%ld", found);
}

/* What the program goes on with, by a frame of its own. */
static void spins(void)
{
	for (;;)
		;
}

/* Calls that nobody has ordered, with all signals held off. */
static void asks_and_asks(void)
{
	__asm__ volatile("1: mov %0, %%eax; xor %%edi, %%edi; xor %%esi, %%esi; lea 1b(%%rip), %%r15; jmp *%1"
			 :
			 : "i"(SYS_munmap), "r"(order_site)
			 : "rax", "rdi", "rsi", "r15", "memory");
	__builtin_unreachable();
}

static void asks_for_port(void)
{
	__asm__ volatile("inb $0x80, %%al" : : : "rax");
	got = 0;
	siglongjmp(back, 1);
}

static void makes_call(void)
{
	got = getpid() > 0 ? 0 : -1;
	siglongjmp(back, 1);
}

/* Returns from a handler that there was not, with a frame that a test changes. */
static int frame_to(void (*function)(void), void (*change)(ucontext_t *))
{
	static uint8_t stack[65536] __attribute__((aligned(16)));
	static struct {
		ucontext_t context;
		uint8_t behind[4096];
	} frame __attribute__((aligned(64)));

	memset(&frame, 0, sizeof(frame));
	frame.context.uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)function;
	frame.context.uc_mcontext.gregs[REG_RSP] = (greg_t)(uintptr_t)(stack + sizeof(stack) - 8);
	frame.context.uc_mcontext.gregs[REG_EFL] = 0x202;
	frame.context.uc_mcontext.gregs[REG_CSGSFS] = 0x002b000000000033;
	got = 0;
	if (sigsetjmp(back, 1))
		return got;
	change(&frame.context);
	__asm__ volatile("mov %0, %%rsp; jmp *%1" : : "r"(&frame.context), "r"(leave_site), "a"(SYS_rt_sigreturn) : "memory");
	__builtin_unreachable();
}

/* As the wedge has it: 64 bytes are in front of the stack. */
static void has_stack(ucontext_t *context)
{
	context->uc_stack = (stack_t){ .ss_sp = (void *)(STACK + 64), .ss_size = STACK_END - STACK - 64 };
}

static void holds_signals_off(ucontext_t *context)
{
	has_stack(context);
	memset(&context->uc_sigmask, 0xff, 8);
}

static void has_ports(ucontext_t *context)
{
	has_stack(context);
	context->uc_mcontext.gregs[REG_EFL] |= 0x3000;
}

static void is_kernel(ucontext_t *context)
{
	has_stack(context);
	context->uc_mcontext.gregs[REG_CSGSFS] = 0x0018000000000010;
}

static void moves_stack(ucontext_t *context)
{
	static uint8_t elsewhere[65536] __attribute__((aligned(4096)));

	context->uc_stack = (stack_t){ .ss_sp = elsewhere, .ss_size = sizeof(elsewhere) };
}

static void has_no_stack(ucontext_t *context)
{
	context->uc_stack = (stack_t){ .ss_flags = SS_DISABLE };
}

/* A call of the guest's with the stack pointer in the wedge's stack: the frame of the signal goes below it. */
static int64_t with_stack_at(uint64_t rsp)
{
	int64_t value = SYS_getpid;

	got = 0;
	if (sigsetjmp(back, 1))
		return got;
	__asm__ volatile("mov %%rsp, %%rbx; mov %1, %%rsp; syscall; mov %%rbx, %%rsp"
			 : "+a"(value)
			 : "r"(rsp)
			 : "rbx", "rcx", "r11", "memory");
	return value == getpid() ? 0 : -1;
}

static void tries_calls(void)
{
	static const uint64_t asked[] = { SYS_munmap, SYS_clone, SYS_prctl, SYS_unshare, SYS_close_range };
	int64_t mapped = 0, executed = 0;

	ends("stub-own-call", ask(SYS_getpid, 0, 0, 0), SIGILL);
	ends("stub-end", ask(SYS_exit_group, 0, 0, 0), SIGILL);
	for (uint64_t file = 0; file < 256; file++) {
		int64_t value = go(order_site, SYS_mmap, PLACE, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file);

		mapped += value != SIGSEGV || look(PLACE) != -1;
	}
	verdict(mapped == 0, "stub-map", "%ld files can be mapped", mapped);
	for (size_t i = 0; i < sizeof(asked) / sizeof(*asked); i++)
		executed += ask(asked[i], STACK, PAGE, 0) != SIGSEGV;
	verdict(executed == 0, "stub-asked", "%ld calls are executed", executed);
}

/* A system call of 32-bit programs, by the instruction that such orders are carried out by. */
static int64_t ask_by_interrupt(uint64_t number, uint64_t argument)
{
	int64_t value;

	got = 0;
	if (sigsetjmp(back, 1))
		return got;
	__asm__ volatile("xchg %%rbx, %2; jmp *%3" : "=a"(value) : "a"(number), "r"(argument), "r"(interrupt_site) : "memory");
	return value;
}

/* A thread area that the kernel knows nothing of. Numbers of its calls are those of 32-bit programs. */
static void tries_thread_areas(void)
{
	enum { EXIT = 1, GETPID = 20, MMAP2 = 192, SET_THREAD_AREA = 243, SELECTOR = 0x63 };
	static const uint64_t others[] = { EXIT, GETPID, MMAP2, SYS_mmap, SYS_rt_sigprocmask, SYS_rt_sigreturn };
	static struct user_desc area = { .entry_number = SELECTOR / 8, .limit = 0xfff, .seg_32bit = 1, .useable = 1 };
	int64_t executed = 0;
	uint32_t limit;
	bool is_there;

	for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++)
		executed += ask_by_interrupt(others[i], 0) != SIGILL;
	verdict(executed == 0, "stub-own-call-32", "%ld calls are executed", executed);
	ends("stub-thread-area", ask_by_interrupt(SET_THREAD_AREA, (uintptr_t)&area), SIGSEGV);
	__asm__ volatile("lsl %2, %0; setz %1" : "=r"(limit), "=q"(is_there) : "r"(SELECTOR), "0"(0) : "cc");
	verdict(!is_there, "stub-thread-area-set", "limit %#x", limit);
}

/* Claims that 32-bit code has called: Linux says where, at an address that such code cannot have. */
static int64_t claims_call_32(int signal, int64_t rax, uint64_t rsp)
{
	uint64_t frame;
	greg_t *registers;

	got = 0;
	if (sigsetjmp(back, 1))
		return got;
	frame = frame_of_call();
	registers = ((ucontext_t *)frame)->uc_mcontext.gregs;
	registers[REG_RIP] = 0x7fff12345678;
	registers[REG_RSP] = (greg_t)rsp;
	registers[REG_RBP] = (greg_t)rsp;
	registers[REG_RAX] = rax;
	registers[REG_CSGSFS] = 0x002b000000000023;
	registers[REG_TRAPNO] = 13;
	stops((uint64_t)signal, frame);
	return 0;
}

static void tries_calls_32(void)
{
	static uint8_t there[65536] __attribute__((aligned(16)));
	uint64_t middle = (uintptr_t)(there + sizeof(there) / 2);

	ends("stub-claims-call-32", claims_call_32(SIGSYS, 20, middle), SIGSEGV);
	ends("stub-claims-call-32-without-argument", claims_call_32(SIGSEGV, -EFAULT, middle), SIGSEGV);
	verdict(getpid() > 0, "stub-claims-call-32-after", "calls go on");
}

static void tries_frames(void)
{
	uint64_t frame = frame_of_call();

	ends("stub-handler", go(STUB, 0, SIGSEGV, 0, 0, 0, 0), SIGSEGV);
	ends("stub-stop", stop(SIGSEGV, PLACE), SIGSEGV);
	ends("stub-stop-orders", stop(0, STACK + PAGE), SIGSEGV);
	ends("stub-stop-failed", stop(0, (uint64_t)-ENOMEM), SIGSEGV);
	ends("stub-stop-signal", stop(77, frame), SIGSEGV);
	ends("stub-stop-other-set", go(stop_site, SYS_rt_sigprocmask, SIG_SETMASK, PLACE, 0, 8, SIGSEGV), SIGSEGV);
	ends("stub-stop-other-call", go(stop_site, SYS_munmap, STACK, PAGE, 0, 0, 0), SIGILL);
	ends("stub-frame", frame_to(makes_call, has_stack), 0);
	ends("stub-no-stack", frame_to(makes_call, has_no_stack), SIGSEGV);
	ends("stub-moved-stack", frame_to(makes_call, moves_stack), SIGSEGV);
	ends("stub-held-off", frame_to(makes_call, holds_signals_off), SIGSEGV);
	ends("stub-held-off-asks", frame_to(asks_and_asks, holds_signals_off), SIGSEGV);
	ends("stub-held-off-spins", frame_to(spins, holds_signals_off), SIGSEGV);
	ends("stub-ports", frame_to(asks_for_port, has_ports), SIGSEGV);
	ends("stub-kernel", frame_to(asks_for_port, is_kernel), SIGSEGV);
}

/*
 * Whether a call is one that a stop claims, by a frame whose extended state has been written over. A signal of the timer may come
 * in between, and leave its own frame there.
 */
static bool is_call_with(uint64_t frame, uint8_t *state, size_t length)
{
	for (volatile int i = 0; i < 4; i++) {
		if (sigsetjmp(back, 1))
			continue;
		frame_of_call();
		memset(state, 0xff, length);
		if (forge_call(frame, SYS_getpid) == getpid())
			return true;
	}
	return false;
}

/* The state itself, MXCSR, the header. */
static void tries_state(void)
{
	uint64_t frame = frame_of_call();
	uint8_t *state = (uint8_t *)((ucontext_t *)frame)->uc_mcontext.fpregs;
	int64_t wrong = 0;

	for (int at = 0; at < 576; at += 4)
		wrong += !is_call_with(frame, state + at, 4);
	wrong += !is_call_with(frame, state, 576);
	verdict(wrong == 0, "stub-state", "%ld calls are wrong", wrong);
}

/* An exception that a frame claims; the signal that it ends with. A signal of the timer may come in between, as above. */
static int claim(int signal, int vector)
{
	got = 0;
	for (volatile int i = 0; i < 4 && !got; i++) {
		uint64_t frame;

		if (sigsetjmp(back, 1))
			break;
		frame = frame_of_call();
		((ucontext_t *)frame)->uc_mcontext.gregs[REG_TRAPNO] = vector;
		forge_stop(frame, (uint64_t)signal, 0);
	}
	return got;
}

/* Why there was a debug exception, by the code of the signal. */
static int debugged(bool steps)
{
	code = 0;
	if (sigsetjmp(back, 1))
		return code;
	if (steps)
		__asm__ volatile("pushf; orl $0x100, (%%rsp); popf; nop; nop" : : : "memory", "cc");
	else
		__asm__ volatile(".byte 0xf1"); /* int1 */
	return 0;
}

static void tries_claims(void)
{
	ends("stub-divides", claim(SIGFPE, 0), SIGFPE);
	ends("stub-nmi", claim(SIGSEGV, 2), SIGSEGV);
	ends("stub-double-fault", claim(SIGSEGV, 8), SIGSEGV);
	ends("stub-interrupt", claim(SIGSEGV, 0x80), SIGSEGV);
	ends("stub-split-lock", claim(SIGBUS, 17), SIGSEGV);
	ends("stub-step", debugged(true), TRAP_TRACE);
	ends("stub-int1", debugged(false), TRAP_BRKPT);
}

static char *wanted;

/* Stops with TF, for a page that it wants: it ends before it can be given that. */
static void stops_and_ends(ucontext_t *context)
{
	uint64_t frame = frame_of_call();
	greg_t *claimed = ((ucontext_t *)frame)->uc_mcontext.gregs, *own = context->uc_mcontext.gregs;

	has_stack(context);
	own[REG_RIP] = (greg_t)stop_site;
	own[REG_EFL] |= 0x100;
	own[REG_RAX] = SYS_rt_sigprocmask;
	own[REG_RDI] = SIG_SETMASK;
	own[REG_RSI] = (greg_t)ORDERS;
	own[REG_R10] = 8;
	own[REG_R8] = SIGSEGV;
	own[REG_R9] = (greg_t)frame;
	claimed[REG_TRAPNO] = 14;
	claimed[REG_ERR] = 4;
	claimed[REG_CR2] = (greg_t)(uintptr_t)wanted;
}

static int64_t words_of_orders(void)
{
	int64_t words = 0;

	for (uint64_t at = ORDERS_HEAD; at < PAGE; at += 8)
		words += look(ORDERS + at) != 0;
	return words;
}

/* Orders that it was given, and has not carried out. */
static void tries_orders(void)
{
	enum { PAGES = 64 };
	int64_t words = 0, ended = 0;

	wanted = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	/* By the kernel, so that the process has none of it, and so that no page lies behind the one before it. */
	for (uint64_t page = 0; page < PAGES; page++)
		CHECK(getrandom(wanted + page * 37 % PAGES * PAGE, 1, 0) == 1);
	for (int i = 0; i < 8; i++, wanted += PAGES / 8 * PAGE) {
		ended += frame_to(spins, stops_and_ends) == SIGSEGV;
		words += words_of_orders();
	}
	verdict(ended > 0 && words == 0, "stub-orders-left", "%ld words of orders can be read, after %s", words,
		ended > 0 ? "some" : "none");
}

static void tries_stack(void)
{
	int64_t wrong = 0;

	for (uint64_t at = STACK; at < STACK_END; at += 8)
		*(volatile uint64_t *)at = UINT64_C(0xa5a5a5a5a5a5a5a5);
	verdict(getpid() > 0, "stub-overwritten", "calls go on");
	tries_state();
	for (uint64_t rsp = STACK + PAGE; rsp <= STACK_END; rsp += PAGE / 4) {
		int64_t value = with_stack_at(rsp);

		wrong += value != 0 && value != SIGSEGV;
	}
	verdict(wrong == 0, "stub-in-stack", "%ld stacks are wrong", wrong);
}

int main(void)
{
	int64_t orders, broken = 0;
	double number = 1.5;

	for (int signal = 1; signal < 32; signal++)
		if (signal == SIGSEGV || signal == SIGBUS || signal == SIGTRAP || signal == SIGILL || signal == SIGFPE)
			handle(signal, caught);
	if (look(STUB) == -1) {
		printf("skip stub: there is none\n");
		return 0;
	}
	orders = words_of_orders();
	verdict(orders == 0, "stub-orders", "%ld words of orders can be read", orders);
	verdict(!can_write(STUB) && !can_write(STUB + PAGE), "stub-written", "it cannot be written");
	verdict(look(STUB - PAGE) == -1 && look(STACK_END) == -1, "stub-beside", "nothing is beside it");
	CHECK(find_sites());

	tries_calls();
	tries_thread_areas();
	tries_calls_32();
	tries_frames();
	tries_claims();
	tries_orders();
	tries_stack();
	/* A signal of the timer may interrupt the stop, which has failed then. */
	for (int i = 0; i < 200; i++) {
		int64_t end = go(STUB, 0, SIGSEGV, 0, 0, 0, 0);

		broken += end == SIGSEGV || end == SIGILL;
	}
	verdict(broken == 200, "stub-often", "%ld of 200 times", broken);
	verdict(number * 2 == 3, "stub-registers", "they last");
	ends("stub-vsyscall", go(VSYSCALL, SYS_getpid, 0, 0, 0, 0, 0), SIGSEGV);
	return 0;
}
