// Elementwise functions of a GPT block on a CPU, in one pass over memory where torch takes many.
//
// Plain C++17 and OpenMP: compiled at first use (kernels/cpu_build.py), called through ctypes, and defined by the torch
// code that can replace it (kernels/elementwise.py).
// Every sum is over one row and in one order, for any number of threads: results are repeatable bit for bit.

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

// bfloat16: the upper half of a float, rounded to nearest, ties to even, as torch rounds.
struct bf16 {
    uint16_t bits;
    operator float() const {
        uint32_t wide = static_cast<uint32_t>(bits) << 16;
        float value;
        std::memcpy(&value, &wide, 4);
        return value;
    }
    static bf16 of(float value) {
        uint32_t wide;
        std::memcpy(&wide, &value, 4);
        uint32_t rounded = (wide + 0x7FFF + ((wide >> 16) & 1)) >> 16;
        return {static_cast<uint16_t>((wide & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : rounded)};  // NaN stays NaN
    }
};

inline void put(float* to, float value) { *to = value; }
inline void put(bf16* to, float value) { *to = bf16::of(value); }

// Rows whose products are added up by one thread: sums over rows are then the same for any number of threads.
constexpr int64_t BLOCK = 64;

// sum[i] = sum of part[b][i] over the blocks b, in order: (blocks, width) -> (width,)
inline void sum_blocks(const float* part, float* sum, int64_t blocks, int64_t width) {
    for (int64_t i = 0; i < width; i++) sum[i] = 0;
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t i = 0; i < width; i++) sum[i] += part[b * width + i];
}

// y = x / sqrt(mean(x²) + eps), row by row: (rows, width), and each row's factor for the backward pass.
template <typename In, typename Out>
void rms_norm(const In* x, Out* y, float* scale, int64_t rows, int64_t width, float eps) {
#pragma omp parallel for
    for (int64_t r = 0; r < rows; r++) {
        const In* a = x + r * width;
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (int64_t i = 0; i < width; i++) squares += float(a[i]) * float(a[i]);
        float s = scale[r] = 1 / std::sqrt(squares / width + eps);
        for (int64_t i = 0; i < width; i++) put(y + r * width + i, s * float(a[i]));
    }
}

// dx = s·dy - x·s³·mean(x·dy)
template <typename In, typename Out>
void rms_norm_backward(const Out* dy, const In* x, const float* scale, In* dx, int64_t rows, int64_t width) {
#pragma omp parallel for
    for (int64_t r = 0; r < rows; r++) {
        const In* a = x + r * width;
        const Out* g = dy + r * width;
        float dot = 0, s = scale[r];
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < width; i++) dot += float(a[i]) * float(g[i]);
        float along = s * s * s * dot / width;
        for (int64_t i = 0; i < width; i++) put(dx + r * width + i, s * float(g[i]) - along * float(a[i]));
    }
}

// y = max(x, 0)²
template <typename T>
void relu_squared(const T* x, T* y, int64_t n) {
#pragma omp parallel for simd
    for (int64_t i = 0; i < n; i++) {
        float a = float(x[i]) <= 0 ? 0 : float(x[i]);  // NaN stays NaN
        put(y + i, a * a);
    }
}

template <typename T>
void relu_squared_backward(const T* dy, const T* x, T* dx, int64_t n) {
#pragma omp parallel for simd
    for (int64_t i = 0; i < n; i++) put(dx + i, 2 * float(dy[i]) * (float(x[i]) <= 0 ? 0 : float(x[i])));
}

// exp(x) with a relative error of about 1e-7 for x within ±40, enough for a sigmoid, in a form that compilers
// vectorise: 2ⁿ times a polynomial with Cephes' coefficients. n·ln 2 is subtracted in two parts, by fma, which
// -ffast-math leaves alone.
inline float exponential(float x) {
    x = x < -40 ? -40 : x > 40 ? 40 : x;
    float n = std::nearbyint(x * 1.44269504f);
    float power_of_2 = n > -64 ? n : -64;  // a number also where x is NaN, which no integer can be; the product below is NaN
    float r = std::fma(n, 2.12194440e-4f, std::fma(n, -0.693359375f, x));
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    int32_t power = (static_cast<int32_t>(power_of_2) + 127) << 23;
    float scale;
    std::memcpy(&scale, &power, 4);
    return (p * r * r + r + 1) * scale;
}

