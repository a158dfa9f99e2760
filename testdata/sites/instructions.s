# Every row of the instruction table, in the forms that GNU as 2.40 takes in 64-bit mode.
# The comment on a line names the class of the site that it is. A label behind each branch says that what follows is reached
# by name.
	.text
instructions:
	cli				# site: cli
	CLI				# site: cli
	{disp8} cli			# site: cli
	sti				# site: sti
	pushf				# site: pushf
	pushfq				# site: pushf
	pushfw				# site: pushf
	popf				# site: popf
	popfq				# site: popf
	popfw				# site: popf
	clac				# site: clac
	stac				# site: stac
	clui				# site: clui
	stui				# site: stui
	clgi				# site: clgi
	stgi				# site: stgi
	hlt				# site: hlt
	monitor				# site: monitor
	monitor	%rax, %ecx, %edx	# site: monitor
	monitor	%eax, %ecx, %edx	# site: monitor
	mwait				# site: mwait
	monitorx			# site: monitorx
	mwaitx				# site: mwaitx
	umonitor %rdi			# site: umonitor
	umonitor %r9d			# site: umonitor
	umwait	%edi			# site: umwait
	tpause	%r10d			# site: tpause
	mov	%cr0, %rax		# site: mov-from-cr
	movq	%cr2, %r15		# site: mov-from-cr
	mov	%cr8, %rdi		# site: mov-from-cr
	mov	%rdi, %cr3		# site: mov-to-cr
	mov	%rax, %cr4		# site: mov-to-cr
	movq	%r8, %cr8		# site: mov-to-cr
	mov	%db0, %rax		# site: mov-from-dr
	movq	%dr6, %r11		# site: mov-from-dr
	mov	%rdx, %dr7		# site: mov-to-dr
	clts				# site: clts
	smsw	%ax			# site: smsw
	smsw	%eax			# site: smsw
	smsw	%r12			# site: smsw
	smsw	(%rdi)			# site: smsw
	lmsw	%ax			# site: lmsw
	lmsw	8(%rsp)			# site: lmsw
	xgetbv				# site: xgetbv
	xsetbv				# site: xsetbv
	xsaves	(%rdi)			# site: xsaves
	xsaves64 (%rdi)			# site: xsaves
	fxsave	(%rdi)			# site: fxsave
	fxsaveq	(%rdi)			# site: fxsave
	fxsave64 8(%rdi)		# site: fxsave
	fxrstor	(%rdi)			# site: fxrstor
	fxrstorq (%rdi)			# site: fxrstor
	fxrstor64 state(%rip)		# site: fxrstor
	xrstors	(%rdi)			# site: xrstors
	xrstors64 64(%r13,%rbx,2)	# site: xrstors
	mov	%ds, %eax		# site: mov-from-seg
	movl	%es, %r8d		# site: mov-from-seg
	movw	%ss, %ax		# site: mov-from-seg
	mov	%cs, %rax		# site: mov-from-seg
	mov	%gs, (%rdi)		# site: mov-from-seg
	movw	%fs, selector(%rip)	# site: mov-from-seg
	movl	%eax, %ds		# site: mov-to-seg
	mov	%r9d, %es		# site: mov-to-seg
	mov	(%rsp), %ss		# site: mov-to-seg
	movw	selector(%rip), %gs	# site: mov-to-seg
	push	%fs			# site: push-seg
	pushq	%gs			# site: push-seg
	pushw	%fs			# site: push-seg
	pop	%fs			# site: pop-seg
	popq	%gs			# site: pop-seg
	lss	(%rdi), %esp		# site: lss
	lfs	(%rdi), %eax		# site: lfs
	lgs	16(%rsp), %eax		# site: lgs
	sgdt	(%rdi)			# site: sgdt
	sidt	-16(%rbp)		# site: sidt
	sldt	%ax			# site: sldt
	sldt	%rax			# site: sldt
	sldt	(%rdi)			# site: sldt
	str	%eax			# site: str
	str	(%r11)			# site: str
	lgdt	(%rax)			# site: lgdt
	lgdt	selector(%rip)		# site: lgdt
	lidt	(%rsp)			# site: lidt
	lidt	selector		# site: lidt
	lldt	%ax			# site: lldt
	lldt	2(%rbx)			# site: lldt
	ltr	%di			# site: ltr
	ltr	(%rbp)			# site: ltr
	lar	%ax, %eax		# site: lar
	lar	%ecx, %r9d		# site: lar
	lar	(%rdi), %rax		# site: lar
	lsl	%edi, %eax		# site: lsl
	lslq	%rdi, %rax		# site: lsl
	verr	%ax			# site: verr
	verw	(%rsp)			# site: verw
	verw	selector(%rip)		# site: verw
	rdfsbase %rax			# site: rdfsbase
	rdfsbase %eax			# site: rdfsbase
	rdgsbase %r8			# site: rdgsbase
	wrfsbase %rdi			# site: wrfsbase
	wrgsbase %r15d			# site: wrgsbase
	swapgs				# site: swapgs
	int	$0x80			# site: int
	int	$0x2			# site: int
	int1				# site: int1
	iret				# site: iret
