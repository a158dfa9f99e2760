/*
 * Talks to the wedge from user space: writes a command to the wedge port, and prints the answer.
 *
 * The port is I/O port 0xE8, one byte wide. A byte written is a command; the bytes read then are the answer, ASCII, ended
 * by a NUL. Its first line names the protocol, and a second line "error: ..." says that the command failed. Where no wedge
 * answers, a read gives 0xFF. /dev/port is the I/O ports as a file (Linux, drivers/char/mem.c): a byte at offset N is
 * port N.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PORT = 0xe8, OPEN_BUS = 0xff, FAILED = 1, NO_WEDGE = 2 };

static const char GREETING[] = "afterburn 1\n";
static const char ERROR[] = "error:";

static int no_wedge(const char *why)
{
    fprintf(stderr, "wedge-port: there is no wedge here: %s\n", why);
    return NO_WEDGE;
}

int main(int count, char **arguments)
{
    if (count != 2 || strlen(arguments[1]) != 1 || !strchr("?01cz", arguments[1][0])) {
        fputs("usage: wedge-port ?|0|1|c|z\n"
              "  ?  status\n  0  switch the wedge off: every site as it was\n  1  switch it on again\n"
              "  c  the counters that are not zero: address of the site, class, count\n  z  zero the counters\n"
              "Exit status: 0 done, 1 refused, 2 no wedge or a wrong command line\n", stderr);
        return NO_WEDGE;
    }
    int port = open("/dev/port", O_RDWR);
    if (port < 0 || pwrite(port, arguments[1], 1, PORT) != 1)
        return no_wedge(strerror(errno));

    char start[sizeof GREETING + sizeof ERROR] = "";
    unsigned long length = 0;
    for (;; length++) {
        unsigned char byte;
        if (pread(port, &byte, 1, PORT) != 1)
            return no_wedge(strerror(errno));
        if (byte == OPEN_BUS)
            return no_wedge("nothing answers at the wedge port");
        if (byte == 0)
            break;
        if (length < sizeof start - 1)
            start[length] = (char)byte;
        putchar(byte);
    }
    if (strncmp(start, GREETING, strlen(GREETING)) != 0)
        return no_wedge("what answers at the wedge port is none");
    if (fflush(stdout) != 0)
        return FAILED;
    return strncmp(start + strlen(GREETING), ERROR, strlen(ERROR)) == 0 ? FAILED : 0;
}
