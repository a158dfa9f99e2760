# Sites in macro bodies, in macro arguments, and those that a parameter decides.
	.macro alternative old, new, feature
140:
	\old
141:
	.pushsection .altinstr_replacement, "ax"
143:
	\new
144:
	.popsection
	.endm
	.macro disable
	cli				# site: cli
	.endm
	.macro switch scratch:req
	mov	%cr3, \scratch		# site: mov-from-cr
	or	$1, \scratch
	mov	\scratch, %cr3		# site: mov-to-cr
	.endm
	.macro safe_regs op
\op\()_safe_regs:
1:	\op				# site: dispatched
	ret
	.endm
	.macro move from, to
	mov	\from, \to		# site: dispatched
	.endm
	.macro outer reg
	move	\reg, %rax
	.endm
	.macro harmless op, reg
	\op	\reg
	mov	\reg, %rax
	.endm
	.macro sized suffix
	in\suffix %dx, %al		# site: dispatched
	.endm
	.macro keyword first=%rax, second
	push	\second			# site: dispatched
	pop	\first
	.endm

	.text
	disable
	disable
	switch	%rax
	switch	scratch=%r12
	alternative "", "stac", 1		# site: stac
	alternative "lfence; rdtsc", ".byte 0x0f, 0x01, 0xca; nop", 2	# site: rdtsc, clac
	alternative "nop", "", 3
	safe_regs rdmsr
	safe_regs wrmsr
	safe_regs nop
moves:
	move	%rax, %cr3
	move	%rax, %rbx
	move	%cr0, %rbx
	outer	%cr2
	outer	%rdi
	harmless inc, %rax
	harmless "dec", %rbx
	sized	b
	sized	"b"
	keyword	second=%fs
	keyword	second=%rdi
	.irp register, %ds, %rdi
	mov	\register, %rax		# site: dispatched counted
	.endr
	.rept 3
	swapgs				# site: swapgs counted
	.endr
	.irp op, sti, nop
	\op				# site: dispatched counted
	.endr
	# a macro takes the name of an instruction
	.macro clac
	.byte	0x0f, 0x01, 0xca	# site: clac
	.endm
	.macro stac really = 1
	.if	\really
	.byte	0x0f, 0x01, 0xcb	# site: stac
	.endif
	.endm
	.macro later
	cpuid
	.endm
	.macro cpuid
	mov	%ds, %eax		# site: mov-from-seg
	.endm
	clac
	stac
	stac	0
	later
	cpuid
	.purgem cpuid
	.macro define name, code:vararg
	.macro \name
	\code				# site: dispatched
	.endm
	.endm
	define	hlt, nop
	define	named, mov %ss, %eax
	hlt
	named
	# calls in bodies, and what they pass on
	.macro inner op, operands:vararg
	\op	\operands		# site: dispatched
	.endm
	.macro through op, operands:vararg
	inner	\op, \operands
	.endm
	.macro root reg, feature
	alternative "", "mov %cr3, \reg; mov \reg, %cr3", \feature	# site: mov-from-cr, mov-to-cr
	.endm
	.macro twice new
	alternative "nop", "\new"
	.endm
	through	mov, %ds, %edx
	through	mov, $7, %eax
	root	%rax, 1
	twice	"rdtsc"			# site: rdtsc
	# loops
	.macro each registers:vararg
	.irp register, \registers
	mov	%\register, %rax	# site: dispatched counted
	.endr
	.endm
	each	cr0, rbx, cr3, gs
	.irpc	n, 0234
	mov	%cr\n, %rax		# site: dispatched counted
	.endr
	.irp	code, "mov %ds, %edx", "add $3, %eax"
	\code				# site: dispatched counted
	.endr
	.macro any op=mov, from=%ds, to=%edx
	\op	\from, \to		# site: dispatched
	.endm
	any
	any	to=%ecx
	any	op=add from=$3 to=%eax
	any	from=%es
	# parameters without a backslash
	.altmacro
	.macro when off, b
	LOCAL	done
	btl	$9, off(%rsp)
	jnc	done
	cli				# site: cli
	mov	b, %rax			# site: dispatched
done:
	.endm
	.macro perform op, s, d
	op	s, d			# site: dispatched
	.endm
	when	%8+8, <%cr0>
	when	8, <!%rdx>
	perform	mov, <%ds>, <%edx>
	perform	add, $4, <%eax>
	.noaltmacro
	.section .rodata
	.quad	moves