.Lbehind1:
	iretl				# site: iret
.Lbehind2:
	iretq				# site: iret
.Lbehind3:
	iretw				# site: iret
.Lbehind4:
	lret				# site: lret
.Lbehind5:
	lretq				# site: lret
.Lbehind6:
	lretq	$16			# site: lret
.Lbehind7:
	ljmp	*(%rdi)			# site: ljmp
.Lbehind8:
	ljmpl	*selector(%rip)		# site: ljmp
.Lbehind9:
	lcall	*(%r12)			# site: lcall
	syscall				# site: syscall
	sysret				# site: sysret
.Lbehind10:
	sysretl				# site: sysret
.Lbehind11:
	sysretq				# site: sysret
.Lbehind12:
	sysenter			# site: sysenter
	sysexit				# site: sysexit
.Lbehind13:
	sysexitq			# site: sysexit
.Lbehind14:
	uiret				# site: uiret
.Lbehind15:
	rsm				# site: rsm
	in	%dx, %al		# site: in
	inb	$0x60, %al		# site: in
	inw	%dx, %ax		# site: in
	inl	%dx, %eax		# site: in
	out	%al, %dx		# site: out
	outb	%al, $0x80		# site: out
	outw	%ax, (%dx)		# site: out
	outl	%eax, %dx		# site: out
	insb				# site: ins
	insw				# site: ins
	insl				# site: ins
	insl	(%dx), %es:(%rdi)	# site: ins
	rep insb			# site: ins
	rep; insw			# site: ins
	rep
	insl				# site-start: ins
	addr32 insb			# site: ins
	outsb				# site: outs
	outsw				# site: outs
	outsl	%ds:(%rsi), (%dx)	# site: outs
	rep outsl			# site: outs
	repz; outsb			# site: outs
	gs outsb			# site: outs
	rdmsr				# site: rdmsr
	wrmsr				# site: wrmsr
	wrmsrns				# site: wrmsrns
	rdmsrlist			# site: rdmsrlist
	wrmsrlist			# site: wrmsrlist
	cs wrmsr			# site: wrmsr
	cpuid				# site: cpuid
	rdtsc				# site: rdtsc
	rdtscp				# site: rdtscp
	rdpmc				# site: rdpmc
	rdpru				# site: rdpru
	rdpid	%rax			# site: rdpid
	rdpid	%r9			# site: rdpid
	rdpkru				# site: rdpkru
	wrpkru				# site: wrpkru
	hreset	$1			# site: hreset
	pconfig				# site: pconfig
	enqcmds	(%rdi), %rax		# site: enqcmds
	senduipi %rdi			# site: senduipi
	invlpg	(%rdi)			# site: invlpg
	invlpg	%gs:8(%rax)		# site: invlpg
	invpcid	(%rsi), %rdi		# site: invpcid
	invd				# site: invd
	wbinvd				# site: wbinvd
	wbnoinvd			# site: wbnoinvd
	invlpga	%rax, %ecx		# site: invlpga
	invlpgb				# site: invlpgb
	tlbsync				# site: tlbsync
	wrussd	%eax, (%rdi)		# site: wruss
	wrussq	%rax, (%rdi)		# site: wruss
	setssbsy			# site: setssbsy
	clrssbsy (%rdi)			# site: clrssbsy
	encls				# site: encls
	enclv				# site: enclv
	getsec				# site: getsec
	seamcall			# site: seamcall
	seamops				# site: seamops
	seamret				# site: seamret
	tdcall				# site: tdcall
	psmash				# site: psmash
	pvalidate			# site: pvalidate
	rmpadjust			# site: rmpadjust
	rmpupdate			# site: rmpupdate
	vmcall				# site: vmcall
	vmmcall				# site: vmmcall
	vmgexit				# site: vmmcall
	vmfunc				# site: vmfunc
	vmxoff				# site: vmx
	vmxon	(%rdi)			# site: vmx
	vmclear	(%rdi)			# site: vmx
	vmlaunch			# site: vmx
	vmresume			# site: vmx
	vmptrld	8(%rax)			# site: vmx
	vmptrst	(%rax)			# site: vmx
	vmread	%rax, %rbx		# site: vmx
	vmreadq	%r8, (%rdi)		# site: vmx
	vmwrite	%rdx, %rax		# site: vmx
	invept	(%rdi), %rax		# site: vmx
	invvpid	(%rdi), %r9		# site: vmx
	vmrun				# site: svm
	vmload	%rax			# site: svm
	vmsave				# site: svm
	skinit				# site: svm
	.section .rodata
	.quad	.Lbehind1
	.quad	.Lbehind2
	.quad	.Lbehind3
	.quad	.Lbehind4
	.quad	.Lbehind5
	.quad	.Lbehind6
	.quad	.Lbehind7
	.quad	.Lbehind8
	.quad	.Lbehind9
	.quad	.Lbehind10
	.quad	.Lbehind11
	.quad	.Lbehind12
	.quad	.Lbehind13
	.quad	.Lbehind14
	.quad	.Lbehind15
