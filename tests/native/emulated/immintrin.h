// AVX-512 on processors without it: SIMDe's functions under Intel's names (CMake option BINARIZE_EMULATE_AVX512), and
// those that it lacks. What asks for an address that is a multiple of 64 stops the process at any other, as it would
// on such a processor.
#pragma once

#include_next <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <stdint.h>
#include <stdlib.h>

template <class T>
static inline T* emulated_aligned(T* p) {
    if (uintptr_t(p) % 64) abort();
    return p;
}

#undef _mm512_load_si512
#undef _mm512_load_ps
#undef _mm512_stream_ps
#define _mm512_load_si512(p) simde_mm512_loadu_si512(emulated_aligned(p))
#define _mm512_load_ps(p) simde_mm512_loadu_ps(emulated_aligned(p))
#define _mm512_stream_ps(p, v) simde_mm512_storeu_ps(emulated_aligned(p), v)

#undef _mm512_cvtepi16_epi32
#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtepu8_epi32
template <class From, class Small>
static inline simde__m512i emulated_widen(Small x) {
    From from[sizeof(Small) / sizeof(From)];
    int32_t to[16];
    memcpy(from, &x, sizeof from);
    for (int i = 0; i < 16; ++i) to[i] = from[i];
    return simde_mm512_loadu_si512(to);
}
#define _mm512_cvtepi16_epi32(x) emulated_widen<int16_t>(x)
#define _mm512_cvtepu16_epi32(x) emulated_widen<uint16_t>(x)
#define _mm512_cvtepu8_epi32(x) emulated_widen<uint8_t>(x)

static inline simde__m128i emulated_narrow(uint8_t mask, simde__m512i x) {
    int64_t from[8];
    int16_t to[8];
    simde_mm512_storeu_si512(from, x);
    for (int i = 0; i < 8; ++i) to[i] = mask >> i & 1 ? int16_t(from[i]) : 0;
    return simde_mm_loadu_si128(to);
}
static inline void emulated_store(void* p, uint8_t mask, simde__m128i x) {
    int16_t from[8];
    simde_mm_storeu_si128(from, x);
    for (int i = 0; i < 8; ++i)
        if (mask >> i & 1) memcpy(static_cast<char*>(p) + 2 * i, from + i, 2);
}
#undef _mm512_maskz_cvtepi64_epi16
#undef _mm_mask_storeu_epi16
#define _mm512_maskz_cvtepi64_epi16(mask, x) emulated_narrow(mask, x)
#define _mm_mask_storeu_epi16(p, mask, x) emulated_store(p, mask, x)

static inline simde__m512i emulated_high(simde__m512i a, simde__m512i b) {
    uint16_t x[32], y[32];
    simde_mm512_storeu_si512(x, a);
    simde_mm512_storeu_si512(y, b);
    for (int i = 0; i < 32; ++i) x[i] = uint16_t(uint32_t(x[i]) * y[i] >> 16);
    return simde_mm512_loadu_si512(x);
}
#undef _mm512_mulhi_epu16
#define _mm512_mulhi_epu16(a, b) emulated_high(a, b)
