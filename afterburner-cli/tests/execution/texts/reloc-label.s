# A relocation for a place that is counted from a label: the immediate of an instruction behind a site.
	.text
compute:	mov	%edi,%eax
p:	mov	%ds,%edx
	mov	$0,%ecx
	add	%ecx,%eax
	ret
	.reloc	p+3, R_X86_64_32, compute
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
