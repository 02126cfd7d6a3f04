// A step of generation with a GPT on a CPU: all layers and the head for a few tokens, in one call.
//
// A step is bound by reading the weights from memory, so each weight is read once for all tokens, in the type in which
// it is stored: fp32, bf16, or int8 with a scale for each group of inputs. Activations and sums are fp32.
// Every sum runs in one order, for any number of tokens and threads: what one token gets depends, bit for bit, on no
// other sequence in the step. So compilers may neither reorder sums nor contract products and sums as they see fit
// (kernels/cpu_build.py), and loops that add up are written in vectors: the vector types of GCC and Clang, which become
// SSE, AVX, AVX-512 or NEON.
//
// Compiled at first use (kernels/cpu_build.py), called through ctypes (kernels/decode.py), and defined by the model's
// own forward pass.
// Letters: N tokens in the step, C width, H heads, D head width, I inner width, S tokens attended to.

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>

#if defined(__AVX__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define UNROLLED _Pragma("GCC unroll 16")  // so that arrays of vectors are registers: every loop over them needs it

namespace {

#if defined(__AVX512F__)
constexpr int64_t LANES = 16;
#elif defined(__AVX__)
constexpr int64_t LANES = 8;
#else
constexpr int64_t LANES = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));

struct bf16 { uint16_t bits; };  // the upper half of a float

// ---- The model, as kernels/decode.py describes it: structs of the same names with the same fields ----

enum Type : int64_t { FP32, BF16, INT8 };
enum NormKind : int64_t { NO_NORM, LAYER_NORM, RMS_NORM };
enum Activation : int64_t { GELU_TANH, GELU, RELU, RELU2, SWIGLU };

struct Matrix {  // a linear layer: (inputs,) -> (outputs,)
    Type type;
    int64_t outputs, inputs;
    const void* weight;  // (outputs, inputs)
    const float* scale;  // int8: (outputs, groups of inputs)
    const float* bias;   // (outputs,) or null
};

struct Norm {
    NormKind kind;
    const float *weight, *bias;  // (width,) or null
    double eps;
};

struct Layer {
    Norm norm_1, norm_2, q_norm, k_norm;
    Matrix qkv, attention_out, up, gate, down;
    float *keys, *values;  // (slots, H, context, D)
};

struct Model {
    int64_t layers, width, heads, inner, context;
    Activation activation;
    int64_t post_norm, norm_before_rotation;
    const float *cos, *sin;  // (context, D), each angle twice and the second half of the sines negated; or null
    Matrix features;  // of n-grams, to be added to the embeddings; without weights where there are none
    Norm embedding_norm, final_norm;
    Matrix head;
    const Layer* layer;  // (layers,)
};

// New tokens of one sequence: rows of the step, one after another.
struct Span { int64_t slot, position, first_row, rows; };

// ---- Vectors ----

inline Vec load(const float* p) {
    Vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

inline Vec fill(float x) { return Vec{} + x; }

// a·b + c, rounded once where the CPU can, but never by the compiler's choice.
inline Vec multiply_add(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
    return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__) && defined(__FMA__)
    return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (Vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

// Small integers of memory as 32-bit integers. One instruction on x86, which GCC does not find by itself.
#if defined(__AVX512F__)
inline Ints widen(const int16_t* p) { return (Ints)_mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i*)p)); }
inline Ints widen(const int8_t* p) { return (Ints)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)); }
#elif defined(__AVX2__)
inline Ints widen(const int16_t* p) { return (Ints)_mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i*)p)); }
inline Ints widen(const int8_t* p) { return (Ints)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)); }
#else
template <typename T>
inline Ints widen(const T* p) {
    typedef T Small __attribute__((vector_size(sizeof(T) * LANES)));
    Small v;
    std::memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, Ints);
}
#endif

inline Vec load(const int8_t* p) { return __builtin_convertvector(widen(p), Vec); }
inline Vec load(const bf16* p) { return (Vec)(widen(reinterpret_cast<const int16_t*>(p)) << 16); }

// The first of `n` numbers, and zeros where there are fewer than LANES.
template <typename T>
inline Vec load_part(const T* p, int64_t n) {
    if (n >= LANES) return load(p);
    T padded[LANES] = {};
    std::memcpy(padded, p, n * sizeof(T));
    return load(padded);
}

inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

