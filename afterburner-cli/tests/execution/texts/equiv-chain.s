# Symbols made of symbols.
	.text
compute:	mov	%edi,%eax
	.set	n, 3
	.set	m, n+4
p:	.set	t, p+m
	jmp	t
	mov	%ds,%edx
	imul	$31,%eax,%eax
	add	$7,%eax
	ret
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
