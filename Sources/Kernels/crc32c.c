// CRC-32C two ways: the instruction x86-64 has for it, and a table of sixteen for everything else.
#include "variant.h"

#include <string.h>

// Half a byte at a time; entry i is i carried through four steps of the reflected polynomial 0x82f63b78.
uint32_t anira_crc32c_table(uint32_t crc, const void *data, size_t n) {
    static const uint32_t table[16] = {0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
                                       0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
                                       0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75};
    const uint8_t *bytes = data;
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= bytes[i];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

#if defined(__x86_64__)
#define WITH_CRC32 __attribute__((target("sse4.2,pclmul")))

typedef long long v2i64 __attribute__((vector_size(16)));

WITH_CRC32 static inline uint64_t eight_bytes(uint64_t state, const uint8_t *bytes) {
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return __builtin_ia32_crc32di(state, word);
}

// The state after as many zero bytes as `factor` stands for: x^(8 * bytes - 33) modulo the polynomial, reflected.
WITH_CRC32 static inline uint64_t after_zeros(uint64_t state, uint64_t factor) {
    v2i64 product = __builtin_ia32_pclmulqdq128((v2i64){(long long)state}, (v2i64){(long long)factor}, 0);
    return __builtin_ia32_crc32di(0, (uint64_t)product[0]);
}

// Three chains side by side, because the instruction takes three cycles and one begins every cycle. Three of them fit the
// multiples of 1 KiB that records are.
WITH_CRC32 uint32_t anira_crc32c_sse42(uint32_t crc, const void *data, size_t n) {
    enum { CHAIN = 336 };
    const uint64_t after_one = 0xa60ce07b, after_two = 0xcec3662e;
    const uint8_t *bytes = data;
    uint64_t state = (uint32_t)~crc;
    for (; n >= 3 * CHAIN; n -= 3 * CHAIN, bytes += 3 * CHAIN) {
        uint64_t second = 0, third = 0;
        for (int i = 0; i < CHAIN; i += 8) {
            state = eight_bytes(state, bytes + i);
            second = eight_bytes(second, bytes + CHAIN + i);
            third = eight_bytes(third, bytes + 2 * CHAIN + i);
        }
        state = after_zeros(state, after_two) ^ after_zeros(second, after_one) ^ third;
    }
    for (; n >= 8; n -= 8, bytes += 8) state = eight_bytes(state, bytes);
    uint32_t rest = (uint32_t)state;
    for (; n > 0; n--, bytes++) rest = __builtin_ia32_crc32qi(rest, *bytes);
    return ~rest;
}
#endif