// Halves are added to each other until one number is left; shuffles, as a detour by memory takes several times as long.
inline float sum(Vec v) {
#if defined(__AVX__)
#if defined(__AVX512F__)
    __m256d high = _mm512_extractf64x4_pd((__m512d)v, 1);
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256((__m512)v), _mm256_castpd_ps(high));
#else
    __m256 eight = (__m256)v;
#endif
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
#else
    float part[LANES];
    store(part, v);
    for (int64_t half = LANES / 2; half; half /= 2)
        for (int64_t i = 0; i < half; i++) part[i] += part[i + half];
    return part[0];
#endif
}

// Each number of x replaced by f of it, where f takes and returns a vector.
template <typename F>
inline void each(float* x, int64_t n, F f) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) store(x + i, f(load(x + i), i));
    if (i < n) {
        Vec v = f(load_part(x + i, n - i), i);
        std::memcpy(x + i, &v, (n - i) * sizeof(float));
    }
}

inline float dot(const float* a, const float* b, int64_t n) {
    Vec total{};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) total = multiply_add(load(a + i), load(b + i), total);
    if (i < n) total = multiply_add(load_part(a + i, n - i), load_part(b + i, n - i), total);
    return sum(total);
}

// exp(x) with a relative error of about 1e-7 for x within ±40, beyond which sigmoids and softmaxes need no more: 2ⁿ
// times a polynomial with Cephes' coefficients. NaN stays NaN.
inline Vec exponential(Vec x) {
    Vec low = fill(-40), high = fill(40);
    x = x < low ? low : x;
    x = x > high ? high : x;
    Vec shifted = x * 1.44269504f + 12582912.0f;  // 1.5·2²³, after which a float has no fraction
    Vec n = shifted - 12582912.0f, r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Vec p = fill(1.9875691500e-4f);
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        p = p * r + c;
    Ints scale = ((Ints)shifted + (127 - 0x4B400000)) << 23;  // the lowest bits hold n; a cast keeps all bits
    return (p * r * r + r + 1.0f) * (Vec)scale;
}

// ---- Matrix products ----

constexpr int64_t GROUP = 64;    // inputs that share a scale in int8, as in model/quantized.py
constexpr int64_t AHEAD = 4096;  // bytes between what is computed and what is fetched from memory
constexpr int CHAINS = 2;        // sums, to which vectors are added in turn: an addition waits for the one before it
constexpr int64_t SHARE = 4;     // threads compute multiples of so many outputs

// A group of weights further on, into the second-level cache. Where several rows of inputs are read in between, the CPU
// by itself does not fetch weights early enough.
template <typename T>
inline void prefetch(const T* w) {
    const char* first = reinterpret_cast<const char*>(w) + AHEAD;
    for (int64_t at = 0; at < GROUP * static_cast<int64_t>(sizeof(T)); at += 64) __builtin_prefetch(first + at, 0, 2);
}

// part += the products of LANES weights with those of R rows, both read by `loaded` from index `i` on.
template <int R, typename T, typename F>
inline __attribute__((always_inline)) void add(Vec (&part)[R], const T* w, const float* const (&row)[R],
                                                    int64_t i, F loaded) {
    Vec weights = loaded(w + i);
    UNROLLED for (int r = 0; r < R; r++) part[r] = multiply_add(weights, loaded(row[r] + i), part[r]);
}

// One output for R rows of x.
template <typename T, int R>
inline void output_of(const Matrix& m, int64_t output, const float* x, float* y) {
    constexpr bool scaled = sizeof(T) == 1;
    int64_t n = m.inputs, groups = (n + GROUP - 1) / GROUP;
    const T* w = static_cast<const T*>(m.weight) + output * n;
    const float* scale = scaled ? m.scale + output * groups : nullptr;
    const float* row[R];
    UNROLLED for (int r = 0; r < R; r++) row[r] = x + r * n;
    static_assert(CHAINS == 2, "their sum is written out below");
    Vec total[CHAINS][R] = {};
    for (int64_t group = 0, i = 0; i < n; group++) {
        prefetch(w + i);
        Vec part[CHAINS][R];
        UNROLLED for (int c = 0; c < CHAINS; c++)
            UNROLLED for (int r = 0; r < R; r++) part[c][r] = scaled ? Vec{} : total[c][r];
        if (i + GROUP <= n) {
            UNROLLED for (int64_t k = 0; k < GROUP / LANES; k++)
                add(part[k % CHAINS], w, row, i + k * LANES, [](const auto* p) { return load(p); });
            i += GROUP;
        } else {
            for (; i < n; i += LANES)
                add(part[0], w, row, i, [rest = n - i](const auto* p) { return load_part(p, rest); });
        }
        UNROLLED for (int r = 0; r < R; r++) {
            if (scaled) total[0][r] = multiply_add(part[0][r] + part[1][r], fill(scale[group]), total[0][r]);
            else total[0][r] = part[0][r], total[1][r] = part[1][r];
        }
    }
    UNROLLED for (int r = 0; r < R; r++)
        y[r * m.outputs + output] = sum(total[0][r] + total[1][r]) + (m.bias ? m.bias[output] : 0);
}

