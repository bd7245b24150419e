// What the fast kernels compute, written so that it can be checked by reading.
#include "kernels.h"

#include <math.h>

void anira_reference_matmul(const float *x, int ldx, const float *w, int m, int n, int k, float *y, int ldy) {
    for (int row = 0; row < m; row++) {
        for (int output = 0; output < n; output++) {
            float total = 0;
            for (int i = 0; i < k; i++) total += x[row * ldx + i] * w[output * k + i];
            y[row * ldy + output] = total;
        }
    }
}

void anira_reference_attention(const float *q, const float *cache, size_t stride, size_t key_offset,
                               size_t value_offset, const uint32_t *rows, int count, int heads, int kv_heads, int d,
                               float scale, float *out) {
    for (int h = 0; h < heads; h++) {
        int part = h / (heads / kv_heads) * d;
        float max = -INFINITY, total = 0, weights[count];
        for (int j = 0; j < count; j++) {
            const float *key = cache + rows[j] * stride + key_offset + part;
            float dot = 0;
            for (int i = 0; i < d; i++) dot += q[h * d + i] * key[i];
            weights[j] = dot * scale;
            max = fmaxf(max, weights[j]);
        }
        for (int j = 0; j < count; j++) total += weights[j] = expf(weights[j] - max);
        for (int i = 0; i < d; i++) {
            float value = 0;
            for (int j = 0; j < count; j++)
                value += weights[j] / total * cache[rows[j] * stride + value_offset + part + i];
            out[h * d + i] = value;
        }
    }
}
