# data in text
# Nothing here is sensitive, whatever it looks like: no line is a site.
	.text
cli:	ret
sti:
in = 5
out == 6
	inc	%eax
	int3
	ud2
	movl	%eax, %ebx
	movsbl	%al, %eax
	movq	cr0(%rip), %rax
	mov	%fs:0, %rax
	movq	%rax, %gs:8
	push	%rax
	pop	%rbx
	pushq	$cr0
	xsave	(%rdi)
	fnsave	(%rdi)
	lfence
	pause
	rdrand	%eax
	jmp	cli
	call	sti
	ud2
	.byte	0xfa
	jmp	after
	.byte	0xfa
table:	.byte	0x0f, 0x01, 0xca, 0x0f, 0x31
	.long	0x90ca010f
more:	.byte	0xfa
	.ascii	"PQ"
	nop
plain:	.byte	0x8c, 0xd8
	.byte	0x8c, 0xd8
	nop
	.type	object, @object
after:
object:	.byte	0xfa
	.size	object, .-object
	.type	typed, "object"
typed:	.byte	0xfa
	.byte	0x0f, 0x31
	.size	typed, .-typed
1:	call	2f
	.byte	0xfa
2:	call	after
	.pushsection .debug_macro, "", @progbits
	.byte	11
	.popsection
	.byte	0xfa
	call	after
	.ascii	"yes"
	jmp	2b
	.string	"a \" cli # \\"
	.section .text.table, "ax"
	.byte	0x8c, 0xd8
	.text
	lea	.text.table(%rip), %rax
	.quad	table, more, typed, plain, 1b
2:
	mov	$';', %al
	mov	$'#', %al
	mov	$'\'', %al
/ cli
# sti
	/* cli
	   sti */ nop /* hlt */ ; nop # hlt
	.if 0
	.endif
	.section .rodata
	cli
	mov %cr0, %rax
	.byte 0x0f, 0x01, 0xca
	.data
	cli
	.pushsection .custom, "aw", @progbits
	cli
	.popsection
	cli
	.section .discard.x
	cli
cr0:	.quad 0