struct Range { int64_t begin, end; };

// The outputs from `begin` to `end`, for all rows: (rows, inputs) -> (rows, outputs).
template <typename T>
void product(const Matrix& m, const float* x, float* y, int64_t rows, Range range) {
    for (int64_t o = range.begin; o < range.end; o++) {
        int64_t r = 0;
        for (; r + 4 <= rows; r += 4) output_of<T, 4>(m, o, x + r * m.inputs, y + r * m.outputs);
        if (r + 2 <= rows) output_of<T, 2>(m, o, x + r * m.inputs, y + r * m.outputs), r += 2;
        if (r < rows) output_of<T, 1>(m, o, x + r * m.inputs, y + r * m.outputs);
    }
}

void product(const Matrix& m, const float* x, float* y, int64_t rows, Range range) {
    if (m.type == INT8) product<int8_t>(m, x, y, rows, range);
    else if (m.type == BF16) product<bf16>(m, x, y, rows, range);
    else product<float>(m, x, y, rows, range);
}

// ---- Norms, positions, activations ----

// One vector, from x to y, which may be the same.
void normalise(const Norm& norm, const float* x, float* y, int64_t n) {
    if (y != x) std::memcpy(y, x, n * sizeof(float));
    if (norm.kind == NO_NORM) return;
    if (norm.kind == LAYER_NORM) {
        Vec total{};
        each(y, n, [&](Vec v, int64_t) { return total += v, v; });
        float mean = sum(total) / n;
        for (int64_t i = 0; i < n; i++) y[i] -= mean;
    }
    float factor = 1 / std::sqrt(dot(y, y, n) / n + static_cast<float>(norm.eps));
    for (int64_t i = 0; i < n; i++) y[i] *= factor;
    if (norm.weight)
        for (int64_t i = 0; i < n; i++) y[i] *= norm.weight[i];
    if (norm.bias)
        for (int64_t i = 0; i < n; i++) y[i] += norm.bias[i];
}

// One head's query or key, rotated by its position in place: (D,).
void rotate(float* x, const float* cos, const float* sin, int64_t D) {
    int64_t half = D / 2;
    for (int64_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cos[i] + b * sin[i];
        x[i + half] = b * cos[i + half] + a * sin[i + half];
    }
}

// One head's query or key in place: (D,).
void place(const Model& m, const Norm& norm, float* x, int64_t position, int64_t D) {
    if (m.norm_before_rotation) normalise(norm, x, x, D);
    if (m.cos) rotate(x, m.cos + position * D, m.sin + position * D, D);
    if (!m.norm_before_rotation) normalise(norm, x, x, D);
}

inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exponential(-x)); }

// In place, with the gate's numbers where there is a gate.
void activate(Activation kind, float* x, const float* gate, int64_t n) {
    switch (kind) {
        case GELU_TANH:  // x·(1 + tanh(u)) / 2 is x·sigmoid(2u)
            return each(x, n, [](Vec v, int64_t) { return v * sigmoid(1.5957691216f * (v + 0.044715f * v * v * v)); });
        case GELU:
            for (int64_t i = 0; i < n; i++) x[i] *= 0.5f * (1 + std::erf(x[i] * 0.70710678f));
            return;
        case RELU:
            return each(x, n, [](Vec v, int64_t) { return v <= 0.0f ? Vec{} : v; });  // NaN stays NaN
        case RELU2:
            return each(x, n, [](Vec v, int64_t) { return v <= 0.0f ? Vec{} : v * v; });
        case SWIGLU:
            return each(x, n, [=](Vec v, int64_t i) {
                Vec g = load_part(gate + i, n - i);
                return v * g * sigmoid(g);
            });
    }
}