// Twice the argument of GELU's tanh (arXiv:1606.08415, section 2), for x·(1 + tanh(u)) / 2 is x·sigmoid(2u).
inline float twice_u(float a) { return 1.5957691216f * (a + 0.044715f * a * a * a); }

// y = x / (1 + exp(-2u))
template <typename T>
void gelu_tanh(const T* x, T* y, int64_t n) {
#pragma omp parallel for simd
    for (int64_t i = 0; i < n; i++) {
        float a = x[i];
        put(y + i, a / (1 + exponential(-twice_u(a))));
    }
}

// dx = dy·(s + x·s·(1 - s)·(2u)') with s = sigmoid(2u), and 1 - s = s·exp(-2u), exact where s is nearly 1.
// Beyond ±16 the derivative is 1 or 0; the cube of a larger x would leave the range of a float.
template <typename T>
void gelu_tanh_backward(const T* dy, const T* x, T* dx, int64_t n) {
#pragma omp parallel for simd
    for (int64_t i = 0; i < n; i++) {
        float a = x[i];
        a = a < -16 ? -16 : a > 16 ? 16 : a;
        float e = exponential(-twice_u(a)), s = 1 / (1 + e);
        float slope = 1.5957691216f * (1 + 3 * 0.044715f * a * a);
        put(dx + i, float(dy[i]) * (s + s * s * e * (a * slope)));
    }
}

// y = x·gate·sigmoid(gate)
template <typename T>
void swiglu(const T* gate, const T* x, T* y, int64_t n) {
#pragma omp parallel for simd
    for (int64_t i = 0; i < n; i++) {
        float a = gate[i];
        put(y + i, float(x[i]) * a / (1 + exponential(-a)));
    }
}

// dx = dy·gate·s and dgate = dy·x·(s + gate·s·(1 - s)) with s = sigmoid(gate) and 1 - s = s·exp(-gate).
template <typename T>
void swiglu_backward(const T* dy, const T* gate, const T* x, T* dgate, T* dx, int64_t n) {
#pragma omp parallel for simd
    for (int64_t i = 0; i < n; i++) {
        float a = gate[i], d = dy[i], e = exponential(-a), s = 1 / (1 + e);
        put(dx + i, d * a * s);
        put(dgate + i, d * float(x[i]) * s * (1 + a * s * e));
    }
}

// One head's query or key, rotated by its position: (D,) -> (D,). Returns the factor that brings it to unit mean square.
// cos and sin hold each angle twice, the second half of sin negated.
template <typename T>
inline float rotate(const T* x, const float* cos, const float* sin, float* out, int64_t D, float eps) {
    int64_t half = D / 2;
    float squares = 0;
    for (int64_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        out[i] = a * cos[i] + b * sin[i];
        out[i + half] = b * cos[i + half] + a * sin[i + half];
    }
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < D; i++) squares += out[i] * out[i];
    return 1 / std::sqrt(squares / D + eps);
}

// q and k out of qkv, rotated and normalised: (rows, T, 3, H, D) -> twice (rows, T, H, D). cos, sin: (T, D).
template <typename T>
void rotary_qk_norm(const T* qkv, const float* cos, const float* sin, T* q, T* k, int64_t rows, int64_t time,
                 int64_t heads, int64_t D, float eps) {
#pragma omp parallel for
    for (int64_t r = 0; r < rows * time; r++) {
        float row[MAX_HEAD_WIDTH];
        const float *c = cos + r % time * D, *s = sin + r % time * D;
        for (int64_t part = 0; part < 2; part++)
            for (int64_t h = 0; h < heads; h++) {
                T* to = (part ? k : q) + (r * heads + h) * D;
                float scale = rotate(qkv + ((r * 3 + part) * heads + h) * D, c, s, row, D, eps);
                for (int64_t i = 0; i < D; i++) put(to + i, scale * row[i]);
            }
    }
}

