// Activations on vectors of channels.
#pragma once

#include "simd.h"

namespace bz {
namespace BZ_NS {

struct Activation {
    int kind;
    float low, high;
    const float *before, *negative, *positive, *after;
};

// An activation's numbers for the channels of one vector.
struct Lanes {
    int kind;
    bool bends, grows, moves;  // negative, positive, after are given
    Floats low, high, before, negative, positive, after;
};

// `get` reads a vector's worth of an array.
template <class Get>
BZ_INLINE void take_lanes_by(Lanes& l, const Activation& a, const Get& get) {
    const auto got = [&](const float* p) { return p ? get(p) : Floats{}; };
    l.kind = a.kind;
    if (a.kind == BZ_ACT_CLAMP) {
        l.low = splat(a.low), l.high = splat(a.high);
    } else if (a.kind == BZ_ACT_PIECEWISE) {
        l.bends = a.negative, l.grows = a.positive, l.moves = a.after;
        l.before = got(a.before), l.negative = got(a.negative);
        l.positive = got(a.positive), l.after = got(a.after);
    }
}

BZ_INLINE void take_lanes(Lanes& l, const Activation& a, int j) {
    take_lanes_by(l, a, [&](const float* p) { return load<Floats>(p + j); });
}

BZ_INLINE Floats activate(const Lanes& l, Floats t) {
    if (l.kind == BZ_ACT_NONE) return t;
    if (l.kind == BZ_ACT_CLAMP) {
        t = t < l.low ? l.low : t;
        return t > l.high ? l.high : t;
    }
    t += l.before;
    const Floats below = l.bends ? t * l.negative : Floats{};
    const Floats above = l.grows ? t * l.positive : t;
    t = t < Floats{} ? below : above;
    return l.moves ? t + l.after : t;
}

// Of N vectors of the same channels, whose numbers start at `at`: all questions are asked once.
template <int N>
BZ_INLINE void activate(const Activation& a, int at, Floats (&t)[N]) {
    if (a.kind == BZ_ACT_NONE) return;
    if (a.kind == BZ_ACT_CLAMP) {
        const Floats low = splat(a.low), high = splat(a.high);
        BZ_UNROLL for (int i = 0; i < N; ++i) {
            t[i] = t[i] < low ? low : t[i];
            t[i] = t[i] > high ? high : t[i];
        }
        return;
    }
    const auto get = [&](const float* p) { return p ? load<Floats>(p + at) : Floats{}; };
    const Floats before = get(a.before), negative = get(a.negative), positive = get(a.positive);
    BZ_UNROLL for (int i = 0; i < N; ++i) t[i] += before;
    if (a.negative && a.positive)
        BZ_UNROLL for (int i = 0; i < N; ++i) t[i] = t[i] < Floats{} ? t[i] * negative : t[i] * positive;
    else if (a.negative)
        BZ_UNROLL for (int i = 0; i < N; ++i) t[i] = t[i] < Floats{} ? t[i] * negative : t[i];
    else if (a.positive)
        BZ_UNROLL for (int i = 0; i < N; ++i) t[i] = t[i] < Floats{} ? Floats{} : t[i] * positive;
    else
        BZ_UNROLL for (int i = 0; i < N; ++i) t[i] = t[i] < Floats{} ? Floats{} : t[i];
    if (!a.after) return;
    const Floats after = get(a.after);
    BZ_UNROLL for (int i = 0; i < N; ++i) t[i] += after;
}

}  // namespace BZ_NS
}  // namespace bz
