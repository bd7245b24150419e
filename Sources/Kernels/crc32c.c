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
__attribute__((target("sse4.2"))) uint32_t anira_crc32c_sse42(uint32_t crc, const void *data, size_t n) {
    const uint8_t *bytes = data;
    uint64_t state = (uint32_t)~crc;
    for (; n >= 8; n -= 8, bytes += 8) {
        uint64_t word;
        memcpy(&word, bytes, sizeof word);
        state = __builtin_ia32_crc32di(state, word);
    }
    uint32_t rest = (uint32_t)state;
    for (; n > 0; n--, bytes++) rest = __builtin_ia32_crc32qi(rest, *bytes);
    return ~rest;
}
#endif