// Strides of a gradient (rows, T, H, D), whose last dimension is dense: in numbers, not bytes.
struct Strides {
    int64_t row, time, head;
};

// Gradient of rotary_qk_norm's qkv, from those of q, k and v. The rotated rows are computed again.
template <typename T>
void rotary_qk_norm_backward(const T* qkv, const float* cos, const float* sin, const T* dq, const T* dk, const T* dv,
                          Strides sq, Strides sk, Strides sv, T* dqkv, int64_t rows, int64_t time, int64_t heads,
                          int64_t D, float eps) {
    int64_t half = D / 2;
#pragma omp parallel for
    for (int64_t r = 0; r < rows * time; r++) {
        float row[MAX_HEAD_WIDTH], g[MAX_HEAD_WIDTH];
        const float *c = cos + r % time * D, *s = sin + r % time * D;
        for (int64_t part = 0; part < 3; part++)
            for (int64_t h = 0; h < heads; h++) {
                const Strides& st = part == 0 ? sq : part == 1 ? sk : sv;
                const T* dy = (part == 0 ? dq : part == 1 ? dk : dv) + r / time * st.row + r % time * st.time + h * st.head;
                T* to = dqkv + ((r * 3 + part) * heads + h) * D;
                if (part == 2) {
                    std::memcpy(to, dy, D * sizeof(T));
                    continue;
                }
                float scale = rotate(qkv + ((r * 3 + part) * heads + h) * D, c, s, row, D, eps), dot = 0;
#pragma omp simd reduction(+ : dot)
                for (int64_t i = 0; i < D; i++) dot += row[i] * float(dy[i]);
                float along = scale * scale * scale * dot / D;
                for (int64_t i = 0; i < D; i++) g[i] = scale * float(dy[i]) - along * row[i];
                for (int64_t i = 0; i < half; i++) {  // rotated back
                    put(to + i, g[i] * c[i] + g[i + half] * s[i + half]);
                    put(to + i + half, g[i + half] * c[i + half] + g[i] * s[i]);
                }
            }
    }
}

// One head's query or key at unit mean square, times its weights: (D,) -> (D,). Returns the factor.
template <typename T>
inline float normalise(const T* x, const float* w, float* out, int64_t D, float eps) {
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < D; i++) squares += float(x[i]) * float(x[i]);
    float s = 1 / std::sqrt(squares / D + eps);
    for (int64_t i = 0; i < D; i++) out[i] = s * float(x[i]) * w[i];
    return s;
}

// q and k out of qkv, normalised with the weights w (2, D), then rotated: (rows, T, 3, H, D) -> twice (rows, T, H, D).
template <typename T>
void qk_norm_rotary(const T* qkv, const float* w, const float* cos, const float* sin, T* q, T* k, int64_t rows,
                    int64_t time, int64_t heads, int64_t D, float eps) {
    int64_t half = D / 2;
#pragma omp parallel for
    for (int64_t r = 0; r < rows * time; r++) {
        float row[MAX_HEAD_WIDTH];
        const float *c = cos + r % time * D, *s = sin + r % time * D;
        for (int64_t part = 0; part < 2; part++)
            for (int64_t h = 0; h < heads; h++) {
                T* to = (part ? k : q) + (r * heads + h) * D;
                normalise(qkv + ((r * 3 + part) * heads + h) * D, w + part * D, row, D, eps);
                for (int64_t i = 0; i < half; i++) {
                    put(to + i, row[i] * c[i] + row[i + half] * s[i]);
                    put(to + i + half, row[i + half] * c[i + half] + row[i] * s[i + half]);
                }
            }
    }
}

