// Functions of floats on vectors: the same bits on every instruction set, since nothing is contracted.
//
// Errors are below 2 ulp for exp, 4 ulp for the others; those of normal_tails are below 1e-7, in the far tail 4e-6 of the
// value. Polynomials are minimax fits.
#pragma once

#include "simd.h"

namespace bz {
namespace BZ_NS {

BZ_INLINE Floats square_root(Floats x) {
#if BZ_VEC_BYTES == 64
    return (Floats)_mm512_mask_sqrt_ps((__m512)x, 0xffff, (__m512)x);
#elif BZ_VEC_BYTES == 32
    return (Floats)_mm256_sqrt_ps((__m256)x);
#elif defined(__x86_64__)
    return (Floats)_mm_sqrt_ps((__m128)x);
#else
    for (int i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
    return x;
#endif
}

// max(x, low) and min(x, high); a NaN stays one. (x86 takes the second operand if one is a NaN. The masked forms are
// those that GCC does not warn of.)
BZ_INLINE Floats at_least(Floats x, Floats low) {
#if BZ_VEC_BYTES == 64
    return (Floats)_mm512_mask_max_ps((__m512)x, 0xffff, (__m512)low, (__m512)x);
#elif BZ_VEC_BYTES == 32
    return (Floats)_mm256_max_ps((__m256)low, (__m256)x);
#else
    return x < low ? low : x;
#endif
}
BZ_INLINE Floats at_most(Floats x, Floats high) {
#if BZ_VEC_BYTES == 64
    return (Floats)_mm512_mask_min_ps((__m512)x, 0xffff, (__m512)high, (__m512)x);
#elif BZ_VEC_BYTES == 32
    return (Floats)_mm256_min_ps((__m256)high, (__m256)x);
#else
    return x > high ? high : x;
#endif
}
BZ_INLINE Floats limit(Floats x, float low, float high) { return at_most(at_least(x, splat(low)), splat(high)); }

// 2^n, -126 <= n <= 127
BZ_INLINE Floats power_of_two(Ints n) { return (Floats)((n + 127) << 23); }

// x = n ln 2 + r; e^r = 1 + small.
struct Reduced {
    Ints n;
    Floats small;
};

BZ_INLINE Reduced reduce_exponent(Floats x) {
    const Floats shifter = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
    const Floats shifted = x * splat(1.44269504f) + shifter;
    const Floats n = shifted - shifter;
    const Floats r = x - n * splat(0.693145752f) - n * splat(1.42860677e-6f);
    Floats p = splat(0.00138131448f);
    p = p * r + splat(0.00836941879f);
    p = p * r + splat(0.041668456f);
    p = p * r + splat(0.166665152f);
    p = p * r + splat(0.49999994f);
    return {(Ints)((Words)shifted - (Words)shifter), p * r * r + r};
}


BZ_INLINE Floats exponential(Floats x) {
    const Reduced e = reduce_exponent(limit(x, -104.0f, 89.0f));
    const Ints half = e.n >> 1;  // two factors: the result may be below or above all normal numbers
    return (e.small + 1.0f) * power_of_two(half) * power_of_two(e.n - half);
}

// e^x for x <= 0 beside an e^0: 0 for what would be below all normal numbers, where processors take a hundred times as
// long. Masks of -100, as shifted windows have them, make many of these.
BZ_INLINE Floats exponential_or_zero(Floats x) {
    const auto small = x < splat(-87.0f);
    return small ? Floats{} : exponential(small ? splat(-87.0f) : x);
}

// e^x - 1 for x <= 88
BZ_INLINE Floats exponential_less_one(Floats x) {
    const Reduced e = reduce_exponent(limit(x, -30.0f, 88.0f));
    const Floats power = power_of_two(e.n);
    return e.small * power + (power - 1.0f);
}

BZ_INLINE Floats with_sign(Floats magnitude, Floats sign) {
    return (Floats)((Words)magnitude | ((Words)sign & splat_word(0x80000000u)));
}

BZ_INLINE Floats hyperbolic_tangent(Floats x) {
    const Floats e = exponential_less_one(2.0f * at_most(absolute(x), splat(9.1f)));
    return with_sign(e / (e + 2.0f), x);
}

// Twice the normal distribution's tail: erfc(s / sqrt 2) for s >= 0, as e^(-s p(s)); 0 from s = 5.94 on, where 1 - it is 1.
BZ_INLINE Floats normal_tails(Floats s) {
    Floats p = splat(1.46029135e-08f);
    p = p * s + splat(-4.60600603e-07f);
    p = p * s + splat(6.20286528e-06f);
    p = p * s + splat(-4.51786327e-05f);
    p = p * s + splat(0.000168369268f);
    p = p * s + splat(4.92154941e-05f);
    p = p * s + splat(-0.00487013347f);
    p = p * s + splat(0.0363825709f);
    p = p * s + splat(0.31829831f);
    p = p * s + splat(0.797885478f);
    const Reduced e = reduce_exponent(at_least(-s * p, splat(-30.0f)));
    const Floats tails = (e.small + 1.0f) * power_of_two(e.n);
    return s > splat(5.94f) ? Floats{} : tails;
}

// log(1 + u) for 0 <= u < 2^100
BZ_INLINE Floats log_of_one_plus(Floats u) {
    const Floats w = u + 1.0f;
    const Floats lost = u < splat(1.0f) ? u - (w - 1.0f) : 1.0f - (w - u);
    const Words bits = (Words)w + (0x3f800000u - 0x3f3504f3u);  // mantissa from sqrt(1/2) to sqrt(2)
    const Floats n = __builtin_convertvector((Ints)(bits >> 23) - 127, Floats);
    const Floats f = (Floats)((bits & 0x7fffffu) + 0x3f3504f3u) - 1.0f;
    Floats p = splat(0.0675757006f);
    p = p * f + splat(-0.116943352f);
    p = p * f + splat(0.118935123f);
    p = p * f + splat(-0.124030836f);
    p = p * f + splat(0.142185539f);
    p = p * f + splat(-0.166680902f);
    p = p * f + splat(0.200021669f);
    p = p * f + splat(-0.250000089f);
    p = p * f + splat(0.333333105f);
    const Floats log = p * f * f * f + n * splat(-2.12194440e-4f) - f * f * 0.5f + f + n * splat(0.693359375f);
    return log + lost / w;
}

}  // namespace BZ_NS
}  // namespace bz
