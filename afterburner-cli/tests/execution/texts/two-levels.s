# A symbol for the current place, and a number of bytes from there.
	.text
	here	= .
compute:	mov	$1,%eax
	lea	here+21(%rip),%rdx
	jmp	*%rdx
	mov	%ds,%edx
	mov	$3,%eax
	add	$7,%eax
	ret
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