// Gradients of qk_norm_rotary's qkv and w, from those of q, k and v; part: (blocks of rows, 2, D), for the sum.
template <typename T>
void qk_norm_rotary_backward(const T* qkv, const float* w, const float* cos, const float* sin, const T* dq, const T* dk,
                             const T* dv, Strides sq, Strides sk, Strides sv, T* dqkv, float* dw, float* sums,
                             int64_t rows, int64_t time, int64_t heads, int64_t D, float eps) {
    int64_t half = D / 2, blocks = (rows * time + BLOCK - 1) / BLOCK;
#pragma omp parallel for
    for (int64_t b = 0; b < blocks; b++) {
        float row[MAX_HEAD_WIDTH], g[MAX_HEAD_WIDTH];
        float* sum = sums + b * 2 * D;
        for (int64_t i = 0; i < 2 * D; i++) sum[i] = 0;
        for (int64_t r = b * BLOCK; r < rows * time && r < (b + 1) * BLOCK; r++) {
            const float *c = cos + r % time * D, *s = sin + r % time * D;
            for (int64_t part = 0; part < 3; part++)
                for (int64_t h = 0; h < heads; h++) {
                    const Strides& st = part == 0 ? sq : part == 1 ? sk : sv;
                    const T* dy = (part == 0 ? dq : part == 1 ? dk : dv) + r / time * st.row + r % time * st.time + h * st.head;
                    const T* x = qkv + ((r * 3 + part) * heads + h) * D;
                    T* to = dqkv + ((r * 3 + part) * heads + h) * D;
                    if (part == 2) {
                        std::memcpy(to, dy, D * sizeof(T));
                        continue;
                    }
                    const float* v = w + part * D;
                    float scale = normalise(x, v, row, D, eps), dot = 0;
                    for (int64_t i = 0; i < half; i++) {  // rotated back
                        float a = dy[i], z = dy[i + half];
                        g[i] = a * c[i] + z * s[i + half];
                        g[i + half] = z * c[i + half] + a * s[i];
                    }
#pragma omp simd reduction(+ : dot)
                    for (int64_t i = 0; i < D; i++) dot += row[i] * g[i];
                    float along = scale * scale * dot / D;
                    for (int64_t i = 0; i < D; i++) {
                        sum[part * D + i] += scale * float(x[i]) * g[i];
                        put(to + i, scale * g[i] * v[i] - along * float(x[i]));
                    }
                }
        }
    }
    sum_blocks(sums, dw, blocks, 2 * D);
}

}  // namespace

