# Distances in bytes, which follow the pads.
	.text
compute:	lea	table(%rip),%rdx
	movzbl	(%rdx,%rdi),%eax
	lea	one(%rip),%rdx
	add	%rdx,%rax
	jmp	*%rax
one:	mov	%ds,%edx
	mov	$1,%eax
	ret
two:	mov	%ds,%edx
	mov	$2,%eax
	ret
three:	mov	%ds,%edx
	mov	$3,%eax
	ret
four:	mov	%ds,%edx
	mov	$4,%eax
	ret
	.section	.rodata
table:	.byte	one-one,two-one,three-one,four-one
	.text
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
