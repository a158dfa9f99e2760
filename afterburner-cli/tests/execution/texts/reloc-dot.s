# The same, counted from the current place.
	.text
compute:	mov	%edi,%eax
	.reloc	.+3, R_X86_64_32, value
	mov	%ds,%edx
	mov	$0,%ecx
	add	%ecx,%eax
	ret
	value	= 0x1234
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
