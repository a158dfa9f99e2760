# Every sensitive instruction that GNU as knows, in each of its forms: `objdump` and the list of mnemonics must find them all.
	cli
	sti
	clui
	stui
	pushfq
	pushfw
	popfq
	popfw
	clac
	stac
	hlt
	mov %cr0, %rax
	mov %rbx, %cr2
	mov %cr3, %r9
	mov %r9, %cr4
	mov %cr8, %rax
	mov %rax, %cr8
	mov %db0, %rax
	mov %rax, %db7
	clts
	lmsw %ax
	lmsw (%rax)
	smsw %eax
	smsw (%rax)
	lgdt (%rax)
	lgdt table(%rip)
	lidt (%rax)
	lldt %ax
	lldt (%rax)
	ltr %ax
	ltr (%rax)
	sgdt (%rax)
	sidt (%rax)
	sldt %eax
	sldt %rax
	sldt (%rax)
	str %eax
	str (%rax)
	lar %ax, %ax
	lar (%rax), %rcx
	lsl %eax, %eax
	lsl (%rax), %ecx
	verr %ax
	verr (%rax)
	verw %ax
	verw table(%rip)
	mov %cs, %eax
	mov %ds, (%rax)
	mov %eax, %ss
	mov (%rax), %es
	mov %ax, %fs
	mov %rax, %gs
	push %fs
	push %gs
	pop %fs
	pop %gs
	pushw %fs
	popw %gs
	lss (%rax), %eax
	lfs (%rax), %ecx
	lgs (%rax), %ax
	rdfsbase %rax
	rdgsbase %eax
	wrfsbase %rax
	wrgsbase %eax
	swapgs
	int $0x80
	int1
	iretw
	iretl
	iretq
	lretw
	lretl
	lretq
	lretq $8
	ljmp *(%rax)
	ljmpw *(%rax)
	rex.w ljmp *(%rax)
	lcall *(%rax)
	lcallw *(%rax)
	rex.w lcall *(%rax)
	syscall
	sysretl
	sysretq
	sysenter
	sysexitl
	sysexitq
	rsm
	in $0x20, %al
	in %dx, %ax
	in %dx, %eax
	out %al, $0x20
	out %ax, %dx
	out %eax, %dx
	insb
	insw
	insl
	rep insb
	rep insl
	outsb
	outsw
	outsl
	rep outsw
	rdmsr
	wrmsr
	rdtsc
	rdtscp
	rdpmc
	rdpid %rax
	cpuid
	invd
	wbinvd
	wbnoinvd
	invlpg (%rax)
	invlpga %rax, %ecx
	invpcid (%rax), %rcx
	invlpgb
	tlbsync
	monitor
	mwait
	monitorx
	mwaitx
	umonitor %rax
	umwait %eax
	tpause %eax
	xsetbv
	xgetbv
	xsaves (%rax)
	xsaves64 (%rax)
	xrstors (%rax)
	xrstors64 (%rax)
	fxsave (%rax)
	fxsaveq (%rax)
	fxrstor (%rax)
	fxrstor64 (%rax)
	rdpkru
	wrpkru
	enqcmd (%rax), %rcx
	enqcmds (%rax), %rcx
	encls
	enclu
	enclv
	pconfig
	getsec
	tdcall
	seamcall
	seamret
	seamops
	vmcall
	vmlaunch
	vmresume
	vmxon (%rax)
	vmxoff
	vmclear (%rax)
	vmptrld (%rax)
	vmptrst (%rax)
	vmread %rax, %rcx
	vmwrite %rax, %rcx
	vmfunc
	invept (%rax), %rcx
	invvpid (%rax), %rcx
	vmrun
	vmmcall
	vmgexit
	vmload
	vmsave
	stgi
	clgi
	skinit
	psmash
	pvalidate
	rmpadjust
	rmpupdate
	.byte 0x0f, 0x01, 0xee	# rdpkru, as the kernel writes it
	.byte 0x0f, 0x01, 0xca	# clac
	.byte 0x48, 0x0f, 0xc7, 0x2f	# xsaves64 (%rdi)
	.byte 0xf3, 0x6c	# rep insb
table:
