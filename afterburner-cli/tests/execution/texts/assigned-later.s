# The target is assigned behind its use.
	.text
compute:	mov	$1,%eax
	jmp	target
first:	mov	%ds,%edx
	mov	$3,%eax
	add	$7,%eax
	ret
	target	= first + 7
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