// ---- A step ----

struct Step {
    const Model& m;
    const Span* spans;
    int64_t n_spans, rows, D;
    float *stream, *qkv, *attended, *inner, *gate;  // shared: (N, C), (N, 3C), (N, C), twice (N, I)
};

// Where threads wait for each other, some sixty times a step. OpenMP's barrier soon sleeps, as the command line asks it
// to (for training), and waking takes longer than many a part of a step. This one spins, and then lets others run.
class Barrier {
    std::atomic<int64_t> arrived{0}, round{0};

   public:
    void wait(int64_t threads) {
        int64_t now = round.load(std::memory_order_acquire);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
            arrived.store(0, std::memory_order_relaxed);
            round.store(now + 1, std::memory_order_release);
            return;
        }
        for (int64_t spins = 0; round.load(std::memory_order_acquire) == now; spins++)
            if (spins > MAX_SPINS) std::this_thread::yield();
    }
    static constexpr int64_t MAX_SPINS = 20000;  // about 20 µs
};

struct Worker {
    Barrier& barrier;
    int64_t thread, threads;
    float *normed, *scores;  // its own: (N, C) and (context,)

    void wait() { barrier.wait(threads); }

    // Its part of `n`, in multiples of `unit`.
    Range part(int64_t n, int64_t unit) const {
        int64_t units = (n + unit - 1) / unit;
        return {std::min(n, units * thread / threads * unit), std::min(n, units * (thread + 1) / threads * unit)};
    }
};

// Every worker normalises all rows for itself: that is less work than waiting for each other once more.
void normalise_rows(const Step& s, Worker& w, const Norm& norm) {
    for (int64_t r = 0; r < s.rows; r++) normalise(norm, s.stream + r * s.m.width, w.normed + r * s.m.width, s.m.width);
}

// stream = base + x·Wᵀ
void add_branch(const Step& s, Worker& w, const Matrix& matrix, const float* x, const float* base) {
    int64_t C = s.m.width;
    Range own = w.part(C, SHARE);
    product(matrix, x, s.qkv, s.rows, own);  // whose place is free again
    for (int64_t r = 0; r < s.rows; r++)
        for (int64_t i = own.begin; i < own.end; i++) s.stream[r * C + i] = base[r * C + i] + s.qkv[r * C + i];
}

// The stream before the first block.
void embed(const Step& s, Worker& w, const float* features) {
    int64_t C = s.m.width;
    if (s.m.features.weight) {
        add_branch(s, w, s.m.features, features, s.stream);
        w.wait();
    }
    if (s.m.embedding_norm.kind == NO_NORM) return;
    Range own = w.part(s.rows, 1);
    for (int64_t r = own.begin; r < own.end; r++) normalise(s.m.embedding_norm, s.stream + r * C, s.stream + r * C, C);
    w.wait();
}

// One query's attention to the first `n` keys: (D,) -> (D,).
void attend(const float* q, const float* keys, const float* values, float* y, float* scores, int64_t n, int64_t D) {
    float highest = -INFINITY, scale = 1 / std::sqrt(static_cast<float>(D));
    for (int64_t t = 0; t < n; t++) {
        scores[t] = dot(q, keys + t * D, D) * scale;
        highest = std::max(highest, scores[t]);
    }
    each(scores, n, [=](Vec v, int64_t) { return exponential(v - highest); });
    float total = 0;
    for (int64_t t = 0; t < n; t++) total += scores[t];
    std::memset(y, 0, D * sizeof(float));
    for (int64_t t = 0; t < n; t++) {
        const float* v = values + t * D;
        Vec weight = fill(scores[t] / total);
        each(y, D, [=](Vec sum, int64_t i) { return multiply_add(weight, load_part(v + i, D - i), sum); });
    }
}

