#include "sha256.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { BLOCK = 64, ROUNDS = 64 };

static uint32_t rotated(uint32_t x, int bits)
{
    return x >> bits | x << (32 - bits);
}

/* The first 32 bits of the fractional part of a root of a prime number. The roots are exact
   enough: long double or double leave at least 45 bits behind the point. */
static uint32_t fraction(double root)
{
    return (uint32_t)((root - floor(root)) * 4294967296.0);
}

static int is_prime(int n)
{
    for (int d = 2; d * d <= n; d++)
        if (n % d == 0)
            return 0;
    return 1;
}

static void make_constants(uint32_t k[ROUNDS], uint32_t state[8])
{
    for (int n = 2, count = 0; count < ROUNDS; n++) {
        if (!is_prime(n))
            continue;
        if (count < 8)
            state[count] = fraction(sqrt(n));
        k[count++] = fraction(cbrt(n));
    }
}

static void add_block(const unsigned char *block, const uint32_t k[ROUNDS], uint32_t state[8])
{
    uint32_t w[ROUNDS], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < ROUNDS; i++) {
        uint32_t x = w[i - 15], y = w[i - 2];
        w[i] = w[i - 16] + (rotated(x, 7) ^ rotated(x, 18) ^ x >> 3) + w[i - 7] +
               (rotated(y, 17) ^ rotated(y, 19) ^ y >> 10);
    }
    memcpy(s, state, sizeof s);
    for (int i = 0; i < ROUNDS; i++) {
        uint32_t a = s[0], e = s[4];
        uint32_t choice = (e & s[5]) ^ (~e & s[6]);
        uint32_t majority = (a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]);
        uint32_t t1 = s[7] + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) + choice + k[i] + w[i];
        uint32_t t2 = (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + majority;
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++)
        state[i] += s[i];
}

void vigmpi_sha256(const unsigned char *content, size_t size, char digest[65])
{
    uint32_t k[ROUNDS], state[8];
    make_constants(k, state);
    size_t whole = size / BLOCK * BLOCK;
    for (size_t first = 0; first < whole; first += BLOCK)
        add_block(content + first, k, state);
    unsigned char end[2 * BLOCK] = {0};
    size_t rest = size - whole, padded = rest + 9 <= BLOCK ? BLOCK : 2 * BLOCK;
    if (rest)
        memcpy(end, content + whole, rest);
    end[rest] = 0x80;
    uint64_t bits = (uint64_t)size * 8;
    for (int i = 0; i < 8; i++)
        end[padded - 1 - i] = (unsigned char)(bits >> 8 * i);
    for (size_t first = 0; first < padded; first += BLOCK)
        add_block(end + first, k, state);
    for (int i = 0; i < 8; i++)
        sprintf(digest + 8 * i, "%08x", (unsigned)state[i]);
}
