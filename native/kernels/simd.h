// Vectors of BZ_VEC_BYTES bytes as GCC and clang offer them, and the few operations that they do not.
//
// Included into the namespace of one instruction set; everything is static and nothing comes from the C++ library.
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "../internal.h"

#define BZ_INLINE static inline __attribute__((always_inline))
#define BZ_UNROLL _Pragma("GCC unroll 16")
#if defined(BZ_EMULATE_AVX512) && BZ_VEC_BYTES == 64
#define BZ_REGISTER "m"  // wider than the processor's
#else
#define BZ_REGISTER "v"
#endif
// Keeps a sum in its register and its additions in their order: GCC otherwise collects the terms of an unrolled loop
// and spills them.
#if defined(__x86_64__)
#define BZ_KEEP(v) asm("" : "+" BZ_REGISTER(v))
#else
#define BZ_KEEP(v)
#endif
// The compiler may not carry memory in registers across this.
#define BZ_FENCE asm volatile("" : : : "memory")

namespace bz {
namespace BZ_NS {

constexpr int kLanes = BZ_VEC_BYTES / 4;
typedef float Floats __attribute__((vector_size(BZ_VEC_BYTES)));
typedef int32_t Ints __attribute__((vector_size(BZ_VEC_BYTES)));
typedef uint32_t Words __attribute__((vector_size(BZ_VEC_BYTES)));

template <class V, class T>
BZ_INLINE V load(const T* p) {
    V v;
    memcpy(&v, p, sizeof v);
    return v;
}
template <class V, class T>
BZ_INLINE void store(T* p, V v) {
    memcpy(p, &v, sizeof v);
}
// Maps may hold bfloat16: kernels read and write them by pointers to either type.
typedef uint16_t Halves __attribute__((vector_size(BZ_VEC_BYTES / 2)));
BZ_INLINE Floats read(const float* p) { return load<Floats>(p); }
BZ_INLINE Floats read(const uint16_t* p) { return (Floats)(__builtin_convertvector(load<Halves>(p), Words) << 16); }
BZ_INLINE void write(float* p, Floats v) { store(p, v); }
// To the nearest, ties to even, and a NaN to one that stays one.
BZ_INLINE void write(uint16_t* p, Floats v) {
    const Words word = (Words)v, high = word >> 16;
    const Words rounded = (word + 0x7fffu + (high & 1u)) >> 16;
    store(p, __builtin_convertvector((Words)(v != v ? (Floats)(high | 0x40u) : (Floats)rounded), Halves));
}
// Whether the processor rounds to bfloat16 by one instruction; numbers below all normal ones become 0 then.
BZ_INLINE bool has_bf16() {
#if BZ_VEC_BYTES == 64 && defined(BZ_BF16)
    return __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}
BZ_INLINE void write_by_bf16(uint16_t* p, Floats v) {
#if BZ_VEC_BYTES == 64 && defined(BZ_BF16)
    __m256i halves;
    asm("vcvtneps2bf16 %1, %0" : "=v"(halves) : "v"((__m512)v));
    store(p, halves);
#else
    write(p, v);
#endif
}
// The first `count` < kLanes numbers of a vector, and zeros: what lies behind them is neither read nor written.
#if BZ_VEC_BYTES == 64 && !defined(BZ_EMULATE_AVX512)
BZ_INLINE Floats read_part(const float* p, int64_t count) {
    return (Floats)_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p);
}
BZ_INLINE Floats read_part(const uint16_t* p, int64_t count) {
    const __m256i halves = _mm256_maskz_loadu_epi16(__mmask16((1u << count) - 1), p);
    return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
}
BZ_INLINE void store_part(float* p, Floats v, int64_t count) {
    _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), (__m512)v);
}
#else
template <class T>
BZ_INLINE Floats read_part(const T* p, int64_t count) {
    alignas(64) T spare[kLanes] = {};
    memcpy(spare, p, sizeof(T) * size_t(count));
    return read(spare);
}
BZ_INLINE void store_part(float* p, Floats v, int64_t count) {
    alignas(64) float spare[kLanes];
    store(spare, v);
    memcpy(p, spare, sizeof(float) * size_t(count));
}
#endif
BZ_INLINE void write_part(float* p, Floats v, int64_t count) { store_part(p, v, count); }
BZ_INLINE void write_part(uint16_t* p, Floats v, int64_t count) {
    alignas(64) uint16_t spare[kLanes];
    write(spare, v);
    memcpy(p, spare, sizeof(uint16_t) * size_t(count));
}
// How a vector of channels is read and written: all of it, or the first ones.
struct Whole {
    static constexpr bool kWhole = true;
    template <class T>
    inline __attribute__((always_inline)) Floats get(const T* p) const {
        return read(p);
    }
    template <class T>
    inline __attribute__((always_inline)) void put(T* p, Floats v) const {
        write(p, v);
    }
};
struct Part {
    static constexpr bool kWhole = false;
    int count;
    template <class T>
    inline __attribute__((always_inline)) Floats get(const T* p) const {
        return read_part(p, count);
    }
    template <class T>
    inline __attribute__((always_inline)) void put(T* p, Floats v) const {
        write_part(p, v, count);
    }
};
// Past the caches, to an address that is a multiple of the vector's size.
BZ_INLINE void store_past(float* p, Floats v) {
#if BZ_VEC_BYTES == 64
    _mm512_stream_ps(p, (__m512)v);
#elif BZ_VEC_BYTES == 32
    _mm256_stream_ps(p, (__m256)v);
#else
    store(p, v);
#endif
}
// What this thread wrote past the caches is there for other threads.
BZ_INLINE void settle() {
#if BZ_VEC_BYTES >= 32
    _mm_sfence();
#endif
}
BZ_INLINE Floats splat(float x) { return x - Floats{}; }  // x - 0 is x, for -0.0 too
BZ_INLINE Words splat_word(uint32_t x) { return x - Words{}; }

