/* SHA-256 (FIPS 180-4). */
#ifndef VIGMPI_SHA256_H
#define VIGMPI_SHA256_H

#include <stddef.h>

/* Write the digest of `size` bytes as 64 hexadecimal digits and a terminating zero. */
void vigmpi_sha256(const unsigned char *content, size_t size, char digest[65]);

#endif
