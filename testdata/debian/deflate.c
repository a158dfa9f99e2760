/* Compresses its standard input with zlib, and writes that out if it decompresses to the same. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "zlib.h"

enum { LIMIT = 16 << 20 };

/* zlib without a C library of its own takes memory from here. */
static voidpf take(voidpf opaque, uInt items, uInt size)
{
	(void)opaque;
	return calloc(items, size);
}

static void give(voidpf opaque, voidpf memory)
{
	(void)opaque;
	free(memory);
}

int main(void)
{
	unsigned char *text = malloc(LIMIT), *packed = malloc(LIMIT), *again = malloc(LIMIT);
	size_t length = fread(text, 1, LIMIT, stdin);
	z_stream out = { .zalloc = take, .zfree = give, .next_in = text, .avail_in = length, .next_out = packed, .avail_out = LIMIT };

	if (deflateInit(&out, 9) != Z_OK || deflate(&out, Z_FINISH) != Z_STREAM_END)
		return 1;
	z_stream in = { .zalloc = take, .zfree = give, .next_in = packed, .avail_in = out.total_out, .next_out = again, .avail_out = LIMIT };

	if (inflateInit(&in) != Z_OK || inflate(&in, Z_FINISH) != Z_STREAM_END)
		return 2;
	if (in.total_out != length || memcmp(text, again, length))
		return 3;
	return fwrite(packed, 1, out.total_out, stdout) != out.total_out;
}