// One bit per lane: the lane is >= 0.
BZ_INLINE uint32_t not_negative(Floats v) {
#if BZ_VEC_BYTES == 64
    return _mm512_cmp_ps_mask((__m512)v, _mm512_setzero_ps(), _CMP_GE_OQ);
#elif BZ_VEC_BYTES == 32
    return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps((__m256)v, _mm256_setzero_ps(), _CMP_GE_OQ)));
#elif defined(__aarch64__)
    const uint32x4_t place = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vcgezq_f32((float32x4_t)v), place));
#else
    uint32_t bits = 0;
    for (int i = 0; i < kLanes; ++i) bits |= uint32_t(v[i] >= 0) << i;
    return bits;
#endif
}

BZ_INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
#if BZ_VEC_BYTES == 64
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif BZ_VEC_BYTES == 32
    return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

BZ_INLINE Floats absolute(Floats v) { return (Floats)((Words)v & splat_word(0x7fffffffu)); }

BZ_INLINE float sum_lanes(Floats v) {  // halves onto each other
#if BZ_VEC_BYTES == 64
    __m256 halves[2];
    memcpy(halves, &v, sizeof halves);
    const __m256 half = _mm256_add_ps(halves[0], halves[1]);
#elif BZ_VEC_BYTES == 32
    const __m256 half = (__m256)v;
#endif
#if BZ_VEC_BYTES >= 32
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
#else
    alignas(64) float lanes[kLanes];
    store(lanes, v);
    BZ_UNROLL for (int half = kLanes / 2; half > 0; half /= 2)
        BZ_UNROLL for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    return lanes[0];
#endif
}

// high, low = carry and sum of three bits in every position
BZ_INLINE void full_add(Words& high, Words& low, Words a, Words b, Words c) {
#if BZ_VEC_BYTES == 64
    const __m512i x = (__m512i)a, y = (__m512i)b, z = (__m512i)c;
    high = (Words)_mm512_ternarylogic_epi32(x, y, z, 0xe8);
    low = (Words)_mm512_ternarylogic_epi32(x, y, z, 0x96);
#else
    const Words half = a ^ b;
    high = (a & b) | (c & half);
    low = half ^ c;
#endif
}

}  // namespace BZ_NS
}  // namespace bz