// The new tokens of one sequence in one head: keys and values first, for the later ones attend to the earlier.
void attend_head(const Step& s, Worker& w, const Layer& layer, const Span& span, int64_t head) {
    const Model& m = s.m;
    int64_t C = m.width, D = s.D, at = (span.slot * m.heads + head) * m.context * D;
    float *keys = layer.keys + at, *values = layer.values + at;
    for (int64_t t = 0; t < span.rows; t++) {
        const float* qkv = s.qkv + (span.first_row + t) * 3 * C + head * D;
        int64_t position = span.position + t;
        std::memcpy(keys + position * D, qkv + C, D * sizeof(float));
        std::memcpy(values + position * D, qkv + 2 * C, D * sizeof(float));
        place(m, layer.k_norm, keys + position * D, position, D);
    }
    for (int64_t t = 0; t < span.rows; t++) {
        int64_t row = span.first_row + t, position = span.position + t;
        float* q = s.qkv + row * 3 * C + head * D;
        place(m, layer.q_norm, q, position, D);
        attend(q, keys, values, s.attended + row * C + head * D, w.scores, position + 1, D);
    }
}

void attention(const Step& s, Worker& w, const Layer& layer) {
    Range own = w.part(s.n_spans * s.m.heads, 1);
    for (int64_t i = own.begin; i < own.end; i++) attend_head(s, w, layer, s.spans[i / s.m.heads], i % s.m.heads);
}

void feed_forward(const Step& s, Worker& w, const Layer& layer) {
    int64_t I = s.m.inner;
    Range own = w.part(I, SHARE);
    product(layer.up, w.normed, s.inner, s.rows, own);
    if (layer.gate.weight) product(layer.gate, w.normed, s.gate, s.rows, own);
    for (int64_t r = 0; r < s.rows; r++)
        activate(s.m.activation, s.inner + r * I + own.begin, s.gate + r * I + own.begin, own.end - own.begin);
}

// GPT-2's block, or GPT-1's, where the stream itself is normalised after each sum.
void block(const Step& s, Worker& w, const Layer& layer, const Norm& before) {
    bool post = s.m.post_norm;
    normalise_rows(s, w, before);
    product(layer.qkv, w.normed, s.qkv, s.rows, w.part(3 * s.m.width, SHARE));
    w.wait();
    attention(s, w, layer);
    w.wait();
    add_branch(s, w, layer.attention_out, s.attended, post ? w.normed : s.stream);
    w.wait();
    normalise_rows(s, w, post ? layer.norm_1 : layer.norm_2);
    feed_forward(s, w, layer);
    w.wait();
    add_branch(s, w, layer.down, s.inner, post ? w.normed : s.stream);
    w.wait();
}

int64_t aligned(int64_t n) { return (n + 63) / 64 * 64; }  // numbers; no two threads write to one cache line

}  // namespace

// Numbers of working memory that `decode` needs.
extern "C" int64_t decode_workspace(const Model* m, int64_t rows, int64_t threads) {
    int64_t C = m->width, shared = aligned(3 * rows * C) + aligned(rows * C) + 2 * aligned(rows * m->inner);
    return shared + threads * (aligned(rows * C) + aligned(m->context));
}

// Embeddings in x, (N, C), and features, (N, inputs of their matrix), to logits of the rows from `first_logit` on,
// (N - first_logit, outputs of the head). The spans' keys and values are written. x is overwritten.
extern "C" void decode(const Model* m, const Span* spans, int64_t n_spans, float* x, const float* features,
                       int64_t first_logit, float* logits, float* workspace, int64_t threads) {
    int64_t rows = spans[n_spans - 1].first_row + spans[n_spans - 1].rows, C = m->width;
    float* qkv = workspace;
    float* attended = qkv + aligned(3 * rows * C);
    float* inner = attended + aligned(rows * C);
    float* gate = inner + aligned(rows * m->inner);
    float* own = gate + aligned(rows * m->inner);
    Step s{*m, spans, n_spans, rows, C / m->heads, x, qkv, attended, inner, gate};
    Barrier barrier;
#pragma omp parallel num_threads(threads)
    {
        float* normed = own + omp_get_thread_num() * (aligned(rows * C) + aligned(m->context));
        Worker w{barrier, omp_get_thread_num(), omp_get_num_threads(), normed, normed + aligned(rows * C)};
        embed(s, w, features);
        Norm none{NO_NORM, nullptr, nullptr, 0};
        for (int64_t i = 0; i < m->layers; i++)
            block(s, w, m->layer[i], !m->post_norm ? m->layer[i].norm_1 : i ? m->layer[i - 1].norm_2 : none);
        normalise_rows(s, w, m->post_norm ? m->layer[m->layers - 1].norm_2 : m->final_norm);
        product(m->head, w.normed + first_logit * C, logits, rows - first_logit, w.part(m->head.outputs, SHARE));
    }
}
