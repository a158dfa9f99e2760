# What is assembled depends on a distance.
	.text
compute:
a:	mov	%ds,%edx
b:
	.if	(b-a) > 4
	mov	$1,%eax
	.else
	mov	$2,%eax
	.endif
	ret
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