extern "C" {

// y = w·x / sqrt(mean(x²) + eps), row by row, with one weight per column.
void scaled_rms_norm_fp32(const float* x, const float* w, float* y, float* scale, int64_t rows, int64_t width, float eps) {
#pragma omp parallel for
    for (int64_t r = 0; r < rows; r++) {
        const float* a = x + r * width;
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (int64_t i = 0; i < width; i++) squares += a[i] * a[i];
        float s = scale[r] = 1 / std::sqrt(squares / width + eps);
        for (int64_t i = 0; i < width; i++) y[r * width + i] = s * a[i] * w[i];
    }
}

// dx = s·w·dy - x·s³·mean(x·w·dy), dw = sum of s·x·dy over the rows; part: (blocks of rows, width), for the sum.
void scaled_rms_norm_backward_fp32(const float* dy, const float* x, const float* w, const float* scale, float* dx, float* dw, float* part,
                              int64_t rows, int64_t width) {
    int64_t blocks = (rows + BLOCK - 1) / BLOCK;
#pragma omp parallel for
    for (int64_t b = 0; b < blocks; b++) {
        float* sum = part + b * width;
        for (int64_t i = 0; i < width; i++) sum[i] = 0;
        for (int64_t r = b * BLOCK; r < rows && r < (b + 1) * BLOCK; r++) {
            const float *a = x + r * width, *g = dy + r * width;
            float dot = 0, s = scale[r];
#pragma omp simd reduction(+ : dot)
            for (int64_t i = 0; i < width; i++) dot += a[i] * g[i] * w[i];
            float along = s * s * s * dot / width;
            for (int64_t i = 0; i < width; i++) {
                float d = g[i];
                sum[i] += s * a[i] * d;
                dx[r * width + i] = s * d * w[i] - along * a[i];
            }
        }
    }
    sum_blocks(part, dw, blocks, width);
}


#define BOTH(name, T)                                                                                                  \
    void relu_squared_##name(const T* x, T* y, int64_t n) { relu_squared(x, y, n); }                                   \
    void relu_squared_backward_##name(const T* dy, const T* x, T* dx, int64_t n) { relu_squared_backward(dy, x, dx, n); } \
    void gelu_tanh_##name(const T* x, T* y, int64_t n) { gelu_tanh(x, y, n); }                                         \
    void gelu_tanh_backward_##name(const T* dy, const T* x, T* dx, int64_t n) { gelu_tanh_backward(dy, x, dx, n); }    \
    void swiglu_##name(const T* gate, const T* x, T* y, int64_t n) { swiglu(gate, x, y, n); }                          \
    void swiglu_backward_##name(const T* dy, const T* gate, const T* x, T* dgate, T* dx, int64_t n) {                  \
        swiglu_backward(dy, gate, x, dgate, dx, n);                                                                    \
    }                                                                                                                  \
    void qk_norm_rotary_##name(const T* qkv, const float* w, const float* cos, const float* sin, T* q, T* k,           \
                               int64_t rows, int64_t time, int64_t heads, int64_t D, float eps) {                      \
        qk_norm_rotary(qkv, w, cos, sin, q, k, rows, time, heads, D, eps);                                             \
    }                                                                                                                  \
    void qk_norm_rotary_backward_##name(const T* qkv, const float* w, const float* cos, const float* sin, const T* dq, \
                                        const T* dk, const T* dv, const int64_t* strides, T* dqkv, float* dw,          \
                                        float* sums, int64_t rows, int64_t time, int64_t heads, int64_t D, float eps) { \
        const Strides* s = reinterpret_cast<const Strides*>(strides);                                                  \
        qk_norm_rotary_backward(qkv, w, cos, sin, dq, dk, dv, s[0], s[1], s[2], dqkv, dw, sums, rows, time, heads, D,  \
                                eps);                                                                                  \
    }                                                                                                                  \
    void rms_norm_##name(const float* x, T* y, float* scale, int64_t rows, int64_t width, float eps) {                 \
        rms_norm(x, y, scale, rows, width, eps);                                                                       \
    }                                                                                                                  \
    void rms_norm_backward_##name(const T* dy, const float* x, const float* scale, float* dx, int64_t rows,            \
                                  int64_t width) {                                                                     \
        rms_norm_backward(dy, x, scale, dx, rows, width);                                                              \
    }                                                                                                                  \
    void rotary_qk_norm_##name(const T* qkv, const float* cos, const float* sin, T* q, T* k, int64_t rows, int64_t time, \
                            int64_t heads, int64_t D, float eps) {                                                     \
        rotary_qk_norm(qkv, cos, sin, q, k, rows, time, heads, D, eps);                                                \
    }                                                                                                                  \
    void rotary_qk_norm_backward_##name(const T* qkv, const float* cos, const float* sin, const T* dq, const T* dk,    \
                                     const T* dv, const int64_t* strides, T* dqkv, int64_t rows, int64_t time,         \
                                     int64_t heads, int64_t D, float eps) {                                            \
        const Strides* s = reinterpret_cast<const Strides*>(strides);                                                  \
        rotary_qk_norm_backward(qkv, cos, sin, dq, dk, dv, s[0], s[1], s[2], dqkv, rows, time, heads, D, eps);         \
    }

BOTH(fp32, float)
BOTH(bf16, bf16)
}
