// The operations of pointwise steps on runs of floats.
#pragma once

#include "functions.h"

namespace bz {
namespace BZ_NS {

// Several vectors at a time, so that loops cost little; long functions overlap without that.
template <int U, class F>
BZ_INLINE void map_one(float* to, const float* a, int64_t count, const F& f) {
    int64_t i = 0;
    for (; i + U * kLanes <= count; i += U * kLanes) {
        Floats v[U];
        BZ_UNROLL for (int k = 0; k < U; ++k) v[k] = f(load<Floats>(a + i + k * kLanes));
        BZ_UNROLL for (int k = 0; k < U; ++k) store(to + i + k * kLanes, v[k]);
    }
    for (; i + kLanes <= count; i += kLanes) store(to + i, f(load<Floats>(a + i)));
    if (i < count) store_part(to + i, f(read_part(a + i, count - i)), count - i);
}

template <class F>
BZ_INLINE void map_two(float* to, const float* a, const float* b, int64_t count, const F& f) {
    int64_t i = 0;
    for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
        Floats v[4];
        BZ_UNROLL for (int k = 0; k < 4; ++k)
            v[k] = f(load<Floats>(a + i + k * kLanes), load<Floats>(b + i + k * kLanes));
        BZ_UNROLL for (int k = 0; k < 4; ++k) store(to + i + k * kLanes, v[k]);
    }
    for (; i + kLanes <= count; i += kLanes) store(to + i, f(load<Floats>(a + i), load<Floats>(b + i)));
    if (i < count) store_part(to + i, f(read_part(a + i, count - i), read_part(b + i, count - i)), count - i);
}

static void affine(float* to, const float* a, const float* mul, const float* add, int64_t count) {
    if (!mul && !add) return map_one<4>(to, a, count, [](Floats x) { return x; });
    if (!add) return map_two(to, a, mul, count, [](Floats x, Floats m) { return m * x; });
    if (!mul) return map_two(to, a, add, count, [](Floats x, Floats s) { return x + s; });
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes)
        store(to + i, load<Floats>(mul + i) * load<Floats>(a + i) + load<Floats>(add + i));
    for (; i < count; ++i) to[i] = mul[i] * a[i] + add[i];
}

static void piecewise(float* to, const float* a, const float* const* v, int64_t count) {
    const float *const before = v[0], *const negative = v[1], *const positive = v[2], *const after = v[3];
    const auto part = [&](const float* p, int64_t i, int64_t some) {
        return some == kLanes ? load<Floats>(p + i) : read_part(p + i, some);
    };
    for (int64_t i = 0; i < count; i += kLanes) {
        const int64_t some = count - i < kLanes ? count - i : kLanes;
        Floats t = part(a, i, some);
        if (before) t += part(before, i, some);
        const Floats below = negative ? t * part(negative, i, some) : Floats{};
        const Floats above = positive ? t * part(positive, i, some) : t;
        t = t < Floats{} ? below : above;
        if (after) t += part(after, i, some);
        if (some == kLanes)
            store(to + i, t);
        else
            store_part(to + i, t, some);
    }
}

// to[i] = op(a[i], b[i]); v: runs as long as the others, or null.
static void run_op(int op, float* to, const float* a, const float* b, const float* const* v, float p, float q,
                   int64_t count) {
    const Floats zero = {}, one = splat(1.0f), three = splat(3.0f), six = splat(6.0f), vp = splat(p), vq = splat(q);
    const auto two = [&](const auto& f) { map_two(to, a, b, count, f); };
    const auto each = [&](const auto& f) { map_one<4>(to, a, count, f); };
    const auto long_one = [&](const auto& f) { map_one<4>(to, a, count, f); };
    switch (op) {
        case BZ_OP_ADD: return two([](Floats x, Floats y) { return x + y; });
        case BZ_OP_SUB: return two([](Floats x, Floats y) { return x - y; });
        case BZ_OP_MUL: return two([](Floats x, Floats y) { return x * y; });
        case BZ_OP_DIV: return two([](Floats x, Floats y) { return x / y; });
        case BZ_OP_MIN: return two([](Floats x, Floats y) { return y < x || y != y ? y : x; });
        case BZ_OP_MAX: return two([](Floats x, Floats y) { return y > x || y != y ? y : x; });
        case BZ_OP_NEG: return each([](Floats x) { return -x; });
        case BZ_OP_ABS: return each([](Floats x) { return absolute(x); });
        case BZ_OP_RELU: return each([&](Floats x) { return at_least(x, zero); });
        case BZ_OP_CLAMP:
            return each([&](Floats x) { return at_most(at_least(x, vp), vq); });
        case BZ_OP_PIECEWISE: return piecewise(to, a, v, count);
        case BZ_OP_SIGMOID: return long_one([&](Floats x) { return one / (one + exponential(-x)); });
        case BZ_OP_SILU: return long_one([&](Floats x) { return x / (one + exponential(-x)); });
        case BZ_OP_TANH: return long_one([](Floats x) { return hyperbolic_tangent(x); });
        case BZ_OP_GELU:
            return long_one([&](Floats x) {
                const Floats tail = normal_tails(absolute(x)) * 0.5f;
                return x * (x < zero ? tail : one - tail);
            });
        case BZ_OP_GELU_TANH:
            return long_one([&](Floats x) {
                const Floats inner = 0.797884561f * (x + 0.044715f * (x * x * x));
                return 0.5f * x * (one + hyperbolic_tangent(inner));
            });
        case BZ_OP_HARDSIGMOID:
            return each([&](Floats x) { return at_most(at_least(x + three, zero), six) / six; });
        case BZ_OP_HARDSWISH:
            return each([&](Floats x) { return x * at_most(at_least(x + three, zero), six) / six; });
        case BZ_OP_EXP: return long_one([](Floats x) { return exponential(x); });
        case BZ_OP_SQRT: return each([](Floats x) { return square_root(x); });
        case BZ_OP_RSQRT: return each([&](Floats x) { return one / square_root(x); });
        case BZ_OP_SQUARE: return each([](Floats x) { return x * x; });
        case BZ_OP_ELU: return long_one([&](Floats x) { return x < zero ? vp * exponential_less_one(x) : x; });
        case BZ_OP_SOFTPLUS:
            return long_one([&](Floats x) {
                const Floats t = x * vp;
                return t > vq ? x : log_of_one_plus(exponential(t)) / vp;
            });
        case BZ_OP_LEAKY: return each([&](Floats x) { return x < zero ? x * vp : x; });
        case BZ_OP_AFFINE: return affine(to, a, v[0], v[1], count);
        case BZ_OP_ADD_SCALAR: return each([&](Floats x) { return x + vp; });
        case BZ_OP_MUL_SCALAR: return each([&](Floats x) { return x * vp; });
        default: return each([](Floats x) { return x; });
    }
}

}  // namespace BZ_NS
}  // namespace bz
